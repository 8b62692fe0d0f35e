"""Watch the memory and the file handles of a training and all its processes, for half an hour.

    python scripts/soak.py --minutes 30

fails if, after the first minutes and updates, the memory grows by more than 2 % or the file handles at all.
"""

import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import tyro
from common import ROOT, run

from pong.config import RunError

WARM_UP = 3.0  # minutes, or a third of the time if that is less
SETTLED = 150  # updates after which memory has settled: three minutes on two idle cores
GROWTH = 0.02
SAMPLES = 360  # over the whole time
FLAGS = (  # checkpoints and evaluations included: some in each minute
    *("--total-steps", 10**12, "--checkpoint-every", 20, "--eval-episodes", 2, "--device", "cpu"),
    # with an agent that stays as bad as it is, since a better player's longer games need more memory
    *("--learning-rate", 1e-12, "--learning-rate-end", 1e-12),
)


class Sample(NamedTuple):
    """How far a run is, and what its processes use together."""

    minutes: float
    updates: int
    processes: int
    memory: float  # MiB; on Linux a page that n processes share counts as 1/n in each
    handles: int  # of files


def main(
    config: Annotated[Path, tyro.conf.arg(help="recipe")] = ROOT / "configs/pong.toml",
    minutes: Annotated[float, tyro.conf.arg(help="to watch")] = 30.0,
) -> int:
    """Watch a run, and print a table and the verdict; status 1 if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        watched = samples(Path(folder) / "run", 60 * minutes / SAMPLES, config, *FLAGS)
        with contextlib.closing(watched):
            taken = list(itertools.takewhile(lambda sample: sample.minutes < minutes, watched))
    print(f"{'minutes':>8} {'updates':>8} {'processes':>10} {'memory MB':>10} {'handles':>8}")
    for sample in taken[::12]:
        print("{:8.1f} {:8} {:10} {:10.1f} {:8}".format(*sample))
    passed, text = verdict(taken, minutes)
    print(f"soak: {'passed' if passed else 'FAILED'}: {text}")
    return 0 if passed else 1


def samples(folder: Path, seconds: float, *arguments: object, ranks: int = 1) -> Iterator[Sample]:
    """Look every few seconds at a `pong train` into a run folder, which ends as by Ctrl-C when this is closed.

    Args:
        folder: of the run.
        seconds: between two samples.
        arguments: of `pong train`.
        ranks: processes of torch.distributed.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "pong", "train", *map(str, arguments), "--run-dir", str(folder)]
    path = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))  # packages may come from there
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}  # as torchrun sets it
    curve, start = folder / "metrics.csv", time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            time.sleep(seconds)
            updates = len(curve.read_bytes().splitlines()) - 1 if curve.exists() else 0
            yield Sample((time.monotonic() - start) / 60, updates, *usage(process.pid))
        raise RunError(f"`pong train` ended by itself with status {process.returncode}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def usage(pid: int) -> tuple[int, float, int]:
    """Number of processes, MiB and file handles of a process and its descendants, except those that just ended."""
    count, memory, handles = 0, 0.0, 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                full = process.memory_full_info()
                memory += getattr(full, "pss", full.uss) / 2**20
                handles += process.num_fds()
                count += 1
    return count, memory, handles


def verdict(taken: list[Sample], minutes: float) -> tuple[bool, str]:
    """Compare the sixth of the time after the warm-up with the last sixth, without evaluations in other processes."""
    usual = statistics.mode(sample.processes for sample in taken)
    settled = next(sample.minutes for sample in taken if sample.updates >= min(SETTLED, taken[-1].updates / 3))
    warm, sixth = max(min(WARM_UP, minutes / 3), settled), minutes / 6
    training = [sample for sample in taken if sample.processes == usual]
    memory, handles = floor([sample for sample in training if warm <= sample.minutes < warm + sixth])
    memory_after, handles_after = floor([sample for sample in training if sample.minutes >= minutes - sixth])
    growth = memory_after / memory - 1
    return growth <= GROWTH and handles_after <= handles, (
        f"memory {memory:.1f} → {memory_after:.1f} MB ({growth:+.2%}, allowed {GROWTH:+.0%}), "
        f"handles {handles:g} → {handles_after:g}, {usual} processes, minute {warm:.1f} to {minutes:g}, "
        f"{taken[-1].updates} updates"
    )


def floor(taken: list[Sample]) -> tuple[float, float]:
    """The lowest tenth of memory and handles: peaks come and go with batches, but a leak raises the floor, too."""
    return tuple(
        statistics.quantiles(values, n=10)[0] for values in zip(*(sample[3:] for sample in taken), strict=True)
    )


if __name__ == "__main__":
    run(main)
