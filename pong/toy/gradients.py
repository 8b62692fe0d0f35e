"""Exact and sampled policy gradients of systems so small that all episodes can be listed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from torch import Tensor
from torch.distributions import Distribution, Normal


class System(NamedTuple):
    """A policy and its environment; every number is float64."""

    parameters: dict[str, float]  # θ by name, where the gradient is taken
    play: Callable[[Tensor, "Choices"], list[Tensor]]  # θ, choices → the rewards of an episode's T steps
    nodes: int = 48  # of the quadrature of a Gaussian choice: exact for polynomials up to degree 2·nodes − 1
    kinks: tuple[float, ...] = ()  # actions at which the reward of a Gaussian action jumps or bends

    @property
    def theta(self) -> Tensor:
        return torch.tensor(list(self.parameters.values()), dtype=torch.float64)


class Batch(NamedTuple):
    """Episodes with C choices and T actions: M batches of N, or a list of K."""

    choices: Tensor  # (M, N, C)
    log_probs: Tensor  # (M, N, T), log π of the actions, in nats
    rewards: Tensor  # (M, N, T)
    policy: Any  # the distribution of the last action


Loss = Callable[[Batch], Tensor]  # → (M,), one number a batch


class Estimator(NamedTuple):
    """A loss for batches of n episodes, and by hand the mean and variance of its gradient estimate."""

    system: System
    loss: Loss
    label: str = ""
    mean: tuple[float, ...] = ()  # (P,), signed for ascent
    variance: tuple[float, ...] = ()  # (P,), or empty: not derived
    n: int = 1
    attached: bool = False  # actions a = μ + σx stay functions of θ


class Choices:
    """Makes every choice at once: Gaussian noise takes the values of quadrature nodes.

    Each choice has a dimension of its own, (K₁,), (K₂, 1), (K₃, 1, 1), …, to broadcast to all combinations.
    """

    def __init__(self, system: System, attached: bool) -> None:
        self.system, self.attached = system, attached
        self.weight = torch.ones(())  # probability of each combination
        self.values: list[Tensor] = []
        self.log_probs: list[Tensor] = []
        self.policy: Any = None

    def act(self, policy: Any, active: Tensor | float = 1.0) -> Tensor:
        """Choose an action; where ``active`` is 0 it has no effect, so that its log π is 0."""
        action = self.chance(policy)
        self.policy = policy
        self.log_probs.append(policy.log_prob(action) * active)
        return action

    def chance(self, distribution: Distribution) -> Tensor:
        """Make a choice that is not the policy's."""
        shape = -1, *[1] * len(self.values)
        if isinstance(distribution, Normal):
            mean, std = distribution.mean, distribution.stddev
            cuts = [((kink - mean) / std).item() for kink in self.system.kinks]
            noise, weight = (x.view(shape) for x in quadrature(self.system.nodes, cuts))
            value = mean + std * noise
        else:
            value = distribution.enumerate_support(expand=False).view(shape)
            weight = distribution.log_prob(value).exp()
        self.weight = self.weight * weight.detach()
        self.values.append(value if self.attached else value.detach())  # an action taken is a constant
        return self.values[-1]


def quadrature(nodes: int, cuts: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
    """Nodes and weights for standard Gaussian noise: Gauss–Hermite, or Gauss–Legendre on each piece between cuts."""
    line, weights = map(torch.from_numpy, leggauss(80) if cuts else hermegauss(nodes))
    if cuts:
        ends = torch.tensor([-12, *cuts, 12], dtype=torch.float64)  # a Gaussian has 4e-33 of its mass beyond ±12
        half = ends.diff()[:, None] / 2  # (pieces, 1)
        line, weights = (ends[:-1, None] + half * (line + 1)).flatten(), (half * weights).flatten()
        weights = weights * torch.exp(-(line**2) / 2)
    return line, weights / math.sqrt(math.tau)


def episodes(system: System, theta: Tensor, attached: bool = False) -> tuple[Batch, Tensor]:
    """Every possible episode, K rows, and its probability, (K,)."""
    choices = Choices(system, attached)
    columns = (choices.values, choices.log_probs, system.play(theta, choices))
    tables = [torch.stack([x.expand_as(choices.weight).flatten() for x in column], dim=-1) for column in columns]
    return Batch(tables[0], tables[1], tables[2], choices.policy), choices.weight.flatten()


def objective(system: System, theta: Tensor) -> Tensor:
    """J = Σ P(episode)·R(episode), ()."""
    rows, weights = episodes(system, theta)
    return weights @ rows.rewards.sum(dim=-1)


def estimates(
    estimator: Estimator, theta: Tensor | None = None, count: int = 0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Differentiate the loss on every batch that could be drawn, at θ or the system's θ: gₖ = −∇θ loss(batchₖ).

    The result is the gₖ (Kⁿ, P) and each batch's probability (Kⁿ,), or those of ``count`` random batches: (count, …).

    Source: the enumeration is ours; the estimator is Williams 1992 (see ``pong.losses``).
    """
    theta, n = (estimator.system.theta if theta is None else theta).detach().requires_grad_(), estimator.n
    rows, weights = episodes(estimator.system, theta, estimator.attached)
    if count:
        generator = torch.Generator().manual_seed(seed)
        batches = torch.multinomial(weights, count * n, replacement=True, generator=generator).view(count, n)
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
    else:
        batches = torch.cartesian_prod(*[torch.arange(len(weights))] * n).view(-1, n)  # (Kⁿ, n)
        weights = weights[batches].prod(dim=1)
    gradients = []
    for index in torch.split(batches, 64):  # (M, n), differentiated together for speed
        losses = estimator.loss(Batch(rows.choices[index], rows.log_probs[index], rows.rewards[index], rows.policy))
        one_hot = torch.eye(len(losses), dtype=losses.dtype)  # a backward pass for each loss, all at once
        gradients.append(-torch.autograd.grad(losses, theta, one_hot, is_grads_batched=True, retain_graph=True)[0])
    return torch.cat(gradients), weights


def mean_and_variance(estimator: Estimator, theta: Tensor | None = None, **random: int) -> tuple[Tensor, Tensor]:
    """Mean ḡ = Σₖ wₖgₖ and variance Σₖ wₖ(gₖ − ḡ)² of the ``estimates``: (P,) and (P,)."""
    gradients, weights = estimates(estimator, theta, **random)
    mean = weights @ gradients
    return mean, weights @ (gradients - mean).square()


def finite_difference(function: Callable[[Tensor], Tensor], theta: Tensor, step: float = 1e-5) -> Tensor:
    """Slopes (f(θ + h·eᵢ) − f(θ − h·eᵢ)) / 2h of a function of θ (P,) along each axis, (P,); off by about 1e-9."""
    axes = torch.eye(len(theta), dtype=theta.dtype) * step  # (P, P), one shift a row
    return torch.stack([(function(theta + shift) - function(theta - shift)) / (2 * step) for shift in axes])


def ascend(estimator: Estimator, learning_rate: float, steps: int) -> Tensor:
    """Climb along the expected gradient, θ ← θ + lr·E[g]: θ before the first step and after each, (steps + 1, P)."""
    path = [estimator.system.theta]
    for _ in range(steps):
        path.append(path[-1] + learning_rate * mean_and_variance(estimator, path[-1])[0])
    return torch.stack(path)
