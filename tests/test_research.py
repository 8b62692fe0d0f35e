"""scripts/research: rallies are counted by how often a ball was returned."""

import numpy as np
from rallies import count
from small_runs import ROOT

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
