"""What a player of Pong goes on from: its games, what it sees of them, the rallies that wait for their point's end."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.envs import Kept
from pong.frames import Observations, SparseFrames, cat


@dataclass
class Snapshot:
    """A player of Pong between two rollouts; the attributes are the player's own, n emulators and T moments that wait.

    What waits for its point's end are the last moments of each emulator, without a reward.
    """

    fleet: list[Kept]
    seen: SparseFrames
    score: NDArray[np.float64]
    length: NDArray[np.int64]
    frames: NDArray[np.int64]
    observations: list[Observations]
    actions: list[Tensor]
    unused: list[NDArray[np.bool_]]

    def pack(self) -> list[Kept]:
        """The same as arrays, by emulator: it does not matter then who plays it."""
        n = len(self.fleet)
        unused = np.stack(self.unused) if self.unused else np.zeros((0, n), np.bool_)
        emulators, moments = np.nonzero(unused.T)
        rows = moments * n + emulators
        waiting = cat(self.observations)[torch.from_numpy(rows)] if len(rows) else self.seen[torch.zeros(0).long()]
        actions = torch.stack(self.actions).numpy().ravel()[rows] if len(rows) else np.zeros(0, np.int64)
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
    def unpack(cls, state: list[Kept], width: int) -> "Snapshot":
        """The reverse; rows are of so many numbers."""
        seen = SparseFrames.cat([_unpack_rows("seen", kept, width) for kept in state])
        score, length, frames = np.stack([kept["game"] for kept in state], 1)
        lengths = np.array([len(kept["actions"]) for kept in state])
        T, begins = int(lengths.max()), lengths.cumsum() - lengths
        rows = SparseFrames.cat([*(_unpack_rows("waiting", kept, width) for kept in state), seen[torch.tensor([0])]])
        actions = np.concatenate([*(kept["actions"] for kept in state), [0]]).astype(np.int64)
        moments = np.arange(T)[:, None] - (T - lengths)  # (T, n), of each emulator's own
        unused = moments >= 0
        last = len(actions) - 1  # a row that is not used
        numbers = torch.from_numpy(np.where(unused, begins + moments, last))
        observations: list[Observations] = [rows[numbers[t]] for t in range(T)]
        return cls(
            [],
            seen,
            score.astype(np.float64),
            length,
            frames,
            observations,
            [torch.from_numpy(actions)[numbers[t]] for t in range(T)],
            list(unused),
        )


def _pack_rows(name: str, rows: SparseFrames) -> Kept:
    return {
        f"{name}.columns": rows.columns.numpy().astype(np.int16),
        f"{name}.signs": rows.signs.numpy().astype(np.int8),
        f"{name}.counts": rows.counts().numpy(),
    }


def _unpack_rows(name: str, kept: Kept, width: int) -> SparseFrames:
    columns, signs, counts = (torch.from_numpy(kept[f"{name}.{part}"]) for part in ("columns", "signs", "counts"))
    return SparseFrames(columns.int(), signs.float(), (counts.cumsum(0) - counts).int(), width)
