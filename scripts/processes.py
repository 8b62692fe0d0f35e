"""The processes of a run, and what memory they hold, as /proc on Linux tells it."""

import contextlib
from pathlib import Path


def family(root: int) -> list[int]:
    """A process and all that come from it; itself alone where there is no /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    found = [root]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_mb(pid: int) -> float:
    """Memory of a process now, MiB, a page that n processes share counted as 1/n.

    Raises:
        OSError: it has ended, or /proc does not tell.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
