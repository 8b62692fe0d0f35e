"""A run's folder: made, locked, and what it says of the run's circumstances."""

import contextlib
import fcntl
import json
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pong import envs
from pong.checkpoint import Counters, file_name, save_policy, write_atomically
from pong.config import Config, InputError, to_toml
from pong.distributed import cores

PACKAGES = (*envs.PACKAGES, "numpy", "tensorboard", "pong-from-pixels")


def new_run_folder(config: Config) -> Path:
    """A name for the folder of a new run: what, which seed, when."""
    return Path("runs") / f"{config.name}-s{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def create_run_folder(
    config: Config, folder: Path, device: torch.device, command: list[str], policy: torch.nn.Module | None = None
) -> None:
    """Fill a run's folder with run.json (versions, git revision, device, command) and config.toml (as resolved).

    Args:
        config: of the run.
        folder: may exist.
        device: that the run computes on.
        command: that made it.
        policy: what it begins with, if not with random weights: kept as the checkpoint of update 0.

    Raises:
        InputError: the folder already holds a run, or can't be written.
    """
    if (folder / "config.toml").exists():
        raise InputError(f"run folder {folder} already holds a run; choose another --run-dir")
    about = {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_revision": _git_revision(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_count": cores(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **{name: _version(name) for name in PACKAGES}},  # +cpu, +cu130
    }
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "run.json", (json.dumps(about, indent=2) + "\n").encode())
        if policy is not None:
            save_policy(folder / "checkpoints" / file_name(0), config, Counters(), policy)
        write_atomically(folder / "config.toml", to_toml(config).encode())  # the last: with it, the folder holds a run


@contextlib.contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder; the lock ends with this process, however it ends.

    Raises:
        InputError: another process holds the folder, or it can't be written.
    """
    with contextlib.ExitStack() as stack:
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / "lock").open("w"))
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its players don't inherit it
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"run folder {folder} is being trained by another process; wait or stop that one"
            ) from None
        except OSError as error:
            raise InputError(
                f"run folder {folder} can't be locked: {error.strerror}; choose another --run-dir"
            ) from None
        yield


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """At its start, a run that can't write to its folder is refused.

    Raises:
        InputError: what is done here meets an OSError.
    """
    try:
        yield
    except OSError as error:
        what = f"run folder {folder} can't be written: {error.strerror or error}"
        raise InputError(f"{what}; make room there or choose another --run-dir") from None


def command_of(folder: Path) -> str:
    """The command that makes this run again; a name in it that is no text is told as far as it is."""
    try:
        command = json.loads((folder / "run.json").read_text(encoding="utf-8"))["command"]
    except (OSError, ValueError, KeyError):
        return "unknown command"
    return shlex.join(command).encode(errors="replace").decode()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
