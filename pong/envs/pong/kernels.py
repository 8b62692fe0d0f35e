"""A segment of play that never leaves compiled code: the 2016 network decides in the machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pong.envs.pong.compiled import kernel
from pong.envs.pong.machine import rows, step
from pong.two_layers import Floats, decide


@kernel
def play(
    W1: Floats,
    W2: Floats,
    noise: Floats,
    games: NDArray[Any],
    words: NDArray[np.uint32],
    numbers: NDArray[np.uint32],
    threshold: float,
    noop_max: int,
    max_frames: int,
    shortest: int,
    longest: int,
    names: NDArray[np.int64],
    pictures: NDArray[np.int16],
    parts: NDArray[np.int64],
    shown: bool,
    whole_games: bool,
    last_number: int,
    active: NDArray[np.bool_],
    actions: NDArray[np.int64],
    rewards: NDArray[np.float32],
    dones: NDArray[np.bool_],
    frames: NDArray[np.int64],
    columns: NDArray[np.int32],
    signs: Floats,
    offsets: NDArray[np.int32],
) -> int:
    """Up to T decisions of each active game, as ``decide`` and ``step`` make them one by one.

    Args:
        W1, W2: the network, see ``decide``.
        noise: (T, N), one for each decision.
        games, words, numbers, threshold, noop_max, max_frames, shortest, longest: as in ``step``.
        names: ALE's name of each action.
        pictures, parts: as in ``rows``.
        shown: whether a row shows the decision before.
        whole_games: a game that has ended stands still.
        last_number: play ends when a game has drawn more of its ``numbers``.
        active: (T + 1, N); the first time step's are given, the others written, as all that follows.
        actions, rewards, dones, frames: (T, N).
        columns, signs: what is not 0 in the rows of T + 1 time steps; those of the first are there already.
        offsets: (T + 1, N) and one more, where each row begins and the last one ends.

    Returns:
        How many time steps were played: fewer than T where no game is active any more, or has drawn too much.
    """
    N, T = len(games), len(actions)
    h, logits = np.empty(W1.shape[1], np.float32), np.empty(len(W2), np.float32)
    executed, decisions = np.empty(N, np.int64), np.empty(N, np.int64)
    for t in range(T):
        if not active[t].any():
            return t
        for i in range(N):
            if games[i].gym_drawn > last_number:
                return t
        for i in range(N):
            actions[t, i] = 0
            if active[t, i]:
                row = t * N + i
                begin, end = offsets[row], offsets[row + 1]
                actions[t, i] = decide(W1, W2, columns, signs, begin, end, noise[t, i], h, logits)
            executed[i] = names[actions[t, i]]
        step(
            games,
            words,
            numbers,
            threshold,
            noop_max,
            max_frames,
            shortest,
            longest,
            executed,
            active[t],
            rewards[t],
            dones[t],
            frames[t],
        )
        for i in range(N):
            decisions[i] = actions[t, i] if shown and not dones[t, i] else -1
            active[t + 1, i] = active[t, i] and not (whole_games and dones[t, i])
        begins = offsets[(t + 1) * N : (t + 2) * N]
        first = offsets[(t + 1) * N]
        n = rows(games, dones[t], pictures, parts, decisions, columns[first:], signs[first:], begins)
        begins += first
        offsets[(t + 2) * N] = first + n
    return T
