"""``pong play``: its flags, the names of films, and interrupts."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

from pong import checkpoint
from pong.cli import main
from pong.config import Config
from pong.optimizers import make_optimizer
from pong.policies import make_policy

pytestmark = pytest.mark.usefixtures("compiled")

TINY, FILE = Config(hidden=4, device="cpu", max_frames=240), Path("run-update7-seed0.mp4")


@pytest.fixture
def run(tmp_path, tmp_path_factory, monkeypatch):
    """A run of an untrained policy; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    folder, policy = tmp_path_factory.mktemp("runs") / "run", make_policy(TINY)
    counters = checkpoint.Counters(updates=7)
    checkpoint.save(folder / "checkpoints", TINY, counters, policy, make_optimizer(TINY, policy))
    return str(folder)


ERRORS = {
    "--seed -1": "--seed -1: give 0 or more",
    "--file a.mp4 --terminal": "choose --file or --terminal",
    "--speed 2": "--speed is for --terminal",
    "--file game.avi": "--file game.avi: give a name that ends in .mp4 or .gif",
    f"--file {FILE}": "exists and is not overwritten",
    "--terminal": "not a terminal",
}


@pytest.mark.parametrize(("flags", "message"), ERRORS.items(), ids=ERRORS)
def test_play_refuses_bad_input_before_the_game(run, monkeypatch, capsys, flags, message):
    monkeypatch.setattr("pong.render.frame.make_rendered", None)
    FILE.write_bytes(b"a film")
    assert main(["play", run, *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.read_bytes() for path in Path().iterdir()] == [b"a film"]


def test_play_replaces_a_film_of_the_default_name(run, capsys):
    FILE.write_bytes(b"a film")
    assert main(["play", run, "--max-frames", "40"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"score 0 in 10 steps, truncated: {FILE}"
    assert imageio_ffmpeg.count_frames_and_secs(str(FILE))[0] == 10 + 1
    (path,) = Path(run, "checkpoints").iterdir()  # a checkpoint's film is named after its run
    assert main(["play", str(path), "--max-frames", "40", "--greedy", "--seed", "3"]) == 0
    assert Path("run-update7-greedy-seed3.mp4").exists()


def interrupted(run, *flags, started, stdout):
    """Whether Ctrl-C ends the program as it should, once it has ``started``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pong", "play", run, *flags],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    os.close(stdout)  # so that reading the other end fails if the process dies
    while process.poll() is None and not started():
        pass
    process.send_signal(signal.SIGINT)
    return process.communicate()[1] == b"pong: interrupted\n" and process.returncode == 130


def test_play_film_interrupted_leaves_nothing(run):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    assert interrupted(run, "--max-frames", "100000", started=lambda: list(Path().iterdir()), stdout=nowhere)
    assert not list(Path().iterdir())


def test_play_terminal_interrupted_is_restored(run):
    ours, theirs = pty.openpty()
    assert interrupted(run, "--terminal", started=lambda: b"score" in os.read(ours, 4096), stdout=theirs)
    assert os.read(ours, 65536).endswith(b"\x1b[0m\x1b[?25h\x1b[?1049l")
