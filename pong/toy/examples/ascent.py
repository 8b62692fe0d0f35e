"""T9: steps of ascent along the exact gradient, so small that each can be checked by hand."""

from torch.distributions import Bernoulli

from pong.losses import surrogate_loss
from pong.toy.examples.pathwise import aim
from pong.toy.gradients import ascend
from pong.toy.outcomes import EVERY_ACTION
from pong.toy.systems import Example, Series, System, Way

# a ~ N(μ, 1), J = −(μ−3)² − 1, ∇J = −2(μ−3) = 4; its variance 87 as in T7
AIM = aim(1.0)
AIM_WAY = Way("−log π·R", surrogate_loss, by_hand=(4.0,), variance=(87.0,))


def means(learning_rate: float, steps: int) -> list[float]:
    """μ before the first step and after each."""
    return ascend(AIM, AIM_WAY, learning_rate, steps)[:, 0].tolist()


def worths(learning_rate: float, steps: int) -> list[float]:
    """J before the first step and after each."""
    return [AIM.objective(theta).item() for theta in ascend(AIM, AIM_WAY, learning_rate, steps)]


T9 = Example(
    name="T9",
    title="steps of ascent: the learning rate",
    teaches="¼ creeps, ½ arrives, 1 swings, 1.1 flies off",
    system=AIM,
    ways=(AIM_WAY,),
    series=(
        # The distance to 3 is multiplied by 1 − 2·lr a step: ½, 0, −1, −1.2
        Series("lr ¼: μ", (1.0, 2.0, 2.5, 2.75), lambda: means(0.25, 3)),
        Series("lr ¼: J", (-5.0, -2.0, -1.25, -1.0625), lambda: worths(0.25, 3)),
        Series("lr ½: μ", (1.0, 3.0, 3.0), lambda: means(0.5, 2)),
        Series("lr 1: μ", (1.0, 5.0, 1.0, 5.0), lambda: means(1.0, 3)),
        Series("lr 1.1: μ", (1.0, 5.4, 0.12, 6.456), lambda: means(1.1, 3)),
    ),
    story="""\
T3 with μ alone: J = −(μ − 3)² − 1, from μ = 1, J = −5. ∇J = −2(μ − 3), so a step of θ ← θ + lr·∇J
multiplies the distance to 3 by 1 − 2·lr:
  lr ¼:    ½    μ = 1, 2, 2.5, 2.75, …   J = −5, −2, −1.25, −1.0625, …  up to −1, the noise of σ = 1
  lr ½:    0    μ = 1, 3: there in one step
  lr 1:   −1    μ = 1, 5, 1, 5, … for ever
  lr 1.1: −1.2  μ = 1, 5.4, .12, 6.456, … further off with every step""",
    notice="""\
The steps follow the expected gradient; a learner's have noise on top (standard deviation √87 = 9.3 on a mean of 4). J
never reaches 0, as the policy keeps σ = 1: exploring costs 1.""",
)

# Two arms: a = 1 pays 1, a = 0 nothing; p = sigmoid(0) = ½ and J = p.
COIN = System(
    parameters={"θ": 0.0},
    policy=lambda theta: Bernoulli(logits=theta[0]),
    outcomes=EVERY_ACTION,
    returns=lambda action: action,
    objective=lambda theta: theta[0].sigmoid(),
)

# score ½ when paid: ½(½)(1) = ¼ = p(1−p);  Var = ½(½)² − (¼)² = .0625
COIN_WAY = Way("−log π·R", surrogate_loss, by_hand=(0.25,), variance=(0.0625,))

T9_COIN = Example(
    name="T9",
    title="steps of ascent: a bandit with R = (1, 0)",
    teaches="the surer the policy, the shorter its steps",
    system=COIN,
    ways=(COIN_WAY,),
    series=(
        # θ = 0, .25, .25 + .5622(.4378) = .49613, .49613 + .6216(.3784) = .73134
        Series(
            "lr 1: p",
            (0.5, 0.5622, 0.6216, 0.6751),
            lambda: ascend(COIN, COIN_WAY, 1.0, 3)[:, 0].sigmoid().tolist(),
            digits=4,
        ),
    ),
    story="""\
a=1 pays 1, a=0 pays 0; θ = 0, so p = ½ = J and ∇J = p(1 − p) = ¼. Steps of lr 1:
  θ = 0     p = .5      θ + .5(.5)       = .25
  θ = .25   p = .5622   .25 + .5622(.4378) = .4961
  θ = .4961 p = .6216   .4961 + .6216(.3784) = .7313,  p = .6751""",
    notice="""\
A gradient of p(1 − p) is small where p is near 1, and as small where p is near 0: a bad policy that is sure of itself
learns slowly. That is what an entropy bonus is for.""",
)
