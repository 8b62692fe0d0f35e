"""What can go wrong with a run that nobody kills: disks, numbers, memory, emulators, two at a time, clocks."""

import contextlib
import errno
import io
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import pytest
import torch
from small_runs import CONFIG, ROOT, TINY, Dice, contents, curves, meanwhile, play, pong, rows, saved, timeless

from pong import checkpoint
from pong.cli import main
from pong.evaluate import Evaluation
from pong.rollout import Episode

pytestmark = pytest.mark.usefixtures("compiled")

# 20 decisions an update, 8 updates, a checkpoint at every other
FLAGS = [*TINY, "--horizon", "10", "--checkpoint-every", "2", "--total-steps", "160"]
DICE = ["train", CONFIG, *FLAGS, "--run-dir"]
NUMBERS = [str(number) for number in range(1, 9)]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and dice instead of Pong."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch, Dice)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(None):
        play(patch, Dice)
        assert main([*DICE, str(folder)]) == 0
    return folder


def newest(run="run"):
    return [path.name for path in checkpoint.checkpoints(Path(run, "checkpoints"))]


def update(number):
    return f"update-{number:06d}.safetensors"


def assert_same(whole, run="run"):
    """The run ended as the one that nothing happened to."""
    assert timeless(run) == timeless(whole)
    assert curves(run) == curves(whole)
    assert saved(Path(run, "checkpoints", update(8))) == saved(whole / "checkpoints" / update(8))


def one_line(capture, *words):
    """The one line on the standard error."""
    err = capture.readouterr().err
    assert err.startswith("pong: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    return err


def resume(run="run"):
    return main(["train", "--resume", run])


# --- the disk ---------------------------------------------------------------------------------------------------------


class Full(io.FileIO):
    """A file for half of what is written to it."""

    error = errno.ENOSPC

    def write(self, content):
        super().write(content[: len(content) // 2])
        raise OSError(self.error, os.strerror(self.error))


@contextlib.contextmanager
def failing(monkeypatch, name, error=errno.ENOSPC):
    """Files whose path holds that name can be half written when they are made."""
    monkeypatch.setattr(Full, "error", error)
    opened = Path.open

    def open_full(path, mode="r", **settings):
        return Full(path, mode) if "w" in mode and name in str(path) else opened(path, mode, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        yield


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_checkpoint_that_cannot_be_written_is_tried_again(elsewhere, monkeypatch, capsys, whole, error):
    seen = []
    play(monkeypatch, meanwhile(Dice, {51: lambda: seen.append((newest(), checkpoint.load(Path("run")).counters))}))
    with failing(monkeypatch, "update-000004", error):
        assert main([*DICE, "run"]) == 0
    said = f"warning: checkpoint run/checkpoints/{update(4)} can't be written: {os.strerror(error)}; training continues"
    assert capsys.readouterr().out.count(said) == 1
    ((names, counters),) = seen  # in the sixth update
    assert (names, counters.updates) == ([update(2)], 2)
    assert newest() == [update(6), update(8)]
    assert_same(whole)


def test_a_last_checkpoint_that_cannot_be_written_is_no_success(elsewhere, monkeypatch, capsys):
    with failing(monkeypatch, "update-000008"):
        assert main([*DICE, "run"]) == 1
    what = f"checkpoint run/checkpoints/{update(8)} can't be written: No space left on device; "
    one_line(capsys, what, f"the last good checkpoint is run/checkpoints/{update(6)}\n")
    assert list(Path("run").glob("**/*.tmp")) == []


@pytest.mark.parametrize("name", ["lock", "run.tmp", "config.tmp", "metrics.tmp"])
def test_a_full_disk_at_the_start_is_bad_input(elsewhere, monkeypatch, capsys, name):
    opened = Path.open

    def no_room(path, mode="r", **settings):
        if path.name == name and "w" in mode:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", no_room)
        assert main([*DICE, "run"]) == 2
    one_line(capsys, "run folder run can't be written: No space left on device; make room there or choose another")
    assert Dice.open == 0
    # once there is room, the folder can be used
    assert (main([*DICE, "run"]) if name != "metrics.tmp" else resume()) == 0
    assert newest() == [update(6), update(8)]


@contextlib.contextmanager
def no_bigger_than(size):
    """No file of this process may grow beyond this: what is written is written in part, and then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", ["TensorBoard", "metrics.csv"])
def test_curves_that_cannot_be_written_wait(elsewhere, monkeypatch, capsys, whole, what):
    """Really: the system refuses to let the file grow in the middle of a record, from update 4 to update 7."""
    limit = contextlib.ExitStack()

    def fill():
        (events,), metrics = Path("run").glob("events.*"), Path("run/metrics.csv")
        size = (events if what == "TensorBoard" else metrics).stat().st_size
        assert events.stat().st_size > metrics.stat().st_size + 500
        limit.enter_context(no_bigger_than(size + 7))

    play(monkeypatch, meanwhile(Dice, {31: fill, 61: limit.close}))
    with limit:
        assert main([*DICE, "run"]) == 0
    out = capsys.readouterr().out
    assert (
        out.count(f"warning: {what} can't be written: File too large; it is kept and tried again; training continues")
        == 1
    )
    assert out.count(f"{what} is written again; nothing was lost") == 1
    assert_same(whole)


def test_what_waits_when_the_run_dies_is_made_anew(elsewhere, monkeypatch, capsys, whole):
    """The disk is full from update 4 on, and then the run fails: no half of a record stays."""
    limit = contextlib.ExitStack()

    def fail():
        raise OSError(errno.EIO, "Input/output error")

    happenings = {31: lambda: limit.enter_context(no_bigger_than(300)), 55: fail}
    play(monkeypatch, meanwhile(Dice, happenings))
    with limit:
        assert main([*DICE, "run"]) == 1
    one_line(capsys, f"Input/output error; the last good checkpoint is run/checkpoints/{update(2)}")
    assert Path("run/metrics.csv").read_bytes().endswith(b"\n")
    play(monkeypatch, Dice)
    assert resume() == 0
    assert_same(whole)


MOUNT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small disk: needs root"
)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, room for four checkpoints of these runs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounts a small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk):
    """Leave no byte free."""
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


@MOUNT
def test_a_disk_that_is_full_for_a_while(elsewhere, monkeypatch, capsys, whole, small_disk):
    """Full to the last byte from update 4 to update 7."""
    run, seen = small_disk / "run", []
    free = (small_disk / "filler").unlink
    play(monkeypatch, meanwhile(Dice, {31: lambda: fill(small_disk), 59: lambda: seen.append(newest(run)), 61: free}))
    assert main([*DICE, str(run)]) == 0
    out = capsys.readouterr().out
    assert out.count("No space left on device") >= 2  # two checkpoints, and it may be the curves
    assert seen == [[update(2)]]
    assert newest(run) == [update(2), update(8)]
    assert_same(whole, run)


@MOUNT
def test_a_disk_that_is_full_from_the_start(elsewhere, capsys, small_disk):
    fill(small_disk)
    assert main([*DICE, str(small_disk / "run")]) == 2
    one_line(capsys, "can't be written: No space left on device; make room there or choose another --run-dir")


@MOUNT
@pytest.mark.parametrize("begun", [False, True])
def test_a_disk_that_can_only_be_read(elsewhere, capsys, small_disk, begun):
    run = small_disk / "run"
    if begun:
        assert main([*DICE, str(run)]) == 0
        capsys.readouterr()
    before = contents(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert (resume(str(run)) if begun else main([*DICE, str(run)])) == 2
    one_line(capsys, "can't be written: Read-only file system; ")
    assert contents(small_disk) == before


def test_a_run_that_nobody_listens_to_goes_on(tmp_path):
    """As in `pong train … | head -1`."""
    run = tmp_path / "run"
    command = ["train", CONFIG, *TINY, "--max-frames", "300", "--checkpoint-every", "2", "--total-steps", "1500"]
    with pong(*command, "--run-dir", run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(str(run))
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")
    assert int(rows(run)[-1]["step"]) >= 1500


# --- numbers ----------------------------------------------------------------------------------------------------------


def from_update(number, instead, original):
    """A function of the trainer that is replaced from that update on; it is called once an update."""
    calls = []

    def call(*arguments, **settings):
        calls.append(None)
        return (original if len(calls) < number else instead)(*arguments, **settings)

    return call


def surrogate(factor=1.0, summand=0.0):
    from pong.losses import surrogate_loss

    return lambda *arguments, **settings: surrogate_loss(*arguments, **settings) * factor + summand


def baseline_gone(baseline, *_):
    with torch.no_grad():
        next(baseline.network.parameters())[0] = torch.nan


NOT_FINITE = {  # what is replaced in update 6, by what; what is said
    "a gradient of NaN": ("pong.train.surrogate_loss", surrogate(factor=torch.nan), "the gradient is not finite"),
    "an infinite gradient": ("pong.train.surrogate_loss", surrogate(factor=torch.inf), "the gradient is not finite"),
    "a loss of NaN": ("pong.train.surrogate_loss", surrogate(summand=torch.nan), "the loss is not finite"),
    "an infinite loss": ("pong.train.surrogate_loss", surrogate(summand=torch.inf), "the loss is not finite"),
    "a baseline of NaN": ("pong.baseline.Baseline.fit", baseline_gone, "baseline.W1 is not finite"),
}


@pytest.mark.parametrize(("name", "instead", "words"), NOT_FINITE.values(), ids=NOT_FINITE)
def test_what_is_not_finite_ends_the_run_and_is_not_saved(elsewhere, monkeypatch, capsys, whole, name, instead, words):
    before = []
    play(monkeypatch, meanwhile(Dice, {51: lambda: before.append(contents("run/checkpoints"))}))  # in update 6
    with monkeypatch.context() as patch:
        patch.setattr(name, from_update(6, instead, pkgutil.resolve_name(name)))
        assert main([*DICE, "run"]) == 1
    good = f"run/checkpoints/{update(4)}"
    one_line(capsys, f"pong: update 6: {words}; lower ", f"; the last good checkpoint is {good}\n")
    assert [contents("run/checkpoints")] == before
    play(monkeypatch, Dice)
    assert resume() == 0
    assert_same(whole)


def gpu_full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee the documentation.")


def memory_full(*_, **__):
    torch.empty(2**62, dtype=torch.uint8)


FULL = {
    "GPU": (gpu_full, ", or use --device cpu (CUDA out of memory. Tried to allocate 9 GiB. See the documentation.); "),
    "machine": (memory_full, " ([enforce fail"),
}


@pytest.mark.parametrize("memory", FULL)
def test_full_memory_says_what_to_lower(elsewhere, monkeypatch, capsys, whole, memory):
    raises, words = FULL[memory]
    with monkeypatch.context() as patch:
        patch.setattr("pong.train.surrogate_loss", from_update(6, raises, surrogate()))
        assert main([*DICE, "run"]) == 1
    good = f"run/checkpoints/{update(4)}"
    start = f"pong: the {memory}'s memory is full: lower num_envs or horizon or hidden{words}"
    one_line(capsys, start, f"; the last good checkpoint is {good}\n")
    assert resume() == 0
    assert_same(whole)


# --- emulators --------------------------------------------------------------------------------------------------------

PONG = ["train", CONFIG, *TINY, "--emulator", "ale", "--max-frames", "300", "--checkpoint-every", "2"]
PONG += ["--total-steps", "700", "--run-dir"]


class Worn:
    """ale-py's environment with an emulator that fails in its decision number 250, of four frames each."""

    def __init__(self, *arguments, **settings):
        from ale_py.env import AtariEnv

        self._env = AtariEnv(*arguments, **settings)
        self.ale = WornALE(self._env.ale)

    def __getattr__(self, name):
        return getattr(self._env, name)


class WornALE:
    def __init__(self, ale):
        self._ale, self._frames = ale, 0

    def __getattr__(self, name):
        return getattr(self._ale, name)

    def act(self, action):
        self._frames += 1
        if self._frames == 4 * 250:
            raise RuntimeError("the cartridge\nis loose")
        return self._ale.act(action)


def no_rom(*_, **__):
    raise gymnasium.error.Error("We're Unable to find the game\n'pong'.")


@pytest.fixture(scope="module")
def whole_pong(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulators") / "whole"
    with contextlib.redirect_stdout(None):
        assert main([*PONG, str(folder)]) == 0
    return folder


@pytest.mark.parametrize("players", ["1", "2"])
def test_an_emulator_that_fails_ends_the_run_in_one_line(tmp_path, monkeypatch, capfd, whole_pong, players):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pong.envs.pong.ale.AtariEnv", Worn)
        assert main([*PONG, "run", "--players", players]) == 1
    one_line(capfd, "pong: an emulator failed (RuntimeError: the cartridge is loose); the last good checkpoint is run/")
    assert resume() == 0
    assert timeless("run") == timeless(whole_pong)
    final = checkpoint.find(whole_pong).name
    assert saved(Path("run/checkpoints", final))[1] == saved(whole_pong / "checkpoints" / final)[1]


@pytest.mark.parametrize("players", ["1", "2"])
def test_a_missing_rom_is_one_line(tmp_path, monkeypatch, capfd, players):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pong.envs.pong.ale.AtariEnv", no_rom)
        assert main([*PONG, "run", "--players", players]) == 1
    one_line(
        capfd,
        "Pong can't be started; ale-py brings its ROM: install it anew (Error: We're Unable to find the game 'pong'.)",
        "; there is no checkpoint yet\n",
    )
    assert resume() == 0
    assert "run: pong, seed 1; no checkpoint yet: starting from the beginning\n" in capfd.readouterr().out


# --- two at a time ----------------------------------------------------------------------------------------------------

SHORT = ["train", CONFIG, *TINY, "--max-frames", "300", "--checkpoint-every", "2", "--players", "2"]
LONG = [*SHORT, "--total-steps", "10000000"]  # it is killed


def wait_for(path, process):
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


def test_a_run_folder_belongs_to_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pong(*LONG, "--run-dir", "run", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        try:
            wait_for(Path("run/checkpoints"), first)
            before = Path("run/config.toml").read_bytes()
            for second in (["train", "--resume", "run"], [*LONG, "--run-dir", "run"]):
                assert main(second) == 2
                one_line(capsys, "run folder run is being trained by another process; wait or stop that one\n")
            assert Path("run/config.toml").read_bytes() == before
            assert first.poll() is None  # it didn't notice
        finally:
            first.kill()
            first.wait()
        done = checkpoint.load(Path("run")).counters.updates
        monkeypatch.setattr("pong.checkpointer.Checkpointer.reached_goal", lambda checkpointer: True)
        assert resume() == 0  # at once
        assert f"resuming after update {done}" in capsys.readouterr().out


def test_of_two_that_start_at_once_one_trains(tmp_path):
    run = tmp_path / "run"
    command = [*SHORT, "--total-steps", "2000"]
    starts = [
        pong(*command, "--seed", seed, "--run-dir", run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for seed in (1, 2)
    ]
    said = [process.communicate(timeout=120) for process in starts]
    (winner,) = (k for k, process in enumerate(starts) if process.returncode == 0)
    assert starts[1 - winner].returncode == 2
    assert len(said[1 - winner][1].splitlines()) == 1
    assert checkpoint.load(run).config.seed == winner + 1
    assert f"seed = {winner + 1}\n" in (run / "config.toml").read_text()


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_backwards_stops_nothing(elsewhere, monkeypatch, capsys, whole):
    """Each look at it is an hour before the last one; the run is taken up half-way."""
    now = [time.time()]

    def earlier():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    with failing(monkeypatch, "update-000008"):
        assert main([*DICE, "run"]) == 1
    assert resume() == 0
    capsys.readouterr()
    assert_same(whole)  # TensorBoard has read the files in their order
    minutes = [float(row["minutes"]) for row in rows("run")]
    assert minutes == sorted(minutes)
    assert minutes[-1] < 10
    for row in rows("run"):
        assert float(row["charts/SPS"]) > 0
        assert 0 <= float(row["time/rollout_seconds"]) < 60
        assert 0 <= float(row["time/learn_seconds"]) < 60


def test_no_duration_is_measured_by_a_clock_that_can_be_set():
    """Where time.time() is looked at: for what TensorBoard calls wall time, and for the name of its file."""
    found = [
        (path.name, line.strip())
        for path in (ROOT / "pong").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "time.time(" in line or "datetime.now(" in line
    ]
    assert len(found) == 2
    assert {name for name, _ in found} == {"records.py"}
    assert all("wall_time=" in line or "before + 1" in line for _, line in found)


# --- evaluations ------------------------------------------------------------------------------------------------------


def scripted(*means):
    """Evaluations with those results, in order."""
    results = iter(means)

    def evaluate(checkpointer, update):
        mean = next(results)
        return Evaluation([Episode(0, mean - 1, 10), Episode(1, mean + 1, 10)])

    return evaluate


def test_evaluations_are_tracked_and_the_best_is_kept_across_resumes(elsewhere, monkeypatch, capsys):
    command = [*DICE[:-1], "--eval-episodes", "2", "--run-dir", "run"]
    monkeypatch.setattr("pong.checkpointer.Checkpointer._evaluate", scripted(-3, 5))
    with monkeypatch.context() as patch:
        patch.setattr("pong.train.surrogate_loss", from_update(6, surrogate(factor=torch.nan), surrogate()))
        assert main(command) == 1  # after the checkpoint of update 4
    monkeypatch.setattr("pong.checkpointer.Checkpointer._evaluate", scripted(4, 5))
    assert resume() == 0  # 4 is less, and 5 is not more
    best = checkpoint.load(Path("run/checkpoints/best.safetensors"))
    assert (best.counters.updates, best.counters.best) == (4, 5)
    assert checkpoint.load(Path("run")).counters.best == 5
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("saved")]
    assert [", the best so far: " in line for line in said] == [True, True, False, False]

    means = {"2": "-3", "4": "5", "6": "4", "8": "5"}
    assert [row["eval/episodic_return"] for row in rows("run")] == [means.get(number, "") for number in NUMBERS]
    # two games, one point above and one below the mean: √2 / √2
    assert [row["eval/standard_error"] for row in rows("run")] == ["1" if n in means else "" for n in NUMBERS]
    assert curves("run")["eval/episodic_return"] == [(40, -3), (80, 5), (120, 4), (160, 5)]
    assert curves("run")["eval/standard_error"] == [(steps, 1) for steps in (40, 80, 120, 160)]


@pytest.mark.parametrize(("names", "updates", "score"), [(["update-000004"], 4, 9), (["update-000004", "best"], 6, 2)])
def test_the_best_is_what_could_be_kept(elsewhere, monkeypatch, capsys, names, updates, score):
    """The best evaluation, 9, falls on update 4, whose checkpoint can't be written; its own file can, or can't."""
    monkeypatch.setattr("pong.checkpointer.Checkpointer._evaluate", scripted(1, 9, 2, 0))
    full, opened = [], Path.open

    def open_or_not(path, mode="r", **settings):
        if full and "w" in mode and path.stem in names:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, **settings)

    monkeypatch.setattr(Path, "open", open_or_not)
    play(monkeypatch, meanwhile(Dice, {31: lambda: full.append(True), 51: full.clear}))  # in updates 4 and 5
    assert main([*DICE[:-1], "--eval-episodes", "2", "--run-dir", "run"]) == 0
    best = checkpoint.load(Path("run/checkpoints/best.safetensors")).counters
    assert (best.updates, best.best) == (updates, score)
    assert checkpoint.load(Path("run")).counters.best == score


@pytest.mark.parametrize("players", ["1", "2"])
def test_evaluations_leave_training_as_it_is(tmp_path, monkeypatch, capsys, whole_pong, players):
    monkeypatch.chdir(tmp_path)
    assert main([*PONG, "run", "--eval-episodes", "3", "--players", players]) == 0
    final = checkpoint.find(whole_pong).name
    assert saved(Path("run/checkpoints", final))[1] == saved(whole_pong / "checkpoints" / final)[1]
    found = timeless("run")
    means = [row.pop("eval/episodic_return") for row in found]
    assert [mean != "" for mean in means] == [number % 2 == 0 for number in range(1, len(means) + 1)]
    assert [{**row, "eval/standard_error": ""} for row in found] == [
        {key: value for key, value in row.items() if key != "eval/episodic_return"} for row in timeless(whole_pong)
    ]


# --- going on from another checkpoint ---------------------------------------------------------------------------------


def test_a_checkpoint_by_name_sets_the_newer_ones_aside(elsewhere, capsys, whole):
    assert main([*DICE, "run"]) == 0
    (Path("run/checkpoints") / update(8)).write_bytes(b"damaged")
    capsys.readouterr()
    assert resume() == 2
    one_line(capsys, f"checkpoint run/checkpoints/{update(8)} can't be read", f"there is run/checkpoints/{update(6)}\n")
    assert resume(f"run/checkpoints/{update(6)}") == 0
    out = capsys.readouterr().out
    assert "resuming after update 6; games restart in the machine\n" in out
    assert "renamed newer checkpoint: run/checkpoints/update-000008.set-aside-1\n" in out
    assert Path("run/checkpoints/update-000008.set-aside-1").read_bytes() == b"damaged"
    assert_same(whole)


# --- interrupts -------------------------------------------------------------------------------------------------------


def test_an_interrupt_off_the_boundary_is_resumed_from_there(elsewhere, monkeypatch, capsys, whole):
    """Nothing is lost and the curve has no gap; from there it is another run, for the emulators start afresh."""
    play(monkeypatch, meanwhile(Dice, {45: lambda: signal.raise_signal(signal.SIGINT)}))  # in update 5
    assert main([*DICE, "run"]) == 130
    assert newest() == [update(4), update(5)]
    play(monkeypatch, Dice)
    assert resume() == 0
    assert [row["update"] for row in rows("run")] == NUMBERS
    assert timeless("run")[:5] == timeless(whole)[:5]
    assert timeless("run")[5:] != timeless(whole)[5:]
    assert [step for step, _ in curves("run")["losses/entropy"]] == [20 * int(number) for number in NUMBERS]
