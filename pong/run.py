"""A training run: its folder and lock, evaluations, checkpoints and signals."""

import contextlib
import fcntl
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pong import checkpoint
from pong.checkpoint import Checkpoint, Counters, write_atomically
from pong.config import Config, InputError, RunError, load_config, to_toml
from pong.distributed import Ranks, cores, share_heap, threads
from pong.envs.base import EmulatorState
from pong.evaluate import Evaluation, evaluate
from pong.policies import make_policy
from pong.tracking import Tracker, say
from pong.train import Trainer, Update, check, choose_device, gpu_problem, load_weights

# keys that don't define a run and may change when it is resumed
FREE = ("device", "players", "emulator", "checkpoint_seconds", "stop_at_mean100", "total_steps")
PACKAGES = ("ale-py", "gymnasium", "vizdoom", "numpy", "tensorboard", "pong-from-pixels")


@dataclass(frozen=True)
class TrainRequest:
    """A run to start or to resume."""

    config: Config
    run_dir: Path | None = None  # a run in it is resumed; None makes up a name for a new folder
    checkpoint: Path | None = None  # a file from which the new run continues, with all its state
    init: Path | None = None  # a run, checkpoint or exported folder, with whose policy the new run starts


def train(request: TrainRequest, command: list[str], started: float) -> int:
    """Train, alone or as one of several ranks; return the exit status. The minutes count from ``started``."""
    ranks, config = Ranks.from_environment(), request.config
    share_heap()
    with ranks.process_group(choose_device(config.device, ranks.local_rank)), contextlib.ExitStack() as stack:
        check(config, ranks)
        folder, start, status = None, Checkpoint(config), ""
        try:
            if ranks.rank == 0:  # it alone reads and writes files
                folder, start, status = stack.enter_context(_open_run(request, command))
        except InputError:
            ranks.all_gather(None)
            raise
        if not (start := ranks.all_gather(start)[0]):
            return 2  # rank 0 says why
        console = Console(soft_wrap=True, highlight=False, quiet=ranks.rank > 0)
        say(console, f"{folder}: {config.name}, seed {config.seed}, {_place(config)}; {status}")
        stack.enter_context(_failures_in_one_line(folder))
        stop = stack.enter_context(stop_requested(ranks, console, f"pong train --resume {shlex.quote(str(folder))}"))
        trainer = stack.enter_context(contextlib.closing(Trainer(config, ranks)))
        if start.policy:
            trainer.restore(start)
        recorder = None
        if folder:  # everything fits: now the folder may change
            _extend(config, start, folder, console)
            with writable(folder):
                tracker = Tracker(config, folder, console, start.counters, started)
            recorder = Recorder(folder, trainer, stack.enter_context(tracker))
        with threads(1):  # the other cores belong to the players
            _run(trainer, recorder, ranks, stop)
        if stop():
            return 130
        follow = "watch it: pong play" if config.has_screen else "score it: pong eval"
        say(console, f"done; {follow} {shlex.quote(str(folder))}")
        return 0


def _run(trainer: Trainer, recorder: "Recorder | None", ranks: Ranks, stop: Callable[[], bool]) -> None:
    """Train until the steps are made, the goal is reached or a stop is requested; save now and then, and at the end."""

    def while_playing() -> None:
        if recorder:
            recorder.tracker.wait()
        if stop() and ranks.size == 1:  # other ranks would wait for this one
            raise _StoppedError

    is_done, _ = _agree(recorder, ranks, stop)
    if is_done or trainer.progress >= 1:  # already before this start
        goal = "total-steps" if trainer.progress >= 1 else "stop-at-mean100"
        if recorder and not stop():
            recorder.tracker.print(f"the run is complete, it has reached its {goal}; extend it with a higher --{goal}")
        return
    trainer.rollout.while_playing = while_playing
    with contextlib.suppress(_StoppedError):
        for update in trainer.run():
            if recorder:
                recorder.record(update)
            is_done, is_due = _agree(recorder, ranks, stop)
            if is_done:
                break
            if is_due:
                play = trainer.rollout.state()  # of all ranks
                if recorder:
                    recorder.save(play)
    play = trainer.rollout.state()
    if recorder:
        recorder.save(play, final=True)


def _agree(recorder: "Recorder | None", ranks: Ranks, stop: Callable[[], bool]) -> tuple[bool, bool]:
    """Whether any rank wants to stop, and whether rank 0 wants to save."""
    is_done = stop() or (recorder is not None and recorder.reached_goal())
    answers = ranks.all_gather((is_done, recorder is not None and recorder.is_due()))
    return any(done for done, _ in answers), any(due for _, due in answers)


class _StoppedError(Exception):
    """A stop was requested during a rollout; the run is where it was before that rollout."""


class Recorder:
    """Evaluates, logs and saves a run while it trains."""

    def __init__(self, folder: Path, trainer: Trainer, tracker: Tracker):
        self.tracker = tracker
        self._folder, self._trainer, self._config = folder / "checkpoints", trainer, trainer.config
        self._lock = (folder / "lock").stat()  # open for the whole run, so no other file can have its number
        self._saved, self._saved_at = tracker.counters.updates, time.monotonic()
        self._evaluation: Evaluation | None = None  # after the last update

    def record(self, update: Update) -> None:
        """Log an update, and evaluate the policy after every ``checkpoint_every`` updates."""
        if not math.isfinite(update.stats.policy_loss):
            raise FloatingPointError(f"update {update.number}: the loss is not finite; lower learning_rate")
        trainer, episodes = self._trainer, self._config.eval_episodes
        is_due = episodes and self._at_boundary()
        self._evaluation = evaluate(trainer.actor, self._config, episodes, seed=update.number) if is_due else None
        self.tracker.track(update, trainer.steps, trainer.policy, self._evaluation)

    def is_due(self) -> bool:
        """Whether a checkpoint is due: by updates, or by the clock where a run can resume from any update."""
        seconds = self._config.checkpoint_seconds if self._config.is_pong else 0
        return self._at_boundary() or 0 < seconds <= time.monotonic() - self._saved_at

    def _at_boundary(self) -> bool:
        return self._trainer.updates % self._config.checkpoint_every == 0

    def reached_goal(self) -> bool:
        """Whether the mean of the last 100 games is at least ``stop_at_mean100``."""
        goal, mean = self._config.stop_at_mean100, self.tracker.counters.mean100
        return goal is not None and mean is not None and mean >= goal

    def save(self, play: list[EmulatorState] | None, *, final: bool = False) -> None:
        """Write a checkpoint, unless this update has one; only if the final one can't be written, that is an error."""
        trainer, evaluation, lock = self._trainer, self._evaluation, self._folder.with_name("lock")
        self._saved_at = time.monotonic()
        if not lock.exists() or not os.path.samestat(self._lock, lock.stat()):
            raise RunError(f"run folder {lock.parent} was deleted, moved or replaced during training")
        if trainer.updates == self._saved:
            return
        is_best = evaluation is not None and evaluation.mean > checkpoint.best_score(self._folder)
        counters = replace(self.tracker.counters, best=evaluation.mean if evaluation and is_best else None)
        self.tracker.sync()
        try:
            path = checkpoint.save(self._folder, trainer.checkpoint(counters, play), best=is_best)
        except OSError as error:
            if final:
                raise
            self.tracker.print(f"warning: {error}; training continues, and the next checkpoint is tried again")
            return
        self._saved = trainer.updates
        self.tracker.print(f"saved {path}" + (f", the best so far: {evaluation}" if is_best else ""))


@contextlib.contextmanager
def _open_run(request: TrainRequest, command: list[str]) -> Iterator[tuple[Path, Checkpoint, str]]:
    """The locked run folder, and where training starts, also in words."""
    config, start = request.config, Checkpoint(request.config)
    folder = request.run_dir or Path("runs") / f"{config.name}-s{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    if request.checkpoint:
        start = _load(config, request.checkpoint)
    elif request.init:
        policy = make_policy(config)
        load_weights(policy, checkpoint.load(request.init, trust=True).policy)  # its config is not used
        start = Checkpoint(config, policy=policy.state_dict())
    if (path := folder / "config.toml").exists() and not any((folder / x).exists() for x in ("lock", "checkpoints")):
        init = f" --init {folder}" if (folder / "policy.safetensors").exists() else ""
        raise InputError(f"run folder {folder}: it has no checkpoints; start a new run: pong train {path}{init}")
    with _locked(folder):
        status, is_new = "starting the emulators …", not path.exists()
        if is_new:
            _create_run_folder(folder, request, command, start)
        elif any((folder / "checkpoints").glob(f"*{checkpoint.SUFFIX}")):  # the same command after a preemption
            start = _load(config, folder)
        else:
            check_same_run(config, load_config(path, trust=True), folder)
            status = "no checkpoint yet: starting from the beginning"
        if start.policy and not (is_new and request.init):
            restart = "; games restart" if start.config.is_pong and not start.play else ""
            status = f"resuming after update {start.counters.updates}{restart}"
        yield folder, start, status


def check_same_run(config: Config, before: Config, path: Path) -> None:
    """Refuse to continue a run with changes to what defines it."""
    for key, value in before:
        if key not in FREE and getattr(config, key) != value:
            differs = f"{key} = {getattr(config, key)!r}, but the run was started with {value!r}"
            raise InputError(f"{path}: {differs}; set it back, or start a new run")


def _load(config: Config, path: Path) -> Checkpoint:
    """A checkpoint from which a run with this config can continue."""
    saved = checkpoint.load(path, trust=True)  # its config must equal the one that the user approved
    check_same_run(config, saved.config, path)
    if saved.config.total_steps != config.total_steps < saved.counters.steps:
        done = f"{saved.counters.steps} steps are done; give at least as many, or leave it out"
        raise InputError(f"{path}: total_steps = {config.total_steps}, but {done}")
    if saved.counters.updates and not (saved.optimizer and (saved.baseline or config.baseline == "none")):
        raise InputError(f"{path}: the checkpoint holds only a policy; start a new run with --init {path}")
    # neither emulator can restore the other's games
    return saved if saved.config.emulator == config.emulator else replace(saved, play=[])


def _create_run_folder(folder: Path, request: TrainRequest, command: list[str], start: Checkpoint) -> None:
    """Write run.json, the checkpoint or the policy to start from if there is one, and config.toml."""
    config, first = request.config, folder / "checkpoints" / checkpoint.file_name(start.counters.updates)
    with writable(folder):
        write_atomically(folder / "run.json", (json.dumps(_about(config, command), indent=2) + "\n").encode())
        if request.checkpoint:
            first.parent.mkdir(exist_ok=True)
            write_atomically(first, request.checkpoint.read_bytes())
        elif start.policy:
            checkpoint.save_policy(first, config, Counters(), start.policy)
        write_atomically(folder / "config.toml", to_toml(config).encode())  # last: with it, the folder holds a run


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder; the lock ends with this process, however it ends."""
    with contextlib.ExitStack() as stack:
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("lock", "checkpoints"):  # in a foreign run, files in a link's target would be lost
                if (folder / name).is_symlink():
                    raise InputError(f"run folder {folder}: {name} is a symbolic link; replace it by what it links to")
            file = stack.enter_context((folder / "lock").open("w"))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                problem = "is being trained by another process; wait for it or stop it"
                raise InputError(f"run folder {folder} {problem}") from None
        yield


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Report an OSError at the start of a run as bad input."""
    try:
        yield
    except OSError as error:
        problem = f"run folder {folder} can't be written: {error.strerror or error}"
        raise InputError(f"{problem}; free some space or choose another --run-dir") from None


def _about(config: Config, command: list[str]) -> dict[str, Any]:
    """The circumstances of a run, for run.json."""
    device, revision = choose_device(config.device), ""
    git = ["git", "--git-dir=.git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # of this checkout
    with contextlib.suppress(OSError):
        revision = subprocess.run(git, cwd=Path(__file__).parents[1], capture_output=True, text=True).stdout.strip()
    versions = {package.name: package.version for package in distributions() if package.name in PACKAGES}
    return {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_revision": revision or "unknown",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_count": cores(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **versions},  # torch's with +cpu or +cu130
    }


def _place(config: Config) -> str:
    if choose_device(config.device).type == "cuda":
        return f"learning on {torch.cuda.get_device_name()}, playing on the CPU"
    return "on the CPU" if config.device == "cpu" else f"on the CPU ({gpu_problem()})"


def _extend(config: Config, start: Checkpoint, folder: Path, console: Console) -> None:
    """Write a changed ``total_steps`` into the run's config.toml, from which it is resumed."""
    before = load_config(folder / "config.toml", trust=True)
    if config.total_steps != before.total_steps:
        write_atomically(folder / "config.toml", to_toml(before.replace(total_steps=config.total_steps)).encode())
        done = f"schedules continue at {min(start.counters.steps / config.total_steps, 1):.0%} of the run"
        say(console, f"total_steps is now {config.total_steps:,}: {done}")


@contextlib.contextmanager
def stop_requested(ranks: Ranks, console: Console, resume: str) -> Iterator[Callable[[], bool]]:
    """The first SIGINT, SIGTERM or SIGHUP, or the launcher's end, requests a stop; a second signal stops at once."""
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        with contextlib.suppress(OSError):  # stderr may be closed
            print("\npong: finishing this update, then saving; press Ctrl-C again to stop at once", file=sys.stderr)

    numbers = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
    if numbers and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup, a run outlives its terminal
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield lambda: bool(received) or ranks.is_orphan
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received or ranks.is_orphan:
            reason = "the process that started this one is gone; " if ranks.is_orphan else ""
            say(console, f"{reason}resume with: {resume}")


@contextlib.contextmanager
def _failures_in_one_line(folder: Path | None) -> Iterator[None]:
    """Turn errors that can end any run into a RunError of one line, which names the last good checkpoint."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split())
        is_full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if is_full or "can't allocate memory" in message:  # torch on the CPU
            instead = ", or use --device cpu" if isinstance(error, torch.OutOfMemoryError) else ""
            message = f"out of memory: lower num_envs, horizon or hidden{instead} ({message})"
        elif not isinstance(error, (FloatingPointError, RunError, OSError)):
            raise
        if folder and folder.exists():
            saved = checkpoint.checkpoints(folder / "checkpoints")
            message += f"; the last good checkpoint is {saved[-1]}" if saved else "; there is no checkpoint yet"
        raise RunError(message) from error
