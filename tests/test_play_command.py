"""``pong play``: its flags, the names of films, and interrupts."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pong import checkpoint
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
