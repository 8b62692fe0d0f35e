"""One player: a frozen policy in some of the emulators, the random streams of both, and what comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config, InputError, between
from pong.envs import Kept, Played, make_fleet, make_view
from pong.frames import Observations, SparseFrames, cat
from pong.returns import discounted_returns, standardize
from pong.snapshot import Snapshot

TRAINING, EVALUATION = 0, 1  # what random streams are for
EMULATOR, ACTIONS = 0, 1


class Actor(Protocol):
    """What a rollout needs of a policy."""

    noise_shape: tuple[int, ...]

    def act(self, x: Any, noise: Tensor) -> Tensor:
        """Actions (N, …) from N observations and noise (N, *noise_shape), uniform on [0, 1)."""
        ...

    def share_memory(self) -> object:
        """Move the weights to where other processes see them change."""
        ...


@dataclass(frozen=True)
class Episode:
    """A game played to its end."""

    emulator: int
    score: float  # the sum of its rewards; in Pong points won minus points lost, −21 to 21
    length: int  # agent steps
    frames: int = field(default=0, compare=False)  # emulated


@dataclass
class Part:
    """One player's part of a rollout; the attributes are those of ``Batch``."""

    observations: Observations
    actions: Tensor
    returns: Tensor
    episodes: list[Episode]
    points: int
    steps: int
    frames: int


class Noise:
    """Uniform numbers that decide the actions: one stream for each (seed, update, emulator).

    ``shape`` is that of the numbers for one action.
    """

    BLOCK = 256  # moments drawn at a time

    def __init__(
        self,
        seed: int,
        update: int,
        emulators: Sequence[int],
        purpose: int = TRAINING,
        shape: tuple[int, ...] = (),
    ):
        self._streams = [_random_stream(seed, update, i, purpose, ACTIONS) for i in emulators]
        self._shape = shape
        self._block = np.empty((0, len(emulators), *shape), np.float32)
        self._next = 0

    def draw(self) -> Tensor:
        """The next number or numbers of each stream: (N, *shape) float32 on [0, 1)."""
        if self._next == len(self._block):
            columns = [stream.random((self.BLOCK, *self._shape), dtype=np.float32) for stream in self._streams]
            self._block, self._next = np.stack(columns, axis=1), 0
        self._next += 1
        return torch.from_numpy(self._block[self._next - 1])


def emulator_seeds(seed: int, update: int, emulators: Sequence[int], purpose: int = TRAINING) -> NDArray[np.int64]:
    """What to seed each emulator with, (N,) int64 in [1, 2³¹), from (seed, update, emulator)."""
    streams = [_random_stream(seed, update, i, purpose, EMULATOR) for i in emulators]
    return np.array([stream.integers(1, 2**31) for stream in streams])


def _random_stream(seed: int, update: int, emulator: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, update, emulator, *purpose)))


class Player:
    """Plays some of the emulators, and keeps what it played until a batch takes it.

    A stretch of play has an entry per moment, each (n,) over the player's emulators.

    Args:
        config: the run's config.
        emulators: which of the run's emulators; random streams belong to an emulator, not to its player.
        purpose: TRAINING or EVALUATION, which have different random streams.
        actor: decides.
    """

    def __init__(self, config: Config, emulators: range, purpose: int, actor: Actor):
        self.config = config
        self.emulators = emulators
        self.purpose = purpose
        self.actor = actor
        self.fleet = make_fleet(config, len(emulators))
        self._seen: Observations | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        n = len(self.emulators)
        self._score, self._length, self._frames = np.zeros(n), np.zeros(n, int), np.zeros(n, int)  # of games under way
        self._observations: list[Observations] = []
        self._actions: list[Tensor] = []
        self._rewards: list[NDArray[np.float32]] = []
        self._dones: list[NDArray[np.bool_]] = []
        self._unused: list[NDArray[np.bool_]] = []  # decisions no batch has held yet

    def begin(self, update: int, done: float = 0.0) -> None:
        """Get ready to play rollout number ``update``; ``done`` in [0, 1] says how far the run has come."""
        self._before = self._snapshot()
        if self._before is None and (self._seen is None or update % self.config.checkpoint_every == 0):
            self._seen = self.fleet.reset(emulator_seeds(self.config.seed, update, self.emulators, self.purpose))
            self._start_afresh()
        elif self.config.until == "episodes":
            self._seen = self.fleet.reset()
        self._noise = Noise(self.config.seed, update, self.emulators, self.purpose, self.actor.noise_shape)
        self._active = np.ones(len(self.emulators), bool)
        self._horizon = round(between(self.config.horizon, self.config.horizon_end, done))

    def go_on(self) -> None:
        """Get ready to play the same rollout on."""

    def finish(self) -> Part:
        """Play it and hand out the rows whose point has ended."""
        self._episodes: list[Episode] = []
        points, steps, frames, moments = 0, 0, 0, 0
        while self._active.any() and (self.config.until == "episodes" or moments < self._horizon):
            played = self._step()
            moments += 1
            points += int(np.count_nonzero(played.rewards)) if self.config.points else 0
            steps += int(np.count_nonzero(self._active))
            frames += int(played.frames.sum())
            self._keep_score(played)
            if self.config.until == "episodes":
                self._active = self._active & ~played.dones
        return Part(*self._cut(), self._episodes, points, steps, frames)

    def state(self, begun: bool) -> list[Kept] | None:
        """The play that the next rollout goes on from, of each emulator; None where nothing is kept.

        Args:
            begun: whether that rollout has been begun, and perhaps played.
        """
        snapshot = self._before if begun else self._snapshot()
        return snapshot.pack() if snapshot else None

    def restore(self, state: list[Kept]) -> None:
        """Go on from what ``state`` gave.

        Raises:
            InputError: it is no state of these emulators.
        """
        try:
            self.fleet.restore(state)
        except (KeyError, ValueError, RuntimeError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"the checkpoint does not fit its config: its games are others ({what})") from None
        now = Snapshot.unpack(state, make_view(self.config).width)
        self._seen = now.seen
        self._score, self._length, self._frames = now.score, now.length, now.frames
        self._observations, self._actions, self._unused = now.observations, now.actions, now.unused
        self._rewards = [np.zeros(len(state), np.float32) for _ in now.unused]  # a reward would have ended the point
        self._dones = [np.zeros(len(state), np.bool_) for _ in now.unused]

    def _snapshot(self) -> Snapshot | None:
        """What there is now; None where it can't be kept, or before the first rollout."""
        fleet = None if self._seen is None else self.fleet.state()
        if fleet is None:
            return None
        assert isinstance(self._seen, SparseFrames)
        games = self._score.copy(), self._length.copy(), self._frames.copy()
        return Snapshot(fleet, self._seen, *games, [*self._observations], [*self._actions], [*self._unused])

    def close(self) -> None:
        """End the emulators."""
        self.fleet.close()

    def _step(self) -> Played:
        """One decision of every active emulator, remembered."""
        assert self._seen is not None, "begin first"
        actions = self._decide(self._seen, self._noise.draw())  # (n, …)
        played = self.fleet.step(actions.numpy(), self._active)
        self._observations.append(self._seen)
        self._actions.append(actions)
        self._rewards.append(played.rewards)
        self._dones.append(played.dones)
        self._unused.append(self._active)
        self._seen = played.observations
        return played

    def _decide(self, seen: Observations, noise: Tensor) -> Tensor:
        """Actions (n, …): the actor's for active emulators, 0 for the others."""
        if self._active.all():
            return self.actor.act(seen, noise)
        active = torch.from_numpy(np.flatnonzero(self._active))
        chosen = self.actor.act(seen[active], noise[active])
        actions = chosen.new_zeros(len(noise), *chosen.shape[1:])
        actions[active] = chosen
        return actions

    def _keep_score(self, played: Played) -> None:
        self._score += played.rewards * self._active
        self._length += self._active
        self._frames += played.frames
        for i in np.flatnonzero(played.dones & self._active):
            counts = float(self._score[i]), int(self._length[i]), int(self._frames[i])
            self._episodes.append(Episode(self.emulators[i], *counts))
            self._score[i] = self._length[i] = self._frames[i] = 0

    def _cut(self) -> tuple[Observations, Tensor, Tensor]:
        """Take the rows whose point has ended: observations, actions, returns; the others wait."""
        rewards, dones, unused = (np.stack(rows) for rows in (self._rewards, self._dones, self._unused))  # (T, n)
        ended = dones | (rewards != 0) if self.config.points else dones
        known = np.logical_or.accumulate(ended[::-1])[::-1]  # an end lies ahead: the return is known
        emulators, moments = np.nonzero(
            (unused & known).T
        )  # each emulator's rows together: a player more changes nothing
        ready = (torch.from_numpy(moments), torch.from_numpy(emulators))
        returns = discounted_returns(
            torch.from_numpy(rewards),
            self.config.gamma,
            dones=torch.from_numpy(dones),
            reset_on_reward=self.config.points,
        )
        if self.config.standardize == "episode":
            for game in np.split(np.stack((moments, emulators)), np.flatnonzero(np.diff(emulators)) + 1, axis=1):
                returns[*game] = standardize(returns[*game])
        observations = cat(self._observations)[ready[0] * len(self.emulators) + ready[1]]
        rows = observations, torch.stack(self._actions)[ready], returns[ready]
        self._keep(unused & ~known)
        return rows

    def _keep(self, unused: NDArray[np.bool_]) -> None:
        """Forget all before the first unused decision; ``unused`` is (T, n)."""
        moments = np.flatnonzero(unused.any(axis=1))
        first = int(moments[0]) if len(moments) else len(unused)
        self._unused = list(unused[first:])
        for entries in (self._observations, self._actions, self._rewards, self._dones):
            del entries[:first]
