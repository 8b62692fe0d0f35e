"""Draw the learning curves of finished runs, and write the two tables of them.

    python scripts/plot.py results/pong-s* --name pong

writes results/pong.png and results/pong.md from each run's metrics.csv, config.toml, run.json and eval.json.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import command_line
import matplotlib.pyplot as plt
import numpy as np
import tyro
from numpy.typing import NDArray

from pong.config import PONG, Config, load_config
from pong.export import WAYS

THRESHOLDS = (0.0, 7.0, 10.0, 18.0)  # of a Pong score
AXES = (("step", 1e6, "agent steps, millions"), ("games", 1e3, "games, thousands"), ("minutes", 1, "minutes"))
Floats = NDArray[np.float64]
Said = Callable[[float], str]
MEAN100 = "charts/episodic_return_mean100"
ENTROPY = "losses/entropy"


@dataclass
class Run:
    """A run folder, read."""

    config: Config
    rows: list[dict[str, float]]
    hardware: str
    evaluations: dict[str, dict[str, dict[str, Any]]]  # by task, and by "sampled" and "greedy" play

    @property
    def own(self) -> dict[str, dict[str, Any]]:
        """The evaluations on the task that it was trained on."""
        return self.evaluations["" if self.config.env != PONG else "sticky" if self.config.sticky else "plain"]

    def column(self, key: str) -> list[float]:
        return [row[key] for row in self.rows]

    def reached(self, score: float) -> dict[str, float] | None:
        """The first row whose mean of 100 games is at least ``score``."""
        return next((row for row in self.rows if row[MEAN100] >= score), None)

    def mean(self, key: str, first: float, last: float) -> float:
        """Over the rows between two numbers of steps."""
        return float(np.mean([row[key] for row in self.rows if first <= row["step"] <= last]))


def read(folder: Path) -> Run:
    config = load_config(folder / "config.toml")
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    cores = about["cpu_count"]
    hardware = f"{cores} CPU core{'s' * (cores > 1)}" + ("" if about["device"] == "cpu" else f", {about['device']}")
    evaluations = {}
    for path in sorted(folder.glob("eval*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        task = "" if found["env"] != PONG else "sticky" if found["sticky"] else "plain"
        evaluations[task] = {way: found[way] for way in WAYS if way in found}
    return Run(config, rows, hardware, evaluations)


def tables(runs: list[Run], thresholds: Sequence[float] = THRESHOLDS, *, entropy: bool = False) -> str:
    shown = [learning(runs, thresholds), scores(runs), *([openness(runs)] if entropy else [])]
    return "\n".join(shown)


def by_recipe(runs: list[Run]) -> dict[str, list[Run]]:
    """Each recipe's runs, both in the order in which they are given."""
    recipes: dict[str, list[Run]] = {}
    for run in runs:
        recipes.setdefault(run.config.name, []).append(run)
    return recipes


def learning(runs: list[Run], thresholds: Sequence[float] = THRESHOLDS) -> str:
    """One Markdown row a run: how it learned."""
    columns = [
        *("recipe", "seed", "hardware", "updates", "games", "agent steps", "time"),
        *(f"mean100 ≥ {score:+g}" if score else "mean100 ≥ 0" for score in thresholds),
        "last mean100",
    ]
    rows = []
    for run in runs:
        last = run.rows[-1]
        reached = (run.reached(score) for score in thresholds)
        rows.append(
            [
                *(run.config.name, f"{run.config.seed}", run.hardware),
                *(f"{last['update']:.0f}", f"{last['games']:,.0f}", millions(last), duration(last["minutes"])),
                *(f"{millions(row)}, {duration(row['minutes'])}" if row else "–" for row in reached),
                signed(last[MEAN100]),
            ]
        )
    return markdown(columns, rows)


def scores(runs: list[Run]) -> str:
    """One Markdown row a run: fresh games with its last weights, mean ± standard error."""
    tasks = sorted({task for run in runs for task in run.evaluations}, reverse=True)
    ways = [(task, way) for task in tasks for way in WAYS if any(way in run.evaluations.get(task, {}) for run in runs)]
    columns = ["recipe", "seed", "agent steps", *(", ".join(filter(None, way)) for way in ways)]
    rows = [
        [
            *(run.config.name, f"{run.config.seed}", millions(run.rows[-1])),
            *(fresh(run.evaluations.get(task, {}).get(way)) for task, way in ways),
        ]
        for run in runs
    ]
    return markdown(columns, rows)


def openness(runs: list[Run]) -> str:
    """One Markdown row a run: how open the policy stays, and what makes it so."""
    columns = [
        *("recipe", "seed", "sticky", "units", "learning rate", "entropy bonus"),
        *("entropy after 1 M steps, nats", "at its end", "of the returns' variance its baseline foretells"),
    ]
    rows = []
    for run in runs:
        config, end = run.config, run.rows[-1]["step"]
        ends = ((config.learning_rate, config.learning_rate_end), (config.entropy_bonus, config.entropy_bonus_end))
        rows.append(
            [
                *(config.name, f"{config.seed}", f"{config.sticky:g}", f"{config.hidden}"),
                *(f"{first:g}" if last is None else f"{first:g} to {last:g}" for first, last in ends),
                f"{run.mean(ENTROPY, 0.9e6, 1.1e6):.2f}",
                f"{run.mean(ENTROPY, end - 0.1e6, end):.2f}",
                f"{run.mean('losses/explained_variance', end - 1e6, end):.2f}",
            ]
        )
    return markdown(columns, rows)


def markdown(columns: Sequence[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, ["---"] * len(columns), *rows))


def fresh(games: dict[str, Any] | None) -> str:
    """Scores of fresh games, and how long they took where that is told, for a cell of the table."""
    if games is None:
        return "–"
    frames = f", {np.mean(games['frames']):,.0f} frames" if "frames" in games else ""
    return f"{signed(games['mean'])} ± {games['standard_error']:.1f} (n = {games['n']}{frames})"


def signed(score: float) -> str:
    return f"{round(score, 1) + 0.0:+.1f}".replace("-", "−")  # 0 has no minus


def whole(score: float) -> str:
    return f"{score:+g}".replace("-", "−") if score else "0"


def millions(row: dict[str, float]) -> str:
    return f"{row['step'] / 1e6:.2f} M"


def duration(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.1f} min"


def draw(runs: list[Run], path: Path, thresholds: Sequence[float] = THRESHOLDS) -> None:
    """Mean of 100 games over agent steps, games and minutes: a thin line for each seed, and a band for its recipe.

    The band is where the mean over the seeds lies in 95 % of bootstrap samples of them; a CSV file beside the
    picture has it. Of two runs with one seed the longer counts.
    """
    figure, axes = plt.subplots(1, len(AXES), figsize=(13, 4.2), sharey=True, layout="constrained")
    bands: list[dict[str, float | str]] = []
    for axis, (key, scale, label) in zip(axes, AXES, strict=True):
        for number, (recipe, seeds) in enumerate(by_recipe(runs).items()):
            for run in seeds:
                x = np.array(run.column(key)) / scale
                axis.plot(x, run.column(MEAN100), color=f"C{number}", linewidth=0.9, alpha=0.8)
            longest = {run.config.seed: run for run in sorted(seeds, key=lambda run: len(run.rows))}
            x, low, mean, high = band(list(longest.values()), key)
            axis.fill_between(x / scale, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
            axis.plot(
                [],
                [],
                color=f"C{number}",
                label=f"{recipe} ({len(longest)} seed{'s' * (len(longest) > 1)})",
            )
            rows = zip(x, low, mean, high, strict=True)
            bands += [{"recipe": recipe, "axis": key, "at": p, "low": q, "mean": r, "high": s} for p, q, r, s in rows]
        for score in thresholds:
            axis.axhline(score, color="grey", linewidth=0.6, linestyle=":")
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("score, mean of the last 100 games")
    axes[0].legend(frameon=False)
    hardware = " / ".join(sorted({run.hardware for run in runs}))
    games = ", ".join(dict.fromkeys(run.config.env for run in runs))
    figure.suptitle(
        f"{games}: policy gradient on −log π·R ({hardware}); a line for each seed, bootstrap 95 % of their mean",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("recipe", "axis", "at", "low", "mean", "high"))
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in bands)


def draw_entropy(runs: list[Run], path: Path, rows: int = 15) -> None:
    """Score over the policy's entropy, its mean of some rows: up is better play, to the right its entropy collapses."""
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for number, (recipe, seeds) in enumerate(by_recipe(runs).items()):
        for run in seeds:
            entropy = np.convolve(run.column(ENTROPY), np.full(rows, 1 / rows), "valid")
            axis.plot(entropy, run.column(MEAN100)[rows - 1 :], color=f"C{number}", linewidth=0.9)
            axis.plot(entropy[-1], run.rows[-1][MEAN100], "o", color=f"C{number}")
        axis.plot([], [], color=f"C{number}", label=recipe)
    axis.invert_xaxis()
    axis.set_xlabel("the policy's entropy, nats; to the right it collapses")
    axis.set_ylabel("score, mean of the last 100 games")
    axis.grid(alpha=0.2)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def band(runs: list[Run], key: str, points: int = 200) -> tuple[Floats, Floats, Floats, Floats]:
    """Where on the axis at least two seeds have a score: their mean, and 95 % of the bootstrap's means."""
    longest = max(run.column(key)[-1] for run in runs)
    x = np.linspace(0, longest, points)
    scores = np.stack([np.interp(x, run.column(key), run.column(MEAN100), np.nan, np.nan) for run in runs])
    x, scores = x[(n := np.isfinite(scores).sum(axis=0)) >= 2], scores[:, n >= 2]
    random = np.random.default_rng(0)
    means = []
    for column in scores.T:
        known = column[np.isfinite(column)]
        means.append(random.choice(known, (1000, len(known))).mean(axis=1))
    low, high = np.quantile(np.reshape(means, (-1, 1000)), (0.025, 0.975), axis=1)
    return x, low, np.nanmean(scores, axis=0) if len(x) else x, high


def main(
    folders: tyro.conf.Positional[list[Path]],
    *,
    name: Annotated[str, tyro.conf.arg(help="of the files")],
    thresholds: tuple[float, ...] = THRESHOLDS,
    entropy: bool = False,
) -> None:
    """Draw finished runs and tabulate them.

    Args:
        folders: run folders.
        name: writes results/NAME.png and results/NAME.md.
        thresholds: scores to mark.
        entropy: a table and a picture, NAME-entropy.png, of how open each policy stays, too.
    """
    runs = [read(folder) for folder in folders]
    draw(runs, Path("results") / f"{name}.png", thresholds)
    if entropy:
        draw_entropy(runs, Path("results") / f"{name}-entropy.png")
    text = tables(runs, thresholds, entropy=entropy)
    (Path("results") / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    command_line.run(main)
