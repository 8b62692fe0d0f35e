"""Looking ahead: what it plays is the game, and it plays it better than the policy that it asks."""

import best_response
import numpy as np
import pytest
import torch
from small_runs import ROOT

from pong.config import Config, InputError
from pong.envs import make_fleet

AGENT = ROOT / "pretrained/pong"


def test_a_copied_game_plays_on_as_the_real_one_where_nothing_is_random():
    config = Config(sticky=0.0)
    real, ahead = make_fleet(config, 1), make_fleet(config, 3)
    real.reset(np.array([5]))
    ahead.reset(np.array([6, 7, 8]))
    random = np.random.default_rng(0)
    for _ in range(40):
        real.step(random.integers(0, 2, 1), np.ones(1, bool))
    ahead.copy(real)
    for action in random.integers(0, 2, 100):
        one = real.step(np.array([action]), np.ones(1, bool))
        three = ahead.step(np.full(3, action), np.ones(3, bool))
        assert (three.rewards == one.rewards).all()
        assert torch.equal(three.observations.dense(), one.observations.dense().expand(3, -1))
    assert np.abs(ahead.games["clock"] - real.games["clock"]).max() == 0


def test_it_wins_more_than_its_policy():
    """4,000 frames of a game, in which the policy alone scores +1.9 ± 0.5 (50 games)."""
    config = best_response.load_policy(AGENT)[1].config.replace(max_frames=4_000)
    scores = [best_response.play(best_response.Job(AGENT, config, 2, 12, seed)).score for seed in (1, 2)]
    assert min(scores) >= 4


def test_the_usual_action_is_taken_unless_another_is_clearly_better():
    even, better = [1, -1, 1, -1], [1, 1, 1, 1]
    assert best_response.choose(np.array([even, even, even], np.float32), usual=1) == 1
    assert best_response.choose(np.array([even, better, even], np.float32), usual=0) == 1
    slightly = [1, 1, 1, -1]  # by .5, and one standard error is √(.75 / 4 + 1 / 4) = .66
    assert best_response.choose(np.array([even, slightly], np.float32), usual=0) == 0


@pytest.mark.parametrize("agent", ["pong_conv_plain", "doom_basic"])
def test_other_policies_are_refused(agent):
    with pytest.raises(InputError, match="two layers"):
        best_response.main(ROOT / "pretrained" / agent, games=1)
