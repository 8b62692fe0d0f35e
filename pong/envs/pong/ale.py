"""Pong in ale-py's unmodified emulators, with native luminance screens and without resizing or clipping."""

from typing import Any

import ale_py
import numpy as np
from ale_py.env import AtariEnv
from numpy.random import RandomState
from numpy.typing import NDArray

from pong.envs.base import EmulatorState, Fleet, StepResult, generator_state, one_line_errors, restore_generator
from pong.envs.pong.task import ACTION_NAMES, ALE_ACTIONS, NOOP, PongTask
from pong.observations import BEFORE, EARLIER, NOW, PIXELS, SparseFrames, preprocess


class AleFleet(Fleet):
    """N emulators of this process, stepped one after the other. An inactive one waits and costs nothing."""

    def __init__(self, num_envs: int, task: PongTask):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.num_envs, self.task = num_envs, task
        self.action_names = ACTION_NAMES[: task.actions]
        self._sticky = float(np.float32(task.sticky))  # as ALE has it
        settings: dict[str, Any] = {"obs_type": "grayscale", "frameskip": 1}  # ``act`` holds the actions
        settings |= {"repeat_action_probability": task.sticky, "max_num_frames_per_episode": task.max_frames}
        with one_line_errors("Pong can't be started; reinstall ale-py, which brings its ROM"):
            self.emulators = [AtariEnv("pong", **settings) for _ in range(num_envs)]
        self._ale_actions = self.emulators[0].ale.getMinimalActionSet()
        self._frames = np.zeros((4, num_envs, PIXELS), np.int8)  # by NOTHING, EARLIER, BEFORE and NOW
        # ALE repeats the last executed action but neither returns nor clones it: it follows from ALE's random numbers
        self.executed = [NOOP] * num_envs
        self.chance = [RandomState() for _ in range(num_envs)]

    def reset(self, seeds: NDArray[np.int64] | None = None) -> SparseFrames:
        """Start new games; ``seeds`` (N,) of all random streams, or None to let them run on."""
        with one_line_errors("an emulator failed"):
            for i in range(self.num_envs):
                self._new_game(i, None if seeds is None else int(seeds[i]))
        every = np.ones(self.num_envs, np.bool_)
        return self._observe(np.zeros(self.num_envs, np.int64), every, every)

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active emulator: actions (N,), see ``task.ACTION_NAMES``."""
        rewards, frames = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.int64)
        dones = np.zeros(self.num_envs, np.bool_)
        shortest, longest = self.task.holds
        with one_line_errors("an emulator failed"):
            for i in np.flatnonzero(active).tolist():
                emulator, ale = self.emulators[i], self.emulators[i].ale
                before = ale.getFrameNumber()
                hold = shortest if shortest == longest else int(emulator.np_random.integers(shortest, longest + 1))
                rewards[i] = self.act(i, ALE_ACTIONS[actions[i]], hold)
                frames[i] = ale.getFrameNumber() - before
                dones[i] = ale.game_over()
                if dones[i]:
                    self._new_game(i)
            return StepResult(self._observe(actions, dones, active), rewards, dones, frames)

    def act(self, i: int, action: int, frames: int) -> float:
        """Hold one of ALE's actions for some frames, as ``AtariEnv.step`` does; returns the sum of their rewards."""
        draws = np.frombuffer(self.chance[i].bytes(8 * frames), "<u4")[::2] / 2**32  # every second one is for player B
        if (draws >= self._sticky).any():
            self.executed[i] = action
        ale = self.emulators[i].ale
        return float(sum(ale.act(self._ale_actions[action]) for _ in range(frames)))

    def state(self) -> list[EmulatorState]:
        """Of each emulator: the console with ALE's random stream, what ALE does not clone, and the last frames."""
        state: list[EmulatorState] = []
        for i, emulator in enumerate(self.emulators):
            console = emulator.ale.cloneState(include_rng=True).serialize()
            _, words, position, *_ = self.chance[i].get_state()
            state.append(
                {
                    "ale.console": np.frombuffer(console, np.uint8).copy(),
                    "ale.gym_generator": generator_state(emulator.np_random.bit_generator),
                    "ale.executed": np.array([self.executed[i]]),
                    "ale.chance": np.array([*words, position], np.uint32).view(np.int32),
                    "ale.frames": self._frames[self.task.layout.memory, i].copy(),
                }
            )
        return state

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from the result of ``state``."""
        for i, (emulator, saved) in enumerate(zip(self.emulators, state, strict=True)):
            self._new_game(i, seed=0)
            executed = int(self.checked(saved, "ale.executed", np.zeros(1, np.int64), 0, len(ALE_ACTIONS) - 1)[0])
            while self.executed[i] != executed:
                self.act(i, executed, 1)
            emulator.ale.restoreState(ale_py.ALEState(saved["ale.console"].tobytes()))
            restore_generator(emulator.np_random.bit_generator, saved["ale.gym_generator"])
            words = self.checked(saved, "ale.chance", np.zeros(625, np.int32)).view(np.uint32)
            if words[-1] > 624:  # its position
                raise ValueError("ale.chance is out of range")
            self.chance[i].set_state(("MT19937", words[:-1], int(words[-1]), 0, 0.0))
            frames = self._frames[self.task.layout.memory, i]
            frames[:] = self.checked(saved, "ale.frames", frames, 0, 1)

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The first emulator's current screen: (210, 160, 3) uint8, RGB, a copy."""
        screen: NDArray[np.uint8] = self.emulators[0].ale.getScreenRGB()
        return screen

    def _new_game(self, i: int, seed: int | None = None) -> None:
        emulator = self.emulators[i]
        if i == 0:  # on which its last game ended, and whether that was won or lost and not truncated
            self.last_screen, self.finished = self.screen, emulator.ale.game_over(with_truncation=False)
        _, info = emulator.reset(seed=seed)
        self.executed[i] = NOOP
        if seed is not None:
            self.chance[i] = RandomState(int(info["seeds"][1]))
        if self.task.noop_max:
            self.act(i, NOOP, int(emulator.np_random.integers(1, self.task.noop_max + 1)))

    def _observe(self, actions: NDArray[np.int64], fresh: NDArray[np.bool_], active: NDArray[np.bool_]) -> SparseFrames:
        """The rows after a decision; a fresh game's earlier frames equal its first one, and it has no last action."""
        frames = self._frames
        frames[EARLIER], frames[BEFORE] = frames[BEFORE], frames[NOW]
        for i in np.flatnonzero(active):
            frames[NOW, i] = preprocess(self.emulators[i].ale.getScreenGrayscale()).ravel()
        frames[EARLIER:NOW, fresh] = frames[NOW, fresh]
        return self.task.layout.rows(frames, np.where(fresh, -1, actions))
