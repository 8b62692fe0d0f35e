"""The learned baseline: fitting with an earlier prediction equals plain passes of Adam."""

import copy

import numpy as np
import pytest
import torch

from pong.baseline import Baseline
from pong.config import Config
from pong.distributed import Ranks
from pong.observations import PIXELS, SparseFrames
from pong.policies import TwoLayers, mlp
from pong.rollout import Batch

CONFIG = Config(baseline_learning_rate=0.01)


def sparse_rows():
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array([0, 1, -1], np.int8), (30, PIXELS), p=[0.996, 0.002, 0.002])
    return SparseFrames.from_dense(rows)


def networks():
    """Networks that start at 0 everywhere, and rows for them."""
    two_layers = TwoLayers(PIXELS, 5, 1, torch.Generator().manual_seed(1))
    return {
        "two layers": (torch.nn.Sequential(two_layers, torch.nn.Flatten(0)), sparse_rows()),
        "mlp": (
            torch.nn.Sequential(mlp((4, 5, 1), torch.Generator().manual_seed(1)), torch.nn.Flatten(0)),
            torch.randn(30, 4, generator=torch.Generator().manual_seed(2)),
        ),
    }


@pytest.mark.parametrize("kind", networks())
@pytest.mark.parametrize(("passes", "weight"), [(1, 1.0), (2, 1.0), (3, 0.25)])
def test_baseline_fit_equals_plain_passes(kind, passes, weight):
    """Three batches; each gradient is of the mean square, with the weights of its own pass."""
    network, x = networks()[kind]
    plain = copy.deepcopy(network)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, eps=1e-5)
    baseline = Baseline(network, CONFIG.replace(baseline_passes=passes), Ranks())
    forward_passes = []
    network.register_forward_hook(lambda *_: forward_passes.append(1))
    for seed in range(3):
        returns = torch.randn(30, generator=torch.Generator().manual_seed(seed))
        predicted = baseline.predict(x)
        torch.testing.assert_close(predicted, plain(x), rtol=1e-4, atol=1e-5)
        before = predicted.detach().clone()
        baseline.fit(Batch(x, torch.zeros(30), returns, [], 0, 30, 0, weight), predicted)
        assert torch.equal(predicted.detach(), before)
        for _ in range(passes):
            optimizer.zero_grad()
            (weight * (plain(x) - returns).square().mean()).backward()
            optimizer.step()
        for actual, expected in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert len(forward_passes) == 3 * passes  # the first pass reuses the prediction
    assert baseline.predict(x).std() > 0.01
