"""Runs side by side, one core each, and the seeds of one config with their mean."""

import contextlib
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pong.checkpoint import write_atomically
from pong.config import RunError, load_config, to_toml
from pong.distributed import LAUNCHER, Ranks, cores
from pong.run import TrainRequest, check_same_run, stop_requested, writable
from pong.tracking import LINE_SECONDS, say
from pong.train import check, choose_device

COLUMNS = ("step", "minutes", "charts/episodic_return_mean100")
CONSOLE = Console(soft_wrap=True, highlight=False)
Process = subprocess.Popen[bytes]
Show = Callable[[], None]
Runs = dict[int, Path]  # folders by seed
Jobs = Iterable[tuple[Path, Iterable[Sequence[object]]]]  # logs, and commands of pong to run one after the other


def train_seeds(request: TrainRequest, seeds: list[int], command: list[str]) -> int:
    """Train or resume a run for each seed and return the exit status; after a stop, ``command`` resumes them."""
    config = request.config
    if config.device == "auto":  # a core for each seed; they would share one GPU
        config = config.replace(device="cpu")
    folder = request.run_dir or Path("runs") / f"{config.name}-seeds-{time.strftime('%Y%m%d-%H%M%S')}"
    source, runs = folder / "config.toml", {seed: folder / f"s{seed}" for seed in seeds}
    check(config, Ranks())
    choose_device(config.device)
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if source.exists():
            check_same_run(config, load_config(source, trust=True), folder)
        write_atomically(source, to_toml(config).encode())
    init = ("--init", request.init) if request.init else ()
    train = ("train", source, *init, *["--trust"] * (":" in config.env))
    jobs = [(run.with_suffix(".log"), [(*train, "--seed", seed, "--run-dir", run)]) for seed, run in runs.items()]
    say(CONSOLE, f"{folder}: {config.name}, {len(seeds)} seeds, {min(cores(), len(seeds))} at a time")
    with _progress(runs, config.total_steps) as show:
        failed = side_by_side(jobs, command if request.run_dir else [*command, "--run-dir", str(folder)], show=show)
    if complete := {seed: run for seed, run in runs.items() if run.with_suffix(".log") not in failed}:
        summarize(folder, complete)
    if failed:
        raise RunError("; ".join(failed.values()))
    say(CONSOLE, f"done; all curves: tensorboard --logdir {shlex.quote(str(folder))}")
    return 0


def side_by_side(jobs: Jobs, resume: list[str], at_once: int = 0, show: Show = lambda: None) -> dict[Path, str]:
    """Run ``at_once`` jobs at the same time, one core each; returns why some failed, by their log.

    0 is a job for each core; a single one has all cores. A signal stops them, and a message says how to ``resume``.
    """
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(cores())]
    shares = itertools.cycle([available] if at_once == 1 else [[core] for core in available])
    queue, running, failed = iter(jobs), list[Process](), dict[Path, str]()
    workers = [_work(queue, next(shares), running, failed) for _ in range(at_once or len(available))]
    with stop_requested(Ranks(), CONSOLE, shlex.join(resume)) as stop:
        try:
            while not stop() and (workers := [worker for worker in workers if next(worker, False)]):
                show()
                time.sleep(0.5)
        finally:
            for process in running:
                process.send_signal(signal.SIGINT)  # each saves
            for process in running:
                process.wait()
        if stop():
            raise KeyboardInterrupt
    return failed


def _work(queue: Jobs, share: list[int], running: list[Process], failed: dict[Path, str]) -> Iterator[bool]:
    """Do jobs of the queue on a share of the cores; yields True while a command runs."""
    for log, commands in queue:
        for arguments in commands:
            command = [sys.executable, "-m", "pong", *map(str, arguments)]
            env, null = os.environ | {LAUNCHER: str(os.getpid())}, subprocess.DEVNULL
            with log.open("ab") as file:  # in a session of its own, which Ctrl-C does not reach
                process = Process(command, env=env, stdin=null, stdout=file, stderr=file, start_new_session=True)
            running.append(process)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, share)
            while process.poll() is None:
                yield True
            running.remove(process)
            if process.returncode:
                *_, last = log.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
                failed[log] = f"{last.removeprefix('pong: ')} (see {log})"
                break


@contextlib.contextmanager
def _progress(runs: Runs, total_steps: int) -> Iterator[Show]:
    """A function that shows a bar for each run on a terminal, and elsewhere a line for all now and then."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    bars = Progress(*columns, console=CONSOLE, auto_refresh=False, disable=not CONSOLE.is_terminal)
    tasks = {seed: bars.add_task(f"seed {seed}", total=total_steps) for seed in runs}
    next_line = time.monotonic() + LINE_SECONDS

    def show() -> None:
        nonlocal next_line
        for seed, task in tasks.items():
            [step], _, [mean100] = read_curve(runs[seed], rows=1)
            score = "" if math.isnan(mean100) else f" mean100 {mean100:+.2f}"
            bars.update(task, completed=np.nan_to_num(step), description=f"seed {seed}{score}")
        bars.refresh()
        if bars.disable and time.monotonic() >= next_line:
            next_line += LINE_SECONDS
            say(CONSOLE, ", ".join(f"{task.description} at {task.percentage:.0f}%" for task in bars.tasks))

    with bars:
        yield show


def summarize(folder: Path, runs: Runs) -> None:
    """Print and save a table of complete runs, the mean of their scores, and a picture of their curves."""
    curves = {seed: read_curve(run) for seed, run in runs.items()}
    rows = [(seed, *curve[:, -1].tolist()) for seed, curve in curves.items()]
    say(CONSOLE, f"{'seed':>6}{'steps':>14}{'minutes':>9}{'mean100':>9}")
    for row in rows:
        say(CONSOLE, "{:6}{:14,.0f}{:9.1f}{:+9.2f}".format(*row))
    mean, half = map(float, t_interval(np.array([mean100 for *_, mean100 in rows])))
    say(CONSOLE, f"mean100 of {len(rows)} seeds: {mean:+.2f} ± {half:.2f} (95 %, Student's t)")
    table = [dict(zip(("seed", "steps", "minutes", "mean100"), row, strict=True)) for row in rows]
    text = json.dumps({"seeds": table, "mean100": mean, "plus_minus": half}, indent=2).replace("NaN", "null")
    (folder / "seeds.json").write_text(f"{text}\n", encoding="utf-8")
    try:
        draw([*curves.values()], folder / "curves.png")
    except ImportError:
        say(CONSOLE, "curves.png, a picture of all curves, needs matplotlib: pip install matplotlib")


def read_curve(run: Path, rows: int = 0) -> NDArray[np.float64]:
    """Steps, minutes and mean100 of the last or all (0) rows of a run's metrics.csv, (3, rows); NaN if missing."""
    with contextlib.suppress(OSError, ValueError):
        head, first, *others, _ = (run / "metrics.csv").read_text(encoding="utf-8").split("\n")
        columns = [head.split(",").index(name) for name in COLUMNS]
        cells = [line.split(",") for line in [first, *others][-rows:]]
        return np.array([[float(row[column] or "nan") for row in cells] for column in columns])
    return np.full((len(COLUMNS), 1), np.nan)


def draw(curves: list[NDArray[np.float64]], path: Path) -> None:
    """Draw the mean of 100 games over agent steps: a line for each run, and their mean with its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    at = np.linspace(0, max(steps[-1] for steps, _, _ in curves), 500)
    mean, half = t_interval(np.array([np.interp(at, steps, y, np.nan, np.nan) for steps, _, y in curves]))
    for steps, _, y in curves:
        axes.plot(steps, y, color="C0", linewidth=0.8, alpha=0.5)
    axes.plot(at, mean, color="C1")
    axes.fill_between(at, mean - half, mean + half, color="C1", alpha=0.3, linewidth=0)
    axes.set(xlabel="agent steps", ylabel="score, mean of the last 100 games")
    axes.set_title(f"{path.parent.name}: {len(curves)} seeds, their mean and its 95 % interval (Student's t)")
    figure.savefig(path, dpi=130)


def t_interval(scores: NDArray[np.float64]) -> tuple[Any, Any]:
    """The mean over the first axis, and half of its 95 % interval: t·s/√n; NaN for a single score."""
    df = len(scores) - 1
    return scores.mean(axis=0), t_quantile(df) * np.sqrt(scores.var(axis=0) / (df or np.nan))


def t_quantile(df: float) -> float:
    """Student's t at 0.975."""
    angles, chances = t_angles(df)
    return float(math.sqrt(df) * np.tan(np.interp(0.95, chances, angles)))


def t_angles(df: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles from 0 to π/2, and the chance of a smaller |θ|: t = √df·tan θ, with a density of θ ∝ cos(θ)^(df − 1)."""
    edges = np.linspace(0, np.pi / 2, 100_001)
    mass = np.cumsum(np.cos((edges[1:] + edges[:-1]) / 2) ** (df - 1))
    return edges, np.concatenate([[0], mass / mass[-1]])
