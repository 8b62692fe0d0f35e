"""How a run's progress looks in a terminal: a bar, or plain lines where there is none."""

import contextlib
import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

WIDE = 100  # columns of a terminal that has room for a bar
LINE_SECONDS = 20.0  # between plain progress lines


class RunConsole(Console):
    """Where a run reports its progress. If the output is closed, training continues silently."""

    def __init__(self, quiet: bool = False):
        there = sys.stdout is not None and sys.stdout.isatty()  # whatever FORCE_COLOR says
        super().__init__(soft_wrap=True, highlight=False, quiet=quiet, force_terminal=None if there else False)

    def on_broken_pipe(self) -> None:
        """Stay quiet from now on."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class ProgressLine:
    """One line that is kept up to date on a terminal, and elsewhere a new one every so often.

    Args:
        console: where it goes.
        name: of the run.
        total: agent steps of the whole run.
        began: when its minutes began to count, on the monotonic clock.
    """

    def __init__(self, console: Console, name: str, total: int, began: float):
        self._console = console
        self._total = total
        self._began = began
        self._last_line = -LINE_SECONDS
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = self._make_bar(name)

    def _make_bar(self, name: str) -> Progress:
        self._width = self._console.width
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
        if self._width >= WIDE:
            columns.append(BarColumn(WIDE // 4))
            self._width -= WIDE // 4 + 1
        bar = Progress(*columns, console=self._console)
        self._task = bar.add_task(name, total=self._total)
        return bar

    def start(self) -> None:
        """Show the bar, where there is one."""
        if self._bar:
            self._bar.start()

    def stop(self) -> None:
        """End the bar; what can't be shown is not."""
        if self._bar:
            with contextlib.suppress(OSError):
                self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar; what can't be said is not."""
        with contextlib.suppress(OSError):
            (self._bar.console if self._bar else self._console).print(text, markup=False)

    def show(self, steps: int, mean: str, games: str, points: str, speed: float) -> None:
        """Show how far the run has come.

        Args:
            steps: made so far.
            mean: what is said of the score.
            games: and of games.
            points: and of points.
            speed: steps per second.
        """
        left = max(self._total - steps, 0) / max(speed, 1e-9)  # seconds
        per_second = f"{speed:,.0f} steps/s"
        if self._bar:
            first = (mean, f"{_clock(left)} left", f"{min(steps / self._total, 1):.0%}", per_second, games, points)
            self._bar.update(self._task, completed=steps, description=_fitting(first, self._width))
        elif self._is_due() or steps >= self._total:
            summary = "  ".join(filter(None, (games, points, mean, per_second)))
            self._line(f"{steps:,} steps  {summary}  {_clock(left)} left")

    def wait(self, steps: int) -> None:
        """Say every so often, where there is no bar, that nothing has happened."""
        if not self._bar and self._is_due(0):
            self._line(f"{steps:,} steps  playing: no episode has ended yet to learn from")

    def _is_due(self, first: float = -LINE_SECONDS) -> bool:
        """Whether the last line is long ago; without one, whether ``first`` is."""
        return time.monotonic() - self._began - max(self._last_line, first) >= LINE_SECONDS

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic() - self._began
        self.say(f"{self._last_line / 60:6.1f} min  {text}")


def _clock(seconds: float) -> str:
    """A time in hours, minutes and seconds; days are hours, too."""
    minutes, rest = divmod(round(min(seconds, 1e9)), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _fitting(pieces: Iterable[str], width: int) -> str:
    """The first pieces, as many as fit into the width."""
    line = ""
    for piece in filter(None, pieces):
        longer = f"{line}  {piece}" if line else piece
        if line and len(longer) > width:
            break
        line = longer
    return line
