"""Everything a GPU machine should show, in one command under ten minutes, offline and straight from the checkout.

    make gpu-report OUT=FOLDER

writes into FOLDER: gpu-tests.txt, bench.json, a folder for each recipe's training run (config.toml, run.json,
metrics.csv, eval.json), its picture, and report.json with the speed of convolutions that decide on the CPU and on the
GPU, for more and more games, and the minutes and steps to each score.
"""

import contextlib
import itertools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import bench
import plot
import tyro
from bench_turns import Training
from processes import ROOT, pong_train

from pong.config import load_config

SCORES = (-10, 0, 5, 7, 10, 15, 18)
GOALS = {"pong_conv_plain": 18.0, "pong_expert": 15.0}
MANY = (16, 64, 256, 1024)  # games that are decided for in one batch
GAMES, EVALUATION = 32, 45.0  # fresh games after each training, sampled and greedy each, and the seconds kept for them


def main(
    folder: tyro.conf.Positional[Path],
    *,
    minutes: Annotated[float, tyro.conf.arg(help="in all")] = 9.5,
    recipes: Annotated[tuple[str, ...], tyro.conf.arg(help="in configs/; they share the time left")] = tuple(GOALS),
    seed: Annotated[int, tyro.conf.arg(help="of the training runs")] = 1,
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Run the GPU tests, the benchmark, and training towards +18 without sticky actions (a ConvNet) and +10 with them.

    Args:
        folder: where the results go.
    """
    end = time.monotonic() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": bench.machine(), "gpu_tests": tests(folder / "gpu-tests.txt")}
    python("scripts/bench.py", "--json", folder / "bench.json", "--rounds", "2", "--seconds", "1", "--device", device)
    report["acting"] = acting(device)
    report["training"] = {}
    for number, recipe in enumerate(recipes):
        share = (end - time.monotonic()) / (len(recipes) - number)
        report["training"][recipe] = training(folder, recipe, seed, device, time.monotonic() + share)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def tests(log: Path) -> str:
    """The GPU tests' last line."""
    done = python("-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    return (done.stdout.strip() or "pytest printed nothing").splitlines()[-1]


def acting(device: str) -> dict[str, dict[str, int]]:
    """Agent steps/s of configs/pong_conv_plain.toml with as many decisions an update, from fewer or more games."""
    config = load_config(ROOT / "configs/pong_conv_plain.toml")
    speeds: dict[str, dict[str, int]] = {}
    for where, games in itertools.product(("cpu", "learner"), MANY):
        shape = {"num_envs": games, "horizon": max(4096 // games, 1), "total_steps": 2**31}
        some = config.model_copy(update={"device": device, "act_on": where, **shape})
        with contextlib.ExitStack() as stack:
            speeds.setdefault(where, {})[str(games)] = round(Training(some, stack).turn(3.0))
    return speeds


def training(folder: Path, recipe: str, seed: int, device: str, end: float) -> dict[str, Any]:
    """Train to a goal or to the end of the time, and play fresh games; minutes and steps to each score."""
    kept = folder / recipe
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        flags = ("--seed", seed, "--device", device, "--stop-at-mean100", GOALS.get(recipe, 18.0), "--run-dir", run)
        with (
            pong_train(ROOT / f"configs/{recipe}.toml", *flags) as process,
            contextlib.suppress(subprocess.TimeoutExpired),
        ):
            process.wait(max(end - time.monotonic() - EVALUATION, 10))
        python("-m", "pong", "eval", run, "--episodes", GAMES, "--json", kept / "eval.json")
        for name in ("config.toml", "run.json", "metrics.csv"):
            shutil.copy(run / name, kept / name)
    result = plot.read(kept)
    plot.draw([result], folder / f"{recipe}.png")
    return summary(result)


def summary(run: plot.Run) -> dict[str, Any]:
    """How far a run came, and minutes and steps to each score."""
    last, reached = run.rows[-1], {str(score): run.reached(score) for score in SCORES}
    return {
        "seed": run.config.seed,
        "steps": last["step"],
        "minutes": last["minutes"],
        "mean100": None if math.isnan(last[plot.MEAN100]) else last[plot.MEAN100],
        "reached": {
            score: {"minutes": row["minutes"], "steps": row["step"]} if row else None for score, row in reached.items()
        },
    }


def python(*arguments: Any, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run this Python in the checkout."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=False, **more)


if __name__ == "__main__":
    tyro.cli(main)
