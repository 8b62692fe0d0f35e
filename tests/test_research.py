"""scripts/research: players that know the exact game state, and rallies counted by how often a ball was returned."""

import numpy as np
import pytest
import torch
from best_response import GAMMA, LAMBDA, RIGHT, Player, arrival, evaluate, lambda_returns
from rallies import MOST, count
from small_runs import ROOT

from pong.envs.pong.fleet import MachineFleet
from pong.train import load_policy


def test_arrival_is_where_the_ball_reaches_the_paddle():
    fleet, prediction, arrivals = MachineFleet(1, hold=1), None, 0
    fleet.reset(np.array([3]))
    random = np.random.default_rng(0)
    for _ in range(20_000):
        fleet.play(random.integers(0, 2, 1), np.ones(1, bool))
        game = fleet.games[0]
        if game.y == 0 or game.pause or game.left >= 0:
            prediction = None
        elif prediction is None and game.x < RIGHT:
            line, frames = arrival(game)
            prediction = line, int(game.frames) + frames
        elif prediction and game.frames == prediction[1]:
            assert (game.y, game.x) == (prediction[0], pytest.approx(RIGHT, abs=3))
            arrivals += 1
    assert arrivals > 30


def test_lambda_return_ends_with_its_point():
    # game 0 wins at moment 1, and then nothing happens; game 1 loses at moment 2
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    values = torch.tensor([[9.0, 9.0], [0.5, -0.25], [9.0, 0.125], [0.75, 9.0]])
    first, second = GAMMA * (1 - LAMBDA), GAMMA * LAMBDA
    lost = first * 0.125 - second
    expected = [[first * 0.5 + second, first * -0.25 + second * lost], [1, lost], [GAMMA * 0.75, -1]]
    torch.testing.assert_close(lambda_returns(rewards, values), torch.tensor(expected))


def test_player_learns():
    player = Player(4, 6)
    assert -21 <= evaluate(player, 50, greedy=False).mean < -19
    player.train(500_000)
    assert evaluate(player, 50, greedy=True).mean > -15  # −10 ± 1 in a try


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
    policy, _ = load_policy(ROOT / "pretrained/pong")
    fleet = WatchedFleet(6, max_frames=20_000)
    won, lost = count(policy, fleet)
    points = np.array(fleet.rallies)
    for counts, point in ((won, 1), (lost, -1)):
        returns = points[points[:, 0] == point, 1].astype(int)
        np.testing.assert_array_equal(counts, np.bincount(returns, minlength=MOST))
        assert counts.sum() > 20
        assert (counts > 0).sum() > 3  # rallies of several lengths
