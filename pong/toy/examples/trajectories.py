"""T6 and T8: episodes of two steps. An outcome is a whole trajectory; log-probabilities and returns are per step."""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from pong.losses import surrogate_loss
from pong.returns import discounted_returns
from pong.toy.examples.losses import through_the_sample
from pong.toy.gradients import estimates
from pong.toy.outcomes import Listed, Policy, Quadrature
from pong.toy.systems import Example, Series, System, Way


class TwoSteps:
    """T6's policy: a logit for the start, one for state A, one for B. An outcome is a row (a₀, in A?, a₁)."""

    def __init__(self, theta: Tensor) -> None:
        self.start, self.a, self.b = theta.unbind()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π of both actions of the trajectories, (K, 3) → (K, 2), in nats."""
        first, in_a, second = value.unbind(dim=1)
        logits = torch.where(in_a == 1, self.a, self.b)
        steps: Policy = Bernoulli(logits=torch.stack([self.start.expand_as(logits), logits], dim=1))  # (K, 2)
        return steps.log_prob(torch.stack([first, second], dim=1))


def all_eight(policy: TwoSteps) -> tuple[Tensor, Tensor]:
    """The trajectories, (8, 3), and P(τ) = π(a₀)·P(s|a₀)·π(a₁|s), (8,); P(A|a₀) = ¼ + ½a₀."""
    rows = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    first, in_a, _ = rows.unbind(dim=1)
    to_a = 0.25 + 0.5 * first
    return rows, policy.log_prob(rows).sum(dim=1).exp() * torch.where(in_a == 1, to_a, 1 - to_a)


def rewards(trajectories: Tensor) -> Tensor:
    """r₁ = a₀; r₂ = 2 for a₁ = 1 in A, 4 for a₁ = 0 in B, else 0: (K, 2)."""
    first, in_a, second = trajectories.unbind(dim=1)
    return torch.stack([first, 2 * in_a * second + 4 * (1 - in_a) * (1 - second)], dim=1)


def reward_to_go(trajectories: Tensor, gamma: float = 1.0) -> Tensor:
    """Gₜ, what came from step t on, (K, 2)."""
    return discounted_returns(rewards(trajectories).T, gamma).T  # it wants time first


def whole(trajectories: Tensor) -> Tensor:
    """R(τ), everything, at each of the steps, (K, 2)."""
    return rewards(trajectories).sum(dim=1, keepdim=True).expand(-1, 2)


def less_value(trajectories: Tensor) -> Tensor:
    """Gₜ − V(sₜ), with V = 2.3 at the start, 1.6 in A and 2 in B: (K, 2)."""
    in_a = trajectories[:, 1]
    return reward_to_go(trajectories) - torch.stack([torch.full_like(in_a, 2.3), 2 - 0.4 * in_a], dim=1)


def value_of_start(theta: Tensor, gamma: float = 1.0) -> Tensor:
    """J = p₀(1 + γ(¾V_A + ¼V_B)) + (1 − p₀)·γ(¼V_A + ¾V_B), V_A = 2p_A, V_B = 4(1 − p_B): ()."""
    p0, a, b = theta.sigmoid().unbind()
    value_a, value_b = 2 * a, 4 * (1 - b)
    return p0 * (1 + gamma * (3 * value_a + value_b) / 4) + (1 - p0) * gamma * (value_a + 3 * value_b) / 4


# p₀ = ½, p_A = .8, p_B = ½, so V_A = 1.6, V_B = 2 and J = ½(1 + 1.2 + .5) + ½(.4 + 1.5) = ½·2.7 + ½·1.9 = 2.3
TWO_STEPS = System(
    parameters={"θ₀": 0.0, "θ_A": math.log(4), "θ_B": 0.0},
    policy=TwoSteps,
    outcomes=Listed(all_eight),
    returns=whole,
    objective=value_of_start,
)

# ∇J: ¼(2.7 − 1.9) = .2;  A is met with probability ½: ½·.16·2 = .16;  B: ½·.25·(−4) = −.5
# Variances; E[R²] = ½(.75(.8·3² + .2·1²) + .25(.5·5² + .5·1²)) + ½(.25(.8·2²) + .75(.5·4²)) = ½·8.8 + ½·6.8 = 7.8
# Full return.  θ₀: ¼·7.8 − .04 = 1.91;  θ_A: .375(.8(.2·3)² + .2(.8·1)²) + .125(.8(.2·2)²) − .0256 = .1464
#               θ_B: .125(.5(.5·5)² + .5(.5·1)²) + .375(.5(.5·4)²) − .25 = .40625 + .75 − .25 = .90625
# Reward-to-go. θ₀ as before;  θ_A: ½(.8(.2·2)²) − .0256 = .0384;  θ_B: ½(.5(.5·4)²) − .25 = .75
# Less V.       θ₀: ¼(7.8 − 2.3²) − .04 = .5875;  θ_A: ½(.8(.2·.4)² + .2(.8·1.6)²) − .0256 = .1408
#               θ_B: ½(.5(.5·2)² + .5(.5·2)²) − .25 = .25
SLOPE = (0.2, 0.16, -0.5)
WHOLE = Way("whole return", surrogate_loss, SLOPE, (1.91, 0.1464, 0.90625))
TO_GO = Way("reward-to-go", surrogate_loss, SLOPE, (1.91, 0.0384, 0.75), returns=reward_to_go)


def of_the_past(trajectories: Tensor) -> Tensor:
    """The second step is paid the first reward, the first nothing: (K, 2)."""
    first = rewards(trajectories)[:, 0]
    return torch.stack([torch.zeros_like(first), first], dim=1)


def one_trajectory(way: Way) -> list[float]:
    """Probability of (a₀ = 1, B, a₁ = 0), and the estimate it gives."""
    gradients, weights = estimates(TWO_STEPS, TWO_STEPS.theta, way)
    return [weights[4].item(), *gradients[4].tolist()]  # 4 is 100 in binary


def paid_for_the_past() -> list[float]:
    """Mean of score₁·r₁, (3,)."""
    gradients, weights = estimates(TWO_STEPS, TWO_STEPS.theta, Way("", surrogate_loss, (), returns=of_the_past))
    return (weights @ gradients).tolist()


T6 = Example(
    name="T6",
    title="two steps: what is an action paid for?",
    teaches="only for what comes after it",
    system=TWO_STEPS,
    ways=(
        WHOLE,
        TO_GO,
        Way("reward-to-go − V(s)", surrogate_loss, SLOPE, (0.5875, 0.1408, 0.25), returns=less_value),
    ),
    series=(
        # ½·¼·½ = .0625; scores ½, −½ with R = 1 + 4 = 5: (2.5, 0, −2.5); the second step's r₂ is 4: −2
        Series("(1, B, 0): P, whole return", (0.0625, 2.5, 0.0, -2.5), lambda: one_trajectory(WHOLE)),
        Series("(1, B, 0): P, reward-to-go", (0.0625, 2.5, 0.0, -2.0), lambda: one_trajectory(TO_GO)),
        # a₁'s score averages to 0 whatever came before
        Series("E[score of a₁ · r₁]", (0.0, 0.0, 0.0), paid_for_the_past),
    ),
    story="""\
a₀ = 1 with p₀ = ½; it pays r₁ = a₀. Then comes A (probability ¾ after a₀ = 1, ¼ after a₀ = 0) or B.
In A, a₁ = 1 (p_A = .8) pays 2; in B, a₁ = 0 (1 − p_B = ½) pays 4; the rest 0. V_A = 1.6, V_B = 2.
J = ½(1 + ¾·1.6 + ¼·2) + ½(¼·1.6 + ¾·2) = ½(2.7) + ½(1.9) = 2.3
∇J:  θ₀: ¼(2.7 − 1.9) = .2     θ_A: ½(.16)(2) = .16     θ_B: ½(.25)(−4) = −.5
log P(τ) = log π(a₀) + log P(s|a₀) + log π(a₁|s): the middle term has no θ and drops out of ∇.
Trajectory (1, B, 0), P = ½·¼·½ = .0625, scores +½ and −½, R = 1 + 4:
  each step paid R = 5: (2.5, 0, −2.5)     paid what came after it, 5 and 4: (2.5, 0, −2)
Sum of the variances: whole return 2.96265, reward-to-go 2.6984, less V(s) .9783""",
    notice="""\
Nobody had to know how the world goes from a₀ to A or B. r₁ was there before a₁: E[score of a₁·r₁] = 0, so dropping it
changes noise, not mean. V(s) makes θ_A noisier (.0384 → .1408) and the sum a third: it is good, not best.""",
)

# γ = ½.  J = ½(1 + ½·1.7) + ½(½·1.9) = 1.4;  θ₀: ¼(1.85 − .95) = .225;  θ_A and θ_B: half of before
# θ₀'s variance: E[(r₁ + ½r₂)²] = ½(.75(.8·2² + .2·1²) + .25(.5·3² + .5·1²)) + ½(6.8/4) = ½·3.8 + ½·1.7 = 2.75,
# ¼·2.75 − .225² = .636875;  θ_A: ¼·.0384, θ_B: ¼·.75 with γᵗ, as before without
HALF = torch.tensor([1.0, 0.5], dtype=torch.float64)
DISCOUNTED = System(
    parameters=TWO_STEPS.parameters,
    policy=TwoSteps,
    outcomes=Listed(all_eight),
    returns=lambda trajectories: (rewards(trajectories) * HALF).sum(dim=1, keepdim=True).expand(-1, 2),
    objective=lambda theta: value_of_start(theta, gamma=0.5),
)

T6_DISCOUNTED = Example(
    name="T6",
    title="two steps, discounted: γ = ½",
    teaches="without γᵗ it is the gradient of no J",
    system=DISCOUNTED,
    ways=(
        Way(
            "γᵗ·Gₜ",
            surrogate_loss,
            by_hand=(0.225, 0.08, -0.25),
            variance=(0.636875, 0.0096, 0.1875),
            returns=lambda trajectories: HALF * reward_to_go(trajectories, 0.5),
        ),
        Way(
            "Gₜ, as most do",
            surrogate_loss,
            by_hand=(0.225, 0.16, -0.5),
            variance=(0.636875, 0.0384, 0.75),
            wrong=True,
            returns=lambda trajectories: reward_to_go(trajectories, 0.5),
        ),
    ),
    story="""\
The same with J = E[r₁ + γr₂], γ = ½:  J = ½(1 + ½·1.7) + ½(½·1.9) = ½(1.85) + ½(.95) = 1.4
∇J:  θ₀: ¼(1.85 − .95) = .225     θ_A: γ(.16) = .08     θ_B: γ(−.5) = −.25
Gₜ discounts what comes after t; that the step t itself lies γᵗ away is a further factor:
  with it (.225, .08, −.25), leaving it out (.225, .16, −.5)""",
    notice="""\
Karpathy's program and nearly all others leave γᵗ out, and so does this project: late steps of an episode would hardly
learn. It is then a preference for early reward, not the slope of the discounted J.""",
)


class Feedback:
    """T8's policy: a ~ N(k·s, 1), from s₀ = 1, s' = s + a. An outcome is a row (a₀, a₁)."""

    def __init__(self, theta: Tensor) -> None:
        self.k = theta[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π of both actions, (K, 2) → (K, 2), in nats."""
        before = torch.stack([torch.ones_like(value[:, 0]), 1 + value[:, 0]], dim=1)  # s₀, s₁
        steps: Policy = Normal(self.k * before, torch.ones_like(before))
        return steps.log_prob(value)

    def unfold(self, noise: Tensor) -> Tensor:
        """Rows (a₀, a₁), (K, 2), from noise (K, 2)."""
        first = self.k + noise[:, 0]
        return torch.stack([first, self.k * (1 + first) + noise[:, 1]], dim=1)


def costs(actions: Tensor) -> Tensor:
    """Rewards −s₁² and −s₂², (K, 2)."""
    return -((1 + actions.cumsum(dim=1)) ** 2)


# k = −½, c = 1 + k = ½: s₁ = c + x, s₂ = c·s₁ + y.  E[s₁²] = c² + 1, E[s₂²] = c²(c² + 1) + 1
LQR = System(
    parameters={"k": -0.5},
    policy=Feedback,
    outcomes=Quadrature(Feedback.unfold, dimensions=2, nodes=8),
    returns=lambda actions: costs(actions).sum(dim=1, keepdim=True).expand(-1, 2),
    objective=lambda theta: -((1 + theta[0]) ** 4) - 2 * (1 + theta[0]) ** 2 - 2,
)

# dJ/dk = −4c³ − 4c = −.5 − 2 = −2.5.  With x, y the noise and u = s₁ = ½ + x, s₂ = ½u + y; scores x and y·u.
# C = u² + s₂².  Whole: E[(xC + yuC)²] = 11505/256 + 111781/1024 + 2·89/4 = 203369/1024; less 6.25 = 192.3525390625
# To go: E[(xC + yu·s₂²)²] = 11505/256 + 41965/1024 + 2·63/4 = 120241/1024; less 6.25 = 111.1728515625
# Pathwise: dR/dk = −2u − 2s₂(u + ½); over y its square is E[u⁴ + 5u³ + 10.25u² + 4u + 1], and E[u, u², u³, u⁴]
# = ½, 1.25, 1.625, 4.5625: 4.5625 + 8.125 + 12.8125 + 2 + 1 = 28.5; less 6.25 = 22.25
T8 = Example(
    name="T8",
    title="two steps of a linear-quadratic regulator",
    teaches="pathwise through the dynamics, if you know them",
    system=LQR,
    ways=(
        Way("whole return", surrogate_loss, (-2.5,), (192.3525390625,)),
        Way(
            "reward-to-go",
            surrogate_loss,
            by_hand=(-2.5,),
            variance=(111.1728515625,),
            returns=lambda actions: discounted_returns(costs(actions).T, 1.0).T,
        ),
        Way("pathwise", through_the_sample, (-2.5,), (22.25,), returns=costs, attached=True),
    ),
    story="""\
s₀ = 1, s' = s + a, a ~ N(k·s, 1), R = −(s₁² + s₂²): bring s to 0. k = −½, c = 1 + k = ½.
s₁ = c + x, s₂ = c·s₁ + y with noise x, y:  E[s₁²] = c² + 1 = 1.25,  E[s₂²] = c²(1.25) + 1 = 1.3125
J = −(c⁴ + 2c² + 2) = −2.5625;  dJ/dk = −4c³ − 4c = −.5 − 2 = −2.5
The scores of k: x·s₀ and y·s₁. Paid all costs: variance 192.35; those that come after: 111.17.
Pathwise, dR/dk = −2s₁·s₀ − 2s₂(s₁ + c·s₀): variance 22.25""",
    notice="""\
Reward-to-go nearly halves the variance over just two steps; pathwise has a fifth of that again, but had to
differentiate s' = s + a. A steeper k than −½ is better still (dJ/dk < 0), down to the best, k = −1.""",
)
