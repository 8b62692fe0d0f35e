"""The loop of 2016 for bench.py: one emulator through gymnasium, NumPy in float64, as the original works."""

import contextlib
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import ale_py
import gymnasium
import numpy as np
from bench_turns import Turn, repeat
from processes import ROOT

from pong.config import Config
from pong.distributed import cores
from pong.envs import DOWN, UP

sys.path.insert(0, str(ROOT / "tests"))
import karpathy_numpy as numpy_2016

LOOPS: dict[str, Iterator[int]] = {}  # of this process, by recipe


def loop_of_2016(config: Config, stack: contextlib.ExitStack) -> Turn:
    """The loop in a process of its own, with one or all cores for NumPy, whichever is faster here."""
    speeds = {}
    for threads in sorted({1, cores()}):
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS=str(threads)):  # read when the process starts
            speeds[pool] = pool.submit(turn, config, 1.0).result()
    fastest = max(speeds, key=lambda pool: speeds[pool])
    return lambda seconds: fastest.submit(turn, config, seconds).result()


def turn(config: Config, seconds: float) -> float:
    """Play and learn for so long, from where this process's turn before ended."""
    return repeat(LOOPS.setdefault(config.name, play_and_learn(config)).__next__, seconds)


def play_and_learn(config: Config) -> Iterator[int]:
    """Each game's gradient, and a step of RMSProp after every tenth game; yields 1 at each decision."""
    random = np.random.default_rng(0)
    weights = numpy_2016.init(config.hidden, random)
    rms, gradients = numpy_2016.RMSProp(weights), [np.zeros_like(weight) for weight in weights]
    emulator = make_emulator(config)
    for games in itertools.count(1):
        game = []
        for decision in play(emulator, weights, random):
            game.append(decision)
            yield 1
        x, h, p, y, rewards = (np.array(column) for column in zip(*game, strict=True))
        advantages = numpy_2016.standardize(numpy_2016.discount(rewards, config.gamma))
        for total, one in zip(gradients, numpy_2016.backward(*weights, x, h, p, y, advantages), strict=True):
            total += one
        if games % 10 == 0:
            rms.step(gradients)
            gradients = [np.zeros_like(weight) for weight in weights]


def make_emulator(config: Config) -> Any:
    """The recipe's game."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    frameskip = (2, 5) if config.hold == "2-4" else config.hold
    emulator = gymnasium.make("ALE/Pong-v5", frameskip=frameskip, repeat_action_probability=config.sticky)
    emulator.reset(seed=1)
    return emulator


def play(emulator: Any, weights: Any, random: np.random.Generator) -> Iterator[tuple[Any, Any, float, int, float]]:
    """The decisions of a game: difference frame, hidden units, P(UP), 1 for UP, reward."""
    (screen, _), previous, ended = emulator.reset(), None, False
    while not ended:
        frame = numpy_2016.preprocess(screen).ravel()
        x = np.zeros_like(frame) if previous is None else frame - previous
        h, p = numpy_2016.policy_forward(*weights, x)
        y = int(random.random() < p)
        screen, reward, terminated, truncated, _ = emulator.step(UP if y else DOWN)
        previous, ended = frame, terminated or truncated
        yield x, h, float(p), y, float(reward)
