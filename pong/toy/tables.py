"""What ``pong toy`` shows of the examples: a list, a story with its tables, or estimates drawn at random."""

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pong.toy.gradients import exact, finite_difference, sampled
from pong.toy.systems import Example, Series, System, Way

AGREES = 1e-6  # finite differences are good to 1e-9


def overview(examples: Sequence[Example]) -> Table:
    """The examples, one a line: name, title, what it teaches."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    said = ""
    for example in examples:
        table.add_row(Text(example.name if example.name != said else "", "bold"), example.title, example.teaches)
        said = example.name
    return table


def told(example: Example) -> Group:
    """An example as a story: the arithmetic, by hand | autograd | finite difference, and what to notice."""
    parts: list[RenderableType] = [_title(example), Text(example.story)]
    if example.system:
        parts.append(_gradients(example.system, example.ways))
    if example.series:
        parts.append(_series(example.series))
    return Group(*parts, Text(f"What to notice: {' '.join(example.notice.split())}\n\n", "italic"))


def drawn(example: Example, samples: int, seed: int) -> Group:
    """An example by Monte Carlo: each way's mean over this many random batches ± its standard error."""
    if example.system is None:
        return Group(_title(example), Text("No gradient here, so nothing to sample.\n\n"))
    table = _table("loss", "∂/∂", f"finite difference\nof {example.system.objective_name}", "expected\nof the loss")
    for header in ("sampled", "± standard\nerror", "off by\n(± = 1)"):
        table.add_column(header, justify="right")
    slopes = finite_difference(example.system.objective, example.system.theta)  # (P,)
    for way in example.ways:
        for row in _drawn_rows(example.system, way, slopes, samples, seed):
            table.add_row(*row, style="red" if way.wrong else None)
    return Group(_title(example), Text(f"{samples:,} random batches each, seed {seed}"), table, Text("\n"))


def _title(example: Example) -> Text:
    return Text(f"{example.name}  {example.title}\n", "bold")


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="left" if header in ("loss", "∂/∂", "numbers", "") else "right")
    return table


def _gradients(system: System, ways: Sequence[Way]) -> Table:
    difference = f"finite difference\nof {system.objective_name}"
    table = _table("loss", "∂/∂", "by hand", "autograd", difference, "variance", "off by")
    slopes = finite_difference(system.objective, system.theta)  # (P,)
    for way in ways:
        for row in _rows(system, way, slopes):
            table.add_row(*row, style="red" if way.wrong else None)
    return table


def _rows(system: System, way: Way, slopes: Tensor) -> Iterator[tuple[str, ...]]:
    mean, variance = exact(system, way)  # (P,), (P,)
    label = way.label
    for i, parameter in enumerate(system.parameters):
        numbers = (_signed(number) for number in (way.by_hand[i], mean[i].item(), slopes[i].item()))
        off = mean[i].item() - slopes[i].item()
        yield label, parameter, *numbers, f"{variance[i]:.6f}", "right" if abs(off) < AGREES else _signed(off)
        label = ""  # said once a way


def _drawn_rows(system: System, way: Way, slopes: Tensor, samples: int, seed: int) -> Iterator[tuple[str, ...]]:
    gradients = sampled(system, system.theta, way, samples, seed)  # (samples, P)
    mean, error = gradients.mean(dim=0), gradients.std(dim=0) / math.sqrt(samples)
    label = way.label
    for i, parameter in enumerate(system.parameters):
        numbers = (_signed(number) for number in (slopes[i].item(), way.by_hand[i], mean[i].item()))
        off = mean[i].item() - slopes[i].item()
        errors = 0.0 if abs(off) < AGREES else off / error[i].item() if error[i] > 0 else math.copysign(math.inf, off)
        yield label, parameter, *numbers, f"{error[i]:.6f}", f"{errors:+.1f}"
        label = ""


def _series(series: Sequence[Series]) -> Table:
    table = _table("numbers", "", *[""] * max(len(one.by_hand) for one in series))
    for column in table.columns[2:]:
        column.justify = "right"
    for one in series:
        hand, code = ([_plain(number, one.digits) for number in numbers] for numbers in (one.by_hand, one.code()))
        style = "red" if one.wrong else None
        table.add_row(one.label, "by hand", *hand, style=style)
        table.add_row("  wrong" if one.wrong else "", "code", *code, style=style)
    return table


def _signed(number: float) -> str:
    return f"{round(number, 6) + 0.0:+.6f}"  # + 0.0: −0 is 0


def _plain(number: float, digits: int) -> str:
    shown = f"{round(number, min(digits, 6)) + 0.0:.{min(digits, 6)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
