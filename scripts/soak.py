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

import pandas as pd
import psutil
import tyro
from common import ROOT, run
from pydantic import PositiveFloat

from pong.config import RunError

LIMITS = pd.Series({"MiB": 1.02, "handles": 1, "processes": 1})  # of growth
MOST_MIB = 700
SAMPLES = 360  # over the whole time
FLAGS = (  # checkpoints and evaluations included: some in each minute
    *("--total-steps", "1e12", "--checkpoint-every", "20", "--eval-episodes", "2", "--device", "cpu"),
    # with a policy that stays as good as it is, since a better player's longer games need more memory
    *("--init", "pong", "--learning-rate", "1e-12", "--learning-rate-end", "1e-12"),
)


def main(minutes: Annotated[PositiveFloat, tyro.conf.arg(help="to watch")] = 30.0) -> int:
    """Watch a run of pong.toml, and print a table and the verdict; status 1 if it failed."""
    samples = pd.DataFrame(watch(minutes))
    print(samples[::12].to_string(index=False, float_format="%.1f"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)
    _, before, after = (third.min() for _, third in samples.groupby(pd.cut(samples.minutes, 3), observed=False))
    growth = after[LIMITS.index] / before[LIMITS.index]
    passed = peak <= MOST_MIB and (growth <= LIMITS).all()
    print(f"soak: {'passed' if passed else 'FAILED'}: peak {peak:.0f} MiB, growth:", growth.round(3).to_dict())
    return 0 if passed else 1


def watch(minutes: float) -> Iterator[dict[str, float]]:
    """Train for some minutes, and look at the trainer now and then."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pong", "train", "pong", *FLAGS, "--run-dir", f"{folder}/run"]
        process, start = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL), time.monotonic()
        try:
            while (passed := (time.monotonic() - start) / 60) < minutes:
                if process.poll() is not None:
                    raise RunError(f"`pong train` ended by itself with status {process.returncode}")
                trainer = psutil.Process(process.pid)
                used = {"MiB": trainer.memory_full_info().uss / 2**20, "handles": trainer.num_fds()}
                yield {"minutes": passed, **used, "processes": 1 + len(trainer.children(recursive=True))}
                time.sleep(60 * minutes / SAMPLES)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


if __name__ == "__main__":
    run(main)
