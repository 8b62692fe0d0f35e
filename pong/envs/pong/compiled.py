"""What Numba compiles: rules, and the kernels that are called from Python."""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])
PACKAGE = Path(__file__).parents[2]
SOURCES = [PACKAGE / "observations.py", *sorted(Path(__file__).parent.glob("*.py"))]  # constants are compiled in
VERSIONS = f"{numba.__version__} {np.__version__}".encode()
DIGEST = hashlib.sha256(b"".join([VERSIONS, *(source.read_bytes() for source in SOURCES)])).hexdigest()[:16]
FAILURES: list[str] = []  # of the cache, in this process


class KernelCache(FunctionCache):
    """Numba's cache, which may fail: what it holds is thrown away, and the kernel is compiled."""

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:  # Numba's own around each load and save
        try:
            yield
        except Exception as error:  # a damaged file raises almost anything
            why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            report(f"{self.cache_path}: {why}")
            for file in Path(self.cache_path).glob(f"{self._impl.filename_base}.*"):
                with contextlib.suppress(OSError):
                    file.unlink()


def report(failure: str) -> None:
    """Print the cache's first failure in this process."""
    if not FAILURES:
        why, remedy = " ".join(failure.split()), "NUMBA_CACHE_DIR can name another folder"
        print(f"pong: Numba's cache fails ({why}), so this process compiles the game; {remedy}", file=sys.stderr)
    FAILURES.append(failure)


def rule(function: F) -> F:
    """Compiled into the kernels that call it."""
    return cast(F, numba.njit(function))


def kernel(function: F) -> F:
    """Compiled once, and kept beside its file or, where that can't be written, in the user's cache.

    While it runs, other threads do. Numba looks for changes in a kernel's own file alone, so what is kept is named by
    all of them.
    """
    function.__qualname__ += f"-{DIGEST}"
    compiled: Any = numba.njit(nogil=True)(function)
    try:
        compiled._cache = KernelCache(function)  # type: ignore[no-untyped-call]
    except RuntimeError as error:  # neither can be written: each process compiles for itself
        report(str(error))
    return cast(F, compiled)
