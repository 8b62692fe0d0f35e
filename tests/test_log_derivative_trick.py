"""docs/log-derivative-trick.md: its numbers are those of the code."""

import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli

from pong.losses import surrogate_loss
from pong.toy import EXAMPLES
from pong.toy.examples import AIM, BANDIT, CLIP, STEP, STOPPING, T1, TWO_STEPS, expected_loss, less, tensor
from pong.toy.gradients import episodes, estimates, finite_difference, mean_and_variance, objective

DOCS = Path(__file__).parents[1] / "docs"
FILE = (DOCS / "log-derivative-trick.md").read_text(encoding="utf-8")
TEXT = FILE[: FILE.index("## Sources")]
PAGE = " ".join(re.sub(r"^> ?", "", TEXT, flags=re.MULTILINE).split())  # on one line, without quotation marks


class Number(float):
    """Formatted as on the page, −0.16; only rounded where the sentence gives digits."""

    def __format__(self, spec):
        number = round(self, 8) + 0.0  # finite differences are good to 1e-9; + 0.0: −0 is 0
        text = str(Fraction(number).limit_denominator(99)) if spec == "fraction" else format(number, spec or ".10g")
        return text.replace("-", "−").replace("nan", "NaN")


def row(title, label):
    (example,) = (example for example in EXAMPLES if example.title.startswith(title))
    (entry,) = (entry for entry in example.estimators + example.numbers if entry.label == label)
    return entry


def mean(title, label):
    return mean_and_variance(row(title, label))[0].tolist()


def variance(title, label):
    return mean_and_variance(row(title, label))[1].tolist()


def code(title, label):
    return [float(x) for x in row(title, label).code()]


def slopes(system):
    return finite_difference(partial(objective, system), system.theta).tolist()


def j(system):
    return objective(system, system.theta).item()


BANDITS, GAUSSIAN, CONSTANT, LEAKED = "a bandit: d", "a Gaussian action", "a constant", "baselines that"
JUMP, SIGN, STEPS = "a reward with", "the sign", "two steps: w"
p, q = (episodes(BANDIT, BANDIT.theta)[1].tolist())[::-1]
score0, score1 = estimates(row("the score has mean zero: two", "−log π·1"))[0][:, 0].tolist()
terms = p * score1, -2 * q * score0
w, b, log_sigma = slopes(AIM)
variances = [mean_and_variance(T1._replace(loss=less(x)))[1].item() for x in (0, 1.2, 1.8, 10)]
greedy, right = mean("softmax", "log π of greedy arm"), mean("softmax", "−log π·R")
expected = [x for p in (0.1, 0.5, 0.9) for x in (expected_loss(p), p)]

SENTENCES = [
    ("and at present p = {}.", p),
    ("J = {}·1 + {}·2 = {}", p, q, j(BANDIT)),
    ("∇J = {0}·1 − {0}·2 = {1}", p * q, *slopes(BANDIT)),
    ("here it is {} for arm 1 and {} for arm 0", p * q, -p * q),
    ("For arm 1 it is {}/{} = {}, for arm 0 it is {}/{} = {}.", p * q, p, score1, -p * q, q, score0),
    ("{}·{}·1 + {}·({})·2 = {} − {} = {}", p, score1, q, score0, *terms, *mean(BANDITS, "−log π·R")),
    ("= {} − {} = {:+} The sign is wrong", p * p * q, 2 * q * p * q, *mean(BANDITS, "−π·R, no log")),
    ("With the log p goes from {} to {:.4f}, which is right", p, *code(BANDITS, "p after 50 steps, with the log")),
    ("without it to {:.3f}", *code(BANDITS, "without it (wrong)")),
    ("J = −(μ − 3)² − σ² = −4 − 1 = {}", j(AIM)),
    ("so ∇_b J is {} too", b),
    ("∇_w J = 2·{} = {}.", b, w),
    ("| 2 | −1 | 2 | {} | | 0 | −9 | −2 | {} |", *code(GAUSSIAN, "g_w of a = 0, of a = 2")[::-1]),
    ("({1} + {0})/2 = {2}: exactly ∇_w J", *code(GAUSSIAN, "g_w of a = 0, of a = 2"), *code(GAUSSIAN, "their average")),
    ("the average for b is {:.4f} instead of {}", mean(GAUSSIAN, "−π·R, no log")[1], b),
    ("the wrong sign, {:+.4f} instead of {}", mean(GAUSSIAN, "−π·R, no log")[2], log_sigma),
    ("gradient for b has variance {0}: it strays by {1:.1f}", (v := variance(GAUSSIAN, "−log π·R")[1]), v**0.5),
    ("The mean stays {}, the noise does not", *mean(CONSTANT, "b = J = 1.2")),
    ("| variance of one sample | {} | {} | {} | {} |", *variances),
    ("makes the variance {} times smaller here", variances[0] / variances[1]),
    ("where J = {} and ∇J = ({}, {}, {})", j(TWO_STEPS), *slopes(TWO_STEPS)),
    ("from {} to {};", *(sum(variance(STEPS, label)) for label in ("whole return", "reward-to-go"))),
    ("is worth brings it to {}.", sum(variance(STEPS, "reward-to-go − V(s)"))),
    ("That is {:.3f} at p = {}, {:.3f} at p = {} and {:.3f} at p = {}", *expected),
    ("in T3, for b, variance {} instead of {}.", *variance("score function or pathwise, σ = 1", "pathwise"), v),
    ("The true slope along μ is {:.5f}.", *slopes(STEP)),
    ("the pathwise gradient is {} in every sample", *mean(JUMP, "pathwise")),
    ("from {} to {:.4f}, where −log π·R", *code(SIGN, "+log π·R (wrong)")),
    ("−log π·R gives {:.4f}", code(SIGN, "J, and after a step of lr 1: −log π·R")[1]),
    ("the gradient is {} on average", max(map(abs, mean("softmax", "log π of a new draw")))),
    ("| ({:fraction}, {:fraction}, {:fraction}) instead of ({:fraction}, {:fraction}, {:fraction})", *greedy, *right),
    ("N = 4: {}, 1/N of −0.16", *mean("(N, 1)", "(N,1)×(N,)")),
    ("with itself as reward: {:.3f} instead of {:.3f}", *mean("log π of the clipped", "log π(clip(a))"), *slopes(CLIP)),
    ("flips the sign: {:+}, not {}", *mean("the mean over", "mean over steps"), *slopes(STOPPING)),
    ("N = 2: {} instead of −0.16", *mean(LEAKED, "batch mean, N = 2")),
    ("biased: {} instead of −0.16", *mean(LEAKED, "b = 1[a=1]")),
    ("give {:g}, {:g}, {:g}", *code("integer rewards", "zeros_like (wrong)")),
    ("not {:.6g}, {:.6g}, {:g}", *code("integer rewards", "discounted_returns")),
    ("0/0 = {}", *code("standardising", "(R − mean)/std (wrong)")),
]


@pytest.mark.parametrize(("sentence", "numbers"), [(line[0], line[1:]) for line in SENTENCES])
def test_page_quotes_the_numbers_of_the_code(sentence, numbers):
    assert sentence.format(*map(Number, numbers)) in PAGE


def test_page_equations_add_up():
    number = r"\(*[−+]?\d+(?:\.\d+)?\)*"
    side = rf"{number}(?:(?:·|/| [−+] ){number})*"
    equations = [e for e in re.findall(rf"(?<!\S){side}(?: = {side})+", PAGE) if e.count("(") == e.count(")")]
    assert len(equations) >= 10
    for equation in equations:
        first, *others = (eval(side.translate(str.maketrans("·−", "*-"))) for side in equation.split(" = "))
        assert others == pytest.approx([first] * len(others), abs=1e-12), equation


def test_page_code_is_the_surrogate_loss():
    (text,) = re.findall(r"```python\n(.*?)```", FILE, flags=re.DOTALL)
    theta = BANDIT.theta.requires_grad_()
    names = {"log_probs": Bernoulli(logits=theta).log_prob(tensor(0, 1)), "returns": tensor(2, 1)}
    loss = surrogate_loss(**names)
    (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
    exec(text, names)
    assert names["loss"] == loss
    assert torch.equal(theta.grad, gradient)
