"""T10: what learners get wrong in the loss; each was seen in public questions or bug reports."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from pong.losses import surrogate_loss
from pong.toy.examples.bandits import BANDIT, BANDIT_WAY
from pong.toy.examples.gaussian import AIM, AIM_WAY
from pong.toy.examples.losses import mean_of_steps, not_detached, outer_product, wrong_sign
from pong.toy.gradients import ascend
from pong.toy.outcomes import Listed, Policy, Quadrature
from pong.toy.systems import Example, Series, System, Way

WRONG_SIGN = Way("+log π·R", wrong_sign, by_hand=(0.16,), variance=(0.5184,), wrong=True)  # squares don't see the sign


def after_one_step(way: Way) -> list[float]:
    """P(a=1) and J of T1's bandit after one ascent step of lr 1."""
    theta = ascend(BANDIT, way, 1.0, 1)[-1]
    return [theta[0].sigmoid().item(), BANDIT.objective(theta).item()]


SIGN = Example(
    name="T10",
    title="the sign of the loss (T1's bandit)",
    teaches="nothing crashes, only the returns fall",
    system=BANDIT,
    ways=(BANDIT_WAY, WRONG_SIGN),
    series=(
        # θ = ln 4 − .16 = 1.2263: p = 1/(1 + e^−1.2263) = .7732, J = 2 − p;  θ = ln 4 + .16 = 1.5463
        Series("p and J after one step: −log π·R", (0.7732, 1.2268), lambda: after_one_step(BANDIT_WAY), digits=4),
        Series("+log π·R", (0.8244, 1.1756), lambda: after_one_step(WRONG_SIGN), digits=4, wrong=True),
    ),
    story="""\
Optimisers descend: to climb J the loss must be −log π·R. With +log π·R every step lowers J.
One step of lr 1 from p = .8, J = 1.2:  right:  θ = ln 4 − .16, p = .7732, J = 1.2268
                                        wrong:  θ = ln 4 + .16, p = .8244, J = 1.1756""",
    notice="Nothing crashes; gradients have their usual size and noise. Only the returns tell, by falling.",
)

BROADCAST = Example(
    name="T10",
    title="(N, 1) × (N,) is (N, N) (T1's bandit, N = 4)",
    teaches="learns N times too slowly, and silently",
    system=BANDIT,
    ways=(
        # The mean over 4 independent samples: the mean of T1, and its variance divided by 4: .5184/4 = .1296
        Way("−log π·R, mean", partial(surrogate_loss, reduction="mean"), (-0.16,), (0.1296,), batch_size=4),
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
  ValueError: log_probs and returns must have the same shape, got (4, 1) and (4,)""",
    notice="""\
The direction is right, so it learns: N times too slowly, and noisier for its size. Summed instead of
averaged, the mean survives (4·−.16 = −.64) and the slip hides in the variance: 19.2768 instead of 4·.5184 = 2.0736.""",
)

LN_2PI = math.log(2 * math.pi)

ATTACHED = Example(
    name="T10",
    title="an action that stays attached to θ (T3)",
    teaches="log π(μ + σx) does not depend on μ: detach",
    system=AIM,
    ways=(
        AIM_WAY,
        # log π(μ + σx) = −x²/2 − log σ − ½ ln 2π: slope 0 in μ, so in w and b, and −1 in log σ, in every sample.
        # −E[R] = 5;  Var R = E[(x − 2)⁴] − 5² = 3 + 24 + 16 − 25 = 18
        Way("a attached", surrogate_loss, (0.0, 0.0, 5.0), (0.0, 0.0, 18.0), wrong=True, attached=True),
        # The product rule adds log π·dR: dR/dμ = −2(x − 2), dR/dlog σ = −2x(x − 2).
        # b: E[(x²/2 + ½ ln 2π)·2(x − 2)] = −2 − 2 ln 2π;  w twice that
        # log σ: 5 + E[(x² + ln 2π)(x² − 2x)] = 5 + 3 + ln 2π
        Way(
            "a and R attached",
            not_detached,
            by_hand=(-4 - 4 * LN_2PI, -2 - 2 * LN_2PI, 8 + LN_2PI),
            wrong=True,
            attached=True,
        ),
    ),
    story="""\
a = μ + σx, from rsample() or written out, depends on μ. Its log-probability does not:
  log π(μ + σx) = −x²/2 − log σ − ½ ln 2π;   slope 0 in μ, −1 in log σ, in every sample
So g_w = g_b = 0 and g_log σ = −E[R] = 5: σ grows for ever, as R is negative.
With R attached as well (no detach anywhere): ∇_b = −2 − 2 ln 2π = −5.68 instead of +4.
A sampled action is a number: sample(), or a.detach(). surrogate_loss detaches the returns itself.""",
    notice="""\
A gradient of exactly 0 in the mean's weights is the sign to look for. Attached actions belong to the pathwise
estimator (T7), whose loss is −R without any log π: mixing the two gives neither.""",
)

WITHIN = math.erf(math.sqrt(0.5))  # P(|x| < 1) = .68269
DENSITY = math.exp(-0.5) / math.sqrt(2 * math.pi)  # φ(1) = .24197
E2 = WITHIN - 2 * DENSITY  # E[x²; |x| < 1], by parts
E4 = 3 * E2 - 2 * DENSITY  # E[x⁴; |x| < 1]


def clipped_mean(theta: Tensor) -> Tensor:
    """J = E[clip(a, ±1)] = μ·P(|a| < 1) − (φ(1−μ) − φ(−1−μ)) + P(a > 1) − P(a < −1) for a ~ N(μ, 1): ()."""
    ends = torch.stack([-1 - theta[0], 1 - theta[0]])
    (below, up_to), (low, high) = torch.special.ndtr(ends), torch.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi)
    mean: Tensor = theta[0] * (up_to - below) - (high - low) + (1 - up_to) - below
    return mean


# a ~ N(0, 1), the world clips it to ±1 and pays what it got.
CLIP = System(
    parameters={"μ": 0.0},
    policy=lambda theta: Normal(theta[0], torch.ones((), dtype=torch.float64)),
    outcomes=Quadrature(kinks=(-1.0, 1.0), nodes=80),
    returns=lambda action: action.clamp(-1, 1),
    objective=clipped_mean,
)


def of_the_clipped_action(policy: Policy, actions: Tensor) -> Tensor:
    """The mistake log π(clip(a)): (K,)."""
    return policy.log_prob(actions.clamp(-1, 1))


CLIPPED = Example(
    name="T10",
    title="log π of the clipped action",
    teaches="log π of what was sampled; the world may clip it",
    system=CLIP,
    ways=(
        # E[x·clip(x)] = E[x²; |x|<1] + 2E[x; x>1] = WITHIN − 2φ(1) + 2φ(1) = WITHIN
        # E[x²clip(x)²] = E[x⁴; |x|<1] + E[x²; |x|>1] = E4 + 1 − E2
        Way("log π(a)", surrogate_loss, by_hand=(WITHIN,), variance=(E4 + 1 - E2 - WITHIN**2,)),
        # E[clip(x)²] = E2 + P(|x|>1);  E[clip(x)⁴] = E4 + P(|x|>1)
        Way(
            "log π(clip(a))",
            surrogate_loss,
            by_hand=(E2 + 1 - WITHIN,),
            variance=(E4 + 1 - WITHIN - (E2 + 1 - WITHIN) ** 2,),
            wrong=True,
            log_probs=of_the_clipped_action,
        ),
    ),
    story="""\
a ~ N(μ, 1), μ = 0; the world takes clip(a, ±1), and R is what it took. Moving μ by a little moves R
by as much wherever a is not clipped: ∇J = P(|a| < 1) = .68269.
With log π(a):        E[a·clip(a)] = .68269, right
With log π(clip(a)):  E[clip(a)²] = P(|a| < 1) − 2φ(1) + P(|a| > 1) = 1 − 2(.24197) = .51606""",
    notice="""\
π is the distribution of what was sampled. What the world makes of the action, clipping, rounding, mapping to a
button, is part of the world: the trick never asks how R comes about.""",
)


class StopOrGo:
    """Two chances to stop, P(stop) = sigmoid(θ) at each; an outcome is a row (stopped at 1st?, stopped at 2nd?)."""

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π per step, (K, 2) → (K, 2), in nats; 0 = log 1 at a second step that never came."""
        policy: Policy = Bernoulli(logits=self.theta)
        first, second = policy.log_prob(value).unbind(dim=1)
        return torch.stack([first, second * (1 - value[:, 0])], dim=1)


EPISODES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)  # stop; go, stop; go, go

# R = 1, 1, 1.5 and q = P(stop) = ½: J = q + q(1−q) + 1.5(1−q)² = .5 + .25 + .375 = 1.125
STOPPING = System(
    parameters={"θ": 0.0},
    policy=StopOrGo,
    outcomes=Listed(lambda policy: (EPISODES, policy.log_prob(EPISODES).sum(dim=1).exp())),
    returns=lambda episodes: torch.where(episodes.sum(dim=1, keepdim=True) > 0, 1.0, 1.5).double().expand(-1, 2),
    objective=lambda theta: 1 + (1 - theta[0].sigmoid()) ** 2 / 2,
)

MEAN_OF_STEPS = Example(
    name="T10",
    title="the mean over an episode instead of the sum",
    teaches="short episodes then weigh more per step",
    system=STOPPING,
    ways=(
        # score ½ for stop, −½ for go.   stop: ½·1;  go, stop: (−½ + ½)·1 = 0;  go, go: (−½ − ½)·1.5 = −1.5
        # ½(½) + ¼(0) + ¼(−1.5) = −.125;  ½(¼) + ¼(2.25) − .015625 = .671875
        Way("sum over steps", surrogate_loss, by_hand=(-0.125,), variance=(0.671875,)),
        # stop: ½;  go, stop: 0;  go, go: −.75.   ½(½) + ¼(−.75) = .0625;  ½(¼) + ¼(.5625) − .00390625
        Way("mean over steps", mean_of_steps, by_hand=(0.0625,), variance=(0.26171875,), wrong=True),
    ),
    story="""\
Stop or go on, twice, P(stop) = ½ (θ is its logit). stop: R = 1; go, stop: R = 1; go, go: R = 1.5.
Going on pays, so θ should fall. Scores: +½ for stop, −½ for go; every step is paid the episode's R:
  sum:   stop ½(1) = .5    go, stop (−½ + ½)(1) = 0    go, go (−½ − ½)(1.5) = −1.5
         ½(.5) + ¼(0) + ¼(−1.5) = −.125     right
  mean:  .5, 0, −.75:  ½(.5) + ¼(−.75) = +.0625     the wrong sign""",
    notice="""\
log P(episode) is a sum over its steps; dividing by their number favours what ends episodes soon. A mean over all steps
of a batch, as in pong.toml, divides all episodes alike and only changes the length of the step.""",
)
