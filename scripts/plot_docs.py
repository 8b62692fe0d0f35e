"""Draw the pictures of docs/images/: architecture.png, pong-….png and toy-….png.

How a pixel becomes a gradient, with the numbers of a rally of pretrained/pong; the ball leaving a paddle, and the
opponent following it, as pong.envs.pong.machine plays them; and three examples of pong toy.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from common import BLUE, GREEN, GREY, ORANGE, RED, ROOT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from numpy.typing import NDArray
from PIL import Image

from pong.envs.pong import machine
from pong.envs.pong.task import NOOP
from pong.losses import surrogate_loss
from pong.observations import PIXELS, SIDE, preprocess
from pong.render.frame import RenderedFrame, play_frames
from pong.returns import discounted_returns, standardize
from pong.toy.examples import T1, T1_WITHOUT_LOG, T2, less, t7
from pong.toy.gradients import Estimator, estimates, finite_difference, mean_and_variance, objective
from pong.train import load_policy


def main() -> None:
    draw("architecture", architecture, (13, 6.2), layout=None)
    for name, picture in (("pong-bounce", bounce), ("pong-opponent", opponent)):
        path = draw(name, picture, (8.0, 4.4))
        Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    for picture in (log, baseline, pathwise):
        draw(f"toy-{picture.__name__}", picture, (10, 6))


def draw(name: str, picture: Any, size: tuple[float, float], layout: Any = "constrained") -> Any:
    """Draw a picture, whose curves have no frame, and save it; returns its path."""
    figure = Figure(figsize=size, dpi=100, layout=layout)
    picture(figure)
    for axes in figure.axes:
        if not axes.images:
            axes.spines[["top", "right"]].set_visible(False)
    path = ROOT / f"docs/images/{name}.png"
    figure.savefig(path)
    return path


# --- from a pixel to the gradient -------------------------------------------------------------------------------------


def architecture(figure: Figure) -> None:
    """Play, learn, draw."""
    policy, checkpoint = load_policy(ROOT / "pretrained/pong")
    frames = second_rally(play_frames(policy, checkpoint.config, seed=1))
    space = {"left": 0.02, "right": 0.99, "top": 0.9, "bottom": 0.05, "wspace": 0.3, "hspace": 0.4}
    top, bottom = figure.subplots(2, 5, gridspec_kw=space)
    draw_acting(top, policy, min(frames[:-1], key=lambda frame: abs(frame.probs[0] - 0.4)))  # few are so unsure
    draw_learning(bottom[::-1], policy, checkpoint.config.gamma, frames)
    draw_arrows(figure, top, bottom)


def second_rally(game: Iterable[RenderedFrame]) -> list[RenderedFrame]:
    """The frames from a game's first point to its second: the first rally begins with an empty frame."""
    by_score = [list(frames) for _, frames in itertools.groupby(game, key=lambda frame: frame.score)]
    return [*by_score[1], by_score[2][0]]


def draw_acting(axes: Sequence[Axes], policy: Any, frame: RenderedFrame) -> None:
    """From the screen to the action."""
    x = torch.from_numpy(frame.observation.reshape(1, PIXELS)).float()
    hidden = torch.relu(x @ policy.W1)[0].detach()
    image(axes[0], frame.screen, "screen (210, 160, 3)", "envs/")
    image(axes[1], preprocess(frame.screen), "frame (80, 80) in {0, 1}", "observations.py")
    image(axes[2], frame.observation[0], "minus the previous: (6400,)", "observations.py", limit=1)
    curve(axes[3], hidden, "hidden units (200,)", "policies.py", BLUE)
    colors = [ORANGE if action == frame.action else GREY for action in range(len(frame.action_names))]
    axes[4].bar(frame.action_names, frame.probs, color=colors)
    axes[4].set_ylim(0, 1)
    title(axes[4], "π(a|s) and the action", "policies.py")
    axes[4].tick_params(labelsize=9)


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
    title(axes, text, module)


# --- the compiled Pong ------------------------------------------------------------------------------------------------

PLAYERS, OPPONENTS = "#5cba5c", "#d59a5c"  # paddles, much as on the screen
LINE = 120  # of the ball at each hit, far from the walls
OFFSETS = range(-20, 21)  # y − p: lines from a paddle's line to the ball's; no paddle reaches that far
FLAT, STEEP = 10, 14  # offsets of the second picture's two hits


def meeting(side: int, offset: int) -> Any:
    """A game whose ball has just reached a side's paddle, ``offset`` lines below it; None if it misses."""
    game = np.zeros(1, machine.GAME)[0]
    machine.reset(game)
    game.pause, game.left = 0, -machine.SPEED
    columns = range(machine.LEFT_END, machine.RIGHT_END)
    for game.y in (LINE, LINE + 1):
        for game.x in columns if side == machine.PLAYER else reversed(columns):
            game.cpu_y = game.own_y = game.next_y = game.y - offset
            game.touch = machine.touching(game)
            if game.touch == side:
                return game
    return None


def reach(side: int) -> list[int]:
    """The offsets at which a side's paddle meets the ball."""
    return [offset for offset in OFFSETS if meeting(side, offset) is not None]


def flight(game: Any) -> NDArray[np.int64]:
    """From the player's hit to the opponent's paddle: the ball's column and line and the opponent's line, (T, 3)."""
    places = [(game.x, game.y, game.cpu_y)]
    arrival = meeting(machine.OPPONENT, 0).x
    while game.x > arrival:
        machine.frame(game, NOOP)
        places.append((game.x, game.y, game.cpu_y))
    return np.array(places)


def rate(down: int) -> str:
    return f"{abs(down)} line{'s' * (abs(down) != 1)} a frame{('', ' down', ' up')[np.sign(down)]}"


def bounce(figure: Figure, columns: int = 16) -> None:
    """The ball's paths from the player's paddle, one for each offset."""
    axes, offsets = figure.add_subplot(), reach(machine.PLAYER)
    for down, color in zip(range(-2, 3), (RED, ORANGE, GREY, GREEN, BLUE), strict=True):
        same = [offset for offset in offsets if machine.bounce(0, offset) == down]
        for offset in same:
            x, y, _ = flight(meeting(machine.PLAYER, offset))[: columns + 1].T
            axes.plot(x[0] - x, offset + y - y[0], color=color, linewidth=1)
        text = f"y − p = {same[0]} to {same[-1]}:\n{rate(down)}".replace("-", "−")
        axes.text(columns + 0.5, sum(same) / len(same) + columns * down, text, color=color, ha="right", va="center")
    axes.add_patch(Rectangle((0, 0), -1, 16, color=PLAYERS, linewidth=0))  # lines
    axes.set(xlim=(columns + 6, -1.2), ylim=(53, -41), xticks=range(0, columns + 1, 4))
    axes.set(xlabel="columns from the paddle", ylabel="y − p, lines (0: ball and paddle tops level)")
    axes.set_title("Where the ball meets the player's paddle decides how steeply it leaves")


def opponent(figure: Figure) -> None:
    """The same shot, flat and steep, and what the opponent's paddle reaches of it."""
    low, *_, high = reach(machine.OPPONENT)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, offset in zip(panels, (FLAT, STEEP), strict=True):
        game = meeting(machine.PLAYER, offset)
        game.cpu_y = game.y
        _, ball, paddle = flight(game).T
        frames = np.arange(len(ball))
        band = axes.fill_between(frames, paddle + low, paddle + high, color=OPPONENTS, alpha=0.5, linewidth=0)
        (line,) = axes.plot(frames, ball, color=BLUE)
        beyond = max(paddle[-1] + low - ball[-1], ball[-1] - paddle[-1] - high)
        text = f"{rate(machine.bounce(0, offset))}: " + (f"missed by {beyond} lines" if beyond > 0 else "returned")
        axes.set(title=text, xlabel="frames after the player's hit", ylim=(212, 40))
    panels[0].set_ylabel("line")
    panels[0].legend((line, band), ("the ball", "what the opponent's paddle reaches"), frameon=False, loc="upper left")


# --- pong toy ---------------------------------------------------------------------------------------------------------

SAMPLES = 1000  # batches behind each dot of the picture log


def log(figure: Figure) -> None:
    """T1's bandit over p: the slope of J, and what the loss estimates with and without the log."""
    axes = figure.add_subplot(xlim=(0, 1), ylim=(-0.3, 0.16))
    axes.set(xlabel="P(a=1), the chance of the worse arm", ylabel="gradient with respect to the logit θ")
    thetas = torch.linspace(0.005, 0.995, 100, dtype=torch.float64).logit()[:, None]
    dots = torch.linspace(0.1, 0.9, 9, dtype=torch.float64).logit()[:, None]
    slopes = [finite_difference(partial(objective, T1.system), theta).item() for theta in thetas]
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvspan(2 / 3, 1, color=RED, alpha=0.08, linewidth=0, label="without the log, it climbs to the worse arm")
    axes.plot(thetas.sigmoid(), slopes, color=GREY, linewidth=5, alpha=0.5, label="true slope of J")
    labels = "with the log, −log π·R (p = .8: −.16)", "without the log, −π·R (p = .8: +.064)"
    for estimator, color, label in zip((T1, T1_WITHOUT_LOG), (BLUE, RED), labels, strict=True):
        means = [mean_and_variance(estimator, theta)[0].item() for theta in thetas]
        axes.plot(thetas.sigmoid(), means, color=color, linewidth=1.5, label=label)
        samples = torch.cat([estimates(estimator, x, SAMPLES, seed=100 + i)[0] for i, x in enumerate(dots)], dim=1)
        mean, error = samples.mean(dim=0), samples.std(dim=0) / math.sqrt(SAMPLES)
        axes.errorbar(dots[:, 0].sigmoid(), mean, error, fmt="o", color=color, markersize=4, linewidth=1)
    axes.set_title(f"Leaving out the log flips the sign (dots: means of {SAMPLES} samples ± one standard error)")
    axes.legend(loc="upper left", frameon=False)


def baseline(figure: Figure) -> None:
    """Variance of the estimate over the baseline b, for the bandits of T1 and T2."""
    figure.suptitle("A constant baseline b moves the variance, never the mean; J is a good one, not the best")
    bandits = (
        (T1, 4, (0, 1.2, 1.8), "two arms, R = (1, 2)", "variance of one sample's gradient"),
        (T2, 7, (0, 2, 32 / 11), "three arms, R = (6, 3, 0)", "the same, summed over the three logits"),
    )
    for axes, (estimator, end, marks, title, y) in zip(figure.subplots(1, 2), bandits, strict=True):
        grid = torch.linspace(-1, end, 61, dtype=torch.float64).tolist()
        axes.plot(grid, [variance(estimator._replace(loss=less(b))) for b in grid], color=BLUE, linewidth=2)
        for b, label, marker in zip(marks, ("none, b =", "b = J =", "best, b ="), "so^", strict=True):
            v = variance(estimator._replace(loss=less(b)))
            axes.plot(b, v, marker, color=RED, label=f"{label} {b:.4g}: {v:.4g}")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set(title=title, xlabel="baseline b, in reward units", ylabel=y)
        axes.legend(loc="upper center", frameon=False)


def pathwise(figure: Figure) -> None:
    """Variance over the width σ of the policy, R = −(a−3)², μ = 1: score function against pathwise."""
    axes = figure.add_subplot(xscale="log", yscale="log", xlim=(0.03, 3), ylim=(2e-3, 4e4))
    axes.set(xlabel="σ, the policy's width", ylabel="variance of one sample's gradient (its mean is 4)")
    sigmas = torch.logspace(math.log10(0.03), math.log10(3), 25, dtype=torch.float64).tolist()
    curves = zip(*([variance(estimator) for estimator in t7(sigma)] for sigma in sigmas), strict=True)
    for i, (values, color) in enumerate(zip(curves, (RED, ORANGE, GREEN, BLUE), strict=True)):
        axes.plot(sigmas, values, color=color, linewidth=2, label=t7(1.0)[i].label)
        for sigma in (0.1, 1.0):
            (v,) = t7(sigma)[i].variance
            offset = 5, 6 if i < 2 else -14
            axes.annotate(f"{v:.6g}", (sigma, v), offset, textcoords="offset points", color=color)
    axes.vlines((0.1, 1.0), *axes.get_ylim(), color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title("T7, R = −(a − 3)², μ = 1: the narrower the policy, the noisier its score; pathwise goes quiet")
    axes.legend(loc="upper right", frameon=False)


def variance(estimator: Estimator) -> float:
    return mean_and_variance(estimator)[1].sum().item()


if __name__ == "__main__":
    main()
