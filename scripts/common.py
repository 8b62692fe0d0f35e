"""What several scripts need: errors in one line, colours, and Markdown tables."""

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydantic
import tyro

from pong.config import InputError, RunError

ROOT = Path(__file__).resolve().parent.parent
BLUE, RED, GREEN, ORANGE, GREY = "#1f5fa8", "#c0392b", "#1e8449", "#b9770e", "#666666"


def run(main: Callable[..., Any]) -> None:
    """Call a script's ``main`` with the command line: an error is one line, and bad input exits with status 2."""
    try:
        sys.exit(parse(pydantic.validate_call(main))())
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        status, message = 2, f"{problem['loc'][0]} = {problem['input']}: {problem['msg']}"
    except (InputError, RunError, OSError) as error:
        status, message = 2 if isinstance(error, InputError) else 1, str(error)
    except KeyboardInterrupt:
        status, message = 130, "interrupted"
    print(f"{Path(sys.argv[0]).stem}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def parse(main: Callable[..., Any]) -> Callable[[], Any]:
    """A function with the flags of the command line as its arguments; an InputError says which flag is wrong."""

    @functools.wraps(main)
    def with_flags(*values: Any, **flags: Any) -> Callable[[], Any]:
        return functools.partial(main, *values, **flags)

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(with_flags)
    except SystemExit as end:
        if not end.code:  # tyro has printed the help
            raise
        text = output.getvalue().partition("\n")[2]  # tyro draws a box, in colour on a terminal, with a title
        text = re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯─]|\+?-{3,}\+?|^\||\|$", "", text, flags=re.MULTILINE)
        raise InputError(re.split("Argument helptext|For full helptext", text)[0]) from None


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """A Markdown table; its columns are the first row's keys."""
    lines = (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)) if rows else ()
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)
