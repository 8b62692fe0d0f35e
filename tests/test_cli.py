"""The command line: bad input, help, each command, and how training ends and resumes."""

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from small_runs import CONFIG, ROOT, TINY, Dice, Won, contents, during_update, environment, play, rows, saved, timeless

from pong import checkpoint
from pong.cli import main
from pong.config import Config, RunError, load_config
from pong.evaluate import Greedy, evaluate
from pong.run import TrainRequest
from pong.train import load_policy

pytestmark = pytest.mark.usefixtures("compiled")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished training of a few updates."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = ["train", CONFIG, *TINY, "--total-steps", "200", "--max-frames", "600", "--run-dir", str(folder)]
    with contextlib.redirect_stdout(None):
        assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """A run of CartPole."""
    folder = tmp_path_factory.mktemp("cli") / "cartpole"
    flags = ["--num-envs", "2", "--total-steps", "1", "--device", "cpu", "--run-dir", str(folder)]
    with contextlib.redirect_stdout(None):
        assert main(["train", f"{ROOT}/configs/cartpole.toml", *flags]) == 0
    return folder


# --- bad input --------------------------------------------------------------------------------------------------------

LONG = 300 * "x"
ERRORS = {  # command: what the line says. {file} exists, {cartpole} and {run} are runs
    "": "no command; there are train, eval, play, export, import, toy, recipes (pong --help)",
    "trian": "unknown command 'trian'; did you mean train?",
    "train": "train: give a recipe (pong recipes), a config file or --resume RUN first, such as: pong train pong",
    "train --seed 3 {config}": "give a recipe (pong recipes), a config file or --resume RUN first",
    "train nowhere.toml": "config file nowhere.toml does not exist; there are cartpole, cartpole_simonini, ",
    "train configs/karpaty.toml": "config file configs/karpaty.toml does not exist; did you mean karpathy?",
    "train {root}": "can't be read",
    f"train {LONG}": "File name too long",
    "train {config} --lerning-rate 1": "Unrecognized options: --lerning-rate, 1; did you mean --learning-rate?",
    "train {config} surplus": "Unrecognized options: surplus (pong train --help)",
    "train {config} --seed": "Missing value for argument '--seed'",
    "train {config} --lr 1e-3": "Unrecognized options: --lr, 1e-3; did you mean --learning-rate? (pong train --help)",
    "train {config} --last-action true": "Unrecognized options: true; a switch takes no value; --no-… turns it off",
    "train {config} --seed 1.5": "Error parsing --seed: invalid literal for int() with base 10: '1.5' (pong train",
    "train {config} --hidden 0": "hidden = 0: Input should be greater than or equal to 1\n",
    "train {config} --hold 2-5": "Error parsing --hold: '2-5' is not INT|{{2-4}} (pong train --help)",
    "train {config} --device tpu": "invalid choice 'tpu' for argument '--device'",
    "train {config} --device cuda": "device = 'cuda', but there is none; use --device auto or cpu\n",
    "train {config} --policy mlp": 'policy = "mlp" can\'t play env = "Pong"; "karpathy" plays Pong, ',
    "train {config} --run-dir {run}": "{run}: max_frames = 65209, but the run was started with 600; set it",
    "train {config} --run-dir {root}/results/pong/s11": "s11: it has no checkpoints; start a new run: pong train ",
    "train {config} --run-dir {file}": "{file}",
    "train {config} --seed 1 --seeds 2": "choose one of --seed and --seeds",
    "train {config} --seeds 5-1": "--seeds 5-1: give numbers of up to four digits, such as 1-16 or 1,3,5",
    "train {config} --seeds 1-3 --device cuda": "device = 'cuda'",
    "train --resume {run} --seeds 1": "--seeds resumes its runs when the same command starts again; leave --resume out",
    "train {config} --init nowhere": "nowhere does not exist",
    "train {config} --init {run} --hidden 5": "size mismatch for W1",
    "train {config} --resume {run}": "choose one of CONFIG.toml and --resume",
    "train --resume nowhere": "--resume nowhere: no run is there",
    "train --resume {root}/pretrained/pong": "pong train {root}/pretrained/pong/config.toml --init {root}/pretrained",
    "train --resume {root}/pretrained/pong/policy.safetensors": "the checkpoint holds only a policy; start a new run",
    "train --resume {root}/results/pong/s11": "it has no checkpoints; start a new run: pong train {root}/results/pong/",
    "train --resume {run}/checkpoints/update-999999.safetensors": "does not exist; there is {run}/checkpoints/update-",
    "train --resume {run} --hidden=9": "hidden = 9, but the run was started with 4; set it back, or start a new run",
    "train --resume {run} --total-steps 199": "total_steps = 199, but 240 steps are done; give at least as many",
    "train --resume {run} --init {run}": "--init is for a new run",
    "train --resume {run} --run-dir new": "a run resumes in its own folder",
    "export": "Missing from pong export: RUN|CHECKPOINT run folder, checkpoint, exported folder or agent",
    "eval nowhere": "nowhere does not exist",
    "eval {root}": "{root} holds no checkpoints",
    "eval {run}/config.toml": "{run}/config.toml can't be read",
    "eval {run} --gamma 1": "Unrecognized options: --gamma, 1 (pong eval --help)",
    "eval {run} --gready": "Unrecognized options: --gready; did you mean --greedy? (pong eval --help)",
    "eval {run} --episode 3 --foo": "Unrecognized options: --episode, 3, --foo; did you mean --episodes? (pong eval",
    "eval {run} --episodes 0": "episodes = 0: Input should be greater than or equal to 1",
    "eval {run} --sticky 1.5": "sticky = 1.5: Input should be less than 1",
    "eval {cartpole} --sticky 0.5": 'sticky = 0.5: env = "CartPole-v1" has no such setting; leave it out',
    "eval {run} --json nowhere/scores.json": "json = nowhere/scores.json: give a file in a folder that exists",
    "play {cartpole}": "was trained on CartPole-v1, which has no screen to show",
    "play {run} --seed -1": "seed = -1: Input should be greater than or equal to 0",
    "play {run} --max-frames -1": "max_frames = -1: Input should be greater than or equal to 0",
    "play {run} --file game.avi": "--file game.avi: give a name that ends in .mp4 or .gif",
    "play {run} --file {file}": "file = {file}: Path already exists",
    "play {run} --file nowhere/game.mp4": "file = nowhere/game.mp4: Parent directory does not exist",
    "play {run} --file game.mp4 --terminal": "choose one of --file and --terminal",
    "play {run} --speed 2": "--speed is for --terminal",
    "play {run} --terminal --speed 0": "speed = 0.0: Input should be greater than 0",
    "play {run} --terminal": "the output is not a terminal",
    "export {run}": "give a folder to write, such as: pong export RUN agent",
    "export {run} {root}": "folder = {root}: Path already exists",
    "export {run} nowhere/agent": "folder = nowhere/agent: Parent directory does not exist",
    "export {root}/pretrained/pong_expert --save-p save.p": "is for the 2016 network; pong_expert is another network",
    "import nowhere agent": "nowhere can't be read",
}


def refusal(*arguments):
    """The one line that ``pong`` prints when it refuses its input."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    assert (status, out.getvalue()) == (2, ""), (arguments, err.getvalue())
    (line,) = err.getvalue().splitlines()
    assert line.startswith("pong: ")
    return line


def no_games(*args, **kwargs):
    raise AssertionError("games were played before the error was found")


@pytest.mark.parametrize(("arguments", "text"), ERRORS.items(), ids=[key[:60] for key in ERRORS])
def test_main_bad_input_is_one_line_and_writes_nothing(
    elsewhere, monkeypatch, tmp_path_factory, run, cartpole, arguments, text
):
    monkeypatch.setattr("pong.train.gpu_problem", lambda number: "there is none")
    monkeypatch.setattr("pong.rollout.Rollout.__init__", no_games)
    monkeypatch.setattr("pong.render.frame.make_fleet", no_games)
    file = tmp_path_factory.mktemp("there") / "there.mp4"
    file.write_bytes(b"a film")
    names = {"root": ROOT, "config": CONFIG, "run": run, "cartpole": cartpole, "file": file}
    before = contents(run, cartpole)
    line = refusal(*(argument.format(**names) for argument in arguments.split()))
    assert text.format(**names) in f"{line}\n"
    assert list(elsewhere.iterdir()) == []
    assert contents(run, cartpole) == before
    assert file.read_bytes() == b"a film"


KEYS = sorted(Config.model_fields)
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "true", "nan", "1e999", "2-4", "none", "[]", '"steps"', "[[]]", "{a = 1}", "1979-05-27"]),
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
WORDS = TEXTS.filter(lambda text: not text.startswith(("-h", "--h")))  # no help
LINES = st.tuples(st.one_of(st.sampled_from(KEYS), TEXTS), st.one_of(VALUES, TEXTS)).map(" = ".join)
FILES = st.one_of(st.lists(LINES, min_size=1, max_size=5).map(lambda lines: "\n".join(lines).encode()), st.binary())
FLAGS = st.tuples(st.sampled_from(KEYS).map(lambda key: f"--{key.replace('_', '-')}"), st.one_of(VALUES, WORDS))
REST = st.one_of(st.lists(WORDS, max_size=3), st.lists(FLAGS, max_size=3).map(lambda flags: [*chain(*flags)]))
STARTS = st.sampled_from([[], ["train"], ["train", CONFIG], ["train", "--resume"], ["eval"], ["play"], ["export"]])
EXTREMES = [b"seed = " + 5_000 * b"9", b"hidden = " + 10_000 * b"[", b"\xff\xfe\x00", 10_000 * b"a" + b" = 1"]


class Accepted(BaseException):
    """The input was good: a run would start now."""


@pytest.mark.parametrize("inputs", [FILES, st.tuples(STARTS, REST)], ids=["config files", "command lines"])
def test_main_refuses_malformed_input(elsewhere, monkeypatch, inputs):
    def accept(*_, **__):
        raise Accepted

    for function in "run.train", "evaluate.evaluate", "render.frame.play_frames":
        monkeypatch.setattr(f"pong.{function}", accept)
    path, refused = elsewhere / "config.toml", Counter()
    path.touch()

    @seed(0)
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(value=inputs)
    def refuse(value):
        if isinstance(value, bytes):
            path.write_bytes(value)
        arguments = ["train", str(path)] if isinstance(value, bytes) else [*value[0], *value[1]]
        try:
            refusal(*arguments)
            refused[True] += 1
        except Accepted:
            refused[False] += 1
        assert list(elsewhere.iterdir()) == [path]

    refuse()
    assert refused[True] > 0.8 * refused.total()
    for content in EXTREMES:
        path.write_bytes(content)
        refusal("train", str(path))


# --- help and output --------------------------------------------------------------------------------------------------

HELP = {
    "": ["{train,eval,play,export,import,toy,recipes}", "Exit status: 0 done, 2 bad input"],
    "train": ["--run-dir", "What the policy sees and does", "Without a recipe, the keys' own"],
    f"train {CONFIG}": ["--learning-rate FLOAT", "(default: 0.002)"],
    "eval": ["RUN|CHECKPOINT", "--sampled", "--json", "games, both sampled and greedy (default: 100)"],
    "play": ["exported folder or agent (pong", "--greedy  ", "--max-frames INT", "(default: as in training)"],
}


@pytest.mark.parametrize(("command", "words"), HELP.items())
def test_main_help(capsys, command, words):
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [word for word in words if word not in out] == []


def test_recipes_have_names_that_train_takes(elsewhere, monkeypatch, capsys):
    configs = {file.stem: load_config(file) for file in Path(CONFIG).parent.glob("*.toml")}
    monkeypatch.setattr("pong.run.train", lambda request, *_: request.config != configs.pop(request.config.name))
    Path("pong").mkdir()  # is no config file
    Path("lqr").touch()  # is one, and comes before a recipe
    configs["lqr"] = load_config("lqr")
    assert main(["recipes"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert "pong_expert       yes    A strong policy of two layers with sticky actions" in lines
    assert "cartpole          -      CartPole, learned by the same loss" in lines
    assert not any(main(["train", line.split()[0]]) for line in lines)
    assert not configs


def test_main_help_and_bad_input_import_nothing_slow():
    code = (
        "import sys; from pong.cli import main; main(['train', '--help']); main(['play', '--seed', '-1', 'x']); "
        "sys.exit(str({'torch', 'numba', 'PIL', 'ale_py', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", ["--help", "toy"])
def test_main_a_closed_pipe_is_no_error(command):
    command = [sys.executable, "-m", "pong", command]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_main_in_a_terminal_without_unicode(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["toy", "T3"]) == 0
    assert "?" in stream.buffer.getvalue().decode("ascii")


# --- train ------------------------------------------------------------------------------------------------------------


def test_train_writes_a_run(run):
    config = load_config(run / "config.toml")  # the config file with the changes of the command
    assert config == load_config(CONFIG).replace(
        **{"hidden": 4, "players": 1, "device": "cpu", "eval_episodes": 0, "num_envs": 2, "horizon": 30},
        **{"total_steps": 200, "max_frames": 600},
    )
    *others, last = rows(run)
    assert int(others[-1]["step"]) < 200 <= int(last["step"])
    (path,) = (run / "checkpoints").iterdir()  # at the end; checkpoint_every is far away
    loaded = checkpoint.load(path)
    assert loaded.config == config
    for name, key in {"updates": "update", "steps": "step", "games": "games", "points": "points"}.items():
        assert getattr(loaded.counters, name) == int(last[key])


def test_train_request(run, elsewhere, monkeypatch):
    """Which run, checkpoint and folder the flags mean."""
    config, (path,) = load_config(run / "config.toml"), (run / "checkpoints").iterdir()
    new, free = Path("new"), config.replace(players=3)
    expected = {
        "{run}/config.toml --init {run} --total-steps 2e2": TrainRequest(config, init=run),
        "{run}/config.toml --total-steps=0.2e3 --run-dir new --players 3": TrainRequest(free, run_dir=new),
        "--resume {run} --players 3": TrainRequest(free, run_dir=run),
        "--players 3 --resume={run}": TrainRequest(free, run_dir=run),
        "--resume {path}": TrainRequest(config, checkpoint=path),
        "--resume {path} --run-dir new": TrainRequest(config, run_dir=new, checkpoint=path),
    }
    requests = []
    monkeypatch.setattr("pong.run.train", lambda request, *_: requests.append(request) or 7)
    for flags in expected:
        assert main(["train", *flags.format(run=run, path=path).split()]) == 7
    assert requests == list(expected.values())


@pytest.mark.parametrize(("seconds", "saves"), [("1e-9", 9), ("0", 3)])
def test_train_saves_by_updates_and_by_the_clock(elsewhere, monkeypatch, capsys, seconds, saves):
    play(monkeypatch, Won)
    flags = [*TINY, "--total-steps", "540", "--checkpoint-every", "3", "--checkpoint-seconds", seconds]
    assert main(["train", CONFIG, *flags, "--run-dir", "run"]) == 0  # nine updates
    assert capsys.readouterr().out.count("saved run/checkpoints/update-") == saves
    assert sorted(path.name for path in Path("run/checkpoints").iterdir())[-1] == "update-000009.safetensors"


# 52 games an update, all won; 8 updates. The hundredth game is in the second one
@pytest.mark.parametrize(("threshold", "updates", "goal"), [("1", 2, "stop-at-mean100"), ("1.01", 8, "total-steps")])
def test_train_stops_at_a_mean_of_100_games(elsewhere, monkeypatch, capsys, threshold, updates, goal):
    play(monkeypatch, Won)
    command = ["train", CONFIG, *TINY, "--horizon", "26", "--total-steps", "416", "--run-dir", "run"]
    assert main([*command, f"--stop-at-mean100={threshold}"]) == 0
    before = rows("run")
    assert len(before) == checkpoint.load("run").counters.updates == updates
    assert "is complete" not in capsys.readouterr().out
    assert main(["train", "--resume", "run"]) == 0  # which changes nothing
    assert f"is complete, it has reached its {goal}; extend it with a higher --{goal}\n" in capsys.readouterr().out
    assert rows("run") == before


def test_main_a_name_of_a_run_may_hold_colons_and_blanks(elsewhere, capfd):
    run = 'r: 12:30 %d "x"'
    flags = [*TINY, "--max-frames", "240", "--checkpoint-every", "1", "--total-steps", "60", "--run-dir", run]
    assert main(["train", CONFIG, *flags]) == 0
    assert main(["train", "--resume", run, "--total-steps", "200"]) == 0
    assert main(["eval", run, "--episodes", "1", "--json", f"{run}/12:30.json"]) == 0
    assert main(["play", run]) == 0
    assert main(["play", run, "--file=-12:30 %d.gif"]) == 0
    assert main(["export", run, f"{run}-2", "--episodes", "1"]) == 0
    films = {"-12:30 %d.gif", f"{run}-update{checkpoint.load(run).counters.updates}-seed0.mp4"}
    assert {path.name for path in elsewhere.iterdir()} == {run, f"{run}-2", *films}
    assert capfd.readouterr().err == ""


# --- eval and play ----------------------------------------------------------------------------------------------------


def test_eval_both_ways(run, elsewhere, capsys):
    assert main(["eval", str(run), "--episodes", "3", "--seed", "7", "--json", "scores.json"]) == 0
    policy, loaded = load_policy(run)
    counters, lines = loaded.counters, []
    expected = {"run": str(run), "update": counters.updates, "steps": counters.steps, "seed": 7, "env": "Pong"}
    expected |= {"sticky": 0.25, "hold": 4, "noop_max": 0}
    for way, actor in (("sampled", policy), ("greedy", Greedy(policy))):
        games = evaluate(actor, loaded.config, 3, seed=7)
        expected[way] = games.as_json()
        lines.append(f"{games}, {way}, seed 7, sticky 0.25, hold 4, update {counters.updates}")
    assert json.loads(Path("scores.json").read_text(encoding="utf-8")) == expected
    assert capsys.readouterr() == ("".join(f"{line}\n" for line in lines), "")


@pytest.mark.parametrize(("way", "other"), [("sampled", "greedy"), ("greedy", "sampled")])
def test_eval_a_checkpoint_file_one_way(run, elsewhere, monkeypatch, capsys, way, other):
    play(monkeypatch, Won)
    (path,) = (run / "checkpoints").iterdir()
    assert main(["eval", str(path), "--episodes", "1", f"--{way}", "--json", "scores.json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"+1.00, one fresh game, {way}, ")
    scores = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    assert scores[way]["scores"] == [1]
    assert other not in scores


def test_eval_and_play_take_the_newest_run(run, elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    assert main(["eval", "--episodes", "1"]) == 0
    assert capsys.readouterr().out.startswith("pong: playing fresh games …\n+1.00, ")
    Path("runs/no-checkpoint/checkpoints").mkdir(parents=True)
    for name, seconds in {"a": 3, "seeds/newest": 4, "b": 2}.items():
        shutil.copytree(run, f"runs/{name}")
        os.utime(f"runs/{name}/checkpoints", (seconds, seconds))
    for command, line in ("eval --episodes 1", "playing fresh"), ("play --max-frames 8 --file film.gif", "update"):
        assert main(command.split()) == 0
        assert capsys.readouterr().out.startswith(f"runs/seeds/newest: {line} ")


def test_eval_on_another_task(run, elsewhere, capsys):
    flags = ["--sticky", "0", "--noop-max", "30", "--emulator", "machine", "--episodes", "3", "--greedy"]
    assert main(["eval", str(run), *flags, "--json", "scores.json"]) == 0
    assert "greedy, seed 0, sticky 0.0, hold 4" in capsys.readouterr().out
    scores = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    assert [scores[key] for key in ("sticky", "hold", "noop_max", "emulator")] == [0, 4, 30, "machine"]
    assert len(set(scores["greedy"]["lengths"])) > 1  # games without chance differ by their first NOOPs alone


def test_play_saves_a_video_and_replaces_that_of_the_default_name(run, elsewhere, capsys):
    (path,), updates = (run / "checkpoints").iterdir(), checkpoint.load(run).counters.updates
    file = Path(f"run-update{updates}-seed0.mp4")
    file.write_bytes(b"a film")
    assert main(["play", str(run), "--max-frames", "40"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{run}: update {updates}, sampled, seed 0, sticky 0.25, hold 4; recording one game to {file} …",
        f"score 0 in 10 steps, truncated: {file}",
    ]
    assert imageio_ffmpeg.count_frames_and_secs(str(file))[0] == 10 + 1
    assert main(["play", str(path), "--max-frames", "40", "--greedy", "--seed", "3"]) == 0
    assert sorted(film.name for film in elsewhere.iterdir()) == [f"run-update{updates}-greedy-seed3.mp4", str(file)]


# --- how training ends ------------------------------------------------------------------------------------------------

SHORT = ["train", CONFIG, *TINY, "--horizon", "10", "--total-steps", "160", "--run-dir", "run"]


def interrupted(monkeypatch, *signals):
    """The exit status of a training of 8 updates that gets those signals during the fifth."""
    during_update(monkeypatch, {5: lambda: [signal.raise_signal(number) for number in signals]})
    play(monkeypatch, Won)
    return main(SHORT)


@pytest.mark.parametrize("number", SIGNALS)
def test_train_one_signal_finishes_the_update_and_saves(elsewhere, monkeypatch, capsys, hangups, number):
    before = [signal.getsignal(n) for n in SIGNALS]
    assert interrupted(monkeypatch, number) == 130
    assert checkpoint.load("run").counters.updates == 5
    out, err = capsys.readouterr()
    assert "saved run/checkpoints/update-000005.safetensors" in out
    assert out.endswith("resume with: pong train --resume run\n")
    assert "again to stop at once" in err
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert Won.open == 0  # the emulators are closed


def test_train_a_second_signal_stops_at_once(elsewhere, monkeypatch, capsys):
    assert interrupted(monkeypatch, signal.SIGTERM, signal.SIGINT) == 130
    assert not Path("run/checkpoints").exists()
    assert len(rows("run")) == 4  # the updates before
    out, err = capsys.readouterr()
    assert out.endswith("resume with: pong train --resume run\n")
    assert err.endswith("pong: interrupted\n")
    assert Won.open == 0


def test_train_in_a_thread_needs_no_signals(elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    with ThreadPoolExecutor(1) as pool:  # only the main thread may set a signal's handler
        assert pool.submit(main, SHORT).result() == 0
    assert checkpoint.load("run").counters.updates == 8


def test_train_under_nohup_a_closed_terminal_does_not_end_a_run(elsewhere, monkeypatch, capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert interrupted(monkeypatch, signal.SIGHUP) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoint.load("run").counters.updates == 8


def test_train_stops_while_no_episode_ends(elsewhere, monkeypatch, capsys):
    """After the first update no point is won any more; the rollout that can't end is dropped."""

    def endless(config, num_envs):
        fleet, decisions = Won(config, num_envs), itertools.count(1)

        def step(actions, active):
            number = next(decisions)
            if number == 100:
                signal.raise_signal(signal.SIGINT)
            return fleet.played(np.full(num_envs, float(number <= 10)), np.full(num_envs, number <= 10))

        fleet.step = step
        return fleet

    play(monkeypatch, endless)
    monkeypatch.setattr("pong.tracking.LINE_SECONDS", 0)
    assert main(SHORT) == 130
    assert checkpoint.load("run").counters.updates == 1
    assert "playing: no episode has ended yet to learn from" in capsys.readouterr().out


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_resume_trains_a_finished_run_longer(elsewhere, monkeypatch, capsys):
    """Its schedules follow the new total from there on, also when it is resumed again."""
    play(monkeypatch, Won)
    command = ["train", CONFIG, *TINY, "--learning-rate", "0.01", "--learning-rate-end", "0", "--run-dir", "run"]
    assert main([*command, "--total-steps", "180"]) == 0  # three updates of 60
    assert main(["train", "--resume", "run", "--total-steps", "360"]) == 0
    assert "total_steps is now 360: schedules continue at 50%" in capsys.readouterr().out
    rates = [float(row["charts/learning_rate"]) for row in rows("run")]
    assert rates == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3, 0.01 / 2, 0.01 / 3, 0.01 / 6], rel=1e-5)
    assert load_config("run/config.toml").total_steps == 360
    assert main(["train", "--resume", "run"]) == 0
    assert len(rows("run")) == 6


def test_train_the_same_command_again_resumes(elsewhere, monkeypatch, capsys):
    """As Slurm, Kubernetes and torchrun start it, in a folder that holds a run by then."""

    def fail():
        raise RunError("the plug was pulled")

    # 24 decisions an update, 24 updates
    flags = ["--num-envs", "3", "--horizon", "8", "--total-steps", "576", "--checkpoint-every", "4"]
    command = ["train", CONFIG, *TINY, *flags, "--run-dir", "run"]
    play(monkeypatch, Dice)
    with monkeypatch.context() as patch:
        during_update(patch, {11: fail})
        assert main(command) == 1
    last = Path("run/checkpoints/update-000008.safetensors")
    assert capsys.readouterr().err == f"pong: the plug was pulled; the last good checkpoint is {last}\n"
    assert Won.open == 0  # the emulators are closed
    assert main(command) == 0
    assert "resuming after update 8" in capsys.readouterr().out
    assert [int(row["update"]) for row in rows("run")] == list(range(1, 25))
    assert main([*command[:-1], "other"]) == 0  # a folder without a run starts one
    assert timeless("other") == timeless("run")
    assert saved("run/checkpoints/update-000024.safetensors") == saved("other/checkpoints/update-000024.safetensors")
    assert main(command) == 0
    assert "the run is complete" in capsys.readouterr().out
