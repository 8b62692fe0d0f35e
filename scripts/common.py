"""What several scripts need: errors in one line, `pong` as a command, and Markdown tables."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from pong.config import InputError, RunError

ROOT = Path(__file__).resolve().parent.parent
BLUE, RED, GREEN, ORANGE, GREY = "#1f5fa8", "#c0392b", "#1e8449", "#b9770e", "#666666"
WAYS = ("sampled", "greedy")  # of choosing actions


def run(main: Callable[..., Any]) -> None:
    """Call a script's ``main`` with the command line: an error is one line, and bad input exits with status 2."""
    try:
        sys.exit(tyro.cli(main))
    except (InputError, RunError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def pong(log: Path, core: int | None, *arguments: object) -> None:
    """Run a command of ``pong`` on one core, or on all if None, and append its output to a log."""
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    command = [*pinned, sys.executable, "-m", "pong", *map(str, arguments)]
    with log.open("a", encoding="utf-8") as file:
        if subprocess.run(command, stdout=file, stderr=file, check=False).returncode:
            raise RunError(f"{' '.join(command)} failed; see {log}")


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """A Markdown table; its columns are the first row's keys."""
    lines = (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)) if rows else ()
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)
