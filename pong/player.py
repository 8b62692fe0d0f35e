"""One player: a frozen policy in some of the emulators, the random streams of both, and what comes of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config, InputError, RunError, linear_schedule
from pong.envs import EmulatorState, Network, Segment, make_fleet, make_observation_builder
from pong.observations import Observations, SparseFrames, cat, nbytes
from pong.returns import discounted_returns, standardize
from pong.snapshot import Snapshot

TRAINING, EVALUATION = 0, 1  # what random streams are for
EMULATOR, ACTIONS = 0, 1
MOST_MOMENTS, MOST_BYTES = 200_000, 2**32  # that a player remembers while it waits for an episode's end


class Actor(Protocol):
    """What a rollout needs of a policy."""

    noise_shape: tuple[int, ...]

    @property
    def two_layers(self) -> Network | None:
        """Its weights, if it samples as the 2016 network does."""
        ...

    def act(self, x: Any, noise: Tensor) -> Tensor:
        """Actions (N, …) from N observations and noise (N, *noise_shape), uniform on [0, 1)."""
        ...


@dataclass(frozen=True)
class Episode:
    """A game played to its end."""

    emulator: int
    score: float  # the sum of its rewards; in Pong points won minus points lost, −21 to 21
    length: int  # agent steps
    frames: int = field(default=0, compare=False)  # emulated


@dataclass
class Trajectories:
    """One player's part of a rollout; the attributes are those of ``Batch``."""

    observations: Observations
    actions: Tensor
    returns: Tensor
    episodes: list[Episode]
    points: int
    steps: int
    frames: int


class ActionNoise:
    """Uniform numbers that decide the actions: one stream for each (seed, update, emulator).

    ``shape`` is that of the numbers for one action.
    """

    BLOCK = 256  # time steps drawn at a time

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

    def ahead(self) -> NDArray[np.float32]:
        """What comes next of each stream, for T ≥ 1 time steps: (T, N, *shape) on [0, 1)."""
        if not len(self._block):
            columns = [stream.random((self.BLOCK, *self._shape), dtype=np.float32) for stream in self._streams]
            self._block = np.stack(columns, axis=1)
        return self._block

    def use(self, time_steps: int) -> None:
        """This many time steps of it are used up."""
        self._block = self._block[time_steps:]

    def draw(self) -> Tensor:
        """The next number or numbers of each stream: (N, *shape) float32 on [0, 1)."""
        numbers = torch.from_numpy(self.ahead()[0])
        self.use(1)
        return numbers


def emulator_seeds(seed: int, update: int, emulators: Sequence[int], purpose: int = TRAINING) -> NDArray[np.int64]:
    """What to seed each emulator with, (N,) int64 in [1, 2³¹), from (seed, update, emulator)."""
    streams = [_random_stream(seed, update, i, purpose, EMULATOR) for i in emulators]
    return np.array([stream.integers(1, 2**31) for stream in streams])


def _random_stream(seed: int, update: int, emulator: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, update, emulator, *purpose)))


class Player:
    """Plays some of the emulators, and keeps what it played until a batch takes it.

    Args:
        config: the run's config.
        emulators: which of the run's emulators; random streams belong to an emulator, not to its player.
        purpose: TRAINING or EVALUATION, which have different random streams.
        actor: decides.

    Attributes:
        stopped: a rollout under way ends at its next time step.
    """

    def __init__(self, config: Config, emulators: range, purpose: int, actor: Actor):
        self.config = config
        self.emulators = emulators
        self.purpose = purpose
        self.actor = actor
        self.fleet = make_fleet(config, len(emulators))
        self.stopped = False
        self._seen: Observations | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        n = len(self.emulators)
        self._score, self._length, self._frames = np.zeros(n), np.zeros(n, int), np.zeros(n, int)  # of games under way
        self._segments: list[Segment] = []  # with decisions that no batch has held yet: their ``active`` ones
        self._waiting = self._waiting_bytes = 0  # in the segments: time steps, and what was seen in them

    def begin(self, update: int, done: float = 0.0) -> None:
        """Get ready to play rollout number ``update``; ``done`` in [0, 1] says how far the run has come."""
        self._before = self._snapshot()
        if self._before is None and (self._seen is None or update % self.config.checkpoint_every == 0):
            self._seen = self.fleet.reset(emulator_seeds(self.config.seed, update, self.emulators, self.purpose))
            self._start_afresh()
        elif self.config.until == "episodes":
            self._seen = self.fleet.reset()
        self._noise = ActionNoise(self.config.seed, update, self.emulators, self.purpose, self.actor.noise_shape)
        self._active = np.ones(len(self.emulators), bool)
        self._horizon = round(linear_schedule(self.config.horizon, self.config.horizon_end, done))

    def play_on(self) -> None:
        """Get ready to play the same rollout on."""

    def is_done(self, seconds: float) -> bool:
        """Whether nobody needs to wait for ``finish``: it plays by itself."""
        return True

    def finish(self) -> Trajectories:
        """Play it and return the rows whose point has ended.

        Raises:
            RunError: an emulator failed, or it was stopped.
        """
        self._episodes: list[Episode] = []
        points, steps, frames, time_steps = 0, 0, 0, 0
        whole = self.config.until == "episodes"
        while self._active.any() and (whole or time_steps < self._horizon) and not self.stopped:
            played = self._play(math.inf if whole else self._horizon - time_steps)
            time_steps += len(played)
            self._bound(played)
            points += int(np.count_nonzero(played.rewards * played.active)) if self.config.is_pong else 0
            steps += int(np.count_nonzero(played.active))
            frames += int(played.frames.sum())
            self._keep_score(played)
            if whole:
                self._active = played.active[-1] & ~played.dones[-1]
        if self.stopped:
            raise RunError("the rollout was ended while it was played")
        return Trajectories(*self._cut(), self._episodes, points, steps, frames)

    def state(self, begun: bool) -> list[EmulatorState] | None:
        """The play that the next rollout continues, of each emulator; None where nothing is kept.

        Args:
            begun: whether that rollout has been begun, and perhaps played.
        """
        snapshot = self._before if begun else self._snapshot()
        return snapshot.pack() if snapshot else None

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from what ``state`` gave.

        Raises:
            InputError: it is no state of these emulators.
        """
        try:
            self.fleet.restore(state)
        except (KeyError, ValueError, RuntimeError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"the checkpoint does not fit its config: its games are others ({what})") from None
        now = Snapshot.unpack(state, make_observation_builder(self.config).width)
        self._seen = now.seen
        self._score, self._length, self._frames = now.score, now.length, now.frames
        self._segments = now.segments

    def _snapshot(self) -> Snapshot | None:
        """What there is now; None where it can't be kept, or before the first rollout."""
        fleet = None if self._seen is None else self.fleet.state()
        if fleet is None:
            return None
        assert isinstance(self._seen, SparseFrames)
        games = self._score.copy(), self._length.copy(), self._frames.copy()
        return Snapshot(fleet, self._seen, *games, list(self._segments))

    def close(self) -> None:
        """End the emulators."""
        self.fleet.close()

    def _bound(self, played: Segment) -> None:
        """Refuse to wait for ever for an end while memory fills up."""
        self._waiting += len(played)
        self._waiting_bytes += nbytes(played.observations)
        if self._waiting > MOST_MOMENTS or self._waiting_bytes > MOST_BYTES:
            found = f"an episode has not ended in {self._waiting:,} decisions"
            remedy = "give the environment a time limit, by gymnasium.register(…, max_episode_steps=…)"
            raise RunError(f"env = {self.config.env!r}: {found}, and all of them wait for its return; {remedy}")

    def _play(self, most: float) -> Segment:
        """Decisions of the active emulators in at most this many time steps, remembered."""
        assert self._seen is not None, "begin first"
        noise = self._noise.ahead()
        noise = noise[: int(min(most, len(noise)))]
        network, whole = self.actor.two_layers, self.config.until == "episodes"
        played = self.fleet.play_segment(network, self._seen, noise, self._active, whole) if network else None
        played = played or self._step(torch.from_numpy(noise[0]))
        self._noise.use(len(played))
        self._segments.append(played)
        self._seen = played.seen
        return played

    def _step(self, noise: Tensor) -> Segment:
        """One decision of every active emulator."""
        assert self._seen is not None
        actions = self._decide(self._seen, noise)  # (n, …)
        played = self.fleet.step(actions.numpy(), self._active)
        rewards, dones, frames = played.rewards[None], played.dones[None], played.frames[None]
        return Segment(self._seen, actions[None], rewards, dones, frames, self._active[None], played.observations)

    def _decide(self, seen: Observations, noise: Tensor) -> Tensor:
        """Actions (n, …): the actor's for active emulators, 0 for the others."""
        if self._active.all():
            return self.actor.act(seen, noise)
        active = torch.from_numpy(np.flatnonzero(self._active))
        chosen = self.actor.act(seen[active], noise[active])
        actions = chosen.new_zeros(len(noise), *chosen.shape[1:])
        actions[active] = chosen
        return actions

    def _keep_score(self, played: Segment) -> None:
        begins = np.zeros(len(self.emulators), int)  # of what was not counted yet
        for t, i in zip(*np.nonzero(played.dones & played.active), strict=True):
            self._count(played, int(i), slice(begins[i], t + 1))
            counts = float(self._score[i]), int(self._length[i]), int(self._frames[i])
            self._episodes.append(Episode(self.emulators[i], *counts))
            self._score[i] = self._length[i] = self._frames[i] = 0
            begins[i] = t + 1
        for i, begin in enumerate(begins):
            self._count(played, i, slice(begin, None))

    def _count(self, played: Segment, i: int, time_steps: slice) -> None:
        active = played.active[time_steps, i]
        self._score[i] += (played.rewards[time_steps, i] * active).sum(dtype=np.float64)
        self._length[i] += np.count_nonzero(active)
        self._frames[i] += played.frames[time_steps, i].sum()

    def _cut(self) -> tuple[Observations, Tensor, Tensor]:
        """Take the rows whose point has ended: observations, actions, returns; the others wait."""
        parts = self._segments
        rewards, dones = np.concatenate([p.rewards for p in parts]), np.concatenate([p.dones for p in parts])  # (T, n)
        unused = np.concatenate([p.active for p in parts])
        reset = self.config.is_pong and self.config.reset_at_points
        ended = dones | (rewards != 0) if reset else dones
        known = np.logical_or.accumulate(ended[::-1])[::-1]  # an end lies ahead: the return is known
        emulators, time_steps = np.nonzero(
            (unused & known).T
        )  # each emulator's rows together: a player more changes nothing
        ready = (torch.from_numpy(time_steps), torch.from_numpy(emulators))
        returns = discounted_returns(
            torch.from_numpy(rewards),
            self.config.gamma,
            dones=torch.from_numpy(dones),
            reset_on_reward=reset,
        )
        if self.config.standardize == "episode":
            for game in np.split(np.stack((time_steps, emulators)), np.flatnonzero(np.diff(emulators)) + 1, axis=1):
                returns[*game] = standardize(returns[*game])
        observations = cat([p.observations for p in parts])[ready[0] * len(self.emulators) + ready[1]]
        rows = observations, torch.cat([p.actions for p in parts])[ready], returns[ready]
        waiting = np.split(unused & ~known, np.cumsum([len(p) for p in parts])[:-1])
        self._segments = [replace(p, active=left) for p, left in zip(parts, waiting, strict=True) if left.any()]
        self._waiting = sum(map(len, self._segments))
        self._waiting_bytes = sum(nbytes(part.observations) for part in self._segments)
        return rows
