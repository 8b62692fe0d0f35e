"""Write the tables and pictures of results/, and copy the tables into README.md and docs/.

A table goes between the lines <!-- results/FILE --> and <!-- end -->.
"""

import itertools
import json
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import grid
import numpy as np
import pandas as pd
from common import markdown
from grid import OWN, RESULTS, Study
from matplotlib.figure import Figure

from pong.config import PONG, load_config
from pong.envs.lqr import OPTIMAL_GAIN
from pong.evaluate import WAYS
from pong.seeds import t_angles, t_interval, t_quantile

MEAN100 = "charts/episodic_return_mean100"
AXES = (("step", 1e6, "agent steps, millions"), ("games", 1e3, "games, thousands"), ("minutes", 1, "minutes"))
FIRST = ("pong", "pong_plain", "karpathy")  # recipes of README's table
RECIPES = {  # what it is, the scores whose first update counts, and the column that counts
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
KINDS = [f"{version}{way}" for version in ("sticky, ", "plain, ", "") for way in WAYS]  # of fresh games
BALLS = ("the first", "the second", "the third", "a later one")
WIDTH = 5  # panels beside each other
DPI = 130


class Run:
    """A finished run: a folder in results/."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder, load_config(folder / "config.toml")
        self.curve = pd.read_csv(folder / "metrics.csv")
        self.last = self.curve.iloc[-1]
        self.own: dict[str, Any] = {}  # fresh games in the game that it was trained in, by WAYS
        self.games: dict[str, Any] = {}  # and in every version of Pong that it played, by KINDS
        for path in sorted(folder.glob("eval*.json")):
            evaluation = read_json(path)
            version = "" if evaluation["env"] != PONG else "sticky, " if evaluation["sticky"] else "plain, "
            scores = {way: evaluation[way] for way in WAYS if way in evaluation}
            self.games |= {f"{version}{way}": scores[way] for way in scores}
            self.own = scores if path.name == OWN else self.own

    def hardware(self) -> str:
        """What it ran on."""
        metadata = read_json(self.folder / "run.json")
        cores, device = metadata["cpu_count"], metadata["device"]
        return f"{cores} CPU core{'s' * (cores > 1)}" + ("" if device == "cpu" else f", {device}")

    def reached(self, score: float, key: str) -> float:
        """The step, game or minute at which the mean of 100 games first was at least ``score``; infinity if never."""
        rows = self.curve[self.curve[MEAN100] >= score]
        return math.inf if rows.empty else float(rows[key].iloc[0])


Runs = dict[str, list[Run]]  # by variant
Rows = Iterator[dict[str, object]]


def main() -> None:
    """Write every table and picture of the studies that have runs."""
    runs = {name: finished(grid.load(name)) for name in grid.known()}
    for file, text in tables(runs).items():
        (RESULTS / file).write_text(text, encoding="utf-8")
    draw(runs)
    for page in (Path("README.md"), *sorted(Path("docs").glob("*.md"))):
        update_page(page)


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def finished(study: Study) -> Runs:
    """A study's complete runs, of each variant that has any."""
    runs = {}
    for variant in study.variants:
        folders = [RESULTS / study.place(variant, seed) for seed in study.seeds_of(variant)]
        if seeds := [Run(folder) for folder in folders if (folder / study.last_file).exists()]:
            runs[variant] = seeds
    return runs


def chosen(runs: dict[str, Runs], variants: dict[str, tuple[str, ...]]) -> list[Run]:
    """The runs of some variants of some studies."""
    pairs = [(study, name) for study, names in variants.items() for name in names or runs[study]]
    return [run for study, name in pairs for run in runs[study].get(name, [])]


def update_page(page: Path) -> None:
    """Put each table between the comments that name its file."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(r"(<!-- results/(\S+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
    page.write_text(pattern.sub(lambda m: m[1] + (RESULTS / m[2]).read_text(encoding="utf-8"), text), encoding="utf-8")


def tables(runs: dict[str, Runs]) -> dict[str, str]:
    """Every table that has content, by its file in results/."""
    expert = chosen(runs, {"recipes": ("pong_expert",)})
    far = runs["far"] and {"pong_expert.toml": expert} | runs["far"]
    rows = {
        "first.md": first_rows(runs["recipes"]),
        "recipes.md": recipe_rows(runs["recipes"]),
        "karpathy.md": games_rows(chosen(runs, {"recipes": ("karpathy",)})),
        "protocol.md": protocol_rows(expert),
        "ladder/ladder.md": ladder_rows(runs["ladder"]),
        "classroom/lqr.md": gain_rows(chosen(runs, {"classroom": ("lqr",)})),
        "ceiling/scores.md": study_rows(runs["ceiling"], grid.load("ceiling")),
        "far/scores.md": study_rows(far, grid.load("far")),
        "ceiling/planner.md": planner_rows(read_json(RESULTS / "ceiling/planner.json")["players"]),
        "ceiling/rallies.md": rally_rows(read_json(RESULTS / "ceiling/rallies.json")),
    }
    texts = {file: markdown(table) for file, table in rows.items()}
    texts["classroom/lqr.md"] = texts["classroom/lqr.md"].replace("|  |", "| |")
    seeds = {f"{name}.md": CURVES[f"{name}.png"] for name in ("classroom/cartpole", "doom/basic", "doom/health")}
    for file, (variants, marks) in {"seeds.md": ({"recipes": ()}, SEEDS), **seeds}.items():
        selected = chosen(runs, variants)
        texts[file] = f"{markdown(learning_rows(selected, marks))}\n{markdown(score_rows(selected))}"
    return {file: text for file, text in texts.items() if text.strip()}


def first_rows(runs: Runs) -> Rows:
    """README's: a row for each of FIRST, with medians over its seeds, and the range of all."""
    for name in FIRST:
        (description, _, key), seeds = RECIPES[name], runs[name]
        row = {"recipe": f"`{name}`", "what it is": description, "seeds": len(seeds)}
        row |= {"breaks even": passed(seeds, 0, key), "+20": passed(seeds, 20, key)}
        yield row | {"score in ALE": spread([run.own["sampled"]["mean"] for run in seeds], signed)}


def recipe_rows(runs: Runs) -> Rows:
    """A row for each recipe, with medians over its seeds, and the range of all."""
    for name, seeds in runs.items():
        description, marks, key = RECIPES[name]
        first, second = (f"{whole(mark)}: {passed(seeds, mark, key)}" for mark in marks)
        sampled, greedy = (spread([run.own[way]["mean"] for run in seeds], signed) for way in WAYS)
        row = {"recipe": f"`{name}`", "what it is": description, "seeds": len(seeds), "time to an early score": first}
        yield row | {"time to a high score": second, "in ALE, sampled": sampled, "greedy": greedy}


def passed(runs: list[Run], mark: float, key: str) -> str:
    """When the mean of 100 games first was at least ``mark``, in minutes or games."""
    in_games = key == "games"
    times = spread([run.reached(mark, key) for run in runs], (lambda n: f"{n / 1e3:.1f} k") if in_games else duration)
    return times + " games" * (in_games and times != "never")


def ladder_rows(runs: Runs) -> Rows:
    """A row for each rung: medians over its seeds, and the range of all."""
    for rung, seeds in runs.items():
        row: dict[str, object] = {"one change after the other": rung}
        for mark in LADDER:
            steps = [run.reached(mark, "step") / 1e6 for run in seeds]
            row[f"M steps to {whole(mark)}"] = spread(steps, "{:.1f}".format)
        yield row | {"mean100 at the end": spread([run.last[MEAN100] for run in seeds], signed)}


def learning_rows(runs: list[Run], marks: Sequence[float]) -> Rows:
    """A row for each run: how it learned."""
    for run in runs:
        last, row = run.last, {"recipe": run.config.name, "seed": run.config.seed, "hardware": run.hardware()}
        row |= {"updates": f"{last['update']:.0f}", "games": count(last.games)}
        row |= {"agent steps": millions(last.step), "time": duration(last.minutes)}
        for mark in marks:
            steps, minutes = (run.reached(mark, key) for key in ("step", "minutes"))
            text = f"{millions(steps)}, {duration(minutes)}" if steps < math.inf else "–"
            row[f"mean100 ≥ {mark:+g}" if mark else "mean100 ≥ 0"] = text
        yield row | {"last mean100": signed(last[MEAN100])}


def score_rows(runs: list[Run]) -> Rows:
    """A row for each run: fresh games with its last weights."""
    kinds = [kind for kind in KINDS if any(kind in run.games for run in runs)]
    for run in runs:
        row = {"recipe": run.config.name, "seed": run.config.seed, "agent steps": millions(run.last.step)}
        yield row | {kind: mean_and_error(run.games.get(kind)) for kind in kinds}


def games_rows(runs: list[Run]) -> Rows:
    """A row for each mark: after how many games each seed reached it, and the mean; then how the seeds end."""
    for mark in GAMES if runs else ():
        yield {"mean100 ≥": whole(mark), **each_seed(runs, [run.reached(mark, "games") for run in runs], count)}
    for way in WAYS if runs else ():
        yield {"mean100 ≥": f"fresh games, {way}", **each_seed(runs, [run.own[way]["mean"] for run in runs], signed)}


def protocol_rows(runs: list[Run]) -> Rows:
    """A row for each budget of PROTOCOL: every seed's mean of the last 100 training games, and the mean."""
    for frames in PROTOCOL if runs else ():
        decisions = frames * 1e6 / runs[0].config.hold
        scores = [run.curve[run.curve["step"] <= decisions][MEAN100].iloc[-1] for run in runs]
        yield {"frames": f"{frames} M", "decisions": f"{decisions / 1e6:g} M", **each_seed(runs, scores, signed)}


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


def study_rows(runs: Runs, study: Study) -> Rows:
    """A row for each variant: every seed's score, their mean, and its difference to the first variant's."""
    if not runs:
        return
    variants = [*study_scores(runs).groupby("variant", sort=False)]
    differences = [welch(scores.sampled, variants[0][1].sampled) for _, scores in variants[1:]]
    cells = [("–", "–"), *((bracketed(*d, signed), f"{p:.2g}") for d, p in holm(differences))]
    for (variant, scores), (difference, p) in zip(variants, cells, strict=True):
        changes = ", ".join(f"{key} = {json.dumps(value)}" for key, value in study.variants.get(variant, {}).items())
        row = {"variant": variant, "changes": changes or "–", "M steps": f"{scores.steps.iloc[0] / 1e6:.1f}"}
        row |= {"sampled, each seed": " ".join(map(signed, scores.sampled))}
        row |= {"mean [95 %]": mean_and_interval(list(scores.sampled), signed), "difference [95 %]": difference}
        yield row | {"p, corrected": p, "greedy, mean": signed(scores.greedy.mean())}


def gain_rows(runs: list[Run]) -> Rows:
    """The linear controllers beside the best one."""
    if runs:
        yield {"seed": "Riccati", "gain w": f"{OPTIMAL_GAIN:.4f}", "off by": "", "b": "0", "log σ": ""}
    for run in runs:
        weights = read_json(run.folder / "weights.json")
        w, b, log_std = (weights[name] for name in ("network.0.weight", "network.0.bias", "log_std"))
        row = {"seed": run.config.seed, "gain w": f"{w:.4f}", "off by": f"{100 * abs(w / OPTIMAL_GAIN - 1):.1f} %"}
        yield row | {"b": f"{b:+.4f}", "log σ": f"{log_std:.2f}"}


def planner_rows(players: list[dict[str, Any]]) -> Rows:
    """A row for each player of ``scripts/research/planner.py``."""
    for player in players:
        row = {"frames a decision": player["hold"], "actions": player["actions"], "sequences": player["sequences"]}
        row |= {"futures": player["futures"], "frames ahead": player["frames"]}
        yield row | {"score": "{mean:+.2f} ± {standard_error:.2f}".format(**player), "games": player["n"]}


def rally_rows(rallies: dict[str, Any]) -> Rows:
    """A row for the first ball that comes to an agent in a rally, the second, …: what becomes of it.

    ``scripts/research/rallies.py`` counts rallies won and lost by how often the agent returned the ball.
    """
    misses, wins = np.array(rallies["lost"]), np.array([*rallies["won"][1:], 0])  # by the returns before: none, one, …
    came = (misses + wins)[::-1].cumsum()[::-1]
    for number, ball in enumerate(BALLS):
        numbers = slice(number, None if ball == BALLS[-1] else number + 1)
        n, won, missed = (int(balls[numbers].sum()) for balls in (came, wins, misses))
        if n:
            row = {"ball of a rally": ball, f"in {rallies['games']} games": count(n), "wins by it": f"{won / n:.1%}"}
            yield row | {"misses it": f"{missed / n:.1%}", "it comes back": f"{(n - won - missed) / n:.1%}"}


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


def each_seed(runs: list[Run], values: list[float], form: Callable[[float], str]) -> dict[str, str]:
    """A number of each run, and their mean."""
    row = {f"seed {run.config.seed}": form(value) for run, value in zip(runs, values, strict=True)}
    return row | {"mean [95 %]": mean_and_interval(values, form)}


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


def draw(runs: dict[str, Runs]) -> None:
    """Every picture, and the numbers behind them as CSV."""
    for file, (variants, marks) in CURVES.items():
        if selected := chosen(runs, variants):
            draw_curves(selected, RESULTS / file, marks)
    if runs["ladder"]:
        draw_ladder(runs["ladder"], RESULTS / "ladder/ladder.png")
    if runs["ceiling"]:
        draw_study(runs["ceiling"], RESULTS / "ceiling")
    pixels = chosen(runs, {"recipes": ("pong", "pong_expert"), "far": ()})
    draw_planners(read_json(RESULTS / "ceiling/planner.json")["players"], pixels, RESULTS / "ceiling/planner.png")


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
    games = " / ".join(sorted({run.config.env for run in runs}))
    hardware = " / ".join(sorted({run.hardware() for run in runs}))
    method = f"policy gradient on −log π·R ({hardware})"
    figure.suptitle(f"{games}: {method}; a line for each seed, 95 % of their mean by Student's t", fontsize=11)
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
    dots.grid(alpha=0.2)
    dots.set_yticks(range(0, -len(runs), -1), [f"+ {rung}" if number else rung for number, rung in enumerate(runs)])
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
    dots.grid(alpha=0.2)
    dots.set_yticks(range(len(names), 0, -1), [textwrap.fill(name, 24) for name in names])
    dots.set_xlabel("score of fresh games, every seed\n● sampled, ○ greedy\nbar: 95 % of the mean", fontsize=9)
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
