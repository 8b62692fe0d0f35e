"""The examples, as data: each a system, the ways to estimate its gradient, and the gradient derived by hand.

The numbers under ``by_hand`` come from the arithmetic in the comment above them, never from autograd.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from pong.losses import surrogate_loss
from pong.toy.gradients import Loss, System, every_action, quadrature, taken


@dataclass(frozen=True)
class Way:
    """One way to write the loss, and the gradient a person expects of it.

    Args:
        label: what a table calls it.
        loss: (log_probs (N,), returns (N,)) → ().
        by_hand: expected gradient per parameter, (P,), signed for ascent.
        variance: of one batch's estimate per parameter, (P,); empty where nobody derived it.
        batch_size: N, outcomes a batch.
        wrong: its expected gradient is not that of the objective.
    """

    label: str
    loss: Loss
    by_hand: tuple[float, ...]
    variance: tuple[float, ...] = ()
    batch_size: int = 1
    wrong: bool = False


@dataclass(frozen=True)
class Example:
    """A step of the ladder: ``name`` is what the command line asks for; several examples may share one."""

    name: str
    title: str
    system: System
    ways: tuple[Way, ...]
    story: str
    notice: str


def without_log(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake −π·R, which weighs by π what was already drawn with probability π."""
    return -(log_probs.exp() * returns).sum()


def wrong_sign(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake +log π·R, which makes an optimiser descend J."""
    return (log_probs * returns).sum()


def outer_product(log_probs: Tensor, returns: Tensor) -> Tensor:
    """The mistake (N, 1)×(N,) → (N, N), which pays every action with every return of the batch."""
    return -(log_probs[:, None] * returns).mean()


# Two arms: a = 1 pays 1, a = 0 pays 2; P(a=1) = p = sigmoid(θ), θ = ln 4, so p = .8 and J = p + 2(1−p) = 1.2.
BANDIT = System(
    parameters={"θ": math.log(4)},
    policy=lambda theta: Bernoulli(logits=theta[0]),
    outcomes=every_action,
    returns=lambda action: 2 - action,
    objective=lambda theta: 2 - theta[0].sigmoid(),
)

T1 = Example(
    name="T1",
    title="a bandit where dropping the log flips the sign",
    system=BANDIT,
    ways=(
        # score = a − p: +.2 for a=1, −.8 for a=0.   E[score·R] = .8(.2)(1) + .2(−.8)(2) = .16 − .32 = −.16
        # E[(score·R)²] − mean² = .8(.2)² + .2(−1.6)² − .16² = .032 + .512 − .0256 = .5184
        Way("−log π·R", surrogate_loss, by_hand=(-0.16,), variance=(0.5184,)),
        # ∇π = ±p(1−p) = ±.16.   E[∇π·R] = .8(.16)(1) + .2(−.16)(2) = .128 − .064 = +.064
        # E[(∇π·R)²] − mean² = .8(.16)² + .2(.32)² − .064² = .02048 + .02048 − .004096 = .036864
        Way("−π·R, no log", without_log, by_hand=(0.064,), variance=(0.036864,), wrong=True),
    ),
    story="""\
Two arms: a=1 pays 1, a=0 pays 2. P(a=1) = p = sigmoid(ln 4) = .8, so J = .8(1) + .2(2) = 1.2.
Arm 0 is better, so θ should fall:  ∇J = Σ ∇π(a)·R(a) = .16(1) − .16(2) = −.16
Sampling ∇log π·R = (a − p)·R:      .8(.2)(1) + .2(−.8)(2) = −.16      right
Sampling ∇π·R, without the log:     .8(.16)(1) + .2(−.16)(2) = +.064   uphill to the worse arm
50 ascent steps with lr 1: p goes .8 → .0262 with the log, .8 → .975 without it.""",
    notice="""\
A sample of a is drawn with probability π(a) already. Sampling ∇π·R counts π twice and climbs ½Σπ²R instead of J;
∇log π = ∇π/π divides the second π out. That is the point of the log.""",
)

# a ~ N(μ, σ²) with μ = w·s + b; s = 2, w = ½, b = 0, σ = 1, so μ = 1; R = −(a−3)², so J = −(μ−3)² − σ² = −5.
AIM = System(
    parameters={"w": 0.5, "b": 0.0, "log σ": 0.0},
    policy=lambda theta: Normal(theta[0] * 2 + theta[1], theta[2].exp()),
    outcomes=quadrature,
    returns=lambda action: -((action - 3) ** 2),
    objective=lambda theta: -((theta[0] * 2 + theta[1] - 3) ** 2) - (2 * theta[2]).exp(),
)

T3 = Example(
    name="T3",
    title="linear-Gaussian: a continuous action, a plain linear policy, no softmax",
    system=AIM,
    ways=(
        # ∂J/∂μ = −2(μ−3) = 4, so ∇_b = 4 and ∇_w = s·4 = 8; ∇_{log σ} J = −2σ² = −2.
        # Variances, with x = a−μ ~ N(0,1), so R = −(x−2)², and E[x², x⁴, x⁶, x⁸] = 1, 3, 15, 105; odd powers vanish:
        # b: E[x²(x−2)⁴] − 4² = E[x⁶ + 24x⁴ + 16x²] − 16 = 15 + 72 + 16 − 16 = 87;  w: s²·87 = 348
        # log σ: E[(x²−1)²(x−2)⁴] − 2² = E[x⁸ + 22x⁶ − 31x⁴ − 8x² + 16] − 4 = 105 + 330 − 93 − 8 + 16 − 4 = 346
        Way("−log π·R", surrogate_loss, by_hand=(8.0, 4.0, -2.0), variance=(348.0, 87.0, 346.0)),
        # E[∇π·R] = ∇ ½∫π²R da, and π² = N(μ, σ²/2) / (2σ√π), so it is ∇ of −((μ−3)² + σ²/2) / (4σ√π):
        # b: −2(μ−3) / (4√π) = 1/√π = .5642;  w: 2/√π;  log σ: −(−(μ−3)²/σ + σ/2) / (4√π) = 3.5 / (4√π)
        Way(
            "−π·R, no log",
            without_log,
            by_hand=(2 / math.sqrt(math.pi), 1 / math.sqrt(math.pi), 3.5 / (4 * math.sqrt(math.pi))),
            wrong=True,
        ),
    ),
    story="""\
a ~ N(μ, σ²), μ = w·s + b; s = 2, w = .5, b = 0, σ = 1, so μ = 1. The target is 3: R = −(a − 3)².
J = −(μ − 3)² − σ² = −4 − 1 = −5;  ∇_b J = −2(μ − 3) = 4,  ∇_w J = s·4 = 8,  ∇_log σ J = −2σ² = −2.
The score is school algebra: ∇_w log π = (a − μ)·s/σ² = 2(a − 1). Two samples, μ ± σ:
  a = 2:  R = −1,  g_w = 2(+1)(−1) = −2     a = 0:  R = −9,  g_w = 2(−1)(−9) = +18
Their average is (−2 + 18)/2 = 8, exactly right (the table averages over all a).
Without the log: ∇_b = 1/√π = .5642 instead of 4, and log σ gets the wrong sign.""",
    notice="""\
The good sample (a = 2) pushes w down, a little; the bad one pushes w up, hard: away from a = 0. R is negative for
both, and only the difference matters. One sample is noisy (variance 348 for a mean of 8), never biased.""",
)


def _log_prob_times_return(theta: Tensor) -> Tensor:
    w1, w2, b, log_sigma = theta.unbind()
    z = (1.25 - (w1 * 2 + w2 + b)) / log_sigma.exp()
    return -3 * (z**2 / 2 + log_sigma + math.log(2 * math.pi) / 2)


# One sample, exact in binary: w = (½, −1), b = ¼, s = (2, 1), so μ = 1 − 1 + ¼ = ¼; σ = ½, a = 1¼, R = 3.
ONE_SAMPLE = System(
    parameters={"w₁": 0.5, "w₂": -1.0, "b": 0.25, "log σ": math.log(0.5)},
    policy=lambda theta: Normal(theta[0] * 2 + theta[1] + theta[2], theta[3].exp()),
    outcomes=taken(1.25),
    returns=lambda action: torch.full_like(action, 3),
    objective=_log_prob_times_return,
    objective_name="log π·R",
)

T3_ONE_SAMPLE = Example(
    name="T3",
    title="linear-Gaussian, one sample, every number exact in binary",
    system=ONE_SAMPLE,
    ways=(
        # (a−μ)/σ² = 1/.25 = 4, times R = 12 = ∂b; ∂w = 12·s = (24, 12); ((a−μ)²/σ² − 1)·R = (4 − 1)·3 = 9 = ∂log σ
        Way("−log π·R", surrogate_loss, by_hand=(24.0, 12.0, 12.0, 9.0)),
    ),
    story="""\
w = (½, −1), s = (2, 1), b = ¼, so μ = 1 − 1 + ¼ = ¼; σ = ½. The policy took a = 1¼ and got R = 3.
−log π = ½((a − μ)/σ)² + ln σ + ½ ln 2π = 2 − .693147 + .918939 = 2.225791; times R: 6.677374.
∇_b log π = (a − μ)/σ² = 4, times 3 = 12; ∇_w = 12·s = (24, 12); ∇_log σ = ((a − μ)²/σ² − 1)·3 = 9.
backward() leaves the same numbers negated in .grad: w (−24, −12), b −12, log σ −9.""",
    notice="""\
No objective J here, just one sample: the finite difference is that of log π(a)·R with a and R held fixed, which is
what backward() differentiates. R > 0, so a becomes likelier: μ moves towards it, and σ grows as a lay 2σ out.""",
)

T10_SIGN = Example(
    name="T10",
    title="the sign of the loss (T1's bandit)",
    system=BANDIT,
    ways=(
        Way("−log π·R", surrogate_loss, by_hand=(-0.16,), variance=(0.5184,)),  # as in T1
        Way("+log π·R", wrong_sign, by_hand=(0.16,), variance=(0.5184,), wrong=True),  # −(−.16); squares don't see it
    ),
    story="""\
Optimisers descend: to climb J the loss must be −log π·R. With +log π·R every step lowers J.
One step of lr 1 from p = .8, J = 1.2:  right:  θ = ln 4 − .16, p = .7732, J = 1.2268
                                        wrong:  θ = ln 4 + .16, p = .8244, J = 1.1756""",
    notice="Nothing crashes; gradients have their usual size and noise. Only the returns tell, by falling.",
)

T10_BROADCAST = Example(
    name="T10",
    title="(N, 1) × (N,) broadcasts to (N, N) (T1's bandit, N = 4, averaged over the batch)",
    system=BANDIT,
    ways=(
        # The mean over 4 independent samples: the mean of T1, and its variance divided by 4: .5184/4 = .1296
        Way("−log π·R", partial(surrogate_loss, reduction="mean"), by_hand=(-0.16,), variance=(0.1296,), batch_size=4),
        # (1/N²) ΣᵢΣⱼ E[scoreᵢ·Rⱼ]: i≠j are independent and E[score] = 0, so N of N² terms remain: −.16/N = −.04
        # With k ones in the batch, u = k − 3.2: Σscore·ΣR = u(4.8 − u); binomial E[u², u³, u⁴] = .64, −.384, 1.2544
        # Var = (4.8²(.64) − 9.6(−.384) + 1.2544 − .64²) / 16² = 19.2768/256 = .0753
        Way("(N,1)×(N,)", outer_product, by_hand=(-0.04,), variance=(19.2768 / 256,), batch_size=4, wrong=True),
    ),
    story="""\
log_probs (4, 1) from a network with one output times returns (4,) is (4, 4), each with each.
A score and another sample's return are independent, and E[score] = 0, so the 12 terms off the
diagonal vanish. Expected mean of all 16: (4/16)(−.16) = −.04. (All 2⁴ batches are listed.)
surrogate_loss refuses it:
  ValueError: log_probs and returns must have one shape, got (4, 1) and (4,)""",
    notice="""\
The direction is right, so it learns: N times too slowly, and noisier for its size. Summed instead of
averaged, the mean survives (4·−.16 = −.64) and the slip hides in the variance: 19.2768 instead of 4·.5184 = 2.0736.""",
)

EXAMPLES: tuple[Example, ...] = (T1, T3, T3_ONE_SAMPLE, T10_SIGN, T10_BROADCAST)
