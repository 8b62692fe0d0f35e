"""T3: the action is a number, the policy a plain linear function of the situation plus Gaussian noise."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from pong.losses import surrogate_loss
from pong.toy.examples.losses import without_log
from pong.toy.gradients import estimates
from pong.toy.outcomes import QUADRATURE, Policy, Quadrature, taken
from pong.toy.systems import Example, Series, System, Way

ROOT_PI = math.sqrt(math.pi)

# a ~ N(μ, σ²) with μ = w·s + b; s = 2, w = ½, b = 0, σ = 1, so μ = 1; R = −(a−3)², so J = −(μ−3)² − σ² = −5.
AIM = System(
    parameters={"w": 0.5, "b": 0.0, "log σ": 0.0},
    policy=lambda theta: Normal(theta[0] * 2 + theta[1], theta[2].exp()),
    outcomes=QUADRATURE,
    returns=lambda action: -((action - 3) ** 2),
    objective=lambda theta: -((theta[0] * 2 + theta[1] - 3) ** 2) - (2 * theta[2]).exp(),
)

# ∂J/∂μ = −2(μ−3) = 4, so ∇_b = 4 and ∇_w = s·4 = 8; ∇_{log σ} J = −2σ² = −2.
# Variances, with x = a−μ ~ N(0,1), so R = −(x−2)², and E[x², x⁴, x⁶, x⁸] = 1, 3, 15, 105; odd powers vanish:
# b: E[x²(x−2)⁴] − 4² = E[x⁶ + 24x⁴ + 16x²] − 16 = 15 + 72 + 16 − 16 = 87;  w: s²·87 = 348
# log σ: E[(x²−1)²(x−2)⁴] − 2² = E[x⁸ + 22x⁶ − 31x⁴ − 8x² + 16] − 4 = 105 + 330 − 93 − 8 + 16 − 4 = 346
AIM_WAY = Way("−log π·R", surrogate_loss, by_hand=(8.0, 4.0, -2.0), variance=(348.0, 87.0, 346.0))


def two_samples() -> list[float]:
    """g_w of a learner who sampled a = 2, and of one who sampled a = 0; then their average."""
    system = System(AIM.parameters, AIM.policy, taken(2.0, 0.0), AIM.returns, AIM.objective)
    gradients, _ = estimates(system, system.theta, AIM_WAY)
    return [*gradients[:, 0].tolist(), gradients[:, 0].mean().item()]


T3 = Example(
    name="T3",
    title="a Gaussian action from a linear policy",
    teaches="no softmax: the score is (a − μ)·s/σ²",
    system=AIM,
    ways=(
        AIM_WAY,
        # E[∇π·R] = ∇ ½∫π²R da, and π² = N(μ, σ²/2) / (2σ√π), so it is ∇ of −((μ−3)² + σ²/2) / (4σ√π):
        # b: −2(μ−3) / (4√π) = 1/√π = .5642;  w: 2/√π;  log σ: −(−(μ−3)²/σ + σ/2) / (4√π) = 3.5 / (4√π)
        Way("−π·R, no log", without_log, by_hand=(2 / ROOT_PI, 1 / ROOT_PI, 3.5 / (4 * ROOT_PI)), wrong=True),
    ),
    series=(
        # 2(a − 1)·R: 2(+1)(−1), 2(−1)(−9), and (−2 + 18)/2
        Series("g_w of a = 2, of a = 0, average", (-2.0, 18.0, 8.0), two_samples),
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


class TwoSituations:
    """Linear-Gaussian policy that sees s before it acts: a ~ N(w·s + b, 1); an outcome is (s, a)."""

    def __init__(self, theta: Tensor) -> None:
        self.w, self.b = theta.unbind()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π(a|s) of rows (s, a), (K, 2) → (K,), in nats."""
        policy: Policy = Normal(self.w * value[:, 0] + self.b, torch.ones_like(value[:, 0]))
        return policy.log_prob(value[:, 1])

    def unfold(self, noise: Tensor) -> Tensor:
        """Rows (s, a), (K, 2), from noise (K, 2): the sign of a Gaussian is a fair coin."""
        s = torch.where(noise[:, 0] < 0, 1.0, 2.0).to(noise.dtype)
        return torch.stack([s, self.w * s + self.b + noise[:, 1]], dim=1)


# s = 1 or 2, equally likely; the target is 2s; w = ½, b = 0: d = μ − 2s = −1.5s.  J = −(1.5² + 3²)/2 − 1 = −6.625
CONTEXT = System(
    parameters={"w": 0.5, "b": 0.0},
    policy=TwoSituations,
    outcomes=Quadrature(TwoSituations.unfold, dimensions=2, nodes=10),
    returns=lambda outcomes: -((outcomes[:, 1] - 2 * outcomes[:, 0]) ** 2),
    objective=lambda theta: -((theta[0] + theta[1] - 2) ** 2 + (theta[0] * 2 + theta[1] - 4) ** 2) / 2 - 1,
)

T3_CONTEXT = Example(
    name="T3",
    title="the same, where the situation varies",
    teaches="one w serves every situation: ∇_w weighs by s",
    system=CONTEXT,
    ways=(
        # ∂J/∂μ = −2d = 3s.   b: (3·1 + 3·2)/2 = 4.5;  w: s times that: (3·1 + 6·2)/2 = 7.5
        # E[x²(x+d)⁴] = 15 + 18d² + d⁴: 60.5625 for d = −1.5, 258 for d = −3.
        # b: (60.5625 + 258)/2 − 4.5² = 139.03125;  w: (60.5625 + 4·258)/2 − 7.5² = 490.03125
        Way("−log π·R", surrogate_loss, by_hand=(7.5, 4.5), variance=(490.03125, 139.03125)),
    ),
    story="""\
Now s is 1 or 2, equally likely, and the target is 2s: R = −(a − 2s)². w = .5, b = 0, σ = 1.
  s = 1:  μ = .5, target 2:  −2(μ − 2) = 3, so ∇_b = 3 and ∇_w = 1·3 = 3
  s = 2:  μ = 1,  target 4:  −2(μ − 4) = 6, so ∇_b = 6 and ∇_w = 2·6 = 12
Averaged: ∇_b J = 4.5, ∇_w J = 7.5.""",
    notice="""\
Nothing in the loss knows how often a situation comes: sampling takes care of it. In Pong s is a picture and w·s a
network, and this is all that changes.""",
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


def one_loss() -> list[float]:
    """The value of the surrogate loss on the one sample."""
    action = torch.tensor([1.25], dtype=torch.float64)
    log_prob = ONE_SAMPLE.policy(ONE_SAMPLE.theta).log_prob(action)
    return [surrogate_loss(log_prob, ONE_SAMPLE.returns(action)).item()]


T3_ONE_SAMPLE = Example(
    name="T3",
    title="the same, one sample, exact in binary",
    teaches="what backward() leaves in .grad",
    system=ONE_SAMPLE,
    ways=(
        # (a−μ)/σ² = 1/.25 = 4, times R = 12 = ∂b; ∂w = 12·s = (24, 12); ((a−μ)²/σ² − 1)·R = (4 − 1)·3 = 9 = ∂log σ
        # There is only one outcome, so nothing varies.
        Way("−log π·R", surrogate_loss, by_hand=(24.0, 12.0, 12.0, 9.0), variance=(0.0, 0.0, 0.0, 0.0)),
    ),
    series=(
        # 3(½·2² + ln ½ + ½ ln 2π) = 3(2 − .693147 + .918939)
        Series("loss", (3 * (2 - math.log(2) + math.log(2 * math.pi) / 2),), one_loss),
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
