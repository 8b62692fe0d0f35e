"""What Numba compiles: rules, and the kernels that are called from Python."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])
SOURCES = sorted(Path(__file__).parent.glob("*.py"))
DIGEST = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:16]


def rule(function: F) -> F:
    """Compiled into the kernels that call it."""
    return cast(F, numba.njit(function))


def kernel(function: F) -> F:
    """Compiled once, and kept beside its file or, where that can't be written, in the user's cache.

    While it runs, other threads do. Numba looks for changes in a kernel's own file alone, so what is kept is named by
    all of them.
    """
    function.__qualname__ += f"-{DIGEST}"
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # neither can be written: each process compiles for itself
        return cast(F, numba.njit(nogil=True)(function))
