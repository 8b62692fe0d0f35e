"""What can happen in a system: every outcome with its probability, or outcomes drawn at random.

Listing them is what makes the numbers of ``pong toy`` exact: an expectation is then a sum of a few terms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from torch import Generator, Tensor
from torch.distributions import Distribution, Normal

FAR = 12.0  # standard deviations: a Gaussian has 4e-33 of its mass beyond


class Policy(Protocol):
    """What a system needs of a policy; every ``torch.distributions`` object has it."""

    def log_prob(self, value: Tensor) -> Tensor:
        """log π of the actions in the outcomes (K, …), in nats: (K,), or one a step, (K, T)."""


class Outcomes(Protocol):
    """All that can happen under a policy."""

    def listed(self, policy: Any) -> tuple[Tensor, Tensor]:
        """Every outcome, (K, …), and how probable it is, (K,)."""

    def drawn(self, policy: Any, count: int, generator: Generator) -> Tensor:
        """So many independent outcomes at random, (count, …)."""


@dataclass(frozen=True)
class Listed:
    """Finitely many outcomes.

    Args:
        support: policy → the outcomes, (K, …), and how probable each is, (K,).
    """

    support: Callable[[Any], tuple[Tensor, Tensor]]

    def listed(self, policy: Any) -> tuple[Tensor, Tensor]:
        """Every outcome, (K, …), and its probability, (K,)."""
        return self.support(policy)

    def drawn(self, policy: Any, count: int, generator: Generator) -> Tensor:
        """Rows of the list at random, (count, …)."""
        outcomes, weights = self.support(policy)
        return outcomes[torch.multinomial(weights.detach(), count, replacement=True, generator=generator)]


def scaled(policy: Any, noise: Tensor) -> Tensor:
    """The action a = μ + σ·x of a scalar Gaussian policy, from noise x (K, 1): (K,)."""
    if not isinstance(policy, Normal):
        raise TypeError(
            f"quadrature needs a Normal policy, got {type(policy).__name__}; EVERY_ACTION lists discrete ones"
        )
    return policy.mean + policy.stddev * noise[:, 0]


@dataclass(frozen=True)
class Quadrature:
    """Outcomes made of independent standard Gaussian noise; listed, they are the nodes of a quadrature rule.

    With n nodes Gauss–Hermite is exact for polynomials up to degree 2n − 1; 48 are good to 1e-15 for the density
    itself (T3 without the log). A step or a corner in the returns is no polynomial: name it as a kink, and the line
    is cut there and each piece integrated by Gauss–Legendre.

    Args:
        unfold: (policy, noise (K, D)) → outcomes (K, …), differentiable in the policy's parameters.
        dimensions: D, numbers of noise in an outcome.
        nodes: per dimension, or per piece.
        kinks: in standard deviations, ascending; needs D = 1.
    """

    unfold: Callable[[Any, Tensor], Tensor] = scaled
    dimensions: int = 1
    nodes: int = 48
    kinks: tuple[float, ...] = ()

    def listed(self, policy: Any) -> tuple[Tensor, Tensor]:
        """The outcomes at the nodes, (K, …), and their weights, (K,): Σ wᵢ f(outcomeᵢ) = E[f]."""
        line, weights = _pieces(self.nodes, self.kinks) if self.kinks else _hermite(self.nodes)
        grid = torch.cartesian_prod(*[line] * self.dimensions).view(-1, self.dimensions)  # (K, D)
        return self.unfold(policy, grid), torch.cartesian_prod(*[weights] * self.dimensions).view_as(grid).prod(dim=1)

    def drawn(self, policy: Any, count: int, generator: Generator) -> Tensor:
        """Outcomes of Gaussian noise drawn at random, (count, …)."""
        return self.unfold(policy, torch.randn(count, self.dimensions, generator=generator, dtype=torch.float64))


def _hermite(nodes: int) -> tuple[Tensor, Tensor]:
    line, weights = (torch.from_numpy(array) for array in hermegauss(nodes))
    return line, weights / weights.sum()


def _pieces(nodes: int, kinks: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    inner, weights = (torch.from_numpy(array) for array in leggauss(nodes))  # on [−1, 1]
    ends = torch.tensor([-FAR, *kinks, FAR], dtype=torch.float64)
    half = ends.diff()[:, None] / 2  # (pieces, 1)
    line = (ends[:-1, None] + half * (inner + 1)).flatten()
    density = torch.exp(-(line**2) / 2) / math.sqrt(2 * math.pi)
    return line, (half * weights).flatten() * density


def _support(policy: Distribution) -> tuple[Tensor, Tensor]:
    actions = policy.enumerate_support()
    return actions, policy.log_prob(actions).exp()


EVERY_ACTION = Listed(_support)  # of a discrete policy
QUADRATURE = Quadrature()  # of a scalar Gaussian policy


def taken(*actions: float) -> Listed:
    """These actions and no others, equally weighted: what a learner has who sampled them."""
    sample = torch.tensor(actions, dtype=torch.float64)
    return Listed(lambda policy: (sample, torch.full_like(sample, 1 / len(actions))))
