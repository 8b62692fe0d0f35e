"""Train configs/pong.toml for half an hour and watch the memory and the file handles of all its processes.

Fails if the memory grows by more than 2 % after the first minutes and updates, or the handles at all. Counted is the
proportional set size, which gives each process its share of the pages that several of them use.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from processes import family, memory_mb

ROOT = Path(__file__).parents[1]
WARM_UP = 3.0  # minutes, or a third of the time if that is less
SETTLED = 150  # updates after which memory has settled: three minutes on two cores with nothing else to do
GROWTH = 0.02
SAMPLES = 360  # over the whole time
ROWS = 30  # of the table


@dataclass(frozen=True)
class Sample:
    """What all processes of the run hold at some time."""

    minutes: float
    updates: int
    processes: int
    memory: float  # MB
    handles: int


def sample(pid: int, began: float, curve: Path) -> Sample:
    """Look at the run now; a process that ends meanwhile is left out."""
    memory, handles, processes = 0.0, 0, 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            memory += memory_mb(one)
            handles += len(os.listdir(f"/proc/{one}/fd"))  # noqa: PTH208
            processes += 1
    updates = len(curve.read_bytes().splitlines()) - 1 if curve.exists() else 0
    return Sample((time.monotonic() - began) / 60, updates, processes, memory, handles)


def watch(process: subprocess.Popen[str], minutes: float, curve: Path) -> list[Sample]:
    """Sample a run until the time is over."""
    began, samples = time.monotonic(), []
    while (left := minutes * 60 - (time.monotonic() - began)) > 0:
        time.sleep(min(left, minutes * 60 / SAMPLES))
        if process.poll() is not None:
            sys.exit(f"soak: the run ended by itself with status {process.returncode}")
        samples.append(sample(process.pid, began, curve))
    return samples


def floor(samples: list[Sample]) -> tuple[float, float]:
    """Memory and handles between the peaks, which come and go with batches and evaluations: the lowest tenth's end.

    What leaks is never given back, so it raises this, too.
    """
    memory, handles = ([getattr(one, name) for one in samples] for name in ("memory", "handles"))
    return statistics.quantiles(memory, n=10)[0], statistics.quantiles(handles, n=10)[0]


def verdict(samples: list[Sample], minutes: float) -> tuple[bool, str]:
    """Compare the sixth of the time after the warm-up with the last sixth, without the evaluations' own processes."""
    usual = statistics.mode(one.processes for one in samples)
    training = [one for one in samples if one.processes == usual]
    settled = (one.minutes for one in samples if one.updates >= min(SETTLED, samples[-1].updates / 3))
    warm, sixth = max(min(WARM_UP, minutes / 3), next(settled)), minutes / 6
    memory, handles = floor([one for one in training if warm <= one.minutes < warm + sixth])
    memory_after, handles_after = floor([one for one in training if one.minutes >= minutes - sixth])
    growth = memory_after / memory - 1
    return growth <= GROWTH and handles_after <= handles, (
        f"memory {memory:.1f} → {memory_after:.1f} MB ({growth:+.2%}, allowed {GROWTH:+.0%}), "
        f"handles {handles:g} → {handles_after:g}, {usual} processes, minute {warm:.1f} to {minutes:g}, "
        f"{samples[-1].updates} updates"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "pong.toml")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        # checkpoints and evaluations belong to what is watched: some in each minute
        command = [sys.executable, "-m", "pong", "train", arguments.config, "--run-dir", f"{folder}/run"]
        command += ["--total-steps", 10**12, "--checkpoint-every", 20, "--eval-episodes", 2, "--device", "cpu"]
        # and games as long at the end as at the start: a better player's rallies are longer, and so hold more memory
        command += ["--learning-rate", 1e-12, "--learning-rate-end", 1e-12, *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, text=True)
        try:
            samples = watch(process, arguments.minutes, Path(folder) / "run/metrics.csv")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    print(f"{'minutes':>8} {'updates':>8} {'processes':>10} {'memory MB':>10} {'handles':>8}")
    for one in samples[:: max(len(samples) // ROWS, 1)]:
        print(f"{one.minutes:8.1f} {one.updates:8} {one.processes:10} {one.memory:10.1f} {one.handles:8}")
    good, what = verdict(samples, arguments.minutes)
    print(f"soak: {'passed' if good else 'FAILED'}: {what}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
