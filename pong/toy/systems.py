"""What an example is made of: a system, the ways to estimate its gradient, and what a person expects of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pong.toy.outcomes import Outcomes, Policy

Loss = Callable[[Tensor, Tensor], Tensor]  # log_probs and returns, (N,) or (N, T) → (), as surrogate_loss


@dataclass(frozen=True)
class System:
    """A policy, what it may meet, and what that is worth; every tensor float64.

    Args:
        parameters: θ by name, at the point where the gradient is taken.
        policy: θ (P,) → what gives an outcome its log-probability.
        outcomes: what can happen; an outcome is an action, or all that happens in an episode of T steps.
        returns: outcomes (K, …) → what each is worth, in reward units: (K,), or (K, T) with the return of the whole
            episode at each of its steps.
        objective: θ (P,) → the number () whose gradient is sought, as a formula: it shares no code with the rest.
        objective_name: how to call it in a table.
    """

    parameters: Mapping[str, float]
    policy: Callable[[Tensor], Policy]
    outcomes: Outcomes
    returns: Callable[[Tensor], Tensor]
    objective: Callable[[Tensor], Tensor]
    objective_name: str = "J"

    @property
    def theta(self) -> Tensor:
        """The parameters as one vector (P,), float64, in the order of their names."""
        return torch.tensor(list(self.parameters.values()), dtype=torch.float64)


def of_the_actions_taken(policy: Policy, outcomes: Tensor) -> Tensor:
    """Log-probabilities of what was done, as everybody should take them: (K,) or (K, T)."""
    return policy.log_prob(outcomes)


@dataclass(frozen=True)
class Way:
    """One way to estimate the gradient, and what a person expects of it.

    Args:
        label: what a table calls it.
        loss: (log_probs, returns) of a batch → (); (N,), or (N, T) where an outcome has T steps.
        by_hand: expected gradient per parameter, (P,), signed for ascent.
        variance: of one batch's estimate per parameter, (P,), by hand; empty where nobody derived it.
        batch_size: N, outcomes a batch.
        wrong: its expected gradient is not that of the objective.
        returns: outcomes → what each is paid, if not the system's returns.
        log_probs: (policy, outcomes) → log-probabilities, if not those of the actions taken.
        attached: the outcomes stay functions of θ (a = μ + σ·noise), so the loss is differentiated through them.
    """

    label: str
    loss: Loss
    by_hand: tuple[float, ...]
    variance: tuple[float, ...] = ()
    batch_size: int = 1
    wrong: bool = False
    returns: Callable[[Tensor], Tensor] | None = None
    log_probs: Callable[[Policy, Tensor], Tensor] = of_the_actions_taken
    attached: bool = False


@dataclass(frozen=True)
class Series:
    """Numbers of an example that are no gradient: the steps of an ascent, one sample, a list of returns.

    Args:
        label: what a table calls them.
        by_hand: the numbers.
        code: gives the same numbers from ``pong.losses``, ``pong.returns`` or the system.
        digits: decimals that ``by_hand`` has; 12 where it is exact.
        wrong: what a mistake leads to.
    """

    label: str
    by_hand: tuple[float, ...]
    code: Callable[[], Sequence[float]]
    digits: int = 12
    wrong: bool = False


@dataclass(frozen=True)
class Example:
    """A step of the ladder.

    Args:
        name: what the command line asks for; several examples may share one.
        title: what it is about, in at most 44 characters.
        teaches: what to take home, in at most 50.
        story: the setting and the arithmetic, lines of at most 100 columns.
        notice: what to see in the tables, one paragraph.
        system: whose gradient the ways estimate.
        ways: the first is right.
        series: further numbers.
    """

    name: str
    title: str
    teaches: str
    story: str
    notice: str
    system: System | None = None
    ways: tuple[Way, ...] = ()
    series: tuple[Series, ...] = ()
