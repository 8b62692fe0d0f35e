"""Pong in the machine: the fleet that training plays in."""

import itertools
import sys
from typing import Any, Literal

import numpy as np
import torch
from numba.core.event import Event, Listener, install_listener
from numpy.random import PCG64, RandomState, SeedSequence
from numpy.typing import NDArray

from pong.config import PONG_FRAMES
from pong.envs.fleet import EmulatorState, Fleet, Network, Segment, StepResult, generator_state, restore_generator
from pong.envs.pong import machine
from pong.envs.pong.actions import ALE_ACTIONS
from pong.envs.pong.kernels import play
from pong.observations import PIXELS, ObservationBuilder, Observations, SparseFrames
from pong.two_layers import decide_rows

PICTURES = {"nothing": machine.NOTHING, "earlier": machine.EARLIER, "before": machine.BEFORE, "now": machine.NOW}
LAST = {"machine.picture": machine.NOW, "machine.picture_before": machine.BEFORE}  # as many as are remembered
ALE = np.array(ALE_ACTIONS)
AHEAD = 128  # numbers of gymnasium's generator that are drawn at a time
MOST_ROWS = 16_384  # of a segment: its memory is that of the fullest rows
SPARE = 32  # that are there before a decision; it takes two, and one more in a thousand million


class MachineFleet(Fleet):
    """N games of Pong in the machine, and what a policy sees of them: to the last bit ``PongFleet`` in ALE.

    Args:
        num_envs: games N.
        hold: frames that each decision is held for; "2-4" draws 2, 3 or 4 anew each time.
        builder: what a row shows; difference frames if None.
        sticky: probability that a frame repeats the previous action.
        noop_max: a game starts with 1 to so many frames of NOOP, drawn uniformly; 0 leaves them out.
        max_frames: emulated frames after which a game is truncated.

    Attributes:
        games: (N,) of ``machine.GAME``, the games' state.
    """

    def __init__(
        self,
        num_envs: int,
        hold: int | Literal["2-4"] = 4,
        builder: ObservationBuilder | None = None,
        *,
        sticky: float = 0.25,
        noop_max: int = 0,
        max_frames: int = PONG_FRAMES,
    ):
        self.num_envs = num_envs
        self._builder = builder or ObservationBuilder()
        self._parts = np.array([[PICTURES[new], PICTURES[old]] for new, old in self._builder.frames])
        self._task = float(np.float32(sticky)) * machine.UINT32, noop_max, max_frames  # ALE's probability is a float
        self._hold = (2, 4) if hold == "2-4" else (hold, hold)
        self._draws = hold == "2-4" or noop_max > 1  # from gymnasium's generators
        self.games: NDArray[Any] = np.zeros(num_envs, machine.GAME)
        self._words = np.zeros((num_envs, machine.WORDS), np.uint32)
        self._numbers = np.zeros((num_envs, AHEAD), np.uint32)
        self._generators = [PCG64() for _ in range(num_envs)]
        self._pictures = np.zeros((len(PICTURES), num_envs, 1 + machine.MOST), np.int16)
        self._last = dict(itertools.islice(LAST.items(), self._builder.memory))
        most = 2 * machine.MOST * len(self._parts) + 1
        self._none = np.full(num_envs, -1)  # decisions that are shown
        self._columns, self._signs = np.zeros(num_envs * most, np.int32), np.zeros(num_envs * most, np.float32)
        for i in range(num_envs):
            self._seed(i, None)

    def reset(self, seeds: NDArray[np.int64] | None = None) -> SparseFrames:
        """New games, seen for the first time; ``seeds`` (N,) or None to let the random streams run on."""
        if seeds is not None:
            for i, seed in enumerate(seeds):
                self._seed(i, int(seed))
        self._draw_ahead()
        machine.begin_all(self.games, self._words, self._numbers, *self._task)
        return self._rows(np.ones(self.num_envs, np.bool_), np.zeros(self.num_envs, np.int64))

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active game: actions (N,), see ``envs.actions``; the others stand still."""
        rewards, dones, frames = self.play(actions, active)
        return StepResult(self._rows(dones, actions), rewards, dones, frames)

    def play(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        """The same without looking: rewards, dones, frames, each (N,)."""
        self._draw_ahead()
        rewards, dones = np.empty(self.num_envs, np.float32), np.empty(self.num_envs, np.bool_)
        frames = np.empty(self.num_envs, np.int64)
        machine.step(
            self.games,
            self._words,
            self._numbers,
            *self._task,
            *self._hold,
            ALE[actions],
            active,
            rewards,
            dones,
            frames,
        )
        return rewards, dones, frames

    def play_segment(
        self, network: Network, seen: Observations, noise: NDArray[np.float32], active: NDArray[np.bool_], whole: bool
    ) -> Segment:
        """Several decisions at once, see ``Fleet.play_segment``: the same as ``decide_all`` and ``step`` in turn."""
        assert isinstance(seen, SparseFrames)
        self._draw_ahead()
        N, T = self.num_envs, min(len(noise), max(MOST_ROWS // self.num_envs, 1))
        most = len(seen.columns) + T * len(self._columns)
        columns, signs, offsets = (
            np.empty(most, np.int32),
            np.empty(most, np.float32),
            np.zeros((T + 1) * N + 1, np.int32),
        )
        n = len(seen.columns)
        columns[:n], signs[:n], offsets[:N], offsets[N] = seen.columns, seen.signs, seen.offsets, n
        everyone = np.empty((T + 1, N), np.bool_)
        everyone[0] = active
        actions, frames = np.empty((T, N), np.int64), np.empty((T, N), np.int64)
        rewards, dones = np.empty((T, N), np.float32), np.empty((T, N), np.bool_)
        W1, W2 = (np.ascontiguousarray(weights) for weights in (network[0].T.numpy(), network[1].numpy()))
        T = play(
            W1,
            W2,
            noise,
            self.games,
            self._words,
            self._numbers,
            *self._task,
            *self._hold,
            ALE,
            self._pictures,
            self._parts,
            bool(self._builder.actions),
            whole,
            AHEAD - SPARE if self._draws else AHEAD,
            everyone,
            actions,
            rewards,
            dones,
            frames,
            columns,
            signs,
            offsets,
        )
        numbers = offsets[[0, T * N, (T + 1) * N]]  # where what was seen before begins, and what is seen now, and ends
        before, now = (
            SparseFrames(
                torch.from_numpy(columns[begin:end]),
                torch.from_numpy(signs[begin:end]),
                torch.from_numpy(offsets[first : first + rows] - begin),
                self._builder.width,
            )
            for begin, end, first, rows in zip(numbers[:-1], numbers[1:], (0, T * N), (T * N, N), strict=True)
        )
        return Segment(before, torch.from_numpy(actions[:T]), rewards[:T], dones[:T], frames[:T], everyone[:T], now)

    def state(self) -> list[EmulatorState]:
        """Of each game: its numbers, its two generators, and the pictures that the next row is compared with."""
        numbers = self.games.view(np.int64).reshape(self.num_envs, -1).copy()
        words, ahead, pictures = self._words.copy(), self._numbers.copy(), self._pictures.copy()
        return [
            {
                "machine.game": numbers[i],
                "machine.ale_words": words[i].view(np.int32),
                "machine.gym_numbers": ahead[i].view(np.int32),
                "machine.gym_generator": generator_state(self._generators[i]),
                **{key: pictures[which, i] for key, which in self._last.items()},
            }
            for i in range(self.num_envs)
        ]

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from what ``state`` gave."""
        for i, kept in enumerate(state):
            self.games.view(np.int64).reshape(self.num_envs, -1)[i] = kept["machine.game"]
            self._words[i] = kept["machine.ale_words"].view(np.uint32)
            self._numbers[i] = kept["machine.gym_numbers"].view(np.uint32)
            for key, which in self._last.items():
                self._pictures[which, i] = kept[key]
            restore_generator(self._generators[i], kept["machine.gym_generator"])

    def close(self) -> None:
        """Nothing is open."""

    def _seed(self, i: int, seed: int | None) -> None:
        """Seed a game's two generators as ale-py's and gymnasium's ``reset`` do."""
        for_gymnasium, for_ale = SeedSequence(seed).generate_state(2)
        self._words[i] = RandomState(int(for_ale)).get_state(legacy=False)["state"]["key"]
        self.games["ale_drawn"][i] = machine.WORDS
        self._generators[i] = PCG64(SeedSequence(int(for_gymnasium)))
        self.games["gym_drawn"][i] = AHEAD

    def _draw_ahead(self) -> None:
        """Let gymnasium's generators give what the next decisions may need of them."""
        if not self._draws:
            return
        for i in np.flatnonzero(self.games["gym_drawn"] > AHEAD - SPARE):
            drawn = self.games["gym_drawn"][i] // 2 * 2  # each number of the bit generator is two of these
            self._numbers[i, : AHEAD - drawn] = self._numbers[i, drawn:]
            self._numbers[i, AHEAD - drawn :] = self._generators[i].random_raw(drawn // 2).astype("<u8").view("<u4")
            self.games["gym_drawn"][i] -= drawn

    def _rows(self, fresh: NDArray[np.bool_], decisions: NDArray[np.int64]) -> SparseFrames:
        """What the policy sees; a fresh game shows no difference and no decision."""
        offsets = np.empty(self.num_envs, np.int32)
        shown = np.where(fresh, -1, decisions) if self._builder.actions else self._none
        n = machine.rows(self.games, fresh, self._pictures, self._parts, shown, self._columns, self._signs, offsets)
        columns, signs = torch.from_numpy(self._columns[:n].copy()), torch.from_numpy(self._signs[:n].copy())
        return SparseFrames(columns, signs, torch.from_numpy(offsets), self._builder.width)


def compile_once() -> None:
    """Have the machine and decisions compiled, or read what was kept of an earlier time."""
    with install_listener("numba:compile", _SayOnce()):
        fleet, one = MachineFleet(1), np.ones(1, np.bool_)
        seen = fleet.reset()
        fleet.step(np.zeros(1, np.int64), one)
        network = torch.zeros(PIXELS, 1, dtype=torch.float32).T, torch.zeros(1, 1, dtype=torch.float32)
        fleet.play_segment(network, seen, np.zeros((1, 1), np.float32), one, False)
        decide_rows(network, seen, torch.zeros(1, dtype=torch.float32))


class _SayOnce(Listener):
    """Says that something is compiled, the first time that something is."""

    said = False

    def on_start(self, event: Event) -> None:
        if not self.said:
            print("pong: compiling the game, which takes some ten seconds once …", file=sys.stderr, flush=True)
        self.said = True

    def on_end(self, event: Event) -> None:
        pass
