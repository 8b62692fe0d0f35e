"""The examples T1 to T11: losses, systems, and the results by hand, which stories.txt derives."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from pong.losses import surrogate_loss
from pong.returns import discounted_returns, standardize
from pong.toy import gradients
from pong.toy.gradients import Batch, Choices, Estimator, Loss, System, ascend, episodes, estimates, mean_and_variance


def reinforce(log_probs: Tensor, returns: Tensor) -> Tensor:
    """−log π·R, summed over steps and averaged over episodes: (M, N, T) → (M,)."""
    return surrogate_loss(log_probs, returns, reduction="none").sum(dim=2).mean(dim=1)


def to_go(rewards: Tensor) -> Tensor:
    """The sum of the rewards from each step on: (…, T)."""
    return discounted_returns(rewards.flatten(0, -2).T, gamma=1.0).T.view_as(rewards)


def moved(batch: Batch) -> Tensor:
    """T11: log π of the same actions after p has moved from 0.8 to 0.7."""
    moved_policy: Any = Bernoulli(logits=batch.policy.logits + math.log(7 / 12))
    return moved_policy.log_prob(batch.choices)  # type: ignore[no-any-return]


def less(baseline: float) -> Loss:
    """−log π·(R − b)."""
    return lambda b: reinforce(b.log_probs, b.rewards - baseline)


LOSSES: dict[str, Loss] = {
    "score": lambda b: reinforce(b.log_probs, b.rewards.sum(dim=2, keepdim=True).expand_as(b.rewards)),
    "to go": lambda b: reinforce(b.log_probs, to_go(b.rewards)),
    # T6: V is 2.3 at the start, 1.6 in A and 2 in B
    "less V": lambda b: reinforce(
        b.log_probs, to_go(b.rewards) - tensor(2.3, 2) + tensor(0, 0.4) * b.choices[..., 1:2]
    ),
    "less others": lambda b: reinforce(b.log_probs, 2 * b.rewards - b.rewards.sum(dim=1, keepdim=True)),  # N = 2
    "pathwise": lambda b: -b.rewards.sum(dim=2).mean(dim=1),  # differentiated through the attached action
    "old batch, ratio": lambda b: -(moved(b).exp() / b.log_probs.detach().exp() * b.rewards).mean(dim=(1, 2)),
    # mistakes
    "old batch": lambda b: reinforce(moved(b), b.rewards),
    "no log": lambda b: -(b.log_probs.exp() * b.rewards).mean(dim=(1, 2)),
    "wrong sign": lambda b: -LOSSES["score"](b),
    "drawn again": lambda b: reinforce(b.log_probs[:, 1:], b.rewards[:, :1]),  # one action's log π, another's return
    "greedy": lambda b: reinforce(b.policy.log_prob(torch.full_like(b.choices, 2)), b.rewards),  # T2's likeliest arm
    "clipped": lambda b: reinforce(b.policy.log_prob(b.choices.clamp(-1, 1)), b.rewards),
    "less mean": lambda b: reinforce(b.log_probs, b.rewards - b.rewards.mean(dim=1, keepdim=True)),
    "standardized": lambda b: reinforce(b.log_probs, torch.stack([standardize(rewards) for rewards in b.rewards])),
    "less action": lambda b: reinforce(b.log_probs, b.rewards - b.choices),
    "without γᵗ": lambda b: reinforce(b.log_probs, to_go(b.rewards) / tensor(1, 0.5)),
    "paid before": lambda b: reinforce(b.log_probs, (b.rewards * tensor(1, 0)).roll(1, dims=-1)),  # a₁ is paid r₁
    "outer product": lambda b: -(b.log_probs * b.rewards.transpose(1, 2)).mean(dim=(1, 2)),  # (N, 1) × (N,)
    "not detached": lambda b: -(b.log_probs * b.rewards).mean(dim=(1, 2)),
    "mean of steps": lambda b: LOSSES["score"](b) / (2 - b.choices[:, 0, 0]),  # one step if the first is "stop"
}


def tensor(*values: float) -> Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=torch.float64)


def two_arms(logit: float, reward: Callable[[Tensor], Tensor]) -> System:
    """P(a=1) = p = sigmoid(θ)."""
    return System({"θ": logit}, lambda theta, choices: [reward(choices.act(Bernoulli(logits=theta[0])))])


def gaussian(mu: float, sigma: float, reward: Callable[[Tensor], Tensor], *kinks: float) -> System:
    """A policy a ~ N(μ, σ²), whose parameter is μ."""
    return System({"μ": mu}, lambda theta, choices: [reward(choices.act(Normal(theta[0], sigma)))], kinks=kinks)


def distance(a: Tensor) -> Tensor:
    """R = −(a − 3)²."""
    return -((a - 3) ** 2)


def two_states(theta: Tensor, choices: Choices) -> list[Tensor]:
    """T3: s is 1 or 2, a ~ N(w·s + b, 1), and the target is 2s."""
    s = 1 + choices.chance(Bernoulli(tensor(0.5)))
    return [-((choices.act(Normal(theta[0] * s + theta[1], 1.0)) - 2 * s) ** 2)]


def two_steps(theta: Tensor, choices: Choices, gamma: float = 1.0) -> list[Tensor]:
    """T6: a₀, then A or B, then a₁; γᵗ·rewards."""
    a0 = choices.act(Bernoulli(logits=theta[0]))
    in_A = choices.chance(Bernoulli(0.25 + 0.5 * a0))
    a1 = choices.act(Bernoulli(logits=torch.where(in_A == 1, theta[1], theta[2])))
    return [a0, gamma * (2 * in_A * a1 + 4 * (1 - in_A) * (1 - a1))]


def regulator(theta: Tensor, choices: Choices) -> list[Tensor]:
    """T8: s₀ = 1, s' = s + a, a ~ N(k·s, 1), rewards −s'²."""
    s1 = 1 + choices.act(Normal(theta[0], 1.0))
    s2 = s1 + choices.act(Normal(theta[0] * s1, 1.0))
    return [-(s1**2), -(s2**2)]


def stop_or_go(theta: Tensor, choices: Choices) -> list[Tensor]:
    """T10: stop, or go on to a second such choice."""
    stop1 = choices.act(Bernoulli(logits=theta[0]))
    stop2 = choices.act(Bernoulli(logits=theta[0]), active=1 - stop1)
    return [stop1, (1 - stop1) * (1.5 - 0.5 * stop2)]


PAY, LOGITS = tensor(6, 3, 0), {"θ₁": 0.0, "θ₂": math.log(2), "θ₃": math.log(3)}
LINE, NORMAL = {"w": 0.5, "b": 0.0, "log σ": 0.0}, {"μ": 1.0, "log σ": math.log(0.5)}
BANDIT, COIN = two_arms(math.log(4), lambda a: 2 - a), two_arms(0.0, lambda a: a)
SOFTMAX = System(LOGITS, lambda theta, choices: [PAY[choices.act(Categorical(logits=theta))]])
AIM = System(LINE, lambda theta, choices: [distance(choices.act(Normal(theta[0] * 2 + theta[1], theta[2].exp())))])
TWO_STATES = System({"w": 0.5, "b": 0.0}, two_states)
PAY_1_GAUSSIAN = System(NORMAL, lambda theta, choices: [choices.act(Normal(theta[0], theta[1].exp())) * 0 + 1])
TWO_STEPS = System({"θ₀": 0.0, "θ_A": math.log(4), "θ_B": 0.0}, two_steps)
DISCOUNTED = TWO_STEPS._replace(play=partial(two_steps, gamma=0.5))
STEP = gaussian(1.0, 1.0, lambda a: (1 + torch.sign(a - 2)) / 2, 2.0)  # 1 if a > 2, else 0
LQR = System({"k": -0.5}, regulator, nodes=8)
CLIP = gaussian(0.0, 1.0, lambda a: a.clamp(-1, 1), -1.0, 1.0)
STOPPING = System({"θ": 0.0}, stop_or_go)


class Numbers(NamedTuple):
    """Numbers that are no gradient estimates, by hand and by code."""

    label: str
    by_hand: tuple[float, ...]
    code: Callable[[], Iterable[Tensor | float]]
    digits: int = 12  # decimals of ``by_hand``; 12: exact


def objectives(estimator: Estimator, learning_rate: float, steps: int) -> list[Tensor]:
    """J before the first step of ascent and after each."""
    return [gradients.objective(estimator.system, theta) for theta in ascend(estimator, learning_rate, steps)]


def loss_of_sample(theta: Tensor) -> Tensor:
    """T3: −log π·R of s = (2, 1), a = 1¼, R = 3."""
    policy: Any = Normal(theta[0] * 2 + theta[1] + theta[2], theta[3].exp())
    return surrogate_loss(policy.log_prob(tensor(1.25)), tensor(3))


def of_trajectory(estimator: Estimator) -> list[Tensor]:
    """T6: the probability of trajectory (1, B, 0), and the estimate from it."""
    rows, weights = episodes(TWO_STEPS, TWO_STEPS.theta)
    index = rows.choices.tolist().index([1, 0, 0])
    return [weights[index], *estimates(estimator)[0][index]]


def expected_loss(p: float) -> float:
    """T10: E[−log π·R] of the coin at P(a=1) = p."""
    rows, weights = episodes(COIN, tensor(p).logit())
    return (weights @ surrogate_loss(rows.log_probs, rows.rewards, reduction="none")).item()


CHANCES, ONES, ONE_STEP = (0.1, 1 / math.e, 0.5, 0.9), torch.tensor([1, 1, 1]), tensor(7)
SAMPLE = tensor(0.5, -1, 0.25, math.log(0.5))  # T3: w₁, w₂, b, log σ
SLOPE2, SLOPE6 = (2 / 3, 1 / 3, -1), (0.2, 0.16, -0.5)  # ∇J of T2 and T6
ROOT_PI, LN_2PI = math.sqrt(math.pi), math.log(math.tau)
NOT_DETACHED = (-4 - 4 * LN_2PI, -2 - 2 * LN_2PI, 8 + LN_2PI)
DENSITY, TAIL = math.exp(-0.5) / math.sqrt(math.tau), math.erfc(math.sqrt(0.5)) / 2  # φ(1), 1 − Φ(1)
CLIPPED = 1 - 2 * DENSITY
INNER2 = 1 - 2 * TAIL - 2 * DENSITY  # E[x²; |x| < 1], by parts
INNER4 = 3 * INNER2 - 2 * DENSITY  # E[x⁴; |x| < 1]
STD_8 = -sum(math.comb(8, k) * 0.8**k * 0.2 ** (8 - k) * math.sqrt(k * (8 - k)) / 8 for k in range(9))

T1 = Estimator(BANDIT, LOSSES["score"], "−log π·R", (-0.16,), (0.5184,))
T1_WITHOUT_LOG = Estimator(BANDIT, LOSSES["no log"], "−π·R, no log", (0.064,), (0.036864,))
T2 = Estimator(SOFTMAX, LOSSES["score"], "−log π·R", SLOPE2, (137 / 36, 17 / 9, 5 / 4))
T3 = Estimator(AIM, LOSSES["score"], "−log π·R", (8, 4, -2), (348, 87, 346))
TWO_SAMPLES = T3._replace(system=AIM._replace(nodes=2))  # a = μ ± σ, equally weighted
T6 = Estimator(TWO_STEPS, LOSSES["score"], "whole return", SLOPE6, (1.91, 0.1464, 0.90625))
T6_TO_GO = Estimator(TWO_STEPS, LOSSES["to go"], "reward-to-go", SLOPE6, (1.91, 0.0384, 0.75))
T9 = Estimator(gaussian(1.0, 1.0, distance), LOSSES["score"], "−log π·R", (4,), (87,))
T9_COIN = Estimator(COIN, LOSSES["score"], "−log π·R", (0.25,), (0.0625,))
OLD_BATCH, OLD_BATCH_RATIO = (Estimator(BANDIT, LOSSES[name]) for name in ("old batch", "old batch, ratio"))
T10_SIGN = Estimator(BANDIT, LOSSES["wrong sign"], "+log π·R", (0.16,), (0.5184,))


def t7(sigma: float) -> tuple[Estimator, ...]:
    """Four estimators, with d = μ − 3 = −2."""
    system, d2, s2 = gaussian(1.0, sigma, distance), 4, sigma**2
    return (
        Estimator(system, LOSSES["score"], "score", (4,), (d2**2 / s2 + 14 * d2 + 15 * s2,)),
        Estimator(system, less(-d2 - s2), "score, b = J", (4,), (8 * d2 + 10 * s2,)),
        Estimator(system, less(-d2 - 3 * s2), "score, best b", (4,), (8 * d2 + 6 * s2,)),
        Estimator(system, LOSSES["pathwise"], "pathwise", (4,), (4 * s2,), attached=True),
    )


ROWS: tuple[str | Estimator | Numbers, ...] = (  # the heading of each story, then its estimators and numbers
    "T1 a bandit: dropping the log flips the sign",
    T1,
    T1_WITHOUT_LOG,
    Numbers("p after 50 steps, with the log", (0.0262,), lambda: ascend(T1, 1, 50)[-1].sigmoid(), 4),
    Numbers("without it (wrong)", (0.975,), lambda: ascend(T1_WITHOUT_LOG, 1, 50)[-1].sigmoid(), 3),
    "T2 softmax over three arms",
    T2,
    Estimator(SOFTMAX, less(2), "R − J", SLOPE2, (53 / 36, 5 / 9, 1 / 4)),
    Estimator(SOFTMAX, less(32 / 11), "R − 32/11, best b", SLOPE2, (377 / 484, 65 / 121, 221 / 484)),
    Estimator(SOFTMAX, LOSSES["drawn again"], "log π of a new draw", (0, 0, 0), (5 / 4, 2, 9 / 4), n=2),
    Estimator(SOFTMAX, LOSSES["greedy"], "log π of greedy arm", (-1 / 3, -2 / 3, 1), (5 / 36, 5 / 9, 5 / 4)),
    Numbers("middle arm played: estimate", (-0.5, 2, -1.5), lambda: estimates(T2)[0][1]),
    Numbers("J, and after a step of lr ½", (2, 2.771969), lambda: objectives(T2, 0.5, 1), 6),
    "T3 a Gaussian action from a linear policy",
    T3,
    Estimator(AIM, LOSSES["no log"], "−π·R, no log", (2 / ROOT_PI, 1 / ROOT_PI, 7 / 8 / ROOT_PI)),
    Numbers("g_w of a = 0, of a = 2", (18, -2), lambda: estimates(TWO_SAMPLES)[0][:, 0]),
    Numbers("their average", (8,), lambda: mean_and_variance(TWO_SAMPLES)[0][:1]),
    "T3 the same with two states",
    Estimator(TWO_STATES, LOSSES["score"], "−log π·R", (7.5, 4.5), (490.03125, 139.03125)),
    "T3 the same, one sample, exact in binary",
    Numbers("loss", (3 * (2 - math.log(2) + LN_2PI / 2),), lambda: [loss_of_sample(SAMPLE)]),
    Numbers("autograd", (24, 12, 12, 9), lambda: -torch.func.grad(loss_of_sample)(SAMPLE)),
    Numbers("finite difference", (24, 12, 12, 9), lambda: -gradients.finite_difference(loss_of_sample, SAMPLE), 6),
    "T4 a constant baseline (T1's bandit)",
    Estimator(BANDIT, less(0), "b = 0", (-0.16,), (0.5184,)),
    Estimator(BANDIT, less(1.2), "b = J = 1.2", (-0.16,), (0.0576,)),
    Estimator(BANDIT, less(1.8), "b = 1.8", (-0.16,), (0,)),
    Estimator(BANDIT, less(10), "b = 10", (-0.16,), (10.7584,)),
    "T4 baselines that know the action (T1's bandit)",
    T1,
    Estimator(BANDIT, LOSSES["less others"], "mean of the others", (-0.16,), (0.0544,), n=2),
    Estimator(BANDIT, LOSSES["less mean"], "batch mean, N = 2", (-0.08,), (0.0136,), n=2),
    Estimator(BANDIT, LOSSES["less mean"], "batch mean, N = 3", (-0.32 / 3,), (4 / 81 * 0.48 * 0.52,), n=3),
    Estimator(BANDIT, LOSSES["standardized"], "batch mean, std, N = 3", (-0.16 * 2**0.5,), (0.32 / 3 - 0.0512,), n=3),
    Estimator(BANDIT, LOSSES["standardized"], "batch mean, std, N = 8", (STD_8,), (0.14 - STD_8**2,), n=8),
    Estimator(BANDIT, LOSSES["less action"], "b = 1[a=1]", (-0.32,), (0.4096,)),
    "T5 the score has mean zero: two arms",
    Estimator(two_arms(math.log(4), torch.ones_like), LOSSES["score"], "−log π·1", (0,), (0.16,)),
    "T5 the score has mean zero: a Gaussian",
    Estimator(PAY_1_GAUSSIAN, LOSSES["score"], "−log π·1", (0, 0), (4, 2)),
    "T6 two steps: what is an action paid for?",
    T6,
    T6_TO_GO,
    Estimator(TWO_STEPS, LOSSES["less V"], "reward-to-go − V(s)", SLOPE6, (0.5875, 0.1408, 0.25)),
    Numbers("(1, B, 0): P, whole return", (0.0625, 2.5, 0, -2.5), lambda: of_trajectory(T6)),
    Numbers("(1, B, 0): P, reward-to-go", (0.0625, 2.5, 0, -2), lambda: of_trajectory(T6_TO_GO)),
    Numbers("E[score of a₁ · r₁]", (0, 0, 0), lambda: mean_and_variance(T6._replace(loss=LOSSES["paid before"]))[0]),
    "T6 two steps, discounted: γ = ½",
    Estimator(DISCOUNTED, LOSSES["to go"], "γᵗ·Gₜ", (0.225, 0.08, -0.25), (0.636875, 0.0096, 0.1875)),
    Estimator(DISCOUNTED, LOSSES["without γᵗ"], "Gₜ, as most do", (0.225, 0.16, -0.5), (0.636875, 0.0384, 0.75)),
    "T7 score function or pathwise, σ = 1",
    *t7(1.0),
    "T7 score function or pathwise, σ = .1",
    *t7(0.1),
    "T7 a reward with a step: won or lost",
    Estimator(STEP, LOSSES["score"], "score", (DENSITY,), (DENSITY + TAIL - DENSITY**2,)),
    Estimator(STEP, LOSSES["pathwise"], "pathwise", (0,), (0,), attached=True),
    "T8 two steps of a linear-quadratic regulator",
    Estimator(LQR, LOSSES["score"], "whole return", (-2.5,), (203369 / 1024 - 6.25,)),
    Estimator(LQR, LOSSES["to go"], "reward-to-go", (-2.5,), (120241 / 1024 - 6.25,)),
    Estimator(LQR, LOSSES["pathwise"], "pathwise", (-2.5,), (28.5 - 6.25,), attached=True),
    "T9 steps of ascent: the learning rate",
    T9,
    Numbers("lr ¼: μ", (1, 2, 2.5, 2.75), lambda: ascend(T9, 0.25, 3)[:, 0]),
    Numbers("lr ¼: J", (-5, -2, -1.25, -1.0625), lambda: objectives(T9, 0.25, 3)),
    Numbers("lr ½: μ", (1, 3, 3), lambda: ascend(T9, 0.5, 2)[:, 0]),
    Numbers("lr 1: μ", (1, 5, 1, 5), lambda: ascend(T9, 1.0, 3)[:, 0]),
    Numbers("lr 1.1: μ", (1, 5.4, 0.12, 6.456), lambda: ascend(T9, 1.1, 3)[:, 0]),
    "T9 steps of ascent: a bandit with R = (1, 0)",
    T9_COIN,
    Numbers("lr 1: p", (0.5, 0.5622, 0.6216, 0.6751), lambda: ascend(T9_COIN, 1, 3)[:, 0].sigmoid(), 4),
    "T10 the sign of the loss (T1's bandit)",
    T1,
    T10_SIGN,
    Numbers("J, and after a step of lr 1: −log π·R", (1.2, 1.2268), lambda: objectives(T1, 1, 1), 4),
    Numbers("+log π·R (wrong)", (1.2, 1.1756), lambda: objectives(T10_SIGN, 1, 1), 4),
    "T10 (N, 1) × (N,) is (N, N) (T1's bandit, N = 4)",
    Estimator(BANDIT, LOSSES["score"], "−log π·R, mean", (-0.16,), (0.5184 / 4,), n=4),
    Estimator(BANDIT, LOSSES["outer product"], "(N,1)×(N,)", (-0.04,), (19.2768 / 256,), n=4),
    "T10 an action that stays attached to θ (T3)",
    T3,
    Estimator(AIM, LOSSES["score"], "a attached", (0, 0, 5), (0, 0, 18), attached=True),
    Estimator(AIM, LOSSES["not detached"], "a and R attached", NOT_DETACHED, attached=True),
    "T10 log π of the clipped action",
    Estimator(CLIP, LOSSES["score"], "log π(a)", (1 - 2 * TAIL,), (INNER4 + 1 - INNER2 - (1 - 2 * TAIL) ** 2,)),
    Estimator(CLIP, LOSSES["clipped"], "log π(clip(a))", (CLIPPED,), (INNER4 + 2 * TAIL - CLIPPED**2,)),
    "T10 the mean over an episode instead of the sum",
    Estimator(STOPPING, LOSSES["score"], "sum over steps", (-0.125,), (0.671875,)),
    Estimator(STOPPING, LOSSES["mean of steps"], "mean over steps", (0.0625,), (0.26171875,)),
    "T10 the loss is no measure of progress",
    Numbers("E[loss]", tuple(-p * math.log(p) for p in CHANCES), lambda: map(expected_loss, CHANCES)),
    Numbers("J", CHANCES, lambda: [gradients.objective(COIN, tensor(p).logit()) for p in CHANCES]),
    "T10 integer rewards and zeros_like",
    Numbers("discounted_returns", (2.8525, 1.95, 1), lambda: discounted_returns(ONES, 0.95), 6),
    Numbers("zeros_like (wrong)", (2, 1, 1), lambda: torch.zeros_like(ONES).copy_(discounted_returns(ONES, 0.95))),
    "T10 standardising an episode of one step",
    Numbers("standardize", (0,), lambda: standardize(ONE_STEP)),
    Numbers("(R − mean)/std (wrong)", (math.nan,), lambda: (ONE_STEP - 7) / ONE_STEP.std(correction=0)),
    "T11 a second step on one batch (T1's bandit)",
    Numbers("∇J at p = .7", (-0.21,), lambda: mean_and_variance(T1, tensor(math.log(7 / 3)))[0]),
    Numbers("−log π·R on the old batch: g, variance", (-0.04, 0.4624), lambda: mean_and_variance(OLD_BATCH)),
    Numbers("−π/π_old·R: g, variance", (-0.21, 0.893025), lambda: mean_and_variance(OLD_BATCH_RATIO)),
)


class Example:
    """A paragraph of stories.txt, "NAME title | what it teaches", story, "> what to notice", and the rows under it."""

    def __init__(self, text: str) -> None:
        heading, body = text.strip().split("\n", 1)
        key, self.teaches = heading.split(" | ")
        self.name, self.title = key.split(" ", 1)
        self.story, notice = body.split("\n> ", 1)
        self.notice = notice.replace("\n> ", " ")
        rows = list(takewhile(lambda row: not isinstance(row, str), ROWS[ROWS.index(key) + 1 :]))
        self.estimators = [row for row in rows if isinstance(row, Estimator)]  # the first is right
        self.numbers = [row for row in rows if isinstance(row, Numbers)]


EXAMPLES = [Example(text) for text in Path(__file__).with_name("stories.txt").read_text("utf-8").split("\n\n")]
