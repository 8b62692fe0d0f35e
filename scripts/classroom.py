"""Train the smaller systems, every seed, and write what docs/small-systems.md shows.

    make classroom

trains into FOLDER what is not there yet, evaluates it, and writes results/classroom/: each run's config.toml, run.json,
eval.json and every few rows of metrics.csv, the linear controllers' weights, two tables and two pictures.
"""

import json
from pathlib import Path
from typing import Annotated

import command_line
import plot
import seeds
import tyro

from pong import checkpoint
from pong.envs.lqr import optimal_gain

SEEDS = {
    "cartpole": (1, 2, 3, 4, 5),
    "cartpole_yoon": (1, 2, 3),
    "cartpole_simonini": (1, 2, 3),
    "lqr": (1, 2, 3, 4, 5),
}


def main(
    folder: Annotated[Path, tyro.conf.arg(help="of the runs")] = Path("runs/classroom"),
    results: Annotated[Path, tyro.conf.arg(help="of what is kept")] = Path("results/classroom"),
) -> None:
    """Train, evaluate, tabulate and draw."""
    runs = []
    for recipe, numbers in SEEDS.items():
        for seed in numbers:
            place = f"{recipe}/s{seed}"
            run(folder / place, results / place, recipe, seed)
            runs.append(plot.read(results / place))
    carts = [one for one in runs if one.config.env.startswith("CartPole")]
    plot.draw(carts, results / "cartpole.png", (195, 475))
    plot.draw([one for one in runs if one.config.name == "lqr"], results / "lqr.png", ())
    (results / "cartpole.md").write_text(plot.tables(carts, (195, 475)), encoding="utf-8")
    (results / "lqr.md").write_text(gains(results), encoding="utf-8")
    print((results / "cartpole.md").read_text(encoding="utf-8"), gains(results), sep="\n")


def run(folder: Path, kept: Path, recipe: str, seed: int) -> None:
    """Train and evaluate one, unless that is done."""
    seeds.keep(folder, kept, Path(f"configs/{recipe}.toml"), seed, ("--sampled",))
    if recipe == "lqr" and not (kept / "weights.json").exists():
        weights = {name: value.item() for name, value in checkpoint.load(folder).policy.items()}
        (kept / "weights.json").write_text(json.dumps(weights, indent=2) + "\n", encoding="utf-8")


def gains(results: Path) -> str:
    """The linear controllers beside the best one, as a Markdown table."""
    best = optimal_gain()
    lines = ["| seed | gain w | off by | b | log σ |", "| --- | --- | --- | --- | --- |"]
    lines.append(f"| Riccati | {best:.4f} | | 0 | |")
    for seed in SEEDS["lqr"]:
        weights = json.loads((results / f"lqr/s{seed}/weights.json").read_text(encoding="utf-8"))
        w, b, log_std = (weights[name] for name in ("network.0.weight", "network.0.bias", "log_std"))
        lines.append(f"| {seed} | {w:.4f} | {100 * abs(w / best - 1):.1f} % | {b:+.4f} | {log_std:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command_line.run(main)
