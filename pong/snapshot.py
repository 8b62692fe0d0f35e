"""What a player of Pong continues from: its games, what it sees of them, the rallies under way."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pong.envs import EmulatorState, Segment
from pong.observations import SparseFrames, cat


@dataclass
class Snapshot:
    """A player of Pong between two rollouts; the attributes are the player's own.

    What waits for its point's end are the last decisions of each emulator, without a reward: the ``active`` ones of the
    segments.
    """

    fleet: list[EmulatorState]
    seen: SparseFrames
    score: NDArray[np.float64]
    length: NDArray[np.int64]
    frames: NDArray[np.int64]
    segments: list[Segment]

    def pack(self) -> list[EmulatorState]:
        """The same as arrays, by emulator: it does not matter then who plays it."""
        n = len(self.fleet)
        nothing = np.zeros((0, n), np.bool_)
        emulators, time_steps = np.nonzero(np.concatenate([nothing, *(part.active for part in self.segments)]).T)
        rows = time_steps * n + emulators
        waiting = cat([*(part.observations for part in self.segments), self.seen])[torch.from_numpy(rows)]
        actions = np.concatenate([nothing, *(part.actions.numpy() for part in self.segments)]).ravel()[rows]
        assert isinstance(waiting, SparseFrames)
        return [
            {
                **self.fleet[i],
                **_pack_rows("seen", self.seen[torch.tensor([i])]),
                **_pack_rows("waiting", waiting[torch.from_numpy(np.flatnonzero(emulators == i))]),
                "actions": actions[emulators == i].astype(np.int8),
                "game": np.array([self.score[i], self.length[i], self.frames[i]], np.int64),
            }
            for i in range(n)
        ]

    @classmethod
    def unpack(cls, state: list[EmulatorState], width: int) -> "Snapshot":
        """The reverse; rows have ``width`` numbers."""
        seen = SparseFrames.cat([_unpack_rows("seen", kept, width) for kept in state])
        score, length, frames = np.stack([kept["game"] for kept in state], 1)
        lengths = np.array([len(kept["actions"]) for kept in state])
        T, begins = int(lengths.max()), lengths.cumsum() - lengths
        rows = SparseFrames.cat([*(_unpack_rows("waiting", kept, width) for kept in state), seen[torch.tensor([0])]])
        actions = torch.from_numpy(np.concatenate([*(kept["actions"] for kept in state), [0]]).astype(np.int64))
        time_steps = np.arange(T)[:, None] - (T - lengths)  # (T, n), of each emulator's own
        waits = time_steps >= 0
        numbers = torch.from_numpy(np.where(waits, begins + time_steps, len(actions) - 1))  # the last is not used
        nothing = np.zeros(waits.shape, np.int64)  # a reward would have ended the point
        waiting = Segment(
            rows[numbers.ravel()], actions[numbers], nothing.astype(np.float32), nothing > 0, nothing, waits, seen
        )
        return cls([], seen, score.astype(np.float64), length, frames, [waiting] if T else [])


def _pack_rows(name: str, rows: SparseFrames) -> EmulatorState:
    return {
        f"{name}.columns": rows.columns.numpy().astype(np.int16),
        f"{name}.signs": rows.signs.numpy().astype(np.int8),
        f"{name}.counts": rows.counts().numpy(),
    }


def _unpack_rows(name: str, kept: EmulatorState, width: int) -> SparseFrames:
    columns, signs, counts = (torch.from_numpy(kept[f"{name}.{part}"]) for part in ("columns", "signs", "counts"))
    return SparseFrames(columns.int(), signs.float(), (counts.cumsum(0) - counts).int(), width)
