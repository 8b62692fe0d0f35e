"""Tables and pictures of the runs in results/, and the pages that show them.

    python scripts/report.py

writes Markdown and CSV tables and PNG pictures into results/, and copies each table into README.md and docs/, between
the lines <!-- results/FILE --> and <!-- end -->.
"""

import itertools
import json
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import grid
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from common import WAYS, markdown
from grid import OWN, RESULTS, Study

from pong.config import PONG, Config, load_config
from pong.envs.lqr import optimal_gain

MEAN100 = "charts/episodic_return_mean100"
AXES = (("step", 1e6, "agent steps, millions"), ("games", 1e3, "games, thousands"), ("minutes", 1, "minutes"))
RECIPES = {  # of README's table: what it is, the scores whose first update counts, and the column that counts
    "pong": ("2016's network; with sticky actions", (0, 10), "minutes"),
    "pong_plain": ("the same without sticky actions, NOOP starts", (0, 20), "minutes"),
    "pong_conv_plain": ("a small ConvNet, without sticky actions", (18, 20.5), "minutes"),
    "pong_expert": ("six actions, twice the input; with sticky actions", (10, 19), "minutes"),
    "karpathy": ("the 2016 program, constant for constant", (-10, 0), "games"),
}
CURVES = {  # pictures: study and variants (none: all) whose curves they show, and the scores that they mark
    "learning.png": ({"recipes": ("pong", "pong_plain")}, (0, 10, 18, 20)),
    "expert.png": ({"recipes": ("pong_expert",), "far": ()}, (10, 15, 18, 19)),
    "karpathy.png": ({"recipes": ("karpathy",)}, (-15, -10, -5, 0)),
    "classroom/cartpole.png": ({"classroom": ("cartpole", "cartpole_yoon", "cartpole_simonini")}, (195, 475)),
    "classroom/lqr.png": ({"classroom": ("lqr",)}, ()),
    "doom/basic.png": ({"doom": ("doom_basic",)}, (0, 70)),
    "doom/health.png": ({"doom": ("doom_health",)}, (800, 1500)),
}
TABULATED = ("classroom/cartpole.png", "doom/basic.png", "doom/health.png")  # CURVES with tables of the same name
SPECIAL = {"recipes", "classroom", "doom", "ladder", "far"}  # studies that draw_study does not draw
BALLS = ("the first", "the second", "the third", "a later one")
WIDTH = 5  # panels beside each other
Format = Callable[[float], str]
Scores = dict[str, dict[str, Any]]  # of fresh games, by WAYS


@dataclass(frozen=True)
class Run:
    """A finished run: a folder in results/."""

    config: Config
    curve: pd.DataFrame  # the rows of its metrics.csv
    hardware: str
    own: Scores  # in the game that it was trained in
    versions: dict[str, Scores]  # and in every version of it that it played: "sticky", "plain"; "" if not Pong

    @property
    def last(self) -> "pd.Series[float]":
        """The last row of its curve."""
        return self.curve.iloc[-1]

    def reached(self, score: float) -> "pd.Series[float] | None":
        """The first row whose mean of 100 games is at least ``score``."""
        rows = self.curve[self.curve[MEAN100] >= score]
        return None if rows.empty else rows.iloc[0]


Runs = dict[str, list[Run]]  # by variant


def main() -> None:
    """Write every table and picture of what is there."""
    studies = {name: grid.load(name) for name in grid.known()}
    runs = {name: finished(study) for name, study in studies.items()}
    for file, text in tables(studies, runs).items():
        (RESULTS / file).write_text(text, encoding="utf-8")
    draw(studies, runs)
    for page in (Path("README.md"), *sorted(Path("docs").glob("*.md"))):
        update_page(page)


def read(folder: Path) -> Run:
    """Read a run's files."""
    config = load_config(folder / "config.toml")
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    cores, device = metadata["cpu_count"], metadata["device"]
    hardware = f"{cores} CPU core{'s' * (cores > 1)}" + ("" if device == "cpu" else f", {device}")
    own, versions = {}, {}
    for path in sorted(folder.glob("eval*.json")):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        scores = {way: evaluation[way] for way in WAYS if way in evaluation}
        versions["" if evaluation["env"] != PONG else "sticky" if evaluation["sticky"] else "plain"] = scores
        own = scores if path.name == OWN else own
    return Run(config, pd.read_csv(folder / "metrics.csv"), hardware, own, versions)


def finished(study: Study) -> Runs:
    """A study's complete runs, of each variant that has any."""
    last = OWN if study.episodes else "run.json"
    runs = {}
    for variant in study.variants:
        folders = [RESULTS / study.place(variant, seed) for seed in study.seeds_of(variant)]
        runs[variant] = [read(folder) for folder in folders if (folder / last).exists()]
    return {variant: some for variant, some in runs.items() if some}


def update_page(page: Path) -> None:
    """Put each table between the comments that name its file."""
    text = page.read_text(encoding="utf-8")

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{(RESULTS / match[2]).read_text(encoding='utf-8')}{match[3]}"

    page.write_text(re.sub(r"(<!-- results/(\S+) -->\n).*?(<!-- end -->)", table, text, flags=re.S), encoding="utf-8")


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(studies: dict[str, Study], runs: dict[str, Runs]) -> dict[str, str]:
    """Every table, by its file in results/."""
    recipes = runs["recipes"]
    made = {
        "recipes.md": recipes_table(recipes),
        "seeds.md": seeds_tables([run for seeds in recipes.values() for run in seeds], (-15, -10, 0, 10, 18, 20)),
        "karpathy.md": games_table(recipes.get("karpathy", [])),
        "ladder/ladder.md": ladder_table(runs["ladder"]),
        "classroom/lqr.md": gains_table(studies["classroom"]),
        "ceiling/bound.md": bound_table(bound()),
        "ceiling/rallies.md": rallies_table(RESULTS / "ceiling/rallies.json"),
    }
    for file in TABULATED:
        variants, marks = CURVES[file]
        made[str(Path(file).with_suffix(".md"))] = seeds_tables(chosen(runs, variants), marks)
    for name in {*studies} - SPECIAL | {"far"}:
        made[f"{name}/scores.md"] = study_table(studies[name], runs[name])
    return {file: text for file, text in made.items() if text.strip()}


def chosen(runs: dict[str, Runs], variants: dict[str, tuple[str, ...]]) -> list[Run]:
    """The runs of some variants of some studies."""
    pairs = [(study, name) for study, names in variants.items() for name in names or runs[study]]
    return [run for study, name in pairs for run in runs[study].get(name, [])]


def recipes_table(runs: Runs) -> str:
    """A row for each recipe: medians over its seeds, and the range of all."""
    rows = []
    for name, seeds in runs.items():
        description, marks, key = RECIPES[name]
        form, unit = (duration, "") if key == "minutes" else (thousands, " games")
        first, second = (f"{whole(mark)}: {passed(seeds, mark, key, form)}{unit}" for mark in marks)
        sampled, greedy = (spread([run.own[way]["mean"] for run in seeds], signed) for way in WAYS)
        row = {"recipe": f"`{name}`", "what it is": description, "seeds": len(seeds)}
        row |= {"to a first score": first, "to a second": second, "in ALE, sampled": sampled, "greedy": greedy}
        rows.append(row)
    return markdown(rows)


def seeds_tables(runs: list[Run], marks: Sequence[float]) -> str:
    """Two tables with a row for each run: how it learned; and fresh games with its last weights."""
    versions = sorted({version for run in runs for version in run.versions}, reverse=True)
    kinds = [(version, way) for version in versions for way in WAYS]
    kinds = [(version, way) for version, way in kinds if any(way in run.versions.get(version, {}) for run in runs)]
    learning, scores = [], []
    for run in runs:
        last, row = run.last, {"recipe": run.config.name, "seed": run.config.seed}
        played = {", ".join(filter(None, kind)): run.versions.get(kind[0], {}).get(kind[1]) for kind in kinds}
        scores.append(
            {**row, "agent steps": millions(last)} | {kind: mean_and_error(games) for kind, games in played.items()}
        )
        row |= {"hardware": run.hardware, "updates": f"{last['update']:.0f}", "games": f"{last['games']:,.0f}"}
        row |= {"agent steps": millions(last), "time": duration(last["minutes"])}
        for mark in marks:
            first = run.reached(mark)
            text = "–" if first is None else f"{millions(first)}, {duration(first['minutes'])}"
            row[f"mean100 ≥ {mark:+g}" if mark else "mean100 ≥ 0"] = text
        learning.append({**row, "last mean100": signed(last[MEAN100])})
    return f"{markdown(learning)}\n{markdown(scores)}"


def games_table(runs: list[Run], marks: Sequence[float] = (-18, -15, -10, -5, 0)) -> str:
    """A row for each mark: after how many games each seed reached it, and the mean with 95 % of its bootstrap."""
    rows = []
    for mark in marks if runs else ():
        first = {f"seed {run.config.seed}": run.reached(mark) for run in runs}
        games = [row["games"] for row in first.values() if row is not None]
        low, high = interval(games) if games else (0.0, 0.0)
        mean = f"{statistics.mean(games):,.0f} [{low:,.0f}, {high:,.0f}]" if len(games) == len(runs) else "–"
        cells = {seed: "–" if row is None else f"{row['games']:,.0f}" for seed, row in first.items()}
        rows.append({"mean100 ≥": whole(mark), **cells, "mean [95 %]": mean})
    ends = {f"seed {run.config.seed}": f"{signed(run.last[MEAN100])} at {run.last['games']:,.0f}" for run in runs}
    return markdown([*rows, {"mean100 ≥": "last", **ends, "mean [95 %]": ""}]) if runs else ""


def ladder_table(runs: Runs) -> str:
    """A row for each rung: medians over its seeds, and the range of all."""
    rows = []
    for rung, seeds in runs.items():
        row = {"one change after the other": rung, "seeds": len(seeds)}
        for mark in (-15, -10, 0):
            row[f"M steps to {whole(mark)}"] = passed(seeds, mark, "step", lambda steps: f"{steps / 1e6:.1f}")
        row["time to 0, one core"] = passed(seeds, 0, "minutes", duration)
        rows.append(row | {"mean100 at the end": spread([run.last[MEAN100] for run in seeds], signed)})
    return markdown(rows)


def study_scores(runs: Runs) -> pd.DataFrame:
    """A row for each run: steps, time and scores."""
    rows = []
    for variant, seeds in runs.items():
        for run in seeds:
            first = run.reached(0)
            row = {"variant": variant, "seed": run.config.seed, "steps": int(run.last["step"])}
            row["minutes"] = round(float(run.last["minutes"]), 1)
            row["steps_to_0"] = None if first is None else int(first["step"])
            row |= {way: round(run.own[way]["mean"], 3) for way in WAYS}
            row |= {f"{way}_error": round(run.own[way]["standard_error"], 3) for way in WAYS}
            rows.append(row | {"games": run.own["sampled"]["n"]})
    return pd.DataFrame(rows).astype({"steps_to_0": "Int64"})


def study_table(study: Study, runs: Runs) -> str:
    """A row for each variant: the scores of all its seeds, and their mean with 95 % of its bootstrap."""
    rows = []
    for variant, scores in study_scores(runs).groupby("variant", sort=False) if runs else ():
        changes = ", ".join(f"{key} = {json.dumps(value)}" for key, value in study.variants[variant].items()) or "–"
        row = {"variant": variant, "changes": changes, "seeds": len(scores)}
        row["M steps"] = f"{scores.steps.iloc[0] / 1e6:.1f}"
        low, high = map(signed, interval(scores.sampled))
        row["sampled, each seed"] = " ".join(map(signed, scores.sampled))
        row["mean [95 %]"] = signed(np.mean(scores.sampled)) + (f" [{low}, {high}]" if len(scores) > 1 else "")
        row["greedy, each seed"] = " ".join(map(signed, scores.greedy))
        rows.append(row | {"mean": signed(np.mean(scores.greedy))})
    return markdown(rows)


def gains_table(study: Study) -> str:
    """The linear controllers beside the best one."""
    best = optimal_gain()
    rows = []
    for seed in study.seeds_of("lqr"):
        if (file := RESULTS / study.place("lqr", seed) / "weights.json").exists():
            weights = json.loads(file.read_text(encoding="utf-8"))
            w, b, log_std = (weights[name] for name in ("network.0.weight", "network.0.bias", "log_std"))
            row = {"seed": seed, "gain w": f"{w:.4f}", "off by": f"{100 * abs(w / best - 1):.1f} %"}
            rows.append(row | {"b": f"{b:+.4f}", "log σ": f"{log_std:.2f}"})
    first = {"seed": "Riccati", "gain w": f"{best:.4f}", "off by": "", "b": "0", "log σ": ""}
    return markdown([first, *rows]).replace("|  |", "| |") if rows else ""


def bound() -> list[dict[str, Any]]:
    """The players that know the exact game state: hold, number of actions, and scores by WAYS."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((RESULTS / "ceiling/bound").glob("*.json"))]


def bound_table(players: list[dict[str, Any]]) -> str:
    """A row for each player."""
    rows = []
    for player in players:
        row = {"frames a decision": player["hold"], "actions": player["actions"]}
        row |= {way: f"{player[way]['mean']:+.2f} ± {player[way]['standard_error']:.2f}" for way in WAYS}
        rows.append(row | {"games each": f"{player['sampled']['n']:,}"})
    return markdown(rows)


def rallies_table(file: Path) -> str:
    """A row for the first ball that comes to an agent in a rally, the second, …: what becomes of it.

    The file, by ``scripts/research/rallies.py``, has rallies won and lost by how often the agent returned the ball.
    """
    if not file.exists():
        return ""
    counts = json.loads(file.read_text(encoding="utf-8"))
    misses, wins = np.array(counts["lost"]), np.array([*counts["won"][1:], 0])  # by the returns before: none, one, …
    came = (misses + wins)[::-1].cumsum()[::-1]
    rows = []
    for number, ball in enumerate(BALLS):
        numbers = slice(number, None if ball == BALLS[-1] else number + 1)
        n, won, missed = (int(balls[numbers].sum()) for balls in (came, wins, misses))
        if n:
            row = {"ball of a rally": ball, f"in {counts['games']} games": f"{n:,}", "wins by it": f"{won / n:.1%}"}
            rows.append(row | {"misses it": f"{missed / n:.1%}", "it comes back": f"{(n - won - missed) / n:.1%}"})
    return markdown(rows)


# --- numbers in tables ------------------------------------------------------------------------------------------------


def signed(score: float) -> str:
    return f"{round(float(score), 1) + 0.0:+.1f}".replace("-", "−")  # 0 has no minus


def whole(score: float) -> str:
    return f"{score:+g}".replace("-", "−") if score else "0"


def millions(row: "pd.Series[float]") -> str:
    return f"{row['step'] / 1e6:.2f} M"


def duration(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.1f} min"


def thousands(games: float) -> str:
    return f"{games / 1e3:.1f} k"


def mean_and_error(games: dict[str, Any] | None) -> str:
    """Scores of fresh games, and how many frames a game took where that is known."""
    if games is None:
        return "–"
    frames = f", {np.mean(games['frames']):,.0f} frames" if "frames" in games else ""
    return f"{signed(games['mean'])} ± {games['standard_error']:.1f} (n = {games['n']}{frames})"


def spread(values: list[float], form: Format) -> str:
    """The median, and the range if there are several values."""
    middle = form(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form(min(values))} … {form(max(values))})"


def passed(runs: list[Run], mark: float, key: str, form: Format) -> str:
    """When the mean of 100 games reached a mark; a run that never did counts as the last in the median."""
    rows = [run.reached(mark) for run in runs]
    times = [math.inf if row is None else row[key] for row in rows]
    finite = [time for time in times if time < math.inf]
    if not finite:
        return "never"
    if len(finite) == len(runs):
        return spread(finite, form)
    middle = form(median) if (median := statistics.median(times)) < math.inf else "never"
    return f"{middle} ({form(min(finite))} … {form(max(finite))}; {len(runs) - len(finite)} of {len(runs)} never)"


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """The range of 95 % of the bootstrap's means."""
    means = np.random.default_rng(0).choice(scores, (10_000, len(scores))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw(studies: dict[str, Study], runs: dict[str, Runs]) -> None:
    """Every picture, and the numbers behind them as CSV."""
    for file, (variants, marks) in CURVES.items():
        if selected := chosen(runs, variants):
            draw_curves(selected, RESULTS / file, marks)
    if runs["ladder"]:
        draw_ladder(runs["ladder"], RESULTS / "ladder/ladder.png")
    for name in {*studies} - SPECIAL:
        if runs[name]:
            draw_study(runs[name], RESULTS / name)
    if players := bound():
        pixels = chosen(runs, {"recipes": ("pong", "pong_expert"), "far": ()})
        draw_bound(players, pixels, RESULTS / "ceiling/bound.png")


def draw_curves(runs: list[Run], path: Path, marks: Sequence[float]) -> None:
    """Mean of 100 games over agent steps, games and minutes: a thin line for each seed, and a band for its recipe.

    The band is the range of 95 % of the bootstrap's means; a CSV file beside the picture has it.
    """
    figure, axes = plt.subplots(1, len(AXES), figsize=(13, 4.2), sharey=True, layout="constrained")
    by_name: Runs = {}
    for run in runs:
        by_name.setdefault(run.config.name, []).append(run)
    bands = []
    for axis, (key, scale, label) in zip(axes, AXES, strict=True):
        for number, (name, seeds) in enumerate(by_name.items()):
            for run in seeds:
                axis.plot(run.curve[key] / scale, run.curve[MEAN100], color=f"C{number}", linewidth=0.9, alpha=0.8)
            band = bootstrap_band(sorted(seeds, key=lambda run: len(run.curve)), key)
            axis.fill_between(band["at"] / scale, band.low, band.high, color=f"C{number}", alpha=0.15, linewidth=0)
            axis.plot([], [], color=f"C{number}", label=f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})")
            bands.append(band.assign(recipe=name, axis=key))
        for mark in marks:
            axis.axhline(mark, color="grey", linewidth=0.6, linestyle=":")
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("score, mean of the last 100 games")
    axes[0].legend(frameon=False)
    hardware = " / ".join(sorted({run.hardware for run in runs}))
    games = ", ".join(dict.fromkeys(run.config.env for run in runs))
    title = f"{games}: policy gradient on −log π·R ({hardware}); a line for each seed, bootstrap 95 % of their mean"
    figure.suptitle(title, fontsize=11)
    save(figure, path)
    columns = ["recipe", "axis", "at", "low", "mean", "high"]
    write_csv(pd.concat(bands)[columns], path.with_suffix(".csv"), float_format="%.6g")


def bootstrap_band(runs: list[Run], key: str, points: int = 200) -> pd.DataFrame:
    """The mean over the seeds and 95 % of the bootstrap's means, wherever at least two seeds have a score."""
    x = np.linspace(0, max(run.last[key] for run in runs), points)
    scores = np.stack([np.interp(x, run.curve[key], run.curve[MEAN100], np.nan, np.nan) for run in runs])
    several = np.isfinite(scores).sum(axis=0) >= 2
    x, scores = x[several], scores[:, several]
    random = np.random.default_rng(0)
    known = [column[np.isfinite(column)] for column in scores.T]
    means = [random.choice(column, (1000, len(column))).mean(axis=1) for column in known]
    low, high = np.quantile(np.reshape(means, (-1, 1000)), (0.025, 0.975), axis=1)
    return pd.DataFrame({"at": x, "low": low, "mean": np.nanmean(scores, axis=0) if len(x) else x, "high": high})


def draw_ladder(runs: Runs, path: Path) -> None:
    """Mean of 100 games over agent steps and over minutes, both by powers of ten: a line for each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True, layout="constrained")
    for axis, (key, scale, label) in zip(axes, (AXES[0], AXES[2]), strict=True):
        for number, (rung, seeds) in enumerate(runs.items()):
            for run in seeds:
                axis.plot(run.curve[key] / scale, run.curve[MEAN100], color=f"C{number}", linewidth=0.9)
            axis.plot([], [], color=f"C{number}", label=f"+ {rung}" if number else rung)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("score, mean of the last 100 games")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    save(figure, path)


def draw_study(runs: Runs, folder: Path) -> None:
    """A panel with each variant's curves, over the first variant's in grey; and beside them the final scores."""
    scores = study_scores(runs)
    write_csv(scores, folder / "scores.csv")
    names, height = list(runs), math.ceil(len(runs) / WIDTH)
    figure = plt.figure(figsize=(13, 1 + 1.8 * height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(7, 3))
    axes = left.subplots(height, WIDTH, sharex=True, sharey=True, squeeze=False)
    dots = right.subplots()
    for number, (name, axis) in enumerate(itertools.zip_longest(names, axes.flat)):
        if name is None:
            axis.remove()
            continue
        colour, final, at = f"C{number % 10}", scores[scores.variant == name], len(names) - number
        for run, line in [*((run, "0.75") for run in runs[names[0]]), *((run, colour) for run in runs[name])]:
            axis.plot(run.curve["step"] / 1e6, run.curve[MEAN100], color=line, linewidth=1)
        axis.set_title(textwrap.fill(name, 24), fontsize=9, color=colour)
        axis.tick_params(labelbottom=number + WIDTH >= len(names))
        axis.grid(alpha=0.2)
        dots.plot(final.greedy, [at] * len(final), "o", mfc="none", color=colour)
        dots.plot(final.sampled, [at] * len(final), "o", color=colour)
        dots.hlines(at, *interval(list(final.sampled)), color=colour, linewidth=3, alpha=0.5)
    left.supxlabel("agent steps, millions", fontsize=9)
    left.supylabel(f"score, mean of the last 100 games (grey: {names[0]})", fontsize=9)
    dots.set_yticks(range(len(names), 0, -1), [textwrap.fill(name, 24) for name in names])
    dots.set_xlabel("score of fresh games, every seed\n● sampled, ○ greedy\nbar: 95 % of the mean", fontsize=9)
    dots.grid(alpha=0.2)
    save(figure, folder / "scores.png")


def draw_bound(players: list[dict[str, Any]], runs: list[Run], path: Path) -> None:
    """A panel for each hold: players that know the exact state, and a dot for each run that sees pixels."""
    holds = list(dict.fromkeys(player["hold"] for player in players))
    figure, (axes,) = plt.subplots(1, len(holds), figsize=(9, 4.2), sharey=True, squeeze=False, layout="constrained")
    for axis, hold in zip(axes, holds, strict=True):
        panel = [player for player in players if player["hold"] == hold]
        numbers = [player["actions"] for player in panel]
        for way, shift, filled in zip(WAYS, (-0.18, 0.18), ("C0", "none"), strict=True):
            means, errors = ([player[way][key] for player in panel] for key in ("mean", "standard_error"))
            bars = {"yerr": 2 * np.array(errors), "color": "0.85", "edgecolor": "0.6", "label": f"told all, {way}"}
            axis.bar(np.arange(len(numbers)) + shift, means, 0.34, **bars)
            dots = [run for run in runs if run.config.hold == hold and run.config.actions in numbers]
            x = [numbers.index(run.config.actions) + shift for run in dots]
            label = f"sees pixels, {way}: a dot for each seed"
            axis.plot(x, [run.own[way]["mean"] for run in dots], "o", color="C0", markerfacecolor=filled, label=label)
        axis.set_xticks(range(len(numbers)), [f"{number} actions" for number in numbers])
        axis.set_title(f"{str(hold).replace('-', ' to ')} frames a decision", fontsize=10)
        axis.set_ylim(4, 21.5)
        axis.grid(alpha=0.2, axis="y")
    axes[0].set_ylabel("score, sticky actions")
    axes[0].legend(frameon=True, fontsize=8, loc="lower right")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write_csv(table: pd.DataFrame, path: Path, **options: Any) -> None:
    """Write a table with the line ends of Python's csv module."""
    table.to_csv(path, index=False, lineterminator="\r\n", **options)


if __name__ == "__main__":
    common.run(main)
