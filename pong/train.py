"""The loop: play, take log π of what was played, turn it into the surrogate loss, step, track."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pong.config import Config, InputError
from pong.envs import make_envs
from pong.losses import surrogate_loss
from pong.policies import KarpathyPolicy
from pong.rollout import Batch, Rollout


@dataclass(frozen=True)
class Learned:
    """What one gradient step looked like.

    Attributes:
        policy_loss: the surrogate loss; no measure of progress.
        entropy: mean over the batch, nats; log 2 = 0.693 is a coin toss.
        grad_norm: Euclidean norm of the whole gradient.
        approx_kl: KL(before ‖ after the step) estimated on the batch, nats.
        prob_up: mean P(UP) over the batch.
        learning_rate: of this step.
    """

    policy_loss: float
    entropy: float
    grad_norm: float
    approx_kl: float
    prob_up: float
    learning_rate: float


@dataclass(frozen=True)
class Update:
    """One turn of the loop: what was played, what was learned, and how long both took in seconds."""

    number: int  # from 1
    batch: Batch
    learned: Learned
    rollout_seconds: float
    learn_seconds: float


class Trainer:
    """A policy, its optimiser and the emulators it plays in.

    Args:
        config: the run's config.

    Raises:
        InputError: the config asks for a device that is not there.
    """

    def __init__(self, config: Config):
        self.config = config
        self.device = choose_device(config.device)
        self.policy = make_policy(config).to(self.device)
        self.optimizer = make_optimizer(config, self.policy)
        self.rollout = Rollout(config, make_envs(config))
        self.updates = 0
        self.steps = 0

    def close(self) -> None:
        """End the emulators."""
        self.rollout.envs.close()

    def run(self) -> Iterator[Update]:
        """Train until ``total_steps``, yielding each update; between two yields everything is consistent."""
        while self.steps < self.config.total_steps:
            began = time.perf_counter()
            batch = self.rollout.collect(self.policy, self.updates)
            played = time.perf_counter()
            learned = self._learn(batch)
            self.updates += 1
            self.steps += batch.steps
            yield Update(self.updates, batch, learned, played - began, time.perf_counter() - played)

    def _learn(self, batch: Batch) -> Learned:
        """One step on −log π·R over the batch.

        Raises:
            FloatingPointError: the gradient holds NaN or infinity.
        """
        config = self.config
        actions, returns = batch.actions.to(self.device), batch.returns.to(self.device)

        distribution = self.policy.distribution(batch.observations)
        log_probs = distribution.log_prob(actions)  # (B,)
        policy_loss = surrogate_loss(log_probs, returns, reduction=config.reduction)  # ()
        entropy = distribution.entropy().mean()  # type: ignore[no-untyped-call]  # ()
        loss = policy_loss - config.entropy_bonus * entropy

        self.optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None])
        if not torch.isfinite(grad_norm):  # before the step, so that the weights stay good
            raise FloatingPointError(f"update {self.updates + 1}: the gradient is not finite; lower learning_rate")
        learning_rate = self._schedule()
        self.optimizer.step()

        with torch.no_grad():
            log_ratio = self.policy.log_prob(batch.observations, actions) - log_probs
            approx_kl = (log_ratio.exp() - 1 - log_ratio).mean()
        return Learned(
            policy_loss=policy_loss.item(),
            entropy=entropy.item(),
            grad_norm=grad_norm.item(),
            approx_kl=approx_kl.item(),
            prob_up=distribution.probs.mean().item(),
            learning_rate=learning_rate,
        )

    def _schedule(self) -> float:
        """Set this update's learning rate."""
        config = self.config
        rate = config.learning_rate
        if config.learning_rate_end is not None:
            rate += (config.learning_rate_end - rate) * self.steps / config.total_steps
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate


def choose_device(name: str) -> torch.device:
    """The device a config names; "auto" is the GPU where there is one.

    Raises:
        InputError: "cuda" where PyTorch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but PyTorch sees no CUDA device here; use --device auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_policy(config: Config) -> KarpathyPolicy:
    """The untrained network; its weights come from the config's seed alone."""
    return KarpathyPolicy(config.hidden, generator=torch.Generator().manual_seed(config.seed))


def make_optimizer(config: Config, policy: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam, or the RMSProp of 2016: torch's ``alpha`` is the decay, and its eps stands outside the root."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            policy.parameters(), lr=config.learning_rate, alpha=config.rmsprop_decay, eps=config.epsilon
        )
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.Adam(policy.parameters(), lr=config.learning_rate, betas=betas, eps=config.epsilon)
