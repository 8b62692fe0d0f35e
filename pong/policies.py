"""Networks that turn observations into distributions over actions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pong.frames import PIXELS, SparseFrames


class Bernoulli(torch.distributions.Bernoulli):
    """Torch's Bernoulli, taking integer actions as well as floating ones."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π(a|s) in nats of actions (B,) in {0, 1}."""
        log_probs: Tensor = super().log_prob(value.to(self.logits.dtype))  # type: ignore[no-untyped-call]
        return log_probs


class KarpathyPolicy(nn.Module):
    """The two-layer network of 2016: difference frame → 200 ReLU units → P(UP); no biases anywhere.

    p = σ(W2 · max(0, W1 · x)). Action 1 is UP (ALE action 2), action 0 is DOWN (ALE action 3).

    Source: Karpathy 2016, https://karpathy.github.io/2016/05/31/rl/, gist pg-pong.py, ``policy_forward``.

    Args:
        hidden: units in the hidden layer.
        inputs: pixels of a difference frame.
        generator: random stream of the initial weights; torch's global one if None.
    """

    def __init__(self, hidden: int = 200, inputs: int = PIXELS, *, generator: torch.Generator | None = None):
        super().__init__()
        # W1 is laid out so that one pixel's 200 weights lie side by side: W1.T is contiguous, and the first layer can
        # add up the few columns that changed without touching the rest.
        W1 = torch.randn(inputs, hidden, generator=generator).T / math.sqrt(inputs)
        W2 = torch.randn(hidden, generator=generator) / math.sqrt(hidden)
        self.W1 = nn.Parameter(W1)  # (hidden, inputs)
        self.W2 = nn.Parameter(W2)  # (hidden,)

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Logits (B,) of UP for difference frames x: (B, 6400) floating, or the same rows as ``SparseFrames``."""
        h = torch.relu(self._first_layer(x))  # (B, hidden)
        return (h * self.W2).sum(-1)  # (B,); h @ W2 would round a row differently in larger and smaller batches

    def _first_layer(self, x: Tensor | SparseFrames) -> Tensor:
        if isinstance(x, Tensor):
            return x @ self.W1.T  # (B, hidden)
        if self.W1.is_cuda:  # a GPU multiplies the zeros faster than it looks them up
            return x.to(self.W1.device).dense(self.W1.dtype) @ self.W1.T
        signs = x.signs.to(self.W1.dtype)
        return F.embedding_bag(x.columns, self.W1.T, x.offsets, mode="sum", per_sample_weights=signs)

    def distribution(self, x: Tensor | SparseFrames) -> Bernoulli:
        """π(·|x): a Bernoulli over {DOWN 0, UP 1} for each of the B rows."""
        return Bernoulli(logits=self(x), validate_args=False)

    def log_prob(self, x: Tensor | SparseFrames, actions: Tensor) -> Tensor:
        """Log π(a|x), (B,) in nats, of actions (B,) in {0, 1}."""
        return self.distribution(x).log_prob(actions)

    @torch.inference_mode()
    def act(self, x: Tensor | SparseFrames, noise: Tensor) -> Tensor:
        """Sample actions (B,) int64 on the CPU: UP where ``noise`` (B,), uniform on [0, 1), lies below P(UP)."""
        return (noise < torch.sigmoid(self(x)).cpu()).long()

    @torch.inference_mode()
    def act_greedily(self, x: Tensor | SparseFrames) -> Tensor:
        """The likelier action of each row, (B,) int64 on the CPU."""
        logits: Tensor = self(x)
        return (logits > 0).long().cpu()
