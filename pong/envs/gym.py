"""Any gymnasium environment that shows a vector of numbers, such as CartPole, or pictures."""

import functools
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from pong.config import InputError, RunError
from pong.envs.base import Fleet, StepResult

COLOURS = 4  # numbers a pixel has, at most


class VectorFleet(Fleet):
    """Environments of a gymnasium vector environment.

    A Box action is clipped to the environment's bounds here, on its way out: the policy knows it as it
    was chosen.

    Pictures are seen as (C, H, W), also where the environment shows (H, W, C).

    Args:
        envs: N environments; a finished one must restart in the same step (``AutoresetMode.SAME_STEP``), so that every
            step of every environment is a decision that counts, and none is ignored by a restart.
    """

    def __init__(self, envs: SyncVectorEnv):
        if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(f"{envs} must restart in the same step, with AutoresetMode.SAME_STEP")
        self.envs = envs
        self.num_envs = envs.num_envs
        self._channels_last = channels_last(envs.single_observation_space)

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Tensor:
        """New episodes: observations (N, …) float32; pictures stay uint8, (N, C, H, W).

        Args:
            seeds: (N,) of each environment's random streams; None lets them run on. How long an environment was
                stepped after its episode had ended makes no difference then.
        """
        if seeds is not None:
            self._streams = [np.random.default_rng(seed) for seed in seeds]
        drawn: list[int | None] = [int(stream.integers(2**31)) for stream in self._streams]
        return self._rows(self.envs.reset(seed=drawn)[0])

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each environment: actions (N,) whole numbers, or (N, d) for a Box.

        Raises:
            RunError: an observation or a reward is NaN or infinite.
        """
        box = self.envs.single_action_space
        if isinstance(box, gymnasium.spaces.Box):
            actions = np.clip(actions, box.low, box.high)
        observations, rewards, terminations, truncations, _ = self.envs.step(actions)
        frames = active.astype(np.int64)
        self._check("a reward", rewards)
        return StepResult(self._rows(observations), rewards.astype(np.float32), terminations | truncations, frames)

    def close(self) -> None:
        """End the environments."""
        self.envs.close()

    def _rows(self, observations: NDArray[Any]) -> Tensor:
        if observations.ndim > 2:
            pictures = np.moveaxis(observations, -1, 1) if self._channels_last else observations
            return torch.from_numpy(pictures.astype(np.uint8, order="C"))
        self._check("a number that it shows", observations)
        return torch.from_numpy(observations.astype(np.float32))  # a copy: gymnasium writes the next ones over these

    def _check(self, what: str, numbers: NDArray[Any]) -> None:
        """Raises a RunError if some are NaN or infinite."""
        if not np.isfinite(numbers).all():
            name = self.envs.spec.id if self.envs.spec else str(self.envs)
            found = numbers[~np.isfinite(numbers)][0]
            raise RunError(f"env = {name!r}: {what} is {found}; mend the environment")


def channels_last(space: gymnasium.Space[Any]) -> bool:
    """Whether pictures are (H, W, C), as most environments have them, and not (C, H, W)."""
    shape = space.shape
    return shape is not None and len(shape) == 3 and shape[2] <= COLOURS < shape[0]


def make_envs(env: str, num_envs: int) -> SyncVectorEnv:
    """N environments of gymnasium, each with a seed of its own."""
    settings = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return cast(SyncVectorEnv, gymnasium.make_vec(env, num_envs, vectorization_mode="sync", vector_kwargs=settings))


@functools.cache
def gym_spaces(env: str) -> tuple[Box, Discrete | Box]:
    """The observations and actions of a gymnasium environment; images as (C, H, W).

    Raises:
        InputError: gymnasium does not know it, or a policy can't handle them.
    """
    try:
        made = gymnasium.make(env)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise InputError(f"env = {env!r}: {' '.join(str(error).split())}") from None
    observations: Space[Any] = made.observation_space
    actions: Space[Any] = made.action_space
    made.close()
    if isinstance(observations, Box) and observations.dtype == np.uint8 and channels_last(observations):
        height, width, channels = observations.shape
        observations = Box(0, 255, (channels, height, width), np.uint8)
    images = len(observations.shape or ()) == 3 and observations.dtype == np.uint8
    if not isinstance(observations, Box) or not (images or len(observations.shape) == 1):
        raise InputError(f"env = {env!r} has {observations}; choose one with a vector of numbers, or images of bytes")
    if (isinstance(actions, Discrete) and actions.start == 0) or (isinstance(actions, Box) and len(actions.shape) == 1):
        return observations, actions
    raise InputError(f"env = {env!r} takes {actions}; choose one that takes a vector of numbers, or one of 0, 1, …")
