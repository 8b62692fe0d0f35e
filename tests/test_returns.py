"""Discounting and standardising: rows worked by hand, the definitions, the NumPy reference, and what they refuse."""

from math import inf, nan, sqrt

import karpathy_numpy
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pong.returns import discounted_returns, standardize

TOLERANCE = 1e-12
FLOATS = [torch.float32, torch.float64]

exact = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow
points = st.lists(st.sampled_from([0, 0, 0, 1, -1]), min_size=1, max_size=40)
reals = st.floats(-100, 100, allow_subnormal=False)
gammas = st.floats(0, 1)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def assert_near(actual, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


# --- discounted_returns by hand: γ = ½ is exact in binary -------------------------------------------------------------

F, T = False, True
ROWS = {
    "one point": ([0, 0, 1], 0.5, None, F, [0.25, 0.5, 1]),
    # backwards: −1, 0 − ½, 1 − ¼, 0 + 3/8
    "nothing ends": ([0, 1, 0, -1], 0.5, None, F, [0.375, 0.75, -0.5, -1]),
    # the reward 1 ends a point: the −½ behind it stays behind it
    "rewards end points": ([0, 1, 0, -1], 0.5, None, T, [0.5, 1, -0.5, -1]),
    "every step a point": ([1, -1, 1], 0.5, None, T, [1, -1, 1]),
    "an unfinished point": ([-1, 0, 0], 0.5, None, T, [-1, 0, 0]),
    "a small reward is a reward": ([0, 1e-9, 1], 0.5, None, T, [5e-10, 1e-9, 1]),
    # the episode ends with step 1: 1 | 1 | 1 + ½·1
    "an episode ends": ([1, 1, 1], 0.5, [F, T, F], F, [1.5, 1, 1]),
    "the last step ends it": ([1, 1, 1], 0.5, [F, F, T], F, [1.75, 1.5, 1]),
    # an episode may end without a reward, and that too stops the flow
    "both": ([0, 0, 0, 1, 0, -1], 0.5, [F, T, F, F, F, T], T, [0, 0, 0.5, 1, -0.5, -1]),
    "gamma 0": ([3, 0, -2], 0, None, F, [3, 0, -2]),
    "gamma 1": ([3, 0, -2, 5], 1, None, F, [6, 3, 3, 5]),
    "gamma 1, points": ([0, 0, -1, 0, 1], 1, None, T, [-1, -1, -1, 1, 1]),
    "no steps": ([], 0.5, None, T, []),
    # two streams side by side; each keeps its own boundaries
    "streams": ([[0, 1], [1, 0], [0, -1]], 0.5, None, F, [[0.5, 0.75], [1, -0.5], [0, -1]]),
    "streams, points": ([[0, 1], [1, 0], [0, -1]], 0.5, None, T, [[0.5, 1], [1, -0.5], [0, -1]]),
    "streams, episodes": ([[1, 1], [1, 1], [1, 1]], 0.5, [[T, F], [F, T], [F, F]], F, [[1, 1.5], [1.5, 1], [1, 1]]),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rewards", "gamma", "dones", "reset", "expected"), ROWS.values(), ids=ROWS.keys())
def test_discounted_returns(rewards, gamma, dones, reset, expected, dtype):
    dones = None if dones is None else torch.tensor(dones)
    actual = discounted_returns(tensor(rewards, dtype), gamma, dones=dones, reset_on_reward=reset)
    torch.testing.assert_close(actual, tensor(expected, dtype), rtol=0 if dtype == torch.float64 else 1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_rewards_make_floating_returns(dtype):
    # 1, 1 + .95, 1 + .95·1.95; keeping the integers' dtype would truncate them to 1, 1, 2
    actual = discounted_returns(torch.ones(3, dtype=dtype), 0.95)
    assert actual.dtype == torch.get_default_dtype()
    assert_near(actual, [2.8525, 1.95, 1], 1e-6)


def test_float_rewards_of_one():
    assert_near(discounted_returns(torch.ones(3, dtype=torch.float64), 0.95), [2.8525, 1.95, 1])


def test_the_rewards_are_left_alone():
    rewards = tensor([0, 1, 0, -1])
    discounted_returns(rewards, 0.5, dones=torch.tensor([F, T, F, T]), reset_on_reward=True)
    assert rewards.tolist() == [0, 1, 0, -1]


# --- discounted_returns for any numbers -------------------------------------------------------------------------------


@exact
@given(points, gammas)
def test_it_agrees_with_the_2016_arithmetic(rewards, gamma):
    actual = discounted_returns(tensor(rewards), gamma, reset_on_reward=True)
    assert_near(actual, karpathy_numpy.discount(rewards, gamma))


@exact
@given(st.lists(st.tuples(reals, st.booleans()), min_size=1, max_size=30), gammas)
def test_it_is_the_definition(steps, gamma):
    # Rₜ = Σ γᵏ·rₜ₊ₖ over k ≥ 0 up to the end of the episode that t lies in
    rewards, dones = zip(*steps, strict=True)
    expected = []
    for t in range(len(rewards)):
        end = next((i for i in range(t, len(dones)) if dones[i]), len(dones) - 1)
        expected.append(sum(gamma ** (i - t) * rewards[i] for i in range(t, end + 1)))
    # rounding is relative to Σ|r| ≤ 30·100
    assert_near(discounted_returns(tensor(rewards), gamma, dones=torch.tensor(dones)), expected, 10 * TOLERANCE)


@exact
@given(st.lists(st.lists(st.sampled_from([0, 0, 1, -1]), min_size=3, max_size=3), min_size=1, max_size=20), gammas)
def test_streams_never_touch(rewards, gamma):
    together = discounted_returns(tensor(rewards), gamma, reset_on_reward=True)
    for n in range(3):
        assert_near(together[:, n], karpathy_numpy.discount([row[n] for row in rewards], gamma))


@exact
@given(st.lists(reals, min_size=1, max_size=30), gammas, st.integers(-8, 8))
def test_it_is_linear_in_the_rewards(rewards, gamma, exponent):
    scale = 2.0**exponent  # powers of two scale without rounding
    actual = discounted_returns(tensor(rewards) * scale, gamma)
    torch.testing.assert_close(actual, discounted_returns(tensor(rewards), gamma) * scale, rtol=0, atol=1e-300)


# --- discounted_returns refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_rewards_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="rewards must be") as error:
        discounted_returns(torch.zeros(shape), 0.9)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("rewards_shape", "dones_shape"), [((3,), (3, 1)), ((3, 2), (3,)), ((3, 2), (3, 1)), ((3,), (4,))]
)
def test_dones_of_another_shape_are_refused(rewards_shape, dones_shape):
    with pytest.raises(ValueError, match="dones must have the shape of rewards") as error:
        discounted_returns(torch.zeros(rewards_shape), 0.9, dones=torch.zeros(dones_shape, dtype=torch.bool))
    assert str(rewards_shape) in str(error.value)
    assert str(dones_shape) in str(error.value)


@pytest.mark.parametrize("gamma", [-0.01, 1.01, 99, inf, nan])
def test_gamma_outside_the_unit_interval_is_refused(gamma):
    with pytest.raises(ValueError, match=rf"gamma must lie in \[0, 1\], got {gamma}"):
        discounted_returns(torch.zeros(3), gamma)


# --- standardize by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        # mean 5, population variance (9 + 1 + 1 + 1 + 0 + 0 + 4 + 16)/8 = 4
        ([2, 4, 4, 4, 5, 5, 7, 9], [-1.5, -0.5, -0.5, -0.5, 0, 0, 1, 2]),
        # two values: always ±1 with the population's deviation; with n − 1 it would be ±1/√2
        ([3, 5], [-1, 1]),
        ([1, -1, -1, 1], [1, -1, -1, 1]),
        # mean 2½, variance 5/4
        ([1, 2, 3, 4], [-1.5 / sqrt(1.25), -0.5 / sqrt(1.25), 0.5 / sqrt(1.25), 1.5 / sqrt(1.25)]),
        # (T, N): one mean and one deviation for all elements, mean 5 and variance 5
        ([[2, 4], [6, 8]], [[-3 / sqrt(5), -1 / sqrt(5)], [1 / sqrt(5), 3 / sqrt(5)]]),
    ],
)
def test_standardize(returns, expected, dtype):
    actual = standardize(tensor(returns, dtype))
    assert actual.dtype == dtype
    assert_near(actual, expected, TOLERANCE if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 13_630])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.1, 1 / 3, 1e4 / 7, 1e30, -1e30, 1e-30, "tiny", "max"])
def test_a_constant_batch_becomes_exactly_zero(value, count, dtype):
    # 0.1 has no finite binary expansion: the mean is off by rounding, and so would be (R − mean)/std, by ±1 and more
    value = getattr(torch.finfo(dtype), value) if isinstance(value, str) else value
    actual = standardize(torch.full((count,), value, dtype=dtype))
    assert actual.tolist() == [0] * count


def test_returns_that_differ_by_rounding_alone_become_exactly_zero():
    # 0.1 + 0.2 and 0.3 are one number to mathematics and neighbours in float64; ±1 would be made of nothing
    assert standardize(tensor([0.1 + 0.2, 0.3, 0.3])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_a_small_difference_is_no_rounding(dtype, gap):
    actual = standardize(tensor([1, 1 + gap], dtype))
    assert_near(actual, [-1, 1], 1e-3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_the_unit_of_the_returns_does_not_matter(scale, dtype):
    # the squares of 1e±30 are beyond float32: unscaled, they would overflow or vanish, and with them what was learned
    assert_near(standardize(tensor([3 * scale, 5 * scale], dtype)), [-1, 1], 1e-6)


def test_the_returns_are_left_alone():
    returns = tensor([3, 5])
    standardize(returns)
    assert returns.tolist() == [3, 5]


# --- standardize for any numbers --------------------------------------------------------------------------------------

batches = st.lists(reals, min_size=2, max_size=40)


def assume_spread(returns):
    """Keep the batches whose differences are far above rounding."""
    assume(np.std(returns) > 1e-3)


@exact
@given(batches)
def test_mean_zero_and_deviation_one(returns):
    assume_spread(returns)
    actual = standardize(tensor(returns))
    assert abs(sum(actual.tolist()) / len(returns)) < 1e-10  # rounding of values up to 100, over a deviation of 1e-3
    assert sqrt(sum(value**2 for value in actual.tolist()) / len(returns)) == pytest.approx(1, abs=1e-9)


@exact
@given(batches)
def test_standardize_agrees_with_the_2016_arithmetic(returns):
    assume_spread(returns)
    assert_near(standardize(tensor(returns)), karpathy_numpy.standardize(np.array(returns)), 1e-9)


@exact
@given(batches, st.floats(0.1, 10), st.floats(-10, 10))
def test_shifting_and_scaling_the_returns_changes_nothing(returns, scale, shift):
    assume_spread(returns)
    assert_near(standardize(scale * tensor(returns) + shift), standardize(tensor(returns)), 1e-8)


# --- standardize refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("count", [1, 3])
def test_returns_that_are_not_finite_are_refused(value, count):
    with pytest.raises(ValueError, match="NaN or infinity"):
        standardize(tensor([value] + [1.0] * (count - 1)))


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_an_empty_batch_is_refused(shape):
    with pytest.raises(ValueError, match="empty batch"):
        standardize(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integers_are_refused(dtype):
    with pytest.raises(TypeError, match=f"returns must be floating, got {dtype}"):
        standardize(torch.ones(3, dtype=dtype))
