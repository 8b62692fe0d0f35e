"""The command line: exit statuses, one-line errors that leave no trace, a run from start to score, ends, resuming."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CONFIG, ROOT, TINY, Dice, Won, contents, environment, meanwhile, play, rows, timeless

from pong import checkpoint
from pong.cli import main
from pong.config import RunError, load_config
from pong.envs import make_fleet
from pong.evaluate import Greedy, evaluate
from pong.train import load_policy

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a run that has no checkpoint yet."""
    folder = tmp_path_factory.mktemp("cli") / "begun"
    folder.mkdir()
    (folder / "config.toml").write_text("", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command of a finished training of a few updates, and its run folder."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = ["train", CONFIG, *TINY, "--total-steps", "200", "--max-frames", "600", "--run-dir", str(folder)]
    with contextlib.redirect_stdout(None):
        assert main(command) == 0
    return command, folder


# --- scripted games ---------------------------------------------------------------------------------------------------


class Drawn(Won):
    """Emulators whose games last two decisions, won and lost."""

    second = True

    def step(self, actions, active):
        self.second = not self.second
        return self.played(np.full(self.num_envs, -1 if self.second else 1), np.full(self.num_envs, self.second))


class Interrupted(Won):
    """Emulators during whose decisions number 45 and 47, counted from 1, signals arrive."""

    signals: tuple[int, ...] = ()
    decision = 0

    def step(self, actions, active):
        self.decision += 1
        if self.decision in (45, 47)[: len(self.signals)]:
            signal.raise_signal(self.signals[(self.decision - 45) // 2])
        return super().step(actions, active)


# --- errors -----------------------------------------------------------------------------------------------------------

# arguments: what the line must say. {run} is a finished run's folder, {begun} one without a checkpoint
ERRORS = {
    "": ["no command", "train, eval, play, export, import, toy"],
    "fly": ["unknown command 'fly'", "train, eval, play, export, import, toy"],
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
    "train {config} --baseline none --standardize episode": ['standardize = "episode"', 'until = "episodes"'],
    "train {config} --device tpu": ["--device", "'tpu'", "'auto', 'cpu', 'cuda'"],
    "train {config} --device cuda": ["device = 'cuda'", "--device auto or cpu"],
    "train {config} --run-dir {run}": ["{run} already holds a run"],
    "train {config} --run-dir {run}/run.json": ["{run}/run.json can't be written"],
    "train {config} --players -1": ["players = -1"],
    "train {config} --policy mlp": ['policy = "mlp" does not read what env = "Pong" shows', '"karpathy"'],
    "train {config} --env CartPole-v1": ['policy = "karpathy" does not read what env = "CartPole-v1" shows', '"mlp"'],
    "train {root}/configs/cartpole.toml --env CartPol-v1": ["env = 'CartPol-v1'"],
    "train {root}/configs/cartpole.toml --env Blackjack-v1": ["env = 'Blackjack-v1' shows Tuple", "vector"],
    "train {root}/configs/cartpole.toml --sticky 0.1": ["sticky = 0.1 is a setting of Pong", "leave it out"],
    "train {config} --hidden 10 2": ["hidden = [10, 2]", "one hidden layer"],
    "train --resume": ["--resume takes a run folder first", "pong train --resume runs/"],
    "trian": ["unknown command 'trian'", "did you mean train?"],
    "train --resume {run} --seed 2": ["{run}: seed defines the run and stays", "pong train {run}/config.toml --seed"],
    "train --resume {run} --hidden=9": ["hidden defines the run and stays"],
    "train --resume {run} --totel-steps 400": ["--totel-steps, 400; did you mean --total-steps?"],
    "train {config} --lerning-rate 1": ["--lerning-rate, 1; did you mean --learning-rate"],
    "eval {run} --epsodes 3": ["--epsodes, 3; did you mean --episodes?"],
    "train --resume {run} {config}": ["{config} (pong train --resume RUN --help)"],
    "train --resume {run} --players 0.5": ["--players"],
    "train {config} --resume {run}": ["--resume"],
    "train --resume nowhere": ["nowhere: no run is there"],
    "train --resume {root}": ["{root}: no run is there"],
    "train --resume {root}/pretrained/pong": ["this is an exported policy", "--init {root}/pretrained/pong"],
    "train --resume {run}/run.json": ["{run}/run.json: no run is there"],
    "train --resume {run}/checkpoints/update-999999.safetensors": [
        "does not exist; there is {run}/checkpoints/update-"
    ],
    "train --resume {root}/checkpoints/update-999999.safetensors": ["update-999999.safetensors: no run is there"],
    # eval
    "eval": ["RUN|CHECKPOINT"],
    "eval nowhere": ["nowhere does not exist"],
    "eval {root}": ["{root} holds no checkpoints/"],
    "eval {begun}": ["{begun} holds no checkpoints/", "train longer"],
    "eval {run}/config.toml": ["{run}/config.toml can't be read"],
    "eval {run} surplus": ["surplus"],
    "eval {run} --fly": ["--fly"],
    "eval {run} --episodes 0": ["--episodes 0", "at least 1"],
    "eval {run} --episodes -5": ["--episodes -5", "at least 1"],
    "eval {run} --episodes many": ["--episodes", "'many'"],
    "eval {run} --sticky 1.5": ["sticky = 1.5", "less than 1"],
    "eval {run} --noop-max -1": ["noop_max = -1", "greater than or equal to 0"],
    "eval {run} --seed -1": ["--seed -1", "0 or more"],
    "eval {run} --device cpu": ["--device"],  # games are played on the CPU
    "eval {run} --json nowhere/scores.json": ["--json nowhere/scores.json"],
    "eval {run} --json {root}": ["--json {root}"],
    "eval {run} --json " + 300 * "x": ["--json xxx", "can't be written: File name too long", "another name"],
    "eval {run} --json " + 300 * "x" + "/scores.json": ["--json xxx", "can't be written: File name too long"],
    "eval {run} --sampled --greedy": ["--sampled and --greedy", "give one of them"],
}


def no_games(*args, **kwargs):
    raise AssertionError("games were played before the error was found")


@pytest.mark.parametrize(("arguments", "words"), ERRORS.items(), ids=[key[:60] for key in ERRORS])
def test_bad_input_is_one_line_and_leaves_nothing(elsewhere, monkeypatch, capsys, finished, begun, arguments, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("pong.rollout.Rollout.__init__", no_games)
    _, run = finished
    names = {"root": ROOT, "config": CONFIG, "run": run, "begun": begun}
    before = contents(run, begun)

    assert main([argument.format(**names) for argument in arguments.split()]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(("pong: ", "pong toy: "))
    assert len(err.splitlines()) == 1
    assert err.endswith("\n")
    for word in words:
        assert word.format(**names) in err
    assert list(elsewhere.iterdir()) == []
    assert contents(run, begun) == before


def test_the_program_exits_with_mains_status(elsewhere):
    done = subprocess.run([sys.executable, "-m", "pong", "fly"], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "pong: unknown command 'fly'; there are train, eval, play, export, import, toy (pong --help)\n"
    )


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys, flag):
    assert main([flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("usage: pong train", "pong eval", "pong toy", "Exit status"):
        assert word in out


WORDS = {
    "train": [
        "--learning-rate",
        "--run-dir",
        "discount per decision",
        "optimizer options",
        "What the policy sees and does",
    ],
    "eval": ["--episodes", "--sampled", "--greedy", "--json"],
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


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["toy"], ["eval", ROOT / "pretrained/pong"]])
def test_output_that_nobody_reads_is_no_error(arguments):
    few = ["--emulator", "machine", "--episodes", "1"] if arguments[0] == "eval" else []
    command = [sys.executable, "-m", "pong", *arguments, *few]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


# --- a run from start to score ----------------------------------------------------------------------------------------


def test_training_leaves_a_run(finished):
    command, run = finished
    names = sorted(path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents."))
    assert names == ["checkpoints", "config.toml", "lock", "metrics.csv", "run.json"]
    assert list(run.glob("events.out.tfevents.*"))
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["command"] == ["pong", *command]

    config = load_config(run / "config.toml")  # what the file says, changed as the command says
    assert (config.name, config.num_envs, config.horizon, config.total_steps) == ("pong", 2, 30, 200)
    assert config.learning_rate == load_config(Path(CONFIG)).learning_rate

    *others, last = rows(run)
    assert [int(row["update"]) for row in (*others, last)] == list(range(1, len(others) + 2))
    assert int(others[-1]["step"]) < 200 <= int(last["step"])

    (path,) = (run / "checkpoints").iterdir()  # at the end; checkpoint_every is far away
    loaded = checkpoint.load(path)
    assert loaded.config == config
    counters = loaded.counters
    numbers = (counters.updates, counters.steps, counters.games, counters.points)
    assert numbers == tuple(int(last[key]) for key in ("update", "step", "games", "points"))


def test_a_run_is_reproducible_from_its_own_config(finished, elsewhere, capsys):
    _, run = finished
    assert main(["train", str(run / "config.toml"), "--run-dir", "again"]) == 0
    assert timeless("again") == timeless(run)


def test_checkpoints_fall_where_emulators_start_afresh(elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    command = ["train", CONFIG, *TINY, "--horizon", "10", "--checkpoint-every", "2", "--total-steps", "100"]
    assert main([*command, "--run-dir", "run"]) == 0  # five updates of 20 decisions
    paths = [Path(f"run/checkpoints/update-00000{number}.safetensors") for number in (2, 4, 5)]
    assert sorted(Path("run/checkpoints").iterdir()) == paths[1:]  # the newest two
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("saved")] == [f"saved {path}" for path in paths]


def test_evaluating_a_run_both_ways(finished, elsewhere, capsys):
    _, run = finished
    assert main(["eval", str(run), "--episodes", "3", "--seed", "7", "--json", "scores.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    about = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    assert list(about) == ["run", "update", "steps", "seed", "env", "sticky", "hold", "noop_max", "sampled", "greedy"]
    counters = checkpoint.load(run).counters
    assert (about["run"], about["update"], about["steps"]) == (str(run), counters.updates, counters.steps)
    assert (about["seed"], about["env"], about["sticky"], about["hold"]) == (7, "Pong", 0.25, 4)

    policy, loaded = load_policy(run)
    lines = []
    for way, actor in (("sampled", policy), ("greedy", Greedy(policy))):
        result = evaluate(actor, loaded.config, 3, seed=7)
        assert about[way] == {
            "n": 3,
            "mean": result.mean,
            "standard_error": result.standard_error,
            "scores": result.scores,
            "lengths": [150] * 3,  # --max-frames 600, four at a time
        }
        lines.append(
            f"{result.mean:+.2f} ± {result.standard_error:.2f} (mean ± standard error), n = 3 games, {way}, "
            f"seed 7, sticky 0.25, hold 4, update {counters.updates}"
        )
    assert out.splitlines() == lines


@pytest.mark.parametrize(("way", "other"), [("sampled", "greedy"), ("greedy", "sampled")])
def test_a_checkpoint_file_evaluates_too_in_one_way_alone(finished, elsewhere, monkeypatch, capsys, way, other):
    play(monkeypatch, Won)
    (path,) = (finished[1] / "checkpoints").iterdir()
    assert main(["eval", str(path), "--episodes", "1", f"--{way}", "--json", "scores.json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"+1.00 (one game), n = 1 games, {way}, ")  # one game has no standard error
    about = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    assert about[way] == {"n": 1, "mean": 1, "standard_error": None, "scores": [1], "lengths": [1]}
    assert other not in about


def test_the_toy_shows_itself(capsys):
    assert main(["toy", "T3"]) == 0
    assert "finite difference" in capsys.readouterr().out


# --- the end ----------------------------------------------------------------------------------------------------------


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
    play(monkeypatch, games)
    command = ["train", CONFIG, *TINY, "--horizon", "26", "--total-steps", "416", "--run-dir", "run"]
    assert main([*command, f"--stop-at-mean100={threshold}"]) == 0
    assert checkpoint.load(Path("run")).counters.updates == updates


def interrupted(monkeypatch, *signals):
    """The exit status of a training of 8 updates, 10 decisions long, that gets those signals during the fifth."""
    play(monkeypatch, Interrupted)
    monkeypatch.setattr(Interrupted, "signals", signals)
    return main(["train", CONFIG, *TINY, "--horizon", "10", "--total-steps", "160", "--run-dir", "run"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_finishes_the_update_and_saves(elsewhere, monkeypatch, capsys, hangups, number):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert interrupted(monkeypatch, number) == 130
    assert checkpoint.load(Path("run")).counters.updates == 5
    out, err = capsys.readouterr()
    assert "saved run/checkpoints/update-000005.safetensors" in out
    assert "again to stop at once" in err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert Won.open == 0  # the emulators are closed


def test_a_second_signal_stops_at_once(elsewhere, monkeypatch, capsys):
    assert interrupted(monkeypatch, signal.SIGTERM, signal.SIGINT) == 130
    assert not Path("run/checkpoints").exists()
    assert len(Path("run/metrics.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4  # what was done before
    assert capsys.readouterr().err.endswith("pong: interrupted\n")
    assert Won.open == 0


def test_a_gradient_that_is_not_finite_ends_the_run_with_1(elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda gradients: torch.tensor(torch.nan))
    assert main(["train", CONFIG, *TINY, "--run-dir", "run"]) == 1
    assert capsys.readouterr().err == (
        "pong: update 1: the gradient is not finite; lower learning_rate; there is no checkpoint yet\n"
    )
    assert not Path("run/checkpoints").exists()


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_player_that_fails_ends_the_command_with_1(elsewhere, monkeypatch, capsys, command):
    """Two players fail in their fourth rollout of 10 decisions; what was saved before is good."""
    training_command = ["train", CONFIG, *TINY, "--horizon", "10", "--checkpoint-every", "2", "--players", "2"]
    monkeypatch.setattr("pong.player.make_fleet", unplugged(Won, 35))  # and they play in threads
    assert main([*training_command, "--run-dir", "run"]) == 1
    if command == "eval":
        capsys.readouterr()
        monkeypatch.setattr("pong.player.make_fleet", unplugged(Won, 1))
        assert main(["eval", "run"]) == 1
    err = capsys.readouterr().err
    good = "; the last good checkpoint is run/checkpoints/update-000002.safetensors" if command == "train" else ""
    assert err == f"pong: the plug was pulled{good}\n"
    assert checkpoint.load(Path("run")).counters.updates == 2
    assert Won.open == 0  # the emulators are closed


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


def test_under_nohup_a_closed_terminal_ends_nothing(elsewhere, monkeypatch, capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert interrupted(monkeypatch, signal.SIGHUP) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoint.load(Path("run")).counters.updates == 8


@pytest.mark.parametrize(("seconds", "saves"), [("1e-9", 9), ("0", 3), ("3600", 3)])
def test_checkpoints_fall_by_the_clock_as_well(elsewhere, monkeypatch, capsys, seconds, saves):
    play(monkeypatch, Won)
    flags = [*TINY, "--total-steps", "540", "--checkpoint-every", "3", "--checkpoint-seconds", seconds]
    assert main(["train", CONFIG, *flags, "--run-dir", "run"]) == 0  # nine updates
    assert capsys.readouterr().out.count("saved run/checkpoints/update-") == saves


def test_what_cannot_be_kept_is_saved_at_its_boundaries_alone(elsewhere, capsys):
    flags = ["--total-steps", "2000", "--checkpoint-every", "3", "--checkpoint-seconds", "1e-9", "--num-envs", "4"]
    assert main(["train", str(ROOT / "configs/cartpole.toml"), *flags, "--run-dir", "run"]) == 0
    updates = len(rows("run"))
    assert capsys.readouterr().out.count("saved run/checkpoints/update-") == -(-updates // 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_training_saves_and_says_where(elsewhere, hangups, number):
    run = elsewhere / "run"
    # rollouts so long that the signal comes while the players play
    with training(run, "--players", "2", "--horizon", "150", "--max-frames", "600") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (path,) = (run / "checkpoints").iterdir()
    assert f"saved {path}" in out
    assert checkpoint.load(run).counters.steps == int(rows(run)[-1]["step"])  # nothing that was played is lost


# --- resuming ---------------------------------------------------------------------------------------------------------

# 24 decisions an update, about 14 points and 7 games; 24 updates
DICE = ["--num-envs", "3", "--horizon", "8", "--total-steps", "576", "--checkpoint-every", "4"]
# 200 decisions an update, 4 updates; all that can be random is
PONG = ["--horizon", "100", "--total-steps", "800", "--checkpoint-every", "2", "--hold", "2-4", "--noop-max", "30"]


def unplugged(games, decision):
    """Those games, but the run comes to grief in that decision, counted from 1."""

    def fail():
        raise RunError("the plug was pulled")

    return meanwhile(games, {decision: fail})


@pytest.mark.parametrize(
    ("games", "flags", "decision", "done", "newest"),  # updates that were done, and the newest checkpoint's
    [
        (Dice, [*DICE, "--baseline", "none"], 10 * 8 + 3, 10, 8),
        (Dice, [*DICE, "--baseline", "network"], 10 * 8 + 3, 10, 8),
        (Dice, DICE, 8 * 8 + 1, 8, 8),
        (make_fleet, [*PONG, "--max-frames", "500"], 3 * 100 + 50, 3, 2),
    ],
)
def test_a_run_that_failed_ends_as_if_it_had_not(elsewhere, monkeypatch, capsys, games, flags, decision, done, newest):
    command = ["train", CONFIG, *TINY, *flags, "--run-dir"]
    play(monkeypatch, games)
    assert main([*command, "whole"]) == 0
    play(monkeypatch, unplugged(games, decision))
    assert main([*command, "run"]) == 1
    before = rows("run")
    assert len(before) == done
    assert checkpoint.load(Path("run")).counters.updates == newest

    play(monkeypatch, games)
    assert main(["train", "--resume", "run"]) == 0
    assert timeless("run") == timeless("whole")
    assert (
        rows("run")[:newest] == before[:newest]
    )  # what was written before the checkpoint is as it was, clocks and all
    resumed, whole = checkpoint.load(Path("run")), checkpoint.load(Path("whole"))
    assert resumed.counters == whole.counters
    assert resumed.counters.games > 0
    for tensors, expected in ((resumed.policy, whole.policy), *zip(*states(resumed, whole), strict=True)):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def states(*loaded):
    """The optimiser's state of each parameter, in order."""
    return [[one.optimizer[number] for number in sorted(one.optimizer)] for one in loaded]


def test_an_interrupted_run_goes_on_where_it_was(elsewhere, monkeypatch, capsys):
    interrupted(monkeypatch, signal.SIGINT)  # in the fifth of 8 updates
    about = [Path("run", name).read_bytes() for name in ("config.toml", "run.json")]
    capsys.readouterr()
    play(monkeypatch, Won)
    assert main(["train", "--resume", "run"]) == 0
    assert capsys.readouterr().out.startswith("run: pong, seed 1; resuming after update 5; games restart")
    counts = [[int(row[key]) for key in ("update", "step", "games", "points")] for row in rows("run")]
    assert counts == [[number, 20 * number, 20 * number, 20 * number] for number in range(1, 9)]
    assert {row["charts/episodic_return_mean100"] for row in rows("run")[:4]} == {""}
    assert {row["charts/episodic_return_mean100"] for row in rows("run")[4:]} == {"1"}  # from the hundredth game on
    assert [Path("run", name).read_bytes() for name in ("config.toml", "run.json")] == about


def test_a_finished_run_stays_as_it_is(elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    assert main(["train", CONFIG, *TINY, "--total-steps", "180", "--run-dir", "run"]) == 0
    kept = ("metrics.csv", "config.toml", "run.json", "checkpoints/update-000003.safetensors")
    before = [Path("run", name).read_bytes() for name in kept]
    assert main(["train", "--resume", "run"]) == 0
    assert [Path("run", name).read_bytes() for name in kept] == before


def test_a_finished_run_can_be_trained_longer(elsewhere, monkeypatch, capsys):
    """Its schedules go by the new total from there on, and so they do for whoever takes it up next."""
    play(monkeypatch, Won)
    command = ["train", CONFIG, *TINY, "--learning-rate", "0.01", "--learning-rate-end", "0", "--run-dir", "run"]
    assert main([*command, "--total-steps", "180"]) == 0  # three updates of 60
    assert main(["train", "--resume", "run", "--total-steps", "360"]) == 0
    said = capsys.readouterr().out
    assert "total_steps is now 360: schedules continue at 50% of the run, not 100%" in said
    rates = [float(row["charts/learning_rate"]) for row in rows("run")]
    assert rates == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3, 0.01 / 2, 0.01 / 3, 0.01 / 6], rel=1e-5)
    config = load_config("run/config.toml")
    assert config.total_steps == 360
    assert config.replace(total_steps=180) == checkpoint.load("run").config.replace(total_steps=180)
    assert main(["train", "--resume", "run"]) == 0
    assert len(rows("run")) == 6
    assert "total_steps" not in capsys.readouterr().out


def test_a_checkpoint_is_gone_on_from_in_its_own_folder(elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    assert main(["train", CONFIG, *TINY, "--total-steps", "180", "--run-dir", "run"]) == 0
    monkeypatch.chdir("run/checkpoints")
    assert main(["train", "--resume", "update-000003.safetensors", "--total-steps", "240"]) == 0
    assert checkpoint.load(next(Path("runs").iterdir())).counters.updates == 4


def test_what_a_run_left_in_results_is_no_run(elsewhere, capsys):
    """config.toml, run.json and curves alone: training would begin anew in there."""
    shutil.copytree(ROOT / "results/pong/s11", "kept")
    before = contents(Path("kept"))
    assert main(["train", "--resume", "kept"]) == 2
    assert capsys.readouterr().err.endswith("has no checkpoints; begin a new one: pong train kept/config.toml\n")
    assert contents(Path("kept")) == before


def test_a_policy_of_another_shape_to_begin_with_is_named_with_what_differs(finished, elsewhere, capsys):
    _, run = finished
    flags = ["--hidden", "5", "--actions", "3", "--init", str(run), "--run-dir", "other"]
    assert main(["train", CONFIG, *flags]) == 2
    differs = "another network: hidden is 4 there and 5 here; actions is 2 there and 3 here"
    assert capsys.readouterr().err == f"pong: train: --init {run}: {differs}\n"
    assert not Path("other").exists()


ODD = b'r\xff: 12:30 %d "x"'  # as a name of a folder: no UTF-8, an address's colon, a pattern, quotes, blanks


def test_a_runs_name_may_be_anything(elsewhere, capfd):
    run, tiny = os.fsdecode(ODD), [*TINY, "--max-frames", "240", "--checkpoint-every", "1"]
    assert main(["train", CONFIG, *tiny, "--total-steps", "60", "--run-dir", run]) == 0
    assert main(["train", "--resume", run, "--total-steps", "200"]) == 0
    assert main(["eval", run, "--episodes", "1", "--json", f"{run}/12:30.json"]) == 0
    assert main(["play", run]) == 0
    assert main(["play", run, "--file", "12:30 %d.gif"]) == 0
    assert main(["play", run, "--file=-y.gif"]) == 0
    assert main(["export", run, f"{run}-2", "--episodes", "2"]) == 0
    assert main(["train", CONFIG, *tiny, "--total-steps", "60", "--init", f"{run}-2", "--run-dir", "again"]) == 0
    films = {"-y.gif", "12:30 %d.gif", 'r?: 12:30 %d "x"-update2-seed0.mp4'}
    assert {os.fsdecode(name) for name in os.listdir()} == {run, f"{run}-2", "again", *films}  # noqa: PTH208
    assert all(Path(film).stat().st_size > 10_000 for film in films)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii"])
@pytest.mark.parametrize(
    "command",
    [["toy", "T3"], ["train", "--help"], ["train", CONFIG, *TINY, "--total-steps", "60"], ["play", "pretrained"]],
)
def test_what_the_output_cannot_show_ends_nothing(elsewhere, encoding, command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    flags = ["--max-frames", "240"] if command[0] == "play" or "60" in command else []
    done = subprocess.run([sys.executable, "-m", "pong", *command, *flags], env=environment, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.decode(encoding)


@pytest.mark.parametrize("arguments", [["train", CONFIG, *TINY, "--total-steps", "60"], ["toy", "T3"]])
def test_the_program_runs_in_a_thread_as_well(elsewhere, monkeypatch, arguments):
    play(monkeypatch, Won)
    status = []
    thread = threading.Thread(target=lambda: status.append(main(arguments)))
    thread.start()
    thread.join()
    assert status == [0]


def test_ctrl_c_is_heard_while_nothing_ends(elsewhere, monkeypatch, capsys):
    """An environment whose games never end: progress is told, and whoever has had enough need not ask twice."""
    now = [0.0]
    monkeypatch.setattr("pong.tracking.time.monotonic", lambda: now[0])

    class Endless(Won):
        decisions = 0

        def step(self, actions, active):
            now[0] += 1
            Endless.decisions += 1
            if Endless.decisions == 100:
                signal.raise_signal(signal.SIGINT)
            return self.played(np.zeros(self.num_envs), np.zeros(self.num_envs, bool))

    play(monkeypatch, Endless)
    assert main(["train", CONFIG, *TINY, "--horizon", "10", "--total-steps", "160", "--run-dir", "run"]) == 130
    assert Endless.decisions == 100
    lines = [line for line in capsys.readouterr().out.splitlines() if "no episode has ended yet" in line]
    assert lines[0] == "   0.3 min  0 steps  playing: no episode has ended yet to learn from"
    assert len(lines) == 5  # every twenty seconds
    assert not Path("run/checkpoints").exists()


def test_a_run_that_reached_its_goal_stays_as_it_is(elsewhere, monkeypatch, capsys):
    play(monkeypatch, Won)
    command = ["train", CONFIG, *TINY, "--horizon", "26", "--total-steps", "416", "--stop-at-mean100", "1"]
    assert main([*command, "--run-dir", "run"]) == 0  # after two updates, see above
    before = rows("run")
    assert main(["train", "--resume", "run"]) == 0
    assert rows("run") == before
    assert checkpoint.load(Path("run")).counters.updates == 2


def test_a_run_goes_on_with_its_own_config_alone(elsewhere, monkeypatch, capsys):
    interrupted(monkeypatch, signal.SIGINT)
    config = Path("run/config.toml")
    config.write_text(config.read_text(encoding="utf-8").replace("hidden = 4", "hidden = 5"), encoding="utf-8")
    before = contents(Path("run"))
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pong: run: hidden = 5, but the checkpoint was trained with 4; ")
    assert len(err.splitlines()) == 1
    assert contents(Path("run")) == before
    assert Won.open == 0


def test_torchruns_restart_takes_the_run_up(elsewhere, monkeypatch, capsys):
    """It runs the same command again, in a folder that holds a run by then."""
    command = ["train", CONFIG, *TINY, *DICE, "--run-dir", "run"]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    play(monkeypatch, unplugged(Dice, 83))
    assert main(command) == 1  # in update 11
    play(monkeypatch, Dice)
    assert main(command) == 2  # nobody restarts this one
    assert len(rows("run")) == 10

    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    capsys.readouterr()
    assert main(command) == 0
    assert "resuming after update 8; games restart\n" in capsys.readouterr().out
    assert [int(row["update"]) for row in rows("run")] == list(range(1, 25))
    assert main([*command[:-1], "other"]) == 0  # a folder without a run begins one
    assert timeless("other") == timeless("run")
