"""A learned baseline: an estimate of the value of a state."""

from torch import Tensor, nn

from pong.distributed import Ranks
from pong.observations import Observations
from pong.optimizers import Adam


class Baseline:
    """A network that predicts the return of an observation.

    Its predictions are subtracted from the returns. As it was not fitted to the batch that it is used on, it changes
    the gradient's variance but not its mean.

    Args:
        network: observations → returns (B,); should start at 0 everywhere.
        learning_rate: of its Adam.
        unit: returns per unit of the network's output: targets are scaled to about 1.
        passes: gradient steps on each batch, on all rows.
        ranks: the processes that train together.
    """

    def __init__(self, network: nn.Module, *, learning_rate: float, unit: float = 1.0, passes: int, ranks: Ranks):
        self.network = network
        self.optimizer = Adam(network.parameters(), lr=learning_rate, eps=1e-5)
        self.unit = unit
        self.passes = passes
        self.ranks = ranks

    def predict(self, observations: Observations) -> Tensor:
        """Expected returns (B,) of B observations, in points, with the graph that ``fit`` differentiates."""
        returns: Tensor = self.unit * self.network(observations)
        return returns

    def fit(self, observations: Observations, predicted: Tensor, returns: Tensor, weight: float) -> None:
        """Learn from a batch, after it was used.

        Args:
            observations: B rows.
            predicted: (B,), the result of ``predict``.
            returns: (B,) discounted points.
            weight: B over the rows of all ranks together.
        """
        for step in range(self.passes):
            predicted = self.predict(observations) if step else predicted
            loss = weight * ((predicted - returns) / self.unit).square().mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.ranks.all_reduce([p.grad for p in self.network.parameters() if p.grad is not None])
            self.optimizer.step()
