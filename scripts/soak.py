"""Train configs/pong.toml for half an hour and watch the memory and the file handles of all its processes.

Fails if the memory grows by more than 2 % after the first minutes and updates, or the handles at all. Counted is the
proportional set size, which gives each process its share of the pages that several of them use.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import ROOT, Sample, pong_train, samples

WARM_UP = 3.0  # minutes, or a third of the time if that is less
SETTLED = 150  # updates after which memory has settled: three minutes on two cores with nothing else to do
GROWTH = 0.02
SAMPLES = 360  # over the whole time
ROWS = 30  # of the table
WATCHED = (  # checkpoints and evaluations belong to it: some in each minute
    *("--total-steps", 10**12, "--checkpoint-every", 20, "--eval-episodes", 2, "--device", "cpu"),
    # and games as long at the end as at the start: a better player's rallies are longer, and so hold more memory
    *("--learning-rate", 1e-12, "--learning-rate-end", 1e-12),
)


def watch(config: Path, flags: list[str], minutes: float) -> list[Sample]:
    """Sample a run until the time is over."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with pong_train(config, "--run-dir", run, *WATCHED, *flags, stdout=subprocess.DEVNULL) as process:
            seen = samples(process, run / "metrics.csv", 60 * minutes / SAMPLES)
            return list(itertools.takewhile(lambda one: one.minutes < minutes, seen))


def floor(some: list[Sample]) -> tuple[float, float]:
    """Memory and handles between the peaks, which come and go with batches and evaluations: the lowest tenth's end.

    What leaks is never given back, so it raises this, too.
    """
    memory, handles = ([getattr(one, name) for one in some] for name in ("memory", "handles"))
    return statistics.quantiles(memory, n=10)[0], statistics.quantiles(handles, n=10)[0]


def verdict(seen: list[Sample], minutes: float) -> tuple[bool, str]:
    """Compare the sixth of the time after the warm-up with the last sixth, without the evaluations' own processes."""
    usual = statistics.mode(one.processes for one in seen)
    training = [one for one in seen if one.processes == usual]
    settled = (one.minutes for one in seen if one.updates >= min(SETTLED, seen[-1].updates / 3))
    warm, sixth = max(min(WARM_UP, minutes / 3), next(settled)), minutes / 6
    memory, handles = floor([one for one in training if warm <= one.minutes < warm + sixth])
    memory_after, handles_after = floor([one for one in training if one.minutes >= minutes - sixth])
    growth = memory_after / memory - 1
    return growth <= GROWTH and handles_after <= handles, (
        f"memory {memory:.1f} → {memory_after:.1f} MB ({growth:+.2%}, allowed {GROWTH:+.0%}), "
        f"handles {handles:g} → {handles_after:g}, {usual} processes, minute {warm:.1f} to {minutes:g}, "
        f"{seen[-1].updates} updates"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "pong.toml")
    arguments, flags = parser.parse_known_args()
    seen = watch(arguments.config, flags, arguments.minutes)
    print(f"{'minutes':>8} {'updates':>8} {'processes':>10} {'memory MB':>10} {'handles':>8}")
    for one in seen[:: max(len(seen) // ROWS, 1)]:
        print(f"{one.minutes:8.1f} {one.updates:8} {one.processes:10} {one.memory:10.1f} {one.handles:8}")
    good, what = verdict(seen, arguments.minutes)
    print(f"soak: {'passed' if good else 'FAILED'}: {what}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
