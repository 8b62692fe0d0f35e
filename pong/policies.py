"""Policies: networks that turn observations into distributions over actions, and the factories that build them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional as F

from pong.config import Config
from pong.envs import task_spec
from pong.observations import PIXELS, Observations, SparseFrames

F32 = torch.float32  # even if torch's default is another


class Policy(nn.Module):
    """A distribution over actions for each observation."""

    noise_shape: tuple[int, ...] = ()  # of the uniform numbers that decide one action
    two_layers: tuple[Tensor, Tensor] | None = None  # W1 (inputs, hidden), W2 (outputs, hidden): compiled code decides

    def distribution(self, x: Any) -> Distribution:
        """π(·|x) for each of the B rows of x."""
        raise NotImplementedError

    def act(self, x: Any, noise: Tensor) -> Tensor:
        """Sample actions (B, …) on the CPU; ``noise`` (B, *noise_shape), uniform on [0, 1), decides which."""
        raise NotImplementedError

    def act_greedily(self, x: Any) -> Tensor:
        """The likeliest action of each row, (B, …) on the CPU."""
        raise NotImplementedError

    def log_prob(self, x: Observations, actions: Tensor) -> Tensor:
        """Log π(a|x), (B,) in nats, of actions (B, …)."""
        return self.distribution(x).log_prob(actions)


class Bernoulli(torch.distributions.Bernoulli):
    """Torch's Bernoulli, for integer actions, too."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.to(self.logits.dtype))  # type: ignore[no-any-return, no-untyped-call]

    def entropy(self) -> Tensor:
        """H = (1 − p)·z − log σ(z) of logits z, (B,) in nats; for fixed p = σ(z), ∂H/∂z is 0."""
        z = self.logits.detach()
        return (1 - self.probs) * z - F.logsigmoid(z)


class DiscretePolicy(Policy):
    """One of n actions, by logits: of each action, or of action 1 alone."""

    def logits(self, x: Tensor | SparseFrames) -> Tensor:
        """Logits (B, n) of each action, or (B, 1) of action 1."""
        logits: Tensor = self(x)
        return logits[:, None] if logits.ndim == 1 else logits

    def distribution(self, x: Tensor | SparseFrames) -> torch.distributions.Bernoulli | torch.distributions.Categorical:
        """π(·|x) for each of the B rows: a Bernoulli over {0, 1}, or a Categorical over {0, …, n − 1}."""
        logits = self.logits(x)
        if logits.shape[1] == 1:
            return Bernoulli(logits=logits.squeeze(1), validate_args=False)
        return torch.distributions.Categorical(logits=logits, validate_args=False)

    @torch.inference_mode()
    def act(self, x: Tensor | SparseFrames, noise: Tensor) -> Tensor:
        """Sample actions (B,) int64 on the CPU with ``noise`` (B,), uniform on [0, 1).

        Action 1 where the noise lies below its probability; of n logits as many as the sums p₀, p₀ + p₁, … it reaches.
        """
        if isinstance(x, SparseFrames) and self.two_layers:
            from pong.envs.pong import kernels  # Numba is imported when Pong is first played

            return kernels.decide_rows(self.two_layers, x, noise)[1]
        logits = self.logits(x)
        if logits.shape[1] == 1:
            return (noise < torch.sigmoid(logits[:, 0]).cpu()).long()
        sums = logits.softmax(-1).cumsum(-1)[:, :-1].cpu()  # (B, n − 1)
        return (noise[:, None] >= sums).sum(-1)

    @torch.inference_mode()
    def act_greedily(self, x: Tensor | SparseFrames) -> Tensor:
        """The likeliest action of each row, (B,) int64 on the CPU; action 0 on a tie."""
        if isinstance(x, SparseFrames) and self.two_layers:
            from pong.envs.pong import kernels

            logits, _ = kernels.decide_rows(self.two_layers, x, torch.zeros(len(x), dtype=F32))
        else:
            logits = self.logits(x).cpu()
        return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(-1)


class KarpathyPolicy(DiscretePolicy):
    """The two-layer network of 2016: difference frame → 200 ReLU units → P(UP); no biases anywhere.

    p = σ(W2 · max(0, x · W1)). Action 1 is UP, action 0 is DOWN. W1 is the transpose of that of the 2016 program.

    Source: Karpathy 2016, https://karpathy.github.io/2016/05/31/rl/, gist pg-pong.py, ``policy_forward``.
    """

    def __init__(self, hidden: int = 200, inputs: int = PIXELS, *, generator: torch.Generator | None = None):
        super().__init__()
        W1 = torch.randn(inputs, hidden, generator=generator, dtype=F32) / math.sqrt(inputs)
        W2 = torch.randn(hidden, generator=generator, dtype=F32) / math.sqrt(hidden)
        self.W1 = nn.Parameter(W1)  # (inputs, hidden)
        self.W2 = nn.Parameter(W2)  # (hidden,)

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Logits (B,) of UP for difference frames x: (B, 6400) floating, or the same rows as ``SparseFrames``."""
        h = torch.relu_(x.to(self.W1.device) @ self.W1)  # (B, hidden)
        return h @ self.W2

    @property
    def two_layers(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """W1, and W2 as the only row of a matrix."""
        return self.W1.detach(), self.W2.detach()[None]


class TwoLayers(nn.Module):
    """The 2016 network with several outputs, which start at 0: inputs → ReLU units → outputs; no biases."""

    def __init__(self, inputs: int, hidden: int, outputs: int, generator: torch.Generator | None = None):
        super().__init__()
        self.W1 = nn.Parameter(torch.randn(inputs, hidden, generator=generator, dtype=F32) / math.sqrt(inputs))
        self.W2 = nn.Parameter(torch.zeros(outputs, hidden, dtype=F32))

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Outputs (B, outputs) of inputs (B, inputs) floating, or bytes, see ``contrast``, or ``SparseFrames``."""
        x = float_rows(x) if isinstance(x, Tensor) else x
        h = torch.relu_(x.to(self.W1.device) @ self.W1)  # (B, hidden)
        return h @ self.W2.T


SLICE_NUMBERS = 2**21  # in each layer of a slice, 8 MB; on a GPU 16 times as many
CPU_ROWS = 128  # rows at a time on a CPU, so that they stay in its caches
SPARSE_SCALE = 10.0  # about one pixel of Pong in a hundred is not 0: times this its standard deviation is near 1
_WINDOWS = ((8, 4), (4, 2))  # size and stride of the first convolution, and of the others


class ConvNet(nn.Module):
    """Convolutions, a hidden layer, and outputs, which start at 0: images → outputs.

    The first convolution has windows of 8 × 8 pixels and stride 4, the others 4 × 4 and stride 2.
    Source: Mnih et al. 2013, "Playing Atari with Deep Reinforcement Learning", https://arxiv.org/abs/1312.5602, 4.1.
    """

    def __init__(
        self,
        shape: Sequence[int],  # of an image, (C, H, W)
        channels: Sequence[int],  # filters of each convolution
        hidden: int,
        outputs: int,
        extra: int = 0,  # numbers that follow the image's pixels in a row; they enter the hidden layer
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        for k, (inputs, filters) in enumerate(itertools.pairwise((shape[0], *channels))):
            layers += [nn.Conv2d(inputs, filters, *_WINDOWS[bool(k)], dtype=F32), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        features = self.convolutions(torch.zeros(1, *shape, dtype=F32)).shape[1]
        self.hidden = nn.Linear(features + extra, hidden, dtype=F32)
        self.outputs = nn.Linear(hidden, outputs, dtype=F32)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.outputs.weight)

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        """Outputs (B, outputs) of images (B, C, H, W), or of rows of pixels and ``extra`` numbers."""
        x = x.to(self.outputs.weight.device)
        rows = len(x) if self.outputs.weight.is_cuda else CPU_ROWS
        return torch.cat([self._outputs(part) for part in x.split(rows)])

    def _outputs(self, x: Tensor | SparseFrames) -> Tensor:
        rows = replace(x, signs=SPARSE_SCALE * x.signs).dense() if isinstance(x, SparseFrames) else float_rows(x)
        pixels = math.prod(self.shape)
        images, extra = rows[:, :pixels].view(-1, *self.shape), rows[:, pixels:]
        if isinstance(x, Tensor):
            images = images.contiguous(memory_format=torch.channels_last)  # a third faster
        hidden = torch.relu(self.hidden(torch.cat([self.convolutions(images), extra], 1)))
        return self.outputs(hidden)  # type: ignore[no-any-return]


def float_rows(x: Tensor) -> Tensor:
    """The rows (B, n) of inputs (B, …), floating; bytes go through ``contrast``."""
    return (x if x.is_floating_point() else contrast(x)).flatten(1)


def contrast(images: Tensor) -> Tensor:
    """Images (B, …, W) uint8, minus each line's mean, as of walls and floor, over the image's standard deviation."""
    pixels = images.float()
    pixels -= pixels.mean(-1, keepdim=True)
    return pixels / pixels.square().flatten(1).mean(1).sqrt().clamp(min=1).view(-1, *[1] * (pixels.ndim - 1))


class CategoricalPolicy(DiscretePolicy):
    """One of n actions, from the logits of a network: observations (B, …) → logits (B, n)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor | SparseFrames) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]

    @property
    def two_layers(self) -> tuple[Tensor, Tensor] | None:  # type: ignore[override]
        network = self.network
        return (network.W1.detach(), network.W2.detach()) if isinstance(network, TwoLayers) else None


class GaussianPolicy(Policy):
    """d independent real numbers: a ~ N(μ(x), diag σ²); a network maps x to μ, and σ is learned, the same for all x."""

    def __init__(self, network: nn.Module, actions: int):
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.zeros(actions, dtype=F32))  # (d,)
        self.noise_shape = (actions,)

    def distribution(self, x: Tensor) -> "Independent[Normal]":
        means = self.network(x)  # (B, d)
        return Independent(Normal(means, self.log_std.exp().expand_as(means), validate_args=False), 1)

    @torch.inference_mode()
    def act(self, x: Tensor, noise: Tensor) -> Tensor:
        """Sample actions (B, d) on the CPU: the ``noise`` (B, d) quantiles of each number's distribution."""
        inside = noise.double() + 2**-25  # noise has 24 bits and may be 0, whose quantile is −∞
        quantiles = torch.special.ndtri(inside).to(noise.dtype)
        return self.network(x).cpu() + self.log_std.exp().cpu() * quantiles  # type: ignore[no-any-return]

    @torch.inference_mode()
    def act_greedily(self, x: Tensor) -> Tensor:
        return self.network(x).cpu()  # type: ignore[no-any-return]


def diagnostics(distribution: Distribution) -> dict[str, Tensor]:
    """Statistics of the rows of a distribution besides its entropy; their means are reported."""
    if isinstance(distribution, Independent):
        return {"std": distribution.stddev}
    return {"prob_up": distribution.probs} if isinstance(distribution, Bernoulli) else {}


def mlp(units: Sequence[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers with ReLU between them: (B, units[0]) → (B, units[-1]); two numbers make a plain linear map.

    Weights start within ±1/√inputs, biases and the last layer at 0: a policy starts uniform, and a baseline predicts 0.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(units):
        layer = nn.Linear(inputs, outputs, dtype=F32)
        nn.init.uniform_(layer.weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    nn.init.zeros_(layer.weight)
    return nn.Sequential(*layers[:-1])


def make_policy(config: Config) -> Policy:
    """The untrained policy of a config; its weights come from the config's seed alone."""
    generator, spec = torch.Generator().manual_seed(config.seed), task_spec(config)
    if config.policy == "karpathy" and spec.actions == 2:
        return KarpathyPolicy(config.layers[0], spec.inputs, generator=generator)
    network = make_network(config, config.layers, spec.actions, generator, config.channels)
    return GaussianPolicy(network, spec.actions) if spec.continuous else CategoricalPolicy(network)


def make_value_network(config: Config) -> nn.Module:
    """The untrained network that predicts returns, observations → (B,); it starts at 0 everywhere."""
    generator = torch.Generator().manual_seed(config.seed)
    if config.policy == "karpathy":
        value = KarpathyPolicy(config.baseline_layers[0], task_spec(config).inputs, generator=generator)
        nn.init.zeros_(value.W2)
        return value
    channels = config.channels if config.baseline_channels is None else config.baseline_channels
    return nn.Sequential(make_network(config, config.baseline_layers, 1, generator, channels), nn.Flatten(0))


def slice_rows(network: nn.Module) -> int:
    """Rows of a batch to process at a time, so that activations take bounded memory."""
    parameters = list(network.parameters())
    images = [math.prod(module.shape) // 4 for module in network.modules() if isinstance(module, ConvNet)]
    widest = max(*images, *(p.shape[-1] for p in parameters))
    rows = SLICE_NUMBERS * (16 if parameters[0].is_cuda else 1) // widest
    return rows // CPU_ROWS * CPU_ROWS or max(rows, 1)


def make_network(
    config: Config, layers: list[int], outputs: int, generator: torch.Generator, channels: list[int]
) -> nn.Module:
    """An untrained network of the policy's kind, with these hidden layers."""
    spec = task_spec(config)
    if config.policy == "mlp":
        return mlp((*spec.shape, *layers, outputs), generator)
    if config.policy == "karpathy" or not channels:
        return TwoLayers(spec.inputs, layers[0], outputs, generator)
    return ConvNet(spec.shape, channels, layers[0], outputs, spec.extra, generator)
