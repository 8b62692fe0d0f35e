"""Discounting and standardising: values by hand, the definition, the NumPy reference, and rejected input."""

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
    # the reward 1 ends a point: the −½ after it does not flow back
    "rewards end points": ([0, 1, 0, -1], 0.5, None, T, [0.5, 1, -0.5, -1]),
    "every step a point": ([1, -1, 1], 0.5, None, T, [1, -1, 1]),
    "an unfinished point": ([-1, 0, 0], 0.5, None, T, [-1, 0, 0]),
    "a small reward is a reward": ([0, 1e-9, 1], 0.5, None, T, [5e-10, 1e-9, 1]),
    # the episode ends with step 1: 1 | 1 | 1 + ½·1
    "an episode ends": ([1, 1, 1], 0.5, [F, T, F], F, [1.5, 1, 1]),
    "the last step ends it": ([1, 1, 1], 0.5, [F, F, T], F, [1.75, 1.5, 1]),
    # an episode that ends without a reward stops the flow, too
    "both": ([0, 0, 0, 1, 0, -1], 0.5, [F, T, F, F, F, T], T, [0, 0, 0.5, 1, -0.5, -1]),
    "gamma 0": ([3, 0, -2], 0, None, F, [3, 0, -2]),
    "gamma 1": ([3, 0, -2, 5], 1, None, F, [6, 3, 3, 5]),
    "gamma 1, points": ([0, 0, -1, 0, 1], 1, None, T, [-1, -1, -1, 1, 1]),
    "no steps": ([], 0.5, None, T, []),
    # two streams, each with its own boundaries
    "streams": ([[0, 1], [1, 0], [0, -1]], 0.5, None, F, [[0.5, 0.75], [1, -0.5], [0, -1]]),
    "streams, points": ([[0, 1], [1, 0], [0, -1]], 0.5, None, T, [[0.5, 1], [1, -0.5], [0, -1]]),
    "streams, episodes": ([[1, 1], [1, 1], [1, 1]], 0.5, [[T, F], [F, T], [F, F]], F, [[1, 1.5], [1.5, 1], [1, 1]]),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rewards", "gamma", "dones", "reset", "expected"), ROWS.values(), ids=ROWS.keys())
def test_discounted_returns_by_hand(rewards, gamma, dones, reset, expected, dtype):
    dones, rewards = None if dones is None else torch.tensor(dones), tensor(rewards, dtype)
    before = rewards.clone()
    actual = discounted_returns(rewards, gamma, dones=dones, reset_on_reward=reset)
    assert torch.equal(rewards, before)
    torch.testing.assert_close(actual, tensor(expected, dtype), rtol=0 if dtype == torch.float64 else 1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_discounted_returns_of_integers_are_floating(dtype):
    # 1, 1 + .95, 1 + .95·1.95; an integer dtype would truncate them to 1, 1, 2
    actual = discounted_returns(torch.ones(3, dtype=dtype), 0.95)
    assert actual.dtype == torch.get_default_dtype()
    assert_near(actual, [2.8525, 1.95, 1], 1e-6)


# --- discounted_returns: properties -----------------------------------------------------------------------------------


@exact
@given(st.lists(st.tuples(reals, st.booleans()), min_size=1, max_size=30), gammas)
def test_discounted_returns_follow_the_definition(steps, gamma):
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
def test_discounted_returns_equal_numpys_for_each_stream(rewards, gamma):
    together = discounted_returns(tensor(rewards), gamma, reset_on_reward=True)
    for n in range(3):
        assert_near(together[:, n], karpathy_numpy.discount([row[n] for row in rewards], gamma))


# --- discounted_returns: rejected input--------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (2, 3, 4)])
def test_discounted_returns_rejects_a_shape(shape):
    with pytest.raises(ValueError, match="rewards must be") as error:
        discounted_returns(torch.zeros(shape), 0.9)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("rewards_shape", "dones_shape"), [((3,), (3, 1)), ((3, 2), (3,)), ((3, 2), (3, 1)), ((3,), (4,))]
)
def test_discounted_returns_rejects_dones_of_another_shape(rewards_shape, dones_shape):
    with pytest.raises(ValueError, match="dones must have the shape of rewards") as error:
        discounted_returns(torch.zeros(rewards_shape), 0.9, dones=torch.zeros(dones_shape, dtype=torch.bool))
    assert str(rewards_shape) in str(error.value)
    assert str(dones_shape) in str(error.value)


@pytest.mark.parametrize("gamma", [-0.01, 1.01, 99, inf, nan])
def test_discounted_returns_rejects_gamma(gamma):
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
def test_standardize_by_hand(returns, expected, dtype):
    returns = tensor(returns, dtype)
    before = returns.clone()
    actual = standardize(returns)
    assert torch.equal(returns, before)
    assert actual.dtype == dtype
    assert_near(actual, expected, TOLERANCE if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 13_630])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.1, 1 / 3, 1e4 / 7, 1e30, -1e30, 1e-30, "tiny", "max"])
def test_standardize_constant_returns_are_exactly_zero(value, count, dtype):
    # 0.1 has no finite binary expansion: rounding errors of the mean would make (R − mean)/std about ±1
    value = getattr(torch.finfo(dtype), value) if isinstance(value, str) else value
    actual = standardize(torch.full((count,), value, dtype=dtype))
    assert actual.tolist() == [0] * count


def test_standardize_rounding_differences_are_exactly_zero():
    # 0.1 + 0.2 and 0.3 are neighbours in float64
    assert standardize(tensor([0.1 + 0.2, 0.3, 0.3])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_standardize_keeps_small_differences(dtype, gap):
    actual = standardize(tensor([1, 1 + gap], dtype))
    assert_near(actual, [-1, 1], 1e-3)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_standardize_ignores_the_unit(scale, dtype):
    # the squares of 1e±30 overflow or underflow in float32
    assert_near(standardize(tensor([3 * scale, 5 * scale], dtype)), [-1, 1], 1e-6)


# --- standardize: properties ------------------------------------------------------------------------------------------

batches = st.lists(reals, min_size=2, max_size=40)


@exact
@given(batches)
def test_standardize_equals_numpys(returns):
    assume(np.std(returns) > 1e-3)  # far above rounding
    assert_near(standardize(tensor(returns)), karpathy_numpy.standardize(np.array(returns)), 1e-9)


# --- standardize: rejected input---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("count", [1, 3])
def test_standardize_rejects_values_that_are_not_finite(value, count):
    with pytest.raises(ValueError, match="NaN or infinity"):
        standardize(tensor([value] + [1.0] * (count - 1)))


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_standardize_rejects_an_empty_batch(shape):
    with pytest.raises(ValueError, match="empty batch"):
        standardize(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_standardize_rejects_integers(dtype):
    with pytest.raises(TypeError, match=f"returns must be floating, got {dtype}"):
        standardize(torch.ones(3, dtype=dtype))
