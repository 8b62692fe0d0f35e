"""scripts/research: rallies are counted by how often a ball was returned; the planner finds what saves the ball."""

import numpy as np
import planner
import pytest
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


@pytest.mark.parametrize(("line", "x", "action"), [(48, 174, 1), (174, 167, 0)])
def test_planner_starts_at_once_when_the_ball_is_just_in_reach(line, x, action):
    # the paddle rests at line 109 and must rise to 50 in 14 frames, or sink to 158 in 21; UP and DOWN move its target
    # by 5.8 lines a frame, in 10 or 9 frames, and it gets there some frames later
    fleet = MachineFleet(1, PongTask())
    fleet.reset(np.array([5]))
    for name, value in {"pause": 0, "x": x, "y": line, "left": -1, "down": 0}.items():
        fleet.games[name] = value
    decided, first = np.zeros(1, np.int64), np.full((1, 24), 1 - action)  # the wrong way, which would win a draw
    search = planner.Search((2, 0.25, 4, 4), (256, 32, 24), first)
    planner.plan(fleet.games, np.ones(1, np.bool_), search, np.random.default_rng(0), decided)
    assert decided == action


def test_planner_wins_and_again_alike():
    player = (4, 6, 32, 8, 64)
    scores = planner.play(*player, seed=1, job=0, N=2)
    assert min(scores) > 10
    assert planner.play(*player, seed=1, job=0, N=2) == scores
