"""T10, continued: what learners get wrong around the gradient, in the numbers that go in and come out."""

import math

import torch
from torch import Tensor

from pong.losses import surrogate_loss
from pong.returns import discounted_returns, standardize
from pong.toy.examples.ascent import COIN
from pong.toy.systems import Example, Series


def at(p: float) -> Tensor:
    """θ at which P(a=1) = p, (1,)."""
    return torch.tensor([p], dtype=torch.float64).logit()


def expected_loss(p: float) -> float:
    """E[−log π·R] of the coin that pays a=1, at P(a=1) = p."""
    policy = COIN.policy(at(p))
    actions, weights = COIN.outcomes.listed(policy)
    return (weights @ surrogate_loss(policy.log_prob(actions), COIN.returns(actions), reduction="none")).item()


CHANCES = (0.1, 1 / math.e, 0.5, 0.9)

NO_MEASURE = Example(
    name="T10",
    title="the loss is no measure of progress",
    teaches="the loss rises and falls while J only rises",
    series=(
        # a=1 has probability p and pays 1: loss −log p; a=0 pays 0: loss 0
        Series("E[loss]", tuple(-p * math.log(p) for p in CHANCES), lambda: [expected_loss(p) for p in CHANCES]),
        Series("J", CHANCES, lambda: [COIN.objective(at(p)).item() for p in CHANCES]),
    ),
    story="""\
a=1 pays 1 with probability p, a=0 pays 0: J = p. Expected loss: −p·ln p.
  p      .1     .368   .5     .9        the policy gets better from left to right
  loss   .230   .368   .347   .095      the loss first rises, then falls""",
    notice="""\
The loss is made so that its gradient is right, nothing else. With R = (1, 0) it is best, 0, for the best policy and for
the worst. Watch the returns.""",
)


def into_zeros_like(rewards: Tensor, gamma: float) -> list[float]:
    """The mistake: discounted returns written into ``zeros_like(rewards)``, which holds integers if the rewards do."""
    returns, running = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        running = rewards[t].item() + gamma * running
        returns[t] = running
    return [float(number) for number in returns]


ONES = torch.tensor([1, 1, 1])

INTEGERS = Example(
    name="T10",
    title="integer rewards and zeros_like",
    teaches="fractions are cut off, without a word",
    series=(
        # backwards: 1, 1 + .95, 1 + .95·1.95
        Series("discounted_returns", (2.8525, 1.95, 1.0), lambda: discounted_returns(ONES, 0.95).tolist(), digits=6),
        Series("into zeros_like(rewards)", (2.0, 1.0, 1.0), lambda: into_zeros_like(ONES, 0.95), wrong=True),
    ),
    story="""\
Rewards [1, 1, 1], as integers, γ = .95. Backwards: 1, 1 + .95·1 = 1.95, 1 + .95·1.95 = 2.8525.
returns = zeros_like(rewards) is an array of integers: 1.95 is stored as 1 and 2.8525 as 2.
discounted_returns makes floats of integers first.""",
    notice="""\
NumPy and PyTorch both cut off, silently. In CartPole, +1 a step, every return becomes a whole number; in Pong, where
points are ±1 and γ = .99, nearly every return becomes 0.""",
)

ONE_STEP = torch.tensor([7.0], dtype=torch.float64)


def mean_and_std(returns: Tensor) -> list[float]:
    """The mistake (R − mean)/std, which doesn't ask whether the deviation is 0."""
    return [float(number) for number in (returns - returns.mean()) / returns.std(correction=0)]


NOT_A_NUMBER = Example(
    name="T10",
    title="standardising an episode of one step",
    teaches="0/0 is NaN, and NaN spreads to every weight",
    series=(
        Series("standardize", (0.0,), lambda: standardize(ONE_STEP).tolist()),
        Series("(R − mean)/std", (math.nan,), lambda: mean_and_std(ONE_STEP), wrong=True),
    ),
    story="""\
One step, R = 7: mean 7, deviation 0, (R − mean)/std = 0/0 = NaN.
(torch.std divides by n − 1, here by 0, and is NaN already; NumPy's divides by n and is 0.)
One NaN in a batch makes the loss NaN, the gradient NaN, and after one step every weight.
standardize calls returns that are all equal 0: they don't say which action was better.""",
    notice="""\
Adding a small ε to the deviation mends this one, 0/ε = 0, but not a longer episode whose returns are all but equal:
there rounding noise is blown up. standardize asks first whether there is anything but rounding.""",
)
