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

from pong.losses import surrogate_loss
from pong.observations import PIXELS, preprocess
from pong.policies import first_layer
from pong.render.frame import RenderedFrame, play_frames
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
    for before, after in itertools.pairwise(play_frames(policy, saved.config, seed=1)):
        frames.append(before)
        if after.score != before.score:
            if frames[0].step:
                return policy, saved.config.gamma, [*frames, after]
            frames = []
    raise AssertionError("a game has more than one point")


def main() -> None:
    """Play, learn, draw."""
    policy, gamma, frames = rally()
    figure = Figure(figsize=(13, 6.2))
    space = {"left": 0.02, "right": 0.99, "top": 0.9, "bottom": 0.05, "wspace": 0.3, "hspace": 0.4}
    top, bottom = figure.subplots(2, 5, gridspec_kw=space)
    draw_playing(top, policy, min(frames[:-1], key=lambda frame: abs(frame.probs[0] - 0.4)))  # few are so unsure
    draw_learning(bottom[::-1], policy, gamma, frames)
    draw_arrows(figure, top, bottom)
    figure.savefig(PICTURE, dpi=100)


def draw_playing(axes: Sequence[Axes], policy: Any, frame: RenderedFrame) -> None:
    """From the screen to the action."""
    x = torch.from_numpy(frame.observation.reshape(1, PIXELS)).float()
    hidden = torch.relu(first_layer(policy.W1, x))[0].detach()
    picture(axes[0], frame.screen, "screen (210, 160, 3)", "envs/")
    picture(axes[1], preprocess(frame.screen), "frame (80, 80) in {0, 1}", "frames.py")
    picture(axes[2], frame.observation[0], "minus the previous: (6400,)", "frames.py", 1)
    curve(axes[3], hidden, "hidden units (200,)", "policies.py", BLUE)
    chances(axes[4], frame)


def draw_learning(axes: Sequence[Axes], policy: Any, gamma: float, frames: list[RenderedFrame]) -> None:
    """From the rewards to the gradient."""
    x = torch.from_numpy(np.stack([frame.observation.reshape(PIXELS) for frame in frames[:-1]])).float()  # (T, 6400)
    actions = torch.tensor([frame.action for frame in frames[:-1]])  # (T,)
    rewards = torch.tensor([frame.score for frame in frames], dtype=torch.float32).diff()  # (T,)
    advantages = standardize(discounted_returns(rewards, gamma, reset_on_reward=True))  # without a baseline
    log_probs = policy.log_prob(x, actions)  # (T,)
    loss = surrogate_loss(log_probs, advantages)
    loss.backward()
    gradient = policy.W1.grad[policy.W1.grad.norm(dim=1).argmax()].view(80, 80)
    curve(axes[0], rewards, "rewards (T,), by time step", "envs/", GREEN)
    curve(axes[1], advantages, "R (T,): discounted, standardised", "returns.py", GREEN)
    curve(axes[2], log_probs.detach(), "log π(a|s) (T,), nats", "policies.py", BLUE)
    axes[3].text(0.5, 0.6, "−Σ log π · R", ha="center", fontsize=22, color=RED)
    axes[3].text(0.5, 0.35, f"= {loss.item():.2f}", ha="center", fontsize=15, color=RED)
    axes[3].axis("off")
    name(axes[3], "surrogate loss ()", "losses.py")
    picture(axes[4], gradient, "gradient of one unit's W1", "backward()", float(gradient.abs().max()))


def draw_arrows(figure: Figure, top: Sequence[Axes], bottom: Sequence[Axes]) -> None:
    """To the right, down, and to the left."""

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        figure.add_artist(FancyArrowPatch(start, end, **ARROW))

    for row, way in ((top, 1), (bottom, -1)):
        height = row[0].get_position().y0 - 0.03
        for left, right in itertools.pairwise(row):
            start, end = (left.get_position().x1, right.get_position().x0)[::way]
            arrow((start, height), (end, height))
    corner = top[4].get_position()
    arrow((corner.x1 + 0.004, corner.y0), (corner.x1 + 0.004, corner.y0 - 0.12))


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
    colours = [ORANGE if action == frame.action else GREY for action in range(len(frame.action_names))]
    axes.bar(frame.action_names, frame.probs, color=colours)
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    name(axes, "π(a|s) and the action", "policies.py")


if __name__ == "__main__":
    main()
