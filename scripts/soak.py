"""Train for half an hour and print the trainer's memory, file handles and processes, none of which may keep growing."""

import resource
import signal
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import psutil
import tyro
from common import ROOT, run
from pydantic import PositiveFloat

SAMPLES = 60
FLAGS = (  # checkpoints and evaluations included: some in each minute
    *("--total-steps", "1e12", "--checkpoint-every", "20", "--eval-episodes", "2", "--device", "cpu"),
    # with a policy that stays as good as it is, since a better player's longer games need more memory
    *("--init", "pong", "--learning-rate", "1e-12", "--learning-rate-end", "1e-12"),
)


def main(minutes: Annotated[PositiveFloat, tyro.conf.arg(help="to watch")] = 30.0) -> None:
    """Watch a run of pong.toml."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pong", "train", "pong", *FLAGS, "--run-dir", f"{folder}/run"]
        trainer = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            for sample in range(1, SAMPLES + 1):
                time.sleep(60 * minutes / SAMPLES)
                memory, processes = trainer.memory_full_info().uss / 2**20, 1 + len(trainer.children(recursive=True))
                usage = f"{memory:.0f} MiB, {trainer.num_fds()} handles, {processes} processes"
                print(f"minute {minutes * sample / SAMPLES:.1f}: {usage}", flush=True)
        finally:
            trainer.send_signal(signal.SIGINT)
            trainer.wait(60)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10  # in KiB on Linux
    print(f"peak: {peak:.0f} MiB")


if __name__ == "__main__":
    run(main)
