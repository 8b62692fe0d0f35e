"""Several processes that train one policy: each plays its share of the emulators, all take the same step."""

import contextlib
import gc
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pong.config import InputError, RunError

T = TypeVar("T")
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
TIMEOUT = timedelta(minutes=5)  # without a sign of life from the other ranks


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default it is alone.

    Attributes:
        rank: number of this process; rank 0 tracks and saves.
        size: processes in all.
        local_rank: number of this process on its machine.
        local_size: processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> "Ranks":
        """As ``torchrun`` started this process; alone if not all is set that it sets.

        Raises:
            InputError: one of them is no number.
        """
        if not all(name in os.environ for name in (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")):
            return cls()
        for name in NUMBERS:
            if not os.environ[name].isdecimal():
                found = f"the environment says {name}={os.environ[name]}"
                raise InputError(f"{found}, which is no number; start several processes with torchrun, or unset it")
        return cls(*(int(os.environ[name]) for name in NUMBERS))

    @property
    def cores(self) -> int:
        """Processor cores that this process may use without getting into the other ranks' way, at least 1."""
        return max(cores() // self.local_size, 1)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Meet the other processes, and part from them at the end."""
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
            # torchrun keeps one store for all its attempts: the addresses of dead ranks are still in it.
            fresh = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(backend, timeout=TIMEOUT, store=fresh, rank=self.rank, world_size=self.size)
        try:
            yield
        finally:
            if self.size > 1:
                dist.destroy_process_group()
                gc.collect()  # gloo's threads end with it: one that still lets go of a tensor later aborts the process

    def shard(self, everything: range) -> range:
        """This rank's part of something, such as the emulators of a run."""
        return shard(everything, self.rank, self.size)

    def all_gather(self, mine: T) -> list[T]:
        """What each rank has, in order of rank.

        Raises:
            RunError: a rank died.
        """
        everyones = [mine] * self.size
        if self.size > 1:
            with _all_alive():
                dist.all_gather_object(everyones, mine)
        return everyones

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks.

        Raises:
            RunError: a rank died.
        """
        if self.size > 1:
            with _all_alive():
                for tensor in tensors:
                    dist.all_reduce(tensor)


@contextlib.contextmanager
def _all_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch tells a lost connection and a timeout by this alone
        what = str(error).splitlines()[0]
        raise RunError(f"another rank is gone ({what}); resume it with --resume") from None


def shard(everything: range, part: int, parts: int) -> range:
    """One of several consecutive parts, all of the same size or one apart."""
    first, last = (len(everything) * k // parts for k in (part, part + 1))
    return everything[first:last]


def cores() -> int:
    """Processor cores that this process may use: by its affinity, and by its container's share of the host."""
    if sys.version_info >= (3, 13):
        mine = os.process_cpu_count() or 1
    else:
        mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(math.ceil(min(mine, quota())), 1)


def quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that Linux grants this process's container, of either version of cgroups; else infinity.

    Args:
        root: where the system tells.
    """
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            time, period = " ".join((root / file).read_text() for file in files).split()
            if time not in ("max", "-1"):
                return int(time) / int(period)
    return math.inf
