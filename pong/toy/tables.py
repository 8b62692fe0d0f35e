"""Prints the examples: by hand | autograd | finite difference, side by side, with the story around them."""

import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pong.toy.examples import EXAMPLES, Example, Way
from pong.toy.gradients import System, estimates, finite_difference, mean_and_variance

MIN_WIDTH = 100  # columns, in a pipe or a file; no line of a story is longer


def main(argv: list[str]) -> int:
    """Print the named examples, or all.

    Args:
        argv: what follows ``pong toy`` on the command line: names such as "T3", in any case.

    Returns:
        Exit status: 0, or 2 for an unknown name, which stderr then names.
    """
    names = list(dict.fromkeys(example.name for example in EXAMPLES))
    if "-h" in argv or "--help" in argv:
        print(f"usage: pong toy [{' | '.join(names)}] …   without a name: all of them")
        return 0
    unknown = [argument for argument in argv if argument.upper() not in names]
    if unknown:
        print(f"pong toy: unknown example {', '.join(map(repr, unknown))}; valid: {', '.join(names)}", file=sys.stderr)
        return 2
    wanted = [argument.upper() for argument in argv] or names
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(MIN_WIDTH, console.width))
    for example in EXAMPLES:
        if example.name in wanted:
            _print(console, example)
    return 0


def _print(console: Console, example: Example) -> None:
    console.print(f"{example.name}  {example.title}\n", style="bold", markup=False)
    console.print(example.story, markup=False)
    console.print(_table(example))
    console.print(f"What to notice: {' '.join(example.notice.split())}\n\n", style="italic", markup=False)


def _table(example: Example) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("loss")
    table.add_column("∂/∂")
    for header in ("by hand", "autograd", f"finite difference\nof {example.system.objective_name}", "variance"):
        table.add_column(header, justify="right")
    table.add_column("")
    slopes = finite_difference(example.system.objective, example.system.theta)  # (P,)
    for way in example.ways:
        for row in _rows(example.system, way, slopes):
            table.add_row(*row, style="red" if way.wrong else None)
    return table


def _rows(system: System, way: Way, slopes: Tensor) -> Iterator[tuple[str, ...]]:
    mean, variance = mean_and_variance(*estimates(system, system.theta, way.loss, way.batch_size))
    label, verdict = way.label, "wrong" if way.wrong else "right"
    for i, parameter in enumerate(system.parameters):
        numbers = (f"{number:+.6f}" for number in (way.by_hand[i], mean[i], slopes[i]))
        yield label, parameter, *numbers, f"{variance[i]:.6f}" if way.variance else "", verdict
        label = verdict = ""  # said once a way
