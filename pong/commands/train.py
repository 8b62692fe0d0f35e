"""``pong train``: learn a config, or go on with a run."""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pong.commands.flags import parse
from pong.config import Config, InputError, RunError, load_config, to_toml, validate

if TYPE_CHECKING:
    from pong.checkpoint import Checkpoint, Counters
    from pong.envs import EmulatorState
    from pong.evaluate import Evaluation
    from pong.policies import Policy
    from pong.ranks import Ranks
    from pong.tracking import Tracker
    from pong.train import Trainer, Update

# what does not define a run, and may change when it is resumed
FREE = ("device", "act_on", "players", "emulator", "checkpoint_seconds", "stop_at_mean100", "total_steps")
SHAPE = ("env", "policy", "hidden", "channels", "actions", "frames", "last_action")  # of a policy's weights


@dataclasses.dataclass(frozen=True)
class TrainInput:
    """What a train command asks for."""

    config: Config
    run_dir: Path | None = None
    resume: bool = False  # the run in run_dir
    checkpoint: Path | None = None  # where to go on, if not from the newest one
    init: Path | None = None  # whose policy to begin with


def train(arguments: list[str], began: float | None = None) -> int:
    """Train a config; keys of the config are flags. Under ``torchrun``, together with the other ranks.

    A run's minutes count from when the command ``began``, on the monotonic clock; from now if None.
    """
    began = time.monotonic() if began is None else began
    asked = _train_input(arguments)

    from pong.ranks import Ranks  # here, so that help and bad input answer at once

    ranks = Ranks.from_environment()
    with ranks.together():
        return _train(asked, ranks, ["pong", "train", *arguments], began)


def _train(asked: TrainInput, ranks: "Ranks", command: list[str], began: float) -> int:
    from pong import checkpoint
    from pong.threads import threads
    from pong.tracking import RunConsole, Tracker
    from pong.train import Trainer, check

    check(asked.config, ranks)
    folder, begin = None, checkpoint.Checkpoint(asked.config)
    initial = _initial_policy(asked)
    with contextlib.ExitStack() as stack:
        if ranks.rank == 0:  # it alone reads and writes files
            folder = stack.enter_context(_run_folder(asked, command, initial))
            begin = _beginning(asked, folder)
        begin = ranks.all_gather(begin)[0]
        console = RunConsole(quiet=ranks.rank > 0)
        console.print(f"{folder}: {asked.config.name}, seed {asked.config.seed}; {_how(asked, begin)}", markup=False)
        stack.enter_context(_failure_in_one_line(asked.config, folder))
        stop = stack.enter_context(_stop_requested())
        trainer = stack.enter_context(contextlib.closing(Trainer(asked.config, ranks)))
        if begin.policy:
            trainer.restore(begin)
        checkpointer = None
        if folder:  # nothing that was there has been touched so far
            _set_aside(asked, begin, console.print)
            _lengthen(asked.config, begin, folder, console.print)
            tracker = stack.enter_context(Tracker(asked.config, folder, console, begin.counters, began))
            checkpointer = Checkpointer(folder, trainer, tracker, begin.counters)
        with threads(1):  # the other cores belong to the players
            _run(trainer, checkpointer, ranks, stop)
    return 130 if stop() else 0


def _run(trainer: "Trainer", checkpointer: "Checkpointer | None", ranks: "Ranks", stop: Callable[[], bool]) -> None:
    """Train until the steps are made, the goal is reached or somebody asks for a stop; save now and then, and last."""

    def asked() -> tuple[bool, bool]:
        """Whether any rank has had enough, and whether it is time to save."""
        enough = stop() or (checkpointer is not None and checkpointer.reached_goal())
        answers = ranks.all_gather((enough, checkpointer is not None and checkpointer.is_due()))
        return any(enough for enough, _ in answers), any(due for _, due in answers)

    def while_playing() -> None:
        if checkpointer:
            checkpointer.wait()
        if stop() and ranks.size == 1:  # others would wait for this one
            raise _StoppedError

    if asked()[0]:  # a run that has reached its goal is left as it is
        return
    trainer.rollout.while_playing = while_playing
    with contextlib.suppress(_StoppedError):
        for update in trainer.run():
            if checkpointer:
                checkpointer.keep(update)
            enough, due = asked()
            if enough:
                break
            if due:
                play = trainer.rollout.state()  # of all ranks
                if checkpointer:
                    checkpointer.try_to_save(play)
    play = trainer.rollout.state()
    if checkpointer:
        checkpointer.save(play)


class _StoppedError(Exception):
    """Somebody asked for a stop while a rollout was played; the run is where it was before it."""


@contextlib.contextmanager
def _run_folder(asked: TrainInput, command: list[str], policy: "Policy | None") -> Iterator[Path]:
    """The run's folder, made or taken up; nobody else may write in it meanwhile."""
    from pong.folder import create_run_folder, lock_run_folder, new_run_folder
    from pong.train import choose_device

    device = choose_device(asked.config.device)
    folder = asked.run_dir or new_run_folder(asked.config)
    with lock_run_folder(folder):
        if not asked.resume:
            create_run_folder(asked.config, folder, device, command, policy)
        yield folder


def _initial_policy(asked: TrainInput) -> "Policy | None":
    """What a new run begins with, if not with random weights.

    Raises:
        InputError: it can't be read, or is of another shape.
    """
    from pong.checkpoint import load
    from pong.train import load_weights, make_policy

    if asked.init is None:
        return None
    policy, saved = make_policy(asked.config), load(asked.init)
    try:
        load_weights(policy, saved.policy)
    except InputError as error:
        pairs = ((key, getattr(saved.config, key), getattr(asked.config, key)) for key in SHAPE)
        differs = [f"{key} is {there!r} there and {here!r} here" for key, there, here in pairs if there != here]
        raise InputError(f"train: --init {asked.init}: another network: {'; '.join(differs) or error}") from None
    return policy


def _beginning(asked: TrainInput, folder: Path) -> "Checkpoint":
    """Where training begins: at a checkpoint, or at the beginning while there is none."""
    from pong import checkpoint

    if asked.init:
        return checkpoint.load(folder / "checkpoints" / checkpoint.file_name(0))
    if not asked.resume or not (asked.checkpoint or checkpoint.exists(folder)):
        return checkpoint.Checkpoint(asked.config)
    loaded = checkpoint.load(asked.checkpoint or folder)
    _same(asked.config, loaded.config, folder)
    if loaded.counters.updates and loaded.config.baseline != "none" and not loaded.baseline:
        raise InputError(f"{folder}: the checkpoint holds no baseline, a policy alone; a new run can --init with it")
    if loaded.config.emulator != asked.config.emulator:  # which can't take the other one's games up
        return dataclasses.replace(loaded, play=[])
    return loaded


_PLACES = {"machine": "the machine", "ale": "ALE"}


def _how(asked: TrainInput, begin: "Checkpoint") -> str:
    if not asked.resume:
        return "starting the emulators …"
    if not begin.policy:
        return "it has no checkpoint yet: once more from the beginning"
    afresh = f", with new games in {_PLACES[asked.config.emulator]}" if asked.config.points and not begin.play else ""
    return f"going on after update {begin.counters.updates}{afresh}"


def _set_aside(asked: TrainInput, begin: "Checkpoint", say: Callable[[str], None]) -> None:
    """Make the checkpoint that was asked for by name the run's newest."""
    from pong import checkpoint

    if asked.checkpoint:
        for path in checkpoint.make_newest(asked.checkpoint, begin.counters.updates):
            say(f"set aside: {path}")


def _lengthen(config: Config, begin: "Checkpoint", folder: Path, say: Callable[[str], None]) -> None:
    """Let a run have another ``total_steps`` from here on, whoever takes it up next."""
    from pong.checkpoint import write_whole

    before = load_config(folder / "config.toml")
    if config.total_steps != before.total_steps:
        write_whole(folder / "config.toml", to_toml(before.replace(total_steps=config.total_steps)).encode())
        then, now = (min(begin.counters.steps / total, 1) for total in (before.total_steps, config.total_steps))
        where = f"what falls or rises with it goes on at {now:.0%} of its way, not at {then:.0%}"
        say(f"total_steps is now {config.total_steps:,}: {where}")


class Checkpointer:
    """Keeps what a run brings forth: tracks its updates, evaluates it, saves it.

    Args:
        folder: the run's folder.
        trainer: what is saved.
        tracker: where updates are written and things are said.
        counters: how far the run had come.
    """

    def __init__(self, folder: Path, trainer: "Trainer", tracker: "Tracker", counters: "Counters"):
        from pong.checkpoint import best_of

        self._folder = folder / "checkpoints"
        self._trainer = trainer
        self._tracker = tracker
        self._config = trainer.config
        self._saved, self._saved_at = counters.updates, time.monotonic()
        self._best = best_of(self._folder).best
        self._evaluation: Evaluation | None = None  # after this update

    def keep(self, update: "Update") -> None:
        """Track an update, and every so often evaluate the policy.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        if not math.isfinite(update.stats.policy_loss):
            raise FloatingPointError(f"update {update.number}: the loss is not finite; lower learning_rate")
        evaluates = self._at_a_boundary() and self._config.eval_episodes
        self._evaluation = self._evaluate(update.number) if evaluates else None
        self._tracker.track(update, self._trainer.steps, self._trainer.policy, self._evaluation)

    def wait(self) -> None:
        """Say that a rollout takes long."""
        self._tracker.wait()

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint: by updates, or by the clock where a run can go on from anywhere."""
        seconds = self._config.checkpoint_seconds if self._config.points else 0
        return self._at_a_boundary() or 0 < seconds <= time.monotonic() - self._saved_at

    def _at_a_boundary(self) -> bool:
        return self._trainer.updates % self._config.checkpoint_every == 0

    def try_to_save(self, play: "list[EmulatorState] | None") -> None:
        """Save; what can't be written is said, and training goes on."""
        from pong import checkpoint

        try:
            self.save(play)
        except OSError as error:
            self._best = checkpoint.best_of(self._folder).best  # it may be there, or not
            self._tracker.say(f"warning: {error}; training goes on, and the next checkpoint is tried again")

    def save(self, play: "list[EmulatorState] | None") -> None:
        """Write a checkpoint, unless there is one of this update; ``play`` is what the emulators go on from.

        Raises:
            FloatingPointError: a weight is NaN or infinite; nothing is saved.
            OSError: it can't be written.
        """
        from pong import checkpoint

        trainer, evaluation = self._trainer, self._evaluation
        self._saved_at = time.monotonic()
        if trainer.updates == self._saved:
            return
        best = evaluation is not None and (self._best is None or evaluation.mean > self._best)
        highest = evaluation.mean if evaluation is not None and best else self._best
        counters = self._tracker.counters(trainer.updates, trainer.steps, highest)
        self._tracker.sync()
        parts = trainer.policy, trainer.optimizer, trainer.baseline, play
        path = checkpoint.save(self._folder, trainer.config, counters, *parts, best=best)
        self._saved, self._best = trainer.updates, highest
        self._tracker.say(f"saved {path}" + (f", the best so far: {evaluation}" if best else ""))

    def reached_goal(self) -> bool:
        """Whether the run may end before its steps are made."""
        return self._tracker.scores.reached(self._trainer.config.stop_at_mean100)

    def _evaluate(self, update: int) -> "Evaluation":
        from pong.evaluate import evaluate

        return evaluate(self._trainer.actor, self._trainer.config, self._trainer.config.eval_episodes, seed=update)


@contextlib.contextmanager
def _failure_in_one_line(config: Config, folder: Path | None) -> Iterator[None]:
    """What ends a training against its will is said in one line, which names the last good checkpoint.

    Raises:
        RunError: it was something that can happen; a mistake in the program keeps its traceback.
    """
    from pong import checkpoint

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
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "GPU"
    return "machine" if isinstance(error, MemoryError) or "can't allocate memory" in str(error) else None


def _train_input(arguments: list[str]) -> TrainInput:
    if arguments[:1] == ["--resume"]:
        return _resume_input(arguments[1:])
    if arguments[:1] in (["-h"], ["--help"]):
        defaults = Config()
    elif not arguments or arguments[0].startswith("-"):
        instead = f", not {arguments[0]!r}" if arguments else ""
        raise InputError(f"train: give the config file first{instead}, such as: pong train configs/pong.toml --seed 3")
    else:
        defaults = load_config(Path(arguments[0]))
        arguments = arguments[1:]
    values = dataclasses.asdict(parse(_train_flags(defaults), arguments, prog="pong train CONFIG.toml"))
    run_dir, init = values.pop("run_dir"), values.pop("init")
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun, after a failure
    resume = restarted and run_dir is not None and (run_dir / "config.toml").exists()
    return TrainInput(validate(values, source="command line"), run_dir, resume, init=None if resume else init)


def _resume_input(arguments: list[str]) -> TrainInput:
    if not arguments or arguments[0].startswith("-"):
        raise InputError("train: --resume takes a run folder first, such as: pong train --resume runs/…")
    given = Path(arguments[0])
    if given.suffix == ".safetensors" and given.parent == Path():  # in the folder that we are in
        given = given.absolute()
    try:
        named = given.parent.name == "checkpoints" and not given.is_dir()
        folder = given.parent.parent if named else given
        exported = (folder / "policy.safetensors").exists() and not (folder / "run.json").exists()
        there = (folder / "config.toml").exists()
        trained = (folder / "lock").exists() or (folder / "checkpoints").exists()
    except OSError as error:
        raise InputError(f"train: --resume {given}: {error.strerror}; give a run folder (runs/…)") from None
    if exported:
        instead = f"begin a new run with it: pong train CONFIG.toml --init {folder}"
        raise InputError(f"train: --resume {given}: an exported policy is there, and no run; {instead}")
    if not there:
        raise InputError(f"train: --resume {given}: no run is there; give a run folder (runs/…) or its checkpoint")
    if not trained:
        instead = f"begin a new one: pong train {folder / 'config.toml'}"
        raise InputError(f"train: --resume {given}: what a run has left is there, without its checkpoints; {instead}")
    config = load_config(folder / "config.toml")
    for flag in arguments[1:]:
        key = flag.removeprefix("--").split("=")[0].replace("-", "_")
        if flag.startswith("--") and key in Config.model_fields and key not in FREE:
            instead = f"begin a new run: pong train {folder / 'config.toml'} {flag} …"
            raise InputError(f"train: --resume {given}: {key} defines the run and stays; {instead}")
    changes = dataclasses.asdict(parse(_flags(config, FREE), arguments[1:], prog="pong train --resume RUN"))
    config = validate({**config.model_dump(), **changes}, source="command line")
    return TrainInput(config, folder, resume=True, checkpoint=given if named else None)


def _same(config: Config, saved: Config, folder: Path) -> None:
    """Refuse to go on with another config than the checkpoint's."""
    for key, value in saved.model_dump().items():
        if key not in FREE and getattr(config, key) != value:
            raise InputError(
                f"{folder}: {key} = {getattr(config, key)!r}, but the checkpoint was trained with {value!r}; "
                "set it back, or start a new run"
            )


def _train_flags(defaults: Config) -> type:
    """A flag for every key of the config, holding the value of the config file."""
    flags: list[Any] = [
        (
            "run_dir",
            Annotated[Path | None, tyro.conf.arg(help="folder of this run; default: runs/NAME-sSEED-TIME")],
            None,
        ),
        (
            "init",
            Annotated[Path | None, tyro.conf.arg(help="begin with the policy of this run or exported folder")],
            None,
        ),
    ]
    keys = _flags(defaults, Config.model_fields)
    return dataclasses.make_dataclass("TrainFlags", flags, bases=(keys,), namespace={"__doc__": "Train a policy."})


def _flags(defaults: Config, keys: Iterable[str]) -> type:
    """A flag for each of some keys of the config."""
    flags = []
    for key in keys:
        about = Config.model_fields[key]
        kind = Annotated[about.annotation, tyro.conf.arg(help=about.description)]  # type: ignore[name-defined]
        flags.append((key, kind, dataclasses.field(default_factory=functools.partial(getattr, defaults, key))))
    return dataclasses.make_dataclass("Flags", flags, namespace={"__doc__": "Go on with a run."})


@contextlib.contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
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
            print("\npong: finishing this update, then saving; once more to stop at once", file=sys.stderr)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN or number != signal.SIGHUP:  # nohup's run goes on when the terminal is closed
            signal.signal(number, on_signal)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
