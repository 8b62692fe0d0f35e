"""The command ``pong toy``: lists the examples, tells them, draws them at random, or plots them."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rich.console import Console, RenderableType

from pong.config import InputError
from pong.distributed import threads
from pong.toy import plots
from pong.toy.examples import EXAMPLES
from pong.toy.tables import drawn, overview, told

NAMES = tuple(dict.fromkeys(example.name for example in EXAMPLES))
WIDTH = 100  # columns, in a pipe or a file; no line of a story is longer
FOLDER = Path("toy-plots")
SAMPLES, SEED = 1000, 1  # where only one of the two is given
MOST_SAMPLES = 100_000  # 10 to 20 seconds for each way of an example

HEADING = "The log-derivative trick in numbers: by hand | autograd | finite difference\n"
HOW = """
pong toy T3                  one of them as a story, to follow with a pocket calculator; all: every one
pong toy T3 --samples 1000   by Monte Carlo: means of random samples ± their standard errors
pong toy --plot              three pictures, in toy-plots/
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"toy: {' '.join(message.split())} (pong toy --help)")


def main(argv: list[str]) -> int:
    """Show what the command line asks for.

    Args:
        argv: what follows ``pong toy``: names such as "T3" in any case, or "all", and flags.

    Returns:
        Exit status: 0.

    Raises:
        InputError: an argument is wrong, or a plot has no matplotlib or no folder to go to; one line that says so.
    """
    asked, help_text = _parse(argv)
    with threads(1):  # tensors of a few numbers: more threads wait longer for each other than they compute
        if asked.help:
            _write(help_text)
        elif asked.plot:
            _plot(asked.plot)
        else:
            _show(asked.names, asked.samples, asked.seed)
    return 0


def _parse(argv: list[str]) -> tuple[argparse.Namespace, str]:
    parser = _Parser(prog="pong toy", description=HEADING, add_help=False, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="EXAMPLE", help=f"{', '.join(NAMES)}, or all; none: list them")
    seed, samples = _whole(0, 2**63 - 1), _whole(2, MOST_SAMPLES)
    parser.add_argument("--samples", type=samples, metavar="N", help=f"estimate from N random batches ({SAMPLES})")
    parser.add_argument("--seed", type=seed, metavar="N", help=f"of the random batches ({SEED})")
    parser.add_argument("--plot", nargs="?", const=FOLDER, type=Path, metavar="DIR", help=f"pictures to DIR ({FOLDER})")
    parser.add_argument("-h", "--help", action="store_true", help="show this and leave")
    asked = parser.parse_intermixed_args(argv)
    asked.names = _known(asked.names)
    drawing = asked.samples is not None or asked.seed is not None
    if drawing and not asked.names:
        raise InputError("toy: --samples and --seed need an example: pong toy T3 --samples 1000")
    if asked.plot and asked.names:
        raise InputError(f"toy: --plot {asked.plot} takes no examples; leave out {' '.join(asked.names)}")
    if drawing:
        asked.samples, asked.seed = asked.samples or SAMPLES, SEED if asked.seed is None else asked.seed
    return asked, parser.format_help()


def _whole(low: int, high: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low} to {high}")
        return int(text)

    return whole


def _known(given: list[str]) -> list[str]:
    unknown = [name for name in given if name.upper() not in (*NAMES, "ALL")]
    if unknown:
        valid = f"{', '.join(NAMES)} and all"
        raise InputError(f"toy: unknown example {', '.join(map(repr, unknown))}; the examples are {valid}")
    wanted = list(dict.fromkeys(name.upper() for name in given))
    return list(NAMES) if "ALL" in wanted else wanted


def _show(names: list[str], samples: int | None, seed: int) -> None:
    if not names:
        _print(HEADING, overview(EXAMPLES), HOW)
    for name in names:
        for example in EXAMPLES:
            if example.name == name:
                _print(told(example) if samples is None else drawn(example, samples, seed))


def _plot(folder: Path) -> None:
    for path in plots.write(folder):
        _write(f"{path}\n")


def _print(*parts: RenderableType) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=max(WIDTH, console.width))
    with console.capture() as captured:  # rich itself would leave with status 1 where the reader has gone
        console.print(*parts, sep="\n")
    _write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))  # tables are padded with blanks


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
