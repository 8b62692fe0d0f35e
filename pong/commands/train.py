"""``pong train``: learn a config, or go on with a run."""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pong.commands.flags import parse
from pong.config import Config, InputError, load_config, validate

if TYPE_CHECKING:
    from pong.ranks import Ranks


@dataclasses.dataclass(frozen=True)
class TrainInput:
    """What a train command asks for."""

    config: Config
    run_dir: Path | None = None
    resume: bool = False  # the run in run_dir
    restarted: bool = False  # by torchrun, after a failure


def train(arguments: list[str]) -> int:
    """Train a config; keys of the config are flags. Under ``torchrun``, together with the other ranks."""
    asked = _train_input(arguments)

    from pong.ranks import Ranks  # here, so that help and bad input answer at once

    ranks = Ranks.from_environment()
    with ranks.together():
        return _train(asked, ranks, ["pong", "train", *arguments])


def _train(asked: TrainInput, ranks: "Ranks", command: list[str]) -> int:
    from rich.console import Console

    from pong import checkpoint
    from pong.tracking import Tracker, create_run_folder
    from pong.train import Trainer, check, choose_device

    check(asked.config, ranks)
    config, folder, loaded = asked.config, asked.run_dir, checkpoint.Checkpoint(asked.config)
    if ranks.rank == 0:  # it alone reads and writes files
        if not (asked.resume and folder):
            folder = create_run_folder(config, folder, choose_device(config.device), command)
        elif checkpoint.exists(folder) or not asked.restarted:
            loaded = checkpoint.load(folder)
            _same(config, loaded.config, folder)
    loaded = ranks.gather(loaded)[0]
    counters = loaded.counters
    console = Console(soft_wrap=True, highlight=False, quiet=ranks.rank > 0)
    begun = f"going on after update {counters.updates}" if asked.resume else "starting the emulators …"
    console.print(f"{folder}: {config.name}, seed {config.seed}; {begun}", markup=False)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stop_requested())
        trainer = stack.enter_context(contextlib.closing(Trainer(config, ranks)))
        if loaded.policy:
            trainer.take_up(loaded)
        tracker = None
        if folder and ranks.rank == 0:
            tracker = stack.enter_context(Tracker(config, folder, console, counters))

        saved = counters.updates

        def save() -> None:
            nonlocal saved
            if tracker and folder and trainer.updates > saved:
                saved = trainer.updates
                now = tracker.counters(trainer.updates, trainer.steps)
                parts = trainer.policy, trainer.optimizer, trainer.baseline
                path = checkpoint.save(folder / "checkpoints", config, now, *parts)
                tracker.say(f"saved {path}")

        for update in trainer.run():
            enough = stop()
            if tracker:
                tracker.track(update, trainer.steps, trainer.policy)
                enough = enough or tracker.scores.reached(config.stop_at_mean100)
            if any(ranks.gather(enough)):
                break
            if update.number % config.reseed_every == 0:
                save()
        save()
    return 130 if stop() else 0


def _train_input(arguments: list[str]) -> TrainInput:
    if arguments[:1] == ["--resume"]:
        if len(arguments) != 2:
            raise InputError("train: --resume takes a run folder and nothing more, such as: pong train --resume runs/…")
        folder = Path(arguments[1])
        if not (folder / "config.toml").exists():
            raise InputError(f"train: --resume {folder}: no run is there; give a run folder (runs/…)")
        return TrainInput(load_config(folder / "config.toml"), folder, resume=True)
    if arguments[:1] in (["-h"], ["--help"]):
        defaults = Config()
    elif not arguments or arguments[0].startswith("-"):
        given = f", not {arguments[0]!r}" if arguments else ""
        raise InputError(f"train: give the config file first{given}, such as: pong train configs/pong.toml --seed 3")
    else:
        defaults = load_config(Path(arguments[0]))
        arguments = arguments[1:]
    values = dataclasses.asdict(parse(_train_flags(defaults), arguments, prog="pong train CONFIG.toml"))
    run_dir = values.pop("run_dir")
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    resume = restarted and run_dir is not None and (run_dir / "config.toml").exists()
    return TrainInput(validate(values, source="command line"), run_dir, resume, restarted)


def _same(config: Config, saved: Config, folder: Path) -> None:
    """Refuse to go on with another config than the checkpoint's."""
    for key, value in saved.model_dump().items():
        if getattr(config, key) != value:
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
        )
    ]
    for key, about in Config.model_fields.items():
        kind = Annotated[about.annotation, tyro.conf.arg(help=about.description)]  # type: ignore[name-defined]
        flags.append((key, kind, dataclasses.field(default_factory=functools.partial(getattr, defaults, key))))
    return dataclasses.make_dataclass("TrainFlags", flags, namespace={"__doc__": "Train a policy."})


@contextlib.contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM asks for a stop after this update; the second one stops at once."""
    received: list[int] = []

    def on_signal(number: int, frame: types.FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\npong: finishing this update, then saving; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
