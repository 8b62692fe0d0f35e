"""Train recipes with several seeds each, evaluate them, and keep what results/ shows.

    python scripts/seeds.py doom_basic doom_health --episodes 50 --results results/doom

trains configs/doom_basic.toml and configs/doom_health.toml in runs/doom/, resumes there what was interrupted, and
leaves alone what is done; scripts/plot.py draws it.
"""

import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import command_line
import tyro

from pong.config import RunError
from pong.distributed import cores

ROWS = 500  # of a run's metrics.csv that are kept, at least, if it has so many
OWN, OTHER = "eval.json", {"sticky": "eval-sticky.json", "plain": "eval-plain.json"}  # of fresh games on each task
TASKS = {"sticky": ("--sticky", 0.25, "--noop-max", 0), "plain": ("--sticky", 0.0, "--noop-max", 30)}


def main(
    recipes: tyro.conf.Positional[tuple[str, ...]],
    *,
    results: Annotated[Path, tyro.conf.arg(help="folder of what is kept; the runs are in one of its name in runs/")],
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="of the training")] = (1, 2, 3),
    episodes: Annotated[int, tyro.conf.arg(help="fresh games at the end, sampled and greedy each")] = 100,
    at_once: Annotated[int, tyro.conf.arg(help="runs at the same time, on a core each; 1: one, on all cores")] = 1,
) -> None:
    """Train and evaluate what is missing, and keep what results/ shows of it.

    Args:
        recipes: in configs/.
    """
    jobs = [(recipe, seed) for recipe in recipes for seed in seeds]

    def run(job: tuple[str, int], core: int | None) -> None:
        recipe, seed = job
        place = f"{recipe}/s{seed}"
        evaluation = ("--episodes", episodes)
        keep(
            Path("runs") / results.name / place, results / place, Path(f"configs/{recipe}.toml"), seed, evaluation, core
        )

    side_by_side(run, jobs, at_once)


def side_by_side(run: Callable[[Any, int | None], None], jobs: Iterable[Any], at_once: int) -> None:
    """Run jobs, so many at a time on a core each; a single one has all cores, and is told None."""
    free: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for core in range(at_once):
        free.put(core % cores() if at_once > 1 else None)

    def work(job: Any) -> None:
        core = free.get()
        try:
            run(job, core)
        finally:
            free.put(core)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, jobs))


def keep(
    run: Path, kept: Path, recipe: Path, seed: int, evaluation: tuple[object, ...], core: int | None = None
) -> None:
    """Train and evaluate one, unless that is done, and keep what results/ shows of it.

    Args:
        run: its folder; beside it RUN.log has what was said.
        kept: gets config.toml, run.json, eval.json and every few rows of metrics.csv.
        recipe: a config file.
        seed: of the training.
        evaluation: flags of ``pong eval``; none: no games are played at the end.
        core: that it runs on alone; None: on all.
    """
    last = OWN if evaluation else "run.json"  # to be kept: says that all is there
    if (kept / last).exists():
        return
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_name(f"{run.name}.log")
    if not (evaluation and (run / OWN).exists()):
        if (run / "config.toml").exists():
            pong(log, core, "train", "--resume", run)
        else:
            pong(log, core, "train", recipe, "--seed", seed, "--run-dir", run)
    if evaluation and not (run / OWN).exists():
        pong(log, core, "eval", run, *evaluation, "--json", run / OWN)
    kept.mkdir(parents=True, exist_ok=True)
    thin(run / "metrics.csv", kept / "metrics.csv")
    for file in dict.fromkeys(("config.toml", "run.json", last)):
        shutil.copy(run / file, kept / file)
    print(f"{run}: done", flush=True)


def pong(log: Path, core: int | None, *arguments: object) -> None:
    """Run a command of pong, on one core or on all, whose output goes into a log."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    with log.open("a", encoding="utf-8") as file:
        command = [*pinned, sys.executable, "-m", "pong", *map(str, arguments)]
        if subprocess.run(command, stdout=file, stderr=file, check=False).returncode:
            raise RunError(f"{' '.join(command)} failed; see {log}")


def thin(whole: Path, kept: Path) -> None:
    """Keep every few rows of a curve, and the last."""
    head, *rows = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    few = rows[:: -max(len(rows) // ROWS, 1)][::-1]
    kept.write_text(head + "".join(few), encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
