"""A temporary stand-in for the new ``pong/run.py``: it passes training on to ``commands/train_run.py``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pong.config import Config

FREE = ("device", "players", "emulator", "checkpoint_seconds", "stop_at_mean100", "total_steps")


@dataclass(frozen=True)
class TrainRequest:
    """What to train."""

    config: Config
    run_dir: Path | None = None
    resume: bool = False
    checkpoint: Path | None = None
    init: Path | None = None


def train(request: TrainRequest, command: list[str], started: float) -> int:
    """Train, and return the exit status."""
    from pong.commands import train_run

    if request.checkpoint:
        request = dataclasses.replace(request, run_dir=request.run_dir or request.checkpoint.absolute().parent.parent)
    return train_run.run(request, command, started)
