"""Reading the flags of a command."""

import contextlib
import io
from pathlib import Path
from typing import TypeVar

import tyro

from pong.config import InputError

T = TypeVar("T")


def parse(flags: type[T], arguments: list[str], prog: str) -> T:
    """Parse with tyro; its boxed error becomes one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(flags, prog=prog, args=arguments)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        words = [line.strip(" │╭╮╰╯─|+") for line in complaint.getvalue().splitlines()]
        lines = [line for line in words if line.strip("-")]
        end = next(
            (i for i, line in enumerate(lines) if line.startswith(("Argument helptext", "For full", "Perhaps"))), None
        )
        like = [line.split()[0] for line in lines[end:] if line.startswith("--")]  # of "Perhaps you meant"
        hint = f"; did you mean {' or '.join(like[:2])}?" if "Unrecognized" in lines[0] and like else ""
        raise InputError(f"{' '.join(lines[1:end])}{hint} ({prog} --help)") from None


def check_place(flag: str, file: Path) -> None:
    """Refuse a file that can't be written where it is to be, before the work is done that it is to hold.

    Args:
        flag: what names the file, with its command, such as ``eval: --json``.
        file: need not exist; its folder must.

    Raises:
        InputError: the name is too long or can't be reached, is a folder's, or lies in none.
    """
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            file.stat()  # is_dir() raises for a name that is too long on some Pythons only
    except OSError as error:
        raise InputError(f"{flag} {file} can't be written: {error.strerror}; give another name") from None
    if file.is_dir() or not file.parent.is_dir():
        raise InputError(f"{flag} {file}: give a file in a folder that exists")
