"""The examples of ``pong toy``: by hand = autograd = finite difference, and every number of the ladder T1 to T10.

The derivations stand beside ``by_hand`` in pong/toy/examples/.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pong.losses import surrogate_loss
from pong.toy import EXAMPLES, Example, System, Way
from pong.toy.examples.arithmetic import INTEGERS, NO_MEASURE, NOT_A_NUMBER
from pong.toy.examples.ascent import T9, T9_COIN
from pong.toy.examples.bandits import BANDIT, SOFTMAX, T1, T2
from pong.toy.examples.baselines import T4_CONSTANT, T4_LEAKED, T5_BERNOULLI, T5_GAUSSIAN
from pong.toy.examples.gaussian import AIM, T3, T3_CONTEXT, T3_ONE_SAMPLE
from pong.toy.examples.losses import without_log
from pong.toy.examples.mistakes import ATTACHED, BROADCAST, CLIPPED, MEAN_OF_STEPS, SIGN
from pong.toy.examples.pathwise import T7, T7_NARROW, T7_STEP
from pong.toy.examples.trajectories import LQR, T6, T6_DISCOUNTED, T8, TWO_STEPS, rewards
from pong.toy.gradients import estimates, exact, finite_difference, mean_and_variance
from pong.toy.outcomes import taken
from pong.toy.systems import Series

WITH_SYSTEM = [example for example in EXAMPLES if example.system]


def rows() -> Iterator[object]:
    for example in WITH_SYSTEM:
        for way in example.ways:
            yield pytest.param(example.system, way, id=f"{example.name} {example.title[:20]} | {way.label}")


def named(example: Example) -> str:
    return f"{example.name} {example.title[:20]}"


def way_of(example: Example, label: str) -> Way:
    (way,) = (way for way in example.ways if way.label == label)
    return way


def code_of(example: Example, label: str) -> list[float]:
    (series,) = (series for series in example.series if series.label == label)
    return list(series.code())


# --- every example, every way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "way"), list(rows()))
def test_by_hand_equals_autograd(system: System, way: Way) -> None:
    mean, variance = exact(system, way)
    assert mean.tolist() == pytest.approx(list(way.by_hand), rel=1e-12, abs=1e-12)
    if way.variance:  # of order 100 where the means are of order 1, so relative
        assert variance.tolist() == pytest.approx(list(way.variance), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("system", "way"), list(rows()))
def test_finite_difference_tells_right_from_wrong(system: System, way: Way) -> None:
    slopes = finite_difference(system.objective, system.theta).tolist()
    if way.wrong:
        assert max(abs(slope - number) for slope, number in zip(slopes, way.by_hand, strict=True)) > 0.05
    else:
        assert slopes == pytest.approx(list(way.by_hand), rel=0, abs=1e-7)


@pytest.mark.parametrize(
    "series",
    [pytest.param(one, id=f"{named(example)} | {one.label}") for example in EXAMPLES for one in example.series],
)
def test_series_by_hand_equal_the_code(series: Series) -> None:
    tolerance = 1e-12 if series.digits == 12 else 0.5 * 10**-series.digits
    assert list(series.code()) == pytest.approx(list(series.by_hand), rel=0, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("example", WITH_SYSTEM, ids=named)
def test_each_example_begins_with_the_right_way_and_has_one_number_per_parameter(example: Example) -> None:
    assert not example.ways[0].wrong
    for way in example.ways:
        assert len(way.by_hand) == len(example.system.parameters)
        assert len(way.variance) in (0, len(way.by_hand))


@pytest.mark.parametrize("example", WITH_SYSTEM, ids=named)
def test_outcomes_are_weighted_by_probabilities_and_reproduce_the_objective(example: Example) -> None:
    system, theta = example.system, example.system.theta
    policy = system.policy(theta)
    outcomes, weights = system.outcomes.listed(policy)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-14)
    worth = system.returns(outcomes)
    if system.objective_name == "log π·R":
        worth = worth * policy.log_prob(outcomes)
    worth = worth if worth.dim() == 1 else worth[:, 0]  # an episode's return is the same at each of its steps
    assert (weights @ worth).item() == pytest.approx(system.objective(theta).item(), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_texts_fit(example: Example) -> None:
    assert len(example.title) <= 44
    assert len(example.teaches) <= 50
    assert max(map(len, example.story.splitlines())) <= 100
    assert example.notice


def test_the_ladder_has_all_its_rungs() -> None:
    assert list(dict.fromkeys(example.name for example in EXAMPLES)) == [f"T{n}" for n in range(1, 11)]
    assert len({example.title for example in EXAMPLES}) == len(EXAMPLES)


# --- the numbers: mean, variance, and the digits they are given with (12: exact) --------------------------------------

X = 12
FACTS: list[tuple[Example, str, tuple[float, ...] | None, tuple[float, ...] | None, int]] = [
    (T1, "−log π·R", (-0.16,), (0.5184,), X),
    (T1, "−π·R, no log", (0.064,), None, X),
    (T2, "−log π·R", (2 / 3, 1 / 3, -1), None, X),
    (T2, "log π of a new draw", (0, 0, 0), None, X),
    (T2, "log π of greedy arm", (-1 / 3, -2 / 3, 1), None, X),
    (T3, "−log π·R", (8, 4, -2), (348, 87, 346), X),
    (T3_CONTEXT, "−log π·R", (7.5, 4.5), None, X),
    (T3_ONE_SAMPLE, "−log π·R", (24, 12, 12, 9), None, X),
    (T4_CONSTANT, "b = 0", (-0.16,), (0.5184,), X),
    (T4_CONSTANT, "b = J = 1.2", (-0.16,), (0.0576,), X),
    (T4_CONSTANT, "b = 1.8", (-0.16,), (0,), X),
    (T4_CONSTANT, "b = 10", (-0.16,), (10.7584,), X),
    (T4_LEAKED, "mean of the others", (-0.16,), None, X),
    (T4_LEAKED, "batch mean, N = 2", (-0.08,), None, X),
    (T4_LEAKED, "batch mean, std, N = 3", (-0.2263,), None, 4),
    (T4_LEAKED, "batch mean, std, N = 8", (-0.3371,), None, 4),
    (T4_LEAKED, "b = 1[a=1]", (-0.32,), None, X),
    (T5_BERNOULLI, "−log π·1", (0,), (0.16,), X),
    (T5_GAUSSIAN, "−log π·1", (0, 0), (1 / 0.5**2, 2), X),
    (T6, "whole return", (0.2, 0.16, -0.5), (1.91, 0.1464, 0.90625), X),
    (T6, "reward-to-go", (0.2, 0.16, -0.5), (1.91, 0.0384, 0.75), X),
    (T6_DISCOUNTED, "γᵗ·Gₜ", (0.225, 0.08, -0.25), None, X),
    (T6_DISCOUNTED, "Gₜ, as most do", (0.225, 0.16, -0.5), None, X),
    (T7, "score", (4,), (87,), X),
    (T7, "score, b = J", (4,), (42,), X),
    (T7, "score, best b", (4,), (38,), X),
    (T7, "pathwise", (4,), (4,), X),
    (T7_NARROW, "score", (4,), (1656.15,), X),
    (T7_NARROW, "score, b = J", (4,), (32.1,), X),
    (T7_NARROW, "score, best b", (4,), (32.06,), X),
    (T7_NARROW, "pathwise", (4,), (0.04,), X),
    (T7_STEP, "score", (0.24197,), None, 5),
    (T7_STEP, "score", None, (0.3421,), 4),
    (T7_STEP, "pathwise", (0,), (0,), X),
    (T8, "whole return", (-2.5,), None, X),
    (T8, "whole return", None, (192.3525,), 4),
    (T8, "reward-to-go", None, (111.1729,), 4),
    (T8, "pathwise", (-2.5,), (22.25,), X),
    (SIGN, "+log π·R", (0.16,), (0.5184,), X),
    (BROADCAST, "(N,1)×(N,)", (-0.04,), None, X),
    (ATTACHED, "a attached", (0, 0, 5), (0, 0, 18), X),  # −1·E[R] for log σ
    (CLIPPED, "log π(a)", (0.683,), None, 3),
    (CLIPPED, "log π(clip(a))", (0.516,), None, 3),
    (MEAN_OF_STEPS, "sum over steps", (-0.125,), None, X),
    (MEAN_OF_STEPS, "mean over steps", (0.0625,), None, X),
]


@pytest.mark.parametrize(
    ("example", "label", "mean", "variance", "digits"), FACTS, ids=[f"{row[0].name} {row[1]}" for row in FACTS]
)
def test_numbers(
    example: Example, label: str, mean: tuple[float, ...] | None, variance: tuple[float, ...] | None, digits: int
) -> None:
    tolerance = 1e-12 if digits == X else 0.5 * 10**-digits
    for expected, got in zip((mean, variance), exact(example.system, way_of(example, label)), strict=True):
        if expected is not None:
            assert got.tolist() == pytest.approx(list(expected), rel=1e-12, abs=tolerance)


@pytest.mark.parametrize(
    ("example", "label", "total", "tolerance"),
    [
        (T2, "−log π·R", 6.9444, 5e-5),
        (T2, "R − J", 2.2778, 5e-5),
        (T2, "R − 32/11, best b", 1.77273, 5e-6),
        (T6, "whole return", 2.96265, 1e-12),
        (T6, "reward-to-go", 2.6984, 1e-12),
        (T6, "reward-to-go − V(s)", 0.9783, 1e-12),
    ],
)
def test_sums_of_the_variances(example: Example, label: str, total: float, tolerance: float) -> None:
    assert exact(example.system, way_of(example, label))[1].sum().item() == pytest.approx(total, abs=tolerance)


@pytest.mark.parametrize(
    ("example", "objective"),
    [(T1, 1.2), (T2, 2), (T3, -5), (T6, 2.3), (T6_DISCOUNTED, 1.4), (T8, -2.5625), (T9, -5), (T9_COIN, 0.5)],
    ids=lambda value: named(value) if isinstance(value, Example) else str(value),
)
def test_objectives(example: Example, objective: float) -> None:
    assert example.system.objective(example.system.theta).item() == pytest.approx(objective, abs=1e-12)


SERIES: list[tuple[Example, str, list[float], float]] = [
    (T1, "p after 50 steps, with the log", [0.0262], 5e-5),
    (T1, "without it", [0.975], 5e-4),
    (T2, "middle arm played: estimate", [-0.5, 2, -1.5], 1e-12),
    (T2, "J, and after a step of lr ½", [2, 2.771969], 5e-7),
    (T3, "g_w of a = 2, of a = 0, average", [-2, 18, 8], 0),
    (T3_ONE_SAMPLE, "loss", [6.677374], 5e-7),
    (T6, "(1, B, 0): P, whole return", [0.0625, 2.5, 0, -2.5], 1e-12),
    (T6, "(1, B, 0): P, reward-to-go", [0.0625, 2.5, 0, -2], 1e-12),
    (T6, "E[score of a₁ · r₁]", [0, 0, 0], 1e-12),
    (T9, "lr ¼: μ", [1, 2, 2.5, 2.75], 1e-12),
    (T9, "lr ¼: J", [-5, -2, -1.25, -1.0625], 1e-12),
    (T9, "lr ½: μ", [1, 3, 3], 1e-12),
    (T9, "lr 1: μ", [1, 5, 1, 5], 1e-12),
    (T9, "lr 1.1: μ", [1, 5.4, 0.12, 6.456], 1e-12),
    (T9_COIN, "lr 1: p", [0.5, 0.5622, 0.6216, 0.6751], 5e-5),
    (SIGN, "p and J after one step: −log π·R", [0.7732, 1.2268], 5e-5),
    (SIGN, "+log π·R", [0.8244, 1.1756], 5e-5),
    (NO_MEASURE, "E[loss]", [0.230, 0.368, 0.347, 0.095], 5e-4),
    (NO_MEASURE, "J", [0.1, 0.368, 0.5, 0.9], 5e-4),
    (INTEGERS, "discounted_returns", [2.8525, 1.95, 1], 5e-7),  # float32: the dtype integers become
    (INTEGERS, "into zeros_like(rewards)", [2, 1, 1], 0),
    (NOT_A_NUMBER, "standardize", [0], 0),
    (NOT_A_NUMBER, "(R − mean)/std", [math.nan], 0),
]


@pytest.mark.parametrize(
    ("example", "label", "numbers", "tolerance"), SERIES, ids=[f"{row[0].name} {row[1]}" for row in SERIES]
)
def test_series(example: Example, label: str, numbers: list[float], tolerance: float) -> None:
    assert code_of(example, label) == pytest.approx(numbers, rel=0, abs=tolerance, nan_ok=True)


# --- what the stories say besides -------------------------------------------------------------------------------------


def test_t1_single_samples() -> None:
    gradients, weights = estimates(BANDIT, BANDIT.theta, T1.ways[0])  # a = 0, then a = 1
    assert weights.tolist() == pytest.approx([0.2, 0.8], abs=1e-15)
    assert gradients[:, 0].tolist() == pytest.approx([-0.8 * 2, 0.2 * 1], abs=1e-15)  # (a − p)·R


def test_t1_without_the_log_climbs_half_the_sum_of_pi_squared_times_r() -> None:
    # ∇ ½(p²·1 + (1−p)²·2) = p(1−p)·(p − 2(1−p)) = .16(.8 − .4) = .064
    def climbed(theta: Tensor) -> Tensor:
        p = theta[0].sigmoid()
        return (p**2 + 2 * (1 - p) ** 2) / 2

    assert finite_difference(climbed, BANDIT.theta).tolist() == pytest.approx([0.064], abs=1e-9)
    assert exact(BANDIT, Way("", without_log, ()))[0].tolist() == pytest.approx([0.064], abs=1e-12)


def test_t2_no_other_baseline_is_better() -> None:
    def total(b: float) -> float:
        shifted = replace(SOFTMAX, returns=lambda action: SOFTMAX.returns(action) - b)
        return exact(shifted, Way("", surrogate_loss, ()))[1].sum().item()

    assert total(32 / 11) == pytest.approx(1.77273, abs=5e-6)
    assert total(32 / 11) < min(total(32 / 11 - 0.01), total(32 / 11 + 0.01))


def test_t3_two_samples_average_to_the_gradient_of_w_and_b() -> None:
    # a = 2: R = −1, g_b = (+1)(−1) = −1, g_w = 2g_b; a = 0: R = −9, g_b = (−1)(−9) = 9. Both lie σ from μ, where the
    # score of log σ, (a−μ)²/σ² − 1, is 0.
    gradients, weights = estimates(replace(AIM, outcomes=taken(2.0, 0.0)), AIM.theta, T3.ways[0])
    assert gradients.tolist() == [[-2.0, -1.0, 0.0], [18.0, 9.0, 0.0]]
    assert (weights @ gradients).tolist() == [8.0, 4.0, 0.0]


def test_t4_divided_by_the_true_deviation_the_gradient_would_be_minus_point_four() -> None:
    # √(.8·.2) = .4; the batch's estimates −.2263 and −.3371 lie between −.16 and −.4
    _, weights = BANDIT.outcomes.listed(BANDIT.policy(BANDIT.theta))
    returns = BANDIT.returns(torch.tensor([0.0, 1.0], dtype=torch.float64))
    deviation = (weights @ (returns - weights @ returns) ** 2).sqrt().item()
    assert -0.16 / deviation == pytest.approx(-0.4, abs=1e-12)


def test_t6_trajectories_pay_what_the_story_says() -> None:
    outcomes, weights = TWO_STEPS.outcomes.listed(TWO_STEPS.policy(TWO_STEPS.theta))
    paid = {
        tuple(map(int, row)): (pair, weight)
        for row, pair, weight in zip(outcomes.tolist(), rewards(outcomes).tolist(), weights.tolist(), strict=True)
    }
    assert {row: pair for row, (pair, _) in paid.items()} == {
        (0, 0, 0): [0, 4],  # a₀, in A?, a₁
        (0, 0, 1): [0, 0],
        (0, 1, 0): [0, 0],
        (0, 1, 1): [0, 2],
        (1, 0, 0): [1, 4],
        (1, 0, 1): [1, 0],
        (1, 1, 0): [1, 0],
        (1, 1, 1): [1, 2],
    }
    assert paid[1, 1, 1][1] == pytest.approx(0.5 * 0.75 * 0.8, abs=1e-15)
    assert paid[0, 1, 0][1] == pytest.approx(0.5 * 0.25 * 0.2, abs=1e-15)


def test_t6_dynamics_drop_out() -> None:
    # P(τ) with its dynamics as a function of θ, differentiated whole: ∇ log P(τ) is the sum of the two scores
    outcomes, _ = TWO_STEPS.outcomes.listed(TWO_STEPS.policy(TWO_STEPS.theta))
    for i in range(len(outcomes)):
        whole = finite_difference(
            lambda theta, i=i: TWO_STEPS.outcomes.listed(TWO_STEPS.policy(theta))[1][i].log(), TWO_STEPS.theta
        )
        scores = finite_difference(
            lambda theta, i=i: TWO_STEPS.policy(theta).log_prob(outcomes)[i].sum(), TWO_STEPS.theta
        )
        assert whole.tolist() == pytest.approx(scores.tolist(), abs=1e-9)


def test_t7_b_is_the_objective() -> None:
    for example in (T7, T7_NARROW):
        system, action = example.system, torch.tensor([0.25], dtype=torch.float64)
        baseline = system.returns(action) - way_of(example, "score, b = J").returns(action)
        assert baseline.item() == pytest.approx(system.objective(system.theta).item(), abs=1e-12)


def test_t8_objective_by_its_formula_in_c_and_sigma() -> None:
    c, sigma = 0.5, 1.0
    formula = -(c**4 + c**2 * (1 + sigma**2) + 2 * sigma**2)
    assert LQR.objective(LQR.theta).item() == formula == -2.5625


def test_t10_one_sided_numbers_of_every_attached_sample() -> None:
    # ∂log p/∂μ = 0 and ∂log p/∂log σ = −1 in each, so with R = 1 nothing varies
    ones = replace(AIM, returns=torch.ones_like)
    gradients, _ = estimates(ones, AIM.theta, way_of(ATTACHED, "a attached"))
    assert torch.allclose(gradients, torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_t10_broadcast_shrinks_the_mean_to_one_nth(n: int) -> None:
    way = replace(way_of(BROADCAST, "(N,1)×(N,)"), batch_size=n)
    assert exact(BANDIT, way)[0].tolist() == pytest.approx([-0.16 / n], abs=1e-12)


def test_t10_broadcast_summed_keeps_the_mean_and_hides_in_the_variance() -> None:
    def summed(log_probs: Tensor, returns: Tensor) -> Tensor:
        return -(log_probs[:, None] * returns).sum()

    for loss, variance in ((surrogate_loss, 4 * 0.5184), (summed, 19.2768)):
        got = exact(BANDIT, Way("", loss, (), batch_size=4))
        assert [number.item() for number in got] == pytest.approx([-0.64, variance], abs=1e-12)


def test_t10_surrogate_loss_refuses_the_broadcast_in_the_words_of_the_story() -> None:
    with pytest.raises(ValueError, match="the same shape") as caught:
        surrogate_loss(torch.zeros(4, 1), torch.zeros(4))
    assert f"ValueError: {caught.value}" in BROADCAST.story


# --- the tools --------------------------------------------------------------------------------------------------------


def test_mean_and_variance_by_hand() -> None:
    # ¼·(0, 1) + ¾·(4, 1) = (3, 1);  ¼·9 + ¾·1 = 3
    gradients = torch.tensor([[0.0, 1.0], [4.0, 1.0]], dtype=torch.float64)
    mean, variance = mean_and_variance(gradients, torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert (mean.tolist(), variance.tolist()) == ([3.0, 1.0], [3.0, 0.0])


def test_finite_difference_of_a_cubic() -> None:
    # ∂(x³ + 2y)/∂(x, y) at (2, 5) = (3x², 2) = (12, 2)
    slopes = finite_difference(lambda v: v[0] ** 3 + 2 * v[1], torch.tensor([2.0, 5.0], dtype=torch.float64))
    assert slopes.tolist() == pytest.approx([12.0, 2.0], abs=1e-8)
