"""PPO on Atari's Pong, in the style of CleanRL: one file, on ALE/Pong-v5 or on the compiled pong/Pong-v5.

    python examples/ppo.py --env pong.envs:pong/Pong-v5     # the compiled Pong
    python examples/ppo.py --env ale_py:ALE/Pong-v5         # the same observations and curve, by gymnasium's wrappers

The second needs OpenCV (`pip install "gymnasium[other]"`). Sources: Schulman et al. 2017, arXiv:1707.06347; Huang et
al. 2022, "The 37 Implementation Details of Proximal Policy Optimization", whose settings for Atari these are.
"""

import time
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from torch import Tensor, nn


@dataclass
class Args:
    """Settings."""

    env: str = "pong.envs:pong/Pong-v5"
    seed: int = 1
    total_steps: int = 10_000_000
    num_envs: int = 8
    horizon: int = 128  # steps of each game in a batch
    epochs: int = 4  # and minibatches, of each batch
    minibatches: int = 4
    lr: float = 2.5e-4  # falls to 0
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.1
    entropy: float = 0.01
    value: float = 0.5
    max_norm: float = 0.5


def make_envs(args: Args) -> VectorEnv:
    """Observations (N, 4, 84, 84) uint8."""
    if "ALE/" not in args.env:
        return gymnasium.make_vec(args.env, args.num_envs, obs_type="atari", noop_max=30)

    def make() -> gymnasium.Env:
        return FrameStackObservation(AtariPreprocessing(gymnasium.make(args.env, frameskip=1)), 4)

    return gymnasium.vector.SyncVectorEnv([make] * args.num_envs)


def layer(module: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """Orthogonal weights."""
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


class Agent(nn.Module):
    """The network of Mnih et al. 2015, with a policy and a value."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        convolutions = [layer(nn.Conv2d(*sizes)) for sizes in ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))]
        self.body = nn.Sequential(
            *(part for convolution in convolutions for part in (convolution, nn.ReLU())),
            *(nn.Flatten(), layer(nn.Linear(64 * 7 * 7, 512)), nn.ReLU()),
        )
        self.policy, self.critic = layer(nn.Linear(512, actions), 0.01), layer(nn.Linear(512, 1), 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, actions) and values (B,) of observations (B, 4, 84, 84)."""
        h = self.body(x / 255)
        return self.policy(h), self.critic(h).squeeze(1)


def advantages_of(rewards: Tensor, values: Tensor, dones: Tensor, args: Args) -> Tensor:
    """Generalised advantage estimates (T, N) from rewards (T, N), values and dones (T + 1, N) before each step."""
    advantages, last = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        goes_on = 1 - dones[t + 1]
        delta = rewards[t] + args.gamma * values[t + 1] * goes_on - values[t]
        advantages[t] = last = delta + args.gamma * args.gae_lambda * goes_on * last
    return advantages


def loss_of(agent: Agent, batch: dict[str, Tensor], args: Args) -> Tensor:
    """The clipped surrogate loss, the value's loss and the entropy bonus, ()."""
    logits, values = agent(batch["observations"])
    log_probs = logits.log_softmax(1)
    log_prob = log_probs.gather(1, batch["actions"][:, None]).squeeze(1)
    advantages = batch["advantages"]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = (log_prob - batch["log_probs"]).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - args.clip, 1 + args.clip) * advantages)
    entropy = -(log_probs.exp() * log_probs).sum(1)
    value = (values - batch["returns"]) ** 2 / 2
    # a step after a game's end starts a new game, whatever the action: it is left out
    return (batch["weights"] * (args.value * value - surrogate - args.entropy * entropy)).mean()


def main(args: Args) -> Agent:
    """Train, and print the mean score of the last 20 games."""
    torch.manual_seed(args.seed)
    envs, N, T = make_envs(args), args.num_envs, args.horizon
    agent, random = Agent(int(envs.single_action_space.n)), np.random.default_rng(args.seed)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.lr, eps=1e-5)
    observations, scores = envs.reset(seed=args.seed)[0], np.zeros(N)
    games, done, start = list[float](), np.zeros(N), time.monotonic()
    for update in range(updates := args.total_steps // (N * T)):
        optimizer.param_groups[0]["lr"] = args.lr * (1 - update / updates)
        store: dict[str, list[Tensor]] = {key: [] for key in ("observations", "actions", "log_probs", "rewards")}
        values, dones = [], []
        for t in range(T + 1):
            x = torch.from_numpy(observations)
            with torch.no_grad():
                logits, value = agent(x)
            values.append(value)
            dones.append(torch.from_numpy(done).float())
            if t == T:
                break
            actions = torch.multinomial(logits.softmax(1), 1).squeeze(1)
            observations, rewards, terminations, truncations, _ = envs.step(actions.numpy())
            log_probs = logits.log_softmax(1).gather(1, actions[:, None]).squeeze(1)
            new = (x, actions, log_probs, torch.from_numpy(rewards).float())
            for rows, row in zip(store.values(), new, strict=True):
                rows.append(row)
            scores, done = scores + rewards, (terminations | truncations).astype(float)
            games += scores[done > 0].tolist()
            scores[done > 0] = 0
        batch = {key: torch.stack(rows) for key, rows in store.items()}
        batch["advantages"] = advantages_of(batch.pop("rewards"), torch.stack(values), torch.stack(dones), args)
        batch["returns"] = batch["advantages"] + torch.stack(values[:T])
        batch["weights"] = 1 - torch.stack(dones[:T])
        batch = {key: rows.flatten(0, 1) for key, rows in batch.items()}
        for _ in range(args.epochs):
            for rows in np.split(random.permutation(N * T), args.minibatches):
                optimizer.zero_grad()
                loss_of(agent, {key: values[rows] for key, values in batch.items()}, args).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_norm)
                optimizer.step()
        if update % 10 == 9:
            steps, seconds, mean = (update + 1) * N * T, time.monotonic() - start, np.mean(games[-20:] or [np.nan])
            print(f"{steps:,} steps  {seconds:.0f} s  {len(games)} games  mean {mean:.2f}")
    return agent


if __name__ == "__main__":
    main(tyro.cli(Args))
