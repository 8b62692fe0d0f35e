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
import numpy as np
import pandas as pd
from common import markdown
from grid import OWN, RESULTS, Study
from matplotlib.figure import Figure

from pong.config import PONG, Config, load_config
from pong.envs.lqr import OPTIMAL_GAIN
from pong.evaluate import WAYS
from pong.seeds import t_angles, t_interval, t_quantile

MEAN100 = "charts/episodic_return_mean100"
AXES = (("step", 1e6, "agent steps, millions"), ("games", 1e3, "games, thousands"), ("minutes", 1, "minutes"))
RECIPES = {  # of README's table: what it is, the scores whose first update counts, and the column that counts
    "pong": ("2016's network; with sticky actions", (0, 10), "minutes"),
    "pong_plain": ("the same without sticky actions, NOOP starts", (0, 20), "minutes"),
    "pong_conv_plain": ("a small ConvNet, without sticky actions", (18, 20.5), "minutes"),
    "pong_expert": ("six actions, twice the input; with sticky actions", (10, 19), "minutes"),
    "karpathy": ("the 2016 program, down to every constant", (-10, 0), "games"),
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
LADDER, GAMES, SEEDS = (-10, 0), (-18, -15, -10, -5, 0), (-15, -10, 0, 10, 18, 20)  # scores of other tables
PROTOCOL = (10, 40, 50, 100, 200)  # millions of frames at which Machado et al. (2018), and SLM-Lab (40), report
BALLS = ("the first", "the second", "the third", "a later one")
WIDTH = 5  # panels beside each other
DPI = 130
Scores = dict[str, dict[str, Any]]  # of fresh games, by WAYS


@dataclass(frozen=True)
class Run:
    """A finished run: a folder in results/."""

    config: Config
    curve: pd.DataFrame  # the rows of its metrics.csv
    last: "pd.Series[float]"  # of them
    hardware: str
    own: Scores  # in the game that it was trained in
    versions: dict[str, Scores]  # and in every version of it that it played: "sticky", "plain"; "" if not Pong

    def reached(self, score: float, key: str) -> float:
        """The step, game or minute at which the mean of 100 games first was at least ``score``; infinity if never."""
        rows = self.curve[self.curve[MEAN100] >= score]
        return math.inf if rows.empty else float(rows[key].iloc[0])


Runs = dict[str, list[Run]]  # by variant


def main() -> None:
    """Write every table and picture of what is there."""
    studies = {name: grid.load(name) for name in grid.known()}
    runs = {name: finished(study) for name, study in studies.items()}
    for file, text in tables(studies, runs).items():
        (RESULTS / file).write_text(text, encoding="utf-8")
    draw(runs)
    for page in (Path("README.md"), *sorted(Path("docs").glob("*.md"))):
        update_page(page)


def read(folder: Path) -> Run:
    """Read a run's files."""
    config, metadata = load_config(folder / "config.toml"), read_json(folder / "run.json")
    cores, device = metadata["cpu_count"], metadata["device"]
    hardware = f"{cores} CPU core{'s' * (cores > 1)}" + ("" if device == "cpu" else f", {device}")
    own, versions = {}, {}
    for path in sorted(folder.glob("eval*.json")):
        evaluation = read_json(path)
        scores = {way: evaluation[way] for way in WAYS if way in evaluation}
        versions["" if evaluation["env"] != PONG else "sticky" if evaluation["sticky"] else "plain"] = scores
        own = scores if path.name == OWN else own
    curve = pd.read_csv(folder / "metrics.csv")
    return Run(config, curve, curve.iloc[-1], hardware, own, versions)


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def finished(study: Study) -> Runs:
    """A study's complete runs, of each variant that has any."""
    runs = {}
    for variant in study.variants:
        folders = [RESULTS / study.place(variant, seed) for seed in study.seeds_of(variant)]
        runs[variant] = [read(folder) for folder in folders if (folder / study.last_file).exists()]
    return {variant: seeds for variant, seeds in runs.items() if seeds}


def chosen(runs: dict[str, Runs], variants: dict[str, tuple[str, ...]]) -> list[Run]:
    """The runs of some variants of some studies."""
    pairs = [(study, name) for study, names in variants.items() for name in names or runs[study]]
    return [run for study, name in pairs for run in runs[study].get(name, [])]


def update_page(page: Path) -> None:
    """Put each table between the comments that name its file."""
    text = page.read_text(encoding="utf-8")
    for start, file in re.findall(r"(<!-- results/(\S+) -->\n)", text):
        before, _, after = text.partition(start)
        table, end = (RESULTS / file).read_text(encoding="utf-8"), after.index("<!-- end -->")
        text = before + start + table + after[end:]
    page.write_text(text, encoding="utf-8")


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(studies: dict[str, Study], runs: dict[str, Runs]) -> dict[str, str]:
    """Every table, by its file in results/."""
    recipes, expert = runs["recipes"], runs["recipes"].get("pong_expert", [])
    texts = {
        "recipes.md": markdown([recipe_row(name, seeds) for name, seeds in recipes.items()]),
        "seeds.md": seeds_tables([run for seeds in recipes.values() for run in seeds], SEEDS),
        "karpathy.md": games_table(recipes.get("karpathy", [])),
        "protocol.md": protocol_table(expert),
        "ladder/ladder.md": markdown([rung_row(rung, seeds) for rung, seeds in runs["ladder"].items()]),
        "classroom/lqr.md": gains_table(studies["classroom"]),
        "ceiling/scores.md": study_table(studies["ceiling"], runs["ceiling"]),
        "far/scores.md": study_table(studies["far"], {"pong_expert.toml": expert} | runs["far"]),
        "ceiling/planner.md": planner_table(planners()),
        "ceiling/rallies.md": rallies_table(RESULTS / "ceiling/rallies.json"),
    }
    for name in ("classroom/cartpole", "doom/basic", "doom/health"):
        variants, marks = CURVES[f"{name}.png"]
        texts[f"{name}.md"] = seeds_tables(chosen(runs, variants), marks)
    return {file: text for file, text in texts.items() if text.strip()}


def recipe_row(name: str, seeds: list[Run]) -> dict[str, object]:
    """A recipe in README: medians over its seeds, and the range of all."""
    description, marks, key = RECIPES[name]
    form = duration if key == "minutes" else lambda games: f"{games / 1e3:.1f} k"
    unit = "" if key == "minutes" else " games"
    first, second = (f"{whole(mark)}: {passed(seeds, mark, key, form)}{unit}" for mark in marks)
    sampled, greedy = (spread([run.own[way]["mean"] for run in seeds], signed) for way in WAYS)
    row = {"recipe": f"`{name}`", "what it is": description, "seeds": len(seeds), "time to an early score": first}
    return row | {"time to a high score": second, "in ALE, sampled": sampled, "greedy": greedy}


def rung_row(rung: str, seeds: list[Run]) -> dict[str, object]:
    """A rung of the ladder: medians over its seeds, and the range of all."""
    row: dict[str, object] = {"one change after the other": rung}
    for mark in LADDER:
        row[f"M steps to {whole(mark)}"] = passed(seeds, mark, "step", lambda steps: f"{steps / 1e6:.1f}")
    return row | {"mean100 at the end": spread([run.last[MEAN100] for run in seeds], signed)}


def seeds_tables(runs: list[Run], marks: Sequence[float]) -> str:
    """Two tables with a row for each run: how it learned; and fresh games with its last weights."""
    versions = sorted({version for run in runs for version in run.versions}, reverse=True)
    kinds = [(v, way) for v in versions for way in WAYS if any(way in run.versions.get(v, {}) for run in runs)]
    learning, scores = [], []
    for run in runs:
        last, row = run.last, {"recipe": run.config.name, "seed": run.config.seed}
        games = {", ".join(filter(None, kind)): run.versions.get(kind[0], {}).get(kind[1]) for kind in kinds}
        scores.append({**row, "agent steps": millions(last.step)} | {k: mean_and_error(g) for k, g in games.items()})
        row |= {"hardware": run.hardware, "updates": f"{last['update']:.0f}", "games": f"{last.games:,.0f}"}
        row |= {"agent steps": millions(last.step), "time": duration(last.minutes)}
        for mark in marks:
            steps, minutes = (run.reached(mark, key) for key in ("step", "minutes"))
            text = f"{millions(steps)}, {duration(minutes)}" if steps < math.inf else "–"
            row[f"mean100 ≥ {mark:+g}" if mark else "mean100 ≥ 0"] = text
        learning.append({**row, "last mean100": signed(last[MEAN100])})
    return f"{markdown(learning)}\n{markdown(scores)}"


def games_table(runs: list[Run]) -> str:
    """A row for each mark: after how many games each seed reached it, and the mean; then how the seeds end."""
    seeds = [f"seed {run.config.seed}" for run in runs]
    rows = [(whole(mark), [run.reached(mark, "games") for run in runs], count) for mark in GAMES]
    rows += [(f"fresh games, {way}", [run.own[way]["mean"] for run in runs], signed) for way in WAYS]
    table = []
    for name, values, form in rows if runs else ():
        cells = dict(zip(seeds, map(form, values), strict=True))
        table.append({"mean100 ≥": name, **cells, "mean [95 %]": mean_and_interval(values, form)})
    return markdown(table)


def study_scores(runs: Runs) -> pd.DataFrame:
    """A row for each run: steps, time and scores."""
    rows = []
    for variant, run in ((variant, run) for variant, seeds in runs.items() for run in seeds):
        row = {"variant": variant, "seed": run.config.seed, "steps": int(run.last.step)}
        row |= {"minutes": round(float(run.last.minutes), 1), "steps_to_0": run.reached(0, "step")}
        row |= {way: round(run.own[way]["mean"], 3) for way in WAYS}
        row |= {f"{way}_error": round(run.own[way]["standard_error"], 3) for way in WAYS}
        rows.append(row | {"games": run.own["sampled"]["n"]})
    return pd.DataFrame(rows).replace(math.inf, pd.NA).astype({"steps_to_0": "Int64"})


def study_table(study: Study, runs: Runs) -> str:
    """A row for each variant: every seed's score, their mean, and its difference to the first variant's."""
    if not any(runs.values()):
        return ""
    variants = [*study_scores(runs).groupby("variant", sort=False)]
    differences = [welch(scores.sampled, variants[0][1].sampled) for _, scores in variants[1:]]
    cells = [("–", "–"), *((bracketed(*d, signed), f"{p:.2g}") for d, p in holm(differences))]
    rows = []
    for (variant, scores), (difference, p) in zip(variants, cells, strict=True):
        changes = ", ".join(f"{key} = {json.dumps(value)}" for key, value in study.variants.get(variant, {}).items())
        row = {"variant": variant, "changes": changes or "–", "M steps": f"{scores.steps.iloc[0] / 1e6:.1f}"}
        row |= {"sampled, each seed": " ".join(map(signed, scores.sampled))}
        row |= {"mean [95 %]": mean_and_interval(list(scores.sampled), signed), "difference [95 %]": difference}
        rows.append(row | {"p, corrected": p, "greedy, mean": signed(scores.greedy.mean())})
    return markdown(rows)


def protocol_table(runs: list[Run]) -> str:
    """A row for each budget of PROTOCOL: every seed's mean of the last 100 training games, and the mean."""
    rows = []
    for frames in PROTOCOL if runs else ():
        decisions = frames * 1e6 / runs[0].config.hold
        scores = [run.curve[run.curve["step"] <= decisions][MEAN100].iloc[-1] for run in runs]
        row = {"frames": f"{frames} M", "decisions": f"{decisions / 1e6:g} M"}
        row |= {f"seed {run.config.seed}": signed(score) for run, score in zip(runs, scores, strict=True)}
        rows.append(row | {"mean [95 %]": mean_and_interval(scores, signed)})
    return markdown(rows)


def gains_table(study: Study) -> str:
    """The linear controllers beside the best one."""
    best = OPTIMAL_GAIN
    rows: list[dict[str, object]] = [{"seed": "Riccati", "gain w": f"{best:.4f}", "off by": "", "b": "0", "log σ": ""}]
    for seed in study.seeds_of("lqr"):
        if (file := RESULTS / study.place("lqr", seed) / "weights.json").exists():
            w, b, log_std = (read_json(file)[name] for name in ("network.0.weight", "network.0.bias", "log_std"))
            row = {"seed": seed, "gain w": f"{w:.4f}", "off by": f"{100 * abs(w / best - 1):.1f} %"}
            rows.append(row | {"b": f"{b:+.4f}", "log σ": f"{log_std:.2f}"})
    return markdown(rows).replace("|  |", "| |") if len(rows) > 1 else ""


def planners() -> list[dict[str, Any]]:
    """The players of ``scripts/research/planner.py``, which know the exact state of the game."""
    file = RESULTS / "ceiling/planner.json"
    return read_json(file)["players"] if file.exists() else []


def planner_table(players: list[dict[str, Any]]) -> str:
    """A row for each player."""
    rows = []
    for player in players:
        row = {"frames a decision": player["hold"], "actions": player["actions"], "sequences": player["sequences"]}
        row |= {"futures": player["futures"], "frames ahead": player["frames"]}
        row |= {"score": f"{player['mean']:+.2f} ± {player['standard_error']:.2f}", "games": count(player["n"])}
        rows.append(row)
    return markdown(rows)


def rallies_table(file: Path) -> str:
    """A row for the first ball that comes to an agent in a rally, the second, …: what becomes of it.

    The file, by ``scripts/research/rallies.py``, has rallies won and lost by how often the agent returned the ball.
    """
    counts = read_json(file) if file.exists() else {"lost": [], "won": [0]}
    misses, wins = np.array(counts["lost"]), np.array([*counts["won"][1:], 0])  # by the returns before: none, one, …
    came = (misses + wins)[::-1].cumsum()[::-1]
    rows = []
    for number, ball in enumerate(BALLS):
        numbers = slice(number, None if ball == BALLS[-1] else number + 1)
        n, won, missed = (int(balls[numbers].sum()) for balls in (came, wins, misses))
        if n:
            row = {"ball of a rally": ball, f"in {counts['games']} games": count(n), "wins by it": f"{won / n:.1%}"}
            rows.append(row | {"misses it": f"{missed / n:.1%}", "it comes back": f"{(n - won - missed) / n:.1%}"})
    return markdown(rows)


# --- numbers in tables ------------------------------------------------------------------------------------------------


def signed(score: float) -> str:
    return f"{round(float(score), 1) + 0.0:+.1f}".replace("-", "−")  # 0 has no minus


def whole(score: float) -> str:
    return f"{score:+g}".replace("-", "−") if score else "0"


def count(games: float) -> str:
    return f"{games:,.0f}" if games < math.inf else "–"


def millions(steps: float) -> str:
    return f"{steps / 1e6:.2f} M"


def duration(minutes: float) -> str:
    return f"{60 * minutes:.0f} s" if minutes < 2 else f"{minutes:.1f} min"


def mean_and_error(games: dict[str, Any] | None) -> str:
    """Scores of fresh games, and how many frames a game took where that is known."""
    if games is None:
        return "–"
    frames = f", {np.mean(games['frames']):,.0f} frames" if "frames" in games else ""
    error = "exactly" if games["standard_error"] is None else f"± {games['standard_error']:.1f}"
    return f"{signed(games['mean'])} {error} (n = {games['n']}{frames})"


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median, and the range if there are several values; infinity, which counts as the largest, is "never"."""
    finite = [value for value in values if value < math.inf]
    if not finite:
        return "never"
    middle = form(median) if (median := statistics.median(values)) < math.inf else "never"
    never = f"; {len(values) - len(finite)} of {len(values)} never" if len(finite) < len(values) else ""
    return f"{middle} ({form(min(finite))} … {form(max(finite))}{never})" if len(values) > 1 else middle


def passed(runs: list[Run], mark: float, key: str, form: Callable[[float], str]) -> str:
    """When the mean of 100 games reached a mark."""
    return spread([run.reached(mark, key) for run in runs], form)


def mean_and_interval(values: list[float], form: Callable[[float], str]) -> str:
    """The mean, and its 95 % interval if there are several values; a dash if one of them is infinite."""
    return "–" if max(values) == math.inf else bracketed(*t_interval(np.array(values)), form)


def bracketed(value: float, half: float, form: Callable[[float], str]) -> str:
    """A value with its interval, if that is known."""
    return form(value) + (f" [{form(value - half)}, {form(value + half)}]" if math.isfinite(half) else "")


def welch(scores: "pd.Series[float]", others: "pd.Series[float]") -> tuple[float, float, float]:
    """The difference of two means, half of its 95 % interval, and p, by Welch's t: the variances may differ."""
    variances = np.array([scores.var() / len(scores), others.var() / len(others)])  # of the means
    error = math.sqrt(variances.sum())
    df = error**4 / (variances**2 / [len(scores) - 1, len(others) - 1]).sum()
    difference = float(scores.mean() - others.mean())
    p = 1 - np.interp(math.atan(abs(difference) / error / math.sqrt(df)), *t_angles(df))
    return difference, t_quantile(df) * error, float(p)


def holm(differences: list[tuple[float, float, float]]) -> list[tuple[tuple[float, float], float]]:
    """Differences, and p corrected for their number: the smallest times n, the next at least that and times n − 1, …"""
    order, n = np.argsort([p for *_, p in differences]), len(differences)
    corrected = np.maximum.accumulate([differences[i][2] * (n - rank) for rank, i in enumerate(order)]).clip(max=1)
    return [(differences[i][:2], float(corrected[rank])) for i, rank in enumerate(np.argsort(order))]


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw(runs: dict[str, Runs]) -> None:
    """Every picture, and the numbers behind them as CSV."""
    for file, (variants, marks) in CURVES.items():
        if selected := chosen(runs, variants):
            draw_curves(selected, RESULTS / file, marks)
    if runs["ladder"]:
        draw_ladder(runs["ladder"], RESULTS / "ladder/ladder.png")
    if runs["ceiling"]:
        draw_study(runs["ceiling"], RESULTS / "ceiling")
    if players := planners():
        pixels = chosen(runs, {"recipes": ("pong", "pong_expert"), "far": ()})
        draw_planners(players, pixels, RESULTS / "ceiling/planner.png")


def plot(axis: Any, groups: Runs, key: str, scale: float, **style: Any) -> None:
    """The mean of 100 games over ``key``: a line for each seed, a colour for each group."""
    for number, (label, runs) in enumerate(groups.items()):
        for run in runs:
            axis.plot(run.curve[key] / scale, run.curve[MEAN100], color=f"C{number}", linewidth=0.9, **style)
        axis.plot([], [], color=f"C{number}", label=label)
    axis.grid(alpha=0.2)


def draw_curves(runs: list[Run], path: Path, marks: Sequence[float]) -> None:
    """Mean of 100 games over agent steps, games and minutes: a thin line for each seed, and a band for its recipe.

    The band is the 95 % interval of the seeds' mean, by Student's t; a CSV file beside the picture has it.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, len(AXES), sharey=True)
    by_name = {name: [run for run in runs if run.config.name == name] for name in [run.config.name for run in runs]}
    groups = {f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})": seeds for name, seeds in by_name.items()}
    bands = []
    for axis, (key, scale, label) in zip(axes, AXES, strict=True):
        plot(axis, groups, key, scale, alpha=0.8)
        axis.set_ylim(axis.get_ylim())  # those of the curves: with three seeds a band may be wider than all scores
        for number, (name, seeds) in enumerate(by_name.items()):
            band = mean_band(seeds, key)
            axis.fill_between(band["at"] / scale, band.low, band.high, color=f"C{number}", alpha=0.15, linewidth=0)
            bands.append(band.assign(recipe=name, axis=key))
        for mark in marks:
            axis.axhline(mark, color="grey", linewidth=0.6, linestyle=":")
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    axes[0].set_ylabel("score, mean of the last 100 games")
    axes[0].legend(frameon=False)
    hardware, games = (
        " / ".join(sorted({*names})) for names in zip(*[(r.hardware, r.config.env) for r in runs], strict=True)
    )
    title = (
        f"{games}: policy gradient on −log π·R ({hardware}); a line for each seed, 95 % of their mean by Student's t"
    )
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=DPI)
    table = pd.concat(bands)[["recipe", "axis", "at", "low", "mean", "high"]]
    table.to_csv(path.with_suffix(".csv"), index=False, lineterminator="\r\n", float_format="%.6g")


def mean_band(runs: list[Run], key: str, points: int = 200) -> pd.DataFrame:
    """The mean over the seeds and its 95 % interval, wherever every one of several seeds has a score."""
    x = np.linspace(0, max(run.last[key] for run in runs), points)
    scores = np.stack([np.interp(x, run.curve[key], run.curve[MEAN100], np.nan, np.nan) for run in runs])
    mean, half = t_interval(scores)
    return pd.DataFrame({"at": x, "low": mean - half, "mean": mean, "high": mean + half}).dropna()


def draw_ladder(runs: Runs, path: Path) -> None:
    """Mean of 100 games over agent steps, by powers of ten, and the steps to 0: a line and a dot for each seed."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    curves, dots = figure.subplots(1, 2, width_ratios=(3, 2))
    plot(curves, runs, "step", 1e6, alpha=0.7)
    curves.set(xscale="log", xlabel=AXES[0][2], ylabel="score, mean of the last 100 games")
    never = 2e-6 * max(run.last.step for seeds in runs.values() for run in seeds)
    for number, seeds in enumerate(runs.values()):
        steps = [min(run.reached(0, "step") / 1e6, never) for run in seeds]
        dots.plot(steps, [-number] * len(steps), "o", color=f"C{number}", alpha=0.5)
    dots.set(xscale="log", xlabel=f"{AXES[0][2]}, to a mean of 0")
    dots.minorticks_off()
    dots.set_xticks([1, 2, 5, 10, never], ["1", "2", "5", "10", "never"])
    dots.set_yticks(range(0, -len(runs), -1), [f"+ {rung}" if number else rung for number, rung in enumerate(runs)])
    dots.grid(alpha=0.2)
    figure.savefig(path, dpi=DPI)


def draw_study(runs: Runs, folder: Path) -> None:
    """A panel with each variant's curves, over the first variant's in grey; and beside them the final scores."""
    scores = study_scores(runs)
    scores.to_csv(folder / "scores.csv", index=False, lineterminator="\r\n")
    names, height = list(runs), math.ceil(len(runs) / WIDTH)
    figure = Figure(figsize=(13, 1 + 1.8 * height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(7, 3))
    axes, dots = left.subplots(height, WIDTH, sharex=True, sharey=True, squeeze=False), right.subplots()
    for number, (name, axis) in enumerate(itertools.zip_longest(names, axes.flat)):
        if name is None:
            axis.remove()
            continue
        color, final, y = f"C{number % 10}", scores[scores.variant == name], len(names) - number
        for run, line in [*((run, "0.75") for run in runs[names[0]]), *((run, color) for run in runs[name])]:
            axis.plot(run.curve["step"] / 1e6, run.curve[MEAN100], color=line, linewidth=1)
        axis.grid(alpha=0.2)
        axis.set_title(textwrap.fill(name, 24), fontsize=9, color=color)
        axis.tick_params(labelbottom=number + WIDTH >= len(names))
        dots.plot(final.greedy, [y] * len(final), "o", mfc="none", color=color)
        dots.plot(final.sampled, [y] * len(final), "o", color=color)
        mean, half = t_interval(final.sampled.to_numpy())
        dots.hlines(y, mean - half, mean + half, color=color, linewidth=3, alpha=0.5)
    left.supxlabel("agent steps, millions", fontsize=9)
    left.supylabel(f"score, mean of the last 100 games (grey: {names[0]})", fontsize=9)
    dots.set_yticks(range(len(names), 0, -1), [textwrap.fill(name, 24) for name in names])
    dots.set_xlabel("score of fresh games, every seed\n● sampled, ○ greedy\nbar: 95 % of the mean", fontsize=9)
    dots.grid(alpha=0.2)
    figure.savefig(folder / "scores.png", dpi=DPI)


def draw_planners(players: list[dict[str, Any]], runs: list[Run], path: Path) -> None:
    """A panel for each hold: the planner with each set of actions, and a dot for each run that sees pixels."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    bars = {(player["hold"], player["actions"]): player for player in reversed(players)}  # the first of each
    for axis, hold in zip(figure.subplots(1, 2, sharey=True), (4, "2-4"), strict=True):
        for x, actions in enumerate((2, 3, 6)):
            bar, seeds = bars[hold, actions], [r for r in runs if (r.config.hold, r.config.actions) == (hold, actions)]
            axis.bar(x, bar["mean"], 0.7, yerr=2 * bar["standard_error"], color="0.85", edgecolor="0.6")
            for way, shift, filled in zip(WAYS, (-0.18, 0.18), ("C0", "none"), strict=True):
                scores = [run.own[way]["mean"] for run in seeds]
                axis.plot([x + shift] * len(scores), scores, "o", color="C0", markerfacecolor=filled)
        axis.set_xticks(range(3), [f"{actions} actions" for actions in (2, 3, 6)])
        axis.set(title=f"{str(hold).replace('-', ' to ')} frames a decision", ylim=(4, 21.5))
        axis.grid(alpha=0.2, axis="y")
    figure.supylabel("score, sticky actions", fontsize=10)
    figure.supxlabel(
        "bar: planner that knows the exact state; dot: a trained seed that sees pixels, ● sampled, ○ greedy"
    )
    figure.savefig(path, dpi=DPI)


if __name__ == "__main__":
    common.run(main)
