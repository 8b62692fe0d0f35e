"""Rollouts: a frozen policy acts in N emulators, in threads; batches hold the decisions whose return is known."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config, InputError, RunError, linear_schedule
from pong.distributed import Ranks, shard, uninterrupted
from pong.envs import TaskSpec, make_fleet, prepare, task_spec
from pong.envs.base import Actor, EmulatorState, Fleet, Segment
from pong.observations import Observations, SparseFrames, cat, move
from pong.returns import discounted_returns, standardize

TRAINING, EVALUATION = 0, 1  # the purpose of random streams
EMULATOR, ACTIONS = 0, 1
MOST_TIME_STEPS = 200_000  # of an unfinished episode, whose rows are all in memory
FEW_ROWS = 10_000  # of a batch; larger ones are learned in slices, each of which is transposed when its turn comes
POLL_SECONDS = 1.0  # between two calls of ``while_playing``


@dataclass(frozen=True)
class Episode:
    """A finished game."""

    emulator: int
    score: float  # the sum of its rewards; in Pong points won minus points lost, −21 to 21
    length: int  # agent steps
    frames: int = field(default=0, compare=False)  # emulated


@dataclass(frozen=True)
class Batch:
    """The rows that one update learns from: B decisions whose return is known."""

    observations: Observations  # B rows, before the decisions
    actions: Tensor  # (B,) int64, or (B, d) floating, as the policy chose them
    returns: Tensor  # (B,) float32, discounted points; standardize = "episode": in their game's standard deviations
    episodes: list[Episode]  # that ended in this rollout, on all ranks; by emulator, and then in time
    points: int  # rallies that ended in it, on all ranks; 0 in a game without
    steps: int  # decisions in it, on all ranks
    frames: int  # emulated in it, on all ranks
    weight: float = 1.0  # B over the rows of all ranks together

    def to(self, device: torch.device) -> "Batch":
        x = self.observations
        tensors = x.tensors if isinstance(x, SparseFrames) else [x]
        actions, returns, *moved = move([self.actions, self.returns, *tensors], device)
        observations = x.of(moved) if isinstance(x, SparseFrames) else moved[0]
        return replace(self, observations=observations, actions=actions, returns=returns)

    def share(self, mean: Tensor) -> Tensor:
        """The part of the mean over all rows that these rows' mean adds."""
        return mean if self.weight == 1 else self.weight * mean

    def split(self, rows: int) -> "Iterator[Batch]":
        """Slices of this many rows, whose gradients are computed one after the other and add up to the batch's."""
        tensors = (self.observations, self.actions, self.returns)
        for observations, actions, returns in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
            weight = self.weight * (len(returns) / len(self.returns))
            yield replace(self, observations=observations, actions=actions, returns=returns, weight=weight)


class ActionNoise:
    """Uniform numbers, of this shape for each action: one stream for each (seed, update, emulator)."""

    BLOCK = 256  # time steps drawn at a time

    def __init__(self, seed: int, update: int, emulators: range, purpose: int = TRAINING, shape: tuple[int, ...] = ()):
        self._streams = [_random_stream(seed, update, i, purpose, ACTIONS) for i in emulators]
        self._shape = shape
        self._block = np.empty((0, len(emulators), *shape), np.float32)

    def ahead(self) -> NDArray[np.float32]:
        """The next numbers of each stream, for T ≥ 1 time steps: (T, N, *shape) on [0, 1)."""
        if not len(self._block):
            columns = [stream.random((self.BLOCK, *self._shape), dtype=np.float32) for stream in self._streams]
            self._block = np.stack(columns, axis=1)
        return self._block

    def use(self, time_steps: int) -> None:
        """Drop the numbers of this many time steps."""
        self._block = self._block[time_steps:]


def emulator_seeds(seed: int, update: int, emulators: Sequence[int], purpose: int = TRAINING) -> NDArray[np.int64]:
    """A seed for each emulator, (N,) int64 in [1, 2³¹), from (seed, update, emulator)."""
    streams = [_random_stream(seed, update, i, purpose, EMULATOR) for i in emulators]
    return np.array([stream.integers(1, 2**31) for stream in streams])


def _random_stream(seed: int, update: int, emulator: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, update, emulator, *purpose)))


class Decisions(NamedTuple):
    """Decisions of N emulators in T time steps; their R observations and actions may be stored in any order."""

    observations: Observations  # R rows
    actions: Tensor  # (R, …)
    rows: NDArray[np.int64]  # (T, N), where a decision is stored
    rewards: NDArray[np.float32]  # (T, N)
    dones: NDArray[np.bool_]  # (T, N)
    active: NDArray[np.bool_]  # (T, N), where there is a decision

    @classmethod
    def of(cls, segment: Segment) -> "Decisions":
        rows = np.arange(segment.rewards.size).reshape(segment.rewards.shape)
        actions = segment.actions.flatten(0, 1)
        return cls(segment.observations, actions, rows, segment.rewards, segment.dones, segment.active)

    @classmethod
    def cat(cls, parts: "Sequence[Decisions]") -> "Decisions":
        """Concatenate decisions of the same emulators in time."""
        observations, actions, rows, *arrays = zip(*parts, strict=True)
        starts = np.cumsum([0, *map(len, actions)])
        shifted = np.concatenate([part + start for part, start in zip(rows, starts, strict=False)])
        return cls(cat(observations), torch.cat(actions), shifted, *map(np.concatenate, arrays))

    def select(self, chosen: NDArray[np.bool_]) -> "Decisions":
        """The decisions that are True in ``chosen`` (T, N), from the time step of the first one on."""
        later = slice(int(chosen.any(1).argmax()) if chosen.any() else len(chosen), None)
        numbers = torch.from_numpy(self.rows[chosen])
        rows = np.zeros_like(self.rows)
        rows[chosen] = np.arange(len(numbers))
        observations, actions = self.observations[numbers], self.actions[numbers]
        return Decisions(observations, actions, rows[later], self.rewards[later], self.dones[later], chosen[later])


class Snapshot(NamedTuple):
    """A player of Pong between two rollouts."""

    fleet: list[EmulatorState]
    observations: SparseFrames  # N rows
    totals: NDArray[np.float64]  # (N, 3), of each episode so far: score, length, frames
    waiting: Decisions  # whose return is not known yet

    def pack(self) -> list[EmulatorState]:
        """Arrays by emulator, so that any number of players and ranks can continue; the last row is the current one."""
        waiting, states = self.waiting, []
        for i, emulator in enumerate(self.fleet):
            active = waiting.active[:, i]
            numbers = torch.from_numpy(waiting.rows[active, i])
            rows = cat([waiting.observations[numbers], self.observations[torch.tensor([i])]])
            assert isinstance(rows, SparseFrames)
            states.append(
                emulator
                | {
                    "rows.columns": rows.columns.numpy().astype(np.int16),
                    "rows.signs": rows.signs.numpy().astype(np.int8),
                    "rows.counts": rows.counts().numpy(),
                    "waiting.actions": waiting.actions[numbers].numpy().astype(np.int8),
                    "waiting.rewards": waiting.rewards[active, i],
                    "episode": self.totals[i],
                }
            )
        return states

    @classmethod
    def unpack(cls, states: list[EmulatorState], spec: TaskSpec) -> "Snapshot":
        for state in states:
            _check_rows(state, spec)
        names = ("rows.columns", "rows.signs", "rows.counts", "waiting.actions", "waiting.rewards")
        columns, signs, sizes, actions, rewards = (np.concatenate([state[name] for state in states]) for name in names)
        starts = (np.cumsum(sizes) - sizes).astype(np.int32)
        tensors = torch.from_numpy(columns).int(), torch.from_numpy(signs).float(), torch.from_numpy(starts)
        rows = SparseFrames(*tensors, spec.inputs)
        counts = np.array([len(state["waiting.actions"]) for state in states])
        current = np.zeros(len(sizes), np.bool_)
        current[np.cumsum(counts + 1) - 1] = True
        W = counts.max()
        active = np.arange(W)[:, None] >= W - counts  # (W, N): the last time steps of each emulator
        numbers, padded = np.zeros(active.shape, np.int64), np.zeros(active.shape, np.float32)
        numbers.T[active.T], padded.T[active.T] = np.arange(len(actions)), rewards
        waiting = rows[torch.from_numpy(np.flatnonzero(~current))]
        chosen = torch.from_numpy(actions.astype(np.int64))
        decisions = Decisions(waiting, chosen, numbers, padded, np.zeros_like(active), active)
        totals = np.stack([state["episode"] for state in states])
        return cls(states, rows[torch.from_numpy(np.flatnonzero(current))], totals, decisions)


def _check_rows(state: EmulatorState, spec: TaskSpec) -> None:
    """Reject rows of a foreign checkpoint that would mislead compiled code."""
    from pong.envs.pong.machine import MOST  # Numba is imported when Pong is first played

    decisions, numbers = len(state["waiting.actions"]), len(state["rows.columns"])
    Fleet.checked(state, "rows.columns", np.empty(numbers, np.int16), 0, spec.inputs - 1)
    Fleet.checked(state, "rows.signs", np.empty(numbers, np.int8), -1, 1)
    Fleet.checked(state, "rows.counts", np.empty(decisions + 1, np.int32), 0, 2 * MOST * spec.shape[0] + 1)
    Fleet.checked(state, "waiting.actions", np.empty(decisions, np.int8), 0, spec.actions - 1)
    Fleet.checked(state, "waiting.rewards", np.empty(decisions, np.float32))
    Fleet.checked(state, "episode", np.empty(3))
    if state["rows.counts"].sum() != numbers:
        raise ValueError("rows.counts and rows.columns do not fit")


class Player:
    """Plays some of the emulators in a thread of its own; the actor's weights must not change during a rollout."""

    batch: "Future[Batch]"  # of the current rollout

    def __init__(self, config: Config, emulators: range, purpose: int, actor: Actor):
        self.config = config
        self.emulators = emulators
        self.purpose = purpose
        self.actor = actor
        self.fleet = make_fleet(config, len(emulators))
        self._stopped = False
        self.observations: Any = None  # the current ones, N rows
        self._totals = np.zeros((len(emulators), 3))  # of the current episodes: score, length, frames
        self._waiting: Decisions | None = None
        self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def start(self, update: int, progress: float = 0.0) -> None:
        """Start rollout number ``update``; ``progress`` of the run is in [0, 1]."""
        try:
            self._prepared = self._pool.submit(self._prepare, update, progress)
        except RuntimeError as error:
            raise RunError(f"{error}: lower players, or raise the limit of threads (ulimit -u)") from None
        self.resume()

    def resume(self) -> None:
        """Continue the same rollout for another horizon."""
        self.batch = self._pool.submit(self._play)

    def state(self, started: bool) -> list[EmulatorState] | None:
        """The emulators' state before the current rollout if it has started, or else now; None if it can't be saved."""
        if started:
            self._prepared.result()
        snapshot = self._before if started else self._snapshot()
        return snapshot.pack() if snapshot else None

    def restore(self, states: list[EmulatorState]) -> None:
        try:
            self.fleet.restore(states)
            _, self.observations, self._totals, self._waiting = Snapshot.unpack(states, task_spec(self.config))
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, SystemError) as error:
            message = " ".join(str(error).split())
            raise InputError(f"the checkpoint's games do not fit its config ({message})") from None

    def close(self) -> None:
        """Close the emulators; a rollout that is being played ends at its next segment."""
        self._stopped = True
        self._pool.shutdown()
        self.fleet.close()

    def _snapshot(self) -> Snapshot | None:
        fleet = None if self.observations is None else self.fleet.state()
        if fleet is None:
            return None
        assert self._waiting  # a rollout was played
        return Snapshot(fleet, self.observations, self._totals.copy(), self._waiting)

    def _prepare(self, update: int, progress: float) -> None:
        self._before = self._snapshot()
        seed = self.config.seed
        if self._before is None and (self.observations is None or update % self.config.checkpoint_every == 0):
            self.observations = self.fleet.reset(emulator_seeds(seed, update, self.emulators, self.purpose))
            self._totals[:], self._waiting = 0, None
        elif self.config.until == "episodes":
            self.observations = self.fleet.reset()
        self._noise = ActionNoise(seed, update, self.emulators, self.purpose, self.actor.noise_shape)
        self._active = np.ones(len(self.emulators), bool)
        self._horizon = round(linear_schedule(self.config.horizon, self.config.horizon_end, progress))

    def _play(self) -> Batch:
        """Play to the horizon, or until each emulator's episode has ended."""
        self._prepared.result()  # raises what failed there
        whole = self.config.until == "episodes"
        segments: list[Segment] = []
        time_steps = 0
        while self._active.any() and (whole or time_steps < self._horizon):
            if self._stopped:
                raise RunError("the rollout was stopped")
            noise = self._noise.ahead()[: None if whole else self._horizon - time_steps]
            segment = self.fleet.play(self.actor, self.observations, noise, self._active, whole)
            segments.append(segment)
            self._noise.use(len(segment))
            self.observations = segment.next_observations
            if whole:
                self._active = segment.active[-1] & ~segment.dones[-1]
            time_steps += len(segment)
            if time_steps + len(self._waiting.rows if self._waiting else ()) > MOST_TIME_STEPS:
                problem = f"an episode has not ended in {MOST_TIME_STEPS:,} decisions"
                raise RunError(f"env = {self.config.env!r}: {problem}; register it with a limit (max_episode_steps)")
        return self._cut(segments)

    def _cut(self, segments: list[Segment]) -> Batch:
        """A batch of the decisions whose return is known; the others wait for the next one."""
        is_pong = self.config.is_pong
        decisions = Decisions.cat([*([self._waiting] if self._waiting else []), *map(Decisions.of, segments)])
        rewards, dones, active = decisions.rewards, decisions.dones, decisions.active
        reset = is_pong and self.config.reset_at_points
        ends = dones | (rewards != 0) if reset else dones
        known = np.logical_or.accumulate(ends[::-1])[::-1]  # an end lies ahead
        self._waiting = decisions.select(active & ~known)
        gamma = self.config.gamma
        returns = discounted_returns(
            torch.from_numpy(rewards), gamma, dones=torch.from_numpy(dones), reset_on_reward=reset
        )
        emulators, time_steps = np.nonzero((active & known).T)  # ordered by emulator, whichever player has it
        if self.config.standardize == "episode":
            for i in np.unique(emulators):
                game = time_steps[emulators == i], i
                returns[game] = standardize(returns[game])
        rows = torch.from_numpy(decisions.rows[time_steps, emulators])
        observations = decisions.observations[rows]
        if self.purpose == TRAINING and isinstance(observations, SparseFrames) and len(rows) <= FEW_ROWS:
            _ = observations.transposed  # computed here, while the learner is busy
        learned = observations, decisions.actions[rows], returns[time_steps, emulators]
        points = sum(int(np.count_nonzero(s.rewards * s.active)) for s in segments) if is_pong else 0
        steps = sum(int(np.count_nonzero(s.active)) for s in segments)
        frames = sum(int(s.frames.sum()) for s in segments)
        return Batch(*learned, self._finished(segments), points, steps, frames)

    def _finished(self, segments: list[Segment]) -> list[Episode]:
        """The episodes that ended, emulator by emulator; those that go on keep their totals."""
        per_step = np.concatenate([np.stack([s.rewards * s.active, s.active, s.frames], axis=-1) for s in segments])
        ends = np.concatenate([s.dones & s.active for s in segments])
        episodes = []
        for i, emulator in enumerate(self.emulators):
            start = 0
            for end in (np.flatnonzero(ends[:, i]) + 1).tolist():
                score, length, frames = self._totals[i] + per_step[start:end, i].sum(0)
                episodes.append(Episode(emulator, float(score), int(length), int(frames)))
                self._totals[i], start = 0, end
            self._totals[i] += per_step[start:, i].sum(0)
        return episodes


class Rollout:
    """Plays the emulators with one policy and returns a ``Batch`` per update.

    A rollout ends after ``horizon`` time steps ("steps"), or once every emulator has finished one game ("episodes"). A
    row enters a batch when its return is known; an unfinished rally waits for the next batch. Environments that can't
    be saved restart every ``checkpoint_every`` updates, so that a run can be resumed there; unfinished episodes are
    dropped. The result does not depend on the number of ranks and players, which share the emulators.
    """

    @uninterrupted()  # an interrupted import, such as Numba's, can't be repeated
    def __init__(self, config: Config, actor: Actor, purpose: int = TRAINING, ranks: Ranks | None = None):
        self.config = config
        self.ranks = ranks or Ranks()
        self.started = False  # whether a rollout was started and not returned yet
        self.while_playing: Callable[[], None] = lambda: None  # called now and then while waiting for a rollout
        own = shard(range(config.num_envs), self.ranks.rank, self.ranks.size)
        prepare(config)
        is_fast = config.is_compiled and actor.two_layers is not None  # many times as fast as learning
        automatic = 1 if is_fast else max(self.ranks.cores - (purpose == TRAINING), 1)
        players = min(config.players or automatic, len(own))
        self.players: list[Player] = []
        with contextlib.ExitStack() as stack:  # closes those already made if one fails
            stack.callback(self.close)
            for k in range(players):
                self.players.append(Player(config, shard(own, k, players), purpose, actor))
            stack.pop_all()

    @uninterrupted()
    def start(self, update: int, progress: float = 0.0) -> None:
        """Start playing rollout number ``update``, from 0, in the background; ``progress`` of the run is in [0, 1]."""
        self._batches: list[Batch] = []
        self._ready = False
        for player in self.players:
            player.start(update, progress)
        self.started = True

    def wait(self) -> None:
        """Wait until the rollout has rows to learn from; it may be interrupted and called again."""
        while not self._is_ready():
            self.while_playing()

    @uninterrupted()  # for at most a second: an interrupt inside ``concurrent.futures`` would leave its locks taken
    def _is_ready(self) -> bool:
        """Wait for a while; returns whether the rollout has rows to learn from."""
        futures = [player.batch for player in self.players]
        if self._ready or wait(futures, POLL_SECONDS).not_done:
            return self._ready
        self._batches += [future.result() for future in futures]
        self._ready = any(self.ranks.all_gather(any(len(batch.returns) for batch in self._batches)))
        if not self._ready:  # no point has ended yet
            for player in self.players:
                player.resume()
        return self._ready

    def finish(self) -> Batch:
        """Wait for the rollout and return one batch of the players' batches, with the counts of all ranks."""
        self.wait()
        self.started = False
        batches, self._batches = self._batches, []
        observations = cat([batch.observations for batch in batches])
        actions = torch.cat([batch.actions for batch in batches])
        returns = torch.cat([batch.returns for batch in batches])
        counts = [(batch.episodes, batch.points, batch.steps, batch.frames) for batch in batches]
        gathered = self.ranks.all_gather((len(returns), counts))
        weight = len(returns) / sum(rows for rows, _ in gathered)
        if not weight:  # all points ended on other ranks: a row that weighs nothing
            observations = self.players[0].observations[torch.tensor([0])]
            actions, returns = actions.new_zeros(1, *actions.shape[1:]), returns.new_zeros(1)
        episodes, points, steps, frames = zip(*(count for _, counts in gathered for count in counts), strict=True)
        in_order = sorted(itertools.chain(*episodes), key=lambda episode: episode.emulator)
        return Batch(observations, actions, returns, in_order, sum(points), sum(steps), sum(frames), weight)

    def collect(self, update: int) -> Batch:
        """Play rollout number ``update`` and return its batch."""
        self.start(update)
        return self.finish()

    @uninterrupted()
    def state(self) -> list[EmulatorState] | None:
        """All emulators before the current rollout, which a resumed run plays again; None if they can't be saved."""
        gathered = self.ranks.all_gather([player.state(self.started) for player in self.players])
        states = [state for of_rank in gathered for state in of_rank]
        return None if any(state is None for state in states) else [emulator for s in states if s for emulator in s]

    def restore(self, states: list[EmulatorState]) -> None:
        """Continue from the result of ``state``, with any number of players and ranks."""
        if len(states) != self.config.num_envs:
            raise InputError(f"the checkpoint holds {len(states)} emulators, its config has {self.config.num_envs}")
        for player in self.players:
            player.restore(states[player.emulators.start : player.emulators.stop])

    def close(self) -> None:
        for player in self.players:
            player.close()
