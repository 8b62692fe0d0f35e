"""Players in processes of their own: they change nothing that is played, they say what went wrong, and they end."""

import contextlib
import multiprocessing
import os
import select
import signal
import threading
import time

import numpy as np
import pytest
import torch

from pong.config import Config, RunError
from pong.envs import Fleet, Played
from pong.frames import PIXELS, SparseFrames
from pong.policies import KarpathyPolicy
from pong.ranks import Ranks
from pong.rollout import Rollout
from pong.train import Trainer

TINY = Config(device="cpu", num_envs=3, horizon=40, hidden=8, processes=2, standardize="none", checkpoint_every=2)
KINDS = {
    "steps": {"standardize": "batch", "baseline": "network"},
    "episodes": {"until": "episodes", "hold": "2-4", "max_frames": 400, "standardize": "episode", "reduction": "sum"},
}


@pytest.fixture(autouse=True)
def no_hang():
    """A test that waits for a dead process fails instead of waiting for ever."""

    def give_up(number, frame):
        raise TimeoutError("still waiting after 60 s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pids():
    return sorted(child.pid for child in multiprocessing.active_children())


class Scored(Fleet):
    """Emulators whose every decision is a point: UP wins it, DOWN loses it."""

    def __init__(self, config, num_envs):
        self.num_envs = num_envs
        self.played = 0

    def reset(self, seeds=None):
        return self._observe()

    def step(self, actions, active):
        self.played += 1
        rewards = np.where(actions == 1, 1, -1).astype(np.float32)
        return Played(self._observe(), rewards, np.zeros(self.num_envs, bool), np.full(self.num_envs, 4))

    def close(self):
        pass

    def _observe(self):
        return SparseFrames.from_dense(np.ones((self.num_envs, PIXELS), np.int8))


class Small(Scored):
    """They show nothing, so that a rollout fits into a pipe; one of ``Scored`` does not."""

    def _observe(self):
        return SparseFrames.from_dense(np.zeros((self.num_envs, PIXELS), np.int8))


class Slow(Scored):
    """They take a minute a decision."""

    def step(self, actions, active):
        time.sleep(60)
        return super().step(actions, active)


class Broken(Scored):
    """The second decision fails."""

    def step(self, actions, active):
        if self.played == 1:
            raise ValueError("on purpose")
        return super().step(actions, active)


def missing(config, num_envs):
    raise ValueError("no emulators here")


@contextlib.contextmanager
def playing(monkeypatch, make_fleet, logit=1.0, **changes):
    """A rollout with two players who see this logit everywhere, and its policy."""
    monkeypatch.setattr("pong.player.make_fleet", make_fleet)
    policy = KarpathyPolicy(1)
    with torch.no_grad():
        policy.W1.fill_(1 / PIXELS)
        policy.W2.fill_(logit)
    with contextlib.closing(Rollout(TINY.model_copy(update={"horizon": 1, **changes}), policy)) as rollout:
        yield rollout, policy


# --- the same play ----------------------------------------------------------------------------------------------------


def trained(processes, **changes):
    """The batches of three updates on real Pong and the weights after them."""
    config = TINY.model_copy(update={"players": processes, "learning_rate": 0.01, "total_steps": 10**6, **changes})
    with contextlib.closing(Trainer(config)) as trainer:
        run = trainer.run()
        batches = [next(run).batch for _ in range(3)]
        assert len(trainer.rollout.players) == processes
        return batches, {name: tensor.clone() for name, tensor in trainer.policy.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_number_of_processes_changes_nothing(kind):
    batches, weights = trained(1, **kind)
    assert len({len(batch.actions) for batch in batches}) > 1  # something happens
    for processes in (2, 3):  # 1 + 2 emulators, 1 + 1 + 1
        others, other_weights = trained(processes, **kind)
        for batch, other in zip(batches, others, strict=True):
            for name in ("columns", "signs", "offsets"):
                assert torch.equal(getattr(other.observations, name), getattr(batch.observations, name))
            assert torch.equal(other.actions, batch.actions)
            assert torch.equal(other.returns, batch.returns)
            assert (other.share, other.points, other.steps, other.frames) == (
                *(batch.share, batch.points, batch.steps, batch.frames),
            )
            assert {*other.episodes} == {*batch.episodes}
            assert len(other.episodes) == len(batch.episodes)
        assert all(torch.equal(other_weights[name], weights[name]) for name in weights)


def test_a_decision_does_not_depend_on_who_else_is_decided_for():
    """A player of three emulators must see the same P(UP) as one of all 32, to the last bit."""
    rng = np.random.default_rng(0)
    x = SparseFrames.from_dense(rng.choice(np.array([0, 1, -1], np.int8), (96, PIXELS), p=[0.996, 0.002, 0.002]))
    policy = KarpathyPolicy(200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.W2.mul_(25)  # about as decided as a trained policy
    together = policy(x)
    for n in (1, 2, 3, 5, 8, 11, 32):
        alone = torch.cat([policy(x[rows]) for rows in torch.arange(96).split(n)])
        assert torch.equal(alone, together), f"{n} at a time"


def test_a_player_sees_the_newest_weights(monkeypatch):
    with playing(monkeypatch, Scored, logit=100.0) as (rollout, policy):
        played = [rollout.collect(0).actions.tolist()]
        for update, logit in ((1, -100.0), (2, 100.0)):
            with torch.no_grad():
                policy.W2.fill_(logit)
            played.append(rollout.collect(update).actions.tolist())
    assert played == [[1] * 3, [0] * 3, [1] * 3]


HANDS = [  # processes asked for, cores, ranks on this machine, emulators; who plays how many
    (1, 8, 1, 4, [4]),
    (3, 8, 1, 4, [1, 1, 2]),
    (8, 1, 1, 2, [1, 1]),  # none without an emulator
    (0, 2, 1, 5, [2, 3]),
    (0, 4, 2, 5, [2, 3]),  # the ranks share the cores
    (0, 2, 4, 5, [5]),
]


@pytest.mark.parametrize(("processes", "cores", "ranks", "emulators", "hands"), HANDS)
def test_emulators_are_dealt_out_to_the_cores(monkeypatch, processes, cores, ranks, emulators, hands):
    monkeypatch.setattr("pong.ranks.cores", lambda: cores)
    monkeypatch.setattr("pong.rollout.Player", lambda config, mine, *_: mine)
    monkeypatch.setattr("pong.rollout.PlayerProcess", lambda config, mine, *_: mine)
    config = TINY.model_copy(update={"players": processes, "num_envs": emulators})
    players = Rollout(config, KarpathyPolicy(1), ranks=Ranks(local_size=ranks)).players
    assert [len(player) for player in players] == hands
    assert [i for player in players for i in player] == list(range(emulators))


# --- trouble ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_player_ends_the_run_with_one_line(monkeypatch, victim):
    with playing(monkeypatch, Scored) as (rollout, _):
        rollout.collect(0)
        os.kill(pids()[victim], signal.SIGKILL)
        with pytest.raises(RunError, match=r"\Aa player's process died \(exit code -9\)[^\n]*\Z"):
            rollout.collect(1)


def test_a_player_killed_while_it_plays_ends_the_run_too(monkeypatch):
    with playing(monkeypatch, Slow) as (rollout, _):
        for pid in pids():
            threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(RunError, match=r"\Aa player's process died \(exit code -9\)[^\n]*\Z"):
            rollout.collect(0)


def test_what_fails_in_a_player_is_said_in_one_line_after_its_traceback(monkeypatch, capfd):
    with playing(monkeypatch, Broken) as (rollout, _):
        rollout.collect(0)
        with pytest.raises(RunError, match=r"\Aa player's process failed: ValueError: on purpose\Z"):
            rollout.collect(1)
    assert "in step\n" in capfd.readouterr().err


def test_what_can_happen_to_an_emulator_is_said_without_a_traceback(monkeypatch, capfd):
    def worn(config, num_envs):
        raise RunError("an emulator failed (on purpose)")

    with playing(monkeypatch, worn) as (rollout, _), pytest.raises(RunError, match=r"\Aan emulator failed \(on purp"):
        rollout.collect(0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("early", [True, False], ids=["asked at once", "asked later"])
def test_emulators_that_fail_to_start_say_why(monkeypatch, early):
    with playing(monkeypatch, missing) as (rollout, _):
        while not early and pids():  # until the players have failed and gone
            time.sleep(0.05)
        with pytest.raises(RunError, match=r"\Aa player's process failed: ValueError: no emulators here\Z"):
            rollout.collect(0)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_an_interrupt_is_the_parents_to_answer(monkeypatch):
    """Ctrl-C in a terminal goes to every process; players play their rollout to its end all the same."""
    with playing(monkeypatch, Scored) as (rollout, _):
        rollout.collect(0)
        for pid in pids():
            os.kill(pid, signal.SIGINT)
        assert rollout.collect(1).steps == 3


@pytest.mark.parametrize("make_fleet", [Scored, Slow], ids=["idle", "playing"])
def test_no_player_is_left_after_closing(monkeypatch, make_fleet):
    before = pids()
    with playing(monkeypatch, make_fleet) as (rollout, _):
        players = [pid for pid in pids() if pid not in before]
        rollout.begin(0)
    assert len(players) == 2
    assert pids() == before
    for pid in players:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def rounds(gone, begun):
    """What a parent does that is killed: play on and on, after it has said who its players are."""
    os.close(gone)
    config = TINY.model_copy(update={"players": 3, "horizon": 20})
    with contextlib.closing(Rollout(config, KarpathyPolicy(1))) as rollout:
        rollout.collect(0)
        begun.send(pids())
        for update in range(1, 10**6):
            rollout.collect(update)


@pytest.mark.parametrize(
    ("make_fleet", "stop"),
    [(Scored, False), (Small, True), (Scored, True)],
    ids=["playing", "waiting to play", "waiting to hand over what they played"],
)
def test_players_end_by_themselves_when_their_parent_is_killed(monkeypatch, make_fleet, stop):
    """The players inherit the writing end of a pipe: its reading end sees an end when the last of them is gone."""
    monkeypatch.setattr("pong.player.make_fleet", make_fleet)
    gone, alive = os.pipe()
    context = multiprocessing.get_context("fork")
    said, begun = context.Pipe()
    parent = context.Process(target=rounds, args=(gone, begun))
    parent.start()
    os.close(alive)
    players = said.recv()
    try:
        if stop:  # and its players wait for it
            os.kill(parent.pid, signal.SIGSTOP)
            time.sleep(0.5)
        assert not select.select([gone], [], [], 0)[0]
        os.kill(parent.pid, signal.SIGKILL)
        parent.join()
        assert select.select([gone], [], [], 15)[0], "players are left after 15 s"
        players = []
    finally:
        os.close(gone)
        for pid in players:
            os.kill(pid, signal.SIGKILL)
