"""A learned baseline: an estimate of the value of a state."""

from torch import Tensor, nn

from pong.config import Config
from pong.distributed import Ranks
from pong.observations import Observations
from pong.optimizers import Adam


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
        """Expected returns (B,) of B observations, in points, with the graph that ``fit`` differentiates."""
        returns: Tensor = self.unit * self.network(observations)
        return returns

    def fit(self, observations: Observations, predicted: Tensor, returns: Tensor, weight: float) -> None:
        """Learn from a batch of B rows after it was used: ``predicted`` (B,) by ``predict``, ``returns`` (B,).

        ``weight`` is B over the rows of all ranks together.
        """
        for step in range(self.passes):
            predicted = self.predict(observations) if step else predicted
            loss = weight * ((predicted - returns) / self.unit).square().mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.ranks.all_reduce([p.grad for p in self.network.parameters() if p.grad is not None])
            self.optimizer.step()
