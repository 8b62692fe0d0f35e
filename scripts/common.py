"""Shared by the scripts: the command line, colours and Markdown tables."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pydantic
import tyro

from pong.config import InputError, RunError

ROOT = Path(__file__).resolve().parent.parent
BLUE, RED, GREEN, ORANGE, GREY = "#1f5fa8", "#c0392b", "#1e8449", "#b9770e", "#666666"


def run(main: Callable[..., Any]) -> None:
    """Call a script's ``main`` with the flags of the command line; an error is one line, bad input exits with 2."""
    try:
        sys.exit(tyro.cli(pydantic.validate_call(main)))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        status, message = 2, f"{problem['loc'][0]} = {problem['input']}: {problem['msg']}"
    except (InputError, RunError, OSError) as error:
        status, message = 2 if isinstance(error, InputError) else 1, str(error)
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    print(f"{Path(sys.argv[0]).stem}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def markdown(rows: Iterable[dict[str, object]]) -> str:
    """A Markdown table; its columns are the first row's keys."""
    rows = list(rows)
    lines = (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)) if rows else ()
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)
