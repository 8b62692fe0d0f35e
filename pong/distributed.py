"""Processes that train one policy together (torchrun), threads of torch, and interrupts."""

import contextlib
import ctypes
import gc
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pong.config import InputError, RunError

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
LAUNCHER = "PONG_LAUNCHER"  # set by ``seeds``
TIMEOUT = timedelta(minutes=5)  # without a sign of life from the other ranks


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; by default it is alone."""

    rank: int = 0  # number of this process; rank 0 tracks and saves
    size: int = 1  # processes in all
    local_rank: int = 0  # number of this process on its machine
    local_size: int = 1  # processes on this machine
    launcher: int = 0  # process number of torchrun, or of ``pong train --seeds``; 0 without them

    @classmethod
    def from_environment(cls) -> "Ranks":
        """The ranks that ``torchrun`` started; one alone unless all its variables are set."""
        launcher = int(os.environ.get(LAUNCHER) or ("TORCHELASTIC_RUN_ID" in os.environ and os.getppid()))
        if not all(name in os.environ for name in (*VARIABLES, "MASTER_ADDR", "MASTER_PORT")):
            return cls(launcher=launcher)
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in VARIABLES)
        return cls(rank, size, local_rank, local_size, launcher)

    @property
    def is_orphan(self) -> bool:
        """Whether the launcher, which would end this process with the others, is gone."""
        return self.launcher not in (0, os.getppid())

    @property
    def cores(self) -> int:
        """This process's share of the processor cores, at least 1."""
        return max(cores() // self.local_size, 1)

    @contextlib.contextmanager
    def process_group(self, device: torch.device) -> Iterator[None]:
        """Initialise and destroy the process group of ranks that learn on such a device."""
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
            # torchrun keeps one store for all its attempts: the addresses of dead ranks are still in it.
            fresh = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(backend, timeout=TIMEOUT, store=fresh, rank=self.rank, world_size=self.size)
        try:
            self.all_reduce([torch.zeros(1, device=device)])  # refuses a shared GPU before anything is written
            yield
        finally:
            if self.size > 1:
                dist.destroy_process_group()
                gc.collect()  # gloo's threads end with it: one that frees a tensor later aborts the process

    def all_gather(self, own: T) -> list[T]:
        """The objects of all ranks, in order of rank."""
        gathered = [own] * self.size
        if self.size > 1:
            with _all_alive():
                dist.all_gather_object(gathered, own)
        return gathered

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks."""
        if self.size > 1:
            with _all_alive():
                for tensor in tensors:
                    dist.all_reduce(tensor)


@contextlib.contextmanager
def _all_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no class of its own for a lost connection or a timeout
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise
        if "Duplicate GPU" in str(error):
            raise InputError("ranks share a GPU, which NCCL refuses; start one per GPU, or add --device cpu") from None
        message = str(error).splitlines()[0]
        raise RunError(f"another rank is gone ({message}); resume it with --resume") from None


def shard(everything: range, part: int, parts: int) -> range:
    """One of several consecutive parts, whose sizes differ by at most one."""
    first, last = (len(everything) * k // parts for k in (part, part + 1))
    return everything[first:last]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_heap() -> None:
    """Let glibc's threads allocate in one heap, so that what one frees serves the others, and huge arrays outside."""
    with contextlib.suppress(AttributeError):
        for parameter, value in ((-8, 1), (-3, 1 << 24), (-1, 1 << 26)):  # M_ARENA_MAX, M_MMAP_ and M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, value)


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute with this many threads, and afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C to the end of this block, if it would raise a KeyboardInterrupt in it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
