"""docs/log-derivative-trick.md: every number in it is recomputed here, and none is left over.

``CHECKED`` is a table of sentences with holes for the numbers, and of the numbers, which come from the code: from the
systems of pong/toy, through ``surrogate_loss`` by autograd, by listing what can happen, or by finite differences.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pong.envs.pong.task import ALE_ACTIONS, DOWN, UP
from pong.losses import surrogate_loss
from pong.policies import Bernoulli
from pong.returns import discounted_returns
from pong.toy import EXAMPLES, Example, System, Way
from pong.toy.examples.arithmetic import (
    INTEGERS,
    NO_MEASURE,
    ONE_STEP,
    ONES,
    expected_loss,
    into_zeros_like,
    mean_and_std,
)
from pong.toy.examples.ascent import COIN
from pong.toy.examples.bandits import BANDIT, T1, T2
from pong.toy.examples.baselines import T4_CONSTANT, T4_LEAKED
from pong.toy.examples.gaussian import AIM, T3
from pong.toy.examples.mistakes import ATTACHED, BROADCAST, CLIP, CLIPPED, MEAN_OF_STEPS, SIGN, STOPPING
from pong.toy.examples.pathwise import STEP, T7, T7_STEP
from pong.toy.examples.trajectories import T6, TWO_STEPS
from pong.toy.gradients import ascend, estimates, exact, finite_difference
from pong.toy.outcomes import taken
from pong.toy.plots import SAMPLES

DOCS = Path(__file__).parents[1] / "docs"
FILE = (DOCS / "log-derivative-trick.md").read_text(encoding="utf-8")
TEXT = FILE[: FILE.index("## Sources")]
PAGE = " ".join(re.sub(r"^> ?", "", TEXT, flags=re.MULTILINE).split())  # on one line, without the quotes' marks

NAMES = re.compile(rf"\b(?:{'|'.join(example.name for example in EXAMPLES)})\b")  # T1 to T10: numbers in name only
FORMULAS = str.maketrans("", "", "½²₁")  # numeric to Python, but part of a formula: ½Σπ²R, sₜ₊₁
WORDS = ("zero", "one", "two", "three", "four", "five")


class Number(float):
    """Shows itself as the page does, −0.16, and rounded only where the sentence says to how many digits."""

    def __format__(self, spec: str) -> str:
        number = round(self, 8) + 0.0  # finite differences are good to 1e-9; + 0.0: −0 is 0
        if spec == "word":
            return WORDS[int(number)] if number.is_integer() else f"no word for {number}"
        shown = str(Fraction(number).limit_denominator(99)) if spec == "fraction" else format(number, spec or ".10g")
        return shown.replace("-", "−").replace("nan", "NaN")


def filled(sentence: str, numbers: tuple[float, ...]) -> str:
    return sentence.format(*map(Number, numbers))


def numerals(text: str) -> list[str]:
    """The words of a text that hold a number, other than T1 to T10 and what is part of a formula."""
    words = NAMES.sub("", text).translate(FORMULAS).split()
    return [word for word in words if any(map(str.isnumeric, word))]


# --- from the code ----------------------------------------------------------------------------------------------------


def way_of(example: Example, label: str) -> Way:
    (way,) = (way for way in example.ways if way.label == label)
    return way


def mean(example: Example, label: str) -> list[float]:
    """Expected gradient of one of an example's losses, per parameter."""
    return exact(example.system, way_of(example, label))[0].tolist()


def variance(example: Example, label: str) -> list[float]:
    return exact(example.system, way_of(example, label))[1].tolist()


def slopes(system: System) -> list[float]:
    """∇J by finite differences, per parameter."""
    return finite_difference(system.objective, system.theta).tolist()


def worth(system: System) -> float:
    return system.objective(system.theta).item()


def derivative(function: Callable[[Tensor], Tensor], x: float) -> float:
    return finite_difference(lambda v: function(v[0]), torch.tensor([x], dtype=torch.float64)).item()


def scores(system: System) -> Tensor:
    """∇ log π of the outcomes, (K, P): what surrogate_loss gives where everything is paid 1."""
    way = Way("", surrogate_loss, (), returns=lambda outcomes: torch.ones(len(outcomes), dtype=torch.float64))
    return estimates(system, system.theta, way)[0]


# T1: the bandit
ARMS, CHANCES = BANDIT.outcomes.listed(BANDIT.policy(BANDIT.theta))
(arm0, arm1), (q, p), (R0, R1) = ARMS.tolist(), CHANCES.tolist(), BANDIT.returns(ARMS).tolist()
one = p + q
better = (arm0, arm1)[R1 > R0]
J, (slope,) = worth(BANDIT), slopes(BANDIT)
(dq,), (dp,) = torch.autograd.functional.jacobian(  # ∇π
    lambda theta: BANDIT.outcomes.listed(BANDIT.policy(theta))[1], BANDIT.theta
).tolist()
(score0,), (score1,) = scores(BANDIT).tolist()
sampled, without_log = mean(T1, "−log π·R")[0], mean(T1, "−π·R, no log")[0]
often = Fraction(p).limit_denominator(99)
STEPS, LEARNING_RATE = 50, 1


def chance_after(label: str) -> float:
    return ascend(BANDIT, way_of(T1, label), LEARNING_RATE, STEPS)[-1, 0].sigmoid().item()


# T3: the Gaussian
w, b, _ = AIM.theta.tolist()
mu, sigma = (number.item() for number in (AIM.policy(AIM.theta).mean, AIM.policy(AIM.theta).stddev))
s = derivative(lambda w: AIM.policy(torch.stack([w, *AIM.theta[1:]])).mean, w)
target = math.sqrt(-AIM.returns(torch.zeros(())).item())  # R = −(a − target)²
slope_w, slope_b, slope_log_sigma = slopes(AIM)
slope_mu = slopes(T7.system)[0]
high, low = mu + sigma, mu - sigma
R_high, R_low = AIM.returns(torch.tensor([high, low])).tolist()
TWO = replace(AIM, outcomes=taken(high, low))  # what a learner has who sampled these two
score_high, score_low = scores(TWO)[:, 0].tolist()
g_high, g_low = estimates(TWO, TWO.theta, T3.ways[0])[0][:, 0].tolist()
average = exact(TWO, T3.ways[0])[0][0].item()
score_slope = (score_high - score_low) / (high - low)
in_two_pi = math.exp(-2 * AIM.policy(AIM.theta).log_prob(torch.tensor(mu)).item()) / sigma**2 / math.pi  # log π(μ)
variance_b = variance(T3, "−log π·R")[1]

# T4: baselines
weight0, weight1 = q * score0**2, p * score1**2
best = (weight0 * R0 + weight1 * R1) / (weight0 + weight1)
silly = R1 - T4_CONSTANT.ways[-1].returns(ARMS)[1].item()


def variance_less(baseline: float) -> float:
    way = Way("", surrogate_loss, (), returns=lambda action: BANDIT.returns(action) - baseline)
    return exact(BANDIT, way)[1].item()


# T6: two steps
steps = TWO_STEPS.returns(TWO_STEPS.outcomes.listed(TWO_STEPS.policy(TWO_STEPS.theta))[0]).shape[1]

# T7: a reward with a jump
jump = mu + sigma * STEP.outcomes.kinks[0]
lost, won = STEP.returns(torch.tensor([jump - 0.001, jump + 0.001])).tolist()
no_slope = estimates(STEP, STEP.theta, way_of(T7_STEP, "pathwise"))[0].abs().max().item()


# T10: mistakes
def after_one_step(label: str) -> float:
    return BANDIT.objective(ascend(BANDIT, way_of(SIGN, label), LEARNING_RATE, 1)[-1]).item()


broadcast, (shrunk,) = way_of(BROADCAST, "(N,1)×(N,)"), mean(BROADCAST, "(N,1)×(N,)")
leaked, (leaked_mean,) = way_of(T4_LEAKED, "batch mean, N = 2"), mean(T4_LEAKED, "batch mean, N = 2")
paid_1 = replace(AIM, returns=torch.ones_like)  # leaves ∇ log π alone
attached = estimates(paid_1, AIM.theta, way_of(ATTACHED, "a attached"))[0]  # (K, 3), every row the same
clip_mean, clip_sigma = CLIP.policy(CLIP.theta).mean.item(), CLIP.policy(CLIP.theta).stddev.item()
gamma = INTEGERS.series[0].code()[1] - ONES[1].item()
deviation = (ONE_STEP - ONE_STEP.mean()).item(), ONE_STEP.std(correction=0).item()

# From here to the code
coin = {arm: COIN.returns(torch.tensor(arm)).item() for arm in (arm0, arm1)}
chances = [number for number in NO_MEASURE.series[1].code() if number != 1 / math.e]

# --- the table --------------------------------------------------------------------------------------------------------

CHECKED: list[tuple[str, *tuple[float, ...]]] = [
    # What we want to climb
    ("Arm {} pays R = {}, arm {} pays R = {}.", arm1, R1, arm0, R0),
    ("The policy plays arm {} with probability p", arm1),
    ("and at present p = {}.", p),
    ("J = {}·{} + {}·{} = {}", p, R1, q, R0, J),
    ("Arm {} is the better one", better),
    ("The slope of a sigmoid is p({} − p) = {}:", one, derivative(torch.sigmoid, BANDIT.theta.item())),
    ("as θ rises, arm {} gains probability at that rate, and arm {} loses as much", arm1, arm0),
    ("∇J = {}·{} − {}·{} = {}", dp, R1, -dq, R0, slope),
    # Why this is not an average yet
    ("here it is {} for arm {} and {} for arm {}", dp, arm1, dq, arm0),
    ('"with probability {}"', dq),
    # The trick
    ("The slope of log x is {}/x", p * derivative(torch.log, p)),
    ("For arm {} it is {}/{} = {}, for arm {} it is {}/{} = {}.", arm1, dp, p, score1, arm0, dq, q, score0),
    ("Play many times: {:word} times in {:word} you get arm {}", often.numerator, often.denominator, arm1),
    ("and {:word} time in {:word} arm {}.", often.denominator - often.numerator, often.denominator, arm0),
    ("The average is {}·{}·{} + {}·({})·{}", p, score1, R1, q, score0, R0),
    ("= {} − {} = {} which is exactly ∇J", p * score1 * R1, -q * score0 * R0, sampled),
    ("arm {} is rare", arm0),
    # What goes wrong without it
    ("over the actions that you play: {}·{}·{} + {}·({})·{}", p, dp, R1, q, dq, R0),
    ("= {} − {} = {:+} The sign is wrong", p * dp * R1, -q * dq * R0, without_log),
    ("Arm {} pays twice as much, but it is played {:word} times less often", better, p / q),
    ("Take {} steps of ascent with learning rate {}", STEPS, LEARNING_RATE),
    ("With the log p goes from {} to {:.4f}, which is right", p, chance_after("−log π·R")),
    ("without it to {:.3f}", chance_after("−π·R, no log")),
    ("Each dot is the mean of {} samples", SAMPLES),
    # Continuous action
    ("With s = {}, w = {}, b = {} and σ = {} the mean is μ = {}.", s, w, b, sigma, mu),
    ("The target is {}, and the reward is R = −(a − {})².", target, target),
    ("J = −(μ − {})² − σ² = {} − {} = {}", target, -((mu - target) ** 2), sigma**2, worth(AIM)),
    ("its slope along μ, {}(μ − {}) = {}.", slope_mu / (mu - target), target, slope_mu),
    ("so ∇_b J is {} too", slope_b),
    ("∇_w J = {}·{} = {}.", s, slope_mu, slope_w),
    ("½ log {}π", in_two_pi),
    ("∇_w log π = (a − μ)·s/σ² = {}(a − {})", score_slope, mu),
    ("| a | R = −(a − {})² | score {}(a − {}) |", target, score_slope, mu),
    ("| {} | {} | {} | {} |", high, R_high, score_high, g_high),
    ("| {} | {} | {} | {} |", low, R_low, score_low, g_low),
    ("({} + {})/{} = {}: exactly ∇_w J", g_high, g_low, len((high, low)), average),
    ("a = {}, pushes w down a little, by {};", high, -g_high),
    ("a = {}, pushes w up a lot, by {}.", low, g_low),
    ("the average for b is {:.4f} instead of {}", mean(T3, "−π·R, no log")[1], slope_b),
    ("the wrong sign, {:+.4f} instead of {}", mean(T3, "−π·R, no log")[2], slope_log_sigma),
    # Baselines
    ("gradient for b has variance {}: it strays by {:.1f}", variance_b, math.sqrt(variance_b)),
    ("around a mean of {}.", mean(T3, "−log π·R")[1]),
    ("in T1, {}·{} + {}·({}) = {}.", p, score1, q, score0, p * score1 + q * score0),
    ("The mean stays {}, the noise does not", mean(T4_CONSTANT, "b = J = 1.2")[0]),
    ("| baseline b | {} | J = {} | {} | {} |", 0, J, best, silly),
    ("| variance of one sample | {} | {} | {} | {} |", *map(variance_less, (0, J, best, silly))),
    ("makes the variance {} times smaller here", variance_less(0) / variance_less(J)),
    # Many steps
    ("of {:word} steps and {:word} parameters", steps, len(TWO_STEPS.parameters)),
    ("where J = {} and ∇J = ({}, {}, {})", worth(TWO_STEPS), *slopes(TWO_STEPS)),
    ("from {} to {};", *(sum(variance(T6, label)) for label in ("whole return", "reward-to-go"))),
    ("is worth brings it to {}.", sum(variance(T6, "reward-to-go − V(s)"))),
    # From here to the code
    ("Let arm {} pay {} and arm {} pay {}:", *(number for arm in (arm1, arm0) for number in (arm, coin[arm]))),
    (
        "That is {:.3f} at p = {}, {:.3f} at p = {} and {:.3f} at p = {}",
        *(f(x) for x in chances for f in (expected_loss, float)),
    ),
    ("y = {} for UP, y = {} for DOWN", ALE_ACTIONS.index(UP), ALE_ACTIONS.index(DOWN)),
    ("The slope of p is p({} − p), as in T1", one),
    ("for UP p({} − p)/p = {} − p, for DOWN −p({} − p)/({} − p) = −p", one, one, one, one),
    ("it is {} − {} = {} for arm {} and {} − {} = {} for arm {}", arm1, p, score1, arm1, arm0, p, score0, arm0),
    # Why not differentiate the reward itself?
    ("in T3, for b, variance {} instead of {}.", variance(T7, "pathwise")[0], variance_b),
    ("R = {} if a > {}, else R = {}, with μ = {} and σ = {}.", won, jump, lost, mu, sigma),
    ("The true slope along μ is {:.5f}.", slopes(STEP)[0]),
    ("the pathwise gradient is {} in every sample", no_slope),
    # What people get wrong
    (
        "the first from {} to {:.4f}, where −log π·R gives {:.4f}",
        J,
        after_one_step("+log π·R"),
        after_one_step("−log π·R"),
    ),
    ("here the wrong way, {:+} instead of {}", without_log, sampled),
    ("the gradient is {} on average", max(map(abs, mean(T2, "log π of a new draw")))),
    (
        "| ({:fraction}, {:fraction}, {:fraction}) instead of ({:fraction}, {:fraction}, {:fraction})",
        *(*mean(T2, "log π of greedy arm"), *slopes(T2.system)),
    ),
    ("shapes (N, {}) and (N,)", ONES[:, None].shape[1]),
    ("N = {}: {}, {}/N of {}", broadcast.batch_size, shrunk, shrunk / sampled * broadcast.batch_size, sampled),
    ("∂ log π/∂μ = {} and ∂ log π/∂ log σ = {}, whatever", *attached[0][[1, 2]].tolist()),
    ("a ~ N({}, {}), clipped to ±{}", clip_mean, clip_sigma, CLIP.returns(torch.tensor([math.inf])).item()),
    ("paid with itself: {:.3f} instead of {:.3f}", *mean(CLIPPED, "log π(clip(a))"), *slopes(CLIP)),
    ("flips the sign: {:+}, not {}", *mean(MEAN_OF_STEPS, "mean over steps"), *slopes(STOPPING)),
    ("by (N − {})/N", leaked.batch_size * (1 - leaked_mean / sampled)),
    ("; N = {}: {} instead of {}", leaked.batch_size, leaked_mean, sampled),
    ("biased: {} instead of {}", *mean(T4_LEAKED, "b = 1[a=1]"), sampled),
    ("cut off: rewards {}, {}, {} with γ = {:.6g}", *ONES.tolist(), gamma),
    (
        "give {}, {}, {}, not {:.6g}, {:.6g}, {}",
        *into_zeros_like(ONES, gamma),
        *discounted_returns(ONES, gamma).tolist(),
    ),
    ("| {}/{} = {},", *deviation, *mean_and_std(ONE_STEP)),
]


def equations(text: str) -> list[str]:
    """What the page works out in numbers alone, as 0.8·1 + 0.2·2 = 1.2."""
    number = r"\(*[−+]?\d+(?:\.\d+)?\)*"
    side = rf"{number}(?:(?:·|/| [−+] ){number})*"
    found = re.findall(rf"(?<!\S){side}(?: = {side})+", text)
    return [equation for equation in found if equation.count("(") == equation.count(")")]


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "numbers"), [(row[0], row[1:]) for row in CHECKED], ids=[row[0] for row in CHECKED]
)
def test_the_page_says_what_the_code_gives(sentence: str, numbers: tuple[float, ...]) -> None:
    assert PAGE.count(filled(sentence, numbers)) == 1, f"the code gives: {filled(sentence, numbers)}"


def test_no_other_number_is_on_the_page() -> None:
    rest = PAGE
    for sentence, *numbers in CHECKED:
        rest = rest.replace(filled(sentence, tuple(numbers)), "…")
    assert numerals(rest) == []


@pytest.mark.parametrize("sentence", [row[0] for row in CHECKED])
def test_no_number_of_the_page_was_copied_into_the_table(sentence: str) -> None:
    assert numerals(re.sub(r"\{[^}]*\}", "", sentence)) == []


def test_a_number_that_nobody_checks_is_noticed() -> None:
    assert numerals("T1 and T10, ½Σπ²R, sₜ₊₁; but T11, 7, −0.5, ⅔ and σ³") == ["T11,", "7,", "−0.5,", "⅔", "σ³"]


def test_every_equation_adds_up() -> None:
    assert len(equations(PAGE)) >= 10
    for equation in equations(PAGE):
        first, *others = (eval(side.translate(str.maketrans("·−", "*-"))) for side in equation.split(" = "))
        assert others == pytest.approx([first] * len(others), abs=1e-12), equation


def test_the_density_is_that_of_the_page() -> None:
    assert "The log of a Gaussian density is −½((a − μ)/σ)² − log σ − ½ log 2π." in PAGE
    mu, log_sigma, a = torch.tensor([0.25, math.log(2), 1.75], dtype=torch.float64)
    by_the_page = -(((a - mu) / log_sigma.exp()) ** 2) / 2 - log_sigma - math.log(2 * math.pi) / 2
    policy = AIM.policy(torch.stack([torch.zeros(()), mu, log_sigma]))
    assert policy.log_prob(a).item() == pytest.approx(by_the_page.item(), abs=1e-12)


def test_the_score_of_pongs_policy_is_y_minus_p() -> None:
    assert "∂ log π/∂z = y − p" in PAGE
    z, y = torch.tensor([[-1.0, 2.0]] * 2, dtype=torch.float64, requires_grad=True), torch.tensor([[0, 0], [1, 1]])
    surrogate_loss(Bernoulli(logits=z).log_prob(y), torch.ones_like(z)).backward()
    assert torch.allclose(-z.grad, y - z.detach().sigmoid(), rtol=0, atol=1e-12)


def test_the_code_of_the_page_is_the_surrogate_loss() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", FILE, flags=re.DOTALL)
    theta = BANDIT.theta.requires_grad_()
    names = {"log_probs": BANDIT.policy(theta).log_prob(ARMS), "returns": BANDIT.returns(ARMS)}
    loss = surrogate_loss(**names)
    (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
    exec(code, names)
    assert names["loss"] == loss
    assert torch.equal(theta.grad, gradient)


def test_links_lead_to_files_and_lines_are_short() -> None:
    links = re.findall(r"\]\(([^)]+)\)", FILE)
    assert len(links) == 4
    assert all((DOCS / link).is_file() for link in links)
    assert max(map(len, FILE.splitlines())) <= 120
