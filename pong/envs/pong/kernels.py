"""Compiled play of two-layer networks: they decide on sparse rows, for many time steps without leaving the machine.

A row's 27 or so pixels select 27 rows of W1; all its other numbers are 0. The sums go pixel by pixel and then unit by
unit, so that a row's decision has the same bits alone or among others.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.envs.pong.compiled import kernel, rule
from pong.envs.pong.machine import Emulators, observe, step
from pong.envs.pong.task import ALE_ACTIONS
from pong.observations import SparseFrames

Floats = NDArray[np.float32]
ALE = np.array(ALE_ACTIONS)  # ALE's number of each action


class Weights(NamedTuple):
    """A two-layer network; a single output is the logit of action 1, several are each action's."""

    W1: Floats  # (inputs, hidden)
    W2: Floats  # (outputs, hidden)


class Rows(NamedTuple):
    """B sparse rows, see ``observations.SparseFrames``; ``offsets`` has one more number, where the last row ends."""

    columns: NDArray[np.int32]
    signs: Floats
    offsets: NDArray[np.int32]


class Record(NamedTuple):
    """What play of T time steps writes; ``rows`` are those of T + 1 time steps."""

    active: NDArray[np.bool_]  # (T + 1, N)
    actions: NDArray[np.int64]  # (T, N)
    rewards: Floats  # (T, N)
    dones: NDArray[np.bool_]  # (T, N)
    frames: NDArray[np.int64]  # (T, N)
    rows: Rows


@rule
def forward(network: Weights, rows: Rows, row: int, h: Floats, logits: Floats) -> None:
    """Write the ``logits`` (outputs,) of one row; ``h`` (hidden,) is scratch space."""
    columns, signs, W1, W2 = rows.columns, rows.signs, network.W1, network.W2
    h[:] = 0
    for k in range(rows.offsets[row], rows.offsets[row + 1]):
        weights, sign = W1[columns[k]], signs[k]
        for j in range(len(h)):
            h[j] += sign * weights[j]
    for j in range(len(h)):
        h[j] = max(h[j], np.float32(0))
    for a in range(len(logits)):
        logits[a] = dot(h, W2[a])


@rule
def dot(x: Floats, y: Floats) -> Any:
    """x · y in four sums, which a processor adds up side by side."""
    a = b = c = d = np.float32(0)
    whole = len(x) // 4 * 4
    for j in range(0, whole, 4):
        a += x[j] * y[j]
        b += x[j + 1] * y[j + 1]
        c += x[j + 2] * y[j + 2]
        d += x[j + 3] * y[j + 3]
    for j in range(whole, len(x)):
        a += x[j] * y[j]
    return (a + b) + (c + d)


@rule
def sample(logits: Floats, noise: float) -> int:
    """Action 1 where noise lies below its probability; of several, as many as the sums p₀, p₀ + p₁, … it reaches."""
    if len(logits) == 1:
        return int(noise < 1 / (1 + math.exp(-logits[0])))
    highest, total = logits.max(), 0.0
    for logit in logits:
        total += math.exp(logit - highest)
    action, reached = 0, 0.0
    for logit in logits[:-1]:
        reached += math.exp(logit - highest) / total
        action += noise >= reached
    return action


@kernel
def sample_all(network: Weights, rows: Rows, noise: Floats, actions: NDArray[np.int64]) -> None:
    """Sample the actions (B,) of B rows; noise (B,), uniform on [0, 1)."""
    h, logits = np.empty(network.W1.shape[1], np.float32), np.empty(len(network.W2), np.float32)
    for i in range(len(actions)):
        forward(network, rows, i, h, logits)
        actions[i] = sample(logits, noise[i])


@kernel
def forward_all(network: Weights, rows: Rows, logits: Floats) -> None:
    """Write the logits (B, outputs) of B rows."""
    h = np.empty(network.W1.shape[1], np.float32)
    for i in range(len(logits)):
        forward(network, rows, i, h, logits[i])


@kernel
def play(
    network: Weights, noise: Floats, emulators: Emulators, record: Record, whole_games: bool, last_number: int
) -> int:
    """Up to T decisions of each active game, as ``sample_all``, ``step`` and ``observe`` make them one by one.

    Args:
        network: decides.
        noise: (T, N), one for each decision.
        emulators: the games.
        record: to write; the first time step's ``active`` and rows are given.
        whole_games: a game that has ended waits.
        last_number: play ends when a game has drawn more of its ``numbers``.

    Returns:
        How many time steps were played: fewer than T where no game is active any more, or has drawn too much.
    """
    games, rows = emulators.games, record.rows
    active, actions, dones = record.active, record.actions, record.dones
    offsets = rows.offsets
    T, N = len(actions), len(games)
    h, logits = np.empty(network.W1.shape[1], np.float32), np.empty(len(network.W2), np.float32)
    executed = np.empty(N, np.int64)
    for t in range(T):
        if not active[t].any():
            return t
        for i in range(N):
            if games[i].gym_drawn > last_number:
                return t
        for i in range(N):
            actions[t, i] = 0
            if active[t, i]:
                forward(network, rows, t * N + i, h, logits)
                actions[t, i] = sample(logits, noise[t, i])
            executed[i] = ALE[actions[t, i]]
        step(emulators, executed, active[t], record.rewards[t], dones[t], record.frames[t])
        for i in range(N):
            active[t + 1, i] = active[t, i] and not (whole_games and dones[t, i])
        first = offsets[(t + 1) * N]
        starts = offsets[(t + 1) * N : (t + 2) * N]
        n = observe(emulators, actions[t], dones[t], rows.columns[first:], rows.signs[first:], starts)
        starts += first
        offsets[(t + 2) * N] = first + n
    return T


def sample_rows(network: tuple[Tensor, Tensor], x: SparseFrames, noise: Tensor) -> Tensor:
    """Sample actions (B,) int64 of B rows; weights (inputs, hidden) and (outputs, hidden), noise (B,) on [0, 1)."""
    actions = torch.empty(len(x), dtype=torch.int64)
    sample_all(weights(network), _rows(x), noise.numpy(), actions.numpy())
    return actions


def logits_of_rows(network: tuple[Tensor, Tensor], x: SparseFrames) -> Tensor:
    """The logits (B, outputs) from which ``sample_rows`` samples."""
    logits = torch.empty(len(x), len(network[1]), dtype=torch.float32)
    forward_all(weights(network), _rows(x), logits.numpy())
    return logits


def weights(network: tuple[Tensor, Tensor]) -> Weights:
    """A network for compiled code: float32, on the CPU."""
    return Weights(*(tensor.cpu().float().contiguous().numpy() for tensor in network))


def _rows(x: SparseFrames) -> Rows:
    return Rows(x.columns.numpy(), x.signs.numpy(), np.append(x.offsets.numpy(), np.int32(len(x.columns))))
