"""Commands in processes of their own, forked from a Python that has everything imported and compiled already.

A fresh Python takes two seconds to import torch, and a test that kills sixty runs would do little else.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

PRELOADED = ["pong.cli", "pong.run", "pong.train", "warm_kernels"]


@functools.cache
def _server():
    """What forks: torch has not computed there, so it has no threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    forkserver.ensure_running()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    return multiprocessing.get_context("forkserver")


def _child(output, pieces, arguments):
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as in a terminal, whoever runs the tests
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))

    from pong import cli, train

    if pieces:
        whole = train.Trainer.run

        def in_pieces(trainer):
            while piece := list(itertools.islice(whole(trainer), 1)):
                yield from piece
                yield from itertools.islice(whole(trainer), 2)

        train.Trainer.run = in_pieces
    status = cli.main(list(map(str, arguments)))
    sys.stdout.flush()
    os._exit(status)


class Warm:
    """``pong`` with these arguments, like a ``subprocess.Popen``; all that it says goes to a file.

    Args:
        arguments: of the command line.
        output: the file.
        pieces: whether ``Trainer.run()`` is called again and again, for one update and for two, as in notebooks.
    """

    def __init__(self, *arguments, output, pieces=False):
        Path(output).write_bytes(b"")
        self._process = _server().Process(target=_child, args=(str(output), pieces, arguments))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout):
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send_signal(signal.SIGKILL)
            raise subprocess.TimeoutExpired("pong", timeout)
        return self._process.exitcode
