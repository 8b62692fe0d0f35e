"""The trainer of Pong learns CartPole and the linear system from their configs."""

import contextlib

import pytest
from small_runs import ROOT

from pong.config import load_config
from pong.envs.lqr import OPTIMAL_GAIN
from pong.evaluate import Greedy, evaluate
from pong.train import Trainer


def train(name):
    config = load_config(ROOT / f"configs/{name}.toml")
    with contextlib.closing(Trainer(config)) as trainer:
        *_, last = trainer.run()
    return config, trainer.policy, last


def test_cartpole_is_solved():
    config, policy, _ = train("cartpole")
    result = evaluate(policy, config, 100)
    assert result.mean >= 475
    assert max(result.scores) == 500
    assert evaluate(Greedy(policy), config, 20).mean >= 475


def test_linear_controller_finds_the_riccati_gain():
    _, policy, last = train("lqr")
    weights = policy.state_dict()
    assert weights["network.0.weight"].item() == pytest.approx(OPTIMAL_GAIN, rel=0.02)
    assert weights["network.0.bias"].item() == pytest.approx(0, abs=0.02)
    assert last.stats.std < 0.5  # it has stopped exploring
