"""How a training ends before its time: by a signal, or by an error that is said in one line."""

import contextlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pong import checkpoint
from pong.config import Config, RunError


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """The first SIGINT, SIGTERM or SIGHUP asks for a stop after this update; the second one stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield lambda: False
        return

    def on_signal(number: int, frame: types.FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        with contextlib.suppress(OSError):  # nobody may be there to read it
            print("\npong: finishing this update, then saving; press Ctrl-C again to stop at once", file=sys.stderr)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN or number != signal.SIGHUP:  # nohup's run continues when the terminal is closed
            signal.signal(number, on_signal)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def failure_in_one_line(config: Config, folder: Path | None) -> Iterator[None]:
    """What ends a training against its will is said in one line, which names the last good checkpoint.

    Raises:
        RunError: it was something that can happen; a mistake in the program keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        full = _full_memory(error)
        if not (full or isinstance(error, (FloatingPointError, RunError, OSError))):
            raise
        what = " ".join(str(error).split())
        if full:
            rows = "num_envs or horizon" if config.until == "steps" else "num_envs"
            instead = ", or use --device cpu" if full == "GPU" else ""
            what = f"the {full}'s memory is full: lower {rows} or hidden{instead} ({what})"
        saved = checkpoint.checkpoints(folder / "checkpoints") if folder else []
        if folder:
            what += f"; the last good checkpoint is {saved[-1]}" if saved else "; there is no checkpoint yet"
        raise RunError(what) from error


def _full_memory(error: Exception) -> str | None:
    """Whose memory is full, if that is the error; on the CPU torch has no class for it, only a text."""
    if isinstance(error, torch.OutOfMemoryError):
        return "GPU"
    return "machine" if isinstance(error, MemoryError) or "can't allocate memory" in str(error) else None
