"""Pong: ale-py's emulators, unmodified, with native luminance screens and without resizing or clipping.

Actions are 0 = DOWN, 1 = UP, 2 = NOOP (all: ``envs.actions.NAMES``), and −1 = no decision for this emulator. A finished
game restarts in the same step.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import ale_py
import gymnasium
import numpy as np
import torch
from ale_py.env import AtariEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.random import RandomState
from numpy.typing import NDArray

from pong.config import INT32, Config, RunError
from pong.envs.fleet import EmulatorState, Fleet, StepResult, generator_state, restore_generator
from pong.envs.pong.actions import ALE_ACTIONS, NAMES, NOOP
from pong.observations import ROWS, ObservationBuilder, Observations, SparseFrames

RATE = 60  # frames a second at natural speed
NO_CAP = INT32  # emulated frames, more than a year of play
FIELDS = ("ale.field", "ale.field_before")  # as many as are remembered


class Pong(VectorEnv[NDArray[np.uint8], NDArray[np.int64], NDArray[Any]]):
    """N emulators of this process, stepped one after the other.

    Observations are screens (N, 210, 160) uint8, which the next step overwrites. ``infos["frames"]`` (N,) int64 counts
    the frames emulated for each decision. An emulator without a decision (−1) stands still and costs nothing.

    Args:
        num_envs: emulators N.
        hold: frames that each decision is held for; "2-4" draws 2, 3 or 4 anew each time, as gym's ``Pong-v0`` does.
        sticky: probability that a frame repeats the previous action.
        noop_max: a game starts with 1 to so many frames of NOOP, drawn uniformly; 0 leaves them out.
        max_frames: emulated frames after which a game is truncated.
        actions: 2: DOWN and UP; 3: NOOP too; 6: all, FIRE too.

    Raises:
        RunError: an emulator can't be started; ``reset`` and ``step`` raise it when one fails.
    """

    def __init__(
        self,
        num_envs: int,
        hold: int | Literal["2-4"] = 4,
        *,
        sticky: float = 0.25,
        noop_max: int = 0,
        max_frames: int = NO_CAP,
        actions: int = 2,
    ):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(actions)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self._hold, self._noop_max, self._sticky = hold, noop_max, float(np.float32(sticky))  # as ALE has it
        with _failing("Pong can't be started; ale-py brings its ROM: install it anew"):
            self.emulators = [
                AtariEnv(
                    "pong",
                    obs_type="grayscale",
                    frameskip=1,  # they are held here, see ``act``
                    repeat_action_probability=sticky,
                    max_num_frames_per_episode=max_frames,
                )
                for _ in range(num_envs)
            ]
        self._set = self.emulators[0].ale.getMinimalActionSet()
        self.screens = np.zeros((num_envs, 210, 160), np.uint8)
        # ALE repeats the action executed last, but neither tells it nor clones it: it follows from ALE's random numbers
        self.executed = [NOOP] * num_envs
        self.chance = [RandomState() for _ in range(num_envs)]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], Any]:
        """New games.

        Args:
            seed: of each emulator with all its random streams, (N,); an int stands for seed, seed + 1, …; None lets
                the streams run on.
            options: not used.
        """
        seeds = np.arange(seed, seed + self.num_envs) if isinstance(seed, int) else seed
        with _failing("an emulator failed"):
            for i in range(self.num_envs):
                self.screens[i] = self._new_game(i, None if seeds is None else int(seeds[i]))
        return self.screens, {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One decision of each emulator: screens, rewards, terminations, truncations, infos.

        Raises:
            ValueError: the actions are not (N,).
        """
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must be ({self.num_envs},), got {actions.shape}")
        rewards, frames = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.int64)
        terminations, truncations = np.zeros((2, self.num_envs), np.bool_)
        with _failing("an emulator failed"):
            for i in np.flatnonzero(actions >= 0).tolist():
                emulator, ale = self.emulators[i], self.emulators[i].ale
                before = ale.getFrameNumber()
                hold = int(emulator.np_random.integers(2, 5)) if self._hold == "2-4" else self._hold
                rewards[i] = self.act(i, ALE_ACTIONS[actions[i]], hold)
                frames[i] = ale.getFrameNumber() - before
                terminations[i], truncations[i] = ale.game_over(with_truncation=False), ale.game_truncated()
                ended = terminations[i] or truncations[i]
                self.screens[i] = self._new_game(i) if ended else ale.getScreenGrayscale()
        return self.screens, rewards, terminations, truncations, {"frames": frames}

    def act(self, i: int, action: int, frames: int) -> float:
        """Hold one of ALE's actions for some frames, as ``AtariEnv.step`` does; returns the sum of their rewards."""
        draws = np.frombuffer(self.chance[i].bytes(8 * frames), "<u4")[::2] / 2**32  # every second one is for player B
        if (draws >= self._sticky).any():
            self.executed[i] = action
        ale = self.emulators[i].ale
        return float(sum(ale.act(self._set[action]) for _ in range(frames)))

    def restore(self, i: int, state: EmulatorState) -> None:
        """Continue from what ``state`` gave of an emulator."""
        emulator = self.emulators[i]
        self._new_game(i, seed=0)
        executed = int(state["ale.executed"][0])
        while self.executed[i] != executed:
            self.act(i, executed, 1)
        emulator.ale.restoreState(ale_py.ALEState(state["ale.console"].tobytes()))
        restore_generator(emulator.np_random.bit_generator, state["ale.gym_generator"])
        words = state["ale.chance"].view(np.uint32)
        self.chance[i].set_state(("MT19937", words[:-1], int(words[-1]), 0, 0.0))

    def state(self, i: int) -> EmulatorState:
        """All that an emulator continues from: the console with ALE's random stream, and what ALE does not clone."""
        emulator = self.emulators[i]
        _, words, position, *_ = self.chance[i].get_state()
        return {
            "ale.console": np.frombuffer(emulator.ale.cloneState(include_rng=True).serialize(), np.uint8),
            "ale.gym_generator": generator_state(emulator.np_random.bit_generator),
            "ale.executed": np.array([self.executed[i]]),
            "ale.chance": np.array([*words, position], np.uint32).view(np.int32),
        }

    def _new_game(self, i: int, seed: int | None = None) -> NDArray[np.uint8]:
        emulator = self.emulators[i]
        _, about = emulator.reset(seed=seed)
        self.executed[i] = NOOP
        if seed is not None:
            self.chance[i] = RandomState(int(about["seeds"][1]))
        if self._noop_max:
            self.act(i, NOOP, int(emulator.np_random.integers(1, self._noop_max + 1)))
        screen: NDArray[np.uint8] = emulator.ale.getScreenGrayscale()
        return screen


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """An error of the emulator ends the run in one line."""
    try:
        yield
    except (gymnasium.error.Error, RuntimeError, OSError) as error:
        raise RunError(f"{what} ({type(error).__name__}: {' '.join(str(error).split())})") from error


class PongFleet(Fleet):
    """Pong emulators with what a policy sees of them.

    Args:
        envs: N emulators that show screens.
        builder: makes rows of the screens; difference frames if None.
    """

    def __init__(self, envs: Pong, builder: ObservationBuilder | None = None):
        self.envs = envs
        self.num_envs = envs.num_envs
        self._builder = builder or ObservationBuilder()

    def reset(self, seeds: NDArray[np.int64] | None = None) -> SparseFrames:
        """New games, seen for the first time; ``seeds`` (N,) or None to let the random streams run on."""
        return self._builder.first(self.envs.reset(seed=seeds)[0])

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active emulator: actions (N,), see ``envs.actions``; the others stand still."""
        screens, rewards, terminations, truncations, infos = self.envs.step(np.where(active, actions, -1))
        dones = terminations | truncations
        return StepResult(self._builder.next(screens, dones, actions), rewards, dones, infos["frames"])

    def state(self) -> list[EmulatorState]:
        """Of each emulator: its state, and the screens that were seen last."""
        fields = [field.copy() for field in self._builder.fields]
        return [
            {**self.envs.state(i), **{key: field[i] for key, field in zip(FIELDS, fields, strict=False)}}
            for i in range(self.num_envs)
        ]

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from what ``state`` gave."""
        for i, kept in enumerate(state):
            self.envs.restore(i, kept)
        fields = [np.stack([kept[key] for kept in state]) for key in FIELDS[: self._builder.memory]]
        self.envs.screens[:, ROWS] = fields[0]
        self._builder.restore(fields)

    def close(self) -> None:
        """End the emulators."""
        self.envs.close()


class ColourPong(Pong):
    """Emulators of which the first can be seen in colour, too; see ``RenderedPong``."""

    def screen(self) -> NDArray[np.uint8]:
        """The screen of this moment: (210, 160, 3) uint8, RGB, a copy."""
        colours: NDArray[np.uint8] = self.emulators[0].ale.getScreenRGB()
        return colours

    def _new_game(self, i: int, seed: int | None = None) -> NDArray[np.uint8]:
        self.last = self.screen()
        self.finished = self.emulators[i].ale.game_over(with_truncation=False)
        return super()._new_game(i, seed)


class RenderedPong(PongFleet):
    """One emulator of a config's task whose screens can be shown to people: (210, 160, 3) uint8, RGB."""

    rate = RATE

    def __init__(self, config: Config):
        self._pong = ColourPong(1, config.hold, actions=config.actions, **task(config))
        super().__init__(self._pong, make_observation_builder(config))
        self.actions = NAMES[: config.actions]

    def seen(self, observations: Observations) -> NDArray[np.int8]:
        """The pictures in an observation: (C, 80, 80) int8 in {−1, 0, 1}."""
        assert isinstance(observations, SparseFrames)
        C, H, W = self._builder.shape
        pictures: NDArray[np.int8] = observations.dense(torch.int8)[0, : C * H * W].reshape(C, H, W).numpy()
        return pictures

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The screen of this moment, a copy."""
        return self._pong.screen()

    @property
    def last(self) -> NDArray[np.uint8]:
        """The screen on which the game before this one ended."""
        return self._pong.last

    @property
    def finished(self) -> bool:
        """That game was played to 21 points, not truncated."""
        return self._pong.finished


def make_pong(config: Config, num_envs: int | None = None) -> Pong:
    """The emulators that a config describes, as a vector environment of screens.

    Args:
        config: the run's config; ``hold``, ``sticky``, ``noop_max``, ``max_frames`` and ``actions`` define the task.
        num_envs: how many, if not as many as the config says.
    """
    return Pong(num_envs or config.num_envs, config.hold, actions=config.actions, **task(config))


def task(config: Config) -> dict[str, Any]:
    """What defines a config's game of Pong besides the hold, in the words of ``Pong``."""
    return {"sticky": config.sticky, "noop_max": config.noop_max, "max_frames": config.game_frames}


def make_observation_builder(config: Config) -> ObservationBuilder:
    """What a config's policy sees of the screens."""
    return ObservationBuilder(config.frames, config.actions if config.last_action else 0)
