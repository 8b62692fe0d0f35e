"""The command line: exit statuses, errors of one line that leave no trace, a run from start to score, and its ends."""

import contextlib
import csv
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pong import checkpoint
from pong.cli import main
from pong.config import Config, load_config
from pong.envs import make_envs
from pong.evaluate import Evaluation
from pong.frames import PIXELS
from pong.rollout import Episode

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "pong.toml")
TINY = ["--num-envs", "2", "--horizon", "30", "--hidden", "4", "--emulator-threads", "1", "--device", "cpu"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command of a finished training of a few updates, and its run folder."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = ["train", CONFIG, *TINY, "--total-steps", "200", "--max-frames", "600", "--run-dir", str(folder)]
    with contextlib.redirect_stdout(None):
        assert main(command) == 0
    return command, folder


# --- errors -----------------------------------------------------------------------------------------------------------

# arguments: what the line must say. {run} is a finished run's folder
ERRORS = {
    "": ["no command", "train, eval, toy"],
    "fly": ["unknown command 'fly'", "train, eval, toy"],
    "--fly": ["unknown command '--fly'"],
    "toy T99": ["unknown example 'T99'", "T1"],
    # train
    "train": ["give the config file first", "pong train configs/pong.toml"],
    "train --seed 3": ["give the config file first, not '--seed'"],
    "train nowhere.toml": ["config file nowhere.toml does not exist"],
    "train {root}": ["can't be read"],
    "train {config} --fly 3": ["--fly"],
    "train {config} surplus": ["surplus"],
    "train {config} --seed": ["--seed"],
    "train {config} --seed three": ["--seed", "'three'"],
    "train {config} --seed 1.5": ["--seed", "'1.5'"],
    "train {config} --seed -1": ["seed = -1", "greater than or equal to 0"],
    "train {config} --seed 100000000000000000000": ["seed = 100000000000000000000", "less than"],
    "train {config} --gamma 1.5": ["gamma = 1.5", "less than or equal to 1"],
    "train {config} --gamma nan": ["gamma = nan"],
    "train {config} --learning-rate inf": ["learning_rate = inf"],
    "train {config} --num-envs 0": ["num_envs = 0"],
    "train {config} --total-steps 0": ["total_steps = 0"],
    "train {config} --hold 0": ["hold = 0", "greater than or equal to 1"],
    "train {config} --hold 2-5": ["--hold", "2-5", "2-4"],
    "train {config} --until never": ["--until", "'never'", "'steps', 'episodes'"],
    "train {config} --standardize episode": ['standardize = "episode"', 'until = "episodes"'],
    "train {config} --device tpu": ["--device", "'tpu'", "'auto', 'cpu', 'cuda'"],
    "train {config} --device cuda": ["device = 'cuda'", "--device auto or cpu"],
    "train {config} --run-dir {run}": ["{run} already holds a run"],
    "train {config} --run-dir {run}/run.json": ["{run}/run.json can't be written"],
    # eval
    "eval": ["RUN|CHECKPOINT"],
    "eval nowhere": ["nowhere does not exist"],
    "eval {root}": ["{root} holds no checkpoints/"],
    "eval {run}/config.toml": ["{run}/config.toml can't be read"],
    "eval {run} surplus": ["surplus"],
    "eval {run} --fly": ["--fly"],
    "eval {run} --episodes 0": ["--episodes 0", "at least 1"],
    "eval {run} --episodes -5": ["--episodes -5", "at least 1"],
    "eval {run} --episodes many": ["--episodes", "'many'"],
    "eval {run} --seed -1": ["--seed -1", "0 or more"],
    "eval {run} --device tpu": ["device", "'tpu'", "'auto', 'cpu'"],
    "eval {run} --device cuda": ["device = 'cuda'", "--device auto or cpu"],
    "eval {run} --json nowhere/scores.json": ["--json nowhere/scores.json"],
    "eval {run} --json {root}": ["--json {root}"],
}


def no_games(*args, **kwargs):
    raise AssertionError("games were played before the error was found")


@pytest.mark.parametrize(("arguments", "words"), ERRORS.items(), ids=ERRORS)
def test_bad_input_is_one_line_and_leaves_nothing(elsewhere, monkeypatch, capsys, finished, arguments, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("pong.train.make_envs", no_games)
    monkeypatch.setattr("pong.evaluate.make_envs", no_games)
    _, run = finished
    names = {"root": ROOT, "config": CONFIG, "run": run}
    before = sorted(run.rglob("*"))

    assert main([argument.format(**names) for argument in arguments.split()]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(("pong: ", "pong toy: "))
    assert len(err.splitlines()) == 1
    assert err.endswith("\n")
    for word in words:
        assert word.format(**names) in err
    assert list(elsewhere.iterdir()) == []
    assert sorted(run.rglob("*")) == before


def test_the_program_exits_with_mains_status(elsewhere):
    done = subprocess.run([sys.executable, "-m", "pong", "fly"], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pong: unknown command 'fly'; the commands are train, eval, toy (pong --help)\n"


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, flag):
    assert main([flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("usage: pong train", "pong eval", "pong toy", "Exit status"):
        assert word in out


WORDS = {
    "train": ["--learning-rate", "--run-dir", "discount per decision"],
    "eval": ["--episodes", "--greedy", "--json"],
    "toy": ["T1", "T3", "T10"],
}


@pytest.mark.parametrize(("command", "words"), WORDS.items())
def test_help_of_a_command(elsewhere, capsys, command, words):
    try:
        status = main([command, "--help"])
    except SystemExit as exit_:  # as argument parsers end their help
        status = exit_.code
    assert not status
    out, err = capsys.readouterr()
    assert err == ""
    for word in words:
        assert word in out
    assert list(elsewhere.iterdir()) == []


# --- a run from start to score ----------------------------------------------------------------------------------------


def test_training_leaves_a_run(finished):
    command, run = finished
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents."))
    assert names == ["checkpoints", "config.toml", "metrics.csv", "run.json"]
    assert list(run.glob("events.out.tfevents.*"))
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["command"] == ["pong", *command]

    config = load_config(run / "config.toml")  # what the file says, changed as the command says
    assert (config.name, config.num_envs, config.horizon, config.total_steps) == ("pong", 2, 30, 200)
    assert config.learning_rate == load_config(Path(CONFIG)).learning_rate

    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == list(range(1, len(rows) + 1))
    assert int(rows[-2]["step"]) < 200 <= int(rows[-1]["step"])

    (path,) = (run / "checkpoints").iterdir()  # at the end; reseed_every is far away
    loaded = checkpoint.load(path)
    assert loaded.config == config
    last = rows[-1]
    assert loaded.counters == checkpoint.Counters(*(int(last[key]) for key in ("update", "step", "games", "points")))


def test_a_run_is_reproducible_from_its_own_config(finished, elsewhere, capsys):
    _, run = finished
    assert main(["train", str(run / "config.toml"), "--run-dir", "again"]) == 0
    columns = ("step", "games", "points", "losses/policy_loss", "losses/grad_norm", "losses/approx_kl")
    tables = []
    for folder in (run, Path("again")):
        with (folder / "metrics.csv").open(encoding="utf-8") as file:
            tables.append([[row[column] for column in columns] for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


def test_checkpoints_fall_where_emulators_start_afresh(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr("pong.train.make_envs", Won)
    command = ["train", CONFIG, *TINY, "--horizon", "10", "--reseed-every", "2", "--total-steps", "100"]
    assert main([*command, "--run-dir", "run"]) == 0  # five updates of 20 decisions
    saved = sorted(path.name for path in Path("run/checkpoints").iterdir())
    assert saved == [f"update-00000{number}.safetensors" for number in (2, 4, 5)]
    assert f"saved {Path('run/checkpoints/update-000005.safetensors')}" in capsys.readouterr().out


def test_evaluating_a_run(finished, elsewhere, capsys):
    _, run = finished
    assert main(["eval", str(run), "--episodes", "3", "--seed", "7", "--json", "scores.json", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    about = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    result = Evaluation([Episode(0, score, 1) for score in about["scores"]])
    assert len(about["scores"]) == len(about["lengths"]) == about["n"] == 3
    assert (about["mean"], about["standard_error"]) == (result.mean, result.standard_error)
    assert about["lengths"] == [150] * 3  # --max-frames 600, four at a time
    assert (about["run"], about["seed"], about["greedy"], about["hold"], about["sticky"]) == (
        str(run),
        7,
        False,
        4,
        0.25,
    )
    assert about["update"] == checkpoint.load(run).counters.updates
    assert out.startswith(
        f"{result.mean:+.2f} ± {result.standard_error:.2f} (mean ± standard error), n = 3 games, sampled"
    )


def test_a_checkpoint_file_evaluates_too(finished, elsewhere, monkeypatch, capsys):
    monkeypatch.setattr("pong.evaluate.make_envs", Won)
    (path,) = (finished[1] / "checkpoints").iterdir()
    assert main(["eval", str(path), "--episodes", "1", "--greedy", "--json", "scores.json"]) == 0
    out = capsys.readouterr().out
    assert "n = 1 games, greedy" in out
    assert "nan" not in out  # one game has no standard error
    assert json.loads(Path("scores.json").read_text(encoding="utf-8"))["standard_error"] is None


def test_the_toy_shows_itself(capsys):
    assert main(["toy", "T3"]) == 0
    assert "finite difference" in capsys.readouterr().out


# --- the end ----------------------------------------------------------------------------------------------------------


class Won:
    """Emulators whose games all last one decision and are won by one point."""

    open = 0

    def __init__(self, config):
        self.num_envs = config.num_envs
        Won.open += 1

    def close(self):
        Won.open -= 1

    def reset(self, *, seed=None, options=None):
        return np.zeros((self.num_envs, PIXELS), np.int8), {}

    def step(self, actions):
        won, ends = np.ones(self.num_envs, np.float32), np.ones(self.num_envs, bool)
        return self.reset()[0], won, ends, ~ends, {"hold": np.full(self.num_envs, 4)}


class Drawn(Won):
    """Emulators whose games last two decisions, won and lost."""

    def __init__(self, config):
        super().__init__(config)
        self._second = True

    def step(self, actions):
        observations, won, ends, never, infos = super().step(actions)
        self._second = not self._second
        return observations, -won if self._second else won, ends & self._second, never, infos


# 52 decisions an update, 8 updates: 52 games each or 26
@pytest.mark.parametrize(
    ("games", "threshold", "updates"),
    [
        (Won, "1", 2),  # the hundredth game is in the second update
        (Won, "1.01", 8),  # never
        (Drawn, "0", 4),  # a mean of exactly 0 is one, too
        (Drawn, "-0.5", 4),
        (Drawn, "0.01", 8),
    ],
)
def test_stopping_at_a_mean_of_100_games(elsewhere, monkeypatch, capsys, games, threshold, updates):
    monkeypatch.setattr("pong.train.make_envs", games)
    command = ["train", CONFIG, *TINY, "--horizon", "26", "--total-steps", "416", "--run-dir", "run"]
    assert main([*command, f"--stop-at-mean100={threshold}"]) == 0
    assert checkpoint.load(Path("run")).counters.updates == updates


class Interrupted(Won):
    """Emulators during whose decisions number 45 and 47, counted from 1, signals arrive."""

    signals: tuple[int, ...] = ()
    decision = 0

    def step(self, actions):
        self.decision += 1
        if self.decision in (45, 47)[: len(self.signals)]:
            signal.raise_signal(self.signals[(self.decision - 45) // 2])
        return super().step(actions)


def interrupted(monkeypatch, *signals):
    """The exit status of a training of 1,000 updates, 10 decisions long, that gets those signals during the fifth."""
    monkeypatch.setattr("pong.train.make_envs", Interrupted)
    monkeypatch.setattr(Interrupted, "signals", signals)
    return main(["train", CONFIG, *TINY, "--horizon", "10", "--total-steps", "20000", "--run-dir", "run"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_update_and_saves(elsewhere, monkeypatch, capsys, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert interrupted(monkeypatch, number) == 130
    assert checkpoint.load(Path("run")).counters.updates == 5
    out, err = capsys.readouterr()
    assert "saved run/checkpoints/update-000005.safetensors" in out
    assert "once more to stop at once" in err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert Won.open == 0  # the emulators are closed


def test_a_second_signal_stops_at_once(elsewhere, monkeypatch, capsys):
    assert interrupted(monkeypatch, signal.SIGTERM, signal.SIGINT) == 130
    assert not Path("run/checkpoints").exists()
    assert len(Path("run/metrics.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4  # what was done before
    assert capsys.readouterr().err.endswith("pong: interrupted\n")
    assert Won.open == 0


def test_a_gradient_that_is_not_finite_ends_the_run_with_1(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr("pong.train.make_envs", Won)
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda gradients: torch.tensor(torch.nan))
    assert main(["train", CONFIG, *TINY, "--run-dir", "run"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("pong: update 1: ")
    assert len(err.splitlines()) == 1


def signal_state():
    """This process's group, its answer to Ctrl-C, and the signal it gets when its parent dies (0: none)."""
    parent_death = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(parent_death))  # PR_GET_PDEATHSIG
    return os.getpgrp(), signal.getsignal(signal.SIGINT), parent_death.value


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_emulators_in_processes_leave_the_runs_own_process_alone():
    """A training must outlive its shell under nohup; gymnasium makes one emulator here, to look at its spaces."""
    before = signal_state()
    make_envs(Config(hold="2-4", num_envs=1)).close()
    assert signal_state() == before


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def training(folder, *flags):
    """A training in a process group of its own, that has finished at least one update."""
    command = [sys.executable, "-m", "pong", "train", CONFIG, *TINY, "--run-dir", str(folder), *flags]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        metrics = folder / "metrics.csv"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and len(metrics.read_text(encoding="utf-8").splitlines()) > 1):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


ENDS = [("4", signal.SIGINT), ("2-4", signal.SIGINT), ("2-4", signal.SIGTERM)]


@pytest.mark.parametrize(("hold", "number"), ENDS)
def test_an_interrupted_training_saves_and_says_where(elsewhere, hold, number):
    run = elsewhere / "run"
    with training(run, "--hold", hold) as process:
        os.killpg(process.pid, number)  # the whole group, as Ctrl-C in a terminal or a batch system does
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (path,) = (run / "checkpoints").iterdir()
    assert f"saved {path}" in out
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert checkpoint.load(run).counters.steps == int(rows[-1]["step"])  # nothing that was played is lost
