"""Train variants of a config, several seeds each, and draw what each change buys.

    python scripts/study.py NAME --at-once 2

reads configs/studies/NAME.toml, trains in runs/NAME/ what is not there yet, resumes what was interrupted, evaluates
it, and writes results/NAME/: each run's config.toml, run.json, eval.json and every few rows of its metrics.csv, and
the table scores.md, its numbers scores.csv and the picture scores.png of the runs that are finished.
"""

import csv
import itertools
import json
import math
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Annotated, Any

import command_line
import matplotlib.pyplot as plt
import numpy as np
import plot
import seeds
import tyro
from pydantic import BaseModel, ConfigDict

from pong.config import Config, InputError, load_config, nearest, to_toml, validate
from pong.distributed import cores
from pong.export import WAYS

Row = dict[str, Any]
WIDTH = 5  # curves beside each other in the picture


class Study(BaseModel):
    """What a file in configs/studies/ says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str  # every variant is this one
    common: dict[str, Any] = {}  # with these changes
    seeds: list[int] = [1, 2, 3]
    episodes: int = 100  # fresh games at the end, sampled and greedy each; 0: none
    variants: dict[str, dict[str, Any]]  # and these
    cumulative: bool = False  # and those of all variants before

    def changes(self, name: str) -> dict[str, Any]:
        """What makes a variant of the config."""
        names = list(self.variants)
        some = names[: names.index(name) + 1] if self.cumulative else [name]
        return self.common | {key: value for one in some for key, value in self.variants[one].items()}

    def variant(self, name: str) -> Config:
        """The config of a variant."""
        base = load_config(Path(self.config)).model_dump(exclude_none=True)
        return validate({**base, **self.changes(name), "name": slug(name)}, source=f"variant {name}")


def main(
    name: tyro.conf.Positional[str],
    *,
    at_once: Annotated[int, tyro.conf.arg(help="runs at the same time; 0: one per core")] = 0,
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="these variants; none: all")] = (),
    draw_only: Annotated[bool, tyro.conf.arg(help="train nothing")] = False,
) -> None:
    """Run what is missing of a study, and draw what is there.

    Args:
        name: of a file in configs/studies/.
    """
    study = read(name)
    runs, results = Path("runs") / name, Path("results") / name
    if not draw_only:
        train(study, runs, results, at_once or cores(), only)
    show(study, finished(study, results), results)


def slug(variant: str) -> str:
    """A variant's name for files."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", variant).strip("_")


def read(name: str) -> Study:
    """What configs/studies/NAME.toml says.

    Raises:
        InputError: there is no such file, or it says something else.
    """
    path = Path(f"configs/studies/{name}.toml")
    try:
        return Study(**tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = sorted(file.stem for file in Path("configs/studies").glob("*.toml"))
        raise InputError(f"there is no {path}; {nearest(name, known)}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def train(study: Study, runs: Path, results: Path, at_once: int, only: tuple[str, ...] = ()) -> None:
    """Train what is missing of some variants, or of all, so many at a time."""
    variants = command_line.chosen(only, study.variants)
    for folder in (runs, results):
        folder.mkdir(parents=True, exist_ok=True)
    jobs = itertools.product(study.seeds, variants)  # all variants' first seeds first
    seeds.side_by_side(lambda job, core: run(study, *job, runs, results, core), jobs, at_once)


def run(study: Study, seed: int, variant: str, runs: Path, results: Path, core: int | None = None) -> None:
    """Train and evaluate one, unless that is done, and keep what results/ shows of it."""
    place, recipe = f"{slug(variant)}/s{seed}", runs / f"{slug(variant)}.toml"
    recipe.write_text(to_toml(study.variant(variant)), encoding="utf-8")
    evaluation = ("--episodes", study.episodes) if study.episodes else ()
    seeds.keep(runs / place, results / place, recipe, seed, evaluation, core)


def finished(study: Study, results: Path) -> list[Row]:
    """What every finished run came to, variant by variant."""
    found = [row(results, variant, seed) for variant, seed in itertools.product(study.variants, study.seeds)]
    return [one for one in found if one]


def row(results: Path, variant: str, seed: int) -> Row | None:
    """What a finished run came to."""
    folder = results / f"{slug(variant)}/s{seed}"
    if not (folder / "eval.json").exists():
        return None
    run = plot.read(folder)
    last, passed = run.rows[-1], run.reached(0)
    (found,) = run.evaluations.values()  # on the one task that it was trained on
    return {
        "variant": variant,
        "seed": seed,
        "steps": int(last["step"]),
        "minutes": round(last["minutes"], 1),
        "steps_to_0": int(passed["step"]) if passed else None,
        **{way: round(one["mean"], 3) for way, one in found.items()},
        **{f"{way}_error": round(one["standard_error"], 3) for way, one in found.items()},
        "games": found["sampled"]["n"],
    }


def show(study: Study, rows: list[Row], results: Path) -> None:
    """The table, its numbers and the picture."""
    if not rows:
        return
    with (results / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = table(study, rows)
    (results / "scores.md").write_text(text, encoding="utf-8")
    print(text)
    draw(study, rows, results)


def table(study: Study, rows: list[Row]) -> str:
    """A Markdown line for each variant: the scores of all its seeds, and their mean with 95 % of its bootstrap."""
    columns = (
        *("variant", "changes", "seeds", "M steps"),
        *("sampled, each seed", "mean [95 %]", "greedy, each seed", "mean"),
    )
    lines = []
    for variant, changes in study.variants.items():
        mine = [one for one in rows if one["variant"] == variant]
        if not mine:
            continue
        said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in changes.items()) or "–"
        sampled, greedy = ([one[way] for one in mine] for way in WAYS)
        low, high = interval(sampled)
        spread = f" [{plot.signed(low)}, {plot.signed(high)}]" if len(mine) > 1 else ""
        lines.append(
            [
                *(variant, said, f"{len(mine)}", f"{mine[0]['steps'] / 1e6:.1f}"),
                *(" ".join(map(plot.signed, sampled)), plot.signed(np.mean(sampled)) + spread),
                *(" ".join(map(plot.signed, greedy)), plot.signed(np.mean(greedy))),
            ]
        )
    return plot.markdown(columns, lines)


def interval(scores: list[float]) -> tuple[float, float]:
    """Where 95 % of the bootstrap's means lie."""
    means = np.random.default_rng(0).choice(scores, (10_000, len(scores))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def draw(study: Study, rows: list[Row], results: Path) -> None:
    """A panel with each variant's curves, over the first variant's in grey; and beside them the final scores."""
    seeds_of = {name: [one for one in rows if one["variant"] == name] for name in study.variants}
    names = [name for name, mine in seeds_of.items() if mine]
    runs = {name: [plot.read(results / f"{slug(name)}/s{one['seed']}") for one in seeds_of[name]] for name in names}
    height = math.ceil(len(names) / WIDTH)
    figure = plt.figure(figsize=(13, 1 + 1.8 * height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(7, 3))
    axes = left.subplots(height, WIDTH, sharex=True, sharey=True, squeeze=False)
    dots = right.subplots()
    for number, (name, axis) in enumerate(itertools.zip_longest(names, axes.flat)):
        if name is None:
            axis.remove()
            continue
        mine, colour = seeds_of[name], f"C{number % 10}"
        for run, line in [*((run, "0.75") for run in runs[names[0]]), *((run, colour) for run in runs[name])]:
            axis.plot(np.array(run.column("step")) / 1e6, run.column(plot.MEAN100), color=line, linewidth=1)
        axis.set_title(textwrap.fill(name, 24), fontsize=9, color=colour)
        axis.tick_params(labelbottom=number + WIDTH >= len(names))
        axis.grid(alpha=0.2)
        at = len(names) - number
        dots.plot([one["greedy"] for one in mine], [at] * len(mine), "o", mfc="none", color=colour)
        dots.plot([one["sampled"] for one in mine], [at] * len(mine), "o", color=colour)
        dots.hlines(at, *interval([one["sampled"] for one in mine]), color=colour, linewidth=3, alpha=0.5)
    left.supxlabel("agent steps, millions", fontsize=9)
    left.supylabel(f"score, mean of the last 100 games (grey: {names[0]})", fontsize=9)
    dots.set_yticks(range(len(names), 0, -1), [textwrap.fill(name, 24) for name in names])
    dots.set_xlabel("score of fresh games, every seed\n● sampled, ○ greedy\nbar: 95 % of the mean", fontsize=9)
    dots.grid(alpha=0.2)
    figure.savefig(results / "scores.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    command_line.run(main)
