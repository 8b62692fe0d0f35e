"""A segment of play in compiled code: to the last bit what is played one decision at a time."""

import numpy as np
import pytest
import torch
from pong.two_layers import decide_rows

from pong.config import Config
from pong.envs import make_observation_builder
from pong.envs.pong import fleet as machine_fleet
from pong.rollout import TRAINING, ActionNoise, Player

BASE = Config(device="cpu", num_envs=3, horizon=70)
SHORT = {"max_frames": 100, "noop_max": 30, "hold": "2-4"}
EVERYTHING = {"actions": 3, "frames": "both", "last_action": True}
PLAYS = {  # what is played; how many games end in it, at least
    "two actions and a difference": ({}, 0),
    "three actions and the last one shown": (EVERYTHING, 0),
    "all six actions": ({**EVERYTHING, "actions": 6, "horizon": 300}, 0),
    "two frames": ({"frames": "stack"}, 0),
    "three frames": ({"frames": "three", **SHORT}, 25),
    "random holds and starts": ({"hold": "2-4", "noop_max": 30, "horizon": 250}, 0),
    "a longer rollout than noise is drawn for": ({"horizon": 2 * ActionNoise.BLOCK + 90, "max_frames": 1000}, 6),
    "games that end often": ({**SHORT, **EVERYTHING}, 25),
    "games that end with every decision": ({"max_frames": 4}, 500),
    "whole games": ({"until": "episodes", "hold": "2-4", "max_frames": 400}, 12),
    "whole games and the last action shown": ({"until": "episodes", **SHORT, **EVERYTHING}, 12),
    "whole games, standardised": ({"until": "episodes", "standardize": "episode", "max_frames": 1500}, 12),
    "one emulator": ({**SHORT, "num_envs": 1}, 10),
    "forty emulators": ({**SHORT, "num_envs": 40, "hidden": 7}, 350),
    "no sticky frames": ({"sticky": 0.0}, 0),
}


class Network:
    """The 2016 network with random weights, decided about as one that has learned.

    Attributes:
        asked: how often it was asked for decisions in Python.
    """

    noise_shape = ()

    def __init__(self, config, compiled):
        generator = torch.Generator().manual_seed(5)
        inputs = make_observation_builder(config).width
        W1 = torch.randn(config.hidden, inputs, generator=generator) / 5  # 25 pixels or so are not 0
        W2 = torch.randn(1 if config.actions == 2 else config.actions, config.hidden, generator=generator)
        self.weights = W1, W2 * 3 / config.hidden**0.5
        self.two_layers = self.weights if compiled else None
        self.asked = 0

    def act(self, x, noise):
        self.asked += 1
        return decide_rows(self.weights, x, noise)


def players(config):
    """One that plays in compiled code, and one that plays a decision at a time."""
    return [Player(config, range(config.num_envs), TRAINING, Network(config, compiled)) for compiled in (True, False)]


def rows_of(x):
    return [x.columns.numpy(), x.signs.numpy(), x.offsets.numpy(), x.width]


def content(part):
    """All that is in a part, and of what type."""
    numbers = [*rows_of(part.observations), part.actions.numpy(), part.returns.numpy()]
    games = [(e.emulator, e.score, e.length, e.frames) for e in part.episodes]
    return *map(bits, numbers), games, part.points, part.steps, part.frames


def bits(x):
    return (x.dtype, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x


def kept(player):
    """All that the next rollout goes on from."""
    return [{name: bits(array) for name, array in one.items()} for one in player.state(False)]


def played(player, update):
    player.begin(update, 0.0)
    return player.finish()


def assert_same(compiled, stepwise, updates):
    """Play the same rollouts, and return their parts."""
    parts = []
    for update in updates:
        part, other = played(compiled, update), played(stepwise, update)
        assert content(part) == content(other)
        assert kept(compiled) == kept(stepwise)
        parts.append(part)
    return parts


@pytest.mark.parametrize(("changes", "ends"), PLAYS.values(), ids=PLAYS)
def test_a_segment_is_one_decision_after_the_other(changes, ends):
    config = BASE.model_copy(update={"hidden": 8, **changes})
    compiled, stepwise = players(config)
    parts = assert_same(compiled, stepwise, range(4))
    assert compiled.actor.asked == 0
    assert stepwise.actor.asked >= sum(part.steps for part in parts) / config.num_envs
    assert sum(len(part.episodes) for part in parts) >= ends
    actions = torch.cat([part.actions for part in parts])
    assert actions.bincount(minlength=config.actions).min() > (0.05 if config.actions < 6 else 0.015) * len(actions)


@pytest.mark.parametrize("changes", [{}, {"until": "episodes", "max_frames": 300, "hold": "2-4"}], ids=str)
@pytest.mark.parametrize("most", [1, 7, 31])
def test_short_segments_are_the_same(monkeypatch, changes, most):
    """So many rows at most: one moment, two, or ten of three emulators."""
    monkeypatch.setattr(machine_fleet, "MOST_ROWS", most)
    assert_same(*players(BASE.model_copy(update={"hidden": 8, **changes})), range(3))


def test_a_rollout_that_goes_on_is_the_same():
    """Nobody begins anew: the noise goes on, and in the middle of what was drawn."""
    compiled, stepwise = players(BASE.model_copy(update={"hidden": 8, **SHORT, "horizon": 100}))
    assert_same(compiled, stepwise, [0])
    for _ in range(4):
        compiled.play_on()
        stepwise.play_on()
        assert content(compiled.finish()) == content(stepwise.finish())
        assert kept(compiled) == kept(stepwise)


@pytest.mark.parametrize("changes", [{}, {**SHORT, **EVERYTHING}], ids=str)
def test_either_goes_on_from_what_the_other_kept(changes):
    config = BASE.model_copy(update={"hidden": 8, **changes})
    first = players(config)
    assert_same(*first, range(2))
    compiled, stepwise = players(config)
    compiled.restore(first[1].state(False))
    stepwise.restore(first[0].state(False))
    expected = [content(part) for part in assert_same(*first, range(2, 4))]
    assert [content(part) for part in assert_same(compiled, stepwise, range(2, 4))] == expected


@pytest.mark.parametrize("whole", [False, True])
def test_what_a_stretch_says_of_itself(whole):
    """T moments at most; after its last one nobody is active, or the noise is used up."""
    config = BASE.model_copy(update={"hidden": 8, "max_frames": 200, "hold": 3 if whole else 4})
    (player, _) = players(config)
    fleet, network = player.fleet, player.actor.two_layers
    seen, active = fleet.reset(np.array([1, 2, 3])), np.array([True, True, False])
    noise = np.random.default_rng(0).random((90, 3), np.float32)
    segment = fleet.play_segment(network, seen, noise, active, whole)
    T = 67 if whole else 90  # 200 frames, 3 at a time
    assert len(segment) == T
    for array in (segment.rewards, segment.dones, segment.frames, segment.active, segment.actions):
        assert array.shape == (T, 3)
    assert (len(segment.observations), len(segment.seen)) == (3 * T, 3)
    first = segment.observations[torch.arange(3)]
    assert list(map(bits, rows_of(first))) == list(map(bits, rows_of(seen)))
    assert (segment.active == active).all()
    assert not segment.actions[:, 2].any()
    assert not segment.frames[:, 2].any()
    assert np.nonzero(segment.dones)[0].tolist() == ([66, 66] if whole else [49, 49])


def test_no_other_fleet_plays_stretches():
    config = BASE.model_copy(update={"hidden": 8, "emulator": "ale", "horizon": 3})
    compiled, stepwise = players(config)
    noise, active = np.zeros((3, 3), np.float32), np.ones(3, bool)
    seen = compiled.fleet.reset(np.array([1, 2, 3]))
    assert compiled.fleet.play_segment(compiled.actor.two_layers, seen, noise, active, False) is None
    for player in (compiled, stepwise):
        player.begin(0)
        player.finish()
        assert player.actor.asked == 3
        player.close()
