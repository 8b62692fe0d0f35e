"""How far the machine leaves ALE behind, and training in it ALE's own speed and the loop of 2016.

Everything is measured in turns on the same computer, so that its moods hit all alike; what counts is the ratios.
"""

import contextlib
import csv
import functools
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
from rich.markdown import Markdown

from pong import train
from pong.config import Config, load_config, to_toml
from pong.envs import DOWN, UP, make_fleet
from pong.envs.machine_fleet import MachineFleet
from pong.frames import SparseFrames
from pong.policies import CategoricalPolicy, KarpathyPolicy
from pong.ranks import cores
from pong.rollout import Rollout
from pong.tracking import Tracker
from pong.train import Trainer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import karpathy_numpy as numpy_2016  # noqa: E402


@dataclass(frozen=True)
class Flags:
    """Measure emulation, rollout and training in turns, and print their ratios."""

    configs: Annotated[tuple[str, ...], tyro.conf.arg(help="recipes in configs/")] = ("pong", "karpathy")
    rounds: Annotated[int, tyro.conf.arg(help="turns of each")] = 4
    seconds: Annotated[float, tyro.conf.arg(help="the least each turn takes")] = 1.5
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto"
    watch_updates: Annotated[int, tyro.conf.arg(help="updates over which `pong train` is watched from outside")] = 100
    ranks: Annotated[int, tyro.conf.arg(help="also watch it with so many torch.distributed ranks")] = 0
    json: Annotated[Path | None, tyro.conf.arg(help="also write it all to this file, and the tables to .md beside")] = (
        None
    )


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
    report: dict[str, Any] = {"machine": machine(), "one core": one_core(flags), "recipes": {}}
    for name in flags.configs:
        endless = {"device": flags.device, "total_steps": 2**31}
        config = load_config(ROOT / "configs" / f"{name}.toml").model_copy(update=endless)
        report["recipes"][name] = measure(config, flags)
    Console().print(Markdown(markdown(report)))
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


GAMES = (16, 32, 1024)
MOST_IN_ALE = 32  # 1,024 emulators would take minutes to start, and be no faster
COMPARED = {"machine.step": "AtariVectorEnv, threads: 1", "MachineFleet": "PongFleet"}


def one_core(flags: Flags) -> dict[str, Any]:
    """The machine on one core beside ALE, in pong.toml's task: the game alone, and with the rows that a policy sees."""
    config = load_config(ROOT / "configs/pong.toml")
    threads = best_threads(config, flags.seconds / 2)
    turns: dict[tuple[int, str], Turn] = {}
    for games in GAMES:
        some = config.model_copy(update={"num_envs": games})
        if games <= MOST_IN_ALE:
            for n in sorted({1, threads}):
                turns[games, f"AtariVectorEnv, threads: {n}"] = raw(some, n)
            turns[games, "PongFleet"] = fleet_alone(some.model_copy(update={"emulator": "ale"}))
        turns[games, "machine.step"] = machine_alone(some)
        turns[games, "MachineFleet"] = fleet_alone(some)
    speeds = in_turns(turns, flags.rounds, flags.seconds)
    return {
        f"{games:,} games": {what: summary(some) for (n, what), some in speeds.items() if n == games}
        | {
            f"{ours} ÷ {ales}": ratio(speeds[games, ours], speeds[min(games, MOST_IN_ALE), ales])
            for ours, ales in COMPARED.items()
        }
        for games in GAMES
    }


def measure(config: Config, flags: Flags) -> dict[str, Any]:
    """All turns of one recipe."""
    with contextlib.ExitStack() as stack:
        threads = best_threads(config, flags.seconds / 2)
        training = Training(config, stack)
        turns = {
            "raw": raw(config, threads),
            "rollout": rollout_only(config, stack),
            "training": training.turn,
            "2016 loop": loop_of_2016(config, stack),
        }
        busy = gpu_busy(stack)
        speeds = in_turns(turns, flags.rounds, flags.seconds)
        gpu_busy_percent = busy()
    return {
        **{what: summary(some) for what, some in speeds.items()},
        "raw_threads": threads,
        "training ÷ raw": ratio(speeds["training"], speeds["raw"]),
        "rollout ÷ raw": ratio(speeds["rollout"], speeds["raw"]),
        "training ÷ 2016 loop": ratio(speeds["training"], speeds["2016 loop"]),
        "learner_ms_per_update": round(1e3 * statistics.median(training.learn_seconds), 2),
        "rows_per_update": round(statistics.median(training.rows)),
        "microseconds_per_step": where_the_time_goes(config, flags.seconds),
        "pong train": watch(config, flags.watch_updates, ranks=1),
        f"pong train, {flags.ranks} ranks": watch(config, flags.watch_updates, flags.ranks) if flags.ranks else None,
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "gpu_busy_percent": gpu_busy_percent,
    }


def in_turns(turns: dict[Any, Turn], rounds: int, seconds: float) -> dict[Any, list[Speed]]:
    """Each turn once a round."""
    speeds: dict[Any, list[Speed]] = {what: [] for what in turns}
    for _, (what, turn) in itertools.product(range(rounds), turns.items()):
        speeds[what].append(turn(seconds))
    return speeds


def repeat(work: Callable[[], tuple[int, int]], seconds: float) -> Speed:
    """Do it again and again, for at least so long; each time it says its steps and frames."""
    steps, frames, began = 0, 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - began < seconds:
        more_steps, more_frames = work()
        steps, frames = steps + more_steps, frames + more_frames
    return Speed(steps, frames, time.perf_counter() - began)


# --- the kinds of work ------------------------------------------------------------------------------------------------


def raw(config: Config, threads: int) -> Turn:
    """The recipe's game and screens in ale-py's own vector environment, without anything of ours."""
    emulators = AtariVectorEnv(
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
    emulators.reset(seed=1)
    return lockstep(config, emulators.step, UP)


def fleet_alone(config: Config) -> Turn:
    """What a player plays in, rows included."""
    fleet, everyone = make_fleet(config), np.ones(config.num_envs, np.bool_)
    fleet.reset(np.arange(config.num_envs))
    return lockstep(config, lambda actions: fleet.step(actions, everyone), 0)


def machine_alone(config: Config) -> Turn:
    """The machine with ALE's random stream, without rows."""
    fleet, everyone = make_fleet(config), np.ones(config.num_envs, np.bool_)
    assert isinstance(fleet, MachineFleet)
    fleet.reset(np.arange(config.num_envs))
    return lockstep(config, lambda actions: fleet.play(actions, everyone), 0)


def lockstep(config: Config, step: Callable[[Any], Any], first: int) -> Turn:
    """All games together with random actions, two of them from ``first`` on."""
    random, moments = np.random.default_rng(0), 16  # drawn and timed together: each alone would slow the machine down

    def work() -> tuple[int, int]:
        for actions in random.integers(first, first + 2, (moments, config.num_envs)):
            step(actions)
        return moments * config.num_envs, moments * config.num_envs * hold(config)

    work()  # what is slow but once
    return functools.partial(repeat, work)


def hold(config: Config) -> int:
    """Frames per decision, on average: raw emulators can only hold a fixed number."""
    return 3 if config.hold == "2-4" else config.hold


def best_threads(config: Config, seconds: float) -> int:
    """How many threads make raw emulation fastest here."""
    candidates = sorted({min(n, config.num_envs) for n in (max(cores() // 2, 1), cores(), 2 * cores())})
    speeds = in_turns({threads: raw(config, threads) for threads in candidates}, 3, seconds)
    return max(candidates, key=lambda threads: statistics.median(one.steps / one.seconds for one in speeds[threads]))


def rollout_only(config: Config, stack: contextlib.ExitStack) -> Turn:
    """Play with an untrained policy, learning nothing."""
    played = Rollout(config, train.make_policy(config))
    stack.callback(played.close)
    updates = itertools.count()

    def work() -> tuple[int, int]:
        batch = played.collect(next(updates))
        return batch.steps, batch.frames

    work()
    return functools.partial(repeat, work)


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
        self.steps: list[int] = []
        self.rows: list[int] = []
        self.pixels: list[float] = []  # of a row, that are not 0

    def turn(self, seconds: float) -> Speed:
        """Train for so long, from one update's end to another's, and leave the cores to others."""
        next(self.updates)  # played before the turn
        speed = repeat(self.update, seconds)
        for player in self.trainer.rollout.players:
            player.finish()  # it has begun the next rollout
        return speed

    def update(self) -> tuple[int, int]:
        """One update, tracked; its steps and frames."""
        update = next(self.updates)
        self.tracker.track(update, self.trainer.steps, self.trainer.policy)
        self.learn_seconds.append(update.learn_seconds)
        self.rows.append(len(update.batch.returns))
        if isinstance(seen := update.batch.observations, SparseFrames):
            self.pixels.append(len(seen.columns) / len(seen))
        self.steps.append(update.batch.steps)
        return update.batch.steps, update.batch.frames


PLAYING = (
    *(("play", MachineFleet, name) for name in ("reset", "play_segment", "step")),
    *(("play", policy, "act") for policy in (KarpathyPolicy, CategoricalPolicy)),
)
LEARNING = (("learner", Trainer, "_learn"), ("tracking", Tracker, "track"))


def where_the_time_goes(config: Config, seconds: float, playing: Any = PLAYING) -> dict[str, float]:
    """The processor's time by activity, microseconds per agent step, of all threads together; one of them plays.

    The last is what the learner's first layers can't do without: their multiply-adds, at the rate at which a core here
    multiplies full matrices.

    Args:
        config: the recipe.
        seconds: to measure for, at least.
        playing: what a player does, functions (activity, owner, name).
    """
    with contextlib.ExitStack() as stack:
        training = Training(config.model_copy(update={"players": 1}), stack)
        clock = dict.fromkeys((what for what, _, _ in (*playing, *LEARNING)), 0.0)
        for what, owner, name in (*playing, *LEARNING):
            stack.enter_context(timed(clock, what, owner, name))
        before, began, used = training.trainer.steps, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < 2 * seconds:
            training.update()
        clock["bookkeeping"] = time.process_time() - used - sum(clock.values())
        steps = training.trainer.steps - before
    if config.policy == "karpathy":
        passes = 3 + 2 * config.baseline_passes * (config.baseline == "network")  # there, back, and there for the KL
        work = passes * config.layers[0] * statistics.mean(training.pixels) * sum(training.rows)
        clock["the learner's multiply-adds alone"] = work / multiply_adds() / sum(training.steps) * steps
    return {what: round(1e6 * spent / steps, 2) for what, spent in clock.items()}


def multiply_adds(side: int = 1024) -> float:
    """Of float32 numbers, a second, on one core."""
    numbers = torch.ones(side, side)
    speed = repeat(lambda: ((numbers @ numbers).shape[0], 0), 0.5)
    return speed.steps * side * side / speed.seconds


@contextlib.contextmanager
def timed(clock: dict[str, float], what: str, owner: Any, name: str) -> Iterator[None]:
    """Add up the processor's time spent in a function, meanwhile."""
    function = getattr(owner, name)

    def stopwatch(*arguments: Any, **more: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **more)
        finally:
            clock[what] += time.thread_time() - began

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
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), Loop2016.begin, (config,))
        stack.callback(pool.shutdown)
        pools.append((pool.submit(Loop2016.turn, 1.0).result(), pool))
    fastest = max(pools, key=lambda tried: tried[0].steps / tried[0].seconds)[1]
    return lambda seconds: fastest.submit(Loop2016.turn, seconds).result()


class Loop2016:
    """One emulator through gymnasium, NumPy in float64, an RMSProp step every 10 games, as the original works."""

    @classmethod
    def begin(cls, config: Config) -> None:
        """Be the loop of this process."""
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        cls.here = cls(config)

    @classmethod
    def turn(cls, seconds: float) -> Speed:
        """Play and learn for so long."""
        return repeat(cls.here.step, seconds)

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

    def step(self) -> tuple[int, int]:
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
        return 1, hold(self.config)

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


def ratio(these: list[Speed], those: list[Speed]) -> dict[str, Any]:
    """Frames a second, turn by turn, so that a slow minute of the computer cancels out."""
    pairs = zip(these, those, strict=True)
    ratios = [one.frames / one.seconds / (other.frames / other.seconds) for one, other in pairs]
    return {"median": round(statistics.median(ratios), 3), "range": [round(min(ratios), 3), round(max(ratios), 3)]}


def watch(config: Config, updates: int, ranks: int) -> dict[str, float]:
    """`pong train` from outside: steps/s after the first update, and MiB of all its processes.

    ``early_mb`` is the most over the first tenth of the updates, ``peak_mb`` the most over all.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, file = Path(folder) / "run", Path(folder) / "config.toml"
        file.write_text(to_toml(config), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [sys.executable, *launcher, "-m", "pong", "train", str(file), "--run-dir", str(run)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}  # as torchrun sets it, with a warning
        training = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        early, peak = 0.0, 0.0
        rows: list[dict[str, str]] = []
        while len(rows) <= updates and training.poll() is None:
            time.sleep(1)
            with contextlib.suppress(OSError), (run / "metrics.csv").open(encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
            with contextlib.suppress(OSError):  # one has just ended, or /proc does not tell
                now = sum(memory_mb(pid) for pid in family(training.pid))
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


def gpu_busy(stack: contextlib.ExitStack) -> Callable[[], float | None]:
    """The share of time from now on that the GPU had work, percent, as nvidia-smi samples it; None without a GPU."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250"]
    try:
        sampler = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return lambda: None
    stack.callback(sampler.kill)

    def share() -> float | None:
        sampler.terminate()
        samples = [float(sample) for sample in sampler.communicate()[0].split() if sample.isdigit()]
        return round(statistics.mean(samples), 1) if samples else None

    return share


def markdown(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    here = report["machine"]
    where = (
        f"{here['cpu']}, {here['cores']} cores, GPU: {here['gpu'] or 'none'}; torch {here['torch']}, "
        f"ale-py {here['ale_py']}, Python {here['python']}, {here['date']}."
    )
    games = {name: speeds_of(result, "frames_per_second") for name, result in report["one core"].items()}
    recipes = {f"{name}.toml": of_recipe(result) for name, result in report["recipes"].items()}
    title = f"frames/s on one core; ALE with {MOST_IN_ALE} games at most"
    return "\n".join((where, "", *table(title, games), "", *table("", recipes), ""))


def table(title: str, columns: dict[str, dict[str, str]]) -> list[str]:
    """The lines of a table, whose columns are what they show by row."""
    rows = dict.fromkeys(row for cells in columns.values() for row in cells)
    lines = [[title, *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(cells.get(row, "") for cells in columns.values())] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def speeds_of(result: dict[str, Any], key: str, unit: str = "") -> dict[str, str]:
    """What to show of the turns and of their ratios."""
    shown = {}
    for what, one in result.items():
        if "÷" in what:
            digits = 2 if one["median"] < 100 else 0
            shown[what] = "{0:,.{3}f} ({1:,.{3}f} … {2:,.{3}f})".format(one["median"], *one["range"], digits)
        elif isinstance(one, dict) and "frames_per_second" in one:  # a summary
            shown[what + unit] = f"{one[key]:,}"
    return shown


def of_recipe(result: dict[str, Any]) -> dict[str, str]:
    """What to show of a recipe."""
    shown = speeds_of(result, "steps_per_second", ", agent steps/s")
    shown["learner, ms per update"] = f"{result['learner_ms_per_update']} ({result['rows_per_update']:,} rows)"
    for what, spent in result["microseconds_per_step"].items():
        shown[f"{what}, µs per step"] = str(spent)
    for command, seen in result.items():
        if command.startswith("pong train") and seen:
            memory = f"{command}, memory of all processes, MiB: first tenth, most (updates)"
            shown[f"{command}, agent steps/s"] = f"{seen['steps_per_second']:,}"
            shown[memory] = "{early_mb:,}, {peak_mb:,} ({updates})".format(**seen)
    if result["peak_gpu_mb"] is not None:
        shown |= {"GPU memory, MiB": f"{result['peak_gpu_mb']:,}", "GPU busy, %": str(result["gpu_busy_percent"])}
    return shown


if __name__ == "__main__":
    main()
