"""Playing: a frozen policy in N emulators until the rollout ends, then the rows whose return is known."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config
from pong.frames import SparseFrames
from pong.returns import discounted_returns, standardize

TRAINING, EVALUATION = 0, 1  # what random streams are for
EMULATOR, ACTIONS = 0, 1


class Actor(Protocol):
    """What a rollout needs of a policy."""

    def act(self, x: SparseFrames, noise: Tensor) -> Tensor:
        """Actions (N,) int64 from observations and noise (N,), uniform on [0, 1)."""
        ...


@dataclass(frozen=True)
class Episode:
    """A game played to its end."""

    emulator: int
    score: float  # points won minus points lost, −21 to 21
    length: int  # agent steps


@dataclass(frozen=True)
class Batch:
    """What one update learns from; B rows, one per decision whose point has ended.

    Attributes:
        observations: B difference frames.
        actions: (B,) int64 in {0, 1}.
        returns: (B,) float32, discounted points, standardised as the config says.
        episodes: the games that ended in this rollout.
        points: rallies that ended in it.
        steps: decisions made in it.
        frames: frames emulated in it.
    """

    observations: SparseFrames
    actions: Tensor
    returns: Tensor
    episodes: list[Episode]
    points: int
    steps: int
    frames: int


@dataclass
class _Steps:
    """A stretch of play, one entry per moment; each (N,) over the emulators."""

    observations: list[SparseFrames] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)  # int64
    rewards: list[NDArray[np.float32]] = field(default_factory=list)
    dones: list[NDArray[np.bool_]] = field(default_factory=list)
    unused: list[NDArray[np.bool_]] = field(default_factory=list)  # decisions no batch has held yet

    def waiting(self, unused: NDArray[np.bool_]) -> "_Steps":
        """The stretch from the first unused decision on; ``unused`` is (T, N)."""
        moments = np.flatnonzero(unused.any(axis=1))
        first = int(moments[0]) if len(moments) else len(unused)
        rest = slice(first, None)
        return _Steps(
            self.observations[rest], self.actions[rest], self.rewards[rest], self.dones[rest], list(unused[rest])
        )


class Noise:
    """Uniform numbers that decide the actions: one stream for each (seed, update, emulator)."""

    BLOCK = 256  # moments drawn at a time

    def __init__(self, seed: int, update: int, num_envs: int, purpose: int = TRAINING):
        self._streams = [_random_stream(seed, update, i, purpose, ACTIONS) for i in range(num_envs)]
        self._block = np.empty((0, num_envs), np.float32)
        self._next = 0

    def draw(self) -> Tensor:
        """The next number of each stream: (N,) float32 on [0, 1)."""
        if self._next == len(self._block):
            columns = [stream.random(self.BLOCK, dtype=np.float32) for stream in self._streams]
            self._block, self._next = np.stack(columns, axis=1), 0
        self._next += 1
        return torch.from_numpy(self._block[self._next - 1])


def emulator_seeds(seed: int, update: int, num_envs: int, purpose: int = TRAINING) -> NDArray[np.int64]:
    """What to seed each emulator with, (N,) int64 in [1, 2³¹), from (seed, update, emulator)."""
    streams = [_random_stream(seed, update, i, purpose, EMULATOR) for i in range(num_envs)]
    return np.array([stream.integers(1, 2**31) for stream in streams])


def _random_stream(seed: int, update: int, emulator: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, update, emulator, *purpose)))


class Rollout:
    """Plays N emulators with one policy and hands out a ``Batch`` per update.

    A rollout ends after ``horizon`` moments ("steps"), or once every emulator has finished one game ("episodes"). A row
    enters a batch when its point has ended; the unfinished rally waits for the next batch. Every ``reseed_every``
    updates the emulators start afresh from (seed, update, emulator), so that a run can be taken up again there; the
    rallies and games this cuts short are dropped.

    Args:
        config: the run's config.
        envs: N emulators, see ``envs.make_envs``.
        purpose: TRAINING or EVALUATION, which have different random streams.
    """

    def __init__(self, config: Config, envs: VectorEnv[Any, Any, Any], purpose: int = TRAINING):
        self.config = config
        self.envs = envs
        self.purpose = purpose
        self._observations = np.empty(0, np.int8)
        self._steps = _Steps()
        self._start_games()
        # The cores belong to the emulators; and sums must not depend on how many there are.
        torch.set_num_threads(1)

    def collect(self, policy: Actor, update: int) -> Batch:
        """Play rollout number ``update`` and return its batch."""
        self._begin(update)
        noise = Noise(self.config.seed, update, self.envs.num_envs, self.purpose)
        active = np.ones(self.envs.num_envs, bool)
        episodes: list[Episode] = []
        moments, steps, frames, points, known = 0, 0, 0, 0, False
        while not self._finished(moments, known, active):
            rewards, dones, holds = self._step(policy, noise.draw(), active)
            episodes += self._keep_score(rewards, dones, active)
            moments += 1
            steps += int(active.sum())
            frames += int(holds[active].sum())
            points += int(np.count_nonzero(rewards))
            known = known or bool(rewards.any() or dones.any())
            if self.config.until == "episodes":
                active = active & ~dones
        return self._cut(episodes=episodes, points=points, steps=steps, frames=frames)

    def _step(
        self, policy: Actor, noise: Tensor, active: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        """One decision of every active emulator, remembered; returns rewards, dones and holds, each (N,)."""
        observations = SparseFrames.from_dense(self._observations)
        actions = policy.act(observations, noise)  # (N,)
        chosen = np.where(active, actions.numpy(), -1)
        self._observations, rewards, terminations, truncations, infos = self.envs.step(chosen)
        rewards, dones = rewards * active, (terminations | truncations) & active
        self._steps.observations.append(observations)
        self._steps.actions.append(actions)
        self._steps.rewards.append(rewards)
        self._steps.dones.append(dones)
        self._steps.unused.append(active)
        return rewards, dones, infos["hold"]

    def _begin(self, update: int) -> None:
        if update % self.config.reseed_every == 0:
            seeds = emulator_seeds(self.config.seed, update, self.envs.num_envs, self.purpose)
            self._observations, _ = self.envs.reset(seed=seeds)  # type: ignore[arg-type]  # one each, as ale-py takes them
            self._steps = _Steps()
            self._start_games()
        elif self.config.until == "episodes":
            self._observations, _ = self.envs.reset()

    def _finished(self, moments: int, known: bool, active: NDArray[np.bool_]) -> bool:
        if self.config.until == "episodes":
            return not active.any()
        return moments >= self.config.horizon and known  # without a known return the batch would be empty

    def _start_games(self) -> None:
        n = self.envs.num_envs
        self._score, self._length = np.zeros(n), np.zeros(n, int)

    def _keep_score(
        self, rewards: NDArray[np.float32], dones: NDArray[np.bool_], active: NDArray[np.bool_]
    ) -> list[Episode]:
        self._score += rewards
        self._length += active
        ended = np.flatnonzero(dones)
        episodes = [Episode(int(i), float(self._score[i]), int(self._length[i])) for i in ended]
        self._score[ended] = 0
        self._length[ended] = 0
        return episodes

    def _cut(self, **counts: Any) -> Batch:
        """Take the rows whose point has ended; the others wait."""
        steps = self._steps
        rewards, dones, unused = (np.stack(rows) for rows in (steps.rewards, steps.dones, steps.unused))  # (T, N)
        ended = (rewards != 0) | dones
        known = np.logical_or.accumulate(ended[::-1])[::-1]  # an end lies ahead: the return is known
        ready = torch.from_numpy(unused & known)
        returns = discounted_returns(
            torch.from_numpy(rewards), self.config.gamma, dones=torch.from_numpy(dones), reset_on_reward=True
        )
        batch = Batch(
            observations=SparseFrames.cat(steps.observations)[ready.flatten()],
            actions=torch.stack(steps.actions)[ready],
            returns=self._standardized(returns, ready),
            **counts,
        )
        self._steps = steps.waiting(unused & ~known)
        return batch

    def _standardized(self, returns: Tensor, ready: Tensor) -> Tensor:
        """The returns of the ready rows, (B,), standardised over the batch or over each emulator's game."""
        if self.config.standardize == "episode":
            for i in range(returns.shape[1]):
                returns[ready[:, i], i] = standardize(returns[ready[:, i], i])
        chosen = returns[ready]
        return standardize(chosen) if self.config.standardize == "batch" and len(chosen) else chosen
