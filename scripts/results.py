"""Make every result of the project: train, play fresh games in ALE, draw, tabulate, and put the tables into the pages.

    make results

resumes where it was stopped and skips what is there; all of it takes about ten hours on two cores. What is measured by
the clock has the machine to itself, one run after the other on all cores; all else runs two at a time, on a core each.
"""

import json
import math
import re
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import command_line
import matplotlib.pyplot as plt
import numpy as np
import plot
import seeds
import study
import tyro

from pong.config import InputError
from pong.export import WAYS

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RUNS = Path("results"), Path("runs/results")
GAMES = ("--episodes", 100)


@dataclass(frozen=True)
class Recipe:
    """A recipe whose every seed is published.

    Attributes:
        what: it is, in the table.
        marks: scores whose first update counts, of mean100.
        seeds: of its runs, none of which was used in tuning.
        timed: has the machine to itself.
        clock: "minutes", or "games" where the original counts those.
    """

    what: str
    marks: tuple[float, ...]
    seeds: range
    timed: bool = False
    clock: str = "minutes"


RECIPES = {
    "pong": Recipe("2016's network; with sticky actions", (0, 10), range(11, 21), timed=True),
    "pong_plain": Recipe("the same without sticky actions, NOOP starts", (0, 20), range(1, 11), timed=True),
    "pong_conv_plain": Recipe("a small ConvNet, without sticky actions", (18, 20.5), range(1, 6), timed=True),
    "pong_expert": Recipe("six actions, twice the input; with sticky actions", (10, 19), range(1, 6)),
    "karpathy": Recipe("the 2016 program, constant for constant", (-10, 0), range(1, 6), clock="games"),
}
OTHER = {"pong": "plain", "pong_plain": "sticky", "pong_conv_plain": "sticky", "pong_expert": "plain"}
LADDER, CEILING, FAR = STUDIES = "ladder", "ceiling", "far"
PICTURES = {  # each the curves of some recipes, or of a study, and the scores that it marks
    "learning.png": (("pong", "pong_plain"), (0, 10, 18, 20)),
    "expert.png": (("pong_expert", FAR), (10, 15, 18, 19)),
    "karpathy.png": (("karpathy",), (-15, -10, -5, 0)),
}
PAGES = {  # by the file that a page shows whole
    "recipes.md": ("README.md",),
    "seeds.md": ("docs/performance.md",),
    "karpathy.md": ("docs/from-karpathy.md",),
    "ladder/ladder.md": ("docs/from-karpathy.md",),
    "ceiling/bound.md": ("docs/ceiling.md",),
    "ceiling/rallies.md": ("docs/ceiling.md",),
    "ceiling/scores.md": ("docs/ceiling.md",),
    "far/scores.md": ("docs/ceiling.md",),
}


def main(
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="these recipes; none: all, and the ladder")] = (),
    draw_only: Annotated[bool, tyro.conf.arg(help="train nothing")] = False,
    export: Annotated[bool, tyro.conf.arg(help="refill pretrained/ with each recipe's median seed")] = False,
) -> None:
    """Run what is missing, and write tables, pictures and pages of what is there."""
    recipes = command_line.chosen(only, RECIPES)
    if not draw_only:
        for timed in (True, False):
            jobs = [(name, seed) for name in recipes if RECIPES[name].timed == timed for seed in RECIPES[name].seeds]
            seeds.side_by_side(run, jobs, 1 if timed else 2)
        for name in () if only else STUDIES:
            study.train(study.read(name), RUNS / name, RESULTS / name, 2)
        for name in recipes:
            if name in OTHER and (middle := median(name)):
                on_the_other_task(name, middle)
    if export:
        for name in recipes:
            if middle := median(name):
                refill(name, middle)
    show()


def run(job: tuple[str, int], core: int | None) -> None:
    name, seed = job
    seeds.keep(RUNS / f"{name}/s{seed}", RESULTS / f"{name}/s{seed}", Path(f"configs/{name}.toml"), seed, GAMES, core)


def finished(name: str) -> list[plot.Run]:
    """A recipe's runs with scores, in order of their seeds."""
    return complete([RESULTS / f"{name}/s{seed}" for seed in RECIPES[name].seeds])


def complete(folders: list[Path], last: str = seeds.OWN) -> list[plot.Run]:
    """The runs of which all is there: the last file that is kept says so."""
    return [plot.read(folder) for folder in folders if (folder / last).exists()]


def sampled(one: plot.Run) -> float:
    """Its mean score in fresh games of its own task."""
    return float(one.own["sampled"]["mean"])


def median(name: str) -> int | None:
    """The seed in the middle by sampled score, the lower of two; None if some are missing."""
    runs = finished(name)
    if len(runs) < len(RECIPES[name].seeds):
        return None
    return sorted(runs, key=sampled)[(len(runs) - 1) // 2].config.seed


def on_the_other_task(name: str, seed: int) -> None:
    """What the median seed scores where it was not trained."""
    run, kept = RUNS / f"{name}/s{seed}", RESULTS / f"{name}/s{seed}"
    file = kept / seeds.OTHER[OTHER[name]]
    if not file.exists():
        log = run.with_name(f"{run.name}.log")
        seeds.pong(log, None, "eval", run, *GAMES, *seeds.TASKS[OTHER[name]], "--json", file)


def refill(name: str, seed: int) -> None:
    """Export the median seed into pretrained/."""
    run, folder = RUNS / f"{name}/s{seed}", Path("pretrained") / name
    shutil.rmtree(folder, ignore_errors=True)
    seeds.pong(run.with_name(f"{run.name}.log"), None, "export", run, folder, "--half")


def show() -> None:
    """Tables and pictures of all that is there, and the pages that show them."""
    runs, rungs, plans = everything(), ladder(), studied()
    for file, text in tables(runs, rungs, plans).items():
        (RESULTS / file).write_text(text, encoding="utf-8")
        for page in PAGES[file]:
            put_into(ROOT / page, file, text)
    put_into(ROOT / "docs/performance.md", "bench.md", (RESULTS / "bench.md").read_text(encoding="utf-8"))
    drawn = runs | {FAR: far()}
    for file, (names, marks) in PICTURES.items():
        if shown := [one for name in names for one in drawn.get(name, [])]:
            plot.draw(shown, RESULTS / file, marks)
    if rungs:
        draw_ladder(rungs, RESULTS / LADDER / "ladder.png")
    if CEILING in plans:
        study.show(*plans[CEILING], RESULTS / CEILING)
    if found := bound():
        pixels = [one for name in ("pong", "pong_expert", FAR) for one in drawn.get(name, [])]
        draw_bound(found, pixels, RESULTS / CEILING / "bound.png")


def far() -> list[plot.Run]:
    """The finished runs of the study of how far one gets."""
    return [one for some in by_variant(FAR).values() for one in some]


def by_variant(name: str, last: str = seeds.OWN) -> dict[str, list[plot.Run]]:
    """A study's finished runs, of each variant that has any."""
    plan = study.read(name)
    folders = {one: [RESULTS / name / f"{study.slug(one)}/s{seed}" for seed in plan.seeds] for one in plan.variants}
    return {one: runs for one, some in folders.items() if (runs := complete(some, last))}


def everything() -> dict[str, list[plot.Run]]:
    """The finished runs of each recipe that has any."""
    return {name: found for name in RECIPES if (found := finished(name))}


Plans = dict[str, tuple[study.Study, list[study.Row]]]


def studied() -> Plans:
    """The studies with scores that have any, and what their finished runs came to."""
    plans = {name: study.read(name) for name in (CEILING, FAR)}
    return {name: (plan, rows) for name, plan in plans.items() if (rows := study.finished(plan, RESULTS / name))}


def tables(runs: dict[str, list[plot.Run]], rungs: dict[str, list[plot.Run]], plans: Plans) -> dict[str, str]:
    """Every table that a page shows, by its file in results/: of the recipes' runs, the ladder's and the studies'."""
    each = [one for some in runs.values() for one in some]
    shown = {"recipes.md": recipes_table(runs), "seeds.md": plot.tables(each, (-15, -10, 0, 10, 18, 20))}
    if slow := runs.get("karpathy"):
        shown["karpathy.md"] = games_table(slow)
    if rungs:
        shown[f"{LADDER}/ladder.md"] = ladder_table(rungs)
    shown |= {f"{name}/scores.md": study.table(plan, rows) for name, (plan, rows) in plans.items()}
    if (file := RESULTS / CEILING / "rallies.json").exists():
        shown[f"{CEILING}/rallies.md"] = rallies_table(**json.loads(file.read_text(encoding="utf-8")))
    return shown | ({f"{CEILING}/bound.md": bound_table(found)} if (found := bound()) else {})


MARKS = (-15.0, -10.0, 0.0)


def ladder() -> dict[str, list[plot.Run]]:
    """The ladder's finished runs, by rung; they have no scores."""
    return by_variant(LADDER, "run.json")


def ladder_table(runs: dict[str, list[plot.Run]]) -> str:
    """A Markdown row a rung: medians over its seeds, and the range of all."""
    columns = (
        *("one change after the other", "seeds", *(f"M steps to {plot.whole(mark)}" for mark in MARKS)),
        *("time to 0, one core", "mean100 at the end"),
    )
    rows = []
    for rung, some in runs.items():
        steps = [passed(some, mark, "step", lambda steps: f"{steps / 1e6:.1f}") for mark in MARKS]
        ends = spread([run.rows[-1][plot.MEAN100] for run in some], plot.signed)
        rows.append([rung, f"{len(some)}", *steps, passed(some, MARKS[-1]), ends])
    return plot.markdown(columns, rows)


def draw_ladder(runs: dict[str, list[plot.Run]], path: Path) -> None:
    """Mean of 100 games over agent steps and over minutes, both by powers of ten: a line for each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True, layout="constrained")
    for axis, (key, scale, label) in zip(axes, (plot.AXES[0], plot.AXES[2]), strict=True):
        for number, (rung, some) in enumerate(runs.items()):
            for run in some:
                x = np.array(run.column(key)) / scale
                axis.plot(x, run.column(plot.MEAN100), color=f"C{number}", linewidth=0.9)
            axis.plot([], [], color=f"C{number}", label=f"+ {rung}" if number else rung)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("score, mean of the last 100 games")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


Scores = dict[str, dict[str, float]]  # of 1,000 games, by the way that actions are chosen


def bound() -> dict[str, dict[int, Scores]]:
    """What players score that are told the game's state, by hold and by how many actions they have."""
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((RESULTS / CEILING).glob("bound/*.json"))]
    by_hold: dict[str, dict[int, Scores]] = {}
    for one in files:
        by_hold.setdefault(str(one["hold"]), {})[one["actions"]] = {way: one[way] for way in WAYS}
    return by_hold


def bound_table(found: dict[str, dict[int, Scores]]) -> str:
    """A Markdown row for each hold and number of actions."""
    columns = ("frames a decision", "actions", "sampled", "greedy", "games each")
    rows = []
    for hold, by_actions in found.items():
        for actions, scores in by_actions.items():
            said = [f"{scores[way]['mean']:+.2f} ± {scores[way]['standard_error']:.2f}" for way in WAYS]
            rows.append([hold, f"{actions}", *said, f"{scores[WAYS[0]]['n']:,}"])
    return plot.markdown(columns, rows)


BALLS = ("the first", "the second", "the third", "a later one")


def rallies_table(won: list[int], lost: list[int], games: int, agent: str) -> str:
    """A Markdown row for the first ball that comes to an agent in a rally, the second, …: what it makes of it.

    Args:
        won, lost: rallies, by how often it returned the ball; see ``scripts/rallies.py``.
        games: in which they were counted.
        agent: who played them.
    """
    missed, winning = np.array(lost), np.array([*won[1:], 0])  # by what came before: never returned it, once, …
    came = (missed + winning)[::-1].cumsum()[::-1]
    rows = []
    for number, ball in enumerate(BALLS):
        some = slice(number, None if ball == BALLS[-1] else number + 1)
        n, *parts = (int(balls[some].sum()) for balls in (came, winning, missed))
        if n:
            shares = (part / n for part in (*parts, n - sum(parts)))
            rows.append([ball, f"{n:,}", *(f"{share:.1%}" for share in shares)])
    columns = ("ball of a rally", f"in {games} games", "wins by it", "misses it", "it comes back")
    return plot.markdown(columns, rows)


def draw_bound(found: dict[str, dict[int, Scores]], runs: list[plot.Run], path: Path) -> None:
    """A panel for each hold: what players score that are told the state, and a dot for each run that sees pixels."""
    figure, (axes,) = plt.subplots(1, len(found), figsize=(9, 4.2), sharey=True, squeeze=False, layout="constrained")
    for axis, (hold, by_actions) in zip(axes, found.items(), strict=True):
        numbers = list(by_actions)
        for way, shift, filled in zip(WAYS, (-0.18, 0.18), ("C0", "none"), strict=True):
            scores = [one[way] for one in by_actions.values()]
            at = np.arange(len(numbers)) + shift
            means, errors = ([one[key] for one in scores] for key in ("mean", "standard_error"))
            axis.bar(
                at, means, 0.34, yerr=2 * np.array(errors), color="0.85", edgecolor="0.6", label=f"told all, {way}"
            )
            for run in (one for one in runs if str(one.config.hold) == hold and one.config.actions in numbers):
                place = numbers.index(run.config.actions) + shift
                axis.plot(place, run.own[way]["mean"], "o", color="C0", markerfacecolor=filled)
            axis.plot([], [], "o", color="C0", markerfacecolor=filled, label=f"sees pixels, {way}: a dot for each seed")
        axis.set_xticks(range(len(numbers)), [f"{number} actions" for number in numbers])
        axis.set_title(f"{hold.replace('-', ' to ')} frames a decision", fontsize=10)
        axis.set_ylim(4, 21.5)
        axis.grid(alpha=0.2, axis="y")
    axes[0].set_ylabel("score, sticky actions")
    axes[0].legend(frameon=True, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def recipes_table(runs: dict[str, list[plot.Run]]) -> str:
    """A Markdown row a recipe: medians over its seeds, and the range of all."""
    columns = ("recipe", "what it is", "seeds", "to a first score", "to a second", "in ALE, sampled", "greedy")
    rows = []
    for name, some in runs.items():
        one = RECIPES[name]
        said, unit = SAID[one.clock]
        scores = [[run.own[way]["mean"] for run in some] for way in ("sampled", "greedy")]
        rows.append(
            [
                *(f"`{name}`", one.what, f"{len(some)}"),
                *(f"{plot.whole(mark)}: {passed(some, mark, one.clock, said)}{unit}" for mark in one.marks),
                *(spread(some_scores, plot.signed) for some_scores in scores),
            ]
        )
    return plot.markdown(columns, rows)


def thousands(games: float) -> str:
    return f"{games / 1e3:.1f} k"


SAID = {"minutes": (plot.duration, ""), "games": (thousands, " games")}  # and in what unit, if that is not said


def games_table(runs: list[plot.Run], marks: tuple[float, ...] = (-18, -15, -10, -5, 0)) -> str:
    """A Markdown row a mark: after how many games each seed's mean of 100 reached it, and 95 % of their mean."""
    columns = ("mean100 ≥", *(f"seed {run.config.seed}" for run in runs), "mean [95 %]")
    rows = []
    for mark in marks:
        found = [row["games"] if (row := run.reached(mark)) else None for run in runs]
        known = [games for games in found if games is not None]
        low, high = study.interval(known) if known else (0.0, 0.0)
        mean = f"{statistics.mean(known):,.0f} [{low:,.0f}, {high:,.0f}]" if len(known) == len(runs) else "–"
        rows.append([plot.whole(mark), *("–" if games is None else f"{games:,.0f}" for games in found), mean])
    ends = [f"{plot.signed(run.rows[-1][plot.MEAN100])} at {run.rows[-1]['games']:,.0f}" for run in runs]
    return plot.markdown(columns, [*rows, ["last", *ends, ""]])


def passed(runs: list[plot.Run], mark: float, key: str = "minutes", said: plot.Said = plot.duration) -> str:
    """When the mean of 100 games reached a mark; to the median, a run that never did is the last."""
    times = [row[key] if (row := run.reached(mark)) else math.inf for run in runs]
    found = [time for time in times if time < math.inf]
    if not found:
        return "never"
    if len(found) == len(runs):
        return spread(found, said)
    middle = statistics.median(times)
    middle_said = said(middle) if middle < math.inf else "never"
    return f"{middle_said} ({said(min(found))} … {said(max(found))}; {len(runs) - len(found)} of {len(runs)} never)"


def spread(values: list[float], said: plot.Said) -> str:
    """The median, and the range if there are several."""
    middle = said(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({said(min(values))} … {said(max(values))})"


def put_into(page: Path, file: str, shown: str) -> None:
    """Put a table into a page, between the comments that name its file."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- results/{file} -->\n", "<!-- end -->"
    if begin not in text:
        raise InputError(f"{page} has no place for results/{file}; write the lines {begin.strip()} and {end} there")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page.write_text(pattern.sub(lambda _: begin + shown + end, text), encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
