"""A run that was stopped again and again, in every way there is, ends as if nothing had happened, bit for bit.

``PONG_STOPS`` sets how many stops each recipe gets: 20 here, 100 with ``make torture``.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import CONFIG, ROOT, SMALL, TINY, Dice, curves, pong, rows, saved, timeless
from tensorboard.compat.proto.summary_pb2 import Summary
from warm import Warm

from pong import checkpoint
from pong.cli import main
from pong.evaluate import Evaluation
from pong.rollout import Episode

STOPS = int(os.environ.get("PONG_STOPS", "20"))
EARLY = max(
    STOPS // 10, 1
)  # kills while the run starts, and as many while it takes up; the others come while it trains
TRAINING = STOPS - 2 * EARLY
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CONV = ["--channels", "2", "3", "--baseline-hidden", "4"]
RECIPES = {  # flags; decisions of an update; more updates than one stop gets through
    # 2 games of about 100 decisions an update; 2 evaluation games at a boundary
    "karpathy": (["--num-envs", "2", "--checkpoint-every", "3", "--eval-episodes", "2"], 200, 6),
    # 3 × 20 decisions an update, or more until a point has ended
    "pong": (["--num-envs", "3", "--horizon", "20", "--checkpoint-every", "4"], 160, 25),
    "pong_conv_plain": (["--num-envs", "3", "--horizon", "10", "--checkpoint-every", "3", *CONV], 100, 16),
}
MINUTE = 60.0


def wait_until(so, process, what):
    """Wait until something is so; the process that shall bring it about must be alive meanwhile."""
    end = time.monotonic() + MINUTE
    while not so():
        assert process.poll() is None, f"the run ended before {what}"
        assert time.monotonic() < end, f"no {what} after a minute"
        time.sleep(0.001)


def last_row(metrics, but):
    """The number of the last whole row of a metrics.csv; 0 while it is the file of the start before."""
    if not metrics.exists() or metrics.stat().st_ino == but:
        return 0
    lines = metrics.read_bytes().split(b"\n")[:-1]
    number = lines[-1].split(b",")[0] if lines else b""
    return int(number) if number.isdigit() else 0


def survive(run, start, kind, rng, log):
    """Start the run, or take it up again, with one, two or three players, and stop it in some way."""
    metrics = run / "metrics.csv"
    before = metrics.stat().st_ino if metrics.exists() else None
    done = max((int(path.stem[7:]) for path in (run / "checkpoints").glob("update-*.safetensors")), default=0)
    begun = (run / "config.toml").exists()
    arguments = [*(["train", "--resume", run] if begun else start), "--players", rng.integers(1, 4)]
    if kind == "starting":
        with log.open("w") as out:
            process = pong(*arguments, stdout=out, stderr=out)
    else:
        process = Warm(*arguments, output=log, pieces=rng.random() < 0.3)
    number = signal.SIGKILL
    try:
        if kind == "starting":
            time.sleep(rng.uniform(0, 1.5))
        elif kind == "taking up":
            wait_until(lambda: log.stat().st_size, process, "first line")
            time.sleep(rng.uniform(0, 0.2))
        else:
            goal = done + int(rng.integers(1, 5))
            wait_until(lambda: last_row(metrics, before) >= goal, process, f"update {goal}")
            time.sleep(rng.uniform(0, 0.05))
            number = rng.choice(SIGNALS)
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(number)
        status = process.wait(MINUTE)
    said = log.read_text()
    assert "Traceback" not in said
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    if begun and said:
        how = f"resuming after update {done}\n" if done else "no checkpoint yet: starting from the beginning\n"
        assert how in said


def stop_and_go_on(recipe, folder):
    """A run that was stopped and taken up again to its end, and the run that nobody stopped."""
    flags, steps, updates = RECIPES[recipe]
    start = ["train", ROOT / f"configs/{recipe}.toml", *SMALL, "--max-frames", 300, *flags]
    start += ["--total-steps", steps * updates * (TRAINING + 1), "--run-dir"]
    run, whole, log = folder / "run", folder / "whole", folder / "log"
    rng = np.random.default_rng(list(recipe.encode()))
    for kind in rng.permutation(["starting"] * EARLY + ["taking up"] * EARLY + ["training"] * TRAINING):
        survive(run, [*start, run], kind, rng, log)
    assert Warm("train", "--resume", run, output=log).wait(20 * MINUTE) == 0, log.read_text()
    assert Warm(*start, whole, output=log).wait(20 * MINUTE) == 0, log.read_text()
    return run, whole


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("recipe", RECIPES)
def test_stopping_at_any_moment_changes_nothing_and_leaves_nothing_behind(tmp_path, recipe):
    run, whole = stop_and_go_on(recipe, tmp_path)
    assert_same(run, whole)
    assert len(rows(run)) > 2 * TRAINING
    assert list(run.glob("**/*.tmp")) == []
    assert len(list(run.glob("events.*"))) > TRAINING  # one for each time that it was taken up


def assert_same(run, whole):
    """The same curve without a gap or a doubled row, the same weights, optimiser, baseline, play, counters and best."""
    assert timeless(run) == timeless(whole)
    assert [int(row["update"]) for row in rows(run)] == list(range(1, len(rows(run)) + 1))
    assert curves(run) == curves(whole)
    steps = [int(row["step"]) for row in rows(run)]
    assert [step for step, _ in curves(run)["losses/entropy"]] == steps
    files = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (run / "checkpoints").iterdir()} == files
    assert len(files) >= 2
    for name in files:
        (about, tensors), (expected_about, expected) = (whole_file(one / "checkpoints" / name) for one in (run, whole))
        assert about == expected_about
        assert tensors == expected


def whole_file(path):
    """What a checkpoint says and holds, but for how many played."""
    texts, tensors = saved(path)
    about = json.loads(texts["pong"])
    del about["config"]["players"]
    return about, tensors


# --- in the middle of a save ------------------------------------------------------------------------------------------

FOURTH = "update-000004"


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def around(function, hit, *, before):
    """A function that kills its process when ``hit`` by its arguments, before or after it has done its work."""

    def call(*arguments, **settings):
        if before and hit(*arguments):
            die()
        result = function(*arguments, **settings)
        if hit(*arguments):
            die()
        return result

    return call


def to(name):
    return lambda source, target: str(target).endswith(name)


def of(name):
    return lambda descriptor: str(Path(f"/proc/self/fd/{descriptor}").readlink()).endswith(name)


def has(name):
    return lambda folder: (folder / name).exists()


def half_a_file(path, content):
    if path.name.startswith(FOURTH):
        path.with_suffix(".tmp").write_bytes(content[: len(content) // 2])
        die()
    whole(path, content)


whole = checkpoint.write_atomically
NEWEST, BEST = f"{FOURTH}.safetensors", "best.safetensors"
MOMENTS = {  # what is replaced, by what; the newest checkpoint then
    "half written": ("pong.checkpoint.write_atomically", half_a_file, 2),
    "before it is on the disk": ("os.fsync", around(os.fsync, of(f"{FOURTH}.tmp"), before=True), 2),
    "before it is renamed": ("os.replace", around(os.replace, to(NEWEST), before=True), 2),
    "after it is renamed": ("os.replace", around(os.replace, to(NEWEST), before=False), 4),
    "between the best and it": ("os.replace", around(os.replace, to(BEST), before=False), 2),
    "before the oldest is deleted": ("pong.checkpoint._tidy", around(checkpoint._tidy, has(NEWEST), before=True), 4),
}
FLAGS = [*TINY, "--horizon", "10", "--checkpoint-every", "2", "--total-steps", "160"]  # 8 updates
DICE = ["train", CONFIG, *FLAGS, "--eval-episodes", "2", "--run-dir"]


def rising(checkpointer, update):
    """Evaluations that are better each time."""
    return Evaluation([Episode(0, float(update), 10), Episode(1, update + 1.0, 10)])


def child(folder, what, instead, arguments):
    """Train with something replaced as soon as the second update is saved."""
    os.chdir(folder)

    def replace_it(path, content):
        whole(path, content)
        if path.name == "update-000002.safetensors":
            checkpoint.write_atomically = whole
            owner, name = what.rsplit(".", 1)
            setattr(os if owner == "os" else checkpoint, name, instead)

    checkpoint.write_atomically = replace_it
    with Path("log").open("w") as sys.stdout, contextlib.redirect_stderr(sys.stdout):
        main(arguments)
    os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc/self/fd")
@pytest.mark.parametrize(("what", "instead", "newest"), MOMENTS.values(), ids=MOMENTS)
def test_kill_9_in_the_middle_of_a_save(tmp_path, monkeypatch, capsys, what, instead, newest):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pong.rollout.make_fleet", Dice)
    monkeypatch.setattr("pong.checkpointer.Checkpointer._evaluate", rising)
    monkeypatch.setattr("pong.tracking.game_summary", lambda *_: Summary())  # a film of Pong for each evaluation
    process = multiprocessing.get_context("fork").Process(target=child, args=(tmp_path, what, instead, [*DICE, "run"]))
    process.start()
    process.join(MINUTE)
    assert process.exitcode == -signal.SIGKILL, Path("log").read_text()
    assert checkpoint.load(Path("run")).counters.updates == newest  # whole: its checksum is right
    assert checkpoint.load(Path("run/checkpoints/update-000002.safetensors")).counters.updates == 2
    assert checkpoint.load(Path("run/checkpoints/best.safetensors")).counters.best >= newest + 0.5

    assert main(["train", "--resume", "run"]) == 0
    assert f"resuming after update {newest}; games restart" in capsys.readouterr().out
    assert list(Path("run").glob("**/*.tmp")) == []
    assert main([*DICE, "whole"]) == 0
    assert_same(Path("run"), Path("whole"))
