"""Fixtures: signals, compiled code, gymnasium's Pong-v0, and a recorded update of configs/karpathy.toml."""

import multiprocessing
import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import karpathy_numpy
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from warm import PRELOADED

from pong.config import Config, load_config
from pong.envs.pong.fleet import compile_once
from pong.policies import KarpathyPolicy
from pong.rollout import emulator_seeds
from pong.train import Trainer, Update

if hasattr(os, "sched_setaffinity"):  # each of pytest's workers has a core, or torch's threads wait for each other
    worker, cores = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

multiprocessing.set_forkserver_preload(PRELOADED)  # before the server starts, see warm.py
torch.set_num_threads(1)  # for these small matrices more threads would be slower

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def hangups():
    """SIGHUP has its default effect, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def ctrl_c():
    """SIGINT raises a KeyboardInterrupt, also in pytest's workers."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def compiled():
    """Pong is compiled, so that nothing is printed about it."""
    compile_once()


@pytest.fixture(scope="session")
def pong_v0():
    """gymnasium's own ``Pong-v0``: ``pong_v0()`` is unmodified, ``pong_v0(frameskip=1)`` overrides one setting."""
    gymnasium.register_envs(ale_py)

    def make(**settings: Any) -> gymnasium.Env[Any, Any]:
        with warnings.catch_warnings(action="ignore"):  # that v4 and v5 are newer
            return gymnasium.make("Pong-v0", disable_env_checker=True, **settings)

    return make


class Recorder:
    """Records every step of a fleet, one entry per time step, each (N,)."""

    def __init__(self, fleet: Any):
        self.actions: list[NDArray[np.int64]] = []  # −1: no decision
        self.rewards: list[NDArray[np.float32]] = []
        self.holds: list[NDArray[np.int64]] = []
        self._step, fleet.step = fleet.step, self.step

    def step(self, actions: Any, active: Any) -> Any:
        result = self._step(actions, active)
        self.actions.append(np.where(active, actions, -1))
        self.rewards.append(result.rewards)
        self.holds.append(result.frames)
        return result


@dataclass(frozen=True)
class Game:
    """One emulator's game of T steps, from its first screen to 21 points, replayed by gymnasium's own Pong-v0."""

    x: NDArray[np.int8]  # (T, 6400), the network's inputs, from the colour screens by karpathy_numpy
    y: NDArray[np.int64]  # (T,), the recorded actions, 1 = UP
    rewards: NDArray[np.float64]  # (T,), of Pong-v0
    over: bool  # whether Pong-v0's game ends with the last step and no earlier
    holds: NDArray[np.int64]  # (T,), frames of each recorded action
    rows: NDArray[np.int64]  # (T,), of the recorded batch, in time


@dataclass(frozen=True)
class RecordedUpdate:
    """The first update of a training by configs/karpathy.toml, with three games instead of ten."""

    config: Config
    before: tuple[NDArray[np.float32], NDArray[np.float32]]  # W1 (H, D) and W2 (H,), the weights that played
    update: Update
    after: tuple[NDArray[np.float32], NDArray[np.float32]]  # the weights after the step
    rewards: NDArray[np.float32]  # (T, N), of the emulators
    active: NDArray[np.bool_]  # (T, N), which emulators had a decision
    games: list[Game]  # one per emulator


@pytest.fixture(scope="session")
def recorded(pong_v0) -> RecordedUpdate:
    """Three games and one step, shared by all tests."""
    changes = {"num_envs": 3, "players": 1, "device": "cpu", "emulator": "ale"}
    config = load_config(CONFIGS / "karpathy.toml").model_copy(update=changes)
    trainer = Trainer(config)
    (player,) = trainer.rollout.players
    recorder = Recorder(player.fleet)
    before = weights_of(trainer.policy)
    update = next(trainer.run())
    after = weights_of(trainer.policy)
    trainer.close()

    T = max(episode.length for episode in update.batch.episodes)  # later steps belong to the next rollout
    actions, holds, rewards = (np.stack(x[:T]) for x in (recorder.actions, recorder.holds, recorder.rewards))  # (T, N)
    active = actions >= 0
    owners = np.nonzero(active.T)[0]  # (B,): a batch is ordered by emulator
    games = []
    for i, seed in enumerate(emulator_seeds(config.seed, 0, range(config.num_envs))):
        played = active[:, i]
        game = replay(pong_v0(), int(seed), actions[played, i])
        games.append(Game(*game, holds=holds[played, i], rows=np.flatnonzero(owners == i)))
    return RecordedUpdate(config, before, update, after, rewards, active, games)


def weights_of(policy: KarpathyPolicy) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """W1 (H, D), as in 2016 and in karpathy_numpy, and W2 (H,)."""
    W1, W2 = (weights.detach().numpy().copy() for weights in (policy.W1, policy.W2))
    return np.ascontiguousarray(W1.T), W2


def replay(env: Any, seed: int, actions: NDArray[np.int64]) -> Any:
    """The gist's loop with the actions given: returns Game's fields from x to over."""
    frames, rewards, dones = [], [], []
    screen, _ = env.reset(seed=seed)
    for action in actions:
        frames.append(karpathy_numpy.preprocess(screen, np.float32))
        screen, reward, terminated, _, _ = env.step(2 if action == 1 else 3)
        rewards.append(reward)
        dones.append(terminated)
    env.close()
    x = karpathy_numpy.difference_frames(frames).astype(np.int8)
    return x, actions, np.array(rewards, float), dones[-1] and sum(dones) == 1
