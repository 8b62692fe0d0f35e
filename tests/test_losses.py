"""The surrogate loss −log π·R: values and gradients by hand, exact expectations, and rejected input."""

from math import log, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal

from pong.losses import surrogate_loss

TOLERANCE = 1e-12


def leaf(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def constant(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_near(actual, expected, tolerance=TOLERANCE):
    actual = torch.as_tensor(actual, dtype=torch.float64).detach()
    expected = torch.as_tensor(expected, dtype=torch.float64).detach()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- value and gradient by hand ---------------------------------------------------------------------------------------

HALF = log(0.5)
THIRD = 1 / 3

# The loss is linear in log π: its gradient is −R for "sum" and for the terms of "none", −R/N for "mean".
TABLE = {
    # a certain action: log 1 = 0, so the loss is 0, but the gradient is not
    "zero log-probs": ([0, 0], [1, 2], "sum", 0, [-1, -2]),
    "zero returns": ([-1, -2], [0, 0], "sum", 0, [0, 0]),
    # −(−1·1) − (−2·−2) − (−½·4) = 1 − 4 + 2 = −1
    "ordinary": ([-1, -2, -0.5], [1, -2, 4], "sum", -1, [-1, 2, -4]),
    "ordinary, mean": ([-1, -2, -0.5], [1, -2, 4], "mean", -THIRD, [-THIRD, 2 * THIRD, -4 * THIRD]),
    "ordinary, none": ([-1, -2, -0.5], [1, -2, 4], "none", [1, -4, 2], [-1, 2, -4]),
    # a uniform policy and standardised returns: the loss Σ ±ln ½ is 0, but the gradient is not
    "uniform": ([HALF] * 4, [1, -1, 1, -1], "sum", 0, [-1, 1, -1, 1]),
    "uniform, equal returns": ([HALF] * 4, [1, 1, 1, 1], "mean", log(2), [-0.25] * 4),
    # e^−800 underflows in float64, but its logarithm does not: 800·3 + 0·5
    "saturated": ([-800, 0], [3, 5], "sum", 2400, [-3, -5]),
    "one step": ([-2], [-3], "mean", -6, [3]),
    # (T, N) and (): "none" keeps the shape
    "matrix": ([[-1, -2], [-3, -4]], [[1, 0], [0, -1]], "sum", 1 - 4, [[-1, 0], [0, 1]]),
    "matrix, mean": ([[-1, -2], [-3, -4]], [[1, 0], [0, -1]], "mean", -0.75, [[-0.25, 0], [0, 0.25]]),
    "matrix, none": ([[-1, -2], [-3, -4]], [[1, 0], [0, -1]], "none", [[1, 0], [0, -4]], [[-1, 0], [0, 1]]),
    "scalar": (-2, 3, "sum", 6, -3),
}


@pytest.mark.parametrize(("log_probs", "returns", "reduction", "loss", "gradient"), TABLE.values(), ids=TABLE.keys())
def test_surrogate_loss_value_and_gradient(log_probs, returns, reduction, loss, gradient):
    log_probs = leaf(log_probs)
    actual = surrogate_loss(log_probs, constant(returns), reduction=reduction)
    assert_near(actual, loss)
    actual.sum().backward()
    assert_near(log_probs.grad, gradient)


def test_surrogate_loss_default_is_the_sum():
    assert surrogate_loss(constant([-1, -2]), constant([1, 1])).item() == 3


def test_surrogate_loss_keeps_float32():
    assert surrogate_loss(torch.tensor([-1.0]), torch.tensor([2.0])).dtype == torch.float32


# --- through a distribution: the score function times R ---------------------------------------------------------------


def test_surrogate_loss_bernoulli_gradient():
    # logits (0, ln 4, ln 4, 800, −800, 800) → p = (½, .8, .8, 1, 0, 1). −(y − p)·R, by hand:
    # −(1 − ½)·2, −(1 − .8)·1, −(0 − .8)·2, −(1 − 1)·7, −(1 − 0)·3, −(0 − 1)·5: a saturated policy still unlearns
    logits = leaf([0, log(4), log(4), 800, -800, 800])
    actions = constant([1, 1, 0, 1, 1, 0])
    surrogate_loss(Bernoulli(logits=logits).log_prob(actions), constant([2, 1, 2, 7, 3, 5])).backward()
    assert_near(logits.grad, [-1, -0.2, 1.6, 0, -3, 5])


def test_surrogate_loss_categorical_gradient():
    # logits (0, ln 2, ln 3) → π = (1/6, 1/3, 1/2), for each of the three arms in turn and R = (6, 3, 0):
    # −6·(5/6, −1/3, −1/2), −3·(−1/6, 2/3, −1/2), 0
    logits = leaf([[0, log(2), log(3)]] * 3)
    surrogate_loss(Categorical(logits=logits).log_prob(torch.arange(3)), constant([6, 3, 0])).backward()
    assert_near(logits.grad, [[-5, 2, 3], [0.5, -2, 1.5], [0, 0, 0]])


def test_surrogate_loss_gaussian_gradient():
    # w = (½, −1), b = ¼, s = (2, 1), σ = ½, a = 1¼, R = 3: μ = 1 − 1 + ¼ = ¼, (a − μ)/σ = 2
    # log π = −2²/2 − ln ½ − ½ ln 2π; scores: (a − μ)/σ² = 4 for μ, 4·s for w, 2² − 1 = 3 for log σ
    w, b, log_sigma = leaf([0.5, -1]), leaf(0.25), leaf(log(0.5))
    state = constant([2, 1])
    policy = Normal(w @ state + b, log_sigma.exp())
    loss = surrogate_loss(policy.log_prob(constant(1.25)), constant(3))
    loss.backward()
    assert_near(loss, 3 * (2 - log(2) + 0.5 * log(2 * pi)))
    assert_near(w.grad, [-24, -12])
    assert_near(b.grad, -12)
    assert_near(log_sigma.grad, -9)


# --- the returns are constants ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_surrogate_loss_detaches_returns_of_the_policy(reduction):
    # R = θ² and log π = −θ share the parameter θ = 3: without detach() the gradient of θ·θ² would be 3θ² = 27
    theta = leaf(3)
    surrogate_loss(-theta, theta**2, reduction=reduction).backward()
    assert_near(theta.grad, 9)


# --- exact expectations: every action weighted by its probability -----------------------------------------------------


def expected_gradient(logits, returns):
    """E[∂/∂logits of −log π(a)·R(a)], a ~ π, summed over all actions instead of sampled: (K,), (K,) → (K,)."""
    logits = leaf(logits)
    policy = Categorical(logits=logits)
    terms = surrogate_loss(policy.log_prob(torch.arange(len(logits))), constant(returns), reduction="none")
    (policy.probs.detach() * terms).sum().backward()
    return logits.grad


# --- properties -------------------------------------------------------------------------------------------------------

exact = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow
reals = st.floats(-20, 20)
arms = st.integers(2, 6).flatmap(lambda k: st.tuples(*[st.lists(reals, min_size=k, max_size=k)] * 2))
steps = st.lists(st.tuples(reals, st.booleans(), reals), min_size=1, max_size=20)


@exact
@given(arms)
def test_expected_gradient_is_the_policy_gradient(logits_and_returns):
    logits, returns = (np.array(values) for values in logits_and_returns)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    ascent = probabilities * (returns - probabilities @ returns)  # πₖ(Rₖ − J)
    assert_near(expected_gradient(logits.tolist(), returns.tolist()), -ascent)


@exact
@given(steps)
def test_surrogate_loss_bernoulli_gradient_of_any_batch(batch):
    logits, actions, returns = (np.array(column, float) for column in zip(*batch, strict=True))
    parameter = leaf(logits.tolist())
    surrogate_loss(Bernoulli(logits=parameter).log_prob(constant(actions)), constant(returns)).backward()
    assert_near(parameter.grad, -(actions - 1 / (1 + np.exp(-logits))) * returns)


# --- rejected input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_probs_shape", "returns_shape"), [((4, 1), (4,)), ((4,), (4, 1)), ((3,), (4,)), ((4,), ()), ((2, 3), (3, 2))]
)
def test_surrogate_loss_rejects_different_shapes(log_probs_shape, returns_shape):
    with pytest.raises(ValueError, match="shape") as error:
        surrogate_loss(torch.zeros(log_probs_shape), torch.ones(returns_shape))
    assert str(tuple(log_probs_shape)) in str(error.value)
    assert str(tuple(returns_shape)) in str(error.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
@pytest.mark.parametrize("argument", ["log_probs", "returns"])
def test_surrogate_loss_rejects_integers(argument, dtype):
    arguments = {"log_probs": torch.zeros(3), "returns": torch.ones(3)}
    arguments[argument] = torch.ones(3, dtype=dtype)
    with pytest.raises(TypeError, match=rf"{argument} must be floating, got {dtype}"):
        surrogate_loss(**arguments)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_surrogate_loss_rejects_an_empty_batch(shape, reduction):
    with pytest.raises(ValueError, match="empty batch"):
        surrogate_loss(torch.zeros(shape), torch.zeros(shape), reduction=reduction)


@pytest.mark.parametrize("reduction", ["average", "Sum", "", None])
def test_surrogate_loss_rejects_an_unknown_reduction(reduction):
    with pytest.raises(ValueError, match=f"reduction must be 'sum', 'mean' or 'none', got {reduction!r}"):
        surrogate_loss(torch.zeros(2), torch.ones(2), reduction=reduction)
