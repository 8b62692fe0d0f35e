"""Any gymnasium environment that shows a vector of numbers, such as CartPole, or pictures."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from pong.envs.fleet import Fleet, Played


class VectorFleet(Fleet):
    """Environments of a gymnasium vector environment.

    A Box action is clipped to the environment's bounds here, on its way out: whoever chose it goes on knowing it as it
    was chosen.

    Args:
        envs: N environments; a finished one must restart in the same step (``AutoresetMode.SAME_STEP``), so that every
            step of every environment is a decision that counts, and none is ignored by a restart.
    """

    def __init__(self, envs: SyncVectorEnv):
        if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(f"{envs} must restart in the same step, with AutoresetMode.SAME_STEP")
        self.envs = envs
        self.num_envs = envs.num_envs

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Tensor:
        """New episodes: observations (N, …) float32; pictures stay uint8.

        Args:
            seeds: (N,) of each environment's random streams; None lets them run on. How long an environment was
                stepped after its episode had ended makes no difference then.
        """
        if seeds is not None:
            self._streams = [np.random.default_rng(seed) for seed in seeds]
        drawn: list[int | None] = [int(stream.integers(2**31)) for stream in self._streams]
        return _rows(self.envs.reset(seed=drawn)[0])

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> Played:
        """One decision of each environment: actions (N,) whole numbers, or (N, d) for a Box."""
        box = self.envs.single_action_space
        if isinstance(box, gymnasium.spaces.Box):
            actions = np.clip(actions, box.low, box.high)
        observations, rewards, terminations, truncations, _ = self.envs.step(actions)
        frames = active.astype(np.int64)
        return Played(_rows(observations), rewards.astype(np.float32), terminations | truncations, frames)

    def close(self) -> None:
        """End the environments."""
        self.envs.close()


def _rows(observations: NDArray[Any]) -> Tensor:
    dtype = np.uint8 if observations.ndim > 2 else np.float32
    return torch.from_numpy(observations.astype(dtype))  # a copy: gymnasium writes the next ones over these
