"""A learned baseline: an estimate of the value of a state."""

import torch
from torch import Tensor, nn

from pong.config import Config
from pong.distributed import Ranks
from pong.observations import Observations
from pong.optimizers import Adam
from pong.policies import slice_rows
from pong.rollout import Batch


class Baseline:
    """A network that predicts the return of an observation.

    Its predictions are subtracted from the returns. As it was not fitted to the batch that it is used on, it changes
    the gradient's variance but not its mean.

    Args:
        network: observations → returns (B,); should start at 0 everywhere.
        config: has the learning rate, the unit and the passes.
        ranks: the processes that train together.
    """

    def __init__(self, network: nn.Module, config: Config, ranks: Ranks):
        self.network = network
        self.optimizer = Adam(network.parameters(), lr=config.baseline_learning_rate, eps=1e-5)
        self.unit = config.baseline_unit  # returns per unit of the network's output: targets are scaled to about 1
        self.passes = config.baseline_passes  # gradient steps on each batch, on all rows
        self.ranks = ranks

    def predict(self, observations: Observations) -> Tensor:
        """Expected returns (B,) of B observations, in points; if they are one slice, with the graph for ``fit``."""
        slices = observations.split(slice_rows(self.network))
        with torch.set_grad_enabled(len(slices) == 1):
            returns: Tensor = self.unit * torch.cat([self.network(part) for part in slices])
        return returns

    def fit(self, batch: Batch, predicted: Tensor) -> None:
        """Learn from a batch of B rows after it was used; ``predicted`` (B,) by ``predict``."""
        for step in range(self.passes):
            self.optimizer.zero_grad()
            for part in batch.split(slice_rows(self.network)):
                known = predicted.requires_grad and step == 0
                returns = predicted if known else self.unit * self.network(part.observations)  # (b,)
                loss = part.weight * ((returns - part.returns) / self.unit).square().mean()
                loss.backward()
            self.ranks.all_reduce([p.grad for p in self.network.parameters() if p.grad is not None])
            self.optimizer.step()
