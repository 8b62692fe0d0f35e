"""Draw docs/images/architecture.png: how a pixel becomes a gradient, with the numbers of a rally of pretrained/pong."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from common import BLUE, GREEN, GREY, ORANGE, RED, ROOT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from pong.losses import surrogate_loss
from pong.observations import PIXELS, SIDE, preprocess
from pong.policies import first_layer
from pong.render.frame import RenderedFrame, play_frames
from pong.returns import discounted_returns, standardize
from pong.train import load_policy


def main() -> None:
    """Play, learn, draw."""
    policy, checkpoint = load_policy(ROOT / "pretrained/pong")
    frames = second_rally(play_frames(policy, checkpoint.config, seed=1))
    figure = Figure(figsize=(13, 6.2))
    space = {"left": 0.02, "right": 0.99, "top": 0.9, "bottom": 0.05, "wspace": 0.3, "hspace": 0.4}
    top, bottom = figure.subplots(2, 5, gridspec_kw=space)
    draw_acting(top, policy, min(frames[:-1], key=lambda frame: abs(frame.probs[0] - 0.4)))  # few are so unsure
    draw_learning(bottom[::-1], policy, checkpoint.config.gamma, frames)
    draw_arrows(figure, top, bottom)
    figure.savefig(ROOT / "docs/images/architecture.png", dpi=100)


def second_rally(game: Iterable[RenderedFrame]) -> list[RenderedFrame]:
    """The frames from a game's first point to its second: the first rally begins with an empty frame."""
    by_score = [list(frames) for _, frames in itertools.groupby(game, key=lambda frame: frame.score)]
    return [*by_score[1], by_score[2][0]]


def draw_acting(axes: Sequence[Axes], policy: Any, frame: RenderedFrame) -> None:
    """From the screen to the action."""
    x = torch.from_numpy(frame.observation.reshape(1, PIXELS)).float()
    hidden = torch.relu(first_layer(x, policy.W1))[0].detach()
    image(axes[0], frame.screen, "screen (210, 160, 3)", "envs/")
    image(axes[1], preprocess(frame.screen), "frame (80, 80) in {0, 1}", "observations.py")
    image(axes[2], frame.observation[0], "minus the previous: (6400,)", "observations.py", limit=1)
    curve(axes[3], hidden, "hidden units (200,)", "policies.py", BLUE)
    colors = [ORANGE if action == frame.action else GREY for action in range(len(frame.action_names))]
    axes[4].bar(frame.action_names, frame.probs, color=colors)
    axes[4].set_ylim(0, 1)
    title(axes[4], "π(a|s) and the action", "policies.py")
    axes[4].tick_params(labelsize=9)
    axes[4].spines[["top", "right"]].set_visible(False)


def draw_learning(axes: Sequence[Axes], policy: Any, gamma: float, frames: list[RenderedFrame]) -> None:
    """From the rewards to the gradient."""
    x = torch.from_numpy(np.stack([frame.observation.reshape(PIXELS) for frame in frames[:-1]])).float()  # (T, 6400)
    actions = torch.tensor([frame.action for frame in frames[:-1]])  # (T,)
    rewards = torch.tensor([frame.score for frame in frames], dtype=torch.float32).diff()  # (T,)
    advantages = standardize(discounted_returns(rewards, gamma, reset_on_reward=True))  # without a baseline
    log_probs = policy.log_prob(x, actions)  # (T,)
    loss = surrogate_loss(log_probs, advantages)
    loss.backward()
    gradient = policy.W1.grad[:, policy.W1.grad.norm(dim=0).argmax()].view(SIDE, SIDE)
    curve(axes[0], rewards, "rewards (T,), by time step", "envs/", GREEN)
    curve(axes[1], advantages, "R (T,): discounted, standardised", "returns.py", GREEN)
    curve(axes[2], log_probs.detach(), "log π(a|s) (T,), nats", "policies.py", BLUE)
    axes[3].text(0.5, 0.6, "−Σ log π · R", ha="center", fontsize=22, color=RED)
    axes[3].text(0.5, 0.35, f"= {loss.item():.2f}", ha="center", fontsize=15, color=RED)
    axes[3].axis("off")
    title(axes[3], "surrogate loss ()", "losses.py")
    image(axes[4], gradient, "gradient of one unit's W1", "backward()", limit=float(gradient.abs().max()))


def draw_arrows(figure: Figure, top: Sequence[Axes], bottom: Sequence[Axes]) -> None:
    """To the right, down, and to the left."""
    corner = top[4].get_position()
    ends = [((corner.x1 + 0.004, corner.y0), (corner.x1 + 0.004, corner.y0 - 0.12))]
    for row, direction in ((top, 1), (bottom, -1)):
        for left, right in itertools.pairwise([panel.get_position() for panel in row]):
            ends.append(((left.x1, left.y0 - 0.03), (right.x0, left.y0 - 0.03))[::direction])
    for start, end in ends:
        figure.add_artist(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=18, color="black", linewidth=1.5)
        )


def title(axes: Axes, text: str, module: str) -> None:
    axes.set_title(f"{text}\n", fontsize=11)
    axes.tick_params(labelsize=8)
    axes.text(0.5, 1.03, module, transform=axes.transAxes, ha="center", fontsize=10, color=GREY, family="monospace")


def image(axes: Axes, pixels: Any, text: str, module: str, limit: float | None = None) -> None:
    """Pixels; grey is 0 where there is a ``limit``, black and white are beyond it."""
    span = {} if limit is None else {"vmin": -limit, "vmax": limit}
    axes.imshow(pixels, cmap="gray", interpolation="nearest", aspect="auto", **span)
    axes.set(xticks=[], yticks=[])
    title(axes, text, module)


def curve(axes: Axes, values: torch.Tensor, text: str, module: str, color: str) -> None:
    axes.plot(values.numpy(), color=color, linewidth=1.2)
    axes.spines[["top", "right"]].set_visible(False)
    title(axes, text, module)


if __name__ == "__main__":
    main()
