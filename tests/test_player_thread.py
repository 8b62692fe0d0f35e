"""Players in threads: they change nothing that is played, they say what went wrong, and they end."""

import contextlib
import threading
import time

import numpy as np
import pytest
import torch

from pong.config import Config, RunError
from pong.distributed import Ranks
from pong.envs.base import Fleet, StepResult
from pong.observations import PIXELS, SparseFrames
from pong.policies import KarpathyPolicy
from pong.rollout import EVALUATION, TRAINING, Rollout
from pong.train import Trainer

TINY = Config(device="cpu", num_envs=3, horizon=40, hidden=8, players=2, standardize="none", checkpoint_every=2)
KINDS = {
    "steps": {"standardize": "batch", "baseline": "network"},
    "episodes": {"until": "episodes", "hold": "2-4", "max_frames": 400, "standardize": "episode", "reduction": "sum"},
    "three actions": {"actions": 3, "frames": "both", "last_action": True, "hold": "2-4", "noop_max": 30},
    "convolutions": {"policy": "conv", "channels": [2], "frames": "stack", "horizon": 20},
    "ale": {"emulator": "ale", "horizon": 20},
}


class Scored(Fleet):
    """Emulators whose every decision is a point: UP wins it, DOWN loses it."""

    open = 0

    def __init__(self, config, num_envs):
        self.num_envs = num_envs
        self.played = 0
        Scored.open += 1

    def reset(self, seeds=None):
        return self._observe()

    def step(self, actions, active):
        self.played += 1
        rewards = np.where(actions == 1, 1, -1).astype(np.float32)
        return StepResult(self._observe(), rewards, np.zeros(self.num_envs, bool), np.full(self.num_envs, 4))

    def close(self):
        Scored.open -= 1

    def _observe(self):
        return SparseFrames.from_dense(np.ones((self.num_envs, PIXELS), np.int8))


class Slow(Scored):
    """They take a tenth of a second a decision."""

    def step(self, actions, active):
        time.sleep(0.1)
        return super().step(actions, active)


class Endless(Slow):
    """Nobody ever wins a point."""

    def step(self, actions, active):
        played = super().step(actions, active)
        played.rewards[:] = 0
        return played


ON_PURPOSE = ValueError("on purpose")


class Broken(Scored):
    """The second decision fails."""

    def step(self, actions, active):
        if self.played == 1:
            raise ON_PURPOSE
        return super().step(actions, active)


def missing(config, num_envs):
    raise RunError("no emulators here")


@contextlib.contextmanager
def playing(monkeypatch, make_fleet, logit=1.0, **changes):
    """A rollout with two players who see this logit everywhere, and its policy."""
    monkeypatch.setattr("pong.rollout.make_fleet", make_fleet)
    policy = KarpathyPolicy(1)
    with torch.no_grad():
        policy.W1.fill_(1 / PIXELS)
        policy.W2.fill_(logit)
    with contextlib.closing(Rollout(TINY.model_copy(update={"horizon": 1, **changes}), policy)) as rollout:
        yield rollout, policy


@pytest.fixture(autouse=True)
def nothing_left():
    """No thread and no emulator outlives its test."""
    before = {*threading.enumerate()}
    yield
    assert {*threading.enumerate()} <= before
    assert Scored.open == 0


# --- the same play ----------------------------------------------------------------------------------------------------


def trained(players, **changes):
    """The batches of three updates on real Pong and the weights after them."""
    config = TINY.model_copy(update={"players": players, "learning_rate": 0.01, "total_steps": 10**6, **changes})
    with contextlib.closing(Trainer(config)) as trainer:
        run = trainer.run()
        batches = [next(run).batch for _ in range(3)]
        assert len(trainer.rollout.players) == players
        return batches, {name: tensor.clone() for name, tensor in trainer.policy.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_number_of_players_changes_nothing(kind):
    batches, weights = trained(1, **kind)
    assert len({len(batch.actions) for batch in batches}) > 1  # something happens
    for players in (2, 3):  # 1 + 2 emulators, 1 + 1 + 1
        others, other_weights = trained(players, **kind)
        for batch, other in zip(batches, others, strict=True):
            for name in ("columns", "signs", "offsets"):
                assert torch.equal(getattr(other.observations, name), getattr(batch.observations, name))
            assert torch.equal(other.actions, batch.actions)
            assert torch.equal(other.returns, batch.returns)
            assert (other.weight, other.points, other.steps, other.frames) == (
                *(batch.weight, batch.points, batch.steps, batch.frames),
            )
            assert {*other.episodes} == {*batch.episodes}
            assert len(other.episodes) == len(batch.episodes)
        assert all(torch.equal(other_weights[name], weights[name]) for name in weights)


def test_a_player_sees_the_newest_weights(monkeypatch):
    with playing(monkeypatch, Scored, logit=100.0) as (rollout, policy):
        played = [rollout.collect(0).actions.tolist()]
        for update, logit in ((1, -100.0), (2, 100.0)):
            with torch.no_grad():
                policy.W2.fill_(logit)
            played.append(rollout.collect(update).actions.tolist())
    assert played == [[1] * 3, [0] * 3, [1] * 3]


HANDS = [  # players asked for, cores, ranks on this machine, emulators; who plays how many
    (1, TRAINING, 8, 1, 4, [4]),
    (3, TRAINING, 8, 1, 4, [1, 1, 2]),
    (8, TRAINING, 1, 1, 2, [1, 1]),  # none without an emulator
    (0, TRAINING, 1, 1, 5, [5]),
    (0, TRAINING, 2, 1, 5, [5]),  # one core is the learner's
    (0, TRAINING, 3, 1, 5, [2, 3]),
    (0, EVALUATION, 2, 1, 5, [2, 3]),  # where there is none
    (0, EVALUATION, 4, 2, 5, [2, 3]),  # the ranks share the cores
    (0, TRAINING, 6, 2, 5, [2, 3]),
    (0, EVALUATION, 2, 4, 5, [5]),
]


@pytest.mark.parametrize(("players", "purpose", "cores", "ranks", "emulators", "hands"), HANDS)
def test_emulators_are_dealt_out_to_the_cores(monkeypatch, players, purpose, cores, ranks, emulators, hands):
    monkeypatch.setattr("pong.distributed.cores", lambda: cores)
    monkeypatch.setattr("pong.rollout.PlayerThread", lambda config, mine, *_: mine)
    config = TINY.model_copy(update={"players": players, "num_envs": emulators})
    players = Rollout(config, KarpathyPolicy(1), purpose, Ranks(local_size=ranks)).players
    assert [len(player) for player in players] == hands
    assert [i for player in players for i in player] == list(range(emulators))


@pytest.mark.parametrize("kind", ["steps", "episodes"])
def test_what_is_kept_of_a_rollout_that_is_under_way_is_what_there_was_before_it(kind):
    """So that whoever takes it up plays it again, however far it is."""
    config = TINY.model_copy(update=KINDS[kind])
    with contextlib.closing(Rollout(config, KarpathyPolicy(8))) as rollout:
        rollout.collect(0)
        before = kept(rollout)
        rollout.begin(1)
        assert kept(rollout) == before
        rollout.finish()
        assert kept(rollout) != before


def kept(rollout):
    return [{name: (array.shape, array.tobytes()) for name, array in one.items()} for one in rollout.state()]


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_what_fails_in_a_player_is_what_ends_the_run(monkeypatch):
    """The error itself, as it was raised; who asks again gets it again."""
    with playing(monkeypatch, Broken) as (rollout, _):
        assert rollout.collect(0).steps == 3
        rollout.begin(1)
        for _ in range(2):
            with pytest.raises(ValueError, match="on purpose") as caught:
                rollout.finish()
            assert caught.value is ON_PURPOSE
        assert "step" in [frame.name for frame in caught.traceback]  # it says where
        assert rollout.state() is None  # as before this rollout: these emulators can't be kept


@pytest.mark.parametrize("victim", [0, 1])
def test_one_player_that_fails_is_enough(monkeypatch, victim):
    """Player 0 has one emulator, and player 1 two."""
    with playing(monkeypatch, lambda config, n: (Broken if n == victim + 1 else Slow)(config, n)) as (rollout, _):
        rollout.collect(0)
        with pytest.raises(ValueError, match="on purpose"):
            rollout.collect(1)


def test_emulators_that_fail_to_start_say_why(monkeypatch):
    with pytest.raises(RunError, match=r"\Ano emulators here\Z"), playing(monkeypatch, missing):
        pass


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["idle", "playing"])
@pytest.mark.parametrize("whole", ["steps", "episodes"])
def test_closing_ends_what_is_played(monkeypatch, begun, whole):
    """A hundred seconds of it; no game ends."""
    with playing(monkeypatch, Endless, horizon=1000, until=whole) as (rollout, _):
        before = threading.active_count()
        if begun:
            rollout.begin(0)
            time.sleep(0.05)
            assert threading.active_count() == before + 2
        closed = time.monotonic()
    assert time.monotonic() - closed < 30  # and ``nothing_left``


def test_closing_ends_what_the_machine_plays():
    """In compiled code, which is asked after each segment."""
    config, policy = TINY.model_copy(update={"horizon": 10**9}), KarpathyPolicy(8)
    with contextlib.closing(Rollout(TINY, policy)) as rollout:
        rollout.collect(0)  # it is compiled
    with contextlib.closing(Rollout(config, policy)) as rollout:
        rollout.begin(0)
        time.sleep(0.05)
        closed = time.monotonic()
    assert time.monotonic() - closed < 30


def test_a_run_that_is_broken_off_leaves_nothing_either(monkeypatch):
    """Its generator is thrown away while a rollout is played, which the trainer ends."""
    monkeypatch.setattr("pong.rollout.make_fleet", Slow)
    with contextlib.closing(Trainer(TINY.model_copy(update={"horizon": 2}))) as trainer:
        run = trainer.run()
        assert next(run).number == 1
        del run
        assert trainer.rollout.begun
        assert next(trainer.run()).number == 2  # the rollout that was under way
        assert Scored.open == 2
