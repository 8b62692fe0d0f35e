"""Players in processes of their own, one per core, so that every core emulates, decides and waits for no other."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from pong.config import Config, InputError, RunError
from pong.envs import Kept
from pong.player import Actor, Part, Player


class PlayerProcess:
    """A ``Player`` in another process, to be used like one.

    Args:
        config: the run's config.
        emulators: which of the run's emulators it plays.
        purpose: TRAINING or EVALUATION.
        actor: decides; its weights must lie in shared memory, so that the player always sees the newest ones.
    """

    def __init__(self, config: Config, emulators: range, purpose: int, actor: Actor):
        self._connection, theirs = multiprocessing.Pipe()
        arguments = (theirs, config, emulators, purpose, actor)
        self._process = multiprocessing.Process(target=_play, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._played: Part | None = None  # a rollout that was waited for before it was asked for

    def begin(self, update: int, done: float = 0.0) -> None:
        """Start playing a rollout; ``finish`` waits for it."""
        self._send("begin", update, done)

    def go_on(self) -> None:
        """Start playing the same rollout on; ``finish`` waits for it."""
        self._send("go_on")

    def wait(self) -> None:
        """Sleep until it has played what was begun."""
        wait([self._connection])

    def finish(self) -> Part:
        """The rows of the rollout.

        Raises:
            RunError: the process died, or failed, or its emulators did.
        """
        part: Part = self._played or self._receive()
        self._played = None
        return part

    def state(self, begun: bool) -> list[Kept] | None:
        """The play that the next rollout goes on from; one that was begun is played first, and its rows are kept.

        Raises:
            RunError: as ``finish``.
        """
        if begun and self._played is None:
            self._played = self._receive()
        self._send("state", begun)
        state: list[Kept] | None = self._receive()
        return state

    def restore(self, state: list[Kept]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            RunError: as ``finish``.
        """
        self._send("restore", state)
        self._receive()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _send(self, *message: Any) -> None:
        with contextlib.suppress(ConnectionError):  # a player that is gone is noticed by finish, with its last words
            self._connection.send(message)

    def _receive(self) -> Any:
        """What the process answers to the oldest message."""
        try:
            result = pickle.loads(self._connection.recv_bytes())  # from our own child
        except (EOFError, ConnectionError):
            raise RunError(self._obituary()) from None
        if isinstance(result, (RunError, InputError)):
            raise result
        return result

    def _obituary(self) -> str:
        self._process.join(1)
        return f"a player's process died (exit code {self._process.exitcode})"


def _play(connection: Connection, config: Config, emulators: range, purpose: int, actor: Actor) -> None:
    """What runs in the process: play when told to."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent answers signals meant for the run, and ends its players
    gc.freeze()  # what came from the parent is shared with it until somebody writes: garbage collection would
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        player = Player(config, emulators, purpose, actor)
        while True:
            what, *arguments = connection.recv()
            answer = getattr(player, what)(*arguments)
            if what in ("begin", "go_on"):
                answer = player.finish()
            connection.send_bytes(pickle.dumps(answer))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # whatever it is, the parent shall say it
        _say(connection, error)


def _say(connection: Connection, error: Exception) -> None:
    """Hand an error to the parent: what can happen in its own line, a mistake in the program with its traceback."""
    if not isinstance(error, (RunError, InputError)):
        traceback.print_exc()
        error = RunError(f"a player's process failed: {type(error).__name__}: {' '.join(str(error).split())}")
    with contextlib.suppress(ConnectionError):  # nobody is there to hear it
        connection.send_bytes(pickle.dumps(error))


def _die_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
