"""Decisions of the 2016 network on sparse rows, compiled: what a player does a hundred thousand times a second.

A row's 27 or so pixels pick 27 columns of W1; everything else in it is 0. The sums go pixel by pixel and then unit by
unit, so that a row's decision has the same bits whoever makes it, alone or among others.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.envs.pong.compiled import kernel, rule
from pong.observations import SparseFrames

Floats = NDArray[np.float32]


@rule
def decide(
    W1: Floats,
    W2: Floats,
    columns: NDArray[np.int32],
    signs: Floats,
    begin: int,
    end: int,
    noise: float,
    h: Floats,
    logits: Floats,
) -> int:
    """Sample an action of one row.

    Args:
        W1: (inputs, hidden).
        W2: (outputs, hidden); a single output is the logit of action 1, several are each action's.
        columns, signs: what is not 0 in the rows; from ``begin`` to ``end`` in this one.
        noise: uniform on [0, 1).
        h: (hidden,) to write on, as
        logits: (outputs,).
    """
    forward(W1, W2, columns, signs, begin, end, h, logits)
    return sample(logits, noise)


@rule
def forward(
    W1: Floats, W2: Floats, columns: NDArray[np.int32], signs: Floats, begin: int, end: int, h: Floats, logits: Floats
) -> None:
    """Write the logits of one row, see ``decide``."""
    h[:] = 0
    for k in range(begin, end):
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
def decide_all(
    W1: Floats,
    W2: Floats,
    columns: NDArray[np.int32],
    signs: Floats,
    offsets: NDArray[np.int32],
    noise: Floats,
    actions: NDArray[np.int64],
) -> None:
    """Sample an action of each of B rows, see ``decide``; noise (B,), actions (B,) to write."""
    h, logits = np.empty(W1.shape[1], np.float32), np.empty(len(W2), np.float32)
    for i in range(len(offsets)):
        end = offsets[i + 1] if i + 1 < len(offsets) else len(columns)
        actions[i] = decide(W1, W2, columns, signs, offsets[i], end, noise[i], h, logits)


@kernel
def forward_all(
    W1: Floats, W2: Floats, columns: NDArray[np.int32], signs: Floats, offsets: NDArray[np.int32], logits: Floats
) -> None:
    """Write the logits of B rows, (B, outputs)."""
    h = np.empty(W1.shape[1], np.float32)
    for i in range(len(offsets)):
        end = offsets[i + 1] if i + 1 < len(offsets) else len(columns)
        forward(W1, W2, columns, signs, offsets[i], end, h, logits[i])


def decide_rows(network: tuple[Tensor, Tensor], x: SparseFrames, noise: Tensor) -> Tensor:
    """Sample actions (B,) int64 of B rows; weights (hidden, inputs) and (outputs, hidden), noise (B,) on [0, 1)."""
    actions = torch.empty(len(x), dtype=torch.int64)
    decide_all(*_arrays(network, x, noise, actions))
    return actions


def logits_of_rows(network: tuple[Tensor, Tensor], x: SparseFrames) -> Tensor:
    """What ``decide_rows`` decides by: (B, outputs)."""
    logits = torch.empty(len(x), len(network[1]), dtype=torch.float32)
    forward_all(*_arrays(network, x, logits))
    return logits


def _arrays(network: tuple[Tensor, Tensor], x: SparseFrames, *more: Tensor) -> list[NDArray[Any]]:
    W1, W2 = network
    return [tensor.numpy() for tensor in (W1.T.contiguous().float(), W2.float(), x.columns, x.signs, x.offsets, *more)]
