"""The command line of a script: errors are said in one line, and bad input has exit status 2, as with ``pong``."""

import sys
from collections.abc import Callable, Collection
from pathlib import Path

import tyro

from pong.config import InputError, RunError, nearest


def run(main: Callable[..., None]) -> None:
    """Call a script's ``main`` with what the command line says."""
    try:
        tyro.cli(main)
    except (InputError, RunError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def chosen(only: Collection[str], known: Collection[str]) -> list[str]:
    """Those that were named, each once and in the order of ``known``; all if none were.

    Raises:
        InputError: one is not known.
    """
    for name in only:
        if name not in known:
            raise InputError(f"there is no {name!r}; {nearest(name, known)}")
    return [name for name in known if name in only] or list(known)
