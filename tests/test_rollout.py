"""Rollouts on scripted play: the rows of a batch, returns, random streams, snapshots and players."""

import contextlib
import itertools
import threading
import time
from dataclasses import astuple, dataclass, field
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pong.config import Config, RunError
from pong.distributed import Ranks
from pong.envs import make_fleet
from pong.envs.base import Fleet, StepResult
from pong.observations import PIXELS, SparseFrames
from pong.policies import KarpathyPolicy, make_policy
from pong.rollout import EVALUATION, TRAINING, ActionNoise, Episode, Rollout, emulator_seeds

exact = settings(deadline=None, derandomize=True, max_examples=60)  # the same examples on every machine
TIMES = 10  # the first pixel that encodes a time step; those before it encode emulators


@dataclass(repr=False)
class Script(Fleet):
    """N emulators with given rewards and ends of games, (T, N), which repeat after T time steps.

    An observation encodes its emulator and time step. An emulator without a decision reports a won point and an end,
    which a rollout must ignore.
    """

    rewards: Any
    ends: Any = None
    is_saved: bool = False
    time: int = 0
    seeds: list[Any] = field(default_factory=list)  # of every reset
    actions: list[Any] = field(default_factory=list)  # of every step; −1 without a decision

    def __post_init__(self):
        self.rewards = np.array(self.rewards, np.float32)
        self.ends = np.zeros(self.rewards.shape, bool) if self.ends is None else np.array(self.ends, bool)
        self.num_envs = self.rewards.shape[1]

    def reset(self, seeds=None):
        self.seeds.append(None if seeds is None else seeds.tolist())
        return self._observe()

    def step(self, actions, active):
        self.actions.append(np.where(active, actions, -1).tolist())
        t = self.time % len(self.rewards)
        self.time += 1
        return StepResult(self._observe(), np.where(active, self.rewards[t], 1), self.ends[t] | ~active, 4 * active)

    def state(self):
        return [{"time": np.array([self.time])}] * self.num_envs if self.is_saved else None

    def restore(self, state):
        (self.time,) = state[0]["time"].tolist()

    def _observe(self):
        frames = np.zeros((self.num_envs, PIXELS), np.int8)
        for i in range(self.num_envs):
            frames[i, i] = 1
            frames[i, TIMES + self.time] = -1
        return SparseFrames.from_dense(frames)


def decode(x):
    """(emulator, time step) of each row, decoded from its two pixels."""
    return [tuple((row.nonzero().flatten() - torch.tensor([0, TIMES])).tolist()) for row in x.dense()]


class KeyActor:
    """Its action depends on the emulator and time step of an observation, not on the noise."""

    noise_shape = ()
    two_layers = None

    @staticmethod
    def action(emulator, time_step):
        return (emulator + time_step // 2) % 2

    def act(self, x, noise):
        return torch.tensor([self.action(*key) for key in decode(x)])


class NoiseActor(KeyActor):
    """Acts by the noise alone, and counts its decisions."""

    decisions = 0

    def act(self, x, noise):
        self.decisions += len(x)
        return (noise < 0.5).long()


def play(script, updates, actor=None, purpose=TRAINING, **changes):
    """The batches of some updates by one player; a script that can be saved is resumed by a new rollout each time.

    γ = ½ is exact in binary; nothing is standardised or restarted.
    """
    defaults = {"gamma": 0.5, "horizon": 3, "standardize": "none", "checkpoint_every": 1000, "players": 1}
    config = Config(**{**defaults, "num_envs": script.num_envs, **changes})
    batches, states = [], None
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pong.rollout.make_fleet", lambda config, n: script)
        for update in range(updates):
            if states or not update:
                rollout = stack.enter_context(contextlib.closing(Rollout(config, actor or KeyActor(), purpose)))
            if states:
                rollout.restore(states)
            rollout.start(update, update / updates)
            batches.append(rollout.finish())
            states = rollout.state()
    return batches


def rows(batch):
    """{(emulator, time step): return} of a batch, whose rows must be aligned, distinct and in order."""
    keys = decode(batch.observations)
    assert len(keys) == len(batch.actions) == len(batch.returns)
    assert keys == sorted(set(keys))  # emulator by emulator, and then in time
    assert batch.actions.tolist() == [KeyActor.action(*key) for key in keys]
    assert (batch.actions.dtype, batch.returns.dtype) == (torch.int64, torch.float32)
    assert batch.weight == 1
    return dict(zip(keys, batch.returns.tolist(), strict=True))


@pytest.fixture(autouse=True)
def no_leaks():
    """Tests leave no threads and emulators."""
    before = {*threading.enumerate()}
    yield
    assert {*threading.enumerate()} <= before
    assert Faulty.open == 0


def test_batch_carries_unfinished_rallies_over():
    # time steps  0  1  2 | 3  4  5 | 6  7  8
    emulator_0 = [0, 1, 0, 0, -1, 0, 0, 0, 1]
    emulator_1 = [0, 0, 0, 0, 0, 1, -1, 0, 0]
    first, second, third = play(Script(np.transpose([emulator_0, emulator_1])), 3)

    # emulator 0: the point of step 1, and ½ of it a step earlier; its step 2 waits, as does all of emulator 1
    assert rows(first) == {(0, 0): 1 / 2, (0, 1): 1}
    # across the boundary: −1 at step 4 is −½ at 3 and −¼ at 2; +1 at step 5 is 1/32 at 0
    assert rows(second) == {
        **{(0, 2): -1 / 4, (0, 3): -1 / 2, (0, 4): -1},
        **{(1, 0): 1 / 32, (1, 1): 1 / 16, (1, 2): 1 / 8, (1, 3): 1 / 4, (1, 4): 1 / 2, (1, 5): 1},
    }
    # step 5 of emulator 0 waited: 1/8 of step 8; emulator 1 lost at once, and its steps 7 and 8 wait
    assert rows(third) == {(0, 5): 1 / 8, (0, 6): 1 / 4, (0, 7): 1 / 2, (0, 8): 1, (1, 6): -1}
    # played steps and frames, not rows: 3 steps of 2 emulators, 4 frames each
    counts = [(batch.points, batch.steps, batch.frames, batch.episodes) for batch in (first, second, third)]
    assert counts == [(1, 6, 24, []), (2, 6, 24, []), (2, 6, 24, [])]


def test_horizon_grows_linearly_with_progress():
    batches = play(Script(np.ones((40, 1))), 4, horizon=2, horizon_end=12)
    assert [batch.steps for batch in batches] == [2, 4, 7, 10]  # 2 + 10 · (0, ¼, ½, ¾), rounded half to even


@exact
@given(data=st.data(), n=st.integers(1, 3), horizon=st.integers(1, 6), at_points=st.booleans(), is_saved=st.booleans())
def test_batch_holds_every_row_once(data, n, horizon, at_points, is_saved):
    T = 12
    points, last_steps = st.sampled_from([0, 0, 0, 0, 1, -1]), st.sampled_from([0, 0, 0, 0, 0, 1])
    rewards, ends = (
        np.array(data.draw(st.lists(values, min_size=T * n, max_size=T * n))).reshape(T, n)
        for values in (points, last_steps)
    )
    assume(ends.any() or (at_points and rewards.any()))
    script = Script(rewards, ends, is_saved)
    batches = play(script, data.draw(st.integers(1, 6)), horizon=horizon, reset_at_points=at_points)

    rewards, ends = (np.tile(x, (script.time // T + 1, 1))[: script.time] for x in (rewards, ends))
    closing = (ends > 0) | (at_points & (rewards != 0))  # steps that make earlier returns known
    bounds = np.cumsum([0] + [batch.steps // n for batch in batches])  # in time steps
    for (first, last), batch in zip(itertools.pairwise(bounds), batches, strict=True):
        expected, episodes = {}, []
        for i, t in itertools.product(range(n), range(last)):
            end = next((e for e in range(t, last) if closing[e, i]), -1)
            if end >= first:
                expected[i, t] = sum(0.5 ** (k - t) * rewards[k, i] for k in range(t, end + 1))
            if t >= first and ends[t, i]:
                start = max((e + 1 for e in range(t) if ends[e, i]), default=0)
                length = t + 1 - start
                episodes.append((i, rewards[start : t + 1, i].sum(), length, 4 * length))
        assert rows(batch) == expected
        assert list(map(astuple, batch.episodes)) == episodes
        # as many whole horizons as it takes until a return is known
        assert (last - first) % horizon == 0
        assert not closing[first : last - horizon].any()
        assert (batch.steps, batch.frames) == ((last - first) * n, 4 * (last - first) * n)
        assert batch.points == np.count_nonzero(rewards[first:last])
    assert bounds[-1] == script.time


def play_games(updates=1, actor=None, **changes):
    """A script of two games, and its batches; the short game's emulator waits from step 2 on."""
    rewards, ends = [[0, 1, 0, 0, -1], [0, -1, 1, -1, 1]], [[0, 0, 0, 0, 1], [0, 1, 0, 1, 1]]  # by emulator
    script = Script(np.transpose(rewards), np.transpose(ends))
    return script, play(script, updates, actor, until="episodes", **changes)


def test_batch_of_whole_games():
    script, (batch, second) = play_games(updates=2)
    assert list(map(astuple, batch.episodes)) == [(0, 0.0, 5, 20), (1, -1.0, 2, 8)]
    assert (batch.steps, batch.frames, batch.points) == (7, 28, 3)
    # +1 at step 1, −1 at step 4 | −1 at step 1
    assert rows(batch) == {
        **{(0, 0): 1 / 2, (0, 1): 1, (0, 2): -1 / 4, (0, 3): -1 / 2, (0, 4): -1},
        **{(1, 0): -1 / 2, (1, 1): -1},
    }
    # the next games count from zero, and their random streams continue
    assert (second.episodes, [*rows(second).values()]) == (batch.episodes, [*rows(batch).values()])
    assert script.seeds == [emulator_seeds(1, 0, range(2)).tolist(), None]


def test_waiting_game_uses_no_noise():
    actor = NoiseActor()
    script, (batch,) = play_games(actor=actor)
    expected = (draw(emulators=range(2), time_steps=5) < 0.5).long()
    expected[2:, 1] = -1
    assert script.actions == expected.tolist()
    assert actor.decisions == batch.steps == 7


def test_returns_standardized_by_game():
    _, (batch,) = play_games(gamma=0.0, standardize="episode")  # γ = 0 makes returns of rewards
    # 0 1 0 0 −1: mean 0, variance 2/5 | 0 −1: mean −½, variance ¼; the population's, not n − 1
    expected = {(0, 0): 0, (0, 1): sqrt(2.5), (0, 2): 0, (0, 3): 0, (0, 4): -sqrt(2.5), (1, 0): 1, (1, 1): -1}
    assert rows(batch) == pytest.approx(expected, abs=1e-6)
    assert rows(play_games(standardize="batch")[1][0]) == rows(play_games()[1][0])  # by the trainer


def test_restarts_drop_unfinished_rows():
    """Environments that can't be saved restart every ``checkpoint_every`` updates."""
    #          0  1 | 2  3 | 4  5 | 6  7   restarted before step 4
    rewards = [0, 1, 0, 1, 1, 0, 0, -1]
    script = Script(np.transpose([rewards, [1, 0, 1, 0, 1, 0, 0, 1]]), np.transpose([[0] * 7 + [1], [0] * 8]))
    batches = play(script, 4, horizon=2, checkpoint_every=2, seed=5)
    # emulator 1's step 3 was waiting and is dropped; its step 1 is in the second batch
    assert [sorted(rows(batch)) for batch in batches] == [
        [(0, 0), (0, 1), (1, 0)],
        [(0, 2), (0, 3), (1, 1), (1, 2)],
        [(0, 4), (1, 4)],
        [(0, 5), (0, 6), (0, 7), (1, 5), (1, 6), (1, 7)],
    ]
    # the game that ends at step 7 started at step 4: +1 − 1 in 4 steps, not +2 + 1 − 1 in 8
    assert [batch.episodes for batch in batches] == [[], [], [], [Episode(0, 0.0, 4)]]
    assert script.seeds == [emulator_seeds(5, 0, range(2)).tolist(), emulator_seeds(5, 2, range(2)).tolist()]


@exact
@given(seed=st.integers(0, 2**64), update=st.integers(0, 10**7), n=st.integers(1, 20))
def test_emulator_seeds_depend_on_all_arguments(seed, update, n):
    seeds = emulator_seeds(seed, update, range(n)).tolist()
    assert len(set(seeds)) == n  # of 2³¹ numbers
    assert 1 <= min(seeds) <= max(seeds) < 2**31  # ale-py's range
    assert seeds[n // 2 :] == emulator_seeds(seed, update, range(n // 2, n)).tolist()  # independent of the others
    for others in ((seed, update + 1, range(n)), (seed + 1, update, range(n)), (seed, update, range(n), EVALUATION)):
        assert not {*seeds} & {*emulator_seeds(*others).tolist()}


def draw(seed=1, update=0, emulators=range(3), purpose=TRAINING, time_steps=300):  # more than one block
    noise = ActionNoise(seed, update, emulators, purpose)
    numbers = []
    for _ in range(time_steps):
        numbers.append(torch.from_numpy(noise.ahead()[0]))
        noise.use(1)
    return torch.stack(numbers)  # (time_steps, n)


def test_noise_is_uniform():
    numbers = draw(time_steps=2000)
    assert (numbers.shape, numbers.dtype) == ((2000, 3), torch.float32)
    assert 0 <= numbers.min() <= numbers.max() < 1
    # the mean of 2,000 uniform numbers has the standard deviation √(1/12/2000) = 0.0065; four of them
    torch.testing.assert_close(numbers.mean(0), torch.full((3,), 0.5), atol=0.026, rtol=0)
    assert len(numbers.unique()) > 5900  # of 6,000: no block is used twice, and emulators differ
    noise = ActionNoise(1, 0, range(3))
    noise.ahead()
    noise.use(100)
    assert torch.from_numpy(noise.ahead()).equal(numbers[100 : noise.BLOCK])  # unused numbers stay


def test_noise_depends_on_all_arguments():
    noise = draw()
    assert draw(emulators=range(5))[:, :3].equal(noise)  # independent of the others
    for other in ({"seed": 2}, {"update": 1}, {"purpose": EVALUATION}, {"emulators": range(1, 4)}):
        assert (draw(**other) == noise).sum() < 5  # of 900 float32 numbers a few may coincide


@pytest.mark.parametrize("purpose", [TRAINING, EVALUATION])
def test_rollout_plays_the_streams_of_each_update(purpose):
    script, emulators = Script([[0, 0]] * 599 + [[1, 1]]), range(2)
    play(script, 2, NoiseActor(), purpose, horizon=150, seed=7)  # each rollout continues for three more horizons
    expected = torch.cat([draw(7, update, emulators, purpose, 600) for update in range(2)]) < 0.5
    assert script.actions == expected.long().tolist()
    assert script.seeds == [emulator_seeds(7, 0, emulators, purpose).tolist()]


# --- players and snapshots --------------------------------------------------------------------------------------------

TINY = Config(device="cpu", num_envs=3, horizon=40, hidden=8, players=2, standardize="none", checkpoint_every=2)
KINDS = {
    "steps": {},
    "whole games": {"until": "episodes", "hold": "2-4", "max_frames": 400, "standardize": "episode"},
    "three actions": {"actions": 3, "frames": "both", "last_action": True, "hold": "2-4", "noop_max": 30},
    "convolutions": {"policy": "conv", "channels": [2], "horizon": 20},
    "ALE": {"emulator": "ale", "horizon": 20},
    "returns over games": {"reset_at_points": False, "max_frames": 600, "horizon": 130},
}


def make_random_policy(config):
    """A policy with random weights."""
    policy, generator = make_policy(config), torch.Generator().manual_seed(3)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return policy


def bits(states):
    """The states of emulators, to compare."""
    return [{name: (x.dtype, x.shape, x.tobytes()) for name, x in state.items()} for state in states]


def content(batch):
    """Everything in a batch, to compare."""
    x = batch.observations
    numbers = [tensor.tolist() for tensor in (x.columns, x.signs, x.offsets, batch.actions, batch.returns)]
    return numbers, list(map(astuple, batch.episodes)), batch.points, batch.steps, batch.frames, batch.weight


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_rollout_ignores_players_and_resuming(changes):
    """Three rollouts by one player equal those by two, and by three that resume in the middle."""
    rollouts = []
    with contextlib.ExitStack() as stack:
        for players in (1, 2, 3):  # 3 emulators, 1 + 2, 1 + 1 + 1
            config = TINY.model_copy(update={"players": players, **changes})
            rollouts.append(stack.enter_context(contextlib.closing(Rollout(config, make_random_policy(config)))))
            assert len(rollouts[-1].players) == players
        alone, two, three = rollouts
        batches = [alone.collect(0), two.collect(0)]
        states = alone.state()
        assert content(batches[0]) == content(batches[1])
        assert bits(two.state()) == bits(states)
        assert config.until == "episodes" or any(len(state["waiting.actions"]) for state in states)
        assert config.reset_at_points or any(state["waiting.rewards"].any() for state in states)
        three.restore(states)
        for update in (1, 2):
            batches = [rollout.collect(update) for rollout in rollouts]
            assert all(content(batch) == content(batches[0]) for batch in batches[1:])
        assert len(batches[0].returns.unique()) > 2
        assert bits(three.state()) == bits(alone.state()) != bits(states)


@pytest.mark.parametrize("kind", ["steps", "whole games"])
def test_state_is_from_before_a_start(monkeypatch, kind):
    """A resumed run repeats the rollout, also one that failed."""
    with contextlib.closing(Rollout(TINY.model_copy(update=KINDS[kind]), KarpathyPolicy(8))) as rollout:
        assert rollout.state() is None  # before the first one
        rollout.collect(0)
        states = [bits(rollout.state())]
        rollout.start(1)
        assert bits(rollout.state()) == states[0]
        rollout.finish()
        states.append(bits(rollout.state()))
        assert states[0] != states[1]
        monkeypatch.setattr(rollout.players[1].fleet, "play", None)
        with pytest.raises(TypeError):
            rollout.collect(2)
        assert bits(rollout.state()) == states[1]


def test_state_ignores_numbers_drawn_ahead():
    """A game that waits for others, for which its fleet draws, keeps its bits; saving them changes no later hold."""
    config = Config(hold="2-4", noop_max=30, max_frames=200)
    saved, _ = fleets = [make_fleet(config, 1), make_fleet(config, 1)]
    for fleet in fleets:
        fleet.reset(np.array([5]))
    for _ in range(200):
        results = [fleet.step(np.zeros(1, np.int64), np.ones(1, bool)) for fleet in fleets]
        assert results[0].frames == results[1].frames
        before = bits(saved.state())
        saved.step(np.zeros(1, np.int64), np.zeros(1, bool))
        assert bits(saved.state()) == before


SHARDS = [  # players in the config, purpose, cores, ranks on this machine, emulators; how many each player has
    (3, TRAINING, 8, 1, 4, [1, 1, 2]),
    (8, TRAINING, 1, 1, 2, [1, 1]),  # each player has an emulator
    (0, TRAINING, 1, 1, 5, [5]),
    (0, TRAINING, 2, 1, 5, [5]),  # one core is the learner's
    (0, TRAINING, 3, 1, 5, [2, 3]),
    (0, EVALUATION, 2, 1, 5, [2, 3]),  # without a learner
    (0, EVALUATION, 4, 2, 5, [2, 3]),  # the ranks share the cores
    (0, EVALUATION, 2, 4, 5, [5]),
]


@pytest.mark.parametrize(("players", "purpose", "cores", "ranks", "emulators", "shards"), SHARDS)
def test_players_share_the_emulators(monkeypatch, players, purpose, cores, ranks, emulators, shards):
    monkeypatch.setattr("pong.distributed.cores", lambda: cores)
    monkeypatch.setattr("pong.rollout.Player", lambda config, shard, *_: shard)
    config = TINY.model_copy(update={"players": players, "num_envs": emulators})
    made = Rollout(config, NoiseActor(), purpose, Ranks(local_size=ranks)).players
    assert [len(shard) for shard in made] == shards
    assert [i for shard in made for i in shard] == list(range(emulators))
    if not players:  # compiled play is fast
        assert len(Rollout(config, KarpathyPolicy(8), purpose, Ranks(local_size=ranks)).players) == 1


ON_PURPOSE = RunError("the emulator failed on purpose")


class Faulty(Script):
    """Emulators with the same reward after every decision, which may be slow or fail in the second decision."""

    open = 0

    def __init__(self, config, num_envs, reward=1, seconds=0.0, fails=False):
        super().__init__([[reward] * num_envs])
        self.seconds, self.fails = seconds, fails
        Faulty.open += 1

    def step(self, actions, active):
        if self.fails and self.time == 1:
            raise ON_PURPOSE
        time.sleep(self.seconds)
        return super().step(actions, active)

    def close(self):
        Faulty.open -= 1


def playing(monkeypatch, fleet, **changes):
    """A rollout by two players with one and two emulators."""
    monkeypatch.setattr("pong.rollout.make_fleet", fleet)
    return contextlib.closing(Rollout(TINY.model_copy(update={"horizon": 1, **changes}), KarpathyPolicy(8)))


def test_players_use_the_newest_weights(monkeypatch):
    with playing(monkeypatch, Faulty) as rollout:
        policy = rollout.players[1].actor
        for update, logit in enumerate((100.0, -100.0, 100.0)):
            for weights, value in ((policy.W1, 0), (policy.W1[:TIMES], 1 / 8), (policy.W2, logit)):
                weights.detach().fill_(value)  # a pixel makes 8 units ⅛, which add up to the logit
            assert rollout.collect(update).actions.tolist() == [int(logit > 0)] * 3


@pytest.mark.parametrize("broken", [1, 2])
def test_finish_raises_the_error_of_an_emulator(monkeypatch, broken):
    """Each call of ``finish`` raises it."""
    with playing(monkeypatch, lambda config, n: Faulty(config, n, seconds=0.1, fails=n == broken)) as rollout:
        assert rollout.collect(0).steps == 3
        rollout.start(1)
        for _ in range(2):
            with pytest.raises(RunError, match=r"\Athe emulator failed on purpose\Z") as caught:
                rollout.finish()
            assert caught.value is ON_PURPOSE
        assert "step" in [frame.name for frame in caught.traceback]  # where it happened
        assert rollout.state() is None  # these can't be saved


def test_rollout_closes_fleets_if_one_fails_to_start(monkeypatch):
    fleets = iter([Faulty, None])  # the second player's can't be called
    with pytest.raises(TypeError):
        playing(monkeypatch, lambda config, n: next(fleets)(config, n))


ENDLESS = partial(Faulty, reward=0, seconds=0.1)


@pytest.mark.parametrize(("fleet", "until"), [(make_fleet, "steps"), (ENDLESS, "steps"), (ENDLESS, "episodes")])
def test_close_ends_a_rollout(monkeypatch, fleet, until):
    """Between two compiled segments, or two decisions, of a rollout that would not end."""
    with playing(monkeypatch, fleet, horizon=10**9, until=until) as rollout:
        rollout.start(0)
        time.sleep(0.05)
        closed = time.monotonic()
    assert time.monotonic() - closed < 30
