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
from pong.envs.pong.machine import Emulators, Floats, Rows, observe, step
from pong.observations import SparseFrames

Weights = tuple[Floats, Floats]  # W1 (inputs, hidden) and W2 (outputs, hidden); one output is the logit of action 1


class Record(NamedTuple):
    """What play writes, by time step and game."""

    active: NDArray[np.bool_]
    actions: NDArray[np.int64]
    rewards: Floats
    dones: NDArray[np.bool_]
    frames: NDArray[np.int64]
    rows: Rows  # time step by time step


@rule
def forward(network: Weights, rows: Rows, row: int, h: Floats, logits: Floats) -> None:
    """Write the ``logits`` (outputs,) of one row; ``h`` (hidden,) is scratch space."""
    columns, signs, (W1, W2) = rows.columns, rows.signs, network
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
def decide(network: Weights, rows: Rows, noise: Floats, logits: Floats, actions: NDArray[np.int64]) -> None:
    """Write the logits (B, outputs) and sampled actions (B,) of B rows; noise (B,), uniform on [0, 1)."""
    h = np.empty(network[0].shape[1], np.float32)
    for i in range(len(actions)):
        forward(network, rows, i, h, logits[i])
        actions[i] = sample(logits[i], noise[i])


@kernel
def play(
    network: Weights,
    noise: Floats,  # (T, N), one for each decision
    emulators: Emulators,
    record: Record,  # to write, for T + 1 time steps; the first one's ``active`` and rows are given
    whole_games: bool,  # a game that has ended waits
    last_number: int,  # play ends when a game has drawn more of its ``numbers``
) -> int:
    """Up to T decisions of each active game, as ``decide``, ``step`` and ``observe`` make them one by one.

    Returns how many time steps were played: fewer than T where no game is active any more, or has drawn too much.
    """
    active, actions, dones = record.active, record.actions, record.dones
    W1, W2 = network
    h, logits = np.empty(W1.shape[1], np.float32), np.empty(len(W2), np.float32)
    games, T, N = emulators.games, len(noise), len(emulators.games)
    for t in range(T):
        if not active[t].any() or games["gym_drawn"].max() > last_number:
            return t
        for i in range(N):
            actions[t, i] = 0
            if active[t, i]:
                forward(network, record.rows, t * N + i, h, logits)
                actions[t, i] = sample(logits, noise[t, i])
        step(emulators, actions[t], active[t], record.rewards[t], dones[t], record.frames[t])
        observe(emulators, actions[t], dones[t], record.rows, (t + 1) * N)
        for i in range(N):
            active[t + 1, i] = active[t, i] and not (whole_games and dones[t, i])
    return T


def decide_rows(network: tuple[Tensor, Tensor], x: SparseFrames, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B, outputs) and sampled actions (B,) int64 of B rows; noise (B,) float32, uniform on [0, 1)."""
    logits = torch.empty(len(x), len(network[1]), dtype=torch.float32)
    actions = torch.empty(len(x), dtype=torch.int64)
    rows = Rows(x.columns.numpy(), x.signs.numpy(), np.append(x.offsets.numpy(), np.int32(len(x.columns))))
    decide(weights(network), rows, noise.numpy(), logits.numpy(), actions.numpy())
    return logits, actions


def weights(network: tuple[Tensor, Tensor]) -> Weights:
    """A network for compiled code: float32, on the CPU."""
    W1, W2 = (tensor.cpu().float().contiguous().numpy() for tensor in network)
    return W1, W2
