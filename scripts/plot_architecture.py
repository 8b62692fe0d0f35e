"""Draw the picture of docs/architecture.md: how a pixel becomes a gradient, with the numbers of one real rally.

    python scripts/plot_architecture.py

plays one rally with pretrained/pong in ALE and writes docs/images/architecture.png.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from pong.frames import PIXELS, preprocess
from pong.losses import surrogate_loss
from pong.play.game import RenderedFrame, play
from pong.policies import first_layer
from pong.returns import discounted_returns, standardize
from pong.toy.plots import BLUE, GREEN, GREY, ORANGE, RED
from pong.train import load_policy

ROOT = Path(__file__).parents[1]
ARROW: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 18, "color": "black", "linewidth": 1.5}
PICTURE = ROOT / "docs/images/architecture.png"


def rally() -> tuple[Any, float, list[RenderedFrame]]:
    """The pretrained policy, its discount, and the second rally of a game: the first begins with an empty frame."""
    policy, saved = load_policy(ROOT / "pretrained/pong")
    frames: list[RenderedFrame] = []
    for before, after in itertools.pairwise(play(policy, saved.config, seed=1)):
        frames.append(before)
        if after.score != before.score:
            if frames[0].step:
                return policy, saved.config.gamma, [*frames, after]
            frames = []
    raise AssertionError("a game has more than one point")


def main() -> None:
    """Play, compute, draw."""
    policy, gamma, frames = rally()
    decided = frames[:-1]
    x = torch.from_numpy(np.stack([frame.seen.reshape(PIXELS) for frame in decided])).float()  # (T, 6400)
    actions = torch.tensor([frame.action for frame in decided])  # (T,)
    scores = torch.tensor([frame.score for frame in frames], dtype=torch.float32)
    rewards = scores.diff()  # (T,)
    returns = discounted_returns(rewards, gamma, reset_on_reward=True)
    log_probs = policy.log_prob(x, actions)  # (T,)
    advantages = standardize(returns)  # of a single rally, without a baseline
    loss = surrogate_loss(log_probs, advantages)
    loss.backward()
    t = min(range(len(decided)), key=lambda t: abs(decided[t].probs[0] - 0.4))  # not all decisions are sure
    hidden = torch.relu(first_layer(policy.W1, x[t : t + 1]))[0].detach()
    gradient = policy.W1.grad[policy.W1.grad.norm(dim=1).argmax()].view(80, 80)

    figure = Figure(figsize=(13, 6.2))
    space = {"left": 0.02, "right": 0.99, "top": 0.9, "bottom": 0.05, "wspace": 0.3, "hspace": 0.4}
    top, bottom = figure.subplots(2, 5, gridspec_kw=space)
    picture(top[0], decided[t].screen, "screen (210, 160, 3)", "envs/")
    picture(top[1], preprocess(decided[t].screen), "frame (80, 80) in {0, 1}", "frames.py")
    picture(top[2], decided[t].seen[0], "minus the previous: (6400,)", "frames.py", 1)
    curve(top[3], hidden, "hidden units (200,)", "policies.py", BLUE)
    chances(top[4], decided[t])
    curve(bottom[4], rewards, "rewards (T,), by time step", "envs/", GREEN)
    curve(bottom[3], advantages, "R (T,): discounted, standardised", "returns.py", GREEN)
    curve(bottom[2], log_probs.detach(), "log π(a|s) (T,), nats", "policies.py", BLUE)
    bottom[1].text(0.5, 0.6, "−Σ log π · R", ha="center", fontsize=22, color=RED)
    bottom[1].text(0.5, 0.35, f"= {loss.item():.2f}", ha="center", fontsize=15, color=RED)
    bottom[1].axis("off")
    name(bottom[1], "surrogate loss ()", "losses.py")
    limit = float(gradient.abs().max())
    picture(bottom[0], gradient, "gradient of one unit's W1", "backward()", limit)
    for row, way in ((top, 1), (bottom, -1)):
        for left, right in itertools.pairwise(row):
            arrow(figure, (left.get_position().x1, right.get_position().x0)[::way], row[0].get_position().y0 - 0.03)
    down = top[4].get_position()
    figure.add_artist(FancyArrowPatch((down.x1 + 0.004, down.y0), (down.x1 + 0.004, down.y0 - 0.12), **ARROW))
    figure.savefig(PICTURE, dpi=100)


def name(axes: Axes, what: str, where: str) -> None:
    axes.set_title(f"{what}\n", fontsize=11)
    axes.text(0.5, 1.03, where, transform=axes.transAxes, ha="center", fontsize=10, color=GREY, family="monospace")


def picture(axes: Axes, pixels: Any, what: str, where: str, limit: float | None = None) -> None:
    """Pixels; grey is 0 where there is a ``limit``, black and white are beyond it."""
    span = {} if limit is None else {"vmin": -limit, "vmax": limit}
    axes.imshow(pixels, cmap="gray", interpolation="nearest", aspect="auto", **span)
    axes.set(xticks=[], yticks=[])
    name(axes, what, where)


def curve(axes: Axes, values: torch.Tensor, what: str, where: str, colour: str) -> None:
    axes.plot(values.numpy(), color=colour, linewidth=1.2)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    name(axes, what, where)


def chances(axes: Axes, frame: RenderedFrame) -> None:
    """How likely each action was; the sampled one is lit."""
    colours = [ORANGE if action == frame.action else GREY for action in range(len(frame.names))]
    axes.bar(frame.names, frame.probs, color=colours)
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    name(axes, "π(a|s) and the action", "policies.py")


def arrow(figure: Figure, ends: Sequence[float], height: float) -> None:
    """From one column to the next."""
    start, end = ends
    figure.add_artist(FancyArrowPatch((start, height), (end, height), **ARROW))


if __name__ == "__main__":
    main()
