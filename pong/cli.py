"""The command line: ``pong train | eval | toy``."""

import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from pong.config import Config, InputError, RunError, load_config, validate

if TYPE_CHECKING:
    from pong.ranks import Ranks

USAGE = """usage: pong train CONFIG.toml [--seed N] [--total-steps N] [--device auto|cpu|cuda] [--run-dir DIR] [--KEY …]
       pong train --resume RUN
       pong eval RUN|CHECKPOINT [--episodes N] [--greedy] [--seed N] [--json FILE]
       pong toy [T1|T3|T10]

`pong COMMAND --help` explains the options. Exit status: 0 done, 2 bad input, 1 anything else, 130 interrupted."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Play fresh games with a run's weights and print mean ± standard error."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CHECKPOINT", help="run folder or checkpoint")]
    episodes: Annotated[int, tyro.conf.arg(help="games")] = 100
    greedy: Annotated[bool, tyro.conf.arg(help="take the likelier action instead of sampling")] = False
    seed: Annotated[int, tyro.conf.arg(help="of the emulators and the sampled actions")] = 0
    json: Annotated[Path | None, tyro.conf.arg(help="also write the scores to this file")] = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {"train": train, "eval": evaluate, "toy": toy}
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    try:
        if not arguments or arguments[0] not in commands:
            given = f"unknown command {arguments[0]!r}" if arguments else "no command"
            raise InputError(f"{given}; the commands are {', '.join(commands)} (pong --help)")
        return commands[arguments[0]](arguments[1:])
    except InputError as error:
        print(f"pong: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, RunError) as error:
        print(f"pong: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pong: interrupted", file=sys.stderr)
        return 130


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
    values = dataclasses.asdict(_parse(_train_flags(defaults), arguments, prog="pong train CONFIG.toml"))
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


def evaluate(arguments: list[str]) -> int:
    """Play games with frozen weights and print mean ± standard error."""
    flags = _eval_input(arguments)

    from pong import checkpoint
    from pong.evaluate import Greedy
    from pong.evaluate import evaluate as play
    from pong.train import make_policy

    loaded = checkpoint.load(flags.run)
    config = loaded.config
    policy = make_policy(config)
    try:
        policy.load_state_dict(loaded.policy)
    except RuntimeError as error:
        raise InputError(f"{flags.run}: the weights don't fit its config: {' '.join(str(error).split())}") from None
    result = play(Greedy(policy) if flags.greedy else policy, config, flags.episodes, seed=flags.seed)
    spread = f"± {result.standard_error:.2f} (mean ± standard error)" if result.n > 1 else "(one game)"
    how = "greedy" if flags.greedy else "sampled"
    print(
        f"{result.mean:+.2f} {spread}, n = {result.n} games, {how}, "
        f"seed {flags.seed}, {_task(config)}, update {loaded.counters.updates}"
    )
    if flags.json is not None:
        about = {
            "run": str(flags.run),
            "update": loaded.counters.updates,
            "steps": loaded.counters.steps,
            "n": result.n,
            "mean": result.mean,
            "standard_error": None if math.isnan(result.standard_error) else result.standard_error,
            "greedy": flags.greedy,
            "seed": flags.seed,
            "env": config.env,
            **({"sticky": config.sticky, "hold": config.hold} if config.points else {}),
            "scores": result.scores,
            "lengths": [episode.length for episode in result.episodes],
        }
        try:
            flags.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"eval: --json {flags.json} can't be written: {error.strerror}") from None
    return 0


def _task(config: Config) -> str:
    return f"sticky {config.sticky}, hold {config.hold}" if config.points else config.env


def _eval_input(arguments: list[str]) -> EvalFlags:
    flags = _parse(EvalFlags, arguments, prog="pong eval")
    if flags.episodes < 1:
        raise InputError(f"eval: --episodes {flags.episodes}: give at least 1")
    if flags.seed < 0:
        raise InputError(f"eval: --seed {flags.seed}: give 0 or more")
    if flags.json is not None and (flags.json.is_dir() or not flags.json.parent.is_dir()):
        raise InputError(f"eval: --json {flags.json}: give a file in a folder that exists")
    return flags


def toy(arguments: list[str]) -> int:
    """Show the log-derivative trick with numbers."""
    from pong.toy import main as show

    return show(arguments)


def _parse(flags: type[T], arguments: list[str], prog: str) -> T:
    """Parse with tyro; its boxed error becomes one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(flags, prog=prog, args=arguments)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        words = [line.strip(" │╭╮╰╯─-") for line in complaint.getvalue().splitlines()]
        lines = [line for line in words if line]
        end = next(
            (i for i, line in enumerate(lines) if line.startswith(("Argument helptext", "For full", "Perhaps"))), None
        )
        raise InputError(f"{' '.join(lines[1:end])} ({prog} --help)") from None


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
