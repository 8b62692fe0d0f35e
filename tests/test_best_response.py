"""The player that is told the game's state: it is told the truth, and learns from it."""

import best_response
import numpy as np
import pytest
import torch
from best_response import GAMMA, LAMBDA, RIGHT, Player, arrival, evaluate, lambda_returns, see

from pong.envs.pong.fleet import MachineFleet


def test_the_ball_arrives_where_it_is_told():
    """Sticky or not: a ball that flies right is not touched before it reaches the paddle's column."""
    fleet, foreseen, arrivals = MachineFleet(1, hold=1), None, 0
    fleet.reset(np.array([3]))
    random = np.random.default_rng(0)
    for _ in range(20_000):
        fleet.play(random.integers(0, 2, 1), np.ones(1, bool))
        game = fleet.games[0]
        if game.y == 0 or game.pause or game.left >= 0:
            foreseen = None
        elif foreseen is None and game.x < RIGHT:
            line, frames = arrival(game)
            foreseen = line, int(game.frames) + frames
        elif foreseen and game.frames == foreseen[1]:
            assert (game.y, game.x) == (foreseen[0], pytest.approx(RIGHT, abs=3))
            arrivals += 1
    assert arrivals > 30


def test_a_return_ends_with_its_point():
    # game 0 wins at moment 1, and then nothing happens; game 1 loses at moment 2
    rewards = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    values = torch.tensor([[9.0, 9.0], [0.5, -0.25], [9.0, 0.125], [0.75, 9.0]])
    first, second = GAMMA * (1 - LAMBDA), GAMMA * LAMBDA
    lost = first * 0.125 - second
    expected = [[first * 0.5 + second, first * -0.25 + second * lost], [1, lost], [GAMMA * 0.75, -1]]
    torch.testing.assert_close(lambda_returns(rewards, values), torch.tensor(expected))


def test_a_state_is_told_apart_from_what_follows():
    fleet = MachineFleet(2, sticky=0.0)
    fleet.reset(np.array([1, 2]))
    before = see(fleet)
    assert before.shape == (2, best_response.FEATURES)
    assert torch.equal(before[0], before[1])  # nothing in Pong is random
    fleet.play(np.array([0, 1]), np.ones(2, bool))
    after = see(fleet)
    assert (after[0] != after[1]).any()  # one pressed UP, the other DOWN
    assert after.abs().max() < 4


def test_it_learns():
    player = Player(4, 6)
    assert -21 <= evaluate(player, 50, greedy=False).mean < -19
    player.train(500_000)
    assert evaluate(player, 50, greedy=True).mean > -15  # −10 ± 1 in a try


def test_the_same_seed_gives_the_same_games():
    players = [Player(4, 6), Player(4, 6)]
    for player in players:
        player.train(50_000)
    first, second = (evaluate(player, 10, greedy=False) for player in players)
    assert [(one.score, one.frames) for one in first.episodes] == [(one.score, one.frames) for one in second.episodes]
