"""Train configs/pong.toml for half an hour and watch the memory and the file handles of all its processes.

Fails if, after the first minutes and updates, the memory grows by more than 2 % or the file handles at all.
"""

import itertools
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from common import ROOT, run
from processes import Sample, pong_train, samples

WARM_UP = 3.0  # minutes, or a third of the time if that is less
SETTLED = 150  # updates after which memory has settled: three minutes on two idle cores
GROWTH = 0.02
SAMPLES = 360  # over the whole time
FLAGS = (  # checkpoints and evaluations included: some in each minute
    *("--total-steps", 10**12, "--checkpoint-every", 20, "--eval-episodes", 2, "--device", "cpu"),
    # with an agent that stays as bad as it is, since a better player's longer games need more memory
    *("--learning-rate", 1e-12, "--learning-rate-end", 1e-12),
)


def main(
    config: Annotated[Path, tyro.conf.arg(help="recipe")] = ROOT / "configs/pong.toml",
    minutes: Annotated[float, tyro.conf.arg(help="to watch")] = 30.0,
) -> int:
    """Watch a run, and print a table and the verdict; status 1 if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with pong_train(config, "--run-dir", path, *FLAGS, stdout=subprocess.DEVNULL) as process:
            watched = samples(process, path / "metrics.csv", 60 * minutes / SAMPLES)
            taken = list(itertools.takewhile(lambda sample: sample.minutes < minutes, watched))
    print(f"{'minutes':>8} {'updates':>8} {'processes':>10} {'memory MB':>10} {'handles':>8}")
    for sample in taken[::12]:
        print("{:8.1f} {:8} {:10} {:10.1f} {:8}".format(*sample))
    passed, text = verdict(taken, minutes)
    print(f"soak: {'passed' if passed else 'FAILED'}: {text}")
    return 0 if passed else 1


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
