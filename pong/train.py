"""The training loop: rollout → log π → surrogate loss → step, and its statistics."""

import contextlib
import copy
import functools
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pong.baseline import Baseline
from pong.checkpoint import Checkpoint, Counters, load
from pong.config import Config, InputError, PathLike, linear_schedule
from pong.distributed import Ranks, threads, uninterrupted
from pong.envs import check_task, prepare
from pong.envs.base import EmulatorState
from pong.losses import surrogate_loss
from pong.observations import move
from pong.optimizers import load_optimizer, make_optimizer
from pong.policies import F32, Policy, diagnostics, make_policy, make_value_network, slice_rows
from pong.returns import standardize
from pong.rollout import Batch, Rollout


@dataclass(frozen=True)
class UpdateStats:
    """Statistics of one gradient step."""

    policy_loss: float  # the surrogate loss; it does not measure progress
    entropy: float  # mean over the batch, nats; log 2 = 0.693 is a coin toss
    grad_norm: float  # Euclidean norm of the whole gradient
    approx_kl: float  # KL(before ‖ after the step) estimated on the batch, nats
    learning_rate: float  # of this step
    explained_variance: float | None = None  # share of the returns' variance that the baseline predicted
    prob_up: float | None = None  # mean P(UP) over the batch; None where there is no UP
    std: float | None = None  # mean standard deviation of a Gaussian policy; None for others


@dataclass(frozen=True)
class Update:
    """One turn of the loop: a batch, the gradient step on it, and how long both took."""

    number: int  # from 1
    batch: Batch
    stats: UpdateStats
    rollout_seconds: float
    learn_seconds: float


class Trainer:
    """A policy, its optimiser and its rollout; ``ranks`` train it together, each with its share of the emulators."""

    @uninterrupted()
    def __init__(self, config: Config, ranks: Ranks | None = None):
        self.config = config
        self.ranks = ranks or Ranks()
        check(config, self.ranks)
        self.device = choose_device(config.device, self.ranks.local_rank)
        self.policy = make_policy(config).to(self.device)
        acts_here = self.device.type == "cpu" or config.policy == "conv"  # small networks act on the CPU
        self.actor = self.policy if acts_here else copy.deepcopy(self.policy).cpu()
        self.rollout = Rollout(config, self.actor, ranks=self.ranks)
        self.optimizer = make_optimizer(config, self.policy)
        self.baseline = None
        if config.baseline == "network":
            self.baseline = Baseline(make_value_network(config).to(self.device), config, self.ranks)
        self.threads = self.ranks.cores if config.policy == "conv" else 1  # of torch, while the players are idle
        self.updates = 0
        self.steps = 0
        self._update: Update | None = None  # learned, but not yielded because of an interrupt

    def checkpoint(self, counters: Counters, play: list[EmulatorState] | None) -> Checkpoint:
        """The state that ``restore`` takes; ``play`` is that of the rollout, on all ranks."""
        saved: dict[str, Any] = {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()["state"]}
        if self.baseline:
            saved["baseline"] = self.baseline.network.state_dict()
            saved["baseline_optimizer"] = self.baseline.optimizer.state_dict()["state"]
        return Checkpoint(self.config, counters, play=play or [], **saved)

    @uninterrupted()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same config; one of update 0 may hold a policy and nothing else."""
        load_weights(self.policy, checkpoint.policy)
        load_optimizer(self.optimizer, checkpoint.optimizer)
        if self.baseline and checkpoint.baseline:
            load_weights(self.baseline.network, checkpoint.baseline)
            load_optimizer(self.baseline.optimizer, checkpoint.baseline_optimizer)
        self._sync_actor()
        self.updates, self.steps = checkpoint.counters.updates, checkpoint.counters.steps
        self._update = None
        if checkpoint.play:
            self.rollout.restore(checkpoint.play)

    @property
    def progress(self) -> float:
        """The progress of the run, in [0, 1]."""
        return self.steps / self.config.total_steps

    def close(self) -> None:
        self.rollout.close()

    def run(self) -> Iterator[Update]:
        """Train until ``total_steps``, yielding each update; between two yields everything is consistent.

        The players start the next rollout as soon as the policy has taken its step, and play while the learner does
        everything that leaves the policy unchanged, including the caller's work. After a ``break``, an exception or
        Ctrl-C (a notebook's stop button), calling this again continues as if nothing had happened.
        """
        if not self.rollout.started:
            self._start_rollout()
        while self._update or self.steps < self.config.total_steps:
            if not self._update:
                start = time.perf_counter()
                self.rollout.wait()
                # sums of a single thread are reproducible, and a caller's autocast would round
                with uninterrupted(), threads(1), torch.autocast(self.device.type, enabled=False):
                    batch = self.rollout.finish()
                    played, stats = time.perf_counter(), self._learn(batch)
                    torch.get_device_module(self.device).synchronize(self.device)  # a GPU still fits the baseline
                    self._update = Update(self.updates, batch, stats, played - start, time.perf_counter() - played)
            update, self._update = self._update, None
            yield update

    def _start_rollout(self) -> None:
        if self.steps < self.config.total_steps:
            self.rollout.start(self.updates, self.progress)

    def _learn(self, batch: Batch) -> UpdateStats:
        """Take the gradient step, start the next rollout, then compute statistics and fit the baseline meanwhile."""
        unit, unexplained = self.config.baseline_unit, batch.returns
        moved = replace(batch, returns=batch.returns / unit).to(self.device)  # the baseline's targets are about 1
        with threads(self.threads):
            if self.baseline:
                predicted = self.baseline.predict(moved.observations)
                unexplained = unexplained - unit * predicted.detach().cpu()
            losses, grad_norm = self._step(moved, *move([self._standardize(unexplained, batch.weight)], self.device))
        self.updates += 1
        self.steps += batch.steps
        self._start_rollout()
        values = {"grad_norm": grad_norm, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        stats = UpdateStats(**self._measure(losses, moved), **values)
        if self.baseline:
            stats = replace(stats, explained_variance=self._explained(batch, unexplained))
            self.baseline.fit(moved, predicted)
        return stats

    def _standardize(self, returns: Tensor, weight: float) -> Tensor:
        """Returns minus the baseline, in standard deviations over the batch of all ranks; (B,)."""
        if self.config.standardize != "batch":
            return returns
        gathered = self.ranks.all_gather(returns if weight else returns[:0])
        if not weight:
            return torch.zeros_like(returns)
        before = sum(map(len, gathered[: self.ranks.rank]))
        return standardize(torch.cat(gathered))[before : before + len(returns)]

    def _step(self, batch: Batch, advantages: Tensor) -> "tuple[list[_Losses], float]":
        """One step on −log π·R over the batch, the same on every rank; also returns the gradient's norm."""
        config, progress = self.config, self.progress
        self.optimizer.zero_grad()
        bonus = linear_schedule(config.entropy_bonus, config.entropy_bonus_end, progress)
        slices = replace(batch, returns=advantages).split(slice_rows(self.policy))
        losses = [self._backward(part, bonus) for part in slices]  # their gradients add up
        gradient = [p.grad for p in self.policy.parameters() if p.grad is not None]
        self.ranks.all_reduce(gradient)
        grad_norm = torch.nn.utils.get_total_norm(gradient).item()
        if not math.isfinite(grad_norm):  # before the step, so that the weights stay good
            raise FloatingPointError(f"update {self.updates + 1}: the gradient is not finite; lower learning_rate")
        for group in self.optimizer.param_groups:
            group["lr"] = linear_schedule(config.learning_rate, config.learning_rate_end, progress)
        self.optimizer.step()
        self._sync_actor()
        return losses, grad_norm

    def _backward(self, part: Batch, bonus: float) -> "_Losses":
        """Add the gradient of the surrogate loss of b rows, whose returns are the advantages."""
        distribution = self.policy.distribution(part.observations)
        log_probs = distribution.log_prob(part.actions)  # (b,)
        policy_loss = surrogate_loss(log_probs, part.returns, reduction=self.config.reduction)  # ()
        if self.config.reduction == "mean":
            policy_loss = part.share(policy_loss)
        entropy = distribution.entropy().mean()  # ()
        loss = torch.add(policy_loss, part.share(entropy), alpha=-bonus)
        loss.backward()
        with torch.no_grad():
            statistics = {"entropy": entropy, **diagnostics(distribution)}
        return _Losses(policy_loss.detach(), log_probs.detach(), {k: x.detach() for k, x in statistics.items()})

    def _sync_actor(self) -> None:
        """Copy the policy's new weights to the actor."""
        if self.actor is not self.policy:
            weights = move(list(self.policy.parameters()), "cpu")
            for parameter, new in zip(self.actor.parameters(), weights, strict=True):
                parameter.data = new

    @torch.no_grad()
    def _measure(self, losses: "list[_Losses]", batch: Batch) -> dict[str, float]:
        """Statistics of a step over the batch of all ranks, from its losses of each slice."""
        weighted = []
        for part, loss in zip(batch.split(slice_rows(self.policy)), losses, strict=True):
            after = self.policy.log_prob(part.observations, part.actions)
            tensors = move([loss.log_probs, after, loss.policy_loss, *loss.statistics.values()], "cpu")
            before, after, policy_loss, *statistics = tensors
            log_ratio = after - before
            statistics.append(log_ratio.expm1() - log_ratio)
            weighted.append(torch.stack([policy_loss, *(part.weight * x.mean() for x in statistics)]))
        sums = torch.stack(weighted).sum(0)
        self.ranks.all_reduce([sums])
        return dict(zip(("policy_loss", *loss.statistics, "approx_kl"), sums.tolist(), strict=True))

    def _explained(self, batch: Batch, unexplained: Tensor) -> float | None:
        """Share of the returns' variance that the baseline predicted, over all ranks; None if there was no variance."""
        powers = [batch.weight * x.double() ** k for x in (batch.returns, unexplained) for k in (1, 2)]
        moments = torch.stack(powers).mean(1)
        self.ranks.all_reduce([moments])
        mean, square, mean_left, square_left = moments.tolist()
        variance = square - mean**2
        return 1 - (square_left - mean_left**2) / variance if variance > 1e-9 else None


class _Losses(NamedTuple):
    """The contribution of b rows of a batch to a gradient step."""

    policy_loss: Tensor  # ()
    log_probs: Tensor  # (b,)
    statistics: dict[str, Tensor]  # the mean entropy, and the policy's diagnostics of each row


def check(config: Config, ranks: Ranks) -> None:
    """Reject a config that can't be trained, before anything is created."""
    check_task(config)
    with _refusing(f"env = {config.env!r}: hidden or channels are too large"):
        make_policy(config)
        make_value_network(config)
    if config.num_envs < ranks.size:
        raise InputError(f"num_envs = {config.num_envs} is too few for {ranks.size} ranks; give each one or more")
    prepare(config)


@contextlib.contextmanager
def _refusing(problem: str) -> Iterator[None]:
    """Report torch's errors about shapes, such as images too small for the convolutions, and about memory."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(f"{problem} ({' '.join(str(error).split())})") from None


def choose_device(name: str, number: int = 0) -> torch.device:
    """The device of a config: "auto" is a GPU if one can be used, and of several GPUs the one with this number."""
    if name == "cpu" or ((problem := gpu_problem(number)) and name == "auto"):
        return torch.device("cpu")
    if problem:
        raise InputError(f"device = 'cuda', but {problem}; use --device auto or cpu")
    torch.backends.cudnn.allow_tf32 = False  # it rounds to 10 bits: gradients would be up to 1 % off the CPU's
    torch.set_float32_matmul_precision("highest")
    return torch.device("cuda", number % torch.cuda.device_count())


@functools.cache  # torch gives its reason only once
def gpu_problem(number: int = 0) -> str:
    """Why the GPU with this number can't be used, in one line; empty if it can, and then it is the current one."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            if torch.cuda.is_available():
                torch.cuda.set_device(number % torch.cuda.device_count())
                torch.ones(1, device="cuda").exp().item()  # fails if this PyTorch has no code for the GPU
                return ""
        except RuntimeError as error:
            return f"the GPU fails with {str(error).splitlines()[0]!r}; free it, or try another PyTorch (pytorch.org)"
    if not torch.version.cuda and shutil.which("nvidia-smi"):
        return "this PyTorch is for CPUs only; install one for CUDA (pytorch.org)"
    return " ".join(str(each.message).partition(" (Triggered")[0] for each in caught) or "PyTorch sees no CUDA device"


def load_policy(path: PathLike, trust: bool = False) -> tuple[Policy, Checkpoint]:
    """The policy and checkpoint of a run folder, checkpoint or exported folder; ``trust`` imports a module it names."""
    checkpoint = load(path, trust)
    check_task(checkpoint.config)
    weights = {name: tensor.to(F32, copy=True) for name, tensor in checkpoint.policy.items()}
    with _refusing("the checkpoint does not fit its config"):
        with torch.device("meta"):  # takes no memory, of which a foreign config may ask for any amount
            policy = make_policy(checkpoint.config)
        policy.load_state_dict(weights, assign=True)
    return policy, checkpoint


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a network saved weights."""
    with _refusing("the checkpoint does not fit its config"):
        network.load_state_dict(weights)
