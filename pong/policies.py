"""Networks that turn observations into distributions over actions."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from pong.observations import PIXELS, Observations, SparseFrames

F32 = torch.float32  # whatever torch's default is


class Policy(nn.Module):
    """What training needs of a policy.

    Attributes:
        noise_shape: of the uniform numbers that decide one action.
    """

    noise_shape: tuple[int, ...] = ()

    def distribution(self, x: Any) -> Distribution:
        """π(·|x) for each of the B rows of x."""
        raise NotImplementedError

    def act(self, x: Any, noise: Tensor) -> Tensor:
        """Sample actions (B, …) on the CPU; ``noise`` (B, *noise_shape), uniform on [0, 1), decides which."""
        raise NotImplementedError

    def act_greedily(self, x: Any) -> Tensor:
        """The likeliest action of each row, (B, …) on the CPU."""
        raise NotImplementedError

    @property
    def two_layers(self) -> tuple[Tensor, Tensor] | None:
        """Weights (hidden, inputs) and (outputs, hidden) of the 2016 network on the CPU; None of other policies."""
        return None

    def log_prob(self, x: Observations, actions: Tensor) -> Tensor:
        """Log π(a|x), (B,) in nats, of actions (B, …)."""
        log_probs: Tensor = self.distribution(x).log_prob(actions)
        return log_probs

    def diagnostics(self, distribution: Any) -> dict[str, Tensor]:
        """What to show of π(·|x) besides its entropy: each a () averaged over the rows."""
        return {}


class Bernoulli(torch.distributions.Bernoulli):
    """Torch's Bernoulli, taking integer actions as well as floating ones."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log π(a|s) in nats of actions (B,) in {0, 1}."""
        log_probs: Tensor = super().log_prob(value.to(self.logits.dtype))  # type: ignore[no-untyped-call]
        return log_probs


class KarpathyPolicy(Policy):
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
        W1 = torch.randn(inputs, hidden, generator=generator, dtype=F32).T / math.sqrt(inputs)
        W2 = torch.randn(hidden, generator=generator, dtype=F32) / math.sqrt(hidden)
        self.W1 = nn.Parameter(W1)  # (hidden, inputs)
        self.W2 = nn.Parameter(W2)  # (hidden,)

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Logits (B,) of UP for difference frames x: (B, 6400) floating, or the same rows as ``SparseFrames``."""
        h = torch.relu(first_layer(self.W1, x))  # (B, hidden)
        return h @ self.W2

    def distribution(self, x: Tensor | SparseFrames) -> Bernoulli:
        """π(·|x): a Bernoulli over {DOWN 0, UP 1} for each of the B rows."""
        return Bernoulli(logits=self(x), validate_args=False)

    @property
    def two_layers(self) -> tuple[Tensor, Tensor] | None:
        """W1, and W2 as the only row of a matrix, on the CPU."""
        return None if self.W1.is_cuda else (self.W1.detach(), self.W2.detach()[None])

    @torch.inference_mode()
    def act(self, x: Tensor | SparseFrames, noise: Tensor) -> Tensor:
        """Sample actions (B,) int64 on the CPU: UP where ``noise`` (B,), uniform on [0, 1), lies below P(UP)."""
        if isinstance(x, SparseFrames) and (network := self.two_layers):
            return sampled(network, x, noise)
        return (noise < torch.sigmoid(self(x)).cpu()).long()

    @torch.inference_mode()
    def act_greedily(self, x: Tensor | SparseFrames) -> Tensor:
        """The likelier action of each row, (B,) int64 on the CPU."""
        if isinstance(x, SparseFrames) and (network := self.two_layers):
            return (compiled_logits(network, x)[:, 0] > 0).long()
        logits: Tensor = self(x)
        return (logits > 0).long().cpu()

    def diagnostics(self, distribution: Bernoulli) -> dict[str, Tensor]:
        """The mean P(UP)."""
        return {"prob_up": distribution.probs.mean()}


def sampled(network: tuple[Tensor, Tensor], x: SparseFrames, noise: Tensor) -> Tensor:
    """Actions (B,) int64 of two layers of weights, by compiled arithmetic, in which no row depends on the others."""
    from pong.two_layers import decide_rows  # Numba is imported when Pong is first played

    return decide_rows(network, x, noise)


def compiled_logits(network: tuple[Tensor, Tensor], x: SparseFrames) -> Tensor:
    """The logits (B, outputs) that ``sampled`` decides by."""
    from pong.two_layers import logits_of_rows

    return logits_of_rows(network, x)


def first_layer(W1: Tensor, x: Tensor | SparseFrames) -> Tensor:
    """x @ W1.T, (B, hidden), of inputs x, (B, inputs) or ``SparseFrames``, and weights (hidden, inputs)."""
    if isinstance(x, Tensor):
        return x @ W1.T
    if W1.is_cuda:  # a GPU multiplies the zeros faster than it looks them up
        return x.to(W1.device).dense(W1.dtype) @ W1.T
    product: Tensor = SparseProduct.apply(W1, x)  # type: ignore[no-untyped-call]
    return product


class SparseProduct(torch.autograd.Function):
    """x @ W1.T of sparse rows x: the product and its gradient touch what is not 0 in x, and nothing else."""

    @staticmethod
    def forward(ctx: Any, W1: Tensor, x: SparseFrames) -> Tensor:
        """(B, hidden), of weights (hidden, inputs) and B rows."""
        ctx.x = x
        return x @ W1.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """∂/∂W1, (hidden, inputs), of ∂/∂product, (B, hidden)."""
        return (ctx.x.transposed @ gradient).T, None


class TwoLayers(nn.Module):
    """The 2016 network with several outputs: inputs → ReLU units → outputs; no biases.

    Args:
        inputs: numbers in a row.
        hidden: units in the hidden layer.
        outputs: the second layer's; its weights begin at 0.
        generator: random stream of the first layer's initial weights; torch's global one if None.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, generator: torch.Generator | None = None):
        super().__init__()
        self.W1 = nn.Parameter(torch.randn(inputs, hidden, generator=generator, dtype=F32).T / math.sqrt(inputs))
        self.W2 = nn.Parameter(torch.zeros(outputs, hidden, dtype=F32))

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Outputs (B, outputs) of inputs (B, inputs) floating, or bytes seen in ``contrast``, or ``SparseFrames``."""
        x = rows_of(x) if isinstance(x, Tensor) else x
        h = torch.relu(first_layer(self.W1, x))  # (B, hidden)
        return h @ self.W2.T


FEW = 128  # rows at a time on a CPU, so that they stay in its caches
RARE = 10.0  # one pixel of Pong in a hundred is not 0: times this their standard deviation is near 1


class ConvNet(nn.Module):
    """Convolutions, a hidden layer, and outputs, which begin at 0: pictures → outputs.

    The first convolution looks at 8 × 8 pixels, at every fourth, and the others at 4 × 4, at every second; a ReLU after
    each.

    Source: Mnih et al. 2013, "Playing Atari with Deep Reinforcement Learning", https://arxiv.org/abs/1312.5602, 4.1.

    Args:
        shape: of a picture, (C, H, W).
        channels: filters of each convolution.
        hidden: units in the hidden layer.
        outputs: numbers for each picture.
        more: numbers that follow the pictures' pixels in a row, and are shown to the hidden layer.
        generator: random stream of the initial weights; torch's global one if None.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        hidden: int,
        outputs: int,
        more: int = 0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        for k, (inputs, filters) in enumerate(itertools.pairwise((shape[0], *channels))):
            size, step = _WINDOWS[bool(k)]
            layers += [nn.Conv2d(inputs, filters, size, step, dtype=F32), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.hidden = nn.Linear(features(shape, channels) + more, hidden, dtype=F32)
        self.outputs = nn.Linear(hidden, outputs, dtype=F32)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.outputs.weight)

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Outputs (B, outputs).

        Args:
            x: (B, C, H, W), floating, or uint8 and then seen in ``contrast``; or rows of pixels, and then ``more``
                numbers, as ``SparseFrames``, which count ``RARE`` times.
        """
        x = x.to(self.outputs.weight.device)
        rows = len(x) if self.outputs.weight.is_cuda else FEW
        return torch.cat([self._outputs(part) for part in x.split(rows)])

    def _outputs(self, x: Tensor | SparseFrames) -> Tensor:
        pixels = math.prod(self.shape)
        if isinstance(x, SparseFrames):
            pictures, more = replace(x, signs=RARE * x.signs).cut(pixels)
            images = pictures.view(-1, *self.shape)
        else:
            rows = rows_of(x)
            pictures, more = rows[:, :pixels], rows[:, pixels:]
            images = pictures.view(-1, *self.shape).contiguous(memory_format=torch.channels_last)  # a third faster
        seen = self.convolutions(images)
        hidden = torch.relu(self.hidden(torch.cat([seen, more], 1)))
        outputs: Tensor = self.outputs(hidden)
        return outputs


def rows_of(x: Tensor) -> Tensor:
    """The rows (B, n) of inputs (B, …), floating: bytes are seen in ``contrast``."""
    return (x if x.is_floating_point() else contrast(x)).flatten(1)


def contrast(pictures: Tensor) -> Tensor:
    """Pictures (B, …, W) uint8 as their lines differ from each line's mean, in the picture's standard deviations.

    Ceiling, wall and floor are much the same in all pictures of a game, and would be half of what a network sees.
    """
    pixels = pictures.float()
    pixels -= pixels.mean(-1, keepdim=True)
    return pixels / pixels.square().flatten(1).mean(1).sqrt().clamp(min=1).view(-1, *[1] * (pixels.ndim - 1))


_WINDOWS = ((8, 4), (4, 2))  # pixels to a side, and from one to the next: of the first convolution, and of the others


def features(shape: Sequence[int], channels: Sequence[int]) -> int:
    """How many numbers the convolutions of a ``ConvNet`` make of a picture (C, H, W); without any, its own.

    Raises:
        ValueError: it is too small for them.
    """
    sides = list(shape[1:])
    for k in range(len(channels)):
        size, step = _WINDOWS[bool(k)]
        sides = [(side - size) // step + 1 for side in sides]
    if min(sides) < 1:
        raise ValueError(f"pictures of {shape[1]} × {shape[2]} are too small for {len(channels)} convolutions")
    return (channels[-1] if channels else shape[0]) * math.prod(sides)


class CategoricalPolicy(Policy):
    """One of n actions, from the logits of a network.

    Args:
        network: observations (B, …) → logits (B, n).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def distribution(self, x: Tensor) -> torch.distributions.Categorical:
        """π(·|x): a Categorical over {0, …, n − 1} for each of the B rows."""
        return torch.distributions.Categorical(logits=self.network(x), validate_args=False)

    @property
    def two_layers(self) -> tuple[Tensor, Tensor] | None:
        """The network's weights, if it is of two layers and on the CPU."""
        network = self.network
        if not isinstance(network, TwoLayers) or network.W1.is_cuda:
            return None
        return network.W1.detach(), network.W2.detach()

    @torch.inference_mode()
    def act(self, x: Tensor | SparseFrames, noise: Tensor) -> Tensor:
        """Sample actions (B,) int64: as many as the sums p₀, p₀ + p₁, … that ``noise`` (B,) reaches."""
        if isinstance(x, SparseFrames) and (network := self.two_layers):
            return sampled(network, x, noise)
        sums = self.network(x).softmax(-1).cumsum(-1)[:, :-1].cpu()  # (B, n − 1)
        actions: Tensor = (noise[:, None] >= sums).sum(-1)
        return actions

    @torch.inference_mode()
    def act_greedily(self, x: Tensor | SparseFrames) -> Tensor:
        """The likeliest action of each row, (B,) int64 on the CPU."""
        if isinstance(x, SparseFrames) and (network := self.two_layers):
            return compiled_logits(network, x).argmax(-1)
        actions: Tensor = self.network(x).argmax(-1).cpu()
        return actions


class GaussianPolicy(Policy):
    """A vector of d real numbers, each drawn for itself: a ~ N(μ(x), diag σ²), σ learned and the same everywhere.

    log π(a|x) is the sum over the d numbers.

    Args:
        network: observations (B, …) → means (B, d).
        actions: d.
    """

    def __init__(self, network: nn.Module, actions: int):
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.zeros(actions, dtype=F32))  # (d,)
        self.noise_shape = (actions,)

    def distribution(self, x: Tensor) -> "Independent[Normal]":
        """π(·|x): a diagonal Gaussian for each of the B rows."""
        means = self.network(x)  # (B, d)
        return Independent(Normal(means, self.log_std.exp().expand_as(means), validate_args=False), 1)

    @torch.inference_mode()
    def act(self, x: Tensor, noise: Tensor) -> Tensor:
        """Sample actions (B, d) on the CPU: the ``noise`` (B, d) quantiles of each number's distribution."""
        inside = noise.double() + 2**-25  # noise has 24 bits and may be 0, whose quantile is −∞
        quantiles = torch.special.ndtri(inside).to(noise.dtype)
        actions: Tensor = self.network(x).cpu() + self.log_std.exp().cpu() * quantiles
        return actions

    @torch.inference_mode()
    def act_greedily(self, x: Tensor) -> Tensor:
        """The mean of each row, (B, d) on the CPU."""
        means: Tensor = self.network(x).cpu()
        return means

    def diagnostics(self, distribution: "Independent[Normal]") -> dict[str, Tensor]:
        """The mean σ."""
        return {"std": distribution.stddev.mean()}


def mlp(units: Sequence[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers with ReLU between them: (B, units[0]) → (B, units[-1]); two numbers make a plain linear map.

    Weights begin uniform within ±1/√inputs, as in torch's own layers, biases at 0, and all of the last layer at 0: a
    policy begins indifferent, and a baseline knowing nothing.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(units):
        layer = nn.Linear(inputs, outputs, dtype=F32)
        nn.init.uniform_(layer.weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    nn.init.zeros_(layer.weight)
    return nn.Sequential(*layers[:-1])


def mlp_policy(
    hidden: Sequence[int], observations: Box, actions: Discrete | Box, generator: torch.Generator | None = None
) -> CategoricalPolicy | GaussianPolicy:
    """A policy for an environment with these spaces: one of n actions, or a vector of d numbers.

    Args:
        hidden: units of each hidden layer; none makes the policy linear.
        observations: shape (k,).
        actions: n of them, or shape (d,).
        generator: random stream of the initial weights.
    """
    if isinstance(actions, Discrete):
        return CategoricalPolicy(mlp((*observations.shape, *hidden, int(actions.n)), generator))
    return GaussianPolicy(mlp((*observations.shape, *hidden, *actions.shape), generator), *actions.shape)
