"""A player in a thread of its own, so that it plays while the learner learns, and other players play."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import torch

from pong.config import Config
from pong.envs import EmulatorState
from pong.player import Actor, Player, Trajectories


class PlayerThread:
    """A ``Player`` that plays in a thread, to be used like one.

    The games, the decisions and most of the learner are compiled code, which leaves Python to others while it runs.

    Args:
        config: the run's config.
        emulators: which of the run's emulators it plays.
        purpose: TRAINING or EVALUATION.
        actor: decides; its weights must not change while a rollout is played.
    """

    def __init__(self, config: Config, emulators: range, purpose: int, actor: Actor):
        self._player = Player(config, emulators, purpose, actor)
        self._part: Future[Trajectories] = Future()
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, update: int, done: float = 0.0) -> None:
        """Start playing a rollout; ``finish`` waits for it."""

        def play() -> Trajectories:
            try:
                self._player.begin(update, done)
            finally:
                self._begun.set()
            return self._player.finish()

        self._begun.clear()
        self._start(play)

    def play_on(self) -> None:
        """Start playing the same rollout on; ``finish`` waits for it."""
        self._start(self._player.finish)

    def is_done(self, seconds: float) -> bool:
        """Whether the rollout ends within this many seconds."""
        return bool(wait([self._part], seconds).done)

    def finish(self) -> Trajectories:
        """The rows of the rollout.

        Raises:
            RunError: its emulators failed.
        """
        return self._part.result()

    def state(self, begun: bool) -> list[EmulatorState] | None:
        """The play that the next rollout continues; of one that has begun, where it began."""
        if begun:
            self._begun.wait()
        return self._player.state(begun)

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from what ``state`` gave.

        Raises:
            InputError: it is no state of these emulators.
        """
        self._player.restore(state)

    def close(self) -> None:
        """End the emulators; a rollout under way ends first, at its next time step."""
        self._player.stopped = True
        if self._thread:
            self._thread.join()
        self._player.close()

    def _start(self, play: Callable[[], Trajectories]) -> None:
        self._part = Future()
        self._thread = threading.Thread(target=_fulfil, args=(self._part, play), daemon=True)
        self._thread.start()


def _fulfil(promise: "Future[Any]", play: Callable[[], Any]) -> None:
    """What runs in the thread."""
    torch.set_num_threads(1)
    try:
        promise.set_result(play())
    except BaseException as error:  # whatever it is: raised again in ``finish``
        promise.set_exception(error)
