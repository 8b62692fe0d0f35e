"""From rewards to returns: discounting with resets, and standardising."""

import torch
from torch import Tensor


def discounted_returns(
    rewards: Tensor, gamma: float, *, dones: Tensor | None = None, reset_on_reward: bool = False
) -> Tensor:
    """Discounted sum of the rewards from each step on: Rₜ = rₜ + γ·Rₜ₊₁, restarted where an episode or point ends.

    Source: Karpathy 2016, gist pg-pong.py, ``discount_rewards``, which resets the sum at every nonzero reward
    ("this was a game boundary (pong specific!)").

    Args:
        rewards: (T,) or (T, N), time first, N independent streams; integers become the default floating dtype.
        gamma: discount per step, in [0, 1].
        dones: the shape of ``rewards``, bool; True where a step ends its episode, so nothing later flows back to it.
        reset_on_reward: a nonzero reward ends its point: nothing later flows back to it or to the steps before it.

    Returns:
        The shape of ``rewards``, floating, in reward units (Pong: discounted points).

    Raises:
        ValueError: ``rewards`` is not (T,) or (T, N) or holds NaN or infinity, ``dones`` has another shape, or gamma
            lies outside [0, 1].
    """
    if rewards.dim() not in (1, 2):
        raise ValueError(f"rewards must be (T,) or (T, N), got {tuple(rewards.shape)}")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
    if dones is not None and dones.shape != rewards.shape:
        raise ValueError(f"dones must have the shape of rewards, got {tuple(dones.shape)} and {tuple(rewards.shape)}")
    if not torch.is_floating_point(rewards):
        rewards = rewards.to(torch.get_default_dtype())
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("rewards holds NaN or infinity; look at the environment that gave it")
    ends = torch.zeros_like(rewards, dtype=torch.bool) if dones is None else dones.bool()
    if reset_on_reward:
        ends = ends | (rewards != 0)
    flows_back = (gamma * (~ends).to(rewards.dtype)).numpy()  # what one unit of R[t+1] is worth at t
    returns = rewards.clone()
    R = returns.numpy()  # the same memory; NumPy is faster than torch on small rows
    for t in reversed(range(len(R) - 1)):
        R[t] += flows_back[t] * R[t + 1]
    return returns


def standardize(returns: Tensor) -> Tensor:
    """Shift to mean 0 and scale to standard deviation 1: (R − mean R) / std R, over all elements.

    The deviation is the population's (divided by n, as ``np.std`` does; ``torch.std`` divides by n − 1). A batch whose
    returns are all equal, or that has a single element, says nothing about which action was better: it becomes
    exactly 0, never NaN and never rounding noise blown up to ±1.

    Source: Karpathy 2016, gist pg-pong.py ("standardize the rewards to be unit normal").

    Args:
        returns: any shape, floating, at least one element.

    Returns:
        The same shape and dtype, in standard deviations.

    Raises:
        TypeError: the dtype is not floating.
        ValueError: the batch is empty or holds NaN or infinity.
    """
    if not torch.is_floating_point(returns):
        raise TypeError(f"returns must be floating, got {returns.dtype}; convert it with .float()")
    if returns.numel() == 0:
        raise ValueError(f"empty batch: returns has shape {tuple(returns.shape)}")
    if not bool(torch.isfinite(returns).all()):
        raise ValueError("returns holds NaN or infinity; look for the step whose reward is not finite")
    limits = torch.finfo(returns.dtype)
    scaled = returns / returns.abs().max().clamp_min(limits.tiny)  # in [−1, 1], so that no square overflows
    centred = scaled - scaled.mean()
    std = centred.square().mean().sqrt()
    if std <= 8 * limits.eps:  # nothing but rounding
        return torch.zeros_like(returns)
    return centred / std
