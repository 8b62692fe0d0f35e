"""The log-derivative trick in numbers: by hand | autograd through ``pong.losses`` | finite difference."""

import math
import sys
from collections.abc import Iterator
from functools import partial

from rich import box
from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from pong.config import InputError
from pong.toy.examples import EXAMPLES, Example
from pong.toy.gradients import Estimator, finite_difference, mean_and_variance, objective

NAMES = list(dict.fromkeys(example.name for example in EXAMPLES))
SAMPLES, SEED = 1000, 1  # where only the other is given
HELP = """
pong toy T3                  T3 as a story, to follow with a pocket calculator; all: every example
pong toy T3 --samples 1000   by Monte Carlo: means of random samples ± their standard errors"""


def toy(examples: list[str], samples: int | None = None, seed: int | None = None) -> None:
    """List the examples, or show those named ("T3" or "all"), with samples or a seed by Monte Carlo."""
    if unknown := [name for name in examples if name.upper() not in (*NAMES, "ALL")]:
        raise InputError(f"toy: unknown example {', '.join(map(repr, unknown))}; there are {', '.join(NAMES)} and all")
    if not examples:
        if samples is not None or seed is not None:
            raise InputError("toy: --samples and --seed need an example: pong toy T3 --samples 1000")
        rows = (f"{example.name:<4}{example.title:<45}{example.teaches}" for example in EXAMPLES)
        _print("The log-derivative trick in numbers: by hand | autograd | finite difference\n", *rows, HELP)
    if seed is not None:
        samples = samples or SAMPLES
    names = [name.upper() for name in examples]
    for name in NAMES if "ALL" in names else dict.fromkeys(names):
        for example in EXAMPLES:
            if example.name == name:
                _print(*_parts(example, samples or 0, SEED if seed is None else seed))


def _print(*parts: RenderableType) -> None:
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100)
    with console.capture() as capture:  # rich itself would exit with status 1 if the reader of a pipe has gone
        console.print(*parts, sep="\n")
    sys.stdout.write(capture.get())


def _parts(example: Example, samples: int, seed: int) -> Iterator[RenderableType]:
    """The example as a story, or with samples its Monte Carlo estimates."""
    yield Text(f"{example.name}  {example.title}\n", "bold")
    yield f"{samples:,} random batches each, seed {seed}" if samples else example.story
    if example.estimators:
        yield _gradients(example.estimators, samples, seed)
    elif samples:
        yield "No gradient estimate here, so nothing to sample."
    if example.numbers and not samples:
        table = _table("numbers", "", *[""] * max(len(numbers.by_hand) for numbers in example.numbers))
        for label, by_hand, code, digits in example.numbers:
            table.add_row(label, "by hand", *(f"{x:.7g}" for x in by_hand))
            table.add_row("", "code", *(f"{round(float(x), min(digits, 6)) + 0.0:.7g}" for x in code()))
        yield table
    yield "\n" if samples else Text(f"What to notice: {example.notice}\n\n", "italic")


def _gradients(estimators: list[Estimator], samples: int, seed: int) -> Table:
    columns = ("sampled", "± standard\nerror", "off by\n(± = 1)") if samples else ("autograd", "variance", "off by")
    table = _table("loss", "∂/∂", "by hand", columns[0], "finite\ndifference", *columns[1:])
    for estimator in estimators:
        system = estimator.system
        slopes = finite_difference(partial(objective, system), system.theta).tolist()
        means, variances = (x.tolist() for x in mean_and_variance(estimator, count=samples, seed=seed))
        wrong = any(abs(x - slope) > 1e-6 for x, slope in zip(estimator.mean, slopes, strict=True))
        for i, parameter in enumerate(system.parameters):
            off = means[i] - slopes[i]
            spread = (variances[i] / (samples - 1)) ** 0.5 if samples else variances[i]
            errors = f"{off / spread if spread else off * math.inf:+.1f}"  # standard errors
            verdict = "right" if abs(off) < 1e-6 else errors if samples else f"{off:+.6f}"
            numbers = (f"{round(x, 6) + 0.0:+.6f}" for x in (estimator.mean[i], means[i], slopes[i]))  # + 0.0: −0 is 0
            label, style = "" if i else estimator.label, "red" if wrong else None
            table.add_row(label, parameter, *numbers, f"{spread:.6f}", verdict, style=style)
    return table


def _table(*headers: str) -> Table:
    columns = (Column(header, justify="left" if i < 2 else "right") for i, header in enumerate(headers))
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
