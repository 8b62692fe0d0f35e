"""What a player goes on from: decisions that wait for their point's end, sorted by emulator and put together again."""

import itertools

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pong.snapshot import Snapshot

from pong.envs.base import Segment
from pong.observations import PIXELS, SparseFrames


def snapshot(waiting, cuts, more):
    """Of a player whose emulators have so many decisions that wait, in segments that end at some moments.

    Before them ``more`` moments were played of which nobody waits. Returns also all rows, dense, and all actions.
    """
    n, T = len(waiting), more + max(waiting)
    random = np.random.default_rng(sum(waiting))
    rows = random.choice(np.array([0, 1, -1], np.int8), (T + 1, n, PIXELS), p=[0.998, 0.001, 0.001])
    actions, active = random.integers(0, 3, (T, n)), np.arange(T)[:, None] >= T - np.array(waiting)
    bounds = sorted({0, T, *(cut for cut in cuts if cut < T)})
    segments = []
    for begin, end in itertools.pairwise(bounds):
        nothing = np.zeros((end - begin, n), np.int64)
        segments.append(
            Segment(
                SparseFrames.from_dense(rows[begin:end].reshape(-1, PIXELS)),
                torch.from_numpy(actions[begin:end]),
                nothing.astype(np.float32),
                nothing > 0,
                nothing,
                active[begin:end],
                SparseFrames.from_dense(rows[end]),
            )
        )
    games = np.arange(n) - 2.0, 100 + np.arange(n), 400 + np.arange(n)
    fleet = [{"who": np.array([i])} for i in range(n)]
    seen = SparseFrames.from_dense(rows[T])
    return Snapshot(fleet, seen, *games, [s for s in segments if s.active.any()]), rows, actions


def same(kept, others):
    return [{k: (v.dtype, v.shape, v.tobytes()) for k, v in one.items()} for one in kept] == [
        {k: (v.dtype, v.shape, v.tobytes()) for k, v in one.items()} for one in others
    ]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    waiting=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 6), max_size=2),
    more=st.integers(0, 2),
)
@example(waiting=[0, 0], cuts=[], more=0)
@example(waiting=[1], cuts=[], more=0)
@example(waiting=[0, 1, 0], cuts=[1], more=1)
def test_packing_and_unpacking_loses_nothing(waiting, cuts, more):
    before, rows, actions = snapshot(waiting, cuts, more)
    kept = before.pack()
    T = len(actions)
    for i, (one, waits) in enumerate(zip(kept, waiting, strict=True)):
        assert one["who"].tolist() == [i]
        assert one["actions"].tolist() == actions[T - waits :, i].tolist()
        assert one["game"].tolist() == [i - 2, 100 + i, 400 + i]
        assert one["waiting.counts"].tolist() == np.count_nonzero(rows[T - waits : T, i], 1).tolist()
        assert one["waiting.columns"].tolist() == np.nonzero(rows[T - waits : T, i])[1].tolist()
        assert one["seen.signs"].tolist() == rows[T, i][rows[T, i] != 0].tolist()
    after = Snapshot.unpack(kept, PIXELS)
    assert (len(after.score), len(after.seen)) == (len(waiting), len(waiting))
    assert sum(int(segment.active.sum()) for segment in after.segments) == sum(waiting)
    after.fleet = before.fleet
    assert same(after.pack(), kept)


def test_players_go_on_from_what_others_kept():
    """Two of one and of two emulators, from what one of three had."""
    kept = snapshot([3, 0, 1], [2], 0)[0].pack()
    for some in (kept[:1], kept[1:], kept[1:2], kept[2:]):
        after = Snapshot.unpack(some, PIXELS)
        after.fleet = [{"who": one["who"]} for one in some]
        assert same(after.pack(), some)
