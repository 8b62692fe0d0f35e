"""The policy gradient of a system so small that everything which can happen in it can be listed.

``estimates`` draws nothing at random. Instead of averaging over many samples, the loss is differentiated on every batch
of outcomes that could have been drawn, and the gradients are weighted by how probable each batch was: the exact mean
and variance of what a learner's ``loss.backward()`` leaves behind. ``sampled`` does what a learner does.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pong.toy.outcomes import Policy
from pong.toy.systems import System, Way

AT_ONCE = 64  # batches differentiated together, for speed


def estimates(system: System, theta: Tensor, way: Way) -> tuple[Tensor, Tensor]:
    """Differentiate the loss on every batch of outcomes that could be drawn: gₖ = −∇θ loss(log πθ(batchₖ), R(batchₖ)).

    Source: the enumeration is ours; the estimator is Williams 1992 (see ``pong.losses``).

    Args:
        system: what can happen.
        theta: (P,), float64; where to take the gradient, usually ``system.theta``.
        way: the loss, and how many outcomes N a batch has: there are Kᴺ batches, so keep it small.

    Returns:
        The negated gradients, (Kᴺ, P), negated because descending the loss is ascending J; and how probable each
        batch is, (Kᴺ,).
    """
    theta = theta.detach().requires_grad_()
    policy = system.policy(theta)
    outcomes, weights = system.outcomes.listed(policy)  # (K, …), (K,)
    batches = torch.cartesian_prod(*[torch.arange(len(weights))] * way.batch_size).view(-1, way.batch_size)  # (Kᴺ, N)
    return _differentiate(system, way, theta, policy, outcomes, batches), weights.detach()[batches].prod(dim=1)


def sampled(system: System, theta: Tensor, way: Way, count: int, seed: int) -> Tensor:
    """Differentiate the loss on batches drawn at random, as a learner does.

    Args:
        system: what can happen.
        theta: (P,), float64.
        way: the loss, and how many outcomes N a batch has.
        count: batches.
        seed: of the outcomes; the same seed draws the same ones on the same version of PyTorch.

    Returns:
        The negated gradients, (count, P).
    """
    theta = theta.detach().requires_grad_()
    policy = system.policy(theta)
    batches = torch.arange(count * way.batch_size).view(count, way.batch_size)
    outcomes = system.outcomes.drawn(policy, batches.numel(), Generator().manual_seed(seed))
    return _differentiate(system, way, theta, policy, outcomes, batches)


def _differentiate(
    system: System, way: Way, theta: Tensor, policy: Policy, outcomes: Tensor, batches: Tensor
) -> Tensor:
    if not way.attached:
        outcomes = outcomes.detach()  # an action that was taken is a number, no longer a function of θ
    returns_of = way.returns or system.returns
    gradients = []
    for some in torch.split(batches, AT_ONCE):  # (M, N)
        happened = outcomes[some.flatten()]  # (M·N, …)
        log_probs, returns = way.log_probs(policy, happened), returns_of(happened)  # (M·N,) or (M·N, T)
        shape = (*some.shape, *log_probs.shape[1:])
        pairs = zip(log_probs.reshape(shape), returns.reshape(shape), strict=True)
        losses = torch.stack([way.loss(*pair) for pair in pairs])  # (M,), one a batch, none mixed
        each = torch.eye(len(losses), dtype=losses.dtype)  # a backward pass for each loss, all in one go
        gradients.append(-torch.autograd.grad(losses, theta, each, is_grads_batched=True, retain_graph=True)[0])
    return torch.cat(gradients)  # (batches, P)


def mean_and_variance(gradients: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the estimates, per parameter: ḡ = Σₖ wₖgₖ and Σₖ wₖ(gₖ − ḡ)².

    Args:
        gradients: (K, P), one estimate a row.
        weights: (K,), probabilities; they sum to 1.

    Returns:
        Mean (P,) and variance (P,), not divided by any batch size.
    """
    mean = weights @ gradients
    return mean, weights @ (gradients - mean).square()


def exact(system: System, way: Way) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of a way's estimate at the system's parameters: (P,) and (P,)."""
    return mean_and_variance(*estimates(system, system.theta, way))


def finite_difference(function: Callable[[Tensor], Tensor], theta: Tensor, step: float = 1e-5) -> Tensor:
    """Slope of a function along each axis: (f(θ + h·eᵢ) − f(θ − h·eᵢ)) / 2h; wrong by order h², here about 1e-9.

    Args:
        function: θ (P,) → ().
        theta: (P,), float64.
        step: h, in units of θ.

    Returns:
        The slopes, (P,).
    """
    axes = torch.eye(len(theta), dtype=theta.dtype) * step  # (P, P), one shift a row
    return torch.stack([(function(theta + shift) - function(theta - shift)) / (2 * step) for shift in axes])


def ascend(system: System, way: Way, learning_rate: float, steps: int) -> Tensor:
    """Climb along the expected gradient of a way, without noise: θ ← θ + lr·E[g].

    Args:
        system: what to climb.
        way: whose gradient to follow, right or wrong.
        learning_rate: in units of θ per unit of gradient.
        steps: how many.

    Returns:
        θ before the first step and after each, (steps + 1, P).
    """
    path = [system.theta]
    for _ in range(steps):
        mean, _ = mean_and_variance(*estimates(system, path[-1], way))
        path.append(path[-1] + learning_rate * mean)
    return torch.stack(path)
