"""The policy gradient of a system so small that everything which can happen in it can be listed.

Nothing is drawn at random here. Instead of averaging over many samples, the loss is differentiated on every batch of
samples that could have been drawn, and the gradients are weighted by how probable each batch was: the exact mean and
variance of what a learner's ``loss.backward()`` leaves behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Distribution, Normal

Loss = Callable[[Tensor, Tensor], Tensor]  # (log_probs (N,), returns (N,)) → (), as surrogate_loss
Outcomes = Callable[[Distribution], tuple[Tensor, Tensor]]  # policy → what can happen (K, …), how probable it is (K,)


@dataclass(frozen=True)
class System:
    """A policy, what it may meet, and what that is worth; every tensor float64.

    Args:
        parameters: θ by name, at the point where the gradient is taken.
        policy: θ (P,) → the distribution of an outcome; an outcome is an action, or all that happens in an episode.
        outcomes: lists them: ``every_action``, ``quadrature`` or ``taken(…)``.
        returns: outcomes (K, …) → what each is worth (K,), in reward units.
        objective: θ (P,) → the number () whose gradient is sought, as a formula: it shares no code with the rest.
        objective_name: how to call it in a table.
    """

    parameters: Mapping[str, float]
    policy: Callable[[Tensor], Distribution]
    outcomes: Outcomes
    returns: Callable[[Tensor], Tensor]
    objective: Callable[[Tensor], Tensor]
    objective_name: str = "J"

    @property
    def theta(self) -> Tensor:
        """The parameters as one vector (P,), float64, in the order of their names."""
        return torch.tensor(list(self.parameters.values()), dtype=torch.float64)


def every_action(policy: Distribution) -> tuple[Tensor, Tensor]:
    """All actions of a discrete policy, (K,), and their probabilities, (K,)."""
    actions = policy.enumerate_support()
    return actions, policy.log_prob(actions).exp()


def quadrature(policy: Distribution) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite nodes of a scalar Gaussian, (48,), and their weights, (48,): Σ wᵢ f(μ + σxᵢ) = E[f(a)].

    Exact for polynomials up to degree 95, and good to 1e-15 for the density itself (T3 without the log).
    """
    if not isinstance(policy, Normal):
        raise TypeError(
            f"quadrature needs a Normal policy, got {type(policy).__name__}; every_action lists discrete ones"
        )
    nodes, weights = (torch.from_numpy(array) for array in hermegauss(48))
    return policy.mean + policy.stddev * nodes, weights / weights.sum()


def taken(*actions: float) -> Outcomes:
    """These actions and no others, equally weighted: what a learner has who sampled them."""
    sample = torch.tensor(actions, dtype=torch.float64)
    return lambda policy: (sample, torch.full_like(sample, 1 / len(actions)))


def estimates(system: System, theta: Tensor, loss: Loss, batch_size: int = 1) -> tuple[Tensor, Tensor]:
    """Differentiate the loss on every batch of outcomes that could be drawn: gₖ = −∇θ loss(log πθ(batchₖ), R(batchₖ)).

    Source: the enumeration is ours; the estimator is Williams 1992 (see ``pong.losses``).

    Args:
        system: what can happen.
        theta: (P,), float64; where to take the gradient, usually ``system.theta``.
        loss: ``surrogate_loss``, or what somebody wrote in its place.
        batch_size: N independent outcomes a batch, so Kᴺ batches: keep it small.

    Returns:
        The negated gradients, (Kᴺ, P), negated because descending the loss is ascending J; and how probable each
        batch is, (Kᴺ,).
    """
    with torch.no_grad():  # an action that was taken is a number, no longer a function of θ
        outcomes, weights = system.outcomes(system.policy(theta))
    theta = theta.detach().requires_grad_()
    log_probs, returns = system.policy(theta).log_prob(outcomes), system.returns(outcomes)  # (K,), (K,)
    batches = torch.cartesian_prod(*[torch.arange(len(weights))] * batch_size).view(-1, batch_size)  # (Kᴺ, N)
    gradients = [-torch.autograd.grad(loss(log_probs[b], returns[b]), theta, retain_graph=True)[0] for b in batches]
    return torch.stack(gradients), weights[batches].prod(dim=1)


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
