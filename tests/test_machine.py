"""The compiled Pong is ALE's: the same games from the same seeds, to the last bit of every row and of every run."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import verify_machine
from machine_mutants import constants, notices
from small_runs import CONFIG, ROOT, environment, rows, saved, timeless
from verify_machine import KINDS, RANDOM, Kind, Task, differences, record, replayed, same_rows

from pong.cli import main
from pong.config import Config
from pong.envs import make_fleet
from pong.envs.pong import machine
from pong.envs.pong.ale import AleFleet
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.task import DOWN, NOOP, UP

SEED = 20_261_125
FRAMES = 6000  # of each kind of play


@pytest.fixture(scope="module")
def traces():
    """Play in ALE, of each kind: done once for all tests."""
    return {name: record(kind, SEED, FRAMES, num_envs=2) for name, kind in KINDS.items()}


# --- the same games ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_machine_repeats_play_in_ale(traces, kind):
    assert replayed(traces[kind]) == {}


def test_kinds_reach_the_whole_game(traces):
    # so that no rule is compared only by states that never occur
    memories = [memory for trace in traces.values() for *_, memory in trace.decisions]
    values = {name: set(np.concatenate([memory[name] for memory in memories]).tolist()) for name in memories[0]}
    assert values["left"] == {-4, -3, -2, -1, 0, 1, 2, 3, 4}
    assert values["down"] == {-3, -2, -1, 0, 1, 2, 3}
    assert values["last"] == {0, 1, 255}
    assert values["stopped"] == {0, 1}
    assert {0x2D, 0xCE} <= values["y"]  # both walls
    assert {20, 1} <= values["cpu_points"] & values["own_points"]
    for name in ("pokes", "cut off", "to the end of the clock"):
        assert sum(int(result.dones.sum()) for *_, result, _ in traces[name].decisions) >= 8
    holds = [result.frames for *_, result, _ in traces["random, hold 2-4, NOOP starts"].decisions]
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


def test_frame_by_the_bytes_of_the_console():
    (_, *names), *lines = (line.split() for line in CHECK_VALUES.strip().splitlines())
    game, frames = np.zeros(1, machine.GAME)[0], 0
    machine.reset(game)
    for last, *expected in lines:
        while frames < int(last):
            machine.frame(game, (NOOP, UP, DOWN)[frames // 7 % 3])
            frames += 1
        for name, digits in zip(names, expected, strict=True):
            assert digits == "-" or game[name] % 16 ** len(digits) == int(digits, 16), (frames, name)


def test_bounce_by_the_table():
    # y − p: where the ball meets the paddle, from above its upper edge to its lower one → lines a frame
    table = {-4: -3, **dict.fromkeys(range(-3, 1), -2), **dict.fromkeys(range(1, 5), -1)}
    table |= {**dict.fromkeys(range(5, 9), 0), **dict.fromkeys(range(9, 13), 1), **dict.fromkeys(range(13, 17), 2)}
    assert {at: machine.bounce(100, 100 + at) for at in table} == table


def test_game_without_points_ends_when_the_clock_runs_out(monkeypatch):
    # The ball is put back to the middle before it reaches a paddle.
    monkeypatch.setattr(verify_machine, "any_state", lambda *_: {"x": 128, "left": 1, "pause": 0, "y": 0x80})
    task = Task(40, 0.0, max_frames=Config(max_frames=108_000).game_frames)
    trace = record(Kind(task, RANDOM, pokes=1.0, idle=0.0), SEED, 65_209, num_envs=1)
    assert replayed(trace) == {}
    *_, result, _ = trace.decisions[-1]
    assert trace.frames == 65_209
    assert [int(result.dones.sum()) for *_, result, _ in trace.decisions] == [0] * (65_209 // 40) + [1]
    assert not any(result.rewards[0] for *_, result, _ in trace.decisions)
    assert result.frames[0] == 65_209 % 40  # the end cut the last decision short
    assert same_rows(result.observations, trace.first)  # of the next game


# --- the comparison notices every wrong constant ----------------------------------------------------------------------

UNNOTICED = {  # constants after », which can be larger without changing a state that can be reached
    "CLOCK_STOP = »0x100": "the clock overflows from 0xFFFF to 0, which is below either",
    "CYCLES_BEFORE, »0)": "0 or 1 of an iteration's 152 cycles make no difference",
    "-»2 <= game.y - game.y": "the difference of two even lines is even",
    "<= »14:\n        return PLAYER": "likewise",
    "MOST = »35": "room for one more pixel",
    "round_up(game.own_y) + »1)": "a frame has every second row only",
    "game.cpu_y - »15": "likewise",
    "ball_bottom) + »1)": "the loop visits another row, which is empty",
    "y ^= y >> »18": "changes the lowest bits of a number that is compared with a probability",
}
EXEMPT = [constant for constant in constants() if any(text in constant.marked for text in UNNOTICED)]
WRONG = [constant for constant in constants() if constant not in EXEMPT]


def test_notices_nothing_in_the_machine_as_it_is(traces):
    assert notices(None, list(traces.values())) is None
    assert len(EXEMPT) == len(UNNOTICED)  # each line of the list is one constant
    assert len(WRONG) > 120


@pytest.mark.parametrize("part", range(PARTS := 10))
def test_notices_any_wrong_constant(traces, part):
    assert [str(constant) for constant in WRONG[part::PARTS] if not notices(constant, list(traces.values()))] == []


# --- the same run -----------------------------------------------------------------------------------------------------

THREE_ACTIONS = ["--actions", "3", "--frames", "both", "--last-action"]
RUNS = {  # some updates of each
    "pong": ["--num-envs", "6", "--horizon", "128", "--total-steps", "3000"],
    "pong_plain": ["--num-envs", "6", "--horizon", "64", "--total-steps", "1500", *THREE_ACTIONS],
    "pong_conv_plain": ["--num-envs", "4", "--horizon", "32", "--total-steps", "1000", "--hidden", "32"],
    "karpathy": ["--num-envs", "2", "--max-frames", "1500", "--total-steps", "2500"],
}


def train(recipe, folder, *flags):
    """The command of a small run."""
    command = ["train", str(ROOT / f"configs/{recipe}.toml"), "--device", "cpu", "--eval-episodes", "0"]
    return [*command, *RUNS[recipe], "--run-dir", str(folder), *flags]


def content(run):
    """A run's curve, and its last checkpoint but for the emulators: counters, weights, optimiser, baseline, play."""
    (path,) = (run / "checkpoints").iterdir()
    texts, tensors = saved(path)
    counters = json.loads(texts["pong"])["counters"]
    assert counters["updates"] == len(rows(run)) >= 2
    tensors = {name: tensor for name, tensor in tensors.items() if ".ale." not in name and ".machine." not in name}
    return timeless(run), path.name, counters, tensors


@pytest.mark.parametrize("recipe", RUNS)
def test_train_is_the_same_in_either_emulator_and_with_any_players(tmp_path, recipe):
    contents = []
    for emulator, players in (("ale", "1"), ("machine", "1"), ("machine", "2")):
        run = tmp_path / f"{emulator}-{players}"
        assert main(train(recipe, run, "--emulator", emulator, "--players", players)) == 0
        contents.append(content(run))
    assert contents[1] == contents[2] == contents[0]


@pytest.mark.parametrize(("first", "then"), [("machine", "ale"), ("ale", "machine")])
def test_train_resumes_in_the_other_emulator_with_new_games(tmp_path, capsys, first, then):
    run = tmp_path / "run"
    assert main(train("pong", run, "--emulator", first)) == 0
    before = rows(run)
    assert main(["train", "--resume", str(run), "--emulator", then, "--total-steps", "6000"]) == 0
    assert f"resuming after update {len(before)}; games restart\n" in capsys.readouterr().out
    assert rows(run)[: len(before)] == before
    assert [int(row["update"]) for row in rows(run)] == list(range(1, len(rows(run)) + 1))
    assert len(rows(run)) > len(before)


@pytest.mark.parametrize("emulator", ["machine", "ale"])
@pytest.mark.parametrize("frames", ["both", "three"])
@pytest.mark.parametrize("changes", [{"sticky": 0.9}, {"hold": "2-4", "noop_max": 30, "max_frames": 200}], ids=str)
def test_fleet_continues_from_its_state(emulator, frames, changes):
    # repeatedly, each time in a new fleet, which has nothing but the state
    config = Config(frames=frames, actions=3, last_action=True, emulator=emulator, **changes)
    whole, ours = make_fleet(config, 3), make_fleet(config, 3)
    assert same_rows(whole.reset(np.array([1, 2, 3])), ours.reset(np.array([1, 2, 3])))
    dones = 0
    for t, actions in enumerate(np.random.default_rng(3).integers(0, 3, (300, 3))):
        if t in (5, 6, 97, 200):
            state = ours.state()
            ours.close()
            ours = make_fleet(config, 3)
            ours.restore(state)
        result, expected = (fleet.step(actions, np.ones(3, bool)) for fleet in (ours, whole))
        assert differences(result, expected) == []
        dones += int(result.dones.sum())
    assert (dones > 6) == ("max_frames" in changes)  # new holds and NOOP starts were drawn


def test_fleet_without_seeds_has_random_numbers_of_its_own():
    first, second = (MachineFleet(1, Task()).state()[0] for _ in range(2))
    for generator in ("machine.ale_words", "machine.gym_generator"):
        assert first[generator].tobytes() != second[generator].tobytes()


def test_eval_plays_in_ale_by_default_and_scores_the_same_in_either_emulator(tmp_path, monkeypatch):
    fleets, reports, file = [], [], tmp_path / "scores.json"
    monkeypatch.setattr("pong.rollout.make_fleet", lambda *task: fleets.append(make_fleet(*task)) or fleets[-1])
    monkeypatch.setattr("pong.distributed.cores", lambda: 1)  # one player
    for flags in ([], ["--emulator", "machine"]):
        assert main(["eval", str(ROOT / "pretrained/karpathy"), "--episodes", "1", "--json", str(file), *flags]) == 0
        reports.append(json.loads(file.read_text()))
    assert [type(fleet) for fleet in fleets] == [AleFleet, AleFleet, MachineFleet, MachineFleet]  # sampled and greedily
    assert reports[1].pop("emulator") == "machine"
    assert reports[0] == reports[1]


# --- Numba ------------------------------------------------------------------------------------------------------------

PLAY = """
import hashlib, numpy as np
from pong.envs.pong.fleet import MachineFleet, compile_once
from pong.envs.pong.task import PongTask
from pong.observations import RowLayout
compile_once()
fleet = MachineFleet(2, PongTask("2-4", 0.3, 9, 150, 6, RowLayout("both", 6)))
fleet.reset(np.array([5, 6]))
digest = hashlib.sha256()
for t in range(130):
    rows, *arrays = fleet.step(np.array([t // 5 % 6, t // 7 % 6]), np.array([True, t % 9 > 0]))
    for array in (*arrays, rows.columns.numpy(), rows.signs.numpy(), rows.offsets.numpy()):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def python(program, *arguments, **variables):
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment() | variables, capture_output=True, text=True, check=False)


def test_kernels_are_compiled_once_and_play_the_same_game_uncompiled(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, second = (python(PLAY, **cache) for _ in range(2))
    assert first.stderr == "pong: compiling the game, which takes about ten seconds …\n"
    assert second.stderr == ""
    assert first.stdout == second.stdout == python(PLAY, NUMBA_DISABLE_JIT="1").stdout != ""


WITHOUT_NUMBA = "import sys; sys.modules['numba'] = None; from pong.cli import main; sys.exit(main(sys.argv[1:]))"
EACH_WITHOUT_NUMBA = (
    "import json, sys; sys.modules['numba'] = None; from pong.cli import main; "
    "sys.exit(max(main(command) for command in json.loads(sys.argv[1])))"
)
SMALLEST = ["--total-steps", "1", "--players", "1", "--eval-episodes", "0", "--device", "cpu"]


def test_commands_without_pong_need_no_numba(tmp_path):
    commands = [["--help"], ["train", "--help"], ["eval", "--help"], ["toy", "T1"]]
    for recipe in ("cartpole", "lqr", *(["doom_basic"] if importlib.util.find_spec("vizdoom") else [])):
        flags = [*SMALLEST, "--num-envs", "1", "--run-dir", tmp_path / recipe]
        commands.append(["train", ROOT / f"configs/{recipe}.toml", *flags])
    arguments = json.dumps([[str(argument) for argument in command] for command in commands])
    done = python(EACH_WITHOUT_NUMBA, arguments)  # in one process, as each takes seconds to start
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("emulator", ["machine", "ale"])
def test_train_without_numba_fails_in_one_line(tmp_path, emulator):
    done = python(WITHOUT_NUMBA, "train", CONFIG, *SMALLEST, "--emulator", emulator, "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("pong: Pong needs Numba, which fails here (")
    assert line.endswith("; reinstall it: pip install --force-reinstall numba")
    assert not (tmp_path / "run").exists()
