"""Draw docs/images/toy-log.png, toy-baseline.png and toy-pathwise.png: three pictures of the examples of pong toy."""

import math
from functools import partial
from typing import Any

import torch
from common import BLUE, GREEN, GREY, ORANGE, RED, ROOT
from matplotlib.figure import Figure

from pong.toy.examples import T1, T1_WITHOUT_LOG, T2, less, t7
from pong.toy.gradients import Estimator, estimates, finite_difference, mean_and_variance, objective

SAMPLES = 1000  # batches behind each dot of the first picture


def main() -> None:
    for draw in (log, baseline, pathwise):
        figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
        draw(figure)
        figure.savefig(ROOT / f"docs/images/toy-{draw.__name__}.png")


def log(figure: Any) -> None:
    """T1's bandit over p: the slope of J, and what the loss estimates with and without the log."""
    axes = _axes(figure.add_subplot(), "P(a=1), the chance of the worse arm", "gradient with respect to the logit θ")
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
    axes.set(xlim=(0, 1), ylim=(-0.3, 0.16))
    axes.set_title(f"Leaving out the log flips the sign (dots: means of {SAMPLES} samples ± one standard error)")
    axes.legend(loc="upper left", frameon=False)


def baseline(figure: Any) -> None:
    """Variance of the estimate over the baseline b, for the bandits of T1 and T2."""
    figure.suptitle("A constant baseline b moves the variance, never the mean; J is a good one, not the best")
    bandits = (
        (T1, 4, (0, 1.2, 1.8), "two arms, R = (1, 2)", "variance of one sample's gradient"),
        (T2, 7, (0, 2, 32 / 11), "three arms, R = (6, 3, 0)", "the same, summed over the three logits"),
    )
    for axes, (estimator, end, marks, title, y) in zip(figure.subplots(1, 2), bandits, strict=True):
        grid = torch.linspace(-1, end, 61, dtype=torch.float64).tolist()
        curve = [_variance(estimator._replace(loss=less(b))) for b in grid]
        _axes(axes, "baseline b, in reward units", y).plot(grid, curve, color=BLUE, linewidth=2)
        for b, label, marker in zip(marks, ("none, b =", "b = J =", "best, b ="), "so^", strict=True):
            variance = _variance(estimator._replace(loss=less(b)))
            axes.plot(b, variance, marker, color=RED, label=f"{label} {b:.4g}: {variance:.4g}")
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_title(title)
        axes.legend(loc="upper center", frameon=False)


def pathwise(figure: Any) -> None:
    """Variance over the width σ of the policy, R = −(a−3)², μ = 1: score function against pathwise."""
    axes = _axes(figure.add_subplot(), "σ, the policy's width", "variance of one sample's gradient (its mean is 4)")
    axes.set(xscale="log", yscale="log", xlim=(0.03, 3), ylim=(2e-3, 4e4))
    sigmas = torch.logspace(math.log10(0.03), math.log10(3), 25, dtype=torch.float64).tolist()
    curves = zip(*([_variance(estimator) for estimator in t7(sigma)] for sigma in sigmas), strict=True)
    for i, (curve, color) in enumerate(zip(curves, (RED, ORANGE, GREEN, BLUE), strict=True)):
        axes.plot(sigmas, curve, color=color, linewidth=2, label=t7(1.0)[i].label)
        for sigma in (0.1, 1.0):
            (variance,) = t7(sigma)[i].variance
            offset = 5, 6 if i < 2 else -14
            axes.annotate(f"{variance:.6g}", (sigma, variance), offset, textcoords="offset points", color=color)
    axes.vlines((0.1, 1.0), *axes.get_ylim(), color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title("T7, R = −(a − 3)², μ = 1: the narrower the policy, the noisier its score; pathwise goes quiet")
    axes.legend(loc="upper right", frameon=False)


def _axes(axes: Any, x: str, y: str) -> Any:
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _variance(estimator: Estimator) -> float:
    return mean_and_variance(estimator)[1].sum().item()


if __name__ == "__main__":
    main()
