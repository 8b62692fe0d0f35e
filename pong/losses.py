"""The surrogate loss −log π(a|s)·R, whose autograd gradient is the policy gradient.

This is the heart of the project. It knows nothing of Pong, of networks or of environments: log-probabilities and
returns go in, a number comes out, and calling ``backward()`` on that number produces Σ ∇log π(a|s)·R, negated.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "none"]


def surrogate_loss(log_probs: Tensor, returns: Tensor, *, reduction: Reduction = "sum") -> Tensor:
    """Loss whose gradient is the negated policy gradient: −Σₜ log π(aₜ|sₜ)·Rₜ.

    Its value means nothing as a measure of progress. The objective J = E[R] does not appear in it: the loss can rise
    while the policy improves, and it is 0 for standardised returns and a uniform policy. Watch the returns instead.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
    learning"; Karpathy 2016, https://karpathy.github.io/2016/05/31/rl/ ("∑ᵢ Aᵢ log p(yᵢ|xᵢ)").

    Args:
        log_probs: log π(aₜ|sₜ) in nats of the actions that were taken; any shape, floating, usually (B,).
        returns: Rₜ, the return or advantage: discounted, optionally minus a baseline and standardised;
            the shape of ``log_probs``, floating. Treated as a constant: no gradient ever reaches it.
        reduction: "sum" as in the 2016 original, "mean" over all elements, or "none" for the terms themselves.

    Returns:
        A scalar (), or with "none" the shape of the inputs. The gradient of the sum with respect to the parameters
        θ IS −Σₜ Rₜ·∇θ log π(aₜ|sₜ), so a descent step on it is an ascent step on J.

    Raises:
        ValueError: shapes differ (never broadcast: (N, 1) against (N,) would credit every action with every return),
            the batch is empty, or the reduction is unknown.
        TypeError: a dtype is not floating.
    """
    if log_probs.shape != returns.shape:
        shapes = f"{tuple(log_probs.shape)} and {tuple(returns.shape)}"
        raise ValueError(f"log_probs and returns must have the same shape, got {shapes}")
    for name, tensor in (("log_probs", log_probs), ("returns", returns)):
        if not torch.is_floating_point(tensor):
            raise TypeError(f"{name} must be floating, got {tensor.dtype}; convert it with .float()")
    if log_probs.numel() == 0:
        raise ValueError(f"empty batch: log_probs has shape {tuple(log_probs.shape)}; collect at least one step")
    terms = -log_probs * returns.detach()
    if reduction == "none":
        return terms
    if reduction == "sum":
        return terms.sum()
    if reduction == "mean":
        return terms.mean()
    raise ValueError(f"reduction must be 'sum', 'mean' or 'none', got {reduction!r}")
