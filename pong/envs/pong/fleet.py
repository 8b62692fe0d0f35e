"""Compiled Pong: the fleet that training plays in."""

import functools
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numba.core.event import Event, Listener, install_listener
from numpy.random import PCG64, RandomState, SeedSequence
from numpy.typing import NDArray

from pong.envs.base import Actor, EmulatorState, Fleet, Segment, StepResult, generator_state, restore_generator
from pong.envs.pong import machine
from pong.envs.pong.kernels import Record, decide_rows, play, weights
from pong.envs.pong.task import PongTask
from pong.observations import NOW, PIXELS, Observations, SparseFrames

AHEAD = 128  # numbers of gymnasium's generator that are drawn at a time
SPARE = 32  # of them are left before a decision; it takes two, and one more in a thousand million
INDICES = {"ale_drawn": machine.WORDS, "gym_drawn": AHEAD}
RANGES: dict[str, tuple[int, Any]] = {  # of saved arrays; a game's other numbers only have to stay far from an overflow
    "machine.game": (-64, [INDICES.get(name, 1 << 20) for name in machine.GAME.names or ()]),
    "machine.pixels": (0, [machine.MOST] + [PIXELS - 1] * machine.MOST),
}
MOST_ROWS = 16_384  # of a segment, whose memory is that of the fullest rows


class MachineFleet(Fleet):
    """N games of compiled Pong and the policy's observations of them: to the last bit ``AleFleet``."""

    def __init__(self, num_envs: int, task: PongTask):
        self.num_envs, self.task = num_envs, task
        self.games: NDArray[Any] = np.zeros(num_envs, machine.GAME)  # their state
        self.emulators = machine.Emulators(
            games=self.games,
            words=np.zeros((num_envs, machine.WORDS), np.uint32),
            numbers=np.zeros((num_envs, AHEAD), np.uint32),
            pixels=np.zeros((NOW + 1, num_envs, 1 + machine.MOST), np.int16),
            differences=np.array(task.layout.differences),
            shows_action=bool(task.layout.actions),
            threshold=float(np.float32(task.sticky)) * machine.UINT32,  # ALE's probability is a float32
            noop_max=task.noop_max,
            max_frames=task.max_frames,
            shortest_hold=task.holds[0],
            longest_hold=task.holds[1],
        )
        self._width = task.layout.width
        self._most = num_envs * (2 * machine.MOST * len(task.layout.differences) + 1)  # numbers in N rows
        self._space = self._rows(0)  # kept from one ``play`` to the next
        self._draws = task.hold == "2-4" or task.noop_max > 1  # from gymnasium's generators
        self.generators = [PCG64() for _ in range(num_envs)]
        for i in range(num_envs):
            self.seed(i, None)

    def reset(self, seeds: NDArray[np.int64] | None = None) -> SparseFrames:
        """Start new games; ``seeds`` (N,) of all random streams, or None to let them run on."""
        if seeds is not None:
            for i, seed in enumerate(seeds):
                self.seed(i, int(seed))
        self._draw_ahead()
        machine.start_games(self.emulators)
        return self._observe(np.zeros(self.num_envs, np.int64), np.ones(self.num_envs, np.bool_))

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active game: actions (N,), see ``task.ACTION_NAMES``."""
        self._draw_ahead()
        rewards, dones = np.empty(self.num_envs, np.float32), np.empty(self.num_envs, np.bool_)
        frames = np.empty(self.num_envs, np.int64)
        machine.step(self.emulators, actions, active, rewards, dones, frames)
        return StepResult(self._observe(actions, dones), rewards, dones, frames)

    def play(
        self,
        actor: Actor,
        observations: Observations,
        noise: NDArray[np.float32],
        active: NDArray[np.bool_],
        whole_episodes: bool,
    ) -> Segment:
        """Many decisions in compiled code, the same as those of ``Fleet.play``, if the actor is a two-layer network."""
        if actor.two_layers is None:
            return super().play(actor, observations, noise, active, whole_episodes)
        assert isinstance(observations, SparseFrames)
        self._draw_ahead()
        N, T = self.num_envs, min(len(noise), max(MOST_ROWS // self.num_envs, 1))
        record = self._record(T, observations, active)
        last_number = AHEAD - SPARE if self._draws else AHEAD
        T = play(weights(actor.two_layers), noise[:T], self.emulators, record, whole_episodes, last_number)
        before, after = self._sparse(record.rows, 0, T * N), self._sparse(record.rows, T * N, (T + 1) * N)
        arrays = record.rewards[:T], record.dones[:T], record.frames[:T], record.active[:T]
        return Segment(before, torch.from_numpy(record.actions[:T]), *arrays, after)

    def _record(self, T: int, observations: SparseFrames, active: NDArray[np.bool_]) -> Record:
        """Space for T time steps, with the first observations and active games in it."""
        N, n = self.num_envs, len(observations.columns)
        every_active, dones = np.empty((2, T + 1, N), np.bool_)
        every_active[0] = active
        actions, frames = np.empty((2, T + 1, N), np.int64)
        if len(self._space.offsets) <= (T + 1) * N:
            self._space = self._rows(T + 1)
        rows = self._space
        rows.columns[:n], rows.signs[:n] = observations.columns, observations.signs
        rows.offsets[:N], rows.offsets[N] = observations.offsets, n
        return Record(every_active, actions, np.empty((T + 1, N), np.float32), dones, frames, rows)

    def _rows(self, T: int) -> machine.Rows:
        """Space for the rows of T time steps."""
        n, offsets = T * self._most, np.zeros(T * self.num_envs + 1, np.int32)
        return machine.Rows(np.empty(n, np.int32), np.empty(n, np.float32), offsets)

    def _sparse(self, rows: machine.Rows, first: int, last: int) -> SparseFrames:
        """Rows from ``first`` up to ``last``, a copy."""
        start, end = int(rows.offsets[first]), int(rows.offsets[last])
        columns, signs = (torch.from_numpy(array[start:end].copy()) for array in rows[:2])
        return SparseFrames(columns, signs, torch.from_numpy(rows.offsets[first:last] - start), self._width)

    def state(self) -> list[EmulatorState]:
        """Of each game, whoever plays it: its numbers, its two generators, and the pixels of its last frames."""
        self._give_back()
        pixels = self.emulators.pixels
        pixels[np.arange(1 + machine.MOST) > pixels[..., :1]] = 0  # a frame's first number is how many it has
        generators = {"machine.gym_generator": [generator_state(each) for each in self.generators]}
        parts: dict[str, Any] = {**self._arrays(), **generators}
        return [{name: part[i].copy() for name, part in parts.items()} for i in range(self.num_envs)]

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from the result of ``state``."""
        for i, saved in enumerate(state):
            for name, array in self._arrays().items():
                array[i] = self.checked(saved, name, array[i], *RANGES.get(name, ()))
            restore_generator(self.generators[i], saved["machine.gym_generator"])
            if self._draws:  # again, as zeros would be rejected for ever
                self.generators[i].advance(-AHEAD // 2)
                self.emulators.numbers[i] = self.generators[i].random_raw(AHEAD // 2).astype("<u8").view("<u4")
        if (self.games["ale_drawn"] % 2).any():
            raise ValueError("machine.game: ale_drawn is odd")

    def _arrays(self) -> EmulatorState:
        """The arrays (N, …) of which ``state`` has each game's part, sharing their memory."""
        return {
            "machine.game": self.games.view(np.int64).reshape(self.num_envs, -1),
            "machine.ale_words": self.emulators.words.view(np.int32),
            "machine.gym_numbers": self.emulators.numbers.view(np.int32),
            "machine.pixels": self.emulators.pixels[self.task.layout.memory].swapaxes(0, 1),
        }

    def seed(self, i: int, seed: int | None) -> tuple[np.uint32, np.uint32]:
        """Seed a game's two generators as ale-py's and gymnasium's ``reset`` do; returns the seeds of both."""
        for_gymnasium, for_ale = SeedSequence(seed).generate_state(2)
        self.emulators.words[i] = RandomState(int(for_ale)).get_state(legacy=False)["state"]["key"]
        self.games["ale_drawn"][i] = machine.WORDS
        self.generators[i] = PCG64(SeedSequence(int(for_gymnasium)))
        self.games["gym_drawn"][i] = AHEAD
        return for_gymnasium, for_ale

    def _draw_ahead(self) -> None:
        """Draw from gymnasium's generators what the next decisions may need."""
        if not self._draws:
            return
        numbers = self.emulators.numbers
        for i in np.flatnonzero(self.games["gym_drawn"] > AHEAD - SPARE):
            drawn = self.games["gym_drawn"][i] // 2 * 2  # each number of the bit generator is two of these
            numbers[i, : AHEAD - drawn] = numbers[i, drawn:]
            numbers[i, AHEAD - drawn :] = self.generators[i].random_raw(drawn // 2).astype("<u8").view("<u4")
            self.games["gym_drawn"][i] -= drawn

    def _give_back(self) -> None:
        """Give back to gymnasium's generators what was drawn ahead, up to half of a generator's number."""
        for numbers, game, generator in zip(self.emulators.numbers, self.games, self.generators, strict=True):
            whole, half = divmod(AHEAD - int(game["gym_drawn"]), 2)
            generator.advance(-whole % 2**128)  # back
            numbers[-1] = numbers[AHEAD - 2 * whole - 1]  # unused if there is a half
            numbers[: AHEAD - half] = 0
            game["gym_drawn"] = AHEAD - half

    def _observe(self, actions: NDArray[np.int64], fresh: NDArray[np.bool_]) -> SparseFrames:
        """The current rows; a fresh game has no difference and no last action."""
        rows = self._rows(1)
        machine.observe(self.emulators, actions, fresh, rows, 0)
        return self._sparse(rows, 0, self.num_envs)


def announced() -> Any:
    """In this context, a message says that something is being compiled."""
    return install_listener("numba:compile", _SayOnce())


@functools.cache
def compile_once() -> None:
    """Compile the machine and the kernels, or load them from Numba's cache."""
    with announced():
        fleet, active, noise = MachineFleet(1, PongTask()), np.ones(1, np.bool_), np.zeros((1, 1), np.float32)
        observations = fleet.reset()
        actor: Any = SimpleNamespace(two_layers=(torch.zeros(PIXELS, 1), torch.zeros(1, 1)))
        fleet.play(actor, observations, noise, active, whole_episodes=False)
        _, actions = decide_rows(actor.two_layers, observations, torch.from_numpy(noise[0]))
        fleet.step(actions.numpy(), active)


class _SayOnce(Listener):
    """Prints that something is being compiled, once."""

    printed = False

    def on_start(self, event: Event) -> None:
        if not self.printed:
            print("pong: compiling the game, which takes about ten seconds …", file=sys.stderr, flush=True)
        self.printed = True

    def on_end(self, event: Event) -> None:
        pass
