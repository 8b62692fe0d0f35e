"""Watch the memory and the file handles of a training and all its processes, for half an hour.

    python scripts/soak.py --minutes 30

fails if, after the first minutes and updates, the memory grows by more than 2 % or the file handles at all, or if the
trainer ever needs more than 700 MiB.
"""

import contextlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import psutil
import tyro
from common import ROOT, run
from pydantic import PositiveFloat

from pong.config import RunError, load_config

WARM_UP = 3.0  # minutes, or a third of the time if that is less
SETTLED = 150  # updates after which memory has settled: three minutes on two slow cores
GROWTH = 0.02
MOST_MIB = 700
SAMPLES = 360  # over the whole time
FLAGS = (  # checkpoints and evaluations included: some in each minute
    *("--total-steps", 10**12, "--checkpoint-every", 20, "--eval-episodes", 2, "--device", "cpu"),
    # with a policy that stays as good as it is, since a better player's longer games need more memory
    *("--learning-rate", 1e-12, "--learning-rate-end", 1e-12),
)


def main(
    config: Annotated[Path, tyro.conf.arg(help="recipe")] = ROOT / "configs/pong.toml",
    minutes: Annotated[PositiveFloat, tyro.conf.arg(help="to watch")] = 30.0,
) -> int:
    """Watch a run, and print a table and the verdict; status 1 if it failed."""
    load_config(config)  # says what is wrong with it
    samples = pd.DataFrame(watch(config, minutes))
    print(samples[::12].to_string(index=False, float_format="%.1f"))
    passed, text = verdict(samples, minutes)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)
    passed &= peak <= MOST_MIB
    print(f"soak: {'passed' if passed else 'FAILED'}: {text}, peak {peak:.0f} MiB (allowed {MOST_MIB})")
    return 0 if passed else 1


def watch(config: Path, minutes: float) -> Iterator[dict[str, float]]:
    """Train for some minutes, and look at the processes now and then."""
    with tempfile.TemporaryDirectory() as folder:
        trained = ROOT / "pretrained" / config.stem
        init = ("--init", trained) if trained.exists() else ()
        command = [sys.executable, "-m", "pong", "train", config, *FLAGS, *init, "--run-dir", f"{folder}/run"]
        process, start = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL), time.monotonic()
        curve = Path(folder, "run/metrics.csv")
        try:
            while (passed := (time.monotonic() - start) / 60) < minutes:
                if process.poll() is not None:
                    raise RunError(f"`pong train` ended by itself with status {process.returncode}")
                updates = len(curve.read_bytes().splitlines()) - 1 if curve.exists() else 0
                yield {"minutes": passed, "updates": updates, **usage(psutil.Process(process.pid))}
                time.sleep(60 * minutes / SAMPLES)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def usage(root: psutil.Process) -> dict[str, float]:
    """What a process and its descendants use, except those that just ended."""
    counts = {"processes": 0, "MiB": 0.0, "handles": 0}
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            counts["MiB"] += getattr(memory, "pss", memory.uss) / 2**20  # a page that n processes share counts as 1/n
            counts["handles"] += process.num_fds()
            counts["processes"] += 1
    return counts


def verdict(samples: pd.DataFrame, minutes: float) -> tuple[bool, str]:
    """Compare the sixth of the time after the warm-up with the last sixth, without evaluations in other processes.

    The lowest tenth counts: peaks come and go with batches, but a leak raises the floor, too.
    """
    updates, sixth = samples.updates.iloc[-1], minutes / 6
    settled = samples.minutes[samples.updates >= min(SETTLED, updates / 3)].iloc[0]
    start = max(min(WARM_UP, minutes / 3), settled)
    training = samples[samples.processes == samples.processes.mode()[0]].set_index("minutes")[["MiB", "handles"]]
    before, after = training[start : start + sixth].quantile(0.1), training[minutes - sixth :].quantile(0.1)
    growth = after.MiB / before.MiB - 1
    return growth <= GROWTH and after.handles <= before.handles, (
        f"memory {before.MiB:.1f} → {after.MiB:.1f} MiB ({growth:+.2%}, allowed {GROWTH:+.0%}), "
        f"handles {before.handles:g} → {after.handles:g}, minute {start:.1f} to {minutes:g}, {updates} updates"
    )


if __name__ == "__main__":
    run(main)
