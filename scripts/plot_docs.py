"""Draw docs/images/: how a pixel becomes a gradient, how the compiled Pong bounces, and three examples of pong toy."""

import itertools
import math
from collections.abc import Sequence
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

PLAYERS, OPPONENTS = "#5cba5c", "#d59a5c"  # paddles, much as on the screen
LINE = 120  # of the ball at each hit, far from the walls
OFFSETS = range(-20, 21)  # y − p: lines from a paddle's line to the ball's; no paddle reaches that far
FLAT, STEEP = 10, 14  # offsets of the second picture's two hits
SAMPLES = 1000  # batches behind each dot of the picture toy-log


def main() -> None:
    draw("architecture", architecture, (13, 6.2), layout=None)
    for name, picture in (("pong-bounce", bounce), ("pong-opponent", opponent)):
        path = draw(name, picture, (8.0, 4.4))
        Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    for picture in (log, baseline, pathwise):
        draw(f"toy-{picture.__name__}", picture, (10, 6))


def draw(name: str, picture: Any, size: tuple[float, float], layout: Any = "constrained") -> Any:
    """Draw a picture, whose curves have no frame, and save it; returns its path."""
    figure, path = Figure(figsize=size, dpi=100, layout=layout), ROOT / f"docs/images/{name}.png"
    picture(figure)
    for axes in figure.axes:
        if not axes.images:
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path


def architecture(figure: Figure) -> None:
    """A decision in the top row; in the bottom row, from right to left, what is learned from its rally."""
    policy, checkpoint = load_policy(ROOT / "pretrained/pong")
    game = play_frames(policy, checkpoint.config, seed=1)
    by_score = [list(frames) for _, frames in itertools.groupby(game, key=lambda frame: frame.score)]
    rally = [*by_score[1], by_score[2][0]]  # the second, because the first begins with an empty frame
    space = {"left": 0.02, "right": 0.99, "top": 0.9, "bottom": 0.05, "wspace": 0.3, "hspace": 0.4}
    top, bottom = figure.subplots(2, 5, gridspec_kw=space)
    draw_acting(top, policy, min(rally[:-1], key=lambda frame: abs(frame.probs[0] - 0.4)))  # few are so unsure
    draw_learning(bottom[::-1], policy, checkpoint.config.gamma, rally)
    corner = top[4].get_position()
    arrows = [((corner.x1 + 0.004, corner.y0), (corner.x1 + 0.004, corner.y0 - 0.12))]
    for row, direction in ((top, 1), (bottom, -1)):
        for left, right in itertools.pairwise([axes.get_position() for axes in row]):
            arrows.append(((left.x1, left.y0 - 0.03), (right.x0, left.y0 - 0.03))[::direction])
    for start, end in arrows:
        arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=18, color="black", linewidth=1.5)
        figure.add_artist(arrow)


def draw_acting(axes: Sequence[Axes], policy: Any, frame: RenderedFrame) -> None:
    """From the screen to the action."""
    x = torch.from_numpy(frame.observation.reshape(1, PIXELS)).float()
    hidden = torch.relu(x @ policy.W1)[0].detach()
    panel(axes[0], "screen (210, 160, 3)", "envs/", frame.screen)
    panel(axes[1], "frame (80, 80) in {0, 1}", "observations.py", preprocess(frame.screen))
    panel(axes[2], "minus the previous: (6400,)", "observations.py", frame.observation[0], limit=1)
    panel(axes[3], "hidden units (200,)", "policies.py", hidden, BLUE)
    colors = [ORANGE if action == frame.action else GREY for action in range(len(frame.action_names))]
    axes[4].bar(frame.action_names, frame.probs, color=colors)
    axes[4].set_ylim(0, 1)
    panel(axes[4], "π(a|s) and the action", "policies.py")
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
    panel(axes[0], "rewards (T,), by time step", "envs/", rewards, GREEN)
    panel(axes[1], "R (T,): discounted, standardised", "returns.py", advantages, GREEN)
    panel(axes[2], "log π(a|s) (T,), nats", "policies.py", log_probs.detach(), BLUE)
    axes[3].text(0.5, 0.6, "−Σ log π · R", ha="center", fontsize=22, color=RED)
    axes[3].text(0.5, 0.35, f"= {loss.item():.2f}", ha="center", fontsize=15, color=RED)
    axes[3].axis("off")
    panel(axes[3], "surrogate loss ()", "losses.py")
    panel(axes[4], "gradient of one unit's W1", "backward()", gradient, limit=gradient.abs().max().item())


def panel(axes: Axes, text: str, module: str, values: Any = None, color: str = "", limit: Any = None) -> None:
    """A curve if there is a colour; or an image, with grey for 0 black and white for ± the ``limit``; and a title."""
    if color:
        axes.plot(values, color=color, linewidth=1.2)
    elif values is not None:
        axes.imshow(values, "gray", vmin=limit and -limit, vmax=limit, interpolation="nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
    axes.set_title(f"{text}\n", fontsize=11)
    axes.tick_params(labelsize=8)
    axes.text(0.5, 1.03, module, transform=axes.transAxes, ha="center", fontsize=10, color=GREY, family="monospace")


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
    """From the player's hit to the opponent's paddle: the ball's column and line and the opponent's line, (3, T)."""
    places, arrival = [(game.x, game.y, game.cpu_y)], meeting(machine.OPPONENT, 0).x
    while game.x > arrival:
        machine.frame(game, NOOP)
        places.append((game.x, game.y, game.cpu_y))
    return np.array(places).T


def rate(down: int) -> str:
    return f"{abs(down)} line{'s' * (abs(down) != 1)} a frame{('', ' down', ' up')[np.sign(down)]}"


def bounce(figure: Figure, columns: int = 16) -> None:
    """The ball's paths from the player's paddle, one for each offset."""
    axes, offsets = figure.add_subplot(), reach(machine.PLAYER)
    for down, color in zip(range(-2, 3), (RED, ORANGE, GREY, GREEN, BLUE), strict=True):
        same = [offset for offset in offsets if machine.bounce(0, offset) == down]
        for offset in same:
            x, y, _ = flight(meeting(machine.PLAYER, offset))[:, : columns + 1]
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
        _, ball, paddle = flight(game)
        frames = np.arange(len(ball))
        band = axes.fill_between(frames, paddle + low, paddle + high, color=OPPONENTS, alpha=0.5, linewidth=0)
        (line,) = axes.plot(frames, ball, color=BLUE)
        beyond = max(paddle[-1] + low - ball[-1], ball[-1] - paddle[-1] - high)
        text = f"{rate(machine.bounce(0, offset))}: " + (f"missed by {beyond} lines" if beyond > 0 else "returned")
        axes.set(title=text, xlabel="frames after the player's hit", ylim=(212, 40))
    panels[0].set_ylabel("line")
    panels[0].legend((line, band), ("the ball", "what the opponent's paddle reaches"), frameon=False, loc="upper left")


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
