"""What people write in place of ``surrogate_loss``: some of it right, most of it a mistake.

Each takes log-probabilities and returns of a batch, (N,) or (N, T), and gives a loss (), to be descended.
"""

from torch import Tensor

from pong.losses import surrogate_loss
from pong.returns import standardize


def without_log(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake −π·R, which weighs by π what was already drawn with probability π."""
    return -(log_probs.exp() * returns).sum()


def wrong_sign(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake +log π·R, which makes an optimiser descend J."""
    return (log_probs * returns).sum()


def outer_product(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake (N, 1)×(N,) → (N, N), which pays every action with every return of the batch."""
    return -(log_probs[:, None] * returns).mean()


def drawn_again(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake of two draws: the return of the action that was played, log π of another one, drawn for the loss."""
    return surrogate_loss(log_probs[1:], returns[:1])


def through_the_sample(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The pathwise estimator −R(a(θ)): no log-probability; the returns are differentiated through the action."""
    return -returns.sum()


def not_detached(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake −log π·R without ``detach``, so that gradient reaches the returns."""
    return -(log_probs * returns).sum()


def mean_of_steps(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake of averaging over the steps of an episode, which pays a short one more per step.

    A step after the end has no choice in it: log 1 = 0.
    """
    steps = (log_probs < 0).sum()
    return surrogate_loss(log_probs, returns) / steps


def less_batch_mean(log_probs: Tensor, returns: Tensor) -> Tensor:
    """Baseline: the mean return of the batch, the sample's own return included."""
    return surrogate_loss(log_probs, returns - returns.mean(), reduction="mean")


def less_mean_of_others(log_probs: Tensor, returns: Tensor) -> Tensor:
    """Baseline: the mean return of the other samples of the batch, "leave one out"."""
    others = (returns.sum() - returns) / (len(returns) - 1)
    return surrogate_loss(log_probs, returns - others, reduction="mean")


def standardized(log_probs: Tensor, returns: Tensor) -> Tensor:
    """Returns less the batch's mean, divided by the batch's standard deviation."""
    return surrogate_loss(log_probs, standardize(returns), reduction="mean")
