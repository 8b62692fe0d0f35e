"""From a config to a ``gymnasium.vector.VectorEnv``: N Pong emulators with native luminance screens.

Both classes here play the game of ``ale_py.AtariVectorEnv`` without its resizing, stacking or reward clipping. Actions
are 1 = UP, 0 = DOWN and −1 = no decision for this emulator. A finished game restarts in the same step.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from pong.config import Config
from pong.frames import DifferenceFrames

UP, DOWN, NOOP = 2, 3, 0  # in ALE's minimal action set for Pong
ALE_ACTIONS = np.array([DOWN, UP, NOOP])  # indexed by our actions 0, 1, −1
NO_CAP = 2**31 - 1  # emulated frames, more than a year of play

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
    task: dict[str, Any] = {
        "repeat_action_probability": config.sticky,
        "noop_max": config.noop_max,
        "max_num_frames_per_episode": config.max_frames or NO_CAP,
    }
    if config.hold == "2-4":
        return DifferenceFrames(RandomHoldPong(config.num_envs, **task))
    return DifferenceFrames(FixedHoldPong(config.num_envs, config.hold, num_threads=config.emulator_threads, **task))


class _Pong(VectorEnv[NDArray[np.uint8], NDArray[np.int64], NDArray[Any]]):
    """What both fleets share: spaces, and emulators with native luminance screens."""

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    @staticmethod
    def _emulators(num_envs: int, **task: Any) -> AtariVectorEnv:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        return AtariVectorEnv(
            "pong",
            num_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=210,
            img_width=160,
            stack_num=1,
            maxpool=False,
            use_fire_reset=False,
            reward_clipping=False,
            **task,
        )


class FixedHoldPong(_Pong):
    """N emulators on C++ threads, each decision held for the same number of frames.

    They move in lockstep: an emulator without a decision (−1) can't wait, it plays NOOP meanwhile.

    Args:
        num_envs: emulators N.
        hold: emulated frames per decision.
        num_threads: C++ threads; 0 takes one per core.
        task: passed on to ``AtariVectorEnv``: repeat_action_probability, noop_max, max_num_frames_per_episode.
    """

    def __init__(self, num_envs: int, hold: int, *, num_threads: int = 0, **task: Any):
        super().__init__(num_envs)
        self._hold = hold
        self._fleet = self._emulators(num_envs, frameskip=hold, num_threads=num_threads, **task)

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
    """N emulators, each decision held for 2, 3 or 4 frames as gym's ``Pong-v0`` does, drawn anew for each emulator.

    Every emulator has a thread of its own and is stepped frame by frame; one that has no decision (−1) costs nothing.

    Args:
        num_envs: emulators N.
        task: as for ``FixedHoldPong``.
    """

    def __init__(self, num_envs: int, **task: Any):
        super().__init__(num_envs)
        self._fleet = [self._emulators(1, frameskip=1, num_threads=1, **task) for _ in range(num_envs)]
        self._screens = np.zeros((num_envs, 210, 160), np.uint8)
        self._streams: list[np.random.Generator] = [np.random.default_rng() for _ in range(num_envs)]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], Any]:
        """New games; ``seed`` (N,) int seeds each emulator and its stream of holds, None lets both run on."""
        if seed is not None:
            self._streams = [np.random.default_rng(int(s)) for s in seed]
        seeds = [None] * self.num_envs if seed is None else list(np.reshape(seed, (self.num_envs, 1)))
        with ThreadPoolExecutor() as pool:  # seeding loads the ROM anew, slow enough to do side by side
            results = pool.map(lambda emulator, its_seed: emulator.reset(seed=its_seed), self._fleet, seeds)
            self._screens = np.concatenate([screens[:, 0] for screens, _ in results])
        return self._screens.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """One decision of each emulator: screens (N, 210, 160), rewards, terminations, truncations, infos."""
        rewards = np.zeros(self.num_envs, np.float32)
        terminations = np.zeros(self.num_envs, bool)
        truncations = np.zeros(self.num_envs, bool)
        playing = [i for i, action in enumerate(actions) if action >= 0]
        holds = np.zeros(self.num_envs, np.int64)
        holds[playing] = [self._streams[i].integers(2, 5) for i in playing]
        held = ALE_ACTIONS[actions][:, None]  # (N, 1), each row is one emulator's batch
        frames_left = holds.tolist()
        for i in playing:
            self._fleet[i].send(held[i])
        while playing:
            again = []
            for i in playing:
                screen, reward, terminated, truncated, _ = self._fleet[i].recv()
                rewards[i] += reward[0]
                terminations[i], truncations[i] = terminated[0], truncated[0]
                frames_left[i] -= 1
                if frames_left[i] == 0 or terminated[0] or truncated[0]:
                    self._screens[i] = screen[0, 0]
                else:
                    self._fleet[i].send(held[i])
                    again.append(i)
            playing = again
        return self._screens.copy(), rewards, terminations, truncations, {"hold": holds}
