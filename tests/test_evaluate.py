"""Evaluation: exactly the games asked for, whole ones, the same for the same seed, and their statistics by hand."""

import os
import re
import signal
from math import sqrt

import numpy as np
import pytest
import torch

from pong.config import Config, RunError
from pong.envs.base import Fleet, StepResult
from pong.evaluate import Evaluation, Greedy, evaluate
from pong.observations import PIXELS, SparseFrames
from pong.policies import KarpathyPolicy
from pong.rollout import EVALUATION, Episode, emulator_seeds

CONFIG = Config(num_envs=64, seed=7, hidden=4, device="cpu", max_frames=0, players=1)


class Games(Fleet):
    """N emulators that pay 1 for UP and −1 for DOWN; the game number g of emulator i takes 1 + (i + g) % 4 steps."""

    made: list["Games"]

    def __init__(self, config, num_envs):
        self.config = config
        self.num_envs = num_envs
        self.seeds = []
        self.closed = False
        self.games = np.zeros(self.num_envs, int)
        self.played = np.zeros(self.num_envs, int)
        type(self).made.append(self)

    def reset(self, seeds=None):
        self.seeds.append(None if seeds is None else [int(s) for s in seeds])
        self.played[:] = 0
        return self._observe()

    def step(self, actions, active):
        self.played += active  # one without a decision waits
        ends = (self.played == 1 + (np.arange(self.num_envs) + self.games) % 4) & active
        self.games += ends
        self.played[ends] = 0
        rewards = np.where(actions == 1, 1, -1).astype(np.float32) * active
        return StepResult(self._observe(), rewards, ends, 4 * active)

    def close(self):
        self.closed = True

    def _observe(self):
        return SparseFrames.from_dense(np.ones((self.num_envs, PIXELS), np.int8))


@pytest.fixture
def games(monkeypatch):
    """Evaluations play ``Games`` instead of Pong, at most three at a time; gives the list of those made."""
    monkeypatch.setattr(Games, "made", [], raising=False)
    monkeypatch.setattr("pong.rollout.make_fleet", Games)
    monkeypatch.setattr("pong.evaluate.PARALLEL", 3)
    return Games.made


class Up:
    """Always plays UP."""

    noise_shape = ()
    two_layers = None

    def act(self, x, noise):
        return torch.ones(len(x), dtype=torch.int64)


class Coin(Up):
    """Plays nothing but the noise."""

    def act(self, x, noise):
        return (noise < 0.5).long()


# --- statistics by hand -----------------------------------------------------------------------------------------------


def of(*scores):
    return Evaluation([Episode(0, score, 1) for score in scores])


def test_evaluation_mean_and_standard_error():
    # 1 2 3 6: mean 3, squares of the differences 4 1 0 9, 14 over n − 1 = 3, its root over √4
    result = of(1.0, 2.0, 3.0, 6.0)
    assert (result.n, result.scores, result.mean) == (4, [1.0, 2.0, 3.0, 6.0], 3)
    assert result.standard_error == pytest.approx(sqrt(14 / 3) / 2, rel=1e-12)
    assert str(result) == "+3.00 ± 1.08, n = 4 fresh games"  # √(14/3)/2 = 1.0801
    assert (of(-21.0, -21.0).mean, of(-21.0, -21.0).standard_error) == (-21, 0)
    assert (of(5.0).mean, of(5.0).standard_error, str(of(5.0))) == (5, None, "+5.00, one fresh game")


def test_evaluation_as_json():
    # ±1: mean 0, squares of the differences 1 1, 2 over n − 1 = 1, its root over √2
    games = Evaluation([Episode(0, -1.0, 30, 120), Episode(1, 1.0, 40, 160)])
    numbers = {"n": 2, "mean": 0, "standard_error": pytest.approx(1, rel=1e-12), "scores": [-1, 1], "lengths": [30, 40]}
    assert games.as_json() == numbers
    assert Evaluation(games.episodes, counts_frames=True).as_json() == numbers | {"frames": [120, 160]}


# --- which games are played -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 7, 8])
def test_evaluate_exactly_n_games(games, n):
    result = evaluate(Up(), CONFIG, n)
    assert result.n == len(result.scores) == n
    (envs,) = games
    assert envs.num_envs <= 3
    # every game is whole: UP earns a point a step
    assert all(episode.score == episode.length > 0 for episode in result.episodes)
    # and is the next of its emulator: of n games, each emulator plays n/num_envs, one more or one less
    played = np.bincount([episode.emulator for episode in result.episodes], minlength=envs.num_envs)
    assert played.max() - played.min() <= 1


def test_evaluate_seven_games_three_at_a_time(games):
    # waves of 3, 3 and 1, whose lengths 1 + (i + g) % 4 are 1 2 3, 2 3 4 and 3
    result = evaluate(Up(), CONFIG, 7)
    assert sorted((episode.emulator, episode.length) for episode in result.episodes) == [
        *((0, 1), (0, 2), (0, 3)),
        *((1, 2), (1, 3)),
        *((2, 3), (2, 4)),
    ]
    assert result.mean == 18 / 7
    # it seeds once, from the evaluation's own seed and stream, and lets the emulators run on
    assert games[0].seeds == [emulator_seeds(0, 0, range(3), EVALUATION).tolist(), None, None]


def test_evaluate_progress(games, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("TERM", "xterm")
    evaluate(Up(), CONFIG, 7, title="sampled")
    out, err = capsys.readouterr()
    assert out == ""
    # games of 1 + 2 + 3 points, then 2 + 3 + 4, then 3
    progress = re.findall(r"sampled: (\d of 7, score .....)", err)
    assert progress[:3] == ["3 of 7, score +2.00", "6 of 7, score +2.50", "7 of 7, score +2.57"]


def test_evaluate_closes_the_emulators(games):
    class Broken(Up):
        def act(self, x, noise):
            raise RuntimeError("on purpose")

    evaluate(Up(), CONFIG, 4)
    with pytest.raises(RuntimeError, match="on purpose"):
        evaluate(Broken(), CONFIG, 4)
    assert [envs.closed for envs in games] == [True, True]


def test_evaluate_task_is_the_configs(games):
    config = CONFIG.model_copy(update={"hold": "2-4", "sticky": 0.5, "noop_max": 7, "max_frames": 1234})
    evaluate(Up(), config, 1)
    evaluate(Up(), CONFIG, 1)
    first, second = (envs.config for envs in games)
    assert (first.hold, first.sticky, first.noop_max, first.max_frames) == ("2-4", 0.5, 7, 1234)
    assert second.game_frames == 65_209  # a policy that never misses plays on until the console's clock runs out
    assert first.until == "episodes"


class Killed(Up):
    """Is killed as if memory were short."""

    def act(self, x, noise):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("compiled")
def test_evaluate_in_processes(monkeypatch):
    monkeypatch.setattr("pong.evaluate.PARALLEL", 3)
    config, policy = CONFIG.replace(emulator="ale", max_frames=600), KarpathyPolicy(4)
    assert evaluate(policy, config, 5, processes=2) == evaluate(policy, config, 5)
    with pytest.raises(RunError, match=r"process that plays games failed: process . terminated with signal SIGKILL$"):
        evaluate(Killed(), config, 5, processes=2)


# --- a function of the seed -------------------------------------------------------------------------------------------


def test_evaluate_same_seed_same_games(games):
    first, again, other = (evaluate(Coin(), CONFIG, 7, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first.scores != other.scores
    assert games[0].seeds[0] != games[2].seeds[0]


def test_evaluate_ignores_the_configs_seed(games):
    other = CONFIG.model_copy(update={"seed": 8, "num_envs": 2, "horizon": 5, "checkpoint_every": 1, "gamma": 0.5})
    assert evaluate(Coin(), CONFIG, 7) == evaluate(Coin(), other, 7)


# --- greedy -----------------------------------------------------------------------------------------------------------


def policy_with_logit(z):
    """σ(z) = P(UP) where every pixel is 1."""
    policy = KarpathyPolicy(1)
    with torch.no_grad():
        policy.W1.fill_(1 / PIXELS)
        policy.W2.fill_(z)
    return policy


def test_evaluate_greedy_games(games):
    for z, sign in ((0.01, 1), (-0.01, -1)):
        greedy = evaluate(Greedy(policy_with_logit(z)), CONFIG, 7)
        assert all(episode.score == sign * episode.length for episode in greedy.episodes)
    sampled = evaluate(policy_with_logit(0.01), CONFIG, 7)
    assert any(abs(episode.score) < episode.length for episode in sampled.episodes)


def test_evaluate_greedy_without_sticky_actions_plays_each_start_once():
    # games end after 100 frames, of which 1, 2 or 3 are NOOPs at the start
    task = {"emulator": "machine", "sticky": 0.0, "noop_max": 3, "max_frames": 100}
    config, greedy = CONFIG.replace(**task), Greedy(KarpathyPolicy(4))
    exact = evaluate(greedy, config, 7)
    assert [episode.frames for episode in exact.episodes] == [99, 98, 97]
    assert (exact.standard_error, str(exact)) == (None, f"{exact.mean:+.2f} exactly, n = 3: every NOOP start once")
    for policy, changes in ((greedy.policy, {}), (greedy, {"sticky": 0.25}), (greedy, {"hold": "2-4"})):
        fresh = evaluate(policy, config.replace(**changes), 4)
        assert (fresh.n, fresh.exact) == (4, False)
    assert not evaluate(greedy, config, 2).exact


def test_evaluate_learns_nothing(games):
    policy = policy_with_logit(0.5)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    evaluate(policy, CONFIG, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())
