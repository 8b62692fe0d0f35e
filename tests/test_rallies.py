"""Rallies are told apart by how often they were returned: as the ball's own turns say."""

import numpy as np
from rallies import MOST, count
from small_runs import ROOT

from pong.envs.pong.fleet import MachineFleet
from pong.train import load_policy


class Watched(MachineFleet):
    """Notes each rally when it ends: its point, and how often the ball turned from the player's side."""

    def reset(self, seeds=None):
        self.rallies, self.turns = [], np.zeros(self.num_envs, int)
        return super().reset(seeds)

    def step(self, actions, active):
        left = self.games["left"].copy()
        in_play = self.games["pause"] == 0
        played = super().step(actions, active)
        self.turns += in_play & (self.games["pause"] == 0) & (left < 0) & (self.games["left"] > 0)
        for i in np.flatnonzero(active & (played.rewards != 0)):
            self.rallies.append((played.rewards[i], self.turns[i]))
            self.turns[i] = 0
        return played


def test_rallies_are_counted_by_their_returns():
    policy, _ = load_policy(ROOT / "pretrained/pong")
    fleet = Watched(6, max_frames=20_000)
    won, lost = count(policy, fleet)
    assert len(won) == len(lost) == MOST
    points = np.array(fleet.rallies)
    for some, point in ((won, 1), (lost, -1)):
        returns = points[points[:, 0] == point, 1].astype(int)
        np.testing.assert_array_equal(some, np.bincount(returns, minlength=MOST))
        assert some.sum() > 20
        assert (some > 0).sum() > 3  # of several lengths
    assert won[0] == 0
