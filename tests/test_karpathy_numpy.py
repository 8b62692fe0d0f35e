"""The NumPy reference itself: values by hand, and gradients against finite differences."""

from math import log

import numpy as np
import pytest
from karpathy_numpy import (
    RMSProp,
    backward,
    difference_frames,
    discount,
    forward,
    init,
    policy_forward,
    preprocess,
    standardize,
)

# --- from the screen to the input -------------------------------------------------------------------------------------

# (row, column) of the screen, its red value → pixel and value, or None where the rule ignores it
PIXELS = [
    ((35, 0), 200, ((0, 0), 1)),  # first row of the play field
    ((193, 158), 92, ((79, 79), 1)),  # the last row and column that count
    ((37, 4), 144, ((1, 2), 0)),  # background 1
    ((39, 6), 109, ((2, 3), 0)),  # background 2
    ((41, 8), 0, ((3, 4), 0)),  # black
    ((43, 10), 1, ((4, 5), 1)),  # the faintest red
    ((45, 12), 255, ((5, 6), 1)),
    ((47, 14), 143, ((6, 7), 1)),  # the neighbours of the background values are not background
    ((49, 16), 110, ((7, 8), 1)),
    ((34, 20), 200, None),  # the score, above the play field
    ((195, 22), 200, None),  # the border, below it
    ((194, 24), 200, None),  # inside, but 194 − 35 is odd
    ((36, 26), 200, None),
    ((51, 27), 200, None),  # an odd column
    ((209, 159), 200, None),
]


def test_preprocess_by_hand():
    screen = np.zeros((210, 160, 3), np.uint8)
    screen[..., 1:] = 77  # green and blue are ignored
    expected = np.zeros((80, 80))
    for (row, column), red, target in PIXELS:
        screen[row, column, 0] = red
        if target is not None:
            expected[target[0]] = target[1]
    np.testing.assert_array_equal(preprocess(screen), expected)
    assert expected.sum() == 6
    assert preprocess(screen, np.float32).dtype == np.float32


def test_difference_frames_by_hand():
    first, second, third = np.array([[0, 1], [1, 0]]), np.array([[1, 1], [0, 0]]), np.array([[1, 0], [0, 1]])
    assert difference_frames([first, second, third]).tolist() == [[0, 0, 0, 0], [1, 0, -1, 0], [0, -1, 0, 1]]


# --- the network ------------------------------------------------------------------------------------------------------


def test_forward_by_hand():
    # a = (1, −3), h = (1, 0), z = ln 3, so p = 1/(1 + 1/3) = 3/4; a zero input gives z = 0, p = 1/2
    W1, W2 = np.array([[1.0, 0.0], [-1.0, -1.0]]), np.array([log(3), 5.0])
    h, p = forward(W1, W2, np.array([[1.0, 2.0], [0.0, 0.0]]))
    assert h.tolist() == [[1, 0], [0, 0]]
    np.testing.assert_allclose(p, [0.75, 0.5], rtol=1e-15)


# --- the gradient -----------------------------------------------------------------------------------------------------


def test_backward_by_hand():
    # As above, p = 3/4. UP with A = 2: δ = (1 − 3/4)·2 = 1/2. dW2 = δ·h = (1/2, 0); dW1 = δ·W2ⱼ·x where aⱼ > 0
    W1, W2 = np.array([[1.0, 0.0], [-1.0, -1.0]]), np.array([log(3), 5.0])
    x = np.array([[1.0, 2.0]])
    dW1, dW2 = backward(W1, W2, x, *forward(W1, W2, x), y=np.array([1.0]), advantages=np.array([2.0]))
    np.testing.assert_allclose(dW2, [0.5, 0], rtol=1e-15)
    np.testing.assert_allclose(dW1, [[log(3) / 2, log(3)], [0, 0]], rtol=1e-15)
    # DOWN with A = 4: δ = (0 − 3/4)·4 = −3
    dW1, dW2 = backward(W1, W2, x, *forward(W1, W2, x), y=np.array([0.0]), advantages=np.array([4.0]))
    np.testing.assert_allclose(dW2, [-3, 0], rtol=1e-15)
    np.testing.assert_allclose(dW1, [[-3 * log(3), -6 * log(3)], [0, 0]], rtol=1e-15)


def objective(W1, W2, x, y, advantages):
    """J = Σ A·log π, written from the definition: no σ'(z), no cancelled terms."""
    total = 0.0
    for t in range(len(x)):
        _, p = policy_forward(W1, W2, x[t])
        total += advantages[t] * log(p if y[t] == 1 else 1 - p)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_backward_equals_central_differences(seed):
    rng = np.random.default_rng(seed)
    W1, W2 = init(5, rng, inputs=12)
    x, y, advantages = rng.standard_normal((9, 12)), rng.integers(0, 2, 9), rng.standard_normal(9)
    step = 1e-5
    margin = np.abs(x @ W1.T).min()
    assert margin > step * np.abs(x).max(), "a difference across the ReLU's kink; choose another seed"
    h, p = forward(W1, W2, x)
    assert (h == 0).any(), "the ReLU's mask is not exercised"

    for weights, gradient in zip((W1, W2), backward(W1, W2, x, h, p, y, advantages), strict=True):
        numerical = np.zeros_like(weights)
        for index in np.ndindex(weights.shape):
            value = weights[index]
            weights[index] = value + step
            above = objective(W1, W2, x, y, advantages)
            weights[index] = value - step
            below = objective(W1, W2, x, y, advantages)
            weights[index] = value
            numerical[index] = (above - below) / (2 * step)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-8, atol=1e-8 * np.abs(numerical).max())


# --- returns ----------------------------------------------------------------------------------------------------------


def test_discount_by_hand():
    # backwards with γ = 1/2: −1 | 0 + ½(−1) | 1 (a new point: −½ does not flow into it) | ½ | ¼ ; the last 0 ends empty
    assert discount([0, 0, 1, 0, -1, 0], 0.5).tolist() == [0.25, 0.5, 1, -0.5, -1, 0]
    assert discount(np.array([1, 1, 1]), 0.95).tolist() == [1, 1, 1]  # three points of one step each
    assert discount(np.array([0, 0, -1]), 0.9) == pytest.approx([-0.81, -0.9, -1], rel=1e-15)
    assert discount(np.array([0, 1], np.float32), 0.5).dtype == np.float32


def test_standardize_by_hand():
    # mean 5, population variance (9 + 1 + 1 + 1 + 0 + 0 + 4 + 16)/8 = 4
    assert standardize(np.array([2.0, 4, 4, 4, 5, 5, 7, 9])).tolist() == [-1.5, -0.5, -0.5, -0.5, 0, 0, 1, 2]


# --- RMSProp ----------------------------------------------------------------------------------------------------------


def test_rmsprop_by_hand():
    # g = 10:  cache = 0.01·100 = 1,             θ = 0 + 1e-4·10/(1 + 1e-5)    =  0.000999990000099999
    # g = −15: cache = 0.99·1 + 0.01·225 = 3.24, θ gets −1e-4·15/(1.8 + 1e-5)  = −0.000833328703729424
    theta = np.zeros(1)
    optimizer = RMSProp([theta])
    optimizer.step([np.array([10.0])])
    assert optimizer.caches[0] == pytest.approx([1], rel=1e-14)
    assert theta == pytest.approx([0.000999990000099999], rel=1e-14)
    optimizer.step([np.array([-15.0])])
    assert optimizer.caches[0] == pytest.approx([3.24], rel=1e-14)
    assert theta == pytest.approx([0.000999990000099999 - 0.000833328703729424], rel=1e-12)
