"""Every fault of docs/reliability.md: an interrupted run ends like an uninterrupted one, bit for bit.

``PONG_STOPS`` sets the number of stops of each recipe: 5 by default, 100 with ``make torture``.
"""

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import pkgutil
import re
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from unittest import mock

import gymnasium
import numpy as np
import pytest
import torch
from ale_py.env import AtariEnv
from small_runs import (
    CONFIG,
    ROOT,
    SMALL,
    TINY,
    Dice,
    contents,
    curves,
    during_update,
    play,
    pong,
    rows,
    saved,
    timeless,
    wait_until,
)
from tensorboard.compat.proto.summary_pb2 import Summary
from warm import Warm

from pong import checkpoint
from pong.cli import main
from pong.config import load_config
from pong.evaluate import Evaluation
from pong.rollout import Episode
from pong.run import TrainRequest, train

pytestmark = pytest.mark.usefixtures("compiled")

STOPS = int(os.environ.get("PONG_STOPS", "5"))
EARLY = max(STOPS // 10, 1)  # kills while the run starts, and as many while it resumes; the others during training
TRAINING = STOPS - 2 * EARLY
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONV = ["--channels", "2", "3", "--baseline-hidden", "4"]
RECIPES = {  # flags; decisions of an update; more updates than one stop gets through
    # 2 games of about 100 decisions an update; 2 evaluation games at a checkpoint
    "karpathy": (["--num-envs", "2", "--checkpoint-every", "5", "--eval-episodes", "2"], 200, 7),
    # 3 × 20 decisions an update, or more until a point has ended
    "pong": (["--num-envs", "3", "--horizon", "20", "--checkpoint-every", "4"], 160, 25),
    "pong_conv_plain": (["--num-envs", "3", "--horizon", "10", "--checkpoint-every", "3", *CONV], 90, 8),
}
MINUTE = 60.0


def last_row(metrics, old_inode):
    """The number of the last whole row of a metrics.csv; 0 while it is the file of the start before."""
    if not metrics.exists() or metrics.stat().st_ino == old_inode:
        return 0
    lines = metrics.read_bytes().split(b"\n")[:-1]
    number = lines[-1].split(b",")[0] if lines else b""
    return int(number) if number.isdigit() else 0


def start_and_stop(run, start, kind, rng, log):
    """Start or resume the run with one, two or three players, and stop it in some way."""
    metrics = run / "metrics.csv"
    inode = metrics.stat().st_ino if metrics.exists() else None
    done = max((int(path.stem[7:]) for path in (run / "checkpoints").glob("update-*.safetensors")), default=0)
    resumes = (run / "config.toml").exists()
    arguments = [*(["train", "--resume", run] if resumes else start), "--players", rng.integers(1, 4)]
    if kind == "starting":
        with log.open("w") as out:
            process = pong(*arguments, stdout=out, stderr=out)
    else:
        process = Warm(*arguments, output=log, pieces=rng.random() < 0.3)
    number = signal.SIGKILL
    try:
        if kind == "starting":
            time.sleep(rng.uniform(0, 1.5))
        elif kind == "resuming":
            wait_until(lambda: log.stat().st_size, process, "first line")
            time.sleep(rng.uniform(0, 0.2))
        else:
            goal = done + int(rng.integers(1, 5))
            wait_until(lambda: last_row(metrics, inode) >= goal, process, f"update {goal}")
            time.sleep(rng.uniform(0, 0.05))
            number = rng.choice(SIGNALS)
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(number)
        status = process.wait(MINUTE)
    output = log.read_text()
    assert "Traceback" not in output
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    if resumes and output:
        how = f"resuming after update {done}\n" if done else "no checkpoint yet: starting from the beginning\n"
        assert how in output


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("recipe", RECIPES)
def test_train_stopping_at_any_moment_changes_nothing(tmp_path, recipe):
    flags, steps, updates = RECIPES[recipe]
    start = ["train", ROOT / f"configs/{recipe}.toml", *SMALL, "--max-frames", 300, *flags]
    start += ["--total-steps", steps * updates * (TRAINING + 1), "--run-dir"]
    run, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log"
    rng = np.random.default_rng(list(recipe.encode()))
    for kind in rng.permutation(["starting"] * EARLY + ["resuming"] * EARLY + ["training"] * TRAINING):
        start_and_stop(run, [*start, run], kind, rng, log)
    assert Warm("train", "--resume", run, output=log).wait(20 * MINUTE) == 0, log.read_text()
    assert Warm(*start, whole, output=log).wait(20 * MINUTE) == 0, log.read_text()
    assert_same(run, whole)
    assert len(rows(run)) > 2 * TRAINING
    assert list(run.glob("**/*.tmp")) == []
    assert len(list(run.glob("events.*"))) > TRAINING  # one for each start


def assert_same(run, whole):
    """The same curves without a gap or a doubled row, and the same checkpoints with all they hold."""
    run, whole = Path(run), Path(whole)
    assert timeless(run) == timeless(whole)
    assert [int(row["update"]) for row in rows(run)] == list(range(1, len(rows(run)) + 1))
    assert curves(run) == curves(whole)
    assert [step for step, _ in curves(run)["losses/entropy"]] == [int(row["step"]) for row in rows(run)]
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == names
    assert len(names) >= 2
    for name in names:
        assert checkpoint_content(run / "checkpoints" / name) == checkpoint_content(whole / "checkpoints" / name)


def checkpoint_content(path):
    """All that a checkpoint holds except the number of players."""
    texts, tensors = saved(path)
    about = json.loads(texts["pong"])
    del about["config"]["players"]
    return about, tensors


# --- runs of scripted games, in this process --------------------------------------------------------------------------

# 20 decisions an update, 8 updates, a checkpoint after every other
DICE = ["train", CONFIG, *TINY, "--horizon", "10", "--checkpoint-every", "2", "--total-steps", "160", "--run-dir"]
EVALUATED = [*DICE[:-1], "--eval-episodes", "2", "--run-dir"]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and dice instead of Pong."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch, Dice)
    monkeypatch.setattr("pong.tracking.game_summary", lambda *_: Summary())
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(None):
        play(patch, Dice)
        assert main([*DICE, str(folder)]) == 0
    return folder


def name(number):
    return f"update-{number:06d}.safetensors"


def newest(run="run"):
    return [path.name for path in checkpoint.checkpoints(Path(run, "checkpoints"))]


def resume(run="run"):
    return main(["train", "--resume", str(run)])


def one_line(capture, *parts):
    """The standard error is one line with these parts."""
    err = capture.readouterr().err
    assert err.startswith("pong: ")
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


def full_disk(path_part):
    """Path.open, but making a file whose path holds that part fails."""
    opened = Path.open

    def open_or_fail(path, mode="r", **settings):
        if mode[0] in "wxa" and path_part in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, **settings)

    return mock.patch.object(Path, "open", open_or_fail)


def scripted(*means):
    """Evaluations with those results, in order."""
    results = iter(means)
    return lambda *_, **__: Evaluation([Episode(0, mean + sign, 10) for mean in [next(results)] for sign in (-1, 1)])


def from_update(number, replacement, original):
    """A function that is called once an update, replaced from that update on."""
    calls = itertools.count(1)
    return lambda *args, **kwargs: (original if next(calls) < number else replacement)(*args, **kwargs)


# --- kills during a save ----------------------------------------------------------------------------------------------


def train_until(call, monkeypatch):
    """Train in run/, and die before that file system call after the first checkpoint, counted from 0."""
    calls = itertools.count()

    def dying(function):
        def do(*arguments, **settings):
            if Path("run/checkpoints", name(2)).exists() and next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **settings)

        return do

    for function in ("fsync", "replace"):
        monkeypatch.setattr(os, function, dying(getattr(os, function)))
    with Path("log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        main([*EVALUATED, "run"])


@pytest.mark.parametrize("call", range(11))
def test_train_kill_during_save(elsewhere, monkeypatch, capsys, call):
    """Calls: sync of the first save's folder; of both curves; then of a file, its renaming, sync of the folder, for the
    best checkpoint and for update 4's; sync of both curves for the save after that."""
    monkeypatch.setattr("pong.run.evaluate", scripted(2, 4, 6, 8))
    process = multiprocessing.get_context("fork").Process(target=train_until, args=(call, monkeypatch))
    process.start()
    process.join(MINUTE)
    assert process.exitcode == -signal.SIGKILL, Path("log").read_text()
    done = 2 if call < 8 else 4
    assert checkpoint.load("run").counters.updates == done  # whole: its checksum is right
    assert checkpoint.load(f"run/checkpoints/{name(2)}").counters.updates == 2
    assert checkpoint.load("run/checkpoints/best.safetensors").counters.best >= done
    monkeypatch.setattr("pong.run.evaluate", scripted(*range(done + 2, 9, 2)))
    assert resume() == 0
    assert f"resuming after update {done}; games restart" in capsys.readouterr().out
    monkeypatch.setattr("pong.run.evaluate", scripted(2, 4, 6, 8))
    assert main([*EVALUATED, "whole"]) == 0
    assert_same("run", "whole")


# --- the disk and the output ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["lock", "config.tmp", "metrics.tmp"])
def test_train_full_disk_at_the_start(elsewhere, capsys, file):
    with full_disk(f"run/{file}"):
        assert main([*DICE, "run"]) == 2
    one_line(capsys, "run folder run can't be written: No space left on device; free some space or choose another")
    assert Dice.open == 0
    assert (main([*DICE, "run"]) if file != "metrics.tmp" else resume()) == 0  # once there is space


FILES = ("metrics.csv", "metrics.tmp", "config.tmp", "checkpoints/update-000010.tmp")
LINKS = {**dict.fromkeys(FILES, 0), "lock": 2, "checkpoints": 2}  # exit statuses


@pytest.mark.parametrize(("name", "status"), LINKS.items())
def test_resume_leaves_the_targets_of_links(elsewhere, name, status):
    """As in a stranger's run folder."""
    assert main([*DICE, "run"]) == 0
    Path("target").write_bytes(precious := b"update,minutes\n")  # it may be a metrics.csv
    if Path("run", name).exists():
        Path("run", name).rename("before")
    Path("run", name).symlink_to(Path("target").absolute())
    assert main(["train", "--resume", "run", "--total-steps", "200"]) == status
    assert Path("target").read_bytes() == precious


@pytest.mark.parametrize("curve", ["TensorBoard", "metrics.csv"])
def test_train_full_disk_for_a_curve(elsewhere, monkeypatch, capsys, whole, curve):
    """The system refuses to let the file grow, in the middle of the records of updates 4 to 6."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        (events,), metrics = Path("run").glob("events.*"), Path("run/metrics.csv")
        assert events.stat().st_size > metrics.stat().st_size + 500
        size = (events if curve == "TensorBoard" else metrics).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, limits[1]))

    during_update(monkeypatch, {4: fill, 7: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)})
    try:
        assert main([*DICE, "run"]) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().out.count(f"warning: {curve} can't be written: File too large; training continues") == 1
    assert (timeless("run"), curves("run")) == (timeless(whole), curves(whole))


def test_train_closed_output_stops_nothing(tmp_path):
    """As in `pong train … | head -1`."""
    run = tmp_path / "run"
    command = ["train", CONFIG, *TINY, "--max-frames", "300", "--checkpoint-every", "2", "--total-steps", "1500"]
    with pong(*command, "--run-dir", run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(str(run))
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(MINUTE) == 0
    assert checkpoint.load(run).counters.steps >= 1500


LAST = "run/checkpoints/update-000001.safetensors"
OUTPUTS = [  # command, a file that it writes or reads, exit status
    (["train", CONFIG, *TINY, "--total-steps", "60", "--run-dir", "run"], LAST, 0),
    (["train", "nowhere"], CONFIG, 2),
]


@pytest.mark.parametrize(("command", "file", "status"), OUTPUTS)
def test_main_full_disk_for_the_output(tmp_path, command, file, status):
    with Path("/dev/full").open("w") as full:
        assert pong(*command, cwd=tmp_path, stdout=full, stderr=full).wait(MINUTE) == status
    assert (tmp_path / file).stat().st_size > 0


def replace(run):
    run.rename("moved")
    assert main([*DICE[:-2], "20", "--run-dir", str(run)]) == 0  # of one update


@pytest.mark.parametrize("happening", [shutil.rmtree, lambda run: run.rename("moved"), replace])
def test_train_run_folder_is_gone(elsewhere, monkeypatch, capsys, happening):
    during_update(monkeypatch, {5: lambda: happening(Path("run"))})
    assert main([*DICE, "run"]) == 1
    one_line(capsys, "pong: run folder run was deleted, moved or replaced during training")
    assert newest() == ([name(1)] if happening == replace else [])


# --- numbers, memory and emulators ------------------------------------------------------------------------------------


def surrogate(factor=1.0, summand=0.0):
    from pong.losses import surrogate_loss

    return lambda *args, **kwargs: surrogate_loss(*args, **kwargs) * factor + summand


def baseline_of_nan(baseline, *_):
    with torch.no_grad():
        next(baseline.network.parameters())[0] = torch.nan


def full_gpu(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee the documentation.")


def full_memory(*_, **__):
    torch.empty(2**62, dtype=torch.uint8)


LOSS, LOWER = "pong.train.surrogate_loss", "out of memory: lower num_envs, horizon or hidden"
FAILURES = {  # the function that is replaced in update 6, by what, the message
    "gradient": (LOSS, surrogate(factor=torch.inf), "update 6: the gradient is not finite; lower learning_rate; "),
    "loss": (LOSS, surrogate(summand=torch.nan), "update 6: the loss is not finite; lower learning_rate; "),
    "baseline": ("pong.baseline.Baseline.fit", baseline_of_nan, "update 6: baseline.W1 is not finite; lower "),
    "GPU": (LOSS, full_gpu, f"{LOWER}, or use --device cpu (CUDA out of memory. Tried to allocate 9 GiB. See the doc"),
    "memory": (LOSS, full_memory, f"{LOWER} ([enforce fail"),
}


@pytest.mark.parametrize(("function", "replacement", "message"), FAILURES.values(), ids=FAILURES)
def test_train_failure_in_update_6(elsewhere, monkeypatch, capsys, whole, function, replacement, message):
    with monkeypatch.context() as patch:
        patch.setattr(function, from_update(6, replacement, pkgutil.resolve_name(function)))
        assert main([*DICE, "run"]) == 1
    one_line(capsys, f"pong: {message}", f"; the last good checkpoint is run/checkpoints/{name(4)}\n")
    assert newest() == [name(2), name(4)]
    assert resume() == 0
    assert_same("run", whole)


@pytest.mark.parametrize("color", ["", "1"])  # with colour, there is a progress bar
@pytest.mark.parametrize("command", [[*DICE, "run"], ["eval", "pong", "--episodes", "1"]])
def test_main_no_thread(elsewhere, monkeypatch, capsys, command, color):
    monkeypatch.setattr("threading.Thread.start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    monkeypatch.setenv("FORCE_COLOR", color)
    assert main(command) == 1
    problem = "pong: can't start new thread: lower players, or raise the limit of threads (ulimit -u)"
    assert problem in capsys.readouterr().err.splitlines()[-1]


def worn(*arguments, **settings):
    """ale-py's environment with an emulator that fails in its 250th decision of four frames."""
    env = AtariEnv(*arguments, **settings)
    env.ale = mock.Mock(wraps=env.ale)
    env.ale.act.side_effect = [*[mock.DEFAULT] * 999, RuntimeError("the cartridge\nis loose")]
    return env


def no_rom(*_, **__):
    raise gymnasium.error.Error("We're Unable to find the game\n'pong'.")


@pytest.mark.parametrize(
    ("emulator", "message"),
    [
        (worn, "an emulator failed (RuntimeError: the cartridge is loose); the last good checkpoint is run/"),
        (no_rom, "(Error: We're Unable to find the game 'pong'.); there is no checkpoint yet\n"),
    ],
)
def test_train_emulator_fails(tmp_path, monkeypatch, capfd, emulator, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pong.envs.pong.ale.AtariEnv", emulator)
    flags = ["--emulator", "ale", "--max-frames", "300", "--checkpoint-every", "2", "--players", "2"]
    assert main(["train", CONFIG, *TINY, *flags, "--run-dir", "run"]) == 1
    one_line(capfd, message)


# --- two processes, clocks, evaluations, other checkpoints ------------------------------------------------------------


def test_train_run_folder_belongs_to_one_process(tmp_path, monkeypatch, capsys):
    run, flags = tmp_path / "run", ["--max-frames", "300", "--checkpoint-every", "2"]
    process = Warm("train", CONFIG, *TINY, *flags, "--run-dir", run, output=tmp_path / "log")
    wait_until((run / "checkpoints").exists, process, "checkpoint")
    assert resume(run) == 2
    one_line(capsys, f"run folder {run} is being trained by another process; wait for it or stop it\n")
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(MINUTE)
    monkeypatch.setattr("pong.run.Recorder.reached_goal", lambda recorder: True)
    assert resume(run) == 0  # at once


def test_train_full_disk_at_the_end_and_a_clock_that_goes_backwards(elsewhere, monkeypatch, capsys, whole):
    """Each look at the clock is an hour before the last one."""
    hours = itertools.count(-time.time(), 3600)
    monkeypatch.setattr(time, "time", lambda: -next(hours))
    with full_disk("update-000008"):
        assert main([*DICE, "run"]) == 1
    problem = f"checkpoint run/checkpoints/{name(8)} can't be written: No space left on device; "
    one_line(capsys, problem, f"the last good checkpoint is run/checkpoints/{name(6)}\n")
    assert resume() == 0
    assert_same("run", whole)  # TensorBoard read the files in the right order
    minutes = [float(row["minutes"]) for row in rows("run")]
    assert minutes == sorted(minutes)
    assert 0 <= minutes[0] <= minutes[-1] < 10
    for row in rows("run"):
        assert float(row["charts/SPS"]) > 0
        assert 0 <= float(row["time/rollout_seconds"]) + float(row["time/learn_seconds"]) < 60


def test_train_evaluations_and_the_best_across_resumes(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr("pong.run.evaluate", scripted(-3, 5))
    with monkeypatch.context() as patch:
        patch.setattr(LOSS, from_update(6, surrogate(factor=torch.nan), surrogate()))
        assert main([*EVALUATED, "run"]) == 1  # after the checkpoint of update 4
    monkeypatch.setattr("pong.run.evaluate", scripted(4, 5))
    assert resume() == 0  # 4 is less, and 5 is not more
    best = checkpoint.load("run/checkpoints/best.safetensors")
    assert (best.counters.updates, best.counters.best) == (4, 5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("saved")]
    assert [", the best so far: " in line for line in lines] == [True, True, False, False]
    means = ["", "-3", "", "5", "", "4", "", "5"]
    assert [row["eval/episodic_return"] for row in rows("run")] == means
    # two games, 1 above and 1 below the mean: the standard deviation is √2, divided by √2
    assert [row["eval/standard_error"] for row in rows("run")] == ["1" if mean else "" for mean in means]
    assert curves("run")["eval/episodic_return"] == [(40, -3), (80, 5), (120, 4), (160, 5)]


@pytest.mark.parametrize(("part", "updates", "score"), [("update-000004", 4, 9), ("checkpoints", 6, 2)])
def test_train_full_disk_for_the_best_checkpoint(elsewhere, monkeypatch, capsys, part, updates, score):
    """The best evaluation, 9, is update 4's. Its checkpoint can't be written; best.safetensors can, or can't either."""
    monkeypatch.setattr("pong.run.evaluate", scripted(1, 9, 2, 0))
    disk, files = full_disk(part), []
    during_update(monkeypatch, {4: disk.start, 6: lambda: (disk.stop(), files.extend(newest()))})
    assert main([*EVALUATED, "run"]) == 0
    assert files == [name(2)]  # in update 6
    problem = "can't be written: No space left on device; training continues"
    assert capsys.readouterr().out.count(f"warning: checkpoint run/checkpoints/{name(4)} {problem}") == 1
    best = checkpoint.load("run/checkpoints/best.safetensors").counters
    assert (best.updates, best.best) == (updates, score)


def test_train_evaluations_leave_training_unchanged(elsewhere, monkeypatch, whole):
    assert main([*EVALUATED, "run"]) == 0
    assert saved(f"run/checkpoints/{name(8)}")[1] == saved(whole / "checkpoints" / name(8))[1]
    blank = {"eval/episodic_return": "", "eval/standard_error": ""}
    assert [{**row, **blank} for row in timeless("run")] == timeless(whole)


def test_train_named_checkpoint_continues_in_a_new_run(elsewhere, capsys, whole):
    assert main([*DICE, "run"]) == 0
    Path("run/checkpoints", name(8)).write_bytes(b"damaged")
    assert resume() == 2
    one_line(capsys, f"checkpoint run/checkpoints/{name(8)} can't be read", f"there is run/checkpoints/{name(6)}\n")
    before = contents("run")
    config, source = load_config("run/config.toml"), Path("run/checkpoints", name(6))
    assert train(TrainRequest(config, checkpoint=source), ["pong"], time.monotonic()) == 0
    assert contents("run") == before
    (new,) = Path("runs").iterdir()
    assert re.fullmatch(r"pong-s1-\d{8}-\d{6}", new.name)
    assert f"{new}: pong, seed 1, on the CPU; resuming after update 6; games restart\n" in capsys.readouterr().out
    assert newest(new) == [name(6), name(8)]
    assert timeless(new) == timeless(whole)[6:]
    assert saved(new / "checkpoints" / name(8)) == saved(whole / "checkpoints" / name(8))
