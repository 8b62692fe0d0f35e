"""The command line: ``pong train | eval | play | export | import | toy``."""

import dataclasses
import functools
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from pong import STARTED
from pong.commands.evaluate import evaluate
from pong.commands.export import export
from pong.commands.flags import parse
from pong.commands.import_policy import import_policy
from pong.commands.play import play
from pong.commands.train import train
from pong.config import InputError, RunError, nearest

USAGE = """usage: pong train CONFIG.toml [--seed N] [--total-steps N] [--device auto|cpu|cuda] [--run-dir DIR] [--KEY …]
       pong train --resume RUN|CHECKPOINT [--device auto|cpu|cuda] [--players N] [--emulator machine|ale]
       pong eval RUN|CHECKPOINT [--episodes N] [--sampled|--greedy] [--seed N] [--emulator ale|machine] [--json FILE]
       pong play RUN|CHECKPOINT [--file FILE.mp4|.gif] [--terminal] [--window] [--speed X] [--greedy] [--seed N]
       pong export RUN|CHECKPOINT DIR [--episodes N] [--save-p FILE]
       pong import SAVE.P DIR [--hold N|2-4] [--sticky X] [--noop-max N] [--episodes N]
       pong toy [T1 … T10|all] [--samples N] [--seed N] [--plot [DIR]]

train: train a policy, or resume a run; eval: score it in fresh games; play: film one game, or show it live;
export: save a policy with its config and scores; import: read a save.p of the 2016 program; toy: why the log.
`pong COMMAND --help` explains the options. Exit status: 0 done, 2 bad input, 1 anything else, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal does not know ends nothing
            stream.reconfigure(errors="replace")
    status = 0
    try:
        try:
            status = _status_of(argv)
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
    return status


def _status_of(argv: Sequence[str] | None) -> int:
    """Run one command; errors are said in one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": functools.partial(train, began=STARTED if argv is None else time.monotonic()),
        "eval": evaluate,
        "play": play,
        "export": export,
        "import": import_policy,
        "toy": toy,
    }
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    try:
        if not arguments or arguments[0] not in commands:
            given = f"unknown command {arguments[0]!r}" if arguments else "no command"
            raise InputError(f"{given}; {nearest(arguments[0] if arguments else '', commands)} (pong --help)")
        return commands[arguments[0]](arguments[1:])
    except BrokenPipeError:
        raise
    except InputError as error:
        print(f"pong: {_in_one_line(error)}", file=sys.stderr)
        return 2
    except (FloatingPointError, RunError, OSError) as error:
        print(f"pong: {_in_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pong: interrupted", file=sys.stderr)
        return 130


def _in_one_line(error: Exception) -> str:
    """What an error says; the name of a file may hold line breaks."""
    return " ".join(str(error).splitlines())


@dataclasses.dataclass(frozen=True)
class ToyFlags:
    """Show the log-derivative trick in numbers: by hand | autograd | finite difference."""

    examples: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="EXAMPLE", help="T1 to T10, such as T3, or all; none: list them"),
    ] = ()
    samples: Annotated[int | None, tyro.conf.arg(help="estimate from that many random batches (1000)")] = None
    seed: Annotated[int | None, tyro.conf.arg(help="of the random batches (1)")] = None
    plot: Annotated[Path | None, tyro.conf.arg(metavar="[DIR]", help="write three pictures to DIR (toy-plots)")] = None


def toy(arguments: list[str]) -> int:
    """Show the log-derivative trick with numbers."""
    from pong.toy import toy as show

    if arguments[-1:] == ["--plot"]:
        arguments = [*arguments, "toy-plots"]
    flags = parse(ToyFlags, arguments, prog="pong toy")
    show(list(flags.examples), flags.samples, flags.seed, flags.plot)
    return 0
