"""T7: two ways to a gradient through a random action: the score function, and the derivative of the action itself.

Source: Mohamed, Rosca, Figurnov, Mnih 2020, "Monte Carlo Gradient Estimation in Machine Learning",
https://arxiv.org/abs/1906.10652, which compares them on cost functions such as these.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from pong.losses import surrogate_loss
from pong.toy.examples.losses import through_the_sample
from pong.toy.outcomes import QUADRATURE, Quadrature
from pong.toy.systems import Example, System, Way


def aim(sigma: float) -> System:
    """T3 with μ alone: a ~ N(μ, σ²), μ = 1, R = −(a−3)², so J = −(μ−3)² − σ²."""
    return System(
        parameters={"μ": 1.0},
        policy=lambda theta: Normal(theta[0], torch.tensor(sigma, dtype=torch.float64)),
        outcomes=QUADRATURE,
        returns=lambda action: -((action - 3) ** 2),
        objective=lambda theta: -((theta[0] - 3) ** 2) - sigma**2,
    )


def less(baseline: float, label: str, variance: float) -> Way:
    """The score function with R − b for ``aim``; the mean is −2d = 4 whatever b is."""
    return Way(label, surrogate_loss, (4.0,), (variance,), returns=lambda action: -((action - 3) ** 2) - baseline)


def ways(sigma: float) -> tuple[Way, ...]:
    """Four ways to the same gradient, −2d, for d = μ − 3 = −2.

    With a = μ + σx, R = −(d + σx)², the score is x/σ and E[x², x⁴, x⁶] = 1, 3, 15; odd powers vanish.
    Score: Var = E[x²(d + σx)⁴]/σ² − 4d² = d⁴/σ² + 18d² + 15σ² − 4d² = d⁴/σ² + 14d² + 15σ².
    Less b: add 2b·E[x²(d + σx)²]/σ² + b²/σ² = 2b(d² + 3σ²)/σ² + b²/σ², least at b = −(d² + 3σ²).
    Pathwise: dR/dμ = −2(d + σx), so the mean is −2d at once, and Var = 4σ².
    """
    d2, s2 = 4.0, sigma**2
    return (
        Way("score", surrogate_loss, (4.0,), (d2**2 / s2 + 14 * d2 + 15 * s2,)),
        less(-(d2 + s2), "score, b = J", 8 * d2 + 10 * s2),
        less(-(d2 + 3 * s2), "score, best b", 8 * d2 + 6 * s2),
        Way("pathwise", through_the_sample, (4.0,), (4 * s2,), attached=True),
    )


T7 = Example(
    name="T7",
    title="score function or pathwise, σ = 1",
    teaches="both are right; pathwise has less noise",
    system=aim(1.0),
    ways=ways(1.0),
    story="""\
a = μ + σx with x ~ N(0, 1); μ = 1, σ = 1, R = −(a − 3)², d = μ − 3 = −2. ∇_μ J = −2d = 4.
Score function: x/σ·R. It needs R's value only.   Var = d⁴/σ² + 14d² + 15σ² = 16 + 56 + 15 = 87
  less b = J = −5:                                Var = 8d² + 10σ² = 32 + 10 = 42
  less the best b, −(d² + 3σ²) = −7:              Var = 8d² + 6σ² = 32 + 6 = 38
Pathwise: dR/da·da/dμ = −2(a − 3). It needs R's derivative.  Mean −2d = 4, Var = 4σ² = 4""",
    notice="""\
The pathwise loss is −R(a) with a = μ + σx left attached to μ, and no log π in it. Twenty times less noise; but Pong's
emulator has no derivative to give, and the last example of T7 shows an R whose derivative lies.""",
)

T7_NARROW = Example(
    name="T7",
    title="score function or pathwise, σ = .1",
    teaches="without a baseline a narrow policy drowns in noise",
    system=aim(0.1),
    ways=ways(0.1),
    story="""\
The same with σ = .1:   score d⁴/σ² + 14d² + 15σ² = 1600 + 56 + .15 = 1656.15
  b = J: 32 + .1 = 32.1     best b: 32 + .06 = 32.06     pathwise: 4(.01) = .04
The score is x/σ: ten times larger. The signal, how R changes over σ, is ten times smaller.""",
    notice="""\
A baseline takes away the d⁴/σ², nothing takes away the 8d²; pathwise goes to 0 with σ. As a policy makes up its mind,
the score function's noise stays.""",
)

DENSITY = math.exp(-0.5) / math.sqrt(2 * math.pi)  # φ(1) = .24197
TAIL = math.erfc(math.sqrt(0.5)) / 2  # 1 − Φ(1) = .15866


def beyond(action: Tensor) -> Tensor:
    """R = 1[a > 2] as autograd sees it: flat on both sides, slope 0 everywhere."""
    return (1 + torch.sign(action - 2)) / 2


# a ~ N(1, 1), R = 1[a > 2], so J = P(a > 2) = 1 − Φ(2 − μ); the step lies one σ above μ.
STEP = System(
    parameters={"μ": 1.0},
    policy=lambda theta: Normal(theta[0], torch.ones((), dtype=torch.float64)),
    outcomes=Quadrature(kinks=(1.0,), nodes=80),
    returns=beyond,
    objective=lambda theta: torch.special.erfc((2 - theta[0]) / math.sqrt(2)) / 2,
)

T7_STEP = Example(
    name="T7",
    title="a reward with a step: won or lost",
    teaches="pathwise sees slope 0 and learns nothing",
    system=STEP,
    ways=(
        # ∂J/∂μ = φ(2 − μ) = φ(1).   E[x·1[x>1]] = φ(1);  E[x²·1[x>1]] = 1·φ(1) + 1 − Φ(1), by parts
        Way("score", surrogate_loss, by_hand=(DENSITY,), variance=(DENSITY + TAIL - DENSITY**2,)),
        # dR/da = 0 wherever it exists
        Way("pathwise", through_the_sample, by_hand=(0.0,), variance=(0.0,), wrong=True, attached=True),
    ),
    story="""\
a ~ N(1, 1), R = 1 if a > 2, else 0. J = P(a > 2) = 1 − Φ(1) = .15866; ∇_μ J = φ(1) = .24197.
Score function: E[(a − 1)·1[a > 2]] = φ(1), exact; Var = φ(1) + 1 − Φ(1) − φ(1)² = .3421
Pathwise: R is flat on either side of 2, its derivative is 0 in every sample. Mean 0, variance 0.""",
    notice="""\
The pathwise estimate has no noise at all and is wrong: the whole gradient sits in the jump, which no sample hits. A
point won or lost is such a reward. The log-derivative trick differentiates π, which is smooth, and leaves R alone.""",
)
