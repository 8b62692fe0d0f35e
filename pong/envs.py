"""From a config to a ``gymnasium.vector.VectorEnv``: N Pong emulators with native luminance screens.

Two fleets of ale-py's emulators, for a fixed and for a random hold, without resizing, stacking or reward clipping.
Actions are 1 = UP, 0 = DOWN and −1 = no decision for this emulator. A finished game restarts in the same step.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from functools import partial
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py.env import AtariEnv
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from numpy.typing import NDArray

from pong.config import INT32, Config
from pong.frames import DifferenceFrames

UP, DOWN, NOOP = 2, 3, 0  # in ALE's minimal action set for Pong
ALE_ACTIONS = np.array([DOWN, UP, NOOP])  # indexed by our actions 0, 1, −1
NO_CAP = INT32  # emulated frames, more than a year of play

StepResult = tuple[
    NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, NDArray[Any]]
]


def make_envs(config: Config) -> VectorEnv[Any, Any, Any]:
    """Build the emulators that a config describes, giving difference frames.

    Args:
        config: the run's config; ``hold``, ``sticky``, ``noop_max`` and ``max_frames`` define the task.

    Returns:
        A vector environment with observations (N, 6400) int8 in {−1, 0, 1}, see ``frames.DifferenceFrames``.
    """
    max_frames = config.max_frames or NO_CAP
    if config.hold == "2-4":
        return DifferenceFrames(RandomHoldPong(config.num_envs, sticky=config.sticky, max_frames=max_frames))
    fleet = FixedHoldPong(
        config.num_envs,
        config.hold,
        sticky=config.sticky,
        noop_max=config.noop_max,
        max_frames=max_frames,
        num_threads=config.emulator_threads,
    )
    return DifferenceFrames(fleet)


class _Pong(VectorEnv[NDArray[np.uint8], NDArray[np.int64], NDArray[Any]]):
    """What both fleets share: their spaces, and that a finished game restarts in the same step."""

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}


class FixedHoldPong(_Pong):
    """N emulators on C++ threads, each decision held for the same number of frames.

    They move in lockstep: an emulator without a decision (−1) can't wait, it plays NOOP meanwhile.

    Args:
        num_envs: emulators N.
        hold: emulated frames per decision.
        sticky: probability that a frame repeats the previous action.
        noop_max: up to so many NOOPs at the start of a game.
        max_frames: emulated frames after which a game is cut off.
        num_threads: C++ threads; 0 takes one per core.
    """

    def __init__(
        self, num_envs: int, hold: int, *, sticky: float, noop_max: int, max_frames: int, num_threads: int = 0
    ):
        super().__init__(num_envs)
        self._hold = hold
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._fleet = AtariVectorEnv(
            "pong",
            num_envs,
            num_threads=num_threads,
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=sticky,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=210,  # the native screen, neither resized nor stacked
            img_width=160,
            stack_num=1,
            frameskip=hold,
            maxpool=False,
            noop_max=noop_max,
            reward_clipping=False,
            use_fire_reset=False,
        )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], Any]:
        """New games; ``seed`` is None to let the emulators' random streams run on, or (N,) int, each at least 1."""
        screens, infos = self._fleet.reset(seed=seed)
        return screens[:, 0], infos

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """One decision of each emulator: screens (N, 210, 160), rewards, terminations, truncations, infos."""
        screens, rewards, terminations, truncations, _ = self._fleet.step(ALE_ACTIONS[actions])
        holds = np.full(self.num_envs, self._hold)
        return screens[:, 0], rewards.astype(np.float32), terminations, truncations, {"hold": holds}


class RandomHoldPong(_Pong):
    """N emulators, each decision held for 2, 3 or 4 frames, drawn anew each time: gym's ``Pong-v0`` itself.

    ``AtariVectorEnv`` can only hold a fixed number of frames, so these are N of ale-py's ordinary emulators, each in a
    process of its own. One that has no decision (−1) costs nothing.

    Args:
        num_envs: emulators N.
        sticky: probability that a frame repeats the previous action.
        max_frames: emulated frames after which a game is cut off.
    """

    def __init__(self, num_envs: int, *, sticky: float, max_frames: int):
        super().__init__(num_envs)
        emulator = partial(_WaitingPong, sticky, max_frames)
        self._fleet = AsyncVectorEnv([emulator] * num_envs, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], Any]:
        """New games; ``seed`` (N,) int seeds each emulator and its stream of holds, None lets both run on."""
        screens, infos = self._fleet.reset(seed=None if seed is None else [int(one) for one in seed])
        return screens.copy(), infos

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """One decision of each emulator: screens (N, 210, 160), rewards, terminations, truncations, infos."""
        screens, rewards, terminations, truncations, infos = self._fleet.step(actions)
        return screens.copy(), rewards.astype(np.float32), terminations, truncations, {"hold": infos["hold"]}

    def close_extras(self, **kwargs: Any) -> None:
        """End the emulators' processes."""
        self._fleet.close(**kwargs)


class _WaitingPong(gymnasium.Wrapper[NDArray[np.uint8], int, NDArray[np.uint8], int]):
    """One ``Pong-v0`` emulator that stays where it is when the action is −1."""

    def __init__(self, sticky: float, max_frames: int):
        _leave_signals_to_the_parent()
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        super().__init__(
            AtariEnv(
                "pong",
                obs_type="grayscale",
                frameskip=(2, 5),  # 5 is not included
                repeat_action_probability=sticky,
                max_num_frames_per_episode=max_frames,
            )
        )
        self._hold = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        self._screen, _ = self.env.reset(seed=seed, options=options)
        return self._screen, {"hold": self._hold}  # after a game's last decision the vector environment asks here

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        if action < 0:
            return self._screen, 0.0, False, False, {"hold": 0}
        before = self._frame
        self._screen, reward, terminated, truncated, _ = self.env.step(int(ALE_ACTIONS[action]))
        self._hold = self._frame - before
        return self._screen, float(reward), terminated, truncated, {"hold": self._hold}

    @property
    def _frame(self) -> int:
        return int(self.unwrapped.ale.getFrameNumber())  # type: ignore[attr-defined]


def _leave_signals_to_the_parent() -> None:
    """An emulator's process does not hear a signal meant for the run, which its parent answers, and dies with it."""
    if not multiprocessing.current_process().daemon:  # AsyncVectorEnv also builds one in the parent, to look at it
        return
    os.setpgrp()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
