"""Playing: a frozen policy in N emulators until the rollout ends, then the rows whose return is known."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pong.config import Config, InputError
from pong.distributed import Ranks, shard
from pong.envs import EmulatorState, prepare
from pong.observations import Observations, blank, cat
from pong.player import TRAINING, Actor, Episode, Trajectories
from pong.player_thread import PlayerThread
from pong.threads import uninterrupted

PATIENCE = 1.0  # seconds of waiting between two calls of ``while_playing``


@dataclass(frozen=True)
class Batch:
    """What one update learns from; B rows, one per decision whose return is known.

    Attributes:
        observations: B rows, what the policy saw.
        actions: (B,) int64, or (B, d) floating, as the policy chose them.
        returns: (B,) float32, discounted points; with standardize = "episode" in their game's standard deviations.
        weight: B over the rows of all ranks together: 1 without others.
        episodes: the games that ended in this rollout, on all ranks; by emulator, and then in time.
        points: rallies that ended in it, on all ranks; 0 in a game without.
        steps: decisions made in it, on all ranks.
        frames: frames emulated in it, on all ranks.
    """

    observations: Observations
    actions: Tensor
    returns: Tensor
    weight: float
    episodes: list[Episode]
    points: int
    steps: int
    frames: int


class Rollout:
    """Plays the emulators with one policy and returns a ``Batch`` per update.

    A rollout ends after ``horizon`` time steps ("steps"), or once every emulator has finished one game ("episodes"). A
    row enters a batch when its return is known; an unfinished rally is carried over to the next batch. What ``state``
    can't save restarts every ``checkpoint_every`` updates from (seed, update, emulator), so that a run can be resumed
    there; the episodes this cuts short are dropped.

    Emulators are sharded over ranks, and by each over players in threads; what is played does not depend on it.

    Args:
        config: the run's config.
        actor: decides, on the CPU; a policy that changes between rollouts, or not.
        purpose: TRAINING or EVALUATION, which have different random streams.
        ranks: this process among those that train together; each plays its share of the emulators.

    Attributes:
        begun: whether a rollout was begun and not handed out yet.
        while_playing: called now and then while waiting for a rollout.
    """

    def __init__(self, config: Config, actor: Actor, purpose: int = TRAINING, ranks: Ranks | None = None):
        self.config = config
        self.ranks = ranks or Ranks()
        self.begun = False
        self.while_playing: Callable[[], None] = lambda: None
        mine = self.ranks.shard(range(config.num_envs))
        prepare(config)
        players = min(config.players or self._cores(purpose), len(mine))
        self.players: list[PlayerThread] = []
        with contextlib.ExitStack() as made:  # if one can't be, those before it are closed
            made.callback(self.close)
            for k in range(players):
                self.players.append(PlayerThread(config, shard(mine, k, players), purpose, actor))
            made.pop_all()

    def _cores(self, purpose: int) -> int:
        """For players: all, but one for the learner where there is one."""
        return max(self.ranks.cores - (purpose == TRAINING), 1)

    def begin(self, update: int, done: float = 0.0) -> None:
        """Start playing rollout number ``update``; it plays meanwhile.

        Args:
            update: from 0.
            done: how far the run has come, in [0, 1].
        """
        self._parts: list[Trajectories] = []
        self._ready = False
        for player in self.players:
            player.begin(update, done)
        self.begun = True

    def wait(self) -> None:
        """Wait until the rollout that was begun has something to learn from; it may be interrupted, and called again.

        Raises:
            RunError: an emulator failed, or another rank died.
        """
        while not self._ready:
            for player in self.players:
                while not player.is_done(PATIENCE):
                    self.while_playing()
            with uninterrupted():
                self._parts += [player.finish() for player in self.players]
                self._ready = any(self.ranks.all_gather(any(len(part.returns) for part in self._parts)))
                if self._ready:
                    return
                for player in self.players:  # no point has ended yet
                    player.play_on()
            self.while_playing()

    def finish(self) -> Batch:
        """Wait for the rollout that was begun and return its batch.

        Raises:
            RunError: as ``wait``.
        """
        self.wait()
        parts, self._parts = self._parts, []
        self.begun = False
        return self._batch(parts)

    def collect(self, update: int) -> Batch:
        """Play rollout number ``update`` and return its batch."""
        self.begin(update)
        return self.finish()

    def state(self) -> list[EmulatorState] | None:
        """The play that the next rollout continues, of each emulator of all ranks; None where it can't be kept.

        A rollout that has begun is not in it: a resumed run plays it again.

        Raises:
            RunError: as ``finish``.
        """
        everyones = self.ranks.all_gather([player.state(self.begun) for player in self.players])
        parts = [part for theirs in everyones for part in theirs]
        return None if any(part is None for part in parts) else [kept for part in parts if part for kept in part]

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from what ``state`` gave, with any number of players and ranks.

        Raises:
            InputError: it is not that of these emulators.
        """
        if len(state) != self.config.num_envs:
            found = f"it holds the games of {len(state)} emulators, not of {self.config.num_envs}"
            raise InputError(f"the checkpoint does not fit its config: {found}")
        mine = self.ranks.shard(range(len(state)))
        for number, player in enumerate(self.players):
            emulators = shard(mine, number, len(self.players))
            player.restore(state[emulators.start : emulators.stop])

    def close(self) -> None:
        """End the emulators."""
        for player in self.players:
            player.close()

    def _batch(self, parts: list[Trajectories]) -> Batch:
        returns = torch.cat([part.returns for part in parts])
        rows = [(part.observations, part.actions) for part in parts]
        counts = [(part.episodes, part.points, part.steps, part.frames) for part in parts]
        everyones = self.ranks.all_gather((len(returns), counts))
        weight = len(returns) / sum(theirs for theirs, _ in everyones)
        if not weight:  # all points ended on other ranks: a row that weighs nothing
            observations, actions = rows[0]
            rows = [(blank(observations), actions.new_zeros(1, *actions.shape[1:]))]
            returns = returns.new_zeros(1)
        everything_seen, all_actions = zip(*rows, strict=True)
        episodes, points, steps, frames = zip(*(one for _, theirs in everyones for one in theirs), strict=True)
        return Batch(
            observations=cat(everything_seen),
            actions=torch.cat(all_actions),
            returns=returns,
            weight=weight,
            episodes=sorted((one for some in episodes for one in some), key=lambda episode: episode.emulator),
            points=sum(points),
            steps=sum(steps),
            frames=sum(frames),
        )
