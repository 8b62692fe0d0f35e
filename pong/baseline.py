"""A learned baseline: an estimate of the value of a state."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pong.config import Config
from pong.distributed import Ranks
from pong.observations import Observations
from pong.optimizers import Adam
from pong.policies import slice_rows
from pong.rollout import Batch


class Baseline:
    """A network that predicts returns, (B,). As it only knows earlier batches, it adds no bias to the gradient."""

    def __init__(self, network: nn.Module, config: Config, ranks: Ranks):
        self.network = network
        self.optimizer = Adam(network.parameters(), lr=config.baseline_learning_rate, eps=1e-5, fused=True)
        self.passes = config.baseline_passes  # gradient steps on each batch, on all rows
        self.ranks = ranks

    def predict(self, observations: Observations) -> Tensor:
        """Expected returns (B,) of B observations; if they are one slice, with the graph for ``fit``."""
        slices = observations.split(slice_rows(self.network))
        with torch.set_grad_enabled(len(slices) == 1):
            return torch.cat([self.network(part) for part in slices])

    def fit(self, batch: Batch, predicted: Tensor) -> None:
        """Learn from a batch of B rows after it was used; ``predicted`` (B,) by ``predict``, in the returns' unit."""
        for step in range(self.passes):
            self.optimizer.zero_grad()
            for part in batch.split(slice_rows(self.network)):
                has_graph = predicted.requires_grad and step == 0
                returns = predicted if has_graph else self.network(part.observations)  # (b,)
                part.share(F.mse_loss(returns, part.returns)).backward()
            self.ranks.all_reduce([p.grad for p in self.network.parameters() if p.grad is not None])
            self.optimizer.step()
