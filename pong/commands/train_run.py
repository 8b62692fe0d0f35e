"""A training run: its folder, where it begins, what it keeps, how it ends."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from pong import checkpoint
from pong.checkpoint import Checkpoint
from pong.checkpointer import Checkpointer
from pong.commands.stop import failure_in_one_line, stop_requested
from pong.config import Config, InputError, load_config, to_toml
from pong.distributed import Ranks, threads
from pong.folder import create_run_folder, lock_run_folder, new_run_folder
from pong.policies import Policy, make_policy
from pong.progress import RunConsole
from pong.run import FREE
from pong.run import TrainRequest as TrainInput
from pong.tracking import Tracker
from pong.train import Trainer, check, choose_device, load_weights

SHAPE = ("env", "policy", "hidden", "channels", "actions", "frames", "last_action")  # of a policy's weights


def run(asked: TrainInput, command: list[str], began: float) -> int:
    """Train, alone or as one of several ranks; the command's exit status.

    Args:
        asked: what to train.
        command: that asked for it.
        began: when its minutes begin to count, on the monotonic clock.
    """
    ranks = Ranks.from_environment()
    with ranks.process_group():
        return _train(asked, ranks, command, began)


def _train(asked: TrainInput, ranks: Ranks, command: list[str], began: float) -> int:
    check(asked.config, ranks)
    folder, begin = None, Checkpoint(asked.config)
    initial = _initial_policy(asked)
    with contextlib.ExitStack() as stack:
        if ranks.rank == 0:  # it alone reads and writes files
            folder = stack.enter_context(_run_folder(asked, command, initial))
            begin = _beginning(asked, folder)
        begin = ranks.all_gather(begin)[0]
        console = RunConsole(quiet=ranks.rank > 0)
        console.print(f"{folder}: {asked.config.name}, seed {asked.config.seed}; {_status(asked, begin)}", markup=False)
        stack.enter_context(failure_in_one_line(asked.config, folder))
        stop = stack.enter_context(stop_requested())
        trainer = stack.enter_context(contextlib.closing(Trainer(asked.config, ranks)))
        if begin.policy:
            trainer.restore(begin)
        checkpointer = None
        if folder:  # nothing that was there has been touched so far
            _set_aside(asked, begin, console.print)
            _extend(asked.config, begin, folder, console.print)
            tracker = stack.enter_context(Tracker(asked.config, folder, console, begin.counters, began))
            checkpointer = Checkpointer(folder, trainer, tracker, begin.counters)
        with threads(1):  # the other cores belong to the players
            _run(trainer, checkpointer, ranks, stop)
    return 130 if stop() else 0


def _run(trainer: Trainer, checkpointer: Checkpointer | None, ranks: Ranks, stop: Callable[[], bool]) -> None:
    """Train until the steps are made, the goal is reached or a stop is requested; save now and then, and at the end."""

    def asked() -> tuple[bool, bool]:
        """Whether any rank wants to stop, and whether it is time to save."""
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
    """A stop was requested while a rollout was played; the run is where it was before it."""


@contextlib.contextmanager
def _run_folder(asked: TrainInput, command: list[str], policy: Policy | None) -> Iterator[Path]:
    """The run's folder, new or to be resumed; locked meanwhile."""
    device = choose_device(asked.config.device)
    folder = asked.run_dir or new_run_folder(asked.config)
    with lock_run_folder(folder):
        if not asked.resume:
            create_run_folder(asked.config, folder, device, command, policy)
        yield folder


def _initial_policy(asked: TrainInput) -> Policy | None:
    """What a new run begins with, if not with random weights.

    Raises:
        InputError: it can't be read, or is of another shape.
    """
    if asked.init is None:
        return None
    policy, saved = make_policy(asked.config), checkpoint.load(asked.init)
    try:
        load_weights(policy, saved.policy)
    except InputError as error:
        pairs = ((key, getattr(saved.config, key), getattr(asked.config, key)) for key in SHAPE)
        differs = [f"{key} is {there!r} there and {here!r} here" for key, there, here in pairs if there != here]
        raise InputError(f"train: --init {asked.init}: another network: {'; '.join(differs) or error}") from None
    return policy


def _beginning(asked: TrainInput, folder: Path) -> Checkpoint:
    """Where training begins: at a checkpoint, or at the beginning while there is none."""
    if asked.init:
        return checkpoint.load(folder / "checkpoints" / checkpoint.file_name(0))
    if not asked.resume or not (asked.checkpoint or checkpoint.exists(folder)):
        return Checkpoint(asked.config)
    loaded = checkpoint.load(asked.checkpoint or folder)
    _check_same(asked.config, loaded.config, folder)
    if loaded.counters.updates and loaded.config.baseline != "none" and not loaded.baseline:
        raise InputError(f"{folder}: the checkpoint holds no baseline, a policy alone; a new run can --init with it")
    if loaded.config.emulator != asked.config.emulator:  # neither can restore the other one's games
        return dataclasses.replace(loaded, play=[])
    return loaded


_PLACES = {"machine": "the machine", "ale": "ALE"}


def _status(asked: TrainInput, begin: Checkpoint) -> str:
    if not asked.resume:
        return "starting the emulators …"
    if not begin.policy:
        return "no checkpoint yet: starting from the beginning"
    afresh = f"; games restart in {_PLACES[asked.config.emulator]}" if asked.config.is_pong and not begin.play else ""
    return f"resuming after update {begin.counters.updates}{afresh}"


def _check_same(config: Config, saved: Config, folder: Path) -> None:
    """Refuse to resume with another config than the checkpoint's."""
    for key, value in saved.model_dump().items():
        if key not in FREE and getattr(config, key) != value:
            raise InputError(
                f"{folder}: {key} = {getattr(config, key)!r}, but the checkpoint was trained with {value!r}; "
                "set it back, or start a new run"
            )


def _set_aside(asked: TrainInput, begin: Checkpoint, say: Callable[[str], None]) -> None:
    """Make the checkpoint that was asked for by name the run's newest."""
    if asked.checkpoint:
        for path in checkpoint.make_newest(asked.checkpoint, begin.counters.updates):
            say(f"renamed newer checkpoint: {path}")


def _extend(config: Config, begin: Checkpoint, folder: Path, say: Callable[[str], None]) -> None:
    """Write another ``total_steps`` into the run's config, from which it is resumed."""
    before = load_config(folder / "config.toml")
    if config.total_steps != before.total_steps:
        checkpoint.write_whole(folder / "config.toml", to_toml(before.replace(total_steps=config.total_steps)).encode())
        then, now = (min(begin.counters.steps / total, 1) for total in (before.total_steps, config.total_steps))
        where = f"schedules continue at {now:.0%} of its way, not at {then:.0%}"
        say(f"total_steps is now {config.total_steps:,}: {where}")
