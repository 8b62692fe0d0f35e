"""Compiled Pong: the fleet that training plays in."""

import sys
from typing import Any

import numpy as np
import torch
from numba.core.event import Event, Listener, install_listener
from numpy.random import PCG64, RandomState, SeedSequence
from numpy.typing import NDArray

from pong.envs.base import Actor, EmulatorState, Fleet, Segment, StepResult, generator_state, restore_generator
from pong.envs.pong import machine
from pong.envs.pong.kernels import ALE, Record, Rows, play, sample_rows, weights
from pong.envs.pong.task import PongTask
from pong.observations import NOW, PIXELS, Observations, SparseFrames

AHEAD = 128  # numbers of gymnasium's generator that are drawn at a time
SPARE = 32  # of them are left before a decision; it takes two, and one more in a thousand million
MOST_ROWS = 16_384  # of a segment, whose memory is that of the fullest rows


class MachineFleet(Fleet):
    """N games of compiled Pong and the policy's observations of them: to the last bit ``AleFleet``.

    Args:
        num_envs: games N.
        task: how Pong is played and observed.

    Attributes:
        games: (N,) of ``machine.GAME``, the games' state.
    """

    def __init__(self, num_envs: int, task: PongTask):
        self.num_envs, self.task = num_envs, task
        self.games: NDArray[Any] = np.zeros(num_envs, machine.GAME)
        self._emulators = machine.Emulators(
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
        self._draws = task.hold == "2-4" or task.noop_max > 1  # from gymnasium's generators
        self._most = num_envs * (2 * machine.MOST * len(task.layout.differences) + 1)  # numbers in N rows
        self._generators = [PCG64() for _ in range(num_envs)]
        for i in range(num_envs):
            self._seed(i, None)

    def reset(self, seeds: NDArray[np.int64] | None = None) -> SparseFrames:
        """Start new games; ``seeds`` (N,) of all random streams, or None to let them run on."""
        if seeds is not None:
            for i, seed in enumerate(seeds):
                self._seed(i, int(seed))
        self._draw_ahead()
        machine.start_games(self._emulators)
        return self._observe(np.zeros(self.num_envs, np.int64), np.ones(self.num_envs, np.bool_))

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active game: actions (N,), see ``task.ACTION_NAMES``."""
        rewards, dones, frames = self.advance(actions, active)
        return StepResult(self._observe(actions, dones), rewards, dones, frames)

    def advance(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        """``step`` without observations: rewards, dones, frames, each (N,)."""
        self._draw_ahead()
        rewards, dones = np.empty(self.num_envs, np.float32), np.empty(self.num_envs, np.bool_)
        frames = np.empty(self.num_envs, np.int64)
        machine.step(self._emulators, ALE[actions], active, rewards, dones, frames)
        return rewards, dones, frames

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
        T = play(weights(actor.two_layers), noise, self._emulators, record, whole_episodes, last_number)
        before, after = self._sparse(record.rows, 0, T * N), self._sparse(record.rows, T * N, (T + 1) * N)
        arrays = record.rewards[:T], record.dones[:T], record.frames[:T], record.active[:T]
        return Segment(before, torch.from_numpy(record.actions[:T]), *arrays, after)

    def _record(self, T: int, observations: SparseFrames, active: NDArray[np.bool_]) -> Record:
        """Space for T time steps, with the first observations and active games in it."""
        N, n = self.num_envs, len(observations.columns)
        most = n + T * self._most
        rows = Rows(np.empty(most, np.int32), np.empty(most, np.float32), np.zeros((T + 1) * N + 1, np.int32))
        rows.columns[:n], rows.signs[:n] = observations.columns, observations.signs
        rows.offsets[:N], rows.offsets[N] = observations.offsets, n
        every_active = np.empty((T + 1, N), np.bool_)
        every_active[0] = active
        actions, rewards = np.empty((T, N), np.int64), np.empty((T, N), np.float32)
        return Record(every_active, actions, rewards, np.empty((T, N), np.bool_), np.empty((T, N), np.int64), rows)

    def _sparse(self, rows: Rows, first: int, last: int) -> SparseFrames:
        """Rows from ``first`` up to ``last``."""
        start, end = rows.offsets[[first, last]]
        arrays = rows.columns[start:end], rows.signs[start:end], rows.offsets[first:last] - start
        return SparseFrames.from_numpy(*arrays, self.task.layout.width)

    def state(self) -> list[EmulatorState]:
        """Of each game: its numbers, its two generators, and the pixels of its last frames."""
        emulators, memory = self._emulators, self.task.layout.memory
        numbers = self.games.view(np.int64).reshape(self.num_envs, -1)
        return [
            {
                "machine.game": numbers[i].copy(),
                "machine.ale_words": emulators.words[i].view(np.int32).copy(),
                "machine.gym_numbers": emulators.numbers[i].view(np.int32).copy(),
                "machine.gym_generator": generator_state(self._generators[i]),
                "machine.pixels": emulators.pixels[memory, i].copy(),
            }
            for i in range(self.num_envs)
        ]

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from the result of ``state``."""
        emulators, memory = self._emulators, self.task.layout.memory
        for i, saved in enumerate(state):
            self.games.view(np.int64).reshape(self.num_envs, -1)[i] = saved["machine.game"]
            emulators.words[i] = saved["machine.ale_words"].view(np.uint32)
            emulators.numbers[i] = saved["machine.gym_numbers"].view(np.uint32)
            emulators.pixels[memory, i] = saved["machine.pixels"]
            restore_generator(self._generators[i], saved["machine.gym_generator"])

    def _seed(self, i: int, seed: int | None) -> None:
        """Seed a game's two generators as ale-py's and gymnasium's ``reset`` do."""
        for_gymnasium, for_ale = SeedSequence(seed).generate_state(2)
        self._emulators.words[i] = RandomState(int(for_ale)).get_state(legacy=False)["state"]["key"]
        self.games["ale_drawn"][i] = machine.WORDS
        self._generators[i] = PCG64(SeedSequence(int(for_gymnasium)))
        self.games["gym_drawn"][i] = AHEAD

    def _draw_ahead(self) -> None:
        """Draw from gymnasium's generators what the next decisions may need."""
        if not self._draws:
            return
        numbers = self._emulators.numbers
        for i in np.flatnonzero(self.games["gym_drawn"] > AHEAD - SPARE):
            drawn = self.games["gym_drawn"][i] // 2 * 2  # each number of the bit generator is two of these
            numbers[i, : AHEAD - drawn] = numbers[i, drawn:]
            numbers[i, AHEAD - drawn :] = self._generators[i].random_raw(drawn // 2).astype("<u8").view("<u4")
            self.games["gym_drawn"][i] -= drawn

    def _observe(self, actions: NDArray[np.int64], fresh: NDArray[np.bool_]) -> SparseFrames:
        """The current rows; a fresh game has no difference and no last action."""
        columns, signs = np.empty(self._most, np.int32), np.empty(self._most, np.float32)
        offsets = np.empty(self.num_envs, np.int32)
        n = machine.observe(self._emulators, actions, fresh, columns, signs, offsets)
        return SparseFrames.from_numpy(columns[:n], signs[:n], offsets, self.task.layout.width)


def compile_once() -> None:
    """Compile the machine and the kernels, or load them from Numba's cache."""
    with install_listener("numba:compile", _SayOnce()):
        fleet, active = MachineFleet(1, PongTask()), np.ones(1, np.bool_)
        observations = fleet.reset()
        fleet.step(np.zeros(1, np.int64), active)
        network = torch.zeros(PIXELS, 1, dtype=torch.float32), torch.zeros(1, 1, dtype=torch.float32)
        record = fleet._record(1, observations, active)
        play(weights(network), np.zeros((1, 1), np.float32), fleet._emulators, record, False, AHEAD)
        sample_rows(network, observations, torch.zeros(1, dtype=torch.float32))


class _SayOnce(Listener):
    """Prints that something is being compiled, once."""

    printed = False

    def on_start(self, event: Event) -> None:
        if not self.printed:
            print("pong: compiling the game, which takes about ten seconds, once …", file=sys.stderr, flush=True)
        self.printed = True

    def on_end(self, event: Event) -> None:
        pass
