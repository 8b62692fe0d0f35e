"""The command line: ``pong train | eval | toy``."""

import contextlib
import dataclasses
import io
import json
import math
import signal
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from pong.config import Config, InputError, load_config, validate

USAGE = """usage: pong train CONFIG.toml [--seed N] [--total-steps N] [--device auto|cpu|cuda] [--run-dir DIR] [--KEY …]
       pong eval RUN|CHECKPOINT [--episodes N] [--greedy] [--seed N] [--device auto|cpu|cuda] [--json FILE]
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
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto"
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
    except FloatingPointError as error:
        print(f"pong: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pong: interrupted", file=sys.stderr)
        return 130


def train(arguments: list[str]) -> int:
    """Train a config; keys of the config are flags."""
    config, run_dir = _train_input(arguments)

    from rich.console import Console  # here, so that help and bad input answer at once

    from pong import checkpoint
    from pong.tracking import Tracker, create_run_folder
    from pong.train import Trainer, choose_device

    folder = create_run_folder(config, run_dir, choose_device(config.device), ["pong", "train", *arguments])
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{folder}: {config.name}, seed {config.seed}; starting the emulators …", markup=False)
    with (
        contextlib.closing(Trainer(config)) as trainer,
        Tracker(config, folder, console) as tracker,
        _stop_requested() as stop,
    ):

        def save() -> Path:
            counters = tracker.counters(trainer.updates, trainer.steps)
            return checkpoint.save(folder / "checkpoints", config, counters, trainer.policy, trainer.optimizer)

        for update in trainer.run():
            tracker.track(update, trainer.steps, trainer.policy)
            if stop() or tracker.scores.reached(config.stop_at_mean100):
                break
            if update.number % config.reseed_every == 0:
                save()
        tracker.say(f"saved {save()}")
    return 130 if stop() else 0


def _train_input(arguments: list[str]) -> tuple[Config, Path | None]:
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
    return validate(values, source="command line"), run_dir


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
        flags.append((key, kind, dataclasses.field(default=getattr(defaults, key))))
    return dataclasses.make_dataclass("TrainFlags", flags, namespace={"__doc__": "Train a policy on Pong."})


def evaluate(arguments: list[str]) -> int:
    """Play games with frozen weights and print mean ± standard error."""
    flags = _eval_input(arguments)

    from pong import checkpoint
    from pong.evaluate import Greedy
    from pong.evaluate import evaluate as play
    from pong.train import choose_device, make_policy

    loaded = checkpoint.load(flags.run)
    config = validate({**loaded.config.model_dump(), "device": flags.device}, source="command line")
    policy = make_policy(config).to(choose_device(config.device))
    try:
        policy.load_state_dict(loaded.policy)
    except RuntimeError as error:
        raise InputError(f"{flags.run}: the weights don't fit its config: {' '.join(str(error).split())}") from None
    result = play(Greedy(policy) if flags.greedy else policy, config, flags.episodes, seed=flags.seed)
    spread = f"± {result.standard_error:.2f} (mean ± standard error)" if result.n > 1 else "(one game)"
    how = "greedy" if flags.greedy else "sampled"
    print(
        f"{result.mean:+.2f} {spread}, n = {result.n} games, {how}, "
        f"seed {flags.seed}, sticky {config.sticky}, hold {config.hold}, update {loaded.counters.updates}"
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
            "sticky": config.sticky,
            "hold": config.hold,
            "scores": result.scores,
            "lengths": [episode.length for episode in result.episodes],
        }
        try:
            flags.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"eval: --json {flags.json} can't be written: {error.strerror}") from None
    return 0


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
