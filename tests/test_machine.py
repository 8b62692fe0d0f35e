"""The machine is ALE's Pong: the same games from the same seeds, to the last bit of every row and of every run."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter

import numba
import numpy as np
import pytest
from machine_mutants import SOURCE, constants, notices
from small_runs import CONFIG, ROOT, environment, pong, rows, saved, timeless
from verify_machine import KINDS, differences, other_memory, read, record, replay, same_rows, write

from pong.cli import main
from pong.config import PONG_FRAMES, Config
from pong.envs.pong import compiled, machine, make_fleet
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.task import DOWN, NOOP, UP

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


EVERY = constants()
EXEMPT = [constant for constant in EVERY if unnoticed(constant)]
WRONG = [constant for constant in EVERY if constant not in EXEMPT]


def test_what_is_exempt_is_still_there():
    assert len(EXEMPT) == len(UNNOTICED)  # each line of the list is one constant
    assert len(WRONG) > 120


def test_the_machine_as_it_is_differs_in_nothing(traces):
    assert notices(None, list(traces.values())) is None


@pytest.mark.parametrize("part", range(PARTS := 10))
def test_any_constant_of_the_machine_that_is_wrong_is_noticed(traces, part):
    assert [str(one) for one in WRONG[part::PARTS] if not notices(one, list(traces.values()))] == []


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


def assert_same(run, whole):
    """The same curve, weights, optimiser, baseline and counters."""
    assert timeless(run) == timeless(whole)
    assert len(rows(run)) >= 2
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == names
    for name in names:
        (texts, tensors), (expected_texts, expected) = (saved(one / "checkpoints" / name) for one in (run, whole))
        assert without_emulator(tensors) == without_emulator(expected)
        assert json.loads(texts["pong"])["counters"] == json.loads(expected_texts["pong"])["counters"]


def without_emulator(tensors):
    """What a checkpoint holds but for the state of the one emulator or the other."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("play.ale", "play.machine"))}


@pytest.mark.parametrize("recipe", RUNS)
def test_a_run_is_the_same_in_either_emulator_and_with_any_players(tmp_path, recipe):
    for emulator, players in (("ale", "1"), ("machine", "1"), ("machine", "2")):
        run = tmp_path / f"{emulator}-{players}"
        assert main(train(recipe, run, "--emulator", emulator, "--players", players)) == 0
        assert_same(run, tmp_path / "ale-1")


@pytest.mark.parametrize(("first", "then"), [("machine", "ale"), ("ale", "machine")])
def test_a_run_goes_on_in_the_other_emulator_with_new_games(tmp_path, capsys, first, then):
    run = tmp_path / "run"
    flags = ["--checkpoint-every", "2", "--total-steps", "6000", "--emulator", first]
    stopped = pong(*train("pong", run, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(run.glob("checkpoints/update-*")):
        assert stopped.poll() is None
        assert time.monotonic() < end
        time.sleep(0.001)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) == 130
    before = rows(run)
    assert main(["train", "--resume", str(run), "--emulator", then, "--players", "1"]) == 0
    assert f"resuming after update {len(before)}; games restart\n" in capsys.readouterr().out
    assert rows(run)[: len(before)] == before
    assert [int(row["update"]) for row in rows(run)] == list(range(1, len(rows(run)) + 1))
    assert len(rows(run)) > len(before)


@pytest.mark.parametrize("emulator", ["machine", "ale"])
@pytest.mark.parametrize("frames", ["both", "three"])
@pytest.mark.parametrize(("hold", "sticky", "noop_max", "max_frames"), [("2-4", 0.25, 30, 200), (4, 0.9, 0, 65_209)])
def test_a_fleet_goes_on_from_its_state(emulator, frames, hold, sticky, noop_max, max_frames):
    # again and again, and the game before is not there any more: what is not in the state is gone
    task = {"hold": hold, "sticky": sticky, "noop_max": noop_max, "max_frames": max_frames}
    config = Config(num_envs=3, frames=frames, actions=3, last_action=True, emulator=emulator, **task)
    actions = np.random.default_rng(3).integers(0, 3, (300, 3))
    whole, ours, on = make_fleet(config), make_fleet(config), np.ones(3, bool)
    assert same_rows(whole.reset(np.array([1, 2, 3])), ours.reset(np.array([1, 2, 3])))
    dones = 0
    for t, now in enumerate(actions):
        if t % 23 == 5:
            state, ours = ours.state(), make_fleet(config)
            ours.restore(state)
        played, expected = ours.step(now, on), whole.step(now, on)
        assert list(differences(played, expected, rows=True)) == []
        dones += int(played.dones.sum())
    assert (dones > 6) == (max_frames == 200)  # new holds and NOOP starts were drawn


def test_a_fleet_without_seeds_plays_games_of_its_own():
    games = []
    for _ in range(2):
        fleet = MachineFleet(1, sticky=0.5)
        fleet.reset()
        games.append([fleet.step(np.array([t // 5 % 2]), np.ones(1, bool)).observations.columns for t in range(60)])
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(*games, strict=True))


def test_scores_are_taken_in_ale_unless_asked_otherwise_and_are_the_same(tmp_path, monkeypatch):
    played, abouts = [], []

    def fleet(config, num_envs):
        played.append(config.emulator)
        return make_fleet(config, num_envs)

    monkeypatch.setattr("pong.rollout.make_fleet", fleet)
    for flags in ([], ["--emulator", "machine"]):
        file = tmp_path / "scores.json"
        command = ["eval", str(ROOT / "pretrained/karpathy"), "--episodes", "2", "--json", str(file)]
        monkeypatch.setattr("pong.distributed.cores", lambda: 1)  # one player
        assert main([*command, *flags]) == 0
        abouts.append(json.loads(file.read_text()))
    assert played == ["ale", "ale", "machine", "machine"]  # sampled and greedily each
    assert abouts[1].pop("emulator") == "machine"
    assert abouts[0] == abouts[1]


# --- Numba ------------------------------------------------------------------------------------------------------------

PLAY = """
import hashlib, numpy as np
from pong.envs.pong.fleet import MachineFleet, compile_once
from pong.observations import ObservationBuilder
compile_once()
fleet = MachineFleet(2, "2-4", ObservationBuilder("both", 6), sticky=0.3, noop_max=9, max_frames=150)
seen, digest = fleet.reset(np.array([5, 6])), hashlib.sha256()
for t in range(130):
    played = fleet.step(np.array([t // 5 % 6, t // 7 % 6]), np.array([True, t % 9 > 0]))
    for part in (played.rewards, played.dones, played.frames):
        digest.update(part.tobytes())
    for part in (played.observations.columns, played.observations.signs, played.observations.offsets):
        digest.update(part.numpy().tobytes())
print(digest.hexdigest())
"""


def python(program, **variables):
    """A program in a process of its own: what it prints, and what it says on stderr."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment() | variables, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


def test_uncompiled_the_same_functions_play_the_same_game():
    assert python(PLAY, NUMBA_DISABLE_JIT="1") == python(PLAY)


def test_the_game_is_compiled_once_and_says_so(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, said = python(PLAY, **cache)
    assert said == "pong: compiling the game, which takes some ten seconds once …"
    assert python(PLAY, **cache) == (first, "")


def test_where_nothing_can_be_kept_the_game_is_compiled_each_time(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function 'step': no locator available")
        return lambda function: (function, options)

    def step():
        pass

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled.kernel(step) == (step, {"nogil": True})


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
from pong.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without_numba(*arguments):
    """The command line where Numba can't be imported."""
    command = [sys.executable, "-c", WITHOUT_NUMBA, *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


SMALLEST = ["--total-steps", "1", "--players", "1", "--eval-episodes", "0", "--device", "cpu"]


def test_what_plays_no_pong_needs_no_numba(tmp_path):
    commands = [["--help"], ["train", "--help"], ["eval", "--help"], ["toy", "T1"]]
    recipes = ["cartpole", "lqr", *(["doom_basic"] if importlib.util.find_spec("vizdoom") else [])]
    commands += [["train", ROOT / f"configs/{recipe}.toml", *SMALLEST, "--num-envs", "1"] for recipe in recipes]
    for number, command in enumerate(commands):
        run = ["--run-dir", tmp_path / str(number)] if "--num-envs" in command else []
        done = without_numba(*command, *run)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("emulator", ["machine", "ale"])
def test_without_numba_pong_says_what_to_do(tmp_path, emulator):
    done = without_numba("train", CONFIG, *SMALLEST, "--emulator", emulator, "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "Pong needs Numba" in line
    assert "install it anew" in line
    assert not (tmp_path / "run").exists()
