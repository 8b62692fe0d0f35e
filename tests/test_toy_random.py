"""The log-derivative trick for policies, rewards and baselines drawn by hypothesis, and by Monte Carlo."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from pong.losses import surrogate_loss
from pong.toy import EXAMPLES, System, Way
from pong.toy.examples.bandits import BANDIT, T1
from pong.toy.examples.baselines import constant
from pong.toy.examples.losses import less_batch_mean, less_mean_of_others
from pong.toy.examples.pathwise import aim, ways
from pong.toy.examples.trajectories import T6
from pong.toy.gradients import estimates, exact, finite_difference, mean_and_variance, sampled
from pong.toy.outcomes import EVERY_ACTION, QUADRATURE, Listed, Quadrature, taken

exactly = settings(deadline=None, derandomize=True, max_examples=15)  # the same examples on every machine
numbers = st.floats(-3, 3, allow_subnormal=False)
arms = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=5)  # (logit, reward) of each
SURROGATE = Way("", surrogate_loss, ())


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softmax_bandit(pairs: list[tuple[float, float]], baseline: float = 0.0) -> System:
    pay = tensor([reward for _, reward in pairs])
    return System(
        parameters={f"θ{i}": logit for i, (logit, _) in enumerate(pairs)},
        policy=lambda theta: Categorical(logits=theta),
        outcomes=EVERY_ACTION,
        returns=lambda action: pay[action] - baseline,
        objective=lambda theta: theta.softmax(0) @ pay,
    )


def near(got: Tensor, expected: Tensor | list[float], tolerance: float = 1e-12) -> None:
    expected = expected if isinstance(expected, Tensor) else tensor(expected)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


# --- any policy, any rewards, any baseline ----------------------------------------------------------------------------


@exactly
@given(arms, numbers)
def test_softmax_autograd_equals_the_hand_formula(pairs: list[tuple[float, float]], baseline: float) -> None:
    system = softmax_bandit(pairs, baseline)
    pi, pay = system.theta.softmax(0), tensor([reward for _, reward in pairs])
    gradients, weights = estimates(system, system.theta, SURROGATE)
    near(weights, pi)
    near(
        gradients, (torch.eye(len(pairs), dtype=torch.float64) - pi) * (pay - baseline)[:, None]
    )  # (1[i=j] − πⱼ)(Rᵢ−b)
    near(weights @ gradients, pi * (pay - pi @ pay))  # ∇J = π(R − J)
    near(finite_difference(system.objective, system.theta), pi * (pay - pi @ pay), tolerance=1e-8)


@exactly
@given(numbers, st.floats(-2, 2), numbers, numbers)
def test_gaussian_autograd_equals_the_hand_formula(mu: float, log_sigma: float, action: float, reward: float) -> None:
    system = System(
        parameters={"μ": mu, "log σ": log_sigma},
        policy=lambda theta: Normal(theta[0], theta[1].exp()),
        outcomes=taken(action),
        returns=lambda a: torch.full_like(a, reward),
        objective=lambda theta: theta[0],
    )
    z = (action - mu) / math.exp(log_sigma)
    gradients, _ = estimates(system, system.theta, SURROGATE)
    near(gradients[0], [reward * z / math.exp(log_sigma), reward * (z**2 - 1)], tolerance=1e-10)


@exactly
@given(arms, numbers, st.floats(-2, 2))
def test_the_score_has_mean_zero(pairs: list[tuple[float, float]], mu: float, log_sigma: float) -> None:
    choice = softmax_bandit([(logit, 1.0) for logit, _ in pairs])
    near(exact(choice, SURROGATE)[0], torch.zeros(len(pairs), dtype=torch.float64))
    system = System(
        parameters={"μ": mu, "log σ": log_sigma},
        policy=lambda theta: Normal(theta[0], theta[1].exp()),
        outcomes=QUADRATURE,
        returns=torch.ones_like,
        objective=lambda theta: theta[0] * 0 + 1,
    )
    mean, fisher = exact(system, SURROGATE)
    near(mean, [0.0, 0.0])
    near(fisher, [math.exp(-2 * log_sigma), 2.0], tolerance=1e-10)


@exactly
@given(arms, st.floats(-100, 100))
def test_a_constant_baseline_never_changes_the_mean(pairs: list[tuple[float, float]], baseline: float) -> None:
    near(exact(softmax_bandit(pairs, baseline), SURROGATE)[0], exact(softmax_bandit(pairs), SURROGATE)[0], 1e-10)


@exactly
@given(st.floats(-20, 20))
def test_t4_the_variance_is_a_parabola_in_the_baseline(baseline: float) -> None:
    near(exact(BANDIT, constant("", baseline, 0.0))[1], [0.16 * (baseline - 1.8) ** 2])


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_t4_a_batch_mean_shrinks_the_gradient_and_leaving_one_out_does_not(n: int) -> None:
    near(exact(BANDIT, Way("", less_batch_mean, (), batch_size=n))[0], [-0.16 * (n - 1) / n])
    near(exact(BANDIT, Way("", less_mean_of_others, (), batch_size=n))[0], [-0.16])


@exactly
@given(st.floats(0.05, 3), numbers)
def test_t7_formulas(sigma: float, mu: float) -> None:
    system, theta, d2, s2 = aim(sigma), tensor([mu]), (mu - 3) ** 2, sigma**2
    score, _, best, pathwise = ways(sigma)
    for way in ways(sigma):
        near(mean_and_variance(*estimates(system, theta, way))[0], [-2 * (mu - 3)], tolerance=1e-9)
    near(mean_and_variance(*estimates(system, theta, score))[1], [d2**2 / s2 + 14 * d2 + 15 * s2], tolerance=1e-10)
    near(mean_and_variance(*estimates(system, theta, pathwise))[1], [4 * s2], tolerance=1e-10)
    near(exact(system, best)[1], [32 + 6 * s2], tolerance=1e-10)  # at d = −2, whose best b it is


@exactly
@given(st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_permuting_the_time_steps_never_changes_the_sum(steps, random) -> None:
    def gradient(order: list[int]) -> Tensor:
        logits = tensor([logit for logit, _, _ in steps]).requires_grad_()
        actions = tensor([float(action) for _, _, action in steps])
        returns = tensor([reward for _, reward, _ in steps])
        loss = surrogate_loss(Bernoulli(logits=logits).log_prob(actions)[order], returns[order])
        return torch.cat([loss.detach()[None], torch.autograd.grad(loss, logits)[0]])

    shuffled = random.sample(range(len(steps)), len(steps))
    near(gradient(shuffled), gradient(list(range(len(steps)))), tolerance=1e-13)


# --- Monte Carlo ------------------------------------------------------------------------------------------------------


def drawn_rows() -> Iterator[object]:
    seen = set()
    for example in EXAMPLES:
        for way in example.ways:
            if id(way) not in seen:  # T1's way begins other examples, too
                yield pytest.param(example.system, way, id=f"{example.name} {example.title[:20]} | {way.label}")
            seen.add(id(way))


@pytest.mark.parametrize(("system", "way"), list(drawn_rows()))
def test_sampled_means_are_those_by_hand_and_a_bias_shows(system: System, way: Way) -> None:
    hand, variance = tensor(way.by_hand), exact(system, way)[1]
    off = (hand - finite_difference(system.objective, system.theta)).abs()
    # a bias of 24 standard errors in the parameter that shows it best: the noise may take almost 4 of them away
    count = max(400, math.ceil((24**2 * variance / off.square()).min().item())) if way.wrong else 400
    mean = sampled(system, system.theta, way, count, seed=1).mean(dim=0)
    error = (variance / count).sqrt() + 1e-12
    assert ((mean - hand).abs() <= 5 * error).all()
    if way.wrong:
        slopes = finite_difference(system.objective, system.theta)
        assert ((mean - slopes).abs() / error).max() > 20


def test_sampled_variance_is_the_exact_one() -> None:
    # 4,000 samples: the relative standard error of a variance is √((kurtosis − 1)/4000), here about 3 %
    draws = sampled(BANDIT, BANDIT.theta, T1.ways[0], 4000, seed=3)
    assert draws.var(dim=0).item() == pytest.approx(0.5184, rel=0.15)


def test_the_seed_decides_what_is_drawn() -> None:
    one, again, other = (sampled(T6.system, T6.system.theta, T6.ways[0], 20, seed) for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_sampling_leaves_the_global_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    sampled(BANDIT, BANDIT.theta, T1.ways[0], 5, seed=1)
    sampled(aim(1.0), tensor([1.0]), ways(1.0)[0], 5, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- lists of outcomes ------------------------------------------------------------------------------------------------


def gaussian(mu: float, sigma: float) -> Normal:
    return Normal(tensor(mu), tensor(sigma))


def test_quadrature_gives_the_moments_of_a_gaussian() -> None:
    nodes, weights = QUADRATURE.listed(gaussian(1.0, 2.0))
    z = (nodes - 1) / 2
    moments = [(weights @ z**power).item() for power in range(9)]
    assert moments == pytest.approx([1, 0, 1, 0, 3, 0, 15, 0, 105], rel=1e-12, abs=1e-12)


def test_a_kink_is_integrated_piece_by_piece() -> None:
    # P(x > ½) and E[x·1[x > ½]] = φ(½); plain Gauss–Hermite misses both by percents
    for rule, tolerance in ((Quadrature(kinks=(0.5,), nodes=80), 1e-13), (QUADRATURE, None)):
        nodes, weights = rule.listed(gaussian(0.0, 1.0))
        beyond = nodes > 0.5
        got = [weights[beyond].sum().item(), (weights * nodes)[beyond].sum().item()]
        expected = [math.erfc(0.5 / math.sqrt(2)) / 2, math.exp(-0.125) / math.sqrt(2 * math.pi)]
        if tolerance:
            assert got == pytest.approx(expected, abs=tolerance)
        else:
            assert got != pytest.approx(expected, abs=1e-3)


def test_two_dimensions_of_quadrature_are_independent() -> None:
    pairs, weights = Quadrature(lambda policy, noise: noise, dimensions=2, nodes=4).listed(None)
    x, y = pairs.unbind(dim=1)
    assert [(weights @ f).item() for f in (x * y, x**2, y**2, x**2 * y**2)] == pytest.approx([0, 1, 1, 1], abs=1e-13)


def test_listed_outcomes_are_drawn_by_their_weights() -> None:
    either = Listed(lambda policy: (tensor([3.0, 7.0]), tensor([0.25, 0.75])))
    draws = either.drawn(None, 4000, torch.Generator().manual_seed(1))
    assert set(draws.tolist()) == {3.0, 7.0}
    assert (draws == 7).double().mean().item() == pytest.approx(0.75, abs=5 * math.sqrt(0.1875 / 4000))


def test_outcomes_refuse_the_wrong_kind_of_policy() -> None:
    with pytest.raises(TypeError, match="got Bernoulli"):
        QUADRATURE.listed(Bernoulli(0.5))
    with pytest.raises(NotImplementedError):
        EVERY_ACTION.listed(Normal(0.0, 1.0))
