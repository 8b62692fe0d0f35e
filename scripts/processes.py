"""Run `pong train` as a command and watch it from outside: updates, memory, file handles."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT

from pong.config import RunError


class Sample(NamedTuple):
    """How far a run is, and what its processes use together."""

    minutes: float
    updates: int
    processes: int
    memory: float  # MiB; a page that n processes share counts as 1/n in each
    handles: int  # of files


@contextlib.contextmanager
def pong_train(*arguments: object, ranks: int = 1, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """`pong train` of this checkout, stopped as by Ctrl-C at the end of the block if it still runs.

    Args:
        arguments: of the command.
        ranks: processes of torch.distributed.
        settings: of ``subprocess.Popen``; ``env`` is added to this process's.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "pong", "train", *map(str, arguments)]
    path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))  # packages may come from there
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **settings.pop("env", {})}
    process = subprocess.Popen(command, env=environment, **settings)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def samples(process: "subprocess.Popen[bytes]", curve: Path, seconds: float) -> Iterator[Sample]:
    """Look every few seconds at a run, whose metrics.csv is ``curve``; a RunError if it ends by itself."""
    start = time.monotonic()
    while True:
        time.sleep(seconds)
        if process.poll() is not None:
            raise RunError(f"`pong train` ended by itself with status {process.returncode}")
        updates = len(curve.read_bytes().splitlines()) - 1 if curve.exists() else 0
        yield Sample((time.monotonic() - start) / 60, updates, *usage(process.pid))


def usage(pid: int) -> tuple[int, float, int]:
    """Number of processes, MiB and file handles of a process and its descendants; those that end meanwhile are 0."""
    import psutil  # only for measuring

    root = psutil.Process(pid)
    count, memory, handles = 0, 0.0, 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            full = process.memory_full_info()
            memory += getattr(full, "pss", full.uss) / 2**20  # Linux alone knows the proportional size
            handles += process.num_fds()
            count += 1
    return count, memory, handles
