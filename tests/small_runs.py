"""Shared by the tests of whole runs: scripted games, trainings in processes of their own, and what a run leaves."""

import csv
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pong.envs.base import Fleet, StepResult
from pong.losses import surrogate_loss
from pong.observations import PIXELS, SparseFrames

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "pong.toml")
SMALL = ["--hidden", "4", "--players", "1", "--device", "cpu", "--eval-episodes", "0"]
TINY = [*SMALL, "--num-envs", "2", "--horizon", "30"]
CLOCKS = ("minutes", "charts/SPS", "time/")  # columns that a clock writes


class Won(Fleet):
    """Emulators whose games all last one decision and are won by one point."""

    open = 0

    def __init__(self, config, num_envs):
        self.num_envs = num_envs
        Won.open += 1

    def close(self):
        Won.open -= 1

    def reset(self, seeds=None):
        return SparseFrames.from_dense(np.zeros((self.num_envs, PIXELS), np.int8))

    def step(self, actions, active):
        return self.played(np.ones(self.num_envs), np.ones(self.num_envs, bool))

    def played(self, rewards, dones):
        return StepResult(self.reset(), rewards.astype(np.float32), dones, np.full(self.num_envs, 4))


class Dice(Won):
    """Emulators that throw dice, from their seeds: what is seen, who wins the point, whether that was the game."""

    def reset(self, seeds=None):
        if seeds is not None:
            self.dice = [np.random.default_rng(seed) for seed in seeds]
        seen = [die.integers(0, 50, PIXELS) for die in self.dice]
        return SparseFrames.from_dense(np.select([np.array(seen) == 0, np.array(seen) == 1], [1, -1]).astype(np.int8))

    def step(self, actions, active):
        points = np.array([die.choice([-1, 0, 1]) for die in self.dice])
        return self.played(points, np.array([die.random() < 0.3 for die in self.dice]))


def play(monkeypatch, games):
    """Runs play those games instead of Pong."""
    monkeypatch.setattr("pong.rollout.make_fleet", games)


def during_update(monkeypatch, happenings):
    """While the learner learns from some updates, counted from 1, something happens: {update: function}."""
    updates = itertools.count(1)

    def loss(*arguments, **settings):
        happenings.get(next(updates), lambda: None)()
        return surrogate_loss(*arguments, **settings)

    monkeypatch.setattr("pong.train.surrogate_loss", loss)


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pong(*arguments, **settings):
    """The command line in a process, and a process group, of its own."""
    command = [sys.executable, "-m", "pong", *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), start_new_session=True, text=True, **settings)


def wait_until(condition, process, event):
    """Wait at most a minute for an event that a living process brings about."""
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, f"the process ended before {event}"
        assert time.monotonic() < end, f"no {event} after a minute"
        time.sleep(0.001)


def rows(folder):
    """The rows {column: text} of a run's metrics.csv."""
    with (Path(folder) / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def timeless(folder):
    """The rows of a run's metrics.csv without what a clock says."""
    return [{key: value for key, value in row.items() if not key.startswith(CLOCKS)} for row in rows(folder)]


def curves(folder):
    """What TensorBoard shows without what a clock says: {tag: [(step, value)]}."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith((*CLOCKS, "hparam/"))]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def saved(path):
    """All that a checkpoint file holds: its texts and the bytes of its tensors."""
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata(), {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


def contents(*folders):
    """Every file in some folders, with what is in it."""
    return {path: path.read_bytes() for folder in folders for path in Path(folder).rglob("*") if path.is_file()}
