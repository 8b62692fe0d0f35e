"""T4 and T5: what may be subtracted from the returns, what may not, and why: the score has mean zero.

Source: Williams 1992 (see ``pong.losses``), who calls it the reinforcement baseline; the numbers are ours.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from pong.losses import surrogate_loss
from pong.toy.examples.bandits import BANDIT, BANDIT_WAY
from pong.toy.examples.losses import less_batch_mean, less_mean_of_others, standardized
from pong.toy.outcomes import EVERY_ACTION, QUADRATURE
from pong.toy.systems import Example, System, Way


def constant(label: str, baseline: float, variance: float) -> Way:
    """T1's bandit, paid R − b: E[score·b] = 0, so the mean stays −.16."""
    return Way(label, surrogate_loss, (-0.16,), (variance,), returns=lambda action: 2 - action - baseline)


T4_CONSTANT = Example(
    name="T4",
    title="a constant baseline (T1's bandit)",
    teaches="any constant keeps the mean; a good one is calm",
    system=BANDIT,
    ways=(
        # a=1: .2(1 − b), a=0: −.8(2 − b).   Var = .8(.04)(1−b)² + .2(.64)(2−b)² − .0256
        # = .032(1−b)² + .128(2−b)² − .0256 = .16b² − .576b + .5184 = .16(b − 1.8)²
        constant("b = 0", 0.0, 0.5184),
        constant("b = J = 1.2", 1.2, 0.0576),
        constant("b = 1.8", 1.8, 0.0),
        constant("b = 10", 10.0, 10.7584),
    ),
    story="""\
Pay R − b instead of R. The extra term is −b·E[score], and E[score] = .8(.2) + .2(−.8) = 0:
  b = 1.2:  .8(.2)(−.2) + .2(−.8)(.8) = −.032 − .128 = −.16,  as without a baseline
The noise does change: Var = .8(.2(1 − b))² + .2(.8(2 − b))² − .16² = .16(b − 1.8)²
  b = 0: .5184    b = J = 1.2: .0576    b = 1.8: 0    b = 10: 10.7584""",
    notice="""\
The mean return J makes the variance 9 times smaller here. The best b is not J but the mean of R weighted by the
squared score, (.8·.04·1 + .2·.64·2)/.16 = 1.8; with two arms it takes all the noise away: either sample says −.16.""",
)

# Divided by its std, a batch of 8 with k ones gives −√(k(8−k))/8; averaged over the binomial distribution of k.
STANDARDIZED_8 = -sum(math.comb(8, k) * 0.8**k * 0.2 ** (8 - k) * math.sqrt(k * (8 - k)) / 8 for k in range(9))

T4_LEAKED = Example(
    name="T4",
    title="baselines that know the action (T1's bandit)",
    teaches="a baseline must not depend on the action it judges",
    system=BANDIT,
    ways=(
        BANDIT_WAY,
        # k of the N = 2 actions are 1. Less the other's return, ½Σ score·(Rᵢ − Rⱼ) = 0 for k = 0 and 2; for k = 1:
        # ½(.2(1 − 2) + (−.8)(2 − 1)) = −½, with probability .32.   −.5(.32) = −.16;  .25(.32) − .0256 = .0544
        Way("mean of the others", less_mean_of_others, (-0.16,), (0.0544,), batch_size=2),
        # Less the mean of both, half as much: −¼ for k = 1.   −.25(.32) = −.08;  .0625(.32) − .0064 = .0136
        Way("batch mean, N = 2", less_batch_mean, (-0.08,), (0.0136,), batch_size=2, wrong=True),
        # With N = 3: −k(3−k)/9 = −2/9 for k = 1 (probability .096) and 2 (.384): −2/9(.48) = −.16·⅔
        Way("batch mean, N = 3", less_batch_mean, (-0.32 / 3,), (4 / 81 * 0.48 * 0.52,), batch_size=3, wrong=True),
        # (R − mean)/std is −√((N−k)/k) for a=1 and √(k/(N−k)) for a=0, so the estimate is −√(k(N−k))/N.
        # N = 3: −√2/3(.096 + .384) = −.16√2 = −.2263;  Var = (N−1)/N·.16 − mean² = .106667 − .0512
        Way(
            "batch mean, std, N = 3",
            standardized,
            by_hand=(-0.16 * math.sqrt(2),),
            variance=(0.32 / 3 - 0.0512,),
            batch_size=3,
            wrong=True,
        ),
        # N = 8: Var = 7/8·.16 − mean²
        Way(
            "batch mean, std, N = 8",
            standardized,
            by_hand=(STANDARDIZED_8,),
            variance=(0.14 - STANDARDIZED_8**2,),
            batch_size=8,
            wrong=True,
        ),
        # b = 1[a=1]: R − b is 0 for a=1 and 2 for a=0.   .2(−.8)(2) = −.32;  .2(−1.6)² − .32² = .4096
        Way("b = 1[a=1]", surrogate_loss, (-0.32,), (0.4096,), wrong=True, returns=lambda a: 2 - a - a),
    ),
    story="""\
E[score·b] = 0 needs a b that knows nothing of the action. A batch's mean contains its own return:
  N = 2, one of each arm (probability 2·.8·.2 = .32), R = 1 and 2, mean 1.5:
  ½(.2(1 − 1.5) + (−.8)(2 − 1.5)) = −.25; two equal actions give 0
  −.25(.32) = −.08, half of −.16; in general (N − 1)/N of it
The mean of the others ("leave one out"): ½(.2(1 − 2) + (−.8)(2 − 1)) = −.5; −.5(.32) = −.16, exact.
Divided by the batch's deviation too: −.2263 (N = 3), −.3371 (N = 8), on the way to −.16/.4 = −.4.
A baseline that looks at the action, b = 1[a=1]: .8(.2)(0) + .2(−.8)(2) = −.32.""",
    notice="""\
Here the batch's mean and deviation change the length of the step, not its direction, and the mean's factor goes to 1 as
N grows: in a Pong batch of thousands they do little harm. A baseline that sees the action has no such excuse.""",
)


def one(outcomes: Tensor) -> Tensor:
    """Reward 1 whatever happens, (K,)."""
    return torch.ones(len(outcomes), dtype=torch.float64)


# With R = 1 the estimate is the score itself: its mean is ∇ of J = 1, and its variance is the Fisher information.
ONE_BERNOULLI = System(
    parameters={"θ": math.log(4)},
    policy=lambda theta: Bernoulli(logits=theta[0]),
    outcomes=EVERY_ACTION,
    returns=one,
    objective=lambda theta: torch.ones((), dtype=torch.float64),
)
ONE_GAUSSIAN = System(
    parameters={"μ": 1.0, "log σ": math.log(0.5)},
    policy=lambda theta: Normal(theta[0], theta[1].exp()),
    outcomes=QUADRATURE,
    returns=one,
    objective=lambda theta: torch.ones((), dtype=torch.float64),
)

T5_BERNOULLI = Example(
    name="T5",
    title="the score has mean zero: two arms",
    teaches="pay 1 for everything: nothing to learn, only noise",
    system=ONE_BERNOULLI,
    ways=(
        # .8(.2) + .2(−.8) = 0;   .8(.2)² + .2(.8)² = .032 + .128 = .16 = p(1−p)
        Way("−log π·1", surrogate_loss, by_hand=(0.0,), variance=(0.16,)),
    ),
    story="""\
Pay every action R = 1. J = 1 whatever θ is, so ∇J = 0, and the estimate is the score alone:
  E[score] = .8(.2) + .2(−.8) = .16 − .16 = 0, because Σ∇π = ∇Σπ = ∇1 = 0
Its variance is the Fisher information: .8(.2)² + .2(.8)² = .032 + .128 = .16 = p(1 − p)""",
    notice="""\
A score that averages to nothing is why a constant may be subtracted from the returns, why the rewards of the past
drop out, and why a batch of equal returns teaches nothing at all.""",
)

T5_GAUSSIAN = Example(
    name="T5",
    title="the score has mean zero: a Gaussian",
    teaches="Fisher information: 1/σ² for μ, 2 for log σ",
    system=ONE_GAUSSIAN,
    ways=(
        # With x = (a−μ)/σ the scores are x/σ and x² − 1; E[x²] = 1, E[x⁴] = 3:
        # means 0, variances 1/σ² = 4 and 3 − 2 + 1 = 2
        Way("−log π·1", surrogate_loss, by_hand=(0.0, 0.0), variance=(4.0, 2.0)),
    ),
    story="""\
a ~ N(μ, σ²), σ = ½. With x = (a − μ)/σ the scores are x/σ for μ and x² − 1 for log σ.
E[x] = 0 and E[x²] = 1, so both means are 0.
Their variances are the Fisher information:
  μ:  E[x²]/σ² = 1/σ² = 4      log σ:  E[x⁴] − 2E[x²] + 1 = 3 − 2 + 1 = 2""",
    notice="The narrower the policy, the larger the score of μ: 1/σ² grows without end. T7 shows what that costs.",
)
