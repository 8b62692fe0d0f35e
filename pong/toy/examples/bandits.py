"""T1 and T2: a few arms to choose from, one choice, one reward.

The numbers under ``by_hand`` come from the arithmetic in the comment above them, never from autograd.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from pong.losses import surrogate_loss
from pong.toy.examples.losses import drawn_again, without_log
from pong.toy.gradients import ascend, estimates
from pong.toy.outcomes import EVERY_ACTION, Policy
from pong.toy.systems import Example, Series, System, Way

# Two arms: a = 1 pays 1, a = 0 pays 2; P(a=1) = p = sigmoid(θ), θ = ln 4, so p = .8 and J = p + 2(1−p) = 1.2.
BANDIT = System(
    parameters={"θ": math.log(4)},
    policy=lambda theta: Bernoulli(logits=theta[0]),
    outcomes=EVERY_ACTION,
    returns=lambda action: 2 - action,
    objective=lambda theta: 2 - theta[0].sigmoid(),
)

# score = a − p: +.2 for a=1, −.8 for a=0.   E[score·R] = .8(.2)(1) + .2(−.8)(2) = .16 − .32 = −.16
# E[(score·R)²] − mean² = .8(.2)² + .2(−1.6)² − .16² = .032 + .512 − .0256 = .5184
BANDIT_WAY = Way("−log π·R", surrogate_loss, by_hand=(-0.16,), variance=(0.5184,))

# ∇π = ±p(1−p) = ±.16.   E[∇π·R] = .8(.16)(1) + .2(−.16)(2) = .128 − .064 = +.064
# E[(∇π·R)²] − mean² = .8(.16)² + .2(.32)² − .064² = .02048 + .02048 − .004096 = .036864
BANDIT_WITHOUT_LOG = Way("−π·R, no log", without_log, by_hand=(0.064,), variance=(0.036864,), wrong=True)


def chances(way: Way, steps: int) -> list[float]:
    """P(a=1) of T1's bandit after this many ascent steps of lr 1 along the expected gradient."""
    return [ascend(BANDIT, way, 1.0, steps)[-1, 0].sigmoid().item()]


T1 = Example(
    name="T1",
    title="a bandit: dropping the log flips the sign",
    teaches="∇log π = ∇π/π: the log divides a second π out",
    system=BANDIT,
    ways=(BANDIT_WAY, BANDIT_WITHOUT_LOG),
    series=(
        # θ grows by −p(1−p) a step: slowly away from p = .8, fast through ½, ever slower towards 0
        Series("p after 50 steps, with the log", (0.0262,), lambda: chances(BANDIT_WAY, 50), digits=4),
        # θ grows by p(1−p)(p − 2(1−p)) = p(1−p)(3p − 2) a step, positive above p = ⅔
        Series("without it", (0.975,), lambda: chances(BANDIT_WITHOUT_LOG, 50), digits=3, wrong=True),
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

# Three arms, π = softmax(0, ln 2, ln 3) = (1, 2, 3)/6, R = (6, 3, 0), so J = 6/6 + 2·3/6 = 2.
REWARDS = torch.tensor([6.0, 3.0, 0.0], dtype=torch.float64)
SOFTMAX = System(
    parameters={"θ₁": 0.0, "θ₂": math.log(2), "θ₃": math.log(3)},
    policy=lambda theta: Categorical(logits=theta),
    outcomes=EVERY_ACTION,
    returns=lambda action: REWARDS[action],
    objective=lambda theta: (theta.exp() * REWARDS).sum() / theta.exp().sum(),
)


def greedy(policy: Policy, actions: Tensor) -> Tensor:
    """The mistake log π of the likeliest action, whatever was played: (K,)."""
    likeliest = policy.log_prob(torch.arange(len(REWARDS))).argmax()
    return policy.log_prob(likeliest.expand_as(actions))


# score when arm i was played: 1[i=j] − πⱼ.   ∇ⱼJ = πⱼ(Rⱼ − J) = (1/6·4, 1/3·1, ½·−2) = (2/3, 1/3, −1)
# Var = Σᵢ πᵢ(scoreᵢⱼ·Rᵢ)² − mean²:  j=1: 1/6(5/6·6)² + 1/3(−1/6·3)² − 4/9 = 25/6 + 1/12 − 4/9 = 137/36
# j=2: 1/6(−1/3·6)² + 1/3(2/3·3)² − 1/9 = 2 − 1/9 = 17/9;  j=3: 1/6(−½·6)² + 1/3(−½·3)² − 1 = 9/4 − 1 = 5/4
SOFTMAX_MEAN = (2 / 3, 1 / 3, -1.0)
SOFTMAX_WAY = Way("−log π·R", surrogate_loss, by_hand=SOFTMAX_MEAN, variance=(137 / 36, 17 / 9, 5 / 4))


def middle_arm() -> list[float]:
    """The estimate of a learner who sampled the middle arm, (3,)."""
    gradients, _ = estimates(SOFTMAX, SOFTMAX.theta, SOFTMAX_WAY)
    return [float(number) for number in gradients[1]]


def after_one_step() -> list[float]:
    """J before and after one ascent step of lr ½."""
    return [SOFTMAX.objective(theta).item() for theta in ascend(SOFTMAX, SOFTMAX_WAY, 0.5, 1)]


T2 = Example(
    name="T2",
    title="softmax over three arms",
    teaches="log π of the action that was played, of no other",
    system=SOFTMAX,
    ways=(
        SOFTMAX_WAY,
        # R − 2 = (4, 1, −2).   j=1: 1/6(5/6·4)² + 1/3(−1/6·1)² + ½(−1/6·−2)² − 4/9 = 23/12 − 4/9 = 53/36
        # j=2: 1/6(−1/3·4)² + 1/3(2/3·1)² + ½(−1/3·−2)² − 1/9 = 5/9;  j=3: 1/6(2)² + 1/3(½)² + ½(1)² − 1 = 1/4
        Way(
            "R − J",
            surrogate_loss,
            by_hand=SOFTMAX_MEAN,
            variance=(53 / 36, 5 / 9, 1 / 4),
            returns=lambda action: REWARDS[action] - 2,
        ),
        # |score|² when arm i was played: 1 − 2πᵢ + Σπ² = (38, 26, 14)/36; its mean is (38 + 2·26 + 3·14)/216 = 132/216.
        # The sum of the variances, E[|score|²(R − b)²] − |∇J|², is least at b = E[|score|²R] / E[|score|²]
        # = (38·6 + 2·26·3)/132 = 384/132 = 32/11.   R − b = (34, 1, −32)/11, then as above
        Way(
            "R − 32/11, best b",
            surrogate_loss,
            by_hand=SOFTMAX_MEAN,
            variance=(377 / 484, 65 / 121, 221 / 484),
            returns=lambda action: REWARDS[action] - 32 / 11,
        ),
        # The other action is independent of R, and E[score] = 0: mean 0·E[R] = 0,
        # variance E[scoreⱼ²]·E[R²] = πⱼ(1−πⱼ)·(1/6·36 + 1/3·9) = (5/36, 2/9, 1/4)·9
        Way("log π of a new draw", drawn_again, (0.0, 0.0, 0.0), (1.25, 2.0, 2.25), batch_size=2, wrong=True),
        # Always the score of arm 3, (−1/6, −1/3, ½), times E[R] = 2; its square times Var R = 9 − 4 = 5
        Way(
            "log π of greedy arm",
            surrogate_loss,
            by_hand=(-1 / 3, -2 / 3, 1.0),
            variance=(5 / 36, 5 / 9, 5 / 4),
            wrong=True,
            log_probs=greedy,
        ),
    ),
    series=(
        # score (−1/6, 1 − 1/3, −1/2), times R = 3
        Series("middle arm played: estimate", (-0.5, 2.0, -1.5), middle_arm),
        # θ + ½(2/3, 1/3, −1): eᶿ = (1, 2, 3)·(e^⅓, e^⅙, e^−½) = (1.395612, 2.362721, 1.819592), sum 5.577925;
        # J = (6·1.395612 + 3·2.362721)/5.577925
        Series("J, and after a step of lr ½", (2.0, 2.771969), after_one_step, digits=6),
    ),
    story="""\
Arms 1, 2, 3 pay R = (6, 3, 0); π = softmax(0, ln 2, ln 3) = (1/6, 1/3, 1/2), so J = 6/6 + 3/3 = 2.
By hand ∇J = π(R − J) = (1/6·4, 1/3·1, 1/2·−2) = (2/3, 1/3, −1).
The score is 1 − π at the arm that was played, −π at the others. The middle arm was played, R = 3:
  score (−1/6, 2/3, −1/2), times 3 = (−.5, 2, −1.5)
Less a baseline b, R − b, the mean stays and the sum of the three variances falls:
  b = 0: 6.9444    b = J = 2: 2.2778    the best b, 32/11 = 2.909: 1.7727
Two mistakes: the loss draws an action of its own, or takes log π of the likeliest (arm 3):
  E[score]·E[R] = 0·2: learns nothing     (−1/6, −1/3, 1/2)·2 = (−1/3, −2/3, 1): towards arm 3""",
    notice="""\
Arm 3 pays nothing, so it is never the one whose sample moves θ, and yet its logit falls: whatever raises the others
lowers it. The greedy mistake has each sign wrong: it makes the likeliest arm likelier whatever it pays.""",
)
