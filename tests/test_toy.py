"""The log-derivative trick in numbers; the derivations stand beside ``by_hand`` in pong/toy/examples.py."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from pong.losses import surrogate_loss
from pong.toy import EXAMPLES, Example, Way, main
from pong.toy.examples import AIM, BANDIT, ONE_SAMPLE, T1, T3, T10_BROADCAST, without_log, wrong_sign
from pong.toy.gradients import (
    Loss,
    System,
    estimates,
    every_action,
    finite_difference,
    mean_and_variance,
    quadrature,
    taken,
)


def rows() -> Iterator[object]:
    for example in EXAMPLES:
        for way in example.ways:
            yield pytest.param(example, way, id=f"{example.name} {example.title[:20]} | {way.label}")


def mean(system: System, loss: Loss, theta: Tensor | None = None, batch_size: int = 1) -> list[float]:
    theta = system.theta if theta is None else theta
    return mean_and_variance(*estimates(system, theta, loss, batch_size))[0].tolist()


# --- every example, every way -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("example", "way"), list(rows()))
def test_by_hand_equals_autograd(example: Example, way: Way) -> None:
    got, variance = mean_and_variance(*estimates(example.system, example.system.theta, way.loss, way.batch_size))
    assert got.tolist() == pytest.approx(list(way.by_hand), rel=0, abs=1e-12)
    if way.variance:  # of order 100 where the means are of order 1, so relative
        assert variance.tolist() == pytest.approx(list(way.variance), rel=1e-12, abs=0)


@pytest.mark.parametrize(("example", "way"), list(rows()))
def test_finite_difference_tells_right_from_wrong(example: Example, way: Way) -> None:
    slopes = finite_difference(example.system.objective, example.system.theta).tolist()
    if way.wrong:
        assert all(abs(slope - number) > 0.1 for slope, number in zip(slopes, way.by_hand, strict=True))
    else:
        assert slopes == pytest.approx(list(way.by_hand), rel=0, abs=1e-7)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.name} {example.title[:20]}")
def test_each_example_begins_with_the_right_way_and_has_one_number_per_parameter(example: Example) -> None:
    assert not example.ways[0].wrong
    for way in example.ways:
        assert len(way.by_hand) == len(example.system.parameters)
        assert len(way.variance) in (0, len(way.by_hand))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.name} {example.title[:20]}")
def test_outcomes_are_weighted_by_probabilities_and_reproduce_the_objective(example: Example) -> None:
    system, theta = example.system, example.system.theta
    outcomes, weights = system.outcomes(system.policy(theta))
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-14)
    worth = system.returns(outcomes)
    if system.objective_name == "log π·R":
        worth = worth * system.policy(theta).log_prob(outcomes)
    assert (weights @ worth).item() == pytest.approx(system.objective(theta).item(), rel=1e-14)


# --- T1: the bandit ---------------------------------------------------------------------------------------------


def test_t1_numbers_of_the_facts() -> None:
    assert BANDIT.objective(BANDIT.theta).item() == pytest.approx(1.2, abs=1e-15)
    assert [way.by_hand for way in T1.ways] == [(-0.16,), (0.064,)]
    assert [way.variance for way in T1.ways] == [(0.5184,), (0.036864,)]


def test_t1_single_samples() -> None:
    gradients, weights = estimates(BANDIT, BANDIT.theta, surrogate_loss)  # a = 0, then a = 1
    assert weights.tolist() == pytest.approx([0.2, 0.8], abs=1e-15)
    assert gradients[:, 0].tolist() == pytest.approx([-0.8 * 2, 0.2 * 1], abs=1e-15)  # (a − p)·R


def test_t1_without_the_log_climbs_half_the_sum_of_pi_squared_times_r() -> None:
    # ∇ ½(p²·1 + (1−p)²·2) = p(1−p)·(p − 2(1−p)) = .16(.8 − .4) = .064
    def climbed(theta: Tensor) -> Tensor:
        p = theta[0].sigmoid()
        return (p**2 + 2 * (1 - p) ** 2) / 2

    assert finite_difference(climbed, BANDIT.theta).tolist() == pytest.approx([0.064], abs=1e-9)
    assert mean(BANDIT, without_log) == pytest.approx([0.064], abs=1e-12)


@pytest.mark.parametrize(("loss", "p", "digits"), [(surrogate_loss, 0.0262, 5e-5), (without_log, 0.975, 5e-4)])
def test_t1_fifty_ascent_steps(loss: Loss, p: float, digits: float) -> None:
    theta = BANDIT.theta
    for _ in range(50):
        theta = theta + torch.tensor(mean(BANDIT, loss, theta))
    assert theta.sigmoid().item() == pytest.approx(p, abs=digits)


# --- T3: the linear-Gaussian policy -----------------------------------------------------------------------------


def test_t3_numbers_of_the_facts() -> None:
    assert AIM.objective(AIM.theta).item() == -5.0
    assert T3.ways[0].by_hand == (8.0, 4.0, -2.0)
    assert T3.ways[0].variance[1] == 87.0
    assert T3.ways[1].by_hand[1] == pytest.approx(0.5642, abs=5e-5)


def test_t3_two_samples_average_to_the_gradient_of_w_and_b() -> None:
    # a = 2: R = −1, g_b = (+1)(−1) = −1, g_w = 2g_b; a = 0: R = −9, g_b = (−1)(−9) = 9. Both lie σ from μ, where the
    # score of log σ, (a−μ)²/σ² − 1, is 0.
    gradients, weights = estimates(replace(AIM, outcomes=taken(2.0, 0.0)), AIM.theta, surrogate_loss)
    assert gradients.tolist() == [[-2.0, -1.0, 0.0], [18.0, 9.0, 0.0]]
    assert (weights @ gradients).tolist() == [8.0, 4.0, 0.0]


def test_t3_one_sample_loss() -> None:
    # 3(½·2² + ln ½ + ½ ln 2π) = 3(2 − .693147 + .918939) = 6.677374
    log_prob = ONE_SAMPLE.policy(ONE_SAMPLE.theta).log_prob(torch.tensor([1.25], dtype=torch.float64))
    loss = surrogate_loss(log_prob, torch.tensor([3.0], dtype=torch.float64)).item()
    assert loss == pytest.approx(3 * (2 - math.log(2) + math.log(2 * math.pi) / 2), abs=1e-12)
    assert loss == pytest.approx(6.677374, abs=5e-7)


# --- T10: sign and broadcast ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "p", "objective"), [(surrogate_loss, 0.7732, 1.2268), (wrong_sign, 0.8244, 1.1756)])
def test_t10_one_step_with_either_sign(loss: Loss, p: float, objective: float) -> None:
    theta = BANDIT.theta + torch.tensor(mean(BANDIT, loss))
    assert theta.sigmoid().item() == pytest.approx(p, abs=5e-5)
    assert BANDIT.objective(theta).item() == pytest.approx(objective, abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_t10_broadcast_shrinks_the_mean_to_one_nth(n: int) -> None:
    assert mean(BANDIT, T10_BROADCAST.ways[1].loss, batch_size=n) == pytest.approx([-0.16 / n], abs=1e-12)


def test_t10_broadcast_summed_keeps_the_mean_and_hides_in_the_variance() -> None:
    def summed(log_probs: Tensor, returns: Tensor) -> Tensor:
        return -(log_probs[:, None] * returns).sum()

    for loss, variance in ((surrogate_loss, 4 * 0.5184), (summed, 19.2768)):
        got = mean_and_variance(*estimates(BANDIT, BANDIT.theta, loss, 4))
        assert [number.item() for number in got] == pytest.approx([-0.64, variance], abs=1e-12)


def test_t10_surrogate_loss_refuses_the_broadcast_in_the_words_of_the_story() -> None:
    with pytest.raises(ValueError, match="one shape") as caught:
        surrogate_loss(torch.zeros(4, 1), torch.zeros(4))
    assert f"ValueError: {caught.value}" in T10_BROADCAST.story


# --- the tools --------------------------------------------------------------------------------------------------


def test_quadrature_gives_the_moments_of_a_gaussian() -> None:
    nodes, weights = quadrature(Normal(torch.tensor(1.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)))
    z = (nodes - 1) / 2
    moments = [(weights @ z**power).item() for power in range(9)]
    assert moments == pytest.approx([1, 0, 1, 0, 3, 0, 15, 0, 105], rel=1e-12, abs=1e-12)


def test_outcomes_refuse_the_wrong_kind_of_policy() -> None:
    with pytest.raises(TypeError, match="got Bernoulli"):
        quadrature(Bernoulli(0.5))
    with pytest.raises(NotImplementedError):
        every_action(Normal(0.0, 1.0))


def test_finite_difference_of_a_cubic() -> None:
    # ∂(x³ + 2y)/∂(x, y) at (2, 5) = (3x², 2) = (12, 2)
    slopes = finite_difference(lambda v: v[0] ** 3 + 2 * v[1], torch.tensor([2.0, 5.0], dtype=torch.float64))
    assert slopes.tolist() == pytest.approx([12.0, 2.0], abs=1e-8)


# --- the command ------------------------------------------------------------------------------------------------

SHOWN = {  # cells of the tables, then numbers of the stories
    "T1": """-0.160000 +0.064000 0.518400 0.036864 −.16 +.064 .0262 .975 1.2""",
    "T3": """+8.000000 +4.000000 -2.000000 348.000000 87.000000 346.000000 +0.564190 +24.000000 +12.000000 +9.000000
        −2 +18 .5642 6.677374""",
    "T10": """-0.160000 +0.160000 -0.040000 0.129600 0.075300 .7732 1.2268 .8244 1.1756 −.04 19.2768""",
}
HEADERS = ["by hand", "autograd", "finite difference", "of J", "right", "wrong", "What to notice:"]


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # rich would take a pipe for a terminal
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", list(SHOWN))
@pytest.mark.parametrize("spelling", [str.upper, str.lower])
def test_one_name_prints_that_example_alone(
    name: str, spelling: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([spelling(name)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [text for text in SHOWN[name].split() + HEADERS if text not in out] == []
    printed = [line.split()[0] for line in out.splitlines() if line.startswith("T") and line.split()[0] in SHOWN]
    assert set(printed) == {name}


def test_no_name_prints_every_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert [text for texts in SHOWN.values() for text in texts.split() if text not in out] == []
    assert [example.title for example in EXAMPLES if example.title not in out] == []


def test_plain_text_keeps_the_lines_of_the_stories_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # a pipe has no width; whatever this says, 100 columns are there
    main([])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line for example in EXAMPLES for line in example.story.splitlines() if line not in out] == []


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["T1", "t99"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "pong toy: unknown example 't99'; valid: T1, T3, T10\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage: pong toy [T1 | T3 | T10]" in capsys.readouterr().out
