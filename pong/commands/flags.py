"""Reading the flags of a command."""

import contextlib
import io
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
        words = [line.strip(" │╭╮╰╯─-") for line in complaint.getvalue().splitlines()]
        lines = [line for line in words if line]
        end = next(
            (i for i, line in enumerate(lines) if line.startswith(("Argument helptext", "For full", "Perhaps"))), None
        )
        raise InputError(f"{' '.join(lines[1:end])} ({prog} --help)") from None
