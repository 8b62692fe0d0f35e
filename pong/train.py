"""The loop: play, take log π of what was played, turn it into the surrogate loss, step, track."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pong.baseline import Baseline
from pong.checkpoint import Checkpoint, load
from pong.config import Config, InputError, PathLike, linear_schedule
from pong.distributed import Ranks
from pong.envs import check_task, make_observation_builder, pictures, prepare, spaces
from pong.losses import surrogate_loss
from pong.observations import Observations
from pong.optimizers import load_optimizer, make_optimizer
from pong.policies import CategoricalPolicy, ConvNet, KarpathyPolicy, Policy, TwoLayers, features, mlp, mlp_policy
from pong.returns import standardize
from pong.rollout import Batch, Rollout
from pong.threads import threads, uninterrupted


@dataclass(frozen=True)
class UpdateStats:
    """What one gradient step looked like.

    Attributes:
        policy_loss: the surrogate loss; no measure of progress.
        entropy: mean over the batch, nats; log 2 = 0.693 is a coin toss.
        grad_norm: Euclidean norm of the whole gradient.
        approx_kl: KL(before ‖ after the step) estimated on the batch, nats.
        learning_rate: of this step.
        explained_variance: share of the returns' variance that the baseline predicted; None without one.
        prob_up: mean P(UP) over the batch; None where there is no UP.
        std: mean standard deviation of a Gaussian policy; None for others.
    """

    policy_loss: float
    entropy: float
    grad_norm: float
    approx_kl: float
    learning_rate: float
    explained_variance: float | None = None
    prob_up: float | None = None
    std: float | None = None


@dataclass(frozen=True)
class Update:
    """One turn of the loop: what was played, what was learned, and how long both took in seconds."""

    number: int  # from 1
    batch: Batch
    stats: UpdateStats
    rollout_seconds: float
    learn_seconds: float


class Trainer:
    """A policy, its optimiser and the emulators it plays in.

    Args:
        config: the run's config.
        ranks: the processes that train this policy together, each with its share of the emulators.

    Raises:
        InputError: the config asks for a device or an environment that is not there, or for fewer emulators than there
            are processes.
    """

    def __init__(self, config: Config, ranks: Ranks | None = None):
        self.config = config
        self.ranks = ranks or Ranks()
        check(config, self.ranks)
        self.device = choose_device(config.device, self.ranks.local_rank)
        self.policy = make_policy(config).to(self.device)
        here = (
            self.device.type == "cpu"
            or config.act_on == "learner"
            or (config.act_on, config.policy) == ("auto", "conv")
        )
        self.actor = self.policy if here else copy.deepcopy(self.policy).cpu()
        self.rollout = Rollout(config, self.actor, ranks=self.ranks)
        self.optimizer = make_optimizer(config, self.policy)
        self.baseline = make_baseline(config, self.device, self.ranks) if config.baseline == "network" else None
        self.threads = self.ranks.cores if config.policy == "conv" else 1  # of torch, while the players are idle
        self.updates = 0
        self.steps = 0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same config; one of update 0 may hold a policy and nothing else.

        Raises:
            InputError: its weights, its optimiser's state or its games don't fit.
        """
        load_weights(self.policy, checkpoint.policy)
        load_optimizer(self.optimizer, checkpoint.optimizer)
        if self.baseline and checkpoint.baseline:
            load_weights(self.baseline.network, checkpoint.baseline)
            load_optimizer(self.baseline.optimizer, checkpoint.baseline_optimizer)
        self._sync_actor()
        self.updates, self.steps = checkpoint.counters.updates, checkpoint.counters.steps
        if checkpoint.play:
            self.rollout.restore(checkpoint.play)

    @property
    def done(self) -> float:
        """How far the run has come, in [0, 1]."""
        return self.steps / self.config.total_steps

    def close(self) -> None:
        """End the emulators."""
        self.rollout.close()

    def run(self) -> Iterator[Update]:
        """Train until ``total_steps``, yielding each update; between two yields everything is consistent.

        The players begin the next rollout as soon as the policy has taken its step. All that does not change the
        policy, what the caller does with an update included, is done while they play. Whoever stops, by ``break``, an
        exception or Ctrl-C (a notebook's stop button), and calls this again continues as if nothing had happened.
        """
        with uninterrupted():
            if self.steps < self.config.total_steps and not self.rollout.begun:
                self.rollout.begin(self.updates, self.done)
        while self.steps < self.config.total_steps:
            began = time.perf_counter()
            self.rollout.wait()
            with uninterrupted(), threads(1):  # sums of a single thread are reproducible
                batch = self.rollout.finish()
                played = time.perf_counter()
                stats = self._learn(batch)
            yield Update(self.updates, batch, stats, played - began, time.perf_counter() - played)

    def _learn(self, batch: Batch) -> UpdateStats:
        """Take the gradient step, start the next rollout, then compute statistics and fit the baseline meanwhile."""
        observations = batch.observations.to(self.device)
        actions, returns = batch.actions.to(self.device), batch.returns.to(self.device)
        with threads(self.threads):
            predicted = self.baseline.predict(observations) if self.baseline else torch.zeros_like(returns)
            unexplained = returns - predicted.detach()
            advantages = self._standardize(unexplained, batch.weight)
            step = self._step(observations, actions, advantages, batch.weight)
        self.updates += 1
        self.steps += batch.steps
        if self.steps < self.config.total_steps:
            self.rollout.begin(self.updates, self.done)
        stats = self._measure(step, observations, actions, batch.weight)
        if self.baseline:
            stats = replace(stats, explained_variance=self._explained(returns, unexplained, batch.weight))
            self.baseline.fit(observations, predicted, returns, batch.weight)
        return stats

    def _standardize(self, returns: Tensor, weight: float) -> Tensor:
        """Returns, less the baseline if there is one, in standard deviations over the batch of all ranks; (B,)."""
        if self.config.standardize != "batch":
            return returns
        everyones = self.ranks.all_gather(returns.cpu() if weight else returns[:0].cpu())
        if not weight:
            return torch.zeros_like(returns)
        before = sum(len(theirs) for theirs in everyones[: self.ranks.rank])
        return standardize(torch.cat(everyones))[before : before + len(returns)].to(self.device)

    def _step(self, observations: Observations, actions: Tensor, advantages: Tensor, weight: float) -> "_Step":
        """One step on −log π·R over the batch, the same on every rank.

        Raises:
            FloatingPointError: the gradient holds NaN or infinity.
        """
        config, done = self.config, self.done
        distribution = self.policy.distribution(observations)
        log_probs = distribution.log_prob(actions)  # (B,)
        policy_loss = surrogate_loss(log_probs, advantages, reduction=config.reduction)  # ()
        entropy = distribution.entropy().mean()  # ()
        if config.reduction == "mean":
            policy_loss = policy_loss * weight
        loss = policy_loss - linear_schedule(config.entropy_bonus, config.entropy_bonus_end, done) * entropy * weight

        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = [p.grad for p in self.policy.parameters() if p.grad is not None]
        self.ranks.all_reduce(gradient)
        grad_norm = torch.nn.utils.get_total_norm(gradient)
        if not torch.isfinite(grad_norm):  # before the step, so that the weights stay good
            raise FloatingPointError(f"update {self.updates + 1}: the gradient is not finite; lower learning_rate")
        learning_rate = linear_schedule(config.learning_rate, config.learning_rate_end, done)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self._sync_actor()
        return _Step(policy_loss.detach(), entropy.detach(), log_probs.detach(), distribution, grad_norm, learning_rate)

    def _sync_actor(self) -> None:
        """Let the players see the policy's new weights."""
        if self.actor is not self.policy:
            self.actor.load_state_dict(self.policy.state_dict())

    @torch.no_grad()
    def _measure(self, step: "_Step", observations: Observations, actions: Tensor, weight: float) -> UpdateStats:
        """What the step looked like, over the batch of all ranks."""
        log_ratio = self.policy.log_prob(observations, actions) - step.log_probs
        approx_kl = (log_ratio.exp() - 1 - log_ratio).mean()
        means = {"entropy": step.entropy, "approx_kl": approx_kl, **self.policy.diagnostics(step.distribution)}
        sums = torch.stack([step.policy_loss, *(weight * mean for mean in means.values())])
        self.ranks.all_reduce([sums])
        values = dict(zip(("policy_loss", *means), sums.tolist(), strict=True))
        return UpdateStats(**values, grad_norm=step.grad_norm.item(), learning_rate=step.learning_rate)

    def _explained(self, returns: Tensor, unexplained: Tensor, weight: float) -> float | None:
        """Share of the returns' variance that the baseline predicted, over all ranks; None if there was no variance."""
        moments = torch.stack([weight * x.double() ** k for x in (returns, unexplained) for k in (1, 2)]).mean(1)
        self.ranks.all_reduce([moments])
        mean, square, mean_left, square_left = moments.tolist()
        variance = square - mean**2
        return 1 - (square_left - mean_left**2) / variance if variance > 1e-9 else None


@dataclass(frozen=True)
class _Step:
    """A gradient step, to be measured."""

    policy_loss: Tensor
    entropy: Tensor
    log_probs: Tensor
    distribution: Distribution
    grad_norm: Tensor
    learning_rate: float


def check(config: Config, ranks: Ranks) -> None:
    """Refuse what can't be trained, before anything is made.

    Raises:
        InputError: there are more processes than emulators, or no policy can play the config's environment, or it can't
            be played here.
    """
    check_task(config)
    for channels in (config.channels, config.baseline_channels or []) if config.policy == "conv" else ():
        try:
            features(pictures(config)[0], channels)
        except ValueError as error:
            raise InputError(f"env = {config.env!r}, channels = {channels}: {error}; give fewer numbers") from None
    if config.num_envs < ranks.size:
        raise InputError(f"num_envs = {config.num_envs} is too few for {ranks.size} ranks; give each one or more")
    prepare(config)


def choose_device(name: str, number: int = 0) -> torch.device:
    """The device a config names; "auto" is the GPU where there is one, and of several GPUs the one with that number.

    Raises:
        InputError: "cuda" where PyTorch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but PyTorch sees no CUDA device here; use --device auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, number % torch.cuda.device_count()) if name == "cuda" else torch.device(name)


def make_policy(config: Config) -> Policy:
    """The untrained policy; its weights come from the config's seed alone.

    Raises:
        InputError: no policy can play the config's environment.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if config.policy == "mlp":
        return mlp_policy(config.layers, *spaces(config.env), generator)
    if config.policy == "karpathy" and config.actions == 2:
        return KarpathyPolicy(config.layers[0], make_observation_builder(config).width, generator=generator)
    return CategoricalPolicy(make_network(config, config.layers, pictures(config)[2], generator, config.channels))


def load_policy(where: PathLike) -> tuple[Policy, Checkpoint]:
    """A trained policy, ready to play, with the checkpoint that it comes from.

    Args:
        where: a run folder, of which the newest checkpoint is taken, a checkpoint file, or an exported folder.

    Raises:
        InputError: there is no checkpoint, or it is damaged, or does not fit its config.
    """
    loaded = load(where)
    policy = make_policy(loaded.config)
    load_weights(policy, loaded.policy)
    return policy, loaded


def make_value_network(config: Config) -> nn.Module:
    """The untrained network that predicts returns; it begins at 0 everywhere."""
    generator = torch.Generator().manual_seed(config.seed)
    if config.policy == "karpathy":
        value = KarpathyPolicy(config.baseline_layers[0], make_observation_builder(config).width, generator=generator)
        nn.init.zeros_(value.W2)
        return value
    channels = config.channels if config.baseline_channels is None else config.baseline_channels
    return nn.Sequential(make_network(config, config.baseline_layers, 1, generator, channels), nn.Flatten(0))


def make_network(
    config: Config, layers: list[int], outputs: int, generator: torch.Generator, channels: list[int]
) -> nn.Module:
    """An untrained network of the policy's kind."""
    if config.policy == "mlp":
        return mlp((*spaces(config.env)[0].shape, *layers, outputs), generator)
    (shape, more, _), (hidden,) = pictures(config), layers
    if config.policy == "karpathy" or not channels:
        return TwoLayers(math.prod(shape) + more, hidden, outputs, generator)
    return ConvNet(shape, channels, hidden, outputs, more, generator)


def load_weights(network: nn.Module, saved: dict[str, Tensor]) -> None:
    """Give a network saved weights.

    Raises:
        InputError: they are another network's.
    """
    try:
        network.load_state_dict(saved)
    except RuntimeError as error:
        raise InputError(f"the checkpoint does not fit its config: {' '.join(str(error).split())}") from None


def make_baseline(config: Config, device: torch.device, ranks: Ranks) -> Baseline:
    """The untrained baseline network."""
    network = make_value_network(config).to(device)
    rate, unit, passes = config.baseline_learning_rate, config.baseline_unit, config.baseline_passes
    return Baseline(network, learning_rate=rate, unit=unit, passes=passes, ranks=ranks)
