"""A learned baseline: an estimate of the value of a state."""

from torch import Tensor, nn

from pong.distributed import Ranks
from pong.observations import Observations
from pong.optimizers import Adam


class Baseline:
    """A network that predicts the return of an observation.

    What it predicts is subtracted from the returns. Since it has never seen the batch that it is used on, it changes
    the gradient's variance and not its mean.

    Args:
        network: observations → returns (B,); should begin at 0 everywhere.
        learning_rate: of its Adam.
        unit: points that the network calls 1; a network is quick to learn numbers near 1, and slow with hundreds.
        passes: gradient steps on each batch, all rows each.
        ranks: the processes that train together.
    """

    def __init__(self, network: nn.Module, *, learning_rate: float, unit: float = 1.0, passes: int, ranks: Ranks):
        self.network = network
        self.optimizer = Adam(network.parameters(), lr=learning_rate, eps=1e-5)
        self.unit = unit
        self.passes = passes
        self.ranks = ranks

    def predict(self, observations: Observations) -> Tensor:
        """Expected returns (B,) of B observations, in points, with their graph, of which ``fit`` makes a gradient."""
        returns: Tensor = self.unit * self.network(observations)
        return returns

    def fit(self, observations: Observations, predicted: Tensor, returns: Tensor, weight: float) -> None:
        """Learn from a batch, after it was used.

        Args:
            observations: B rows.
            predicted: (B,) what ``predict`` said of them.
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
