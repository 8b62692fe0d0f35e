"""Train for half an hour, and watch the memory, file handles and processes of the trainer.

    python scripts/soak.py --minutes 30

fails if the trainer ever needs more than 700 MiB, or if from the second to the last third of the time its memory grows
by more than 2 %, or its handles or processes grow at all. The lowest number of each third counts, as a leak raises it.
"""

import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import psutil
import tyro
from common import ROOT, run
from pydantic import PositiveFloat

from pong.config import RunError

MOST_MIB = 700
GROWTH = (1.02, 1, 1)  # of memory, handles and processes, at most
SAMPLES = 360  # over the whole time
FLAGS = (  # checkpoints and evaluations included: some in each minute
    *("--total-steps", "1e12", "--checkpoint-every", "20", "--eval-episodes", "2", "--device", "cpu"),
    # with a policy that stays as good as it is, since a better player's longer games need more memory
    *("--init", "pong", "--learning-rate", "1e-12", "--learning-rate-end", "1e-12"),
)


def main(minutes: Annotated[PositiveFloat, tyro.conf.arg(help="to watch")] = 30.0) -> int:
    """Watch a run of pong.toml and print the verdict; status 1 if it failed."""
    _, before, after = (np.min(third, axis=0) for third in np.array_split(list(watch(minutes)), 3))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)
    passed = peak <= MOST_MIB and (after <= before * GROWTH).all()
    print(f"soak: {'passed' if passed else 'FAILED'}: peak {peak:.0f} MiB; from {before.round(1)} to {after.round(1)}")
    return 0 if passed else 1


def watch(minutes: float) -> Iterator[tuple[float, int, int]]:
    """Train for some minutes; now and then yields the trainer's memory in MiB, handles and processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pong", "train", "pong", *FLAGS, "--run-dir", f"{folder}/run"]
        trainer = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            for i in range(1, SAMPLES + 1):
                time.sleep(60 * minutes / SAMPLES)
                if trainer.poll() is not None:
                    raise RunError(f"`pong train` ended by itself with status {trainer.returncode}")
                memory, children = trainer.memory_full_info().uss / 2**20, trainer.children(recursive=True)
                sample = memory, trainer.num_fds(), 1 + len(children)
                if i % 12 == 0:
                    print("minute {:.1f}: {:.1f} MiB, {} handles, {} processes".format(minutes * i / SAMPLES, *sample))
                yield sample
        finally:
            trainer.send_signal(signal.SIGINT)
            trainer.wait(60)


if __name__ == "__main__":
    run(main)
