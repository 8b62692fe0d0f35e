"""Train grids of config × change × seed, and evaluate every run.

    python scripts/grid.py ladder far --at-once 2

reads configs/studies/NAME.toml, trains in runs/ what results/ does not have yet, resumes what was interrupted, and
copies into results/ of each run: config.toml, run.json, eval.json, and the rows of metrics.csv that tables and pictures
need. scripts/report.py makes those.
"""

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import tyro
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from pong.config import Config, InputError, RunError, load_config, nearest, to_toml, validate
from pong.seeds import read_curve, side_by_side
from pong.train import load_policy

STUDIES = common.ROOT / "configs/studies"
RESULTS, RUNS = Path("results"), Path("runs/results")
ROWS = 500  # of a metrics.csv that results/ gets, at least, if it has so many
MARKS = (-18, -15, -10, -5, 0, 5, 10, 15, 18, 19, 20, 20.5, 70, 195, 475, 800, 1500)  # scores of tables and pictures
OWN = "eval.json"
OTHER = {  # version of Pong that was not trained: file of its scores and flags of `pong eval`
    "sticky": ("eval-sticky.json", "--sticky", "0.25", "--noop-max", "0"),
    "plain": ("eval-plain.json", "--sticky", "0", "--noop-max", "30"),
}


class Study(BaseModel):
    """A file in configs/studies/."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: dict[str, dict[str, Any]]  # changes by name; "config" and "seeds" replace those below
    config: str = ""
    common: dict[str, Any] = {}  # changes of all variants
    cumulative: bool = False  # each variant has the changes of those before, too
    seeds: list[int] = [1, 2, 3]
    episodes: int = 100  # fresh games at the end, sampled and greedy each; 0: none
    greedy: bool = True  # play them greedily, too
    at_once: int = 0  # runs at the same time, on one core each; 1: on all cores; 0: as many as there are cores
    folder: str  # of the runs, in results/
    both_versions: list[str] = []  # variants whose median seed also plays the other version of Pong
    weights: list[str] = []  # variants whose weights are numbers to be tabulated

    @property
    def last_file(self) -> str:
        """The last file that results/ gets of a run: with it the run is complete."""
        return OWN if self.episodes else "run.json"

    def changes(self, variant: str) -> dict[str, Any]:
        """The keys in which a variant differs from its config."""
        names = list(self.variants)
        names = names[: names.index(variant) + 1] if self.cumulative else [variant]
        changes = self.common | {key: value for name in names for key, value in self.variants[name].items()}
        return {key: value for key, value in changes.items() if key not in ("config", "seeds")}

    def source(self, variant: str) -> Path:
        """The config file that a variant changes."""
        return Path(self.variants[variant].get("config", self.config))

    def variant(self, name: str) -> Config:
        """A variant's config."""
        base = load_config(self.source(name)).model_dump(exclude_none=True)
        return validate({**base, **self.changes(name), "name": slug(name)}, source=f"variant {name}")

    def seeds_of(self, variant: str) -> list[int]:
        """The seeds of a variant's runs."""
        return list(self.variants[variant].get("seeds", self.seeds))

    def place(self, variant: str, seed: int) -> Path:
        """A run's folder, in results/ and in runs/."""
        return Path(self.folder) / slug(variant) / f"s{seed}"


def slug(variant: str) -> str:
    """A variant's name for files."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", variant).strip("_")


def main(
    studies: tyro.conf.Positional[tuple[str, ...]],
    *,
    only: Annotated[tuple[str, ...], tyro.conf.arg(help="train only these variants")] = (),
    at_once: Annotated[NonNegativeInt, tyro.conf.arg(help="runs at the same time; 0: as the study says")] = 0,
    export: Annotated[bool, tyro.conf.arg(help="also write each variant's median seed to pretrained/")] = False,
) -> None:
    """Run what is missing of some studies.

    Args:
        studies: names of files in configs/studies/; none: all.
    """
    for study in map(load, chosen(studies, known())):
        names = chosen(only, study.variants)
        jobs = [(name, seed) for name in names for seed in study.seeds_of(name)]
        jobs.sort(key=lambda job: study.seeds_of(job[0]).index(job[1]))  # every variant's first seed first
        work = [(RUNS / f"{study.place(*job)}.log", complete(study, *job)) for job in jobs]
        last = [(RUNS / study.folder / f"{slug(name)}.log", finish(study, name, export)) for name in names]
        for runs, number in (work, at_once or study.at_once), (last, 1):
            if failed := side_by_side(runs, ["python", *sys.argv], number):
                raise RunError("; ".join(failed.values()))


def known() -> list[str]:
    """The names of all studies."""
    return sorted(file.stem for file in STUDIES.glob("*.toml"))


def load(name: str) -> Study:
    """Read a study; an InputError says what is wrong in it."""
    path = STUDIES / f"{name}.toml"
    try:
        return Study(**{"folder": name, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def chosen(only: Collection[str], known: Collection[str]) -> list[str]:
    """The given names, each once and in the order of ``known``, or all; an InputError if there is no such name."""
    for name in only:
        if name not in known:
            raise InputError(f"there is no {name!r}; {nearest(name, known)}")
    return [name for name in known if name in only] or list(known)


def complete(study: Study, variant: str, seed: int) -> Iterator[tuple[object, ...]]:
    """Yield the commands of ``pong`` that train and evaluate a run, then copy what results/ needs of it."""
    place = study.place(variant, seed)
    run, results = RUNS / place, RESULTS / place
    if (results / study.last_file).exists():
        return
    run.parent.mkdir(parents=True, exist_ok=True)
    if not (run / OWN).exists():
        yield "train", config_file(study, variant), "--seed", seed, "--run-dir", run
        if study.episodes:
            ways = () if study.greedy else ("--sampled",)
            yield "eval", run, "--episodes", study.episodes, *ways, "--json", run / OWN
    results.mkdir(parents=True, exist_ok=True)
    thin(run, results)
    if variant in study.weights:
        policy = load_policy(run)[0].state_dict()
        weights = {name: value.item() for name, value in policy.items()}  # single numbers all of them
        (results / "weights.json").write_text(json.dumps(weights, indent=2) + "\n", encoding="utf-8")
    for file in dict.fromkeys(("config.toml", "run.json", study.last_file)):
        shutil.copy(run / file, results / file)
    print(f"{place}: done", flush=True)


def config_file(study: Study, variant: str) -> Path:
    """The config file of a variant; written if it changes anything."""
    if not study.changes(variant):
        return study.source(variant)
    path = RUNS / study.folder / f"{slug(variant)}.toml"
    path.write_text(to_toml(study.variant(variant)), encoding="utf-8")
    return path


def thin(run: Path, results: Path) -> None:
    """Copy every few rows of a curve, its last, and the first whose mean of 100 games is at least each of MARKS."""
    head, *rows = (run / "metrics.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    *_, mean100 = read_curve(run)
    first = {int(np.argmax(mean100 >= mark)) for mark in MARKS if np.any(mean100 >= mark)}
    kept = first.union(range(len(rows) - 1, -1, -max(len(rows) // ROWS, 1)))
    (results / "metrics.csv").write_text(head + "".join(rows[row] for row in sorted(kept)), encoding="utf-8")


def median(study: Study, variant: str) -> int | None:
    """The seed in the middle by sampled score, the lower of two; None if some runs are missing."""
    files = {seed: RESULTS / study.place(variant, seed) / OWN for seed in study.seeds_of(variant)}
    if not all(file.exists() for file in files.values()):
        return None
    scores = {seed: json.loads(file.read_text(encoding="utf-8"))["sampled"]["mean"] for seed, file in files.items()}
    return sorted(scores, key=lambda seed: scores[seed])[(len(scores) - 1) // 2]


def finish(study: Study, variant: str, export: bool) -> Iterator[tuple[object, ...]]:
    """Yield commands: the median seed plays the version of Pong that it was not trained in, and may be exported."""
    if (seed := median(study, variant)) is None:
        return
    place = study.place(variant, seed)
    name, *task = OTHER["plain" if study.variant(variant).sticky else "sticky"]
    if variant in study.both_versions and not (RESULTS / place / name).exists():
        yield "eval", RUNS / place, "--episodes", study.episodes, *task, "--json", RESULTS / place / name
    if export:
        folder = Path("pretrained") / slug(variant)
        shutil.rmtree(folder, ignore_errors=True)
        yield "export", RUNS / place, folder, "--half"


if __name__ == "__main__":
    common.run(main)
