"""The machine is ALE's Pong: the same games from the same seeds, to the last bit of every row and of every run."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from machine_mutants import SOURCE, constants, notices
from small_runs import ROOT, SMALL, Dice, environment, pong, saved, timeless
from verify_machine import KINDS, differences, other_memory, read, record, replay, same_rows, write

from pong.cli import main
from pong.config import PONG_FRAMES, Config, load_config
from pong.envs import machine, make_fleet, make_view
from pong.envs.actions import DOWN, NOOP, UP
from pong.envs.machine_fleet import MachineFleet
from pong.frames import View

SEED = 20_261_125
FRAMES = 8000  # of each kind of play


@pytest.fixture(scope="module")
def traces():
    """Play in ALE, of each kind: done once for all tests."""
    return {name: record(kind, SEED, FRAMES) for name, kind in KINDS.items()}


# --- the same games ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_played_in_ale_is_played_in_the_machine(traces, kind):
    assert list(replay(traces[kind])) == []


def test_the_kinds_of_play_see_all_of_the_game(traces):
    # so that no rule of it is compared by states that never come
    memories = [memory for trace in traces.values() for _, memory in trace.outcomes]
    seen = {name: set(np.concatenate([memory[name] for memory in memories]).tolist()) for name in memories[0]}
    assert seen["left"] == {-4, -3, -2, -1, 0, 1, 2, 3, 4}
    assert seen["down"] == {-3, -2, -1, 0, 1, 2, 3}
    assert seen["last"] == {0, 1, 255}
    assert seen["stopped"] == {0, 1}
    assert {0x2D, 0xCE} <= seen["y"]  # both walls
    assert {20, 1} <= seen["cpu_points"] & seen["own_points"]
    ends = Counter[str]()
    for name, trace in traces.items():
        ends[name] = sum(int(played.dones.sum()) for played, _ in trace.outcomes)
    for name in ("pokes", "cut off", "to the end of the clock"):
        assert ends[name] >= 8
    holds = [played.frames for played, _ in traces["random, hold 2-4, NOOP starts"].outcomes]
    assert set(np.concatenate(holds).tolist()) == {0, 2, 3, 4}  # 0: no decision


CHECK_VALUES = """
frames clock pause  x  y down left cpu_y own_y next_y last
    1   148    3A   -  -   00   00    14    6D     6D   FF
   60   183    00  7E 82   01   01    82    52     52   FF
  118   1BD    00  44 BC   01   01    BC    59     59   FF
  119   1BE    00  45 BA   FE   FF    BA    59     4E   00
  190   205    00  8C 2C   FE   FF    3E    64     64   00
  191   206    00  8D 2F   02   FF    3C    64     69   00
"""  # hexadecimal bytes as ALE's RAM has them after so many frames


def test_a_game_without_chance_by_its_bytes():
    names, *lines = [line.split() for line in CHECK_VALUES.split("\n") if line]
    expected = {int(line[0]): dict(zip(names, line, strict=True)) for line in lines}
    game = np.zeros(1, machine.GAME)[0]
    machine.reset(game)
    compared = 0
    for t in range(max(expected)):
        machine.frame(game, (NOOP, UP, DOWN)[t // 7 % 3])
        for name, byte in expected.get(t + 1, {"frames": ""}).items():
            if name != "frames" and byte != "-":
                assert game[name] % (2**16 if name == "clock" else 256) == int(byte, 16), (t + 1, name)
                compared += 1
    assert compared == 6 * 10 - 2


def test_a_bounce_by_the_table():
    # y − p: where the ball meets the paddle, from above its upper edge to its lower one → lines a frame
    table = {-4: -3, **dict.fromkeys(range(-3, 1), -2), **dict.fromkeys(range(1, 5), -1)}
    table |= {**dict.fromkeys(range(5, 9), 0), **dict.fromkeys(range(9, 13), 1), **dict.fromkeys(range(13, 17), 2)}
    assert {at: machine.bounce(100, 100 + at) for at in table} == table


def test_a_game_that_never_ends_is_cut_when_the_consoles_clock_runs_out():
    # max_frames = 0 asks for no cut; the ball is put back to the middle before it reaches a paddle.
    config = Config(hold=40, sticky=0.0, max_frames=0, actions=3)
    fleets = [make_fleet(config.model_copy(update={"emulator": emulator}), 1) for emulator in ("machine", "ale")]
    ours, theirs = fleets
    ale = theirs.envs.emulators[0].ale
    first, frames, done = [fleet.reset(np.array([1])) for fleet in fleets][1], 0, False
    while not done:
        write(ale, {"x": 128, "left": 1, "pause": 0, "y": 0x80})
        ours.games["x"], ours.games["left"], ours.games["pause"], ours.games["y"] = 128, 1, 0, 0x80
        played, expected = (fleet.step(np.array([frames % 3]), np.ones(1, bool)) for fleet in fleets)
        assert list(differences(played, expected, rows=True)) == []
        assert other_memory({name: ours.games[name] for name in read([ale])}, read([ale])) == []
        assert expected.rewards[0] == 0
        frames, done = frames + int(expected.frames[0]), bool(expected.dones[0])
    assert frames == PONG_FRAMES == 65_209
    assert expected.frames[0] == 65_209 % 40  # the decision that the end cut short
    assert same_rows(played.observations, first)  # of the next game


@pytest.mark.parametrize(("max_frames", "cut"), [(0, 65_209), (108_000, 65_209), (65_210, 65_209), (400, 400)])
def test_no_game_is_longer_than_the_consoles_clock(max_frames, cut):
    assert Config(max_frames=max_frames).game_frames == cut


# --- the comparison bites ---------------------------------------------------------------------------------------------

UNNOTICED = {  # constants of which a larger one changes nothing that can be reached
    "CLOCK_STOP = »0x100": "the clock comes to 0 from 0xFFFF, and the game has stopped with the first low value",
    "CYCLES_BEFORE, »0)": "0 or 1 cycle is no turn of 152",
    "-»2 <= round_down": "the difference of two even lines is even",
    "<= »14:\n        return PLAYER": "likewise",
    "MOST = »35": "room for one pixel more",
    "round_up(game.own_y) + »1)": "the picture has every second row only",
    "game.cpu_y - »15": "likewise",
    "ball_bottom) + »1)": "a row more is looked at, in which nothing is",
    "y ^= y >> »18": "changes the lowest bits of a number that is compared with a probability",
}


def unnoticed(constant):
    """Why it can't be noticed, if so."""
    lines = SOURCE.splitlines(keepends=True)
    lines[constant.line - 1] = str(constant) + "\n"
    here = "".join(lines[constant.line - 1 : constant.line + 1])
    return next((why for text, why in UNNOTICED.items() if text in here), None)


def test_any_constant_of_the_machine_that_is_wrong_is_noticed(traces):
    every = constants()
    exempt = [constant for constant in every if unnoticed(constant)]
    assert len(exempt) == len(UNNOTICED)  # each line of the list is one constant, and still there
    wrong = [constant for constant in every if constant not in exempt]
    assert len(wrong) > 120
    with ProcessPoolExecutor(initializer=_remember, initargs=(list(traces.values()),)) as pool:
        assert pool.submit(_notices, None).result() is None  # the machine as it is
        missed = [str(one) for one, found in zip(wrong, pool.map(_notices, wrong), strict=True) if not found]
    assert missed == []


def _remember(traces):
    global remembered
    remembered = traces


def _notices(constant):
    return notices(constant, remembered)
