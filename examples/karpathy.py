"""Karpathy's pg-pong.py of 2016 as one would write it today: Pong from pixels by policy gradient, on one page.

    make setup && .venv/bin/python examples/karpathy.py    # until Ctrl-C; resumes from save.pt

The three nights of 2016 were 8,000 games. They take 14 million time steps, one at a time: expect hours. The score is
−20 at first, −19 after 8,000 games and −10 after 22,000. `make train CONFIG=configs/karpathy.toml` plays and learns the
same in compiled Pong, 8,000 games in under two minutes. docs/from-karpathy.md compares this page with the original:
https://karpathy.github.io/2016/05/31/rl/ and https://gist.github.com/karpathy/a4166c7fe253700972fcbc77e4ea32c5
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from pong.losses import surrogate_loss
from pong.returns import discounted_returns, standardize

D, H = 80 * 80, 200  # inputs (pixels of a difference frame) and hidden units
BATCH = 10  # games per update
GAMMA = 0.99  # discount per step
RMSPROP = {"lr": 1e-4, "alpha": 0.99, "eps": 1e-5}  # alpha was decay_rate in 2016; eps is outside the root
UP, DOWN = 2, 3  # ALE's numbers of the only two actions that are used
HOLD = (2, 5)  # each action is held for 2, 3 or 4 frames, as in Pong-v0
MAX_FRAMES = 65_209  # after 18 minutes the console's own clock stops the game, and ALE gives a stray reward


class Policy(nn.Module):
    """Two layers without biases; their output is a logit: P(UP) = σ(logit), P(DOWN) = 1 − σ(logit) = σ(−logit)."""

    def __init__(self) -> None:
        super().__init__()
        self.W1 = nn.Parameter(torch.randn(H, D) / D**0.5)  # over √inputs: activations start at a scale of about 1
        self.W2 = nn.Parameter(torch.randn(H) / H**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (T,) of T observations (T, D), or () of one observation (D,)."""
        h = torch.relu(x.to(self.W1.dtype) @ self.W1.T)  # (T, H)
        return h @ self.W2


def preprocess(screen: np.ndarray) -> Tensor:
    """The playing field of a colour screen (210, 160, 3): (D,) int8, 1 where a paddle or the ball is, else 0."""
    red = torch.from_numpy(screen)[35:195:2, ::2, 0]  # no score, no border; every second row and column: (80, 80)
    return ((red != 144) & (red != 109) & (red != 0)).flatten().to(torch.int8)  # erases two backgrounds and black


@torch.no_grad()  # acting needs no gradient; loss_of computes it for the whole game
def play(env: gymnasium.Env, policy: Policy) -> tuple[Tensor, ...]:
    """One game: observations (T, D) int8 in {−1, 0, 1}, went_up (T,) bool, rewards (T,) in {−1, 0, 1}."""
    screen, _ = env.reset()
    before, over, steps = preprocess(screen), False, []
    while not over:
        now = preprocess(screen)
        x, before = now - before, now  # where something appeared or disappeared; all 0 at a game's first step
        up = torch.rand(()) < torch.sigmoid(policy(x))
        screen, reward, terminated, truncated, _ = env.step(UP if up else DOWN)
        steps.append((x, up, torch.tensor(reward)))
        over = terminated or truncated
    return tuple(torch.stack(column) for column in zip(*steps, strict=True))


def loss_of(policy: Policy, observations: Tensor, went_up: Tensor, rewards: Tensor) -> Tensor:
    """A game's surrogate loss −Σ log π(aₜ|xₜ)·Rₜ, (): its gradient is the policy gradient, negated."""
    # Logits for the whole game in one batch: one gradient of W1 instead of a sum of T gradients of 5 MB each.
    logits = policy(observations)  # (T,)
    log_probs = nn.functional.logsigmoid(torch.where(went_up, logits, -logits))  # (T,), of the chosen actions
    returns = discounted_returns(rewards, GAMMA, reset_on_reward=True)  # (T,), reset at every point
    return surrogate_loss(log_probs, standardize(returns))  # a sum, not a mean


def update(policy: Policy, optimizer: torch.optim.Optimizer, games: Iterable[tuple[Tensor, ...]]) -> None:
    """One step on the gradient summed over the games; an iterator keeps only one game in memory at a time."""
    optimizer.zero_grad()
    for game in games:
        loss_of(policy, *game).backward()  # adds to the gradients of the earlier games
    optimizer.step()


def batch(env: gymnasium.Env, policy: Policy, progress: dict[str, float]) -> Iterator[tuple[Tensor, ...]]:
    """Play BATCH games, each on demand, and print their scores."""
    for _ in range(BATCH):
        game = play(env, policy)
        total = game[-1].sum().item()  # of its rewards
        progress["mean"] = 0.99 * progress.get("mean", total) + 0.01 * total
        progress["games"] += 1
        print(f"resetting env. episode reward total was {total:f}. running mean: {progress['mean']:f}")
        yield game


def save(file: Path, policy: Policy, optimizer: torch.optim.Optimizer, progress: dict[str, float]) -> None:
    """Write the file atomically: stopping the program leaves the old file or the new one."""
    new = file.with_suffix(".new")
    torch.save({"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}, new)
    new.replace(file)


def load(file: Path, policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Restore the policy and the optimiser, and return the progress."""
    try:
        saved = torch.load(file, weights_only=True)
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])  # without its cache the first step is ten times too large
        return saved["progress"]
    except Exception:  # each kind of damage raises another
        print(f"{file} is damaged or of another program; delete or rename it to start over", file=sys.stderr)
        sys.exit(2)


def main(games: float = torch.inf, file: Path = Path("save.pt")) -> None:
    """Train until this many games have been played."""
    env = gymnasium.make("ale_py:ALE/Pong-v5", frameskip=HOLD, max_num_frames_per_episode=MAX_FRAMES)  # sticky actions
    policy = Policy()
    optimizer = torch.optim.RMSprop(policy.parameters(), **RMSPROP)
    progress = load(file, policy, optimizer) if file.exists() else {"games": 0}
    while progress["games"] < games:
        update(policy, optimizer, batch(env, policy, progress))
        save(file, policy, optimizer, progress)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print(f"\nstopped; the games since the last save, at most {BATCH}, are lost", file=sys.stderr)
        sys.exit(130)
