"""Three pictures of the examples: the log, the baseline, and the score function against the pathwise estimator.

Every curve is made of exact numbers, those of ``pong.toy.gradients``; only the dots with bars are drawn at random.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pong.config import InputError
from pong.losses import surrogate_loss
from pong.toy.examples.bandits import BANDIT, BANDIT_WAY, BANDIT_WITHOUT_LOG, REWARDS, SOFTMAX, SOFTMAX_MEAN
from pong.toy.examples.baselines import constant
from pong.toy.examples.pathwise import aim, ways
from pong.toy.gradients import estimates, exact, finite_difference, mean_and_variance, sampled
from pong.toy.systems import System, Way

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREEN, ORANGE, GREY = "#1f5fa8", "#c0392b", "#1e8449", "#b9770e", "#666666"
Span = tuple[float, float]
SAMPLES = 1000  # batches behind each dot of the first picture
SIZE, DPI = (10.0, 6.0), 100  # inches and pixels per inch: 1000×600


def write(folder: Path | str) -> list[Path]:
    """Write the pictures as PNG files of 1000×600 pixels.

    Args:
        folder: where to; made if it does not exist.

    Returns:
        The files.

    Raises:
        InputError: matplotlib is not installed, or the folder can't be written.
    """
    folder, paths = Path(folder), []
    try:
        figures = [_figure() for _ in PICTURES]
        folder.mkdir(parents=True, exist_ok=True)
        for figure, (name, draw) in zip(figures, PICTURES.items(), strict=True):
            draw(figure)
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1])
    except OSError as error:
        raise InputError(f"toy: --plot {folder}: {error.strerror}; name a folder that can be written") from error
    return paths


def draw_log(figure: Figure) -> None:
    """T1's bandit over p: the slope of J, and what the loss estimates with and without the log."""
    axes = _axes(figure, "P(a=1), the chance of the worse arm", "gradient with respect to the logit θ")
    p = torch.linspace(0.005, 0.995, 100, dtype=torch.float64)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvspan(2 / 3, 1, color=RED, alpha=0.08, linewidth=0)
    axes.plot(p, _over_logits(p, _slope), color=GREY, linewidth=5, alpha=0.5)
    axes.plot(p, _over_logits(p, _mean_of(BANDIT_WAY)), color=BLUE, linewidth=1.5)
    axes.plot(p, _over_logits(p, _mean_of(BANDIT_WITHOUT_LOG)), color=RED, linewidth=1.5)
    for way, color in ((BANDIT_WAY, BLUE), (BANDIT_WITHOUT_LOG, RED)):
        _dots(axes, way, color)
    axes.text(0.5, -0.34, "with the log, −log π·R:\non the true slope of J (grey)", color=BLUE, ha="center")
    axes.text(0.4, -0.11, "without the log, −π·R", color=RED, ha="center")
    axes.text(0.833, 0.115, "here it climbs\ntowards the worse arm", color=RED, ha="center")
    axes.text(0.815, 0.03, "T1, p = .8: +.064", color=RED)
    axes.text(0.82, -0.2, "T1, p = .8: −.16", color=BLUE)
    axes.set(xlim=(0, 1), ylim=(-0.36, 0.16))
    axes.set_title(f"Leaving out the log flips the sign (dots: means of {SAMPLES} samples ± one standard error)")


def draw_baseline(figure: Figure) -> None:
    """Variance of the estimate over the baseline b, for the bandits of T1 and T2."""
    left, right = figure.subplots(1, 2)
    _variance(left, lambda b: _spread(BANDIT, constant("", b, 0.0)), (-1.0, 4.0), (0.0, 1.2, 1.8))
    _variance(right, lambda b: _spread(SOFTMAX, _softmax_less(b)), (-1.0, 7.0), (0.0, 2.0, 32 / 11))
    left.set_title("two arms, R = (1, 2)")
    right.set_title("three arms, R = (6, 3, 0)")
    left.set_ylabel("variance of one sample's gradient")
    right.set_ylabel("the same, summed over the three logits")
    figure.suptitle("A constant baseline b moves the variance, never the mean; J is a good one, not the best")


def draw_pathwise(figure: Figure) -> None:
    """Variance over the width σ of the policy, R = −(a−3)², μ = 1: score function against pathwise."""
    axes = _axes(figure, "σ, the width of the policy", "variance of one sample's gradient (its mean is 4)")
    sigmas = torch.logspace(math.log10(0.03), math.log10(3), 25, dtype=torch.float64)
    curves = torch.tensor([[_spread(aim(s), way) for way in ways(s)] for s in sigmas.tolist()])  # (25, 4)
    for curve, color in zip(curves.T, (RED, ORANGE, GREEN, BLUE), strict=True):
        axes.plot(sigmas, curve, color=color, linewidth=2)
    axes.set(xscale="log", yscale="log", xlim=(0.03, 3), ylim=(2e-3, 4e4))
    axes.text(0.05, 1e4, "score function", color=RED)
    axes.text(0.036, 43, "score function, b = J", color=ORANGE)
    axes.text(0.036, 17, "score function, best b", color=GREEN)
    axes.text(0.036, 0.015, "pathwise", color=BLUE)
    for sigma in (0.1, 1.0):
        axes.axvline(sigma, color=GREY, linewidth=0.8, linestyle=":")
        for way, color, offset in zip(ways(sigma), (RED, ORANGE, GREEN, BLUE), (6, 6, -14, -14), strict=True):
            at = sigma, way.variance[0]
            axes.annotate(f"{at[1]:.6g}", at, (5, offset), textcoords="offset points", color=color)
    axes.set_title("T7, R = −(a − 3)², μ = 1: the narrower the policy, the noisier its score; pathwise goes quiet")


PICTURES: dict[str, Callable[[Figure], None]] = {
    "toy-log": draw_log,
    "toy-baseline": draw_baseline,
    "toy-pathwise": draw_pathwise,
}


def _figure() -> Figure:
    try:
        with _without_backend():
            from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("toy: --plot needs matplotlib; install it with: pip install matplotlib") from error
    return Figure(figsize=SIZE, dpi=DPI, layout="constrained")


@contextlib.contextmanager
def _without_backend() -> Iterator[None]:
    """What shows pictures plays no part here, and need not be installed, as Jupyter's is not in another environment."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def _axes(figure: Figure, x: str, y: str) -> Axes:
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _over_logits(p: Tensor, number: Callable[[Tensor], float]) -> list[float]:
    return [number(theta[None]) for theta in p.logit()]


def _slope(theta: Tensor) -> float:
    return finite_difference(BANDIT.objective, theta).item()


def _mean_of(way: Way) -> Callable[[Tensor], float]:
    return lambda theta: mean_and_variance(*estimates(BANDIT, theta, way))[0].item()


def _dots(axes: Axes, way: Way, color: str) -> None:
    p = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    draws = torch.stack([sampled(BANDIT, theta[None], way, SAMPLES, 100 + i) for i, theta in enumerate(p.logit())])
    mean, error = draws.mean(dim=1)[:, 0], draws.std(dim=1)[:, 0] / math.sqrt(SAMPLES)  # (9,)
    axes.errorbar(p, mean, error, fmt="o", color=color, markersize=4, linewidth=1)


def _spread(system: System, way: Way) -> float:
    return exact(system, way)[1].sum().item()


def _softmax_less(b: float) -> Way:
    return Way("", surrogate_loss, SOFTMAX_MEAN, returns=lambda action: REWARDS[action] - b)


def _variance(axes: Axes, variance: Callable[[float], float], span: Span, marks: tuple[float, float, float]) -> None:
    grid = torch.linspace(*span, 61, dtype=torch.float64).tolist()
    axes.plot(grid, [variance(b) for b in grid], color=BLUE, linewidth=2)
    places = (("none, b = 0", "left", (8, 4)), ("b = J =", "right", (-8, -9)), ("best, b =", "center", (0, -16)))
    for b, (name, side, offset) in zip(marks, places, strict=True):
        axes.plot([b], [variance(b)], "o", color=RED)
        text = f"{name}{f' {b:.4g}' if b else ''}: {variance(b):.4g}"
        axes.annotate(text, (b, variance(b)), offset, textcoords="offset points", color=RED, ha=side)
    axes.set(xlabel="baseline b, in reward units", ylim=(-0.07 * max(map(variance, span)), None))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
