"""The examples of ``pong toy``: by hand = autograd = finite difference, in exact numbers and by Monte Carlo."""

import math
from functools import partial

import pytest
import torch

from pong.losses import surrogate_loss
from pong.toy.examples import AIM, BANDIT, EXAMPLES, LOSSES, T1, T3, TWO_STEPS, tensor
from pong.toy.gradients import Estimator, System, episodes, estimates, finite_difference, mean_and_variance, objective
from pong.toy.gradients import quadrature as gaussian_nodes

ALL = [
    pytest.param(estimator, id=f"{example.name} {example.title[:20]} | {estimator.label}")
    for example in EXAMPLES
    for estimator in example.estimators
]
NUMBERS = [
    pytest.param(numbers, id=f"{example.name} {example.title[:20]} | {numbers.label}")
    for example in EXAMPLES
    for numbers in example.numbers
]
UNBIASED = {"−log π·R", "−log π·R, mean", "−log π·1", "R − J", "R − 32/11, best b", "mean of the others", "γᵗ·Gₜ"}
UNBIASED |= {"b = 0", "b = J = 1.2", "b = 1.8", "b = 10", "whole return", "reward-to-go", "reward-to-go − V(s)"}
UNBIASED |= {"score", "score, b = J", "score, best b", "pathwise", "log π(a)", "sum over steps"}  # but T7's jump


def slopes(system):
    return finite_difference(partial(objective, system), system.theta)


def find(title, label):
    (estimator,) = (e for example in EXAMPLES if title in example.title for e in example.estimators if e.label == label)
    return estimator


@pytest.mark.parametrize("estimator", ALL)
def test_mean_and_variance_equal_the_values_by_hand(estimator):
    mean, variance = mean_and_variance(estimator)
    assert mean.tolist() == pytest.approx(list(estimator.mean), rel=1e-12, abs=1e-12)
    if estimator.variance:  # of order 100 where the means are of order 1, so relative
        assert variance.tolist() == pytest.approx(list(estimator.variance), rel=1e-12, abs=1e-12)
    else:
        assert estimator.label in ("−π·R, no log", "a and R attached")


@pytest.mark.parametrize("estimator", ALL)
def test_finite_difference_equals_unbiased_means(estimator):
    off = (slopes(estimator.system) - tensor(*estimator.mean)).abs().max().item()
    jump = estimator.label == "pathwise" and estimator.mean == (0,)
    if estimator.label in UNBIASED and not jump:
        assert off < 1e-7
    else:
        assert off > 0.05


@pytest.mark.parametrize("numbers", NUMBERS)
def test_numbers_equal_the_code(numbers):
    tolerance = 1e-12 if numbers.digits == 12 else 0.5 * 10**-numbers.digits
    assert [float(x) for x in numbers.code()] == pytest.approx(numbers.by_hand, rel=0, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("estimator", ALL)
def test_estimates_have_the_mean_by_hand(estimator):
    # 5 standard errors of 400 batches, which no estimator exceeds by chance with seed 1
    gradients, weights = estimates(estimator, count=400, seed=1)
    assert weights.tolist() == pytest.approx([1 / 400] * 400)
    error = (mean_and_variance(estimator)[1] / 400).sqrt() + 1e-12
    assert ((gradients.mean(dim=0) - tensor(*estimator.mean)).abs() <= 5 * error).all()


def test_estimates_depend_on_the_seed():
    first, again, other = (estimates(T3, count=20, seed=seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_examples_are_complete():
    for example in EXAMPLES:
        assert len(example.title) <= 44
        assert len(example.teaches) <= 51
        assert max(map(len, example.story.splitlines())) <= 100
        assert example.notice
        assert example.estimators or example.numbers
    assert list(dict.fromkeys(example.name for example in EXAMPLES)) == [f"T{n}" for n in range(1, 12)]
    assert len(EXAMPLES) == len({example.title for example in EXAMPLES}) == 26


@pytest.mark.parametrize(
    ("title", "label", "mean", "variance"),
    [  # to the digits of the stories
        ("a Gaussian action", "−π·R, no log", (1.1284, 0.5642, 0.4937), None),  # (2, 1, ⅞)/√π
        ("know the action", "batch mean, std, N = 3", (-0.2263,), None),
        ("know the action", "batch mean, std, N = 8", (-0.3371,), None),
        ("pathwise, σ = 1", "score", (4,), (87,)),
        ("pathwise, σ = 1", "score, b = J", (4,), (42,)),
        ("pathwise, σ = 1", "score, best b", (4,), (38,)),
        ("pathwise, σ = .1", "score", (4,), (1656.15,)),
        ("pathwise, σ = .1", "score, b = J", (4,), (32.1,)),
        ("pathwise, σ = .1", "score, best b", (4,), (32.06,)),
        ("pathwise, σ = .1", "pathwise", (4,), (0.04,)),
        ("a reward with a step", "score", (0.24197,), (0.3421,)),
        ("regulator", "whole return", (-2.5,), (192.3525,)),
        ("regulator", "reward-to-go", (-2.5,), (111.1729,)),
        ("(N, 1)", "(N,1)×(N,)", (-0.04,), (0.0753,)),
        ("stays attached", "a and R attached", (-11.3515, -5.6758, 9.8379), None),  # −4 − 4 ln 2π, half, 8 + ln 2π
        ("clipped", "log π(a)", (0.68269,), (0.4475,)),
        ("clipped", "log π(clip(a))", (0.51606,), None),
    ],
)
def test_mean_and_variance_by_formula(title, label, mean, variance):
    exact = mean_and_variance(find(title, label))
    assert exact[0].tolist() == pytest.approx(mean, abs=5e-5)
    if variance:
        assert exact[1].tolist() == pytest.approx(variance, abs=5e-5)


@pytest.mark.parametrize(("label", "total"), [("−log π·R", 6.9444), ("R − J", 2.2778), ("R − 32/11, best b", 1.7727)])
def test_variance_sums_of_the_story(label, total):
    assert mean_and_variance(find("softmax", label))[1].sum().item() == pytest.approx(total, abs=5e-5)


@pytest.mark.parametrize(
    ("estimator", "j"),
    [
        (T1, 1.2),
        (find("softmax", "−log π·R"), 2),
        (T3, -5),
        (find("two states", "−log π·R"), -6.625),  # −(1.5² + 3²)/2 − 1
        (find("what is an action paid", "whole return"), 2.3),
        (find("discounted", "γᵗ·Gₜ"), 1.4),
        (find("a reward with a step", "score"), math.erfc(math.sqrt(0.5)) / 2),  # 1 − Φ(1)
        (find("regulator", "whole return"), -(0.5**4 + 2 * 0.5**2 + 2)),  # −(c⁴ + 2c² + 2) = −2.5625
        (find("instead of the sum", "sum over steps"), 1.125),  # .5 + .25 + 1.5(.25)
    ],
)
def test_objective_by_hand(estimator, j):
    assert objective(estimator.system, estimator.system.theta).item() == pytest.approx(j, abs=1e-12)


def test_episodes_of_two_steps():
    rows, weights = episodes(TWO_STEPS, TWO_STEPS.theta)
    rewards = dict(zip(map(tuple, rows.choices.tolist()), rows.rewards.tolist(), strict=True))  # (a₀, in A?, a₁)
    assert rewards == {
        (a, s, b): [a, 2 if s and b else 4 if not s and not b else 0] for a in (0, 1) for s in (0, 1) for b in (0, 1)
    }
    assert weights[rows.choices.tolist().index([0, 1, 0])].item() == pytest.approx(0.5 * 0.25 * 0.2)
    for i in range(8):  # ∇ log P(τ), dynamics and all, is the sum of the scores
        whole = finite_difference(lambda theta, i=i: episodes(TWO_STEPS, theta)[1][i].log(), TWO_STEPS.theta)
        scores = finite_difference(lambda theta, i=i: episodes(TWO_STEPS, theta)[0].log_probs[i].sum(), TWO_STEPS.theta)
        assert whole.tolist() == pytest.approx(scores.tolist(), abs=1e-9)


def test_estimates_of_attached_samples():
    constant = System(AIM.parameters, lambda theta, choices: [AIM.play(theta, choices)[0] * 0 + 1])
    gradients, _ = estimates(Estimator(constant, LOSSES["score"], attached=True))
    assert torch.allclose(gradients, tensor(0, 0, -1), rtol=0, atol=1e-12)


def test_story_of_broadcasting_quotes_the_error():
    with pytest.raises(ValueError, match="the same shape") as caught:
        surrogate_loss(torch.zeros(4, 1), torch.zeros(4))
    (example,) = (example for example in EXAMPLES if example.title.startswith("(N, 1)"))
    assert f"ValueError: {caught.value}" in example.story


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_mean_shrinks_by_one_nth(n):
    assert mean_and_variance(Estimator(BANDIT, LOSSES["less mean"], n=n))[0].item() == pytest.approx(
        -0.16 * (n - 1) / n
    )
    assert mean_and_variance(Estimator(BANDIT, LOSSES["outer product"], n=n))[0].item() == pytest.approx(-0.16 / n)


def test_quadrature_moments():
    for nodes, weights in (gaussian_nodes(48), gaussian_nodes(48, [0.5])):
        moments = [(weights @ nodes**power).item() for power in range(9)]
        assert moments == pytest.approx([1, 0, 1, 0, 3, 0, 15, 0, 105], rel=1e-12, abs=1e-11)


def test_finite_difference_by_hand():
    # ∂(x³ + 2y)/∂(x, y) at (2, 5) = (3x², 2) = (12, 2)
    assert finite_difference(lambda v: v[0] ** 3 + 2 * v[1], tensor(2, 5)).tolist() == pytest.approx([12, 2], abs=1e-8)
