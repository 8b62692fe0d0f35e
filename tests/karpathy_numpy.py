"""The 2016 agent's arithmetic in plain NumPy, derived by hand: the reference that the PyTorch code is tested against.

It shares no code with ``pong`` and uses no autograd. The formulas are those of Karpathy 2016, "Deep Reinforcement
Learning: Pong from Pixels" (https://karpathy.github.io/2016/05/31/rl/). Shapes: T steps, D inputs (6400 in Pong), H
hidden units (200 in Pong). Arrays keep their dtype; the default is float64. To stay in float32, give ``y`` and
``advantages`` as float32, too.
"""

import numpy as np


def preprocess(rgb, dtype=np.float64):
    """Play field of a screen: (210, 160, 3) uint8 → (80, 80), 1 where something is drawn and 0 on the background."""
    red = rgb[35:195, :, 0][::2, ::2]  # the play field's rows, then every second row and column: (80, 80)
    background = (red == 144) | (red == 109) | (red == 0)
    return (~background).astype(dtype)


def difference_frames(frames):
    """Network inputs of one episode: T preprocessed frames → (T, D), this frame minus the previous, first row 0."""
    flat = np.stack(frames).reshape(len(frames), -1)  # (T, D)
    x = np.zeros_like(flat)
    x[1:] = flat[1:] - flat[:-1]
    return x


def init(hidden, rng, inputs=6400):
    """Weights W1 (H, D) and W2 (H,), normal with variance 1/fan-in so that activations start at a scale of about 1."""
    W1 = rng.standard_normal((hidden, inputs)) / np.sqrt(inputs)
    W2 = rng.standard_normal(hidden) / np.sqrt(hidden)
    return W1, W2


def sigmoid(z):
    """Probability from log-odds: p = 1/(1 + e^−z)."""
    return 1.0 / (1.0 + np.exp(-z))


def policy_forward(W1, W2, x):
    """One step as the 2016 loop takes it, a dense matrix times a vector: x (D,) → h (H,), p = P(UP)."""
    h = np.maximum(W1 @ x, 0)
    return h, sigmoid(W2 @ h)


def forward(W1, W2, x):
    """All steps at once: x (T, D) → h (T, H), p (T,)."""
    h = np.maximum(x @ W1.T, 0)
    return h, sigmoid(h @ W2)


def discount(rewards, gamma):
    """Rₜ = rₜ + γ·Rₜ₊₁, except that a nonzero reward ends its point: there Rₜ = rₜ. (T,) → (T,)."""
    rewards = np.asarray(rewards)
    returns = np.zeros(len(rewards), rewards.dtype if rewards.dtype.kind == "f" else np.float64)  # never integers
    following = 0.0  # Rₜ₊₁
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] if rewards[t] != 0 else gamma * following
        returns[t] = following
    return returns


def standardize(returns):
    """Less the mean, over the population's standard deviation √(Σ(R − mean)²/n): n, not n − 1."""
    centred = returns - returns.mean()
    return centred / np.sqrt((centred**2).mean())


def backward(W1, W2, x, h, p, y, advantages):
    """Gradient (dW1, dW2) of J = Σₜ Aₜ·log π(yₜ|xₜ); y (T,) is 1 for UP (ALE's action 2) and 0 for DOWN.

    One step at a time, with a = W1·x, h = max(a, 0), z = W2·h, p = σ(z):

        log π    = y·log p + (1 − y)·log(1 − p)
        dp/dz    = p(1 − p)
        ∂log π/∂z = [y/p − (1 − y)/(1 − p)]·p(1 − p) = y(1 − p) − (1 − y)p = y − p
        ∂J/∂z    = (y − p)·A              =: δ          (T,)
        ∂J/∂W2ⱼ  = Σₜ δₜ·hₜⱼ                            z is linear in W2
        ∂J/∂aⱼ   = δ·W2ⱼ where aⱼ > 0, else 0          the ReLU's slope is 1 or 0, and h > 0 exactly where a > 0
        ∂J/∂W1ⱼᵢ = Σₜ (∂J/∂aₜⱼ)·xₜᵢ                     a is linear in W1

    There are no biases, and the sum over steps is never divided by T.
    """
    delta = (y - p) * advantages  # (T,)
    dW2 = h.T @ delta  # (H,)
    da = np.outer(delta, W2) * (h > 0)  # (T, H)
    dW1 = da.T @ x  # (H, D)
    return dW1, dW2


class RMSProp:
    """Ascent with each step scaled by the gradient's recent size; eps stands outside the root, the cache starts at 0.

    cache ← decay·cache + (1 − decay)·g²;  θ ← θ + lr·g/(√cache + eps), in place.
    """

    def __init__(self, parameters, lr=1e-4, decay=0.99, eps=1e-5):
        self.parameters = list(parameters)
        self.caches = [np.zeros_like(theta) for theta in self.parameters]
        self.lr, self.decay, self.eps = lr, decay, eps

    def step(self, gradients):
        """Move every parameter up its gradient."""
        for theta, cache, g in zip(self.parameters, self.caches, gradients, strict=True):
            cache *= self.decay
            cache += (1 - self.decay) * g**2
            theta += self.lr * g / (np.sqrt(cache) + self.eps)
