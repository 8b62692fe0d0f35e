"""How close training comes to the speed of the emulator, and how far it leaves the loop of 2016 behind.

Everything is measured in turns on the same machine, so that its moods hit all alike; what counts is the ratios.
"""

import contextlib
import csv
import io
import itertools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ale_py
import gymnasium
import numpy as np
import torch
import tyro
from ale_py.vector_env import AtariVectorEnv
from processes import family, memory_mb
from rich.console import Console
from rich.table import Table

from pong import train
from pong.baseline import Baseline
from pong.config import Config, load_config, to_toml
from pong.envs import DOWN, UP, Pong
from pong.frames import View
from pong.player import Noise
from pong.player_process import PlayerProcess
from pong.policies import KarpathyPolicy
from pong.ranks import cores
from pong.rollout import Rollout
from pong.tracking import Tracker
from pong.train import Trainer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import karpathy_numpy as numpy_2016  # noqa: E402


@dataclass(frozen=True)
class Flags:
    """Measure raw emulation, rollout and training in turns, and print their ratios."""

    configs: Annotated[tuple[str, ...], tyro.conf.arg(help="recipes in configs/")] = ("pong", "karpathy")
    rounds: Annotated[int, tyro.conf.arg(help="turns of each")] = 4
    seconds: Annotated[float, tyro.conf.arg(help="the least each turn takes")] = 1.5
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto"
    watch_updates: Annotated[int, tyro.conf.arg(help="updates over which `pong train` is watched from outside")] = 4
    ranks: Annotated[int, tyro.conf.arg(help="also watch it with so many torch.distributed ranks")] = 0
    json: Annotated[
        Path | None, tyro.conf.arg(help="also write everything to this file, and the tables to .md beside it")
    ] = None


@dataclass(frozen=True)
class Speed:
    """Work done in one turn."""

    steps: int
    frames: int
    seconds: float


Turn = Callable[[float], Speed]  # works for at least so many seconds


def main() -> None:
    """Measure, print, write."""
    flags = tyro.cli(Flags, prog="scripts/bench.py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    report: dict[str, Any] = {"machine": machine(), "recipes": {}}
    for name in flags.configs:
        config = load_config(ROOT / "configs" / f"{name}.toml").model_copy(update={"device": flags.device})
        report["recipes"][name] = measure(config, flags)
    show(report)
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        flags.json.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


def machine() -> dict[str, Any]:
    """Where this was measured."""
    cpu = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": cpu,
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ale_py": ale_py.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(config: Config, flags: Flags) -> dict[str, Any]:
    """All turns of one recipe."""
    with contextlib.ExitStack() as stack:
        threads = best_threads(config, flags.seconds / 2)
        training = Training(config, stack)
        turns: dict[str, Turn] = {
            "raw": raw(config, threads),
            "rollout": rollout_only(config, stack),
            "training": training.turn,
            "2016 loop": loop_of_2016(config, stack),
        }
        speeds: dict[str, list[Speed]] = {what: [] for what in turns}
        with gpu_busy() as busy:
            for _, (what, turn) in itertools.product(range(flags.rounds), turns.items()):
                speeds[what].append(turn(flags.seconds))
            gpu_busy_percent = busy()
    rates = {what: [one.frames / one.seconds for one in some] for what, some in speeds.items()}
    return {
        **{what: summary(some) for what, some in speeds.items()},
        "raw_threads": threads,
        "training ÷ raw": ratio(rates["training"], rates["raw"]),
        "rollout ÷ raw": ratio(rates["rollout"], rates["raw"]),
        "training ÷ 2016 loop": ratio(rates["training"], rates["2016 loop"]),
        "learner_ms_per_update": round(1e3 * statistics.median(training.learn_seconds), 2),
        "rows_per_update": round(statistics.median(training.rows)),
        "one_core_microseconds_per_step": where_the_time_goes(config, flags.seconds),
        "pong train": watch(config, flags.watch_updates, ranks=1),
        f"pong train, {flags.ranks} ranks": watch(config, flags.watch_updates, flags.ranks) if flags.ranks else None,
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "gpu_busy_percent": gpu_busy_percent,
    }


# --- the four kinds of work -------------------------------------------------------------------------------------------


def raw_emulators(config: Config, threads: int) -> AtariVectorEnv:
    """The recipe's game and screens without anything of ours."""
    return AtariVectorEnv(
        "pong",
        config.num_envs,
        num_threads=threads,
        repeat_action_probability=config.sticky,
        img_height=210,
        img_width=160,
        stack_num=1,
        frameskip=hold(config),
        maxpool=False,
        noop_max=config.noop_max,
        reward_clipping=False,
        use_fire_reset=False,
    )


def hold(config: Config) -> int:
    """Frames per decision, on average: raw emulators can only hold a fixed number."""
    return 3 if config.hold == "2-4" else config.hold


def raw(config: Config, threads: int) -> Turn:
    """The emulators with random actions, in lockstep."""
    emulators, random = raw_emulators(config, threads), np.random.default_rng(0)
    emulators.reset(seed=1)

    emulators.step(random.integers(UP, DOWN + 1, config.num_envs))

    def turn(seconds: float) -> Speed:
        steps, began = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - began < seconds:
            emulators.step(random.integers(UP, DOWN + 1, config.num_envs))
            steps += config.num_envs
        return Speed(steps, steps * hold(config), time.perf_counter() - began)

    return turn


def best_threads(config: Config, seconds: float) -> int:
    """How many threads make raw emulation fastest here."""
    candidates = sorted({min(n, config.num_envs) for n in (max(cores() // 2, 1), cores(), 2 * cores())})
    turns = {threads: raw(config, threads) for threads in candidates}
    speeds: dict[int, list[float]] = {threads: [] for threads in candidates}
    for _, (threads, turn) in itertools.product(range(3), turns.items()):
        speed = turn(seconds)
        speeds[threads].append(speed.steps / speed.seconds)
    return max(candidates, key=lambda threads: statistics.median(speeds[threads]))


def rollout_only(config: Config, stack: contextlib.ExitStack) -> Turn:
    """Play with an untrained policy, learning nothing."""
    played = Rollout(config, train.make_policy(config))
    stack.callback(played.close)
    updates = itertools.count()
    played.collect(next(updates))

    def turn(seconds: float) -> Speed:
        steps, frames, began = 0, 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - began < seconds:
            batch = played.collect(next(updates))
            steps, frames = steps + batch.steps, frames + batch.frames
        return Speed(steps, frames, time.perf_counter() - began)

    return turn


class Training:
    """The whole of it: rollout, learning, tracking."""

    def __init__(self, config: Config, stack: contextlib.ExitStack):
        self.trainer = Trainer(config)
        stack.callback(self.trainer.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.tracker = Tracker(config, folder, Console(file=io.StringIO()))
        stack.enter_context(self.tracker)
        self.updates = self.trainer.run()
        next(self.updates)
        self.learn_seconds: list[float] = []
        self.rows: list[int] = []

    def turn(self, seconds: float) -> Speed:
        """Train for so long, from one update's end to another's, and leave the cores to others."""
        next(self.updates)  # played before the turn
        before, frames, began = self.trainer.steps, 0, time.perf_counter()
        while frames == 0 or time.perf_counter() - began < seconds:
            frames += self.update()
        speed = Speed(self.trainer.steps - before, frames, time.perf_counter() - began)
        for player in self.trainer.rollout.players:
            if isinstance(player, PlayerProcess):
                player.wait()  # it has begun the next rollout
        return speed

    def update(self) -> int:
        """One update, tracked; the frames it emulated."""
        update = next(self.updates)
        self.tracker.track(update, self.trainer.steps, self.trainer.policy)
        self.learn_seconds.append(update.learn_seconds)
        self.rows.append(len(update.batch.returns))
        return update.batch.frames


LEARNING = (
    ("policy", Noise, "draw"),
    ("learner", Baseline, "predict"),
    ("learner", Trainer, "_standardize"),
    ("learner", Trainer, "_step"),
    ("learner", Trainer, "_measure"),
    ("learner", Baseline, "fit"),
    ("tracking", Tracker, "track"),
)
PLAYING_PONG = (
    ("emulator", Pong, "reset"),
    ("emulator", Pong, "step"),
    ("frames", View, "first"),
    ("frames", View, "next"),
    ("policy", KarpathyPolicy, "act"),
)


def where_the_time_goes(config: Config, seconds: float, playing: Any = PLAYING_PONG) -> dict[str, float]:
    """One core's time by activity, microseconds per agent step: one process plays its share of emulators and learns.

    Args:
        config: the recipe.
        seconds: to measure for, at least.
        playing: what a player does, in functions: (activity, class or module, name) of each.
    """
    share = -(-config.num_envs // min(cores(), config.num_envs))
    alone = config.model_copy(update={"processes": 1, "num_envs": share})
    clock = dict.fromkeys(("emulator", "frames", "policy", "learner", "tracking"), 0.0)
    with contextlib.ExitStack() as stack:
        training = Training(alone, stack)
        for what, owner, name in (*playing, *LEARNING):
            stack.enter_context(timed(clock, what, owner, name))
        before, began = training.trainer.steps, time.perf_counter()
        while time.perf_counter() - began < 2 * seconds:
            training.update()
        clock["bookkeeping"] = time.perf_counter() - began - sum(clock.values())
        steps = training.trainer.steps - before
    return {what: round(1e6 * spent / steps, 2) for what, spent in clock.items()}


@contextlib.contextmanager
def timed(clock: dict[str, float], what: str, owner: Any, name: str) -> Iterator[None]:
    """Add up the time spent in a function, meanwhile."""
    function = getattr(owner, name)

    def stopwatch(*arguments: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **more)
        finally:
            clock[what] += time.perf_counter() - began

    setattr(owner, name, stopwatch)
    try:
        yield
    finally:
        setattr(owner, name, function)


def loop_of_2016(config: Config, stack: contextlib.ExitStack) -> Turn:
    """The loop of 2016 in a process of its own, with one or all cores for NumPy, whichever is faster here."""
    pools = []
    for threads in sorted({1, cores()}):
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)  # read when the process starts
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, spawn, initializer=Loop2016.begin, initargs=(config,))
        stack.callback(pool.shutdown)
        pools.append((pool.submit(Loop2016.turn, 1.0).result(), pool))
    fastest = max(pools, key=lambda tried: tried[0].steps / tried[0].seconds)[1]
    return lambda seconds: fastest.submit(Loop2016.turn, seconds).result()


class Loop2016:
    """One emulator through gymnasium, NumPy in float64, an RMSProp step every 10 games, as the original works."""

    here: "Loop2016"  # in the process that runs it

    @classmethod
    def begin(cls, config: Config) -> None:
        """Start the process."""
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        cls.here = cls(config)

    @classmethod
    def turn(cls, seconds: float) -> Speed:
        """Play and learn for so long."""
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            cls.here.step()
            steps += 1
        return Speed(steps, steps * hold(cls.here.config), time.perf_counter() - began)

    def __init__(self, config: Config):
        gymnasium.register_envs(ale_py)
        warnings.simplefilter("ignore", DeprecationWarning)  # gymnasium would rather have a newer Pong
        gymnasium.logger.min_level = gymnasium.logger.ERROR
        if config.hold == "2-4":
            self.emulator = gymnasium.make("Pong-v0")
        else:
            task = {"frameskip": config.hold, "repeat_action_probability": config.sticky}
            self.emulator = gymnasium.make("PongNoFrameskip-v4", **task)
        self.config = config
        self.random = np.random.default_rng(0)
        self.weights = numpy_2016.init(config.hidden, self.random)
        self.rms = numpy_2016.RMSProp(self.weights)
        self.gradients = [np.zeros_like(weight) for weight in self.weights]
        self.games = 0
        self.seed: int | None = 1
        self.new_game()

    def new_game(self) -> None:
        self.screen, _ = self.emulator.reset(seed=self.seed)
        self.seed, self.previous = None, None
        self.game: list[tuple[Any, Any, float, int, float]] = []

    def step(self) -> None:
        frame = numpy_2016.preprocess(self.screen).ravel()
        x = np.zeros_like(frame) if self.previous is None else frame - self.previous
        self.previous = frame
        h, p = numpy_2016.policy_forward(*self.weights, x)
        y = int(self.random.random() < p)
        self.screen, reward, terminated, truncated, _ = self.emulator.step(UP if y else DOWN)
        self.game.append((x, h, float(p), y, float(reward)))
        if terminated or truncated:
            self.learn()
            self.new_game()

    def learn(self) -> None:
        x, h, p, y, rewards = (np.array(column) for column in zip(*self.game, strict=True))
        advantages = numpy_2016.standardize(numpy_2016.discount(rewards, self.config.gamma))
        gradients = numpy_2016.backward(*self.weights, x, h, p, y, advantages)
        for total, one in zip(self.gradients, gradients, strict=True):
            total += one
        self.games += 1
        if self.games % 10 == 0:
            self.rms.step(self.gradients)
            for total in self.gradients:
                total[:] = 0


# --- numbers ----------------------------------------------------------------------------------------------------------


def summary(speeds: list[Speed]) -> dict[str, Any]:
    """Median and range over the turns."""
    steps = [one.steps / one.seconds for one in speeds]
    frames = [one.frames / one.seconds for one in speeds]
    return {
        "steps_per_second": round(statistics.median(steps)),
        "steps_per_second_range": [round(min(steps)), round(max(steps))],
        "frames_per_second": round(statistics.median(frames)),
    }


def ratio(these: list[float], those: list[float]) -> dict[str, Any]:
    """Turn by turn, so that a slow minute of the machine cancels out."""
    ratios = [one / other for one, other in zip(these, those, strict=True)]
    return {"median": round(statistics.median(ratios), 3), "range": [round(min(ratios), 3), round(max(ratios), 3)]}


def watch(config: Config, updates: int, ranks: int) -> dict[str, float]:
    """`pong train` from outside: steps/s after the first update, and MiB of all its processes.

    ``early_mb`` is the most over the first tenth of the updates, ``peak_mb`` the most over all.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, file = Path(folder) / "run", Path(folder) / "config.toml"
        file.write_text(to_toml(config.model_copy(update={"total_steps": 2**31})), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [sys.executable, *launcher, "-m", "pong", "train", str(file), "--run-dir", str(run)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it, with a warning
        training = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        early, peak = 0.0, 0.0
        rows: list[dict[str, str]] = []
        while len(rows) <= updates and training.poll() is None:
            time.sleep(1)
            with contextlib.suppress(OSError), (run / "metrics.csv").open(encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
            now = memory_of_all(training.pid)
            early = early if len(rows) > updates / 10 else max(early, now)
            peak = max(peak, now)
        training.send_signal(signal.SIGINT)
        training.wait()
    first, last = rows[0], rows[-1]
    seconds = 60 * (float(last["minutes"]) - float(first["minutes"]))
    return {
        "updates": len(rows),
        "steps_per_second": round((float(last["step"]) - float(first["step"])) / seconds),
        "early_mb": round(early),
        "peak_mb": round(peak),
    }


def memory_of_all(root: int) -> float:
    """Memory of a process and its descendants now, MiB, shared pages counted once; 0 where /proc does not tell."""
    total = 0.0
    for pid in family(root):
        with contextlib.suppress(OSError):
            total += memory_mb(pid)
    return total


@contextlib.contextmanager
def gpu_busy() -> Iterator[Callable[[], float | None]]:
    """The share of time the GPU had work, percent, as nvidia-smi samples it; None without a GPU."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250"]
    try:
        sampler = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield lambda: None
        return
    samples: list[float] = []

    def share() -> float | None:
        sampler.terminate()
        samples.extend(float(line) for line in (sampler.communicate()[0] or "").split() if line.strip().isdigit())
        return round(statistics.mean(samples), 1) if samples else None

    try:
        yield share
    finally:
        sampler.kill()


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    here = report["machine"]
    lines = [
        f"{here['cpu']}, {here['cores']} cores, GPU: {here['gpu'] or 'none'}; torch {here['torch']}, "
        f"ale-py {here['ale_py']}, Python {here['python']}, {here['date']}.",
        "",
        "| | " + " | ".join(f"{name}.toml" for name in report["recipes"]) + " |",
        "| --- |" + " --- |" * len(report["recipes"]),
    ]

    def row(what: str, value: Callable[[dict[str, Any]], str]) -> None:
        lines.append(f"| {what} | " + " | ".join(value(result) for result in report["recipes"].values()) + " |")

    for what in ("raw", "rollout", "training", "2016 loop"):
        row(f"{what}, agent steps/s", lambda result, what=what: f"{result[what]['steps_per_second']:,}")
    for what in ("training ÷ raw", "rollout ÷ raw", "training ÷ 2016 loop"):
        row(
            what,
            lambda result, what=what: "{median:.2f} ({0:.2f} … {1:.2f})".format(*result[what]["range"], **result[what]),
        )
    row(
        "learner, ms per update",
        lambda result: f"{result['learner_ms_per_update']} ({result['rows_per_update']:,} rows)",
    )
    for what in report["recipes"][next(iter(report["recipes"]))]["one_core_microseconds_per_step"]:
        row(
            f"one core: {what}, µs per step",
            lambda result, what=what: str(result["one_core_microseconds_per_step"][what]),
        )
    for command in (key for key in next(iter(report["recipes"].values())) if key.startswith("pong train")):
        if all(result[command] for result in report["recipes"].values()):
            row(f"{command}, agent steps/s", lambda result, command=command: f"{result[command]['steps_per_second']:,}")
            row(
                f"{command}, memory of all processes, MiB: first tenth, most (updates)",
                lambda result, command=command: "{early_mb:,}, {peak_mb:,} ({updates})".format(**result[command]),
            )
    if here["gpu"]:
        row("GPU memory, MiB", lambda result: f"{result['peak_gpu_mb']:,}")
        row("GPU busy, %", lambda result: str(result["gpu_busy_percent"]))
    return "\n".join(lines) + "\n"


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    here = report["machine"]
    console.print(f"{here['cpu']}, {here['cores']} cores, GPU: {here['gpu'] or 'none'}; torch {here['torch']}")
    for name, result in report["recipes"].items():
        table = Table(title=f"{name}: median of the turns (lowest … highest)")
        for column in ("", "agent steps/s", "frames/s", "÷ raw"):
            table.add_column(column, justify="left" if not column else "right")
        for what in ("raw", "rollout", "training", "2016 loop"):
            one, (low, high) = result[what], result[what]["steps_per_second_range"]
            share = result.get(f"{what} ÷ raw", {}).get("median")
            table.add_row(
                what,
                f"{one['steps_per_second']:,} ({low:,} … {high:,})",
                f"{one['frames_per_second']:,}",
                f"{share:.2f}" if share else "",
            )
        console.print(table)
        times = ", ".join(f"{what} {spent:.1f}" for what, spent in result["one_core_microseconds_per_step"].items())
        console.print(f"training ÷ 2016 loop: {result['training ÷ 2016 loop']['median']:.2f}")
        console.print(f"one core, µs per agent step: {times}")
        console.print(
            f"learner: {result['learner_ms_per_update']} ms per update of {result['rows_per_update']:,} rows; "
            f"memory: {result['pong train']['peak_mb']:.0f} MiB; "
            f"GPU memory: {result['peak_gpu_mb']} MiB, busy: {result['gpu_busy_percent']} %",
        )


if __name__ == "__main__":
    main()
