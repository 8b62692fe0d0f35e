"""scripts/research: rallies are counted by how often a ball was returned; siblings are games with one start."""

import numpy as np
import pytest
import torch
from rallies import count
from siblings import SiblingFleet, siblings_mean
from small_runs import ROOT

from pong.config import load_config
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.task import PongTask
from pong.train import load_policy


class WatchedFleet(MachineFleet):
    """Records each rally: its point, and how often the ball turned at the player's side."""

    def reset(self, seeds=None):
        self.rallies, self.turns = [], np.zeros(self.num_envs, int)
        return super().reset(seeds)

    def step(self, actions, active):
        left = self.games["left"].copy()
        in_play = self.games["pause"] == 0
        result = super().step(actions, active)
        self.turns += in_play & (self.games["pause"] == 0) & (left < 0) & (self.games["left"] > 0)
        for i in np.flatnonzero(active & (result.rewards != 0)):
            self.rallies.append((result.rewards[i], self.turns[i]))
            self.turns[i] = 0
        return result


def test_count_sorts_rallies_by_their_returns():
    fleet = WatchedFleet(6, PongTask(max_frames=20_000))
    won, lost = count(load_policy(ROOT / "pretrained/pong")[0], fleet)
    points = np.array(fleet.rallies)
    for counts, point in ((won, 1), (lost, -1)):
        returns = points[points[:, 0] == point, 1].astype(int)
        np.testing.assert_array_equal(counts, np.bincount(returns, minlength=len(counts)))
        assert (counts > 0).sum() > 3  # rallies of several lengths


def test_siblings_mean_leaves_out_its_own_return_and_ended_siblings():
    returns = torch.tensor([[0.5, 0.25, -1, 1, 1, 1], [1, 0.5, 7, -1, 1, 1]])
    active = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0]]).bool()
    expected = torch.tensor([(0.25 - 1) / 2, (0.5 - 1) / 2, (0.5 + 0.25) / 2, 1, 1, 1, 0.5, 1, 0])
    torch.testing.assert_close(siblings_mean(returns, active, 3)[active], expected)


@pytest.mark.parametrize("hits", [False, True])
def test_siblings_start_from_one_state_and_then_differ(hits):
    config, K = load_config(ROOT / "configs/pong_expert.toml").replace(num_envs=8), 4
    policy, fleet = load_policy(ROOT / "pretrained/pong_expert")[0], SiblingFleet(config, K, hits)
    rows, noise = fleet.reset(np.arange(8)), np.random.default_rng(0).random((2000, 1, 8), np.float32)
    names = [name for name in fleet.games.dtype.names if name not in ("ale_drawn", "gym_drawn")]
    restarts, in_play, differ = 0, 0, 0
    for numbers in noise:
        waited = fleet.ended.reshape(-1, K).any(1)
        rows = fleet.play(policy, rows, numbers, None, False).next_observations
        for group in np.flatnonzero(waited & ~fleet.ended.reshape(-1, K).any(1)) * K:
            games, seen = fleet.games[names][group : group + K], rows.dense()[group : group + K]
            assert (games == games[0]).all()
            assert (seen == seen[0]).all()
            restarts, in_play = restarts + 1, in_play + (games["pause"][0] == 0)
        differ += len(np.unique(fleet.games["own_y"][:K]))
    assert restarts > 10
    assert (in_play > 0) == hits
    assert differ > 1.5 * len(noise)
