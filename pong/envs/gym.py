"""Any gymnasium environment whose observations are vectors of numbers, as CartPole's, or images."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray
from torch import Tensor

from pong.config import InputError, RunError
from pong.envs.base import Fleet, StepResult


def make_env(env: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment; its pictures become (C, H, W) if they are (H, W, C)."""
    try:
        made: gymnasium.Env[Any, Any] = gymnasium.make(env, **settings)
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"env = {env!r}: {' '.join(str(error).split())}") from None
    shape = made.observation_space.shape
    if not (shape and len(shape) == 3 and shape[2] <= 4 < shape[0]):
        return made
    space = Box(0, 255, (shape[2], shape[0], shape[1]), np.uint8)
    return TransformObservation(made, lambda picture: np.moveaxis(picture, 2, 0), space)


class VectorFleet(Fleet):
    """N gymnasium environments. Box actions are clipped; the policy learns from the action that it chose."""

    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]]):
        self.num_envs = len(envs)
        makers = [lambda env=env: env for env in envs]
        self.envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)  # others ignore a restart's action

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Tensor:
        """Start new episodes, which do not depend on how long an environment was stepped after its last one."""
        if seeds is not None:
            self._streams = [np.random.default_rng(seed) for seed in seeds]
        env_seeds: list[int | None] = [int(stream.integers(2**31)) for stream in self._streams]
        return self._tensor(self.envs.reset(seed=env_seeds)[0])

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> StepResult:
        space = self.envs.single_action_space
        if isinstance(space, Box):
            actions = np.clip(actions, space.low, space.high)
        observations, rewards, terminations, truncations, _ = self.envs.step(actions)
        if not (np.isfinite(rewards).all() and np.isfinite(observations).all()):
            spec = self.envs.envs[0].spec
            raise RunError(f"env = {spec and spec.id!r}: a reward or an observation is not finite; fix the environment")
        dones = terminations | truncations
        return StepResult(self._tensor(observations), rewards.astype(np.float32), dones, active.astype(np.int64))

    def close(self) -> None:
        self.envs.close()

    def _tensor(self, observations: NDArray[Any]) -> Tensor:
        return torch.from_numpy(observations if observations.ndim > 2 else observations.astype(np.float32))
