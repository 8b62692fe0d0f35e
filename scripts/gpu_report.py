"""What a GPU machine should show, in one command under ten minutes, offline and straight from the checkout.

    make gpu-report OUT=FOLDER

writes into FOLDER: gpu-tests.txt, bench.json, a folder for each recipe's training run (config.toml, run.json,
metrics.csv, eval.json), and report.json with the speed of convolutions that decide on the CPU and on the GPU, for more
and more games, and the minutes and steps to each score.
"""

import contextlib
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import bench
import common
import tyro
from common import ROOT
from processes import pong_train

from pong.config import load_config

SCORES = (-10, 0, 5, 7, 10, 15, 18)
GOALS = {"pong_conv_plain": 18.0, "pong_expert": 15.0}
MANY = (16, 64, 256, 1024)  # games that are decided for in one batch
GAMES, EVALUATION = 32, 45.0  # fresh games after each training, sampled and greedy each, and seconds reserved for them
MEAN100 = "charts/episodic_return_mean100"


def main(
    folder: tyro.conf.Positional[Path],
    *,
    minutes: Annotated[float, tyro.conf.arg(help="in all")] = 9.5,
    recipes: Annotated[tuple[str, ...], tyro.conf.arg(help="in configs/; they share the time left")] = tuple(GOALS),
    seed: Annotated[int, tyro.conf.arg(help="of the training runs")] = 1,
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Run the GPU tests, the benchmark, and training towards a goal.

    Args:
        folder: where the results go.
    """
    end = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    tests = python("-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", capture_output=True, text=True)
    (folder / "gpu-tests.txt").write_text(tests.stdout + tests.stderr, encoding="utf-8")
    last_line = (tests.stdout.strip() or "pytest printed nothing").splitlines()[-1]
    python("scripts/bench.py", "--json", folder / "bench.json", "--rounds", "2", "--seconds", "1", "--device", device)
    report = {"machine": bench.machine(), "gpu_tests": last_line, "acting": acting(device), "training": {}}
    for number, recipe in enumerate(recipes):
        share = (end - time.monotonic()) / (len(recipes) - number)
        flags = ("--seed", seed, "--device", device, "--stop-at-mean100", GOALS.get(recipe, 18.0))
        report["training"][recipe] = training(folder / recipe, recipe, flags, time.monotonic() + share)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def acting(device: str) -> dict[str, dict[str, int]]:
    """Agent steps/s of configs/pong_conv_plain.toml with as many decisions an update, from fewer or more games."""
    config = load_config(ROOT / "configs/pong_conv_plain.toml")
    speeds: dict[str, dict[str, int]] = {"cpu": {}, "learner": {}}
    for place, by_games in speeds.items():
        for games in MANY:
            shape = {"num_envs": games, "horizon": max(4096 // games, 1), "total_steps": 2**31}
            changed = config.model_copy(update={"device": device, "act_on": place, **shape})
            with contextlib.ExitStack() as stack:
                by_games[str(games)] = round(bench.Training(changed, stack).turn(3.0))
    return speeds


def training(folder: Path, recipe: str, flags: tuple[object, ...], end: float) -> dict[str, Any]:
    """Train to a goal or to the end of the time, and play fresh games; minutes and steps to each score."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = (ROOT / f"configs/{recipe}.toml", *flags, "--run-dir", run)
        with pong_train(*command) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic() - EVALUATION, 10))
        python("-m", "pong", "eval", run, "--episodes", GAMES, "--json", folder / "eval.json")
        for name in ("config.toml", "run.json", "metrics.csv"):
            shutil.copy(run / name, folder / name)
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    reached = {score: next((row for row in rows if row.get(MEAN100, -99) >= score), None) for score in SCORES}
    return {
        **{key: rows[-1].get(key) for key in ("step", "minutes", MEAN100)},
        "reached": {score: row and {"minutes": row["minutes"], "step": row["step"]} for score, row in reached.items()},
    }


def python(*arguments: Any, **settings: Any) -> "subprocess.CompletedProcess[str]":
    """Run this Python in the checkout."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=False, **settings)


if __name__ == "__main__":
    common.run(main)
