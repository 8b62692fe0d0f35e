"""Train recipes with several seeds each, evaluate them, and keep what results/ shows.

    python scripts/seeds.py doom_basic doom_health --episodes 50 --results results/doom

trains configs/doom_basic.toml and configs/doom_health.toml in runs/doom/, goes on there with what was interrupted, and
leaves alone what is done; scripts/plot.py draws it.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import tyro

from pong.config import InputError

ROWS = 500  # of a run's metrics.csv that are kept, at least, if it has so many


def main(
    recipes: tyro.conf.Positional[tuple[str, ...]],
    *,
    results: Annotated[Path, tyro.conf.arg(help="folder of what is kept; the runs are in one of its name in runs/")],
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="of the training")] = (1, 2, 3),
    episodes: Annotated[int, tyro.conf.arg(help="fresh games at the end, sampled and greedy each")] = 100,
) -> None:
    """Train and evaluate what is missing, and keep what results/ shows of it.

    Args:
        recipes: in configs/.
    """
    for recipe in recipes:
        for seed in seeds:
            name = f"{recipe}-s{seed}"
            evaluation = ("--episodes", episodes)
            keep(Path("runs") / results.name / name, results / name, Path(f"configs/{recipe}.toml"), seed, evaluation)


def keep(run: Path, kept: Path, recipe: Path, seed: int, evaluation: tuple[object, ...], processes: int = 0) -> None:
    """Train and evaluate one, unless that is done, and keep what results/ shows of it.

    Args:
        run: its folder; beside it RUN.log has what was said.
        kept: gets config.toml, run.json, eval.json and every few rows of metrics.csv.
        recipe: a config file.
        seed: of the training.
        evaluation: flags of ``pong eval``.
        processes: that play; 0: one per core.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_name(f"{run.name}.log")
    if not (run / "eval.json").exists():
        if (run / "config.toml").exists():
            pong(log, "train", "--resume", run)
        else:
            pong(log, "train", recipe, "--seed", seed, "--processes", processes, "--run-dir", run)
        pong(log, "eval", run, *evaluation, "--json", run / "eval.json")
    kept.mkdir(parents=True, exist_ok=True)
    thin(run / "metrics.csv", kept / "metrics.csv")
    for file in ("config.toml", "run.json", "eval.json"):  # the last says that all is there
        shutil.copy(run / file, kept / file)
    print(f"{run.name}: done", flush=True)


def pong(log: Path, *arguments: object) -> None:
    """Run a command of pong, whose output goes into a log."""
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "pong", *map(str, arguments)]
        if subprocess.run(command, stdout=file, stderr=file, check=False).returncode:
            raise InputError(f"{' '.join(command)} failed; see {log}")


def thin(whole: Path, kept: Path) -> None:
    """Keep every few rows of a curve, and the last."""
    head, *rows = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    few = rows[:: -max(len(rows) // ROWS, 1)][::-1]
    kept.write_text(head + "".join(few), encoding="utf-8")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (InputError, OSError) as error:
        sys.exit(f"seeds: {error}")
