"""`pong train` from outside: how fast it is, and what its processes hold, as /proc on Linux tells it."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import plot

from pong.config import Config, to_toml

ROOT = Path(__file__).resolve().parent.parent


class Sample(NamedTuple):
    """How far a run has come, and what its processes hold together."""

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


def watch(config: Config, updates: int, ranks: int) -> dict[str, int]:
    """Agent steps/s of `pong train` after its first update, and MiB of all its processes.

    ``early_mb`` is the most over the first tenth of the updates, ``peak_mb`` the most over all.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "env": {"OMP_NUM_THREADS": "1"}}  # as torchrun
    with tempfile.TemporaryDirectory() as folder:
        file, curve = Path(folder) / "config.toml", Path(folder) / "run/metrics.csv"
        file.write_text(to_toml(config), encoding="utf-8")
        with pong_train(file, "--run-dir", curve.parent, ranks=ranks, **quiet) as process:
            seen = list(itertools.takewhile(lambda one: one.updates <= updates, samples(process, curve, 1.0)))
            rows = plot.read(curve.parent).rows
    steps, minutes = (rows[-1][key] - rows[0][key] for key in ("step", "minutes"))
    return {
        "updates": len(rows),
        "steps_per_second": round(steps / (60 * minutes)),
        "early_mb": round(max((one.memory for one in seen if one.updates <= updates / 10), default=0)),
        "peak_mb": round(max(one.memory for one in seen)),
    }


def samples(process: "subprocess.Popen[bytes]", curve: Path, seconds: float) -> Iterator[Sample]:
    """Look at a run, whose metrics.csv is ``curve``, every few ``seconds``.

    Raises:
        SystemExit: the run ended by itself.
    """
    began = time.monotonic()
    while True:
        time.sleep(seconds)
        if process.poll() is not None:
            sys.exit(f"`pong train` ended by itself with status {process.returncode}")
        updates = len(curve.read_bytes().splitlines()) - 1 if curve.exists() else 0
        yield Sample((time.monotonic() - began) / 60, updates, *held(process.pid))


def held(root: int) -> tuple[int, float, int]:
    """Processes, MiB and handles of a process and all that come from it; 0 of what ends meanwhile or has no /proc."""
    processes, memory, handles = 0, 0.0, 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            memory += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
            handles += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            processes += 1
    return processes, memory, handles


def family(root: int) -> list[int]:
    """A process and all that come from it; itself alone where there is no /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    found = [root]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found
