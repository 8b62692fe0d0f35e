"""Speed of training beside the emulators' own speed and the 2016 loop, and of the compiled Pong beside ALE.

The kinds of work alternate in one run, so that slow spells of the computer cancel out in the ratios. A turn works for
at least some seconds and returns agent steps a second.
"""

import contextlib
import functools
import io
import itertools
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from json import dumps
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import ale_py
import gymnasium
import numpy as np
import torch
import tyro
from ale_py.vector_env import AtariVectorEnv
from common import ROOT, markdown, run
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveInt
from rich.console import Console
from rich.markdown import Markdown

from pong.checkpoint import Counters
from pong.config import Config, load_config
from pong.distributed import cores
from pong.envs import make_fleet
from pong.envs.pong.task import DOWN, UP
from pong.observations import DifferenceFrames
from pong.policies import make_policy
from pong.rollout import Rollout
from pong.tracking import Tracker
from pong.train import Trainer, choose_device

sys.path.insert(0, str(ROOT / "tests"))
import karpathy_numpy as numpy_2016

Turn = Callable[[float], float]  # seconds → agent steps a second
GAMES = (16, 32, 1024)
MOST_IN_ALE = 32  # 1,024 emulators would take minutes to start, and be no faster
STEPS = 16  # whose random actions are drawn together
RATIOS = (
    *(("machine.step", "AtariVectorEnv, threads: 1"), ("MachineFleet", "AleFleet")),
    *(("training", "raw"), ("rollout", "raw"), ("training", "2016 loop")),
    *((obs_type, f"gymnasium's {obs_type}") for obs_type in ("state", "karpathy", "grayscale", "rgb", "atari")),
)
OBSERVATIONS = {  # by obs_type of pong/Pong-v5, gymnasium's own way to the same: ALE's obs_type, and what wraps it
    **{"state": ("ram", None), "karpathy": ("grayscale", DifferenceFrames)},
    **{"grayscale": ("grayscale", None), "rgb": ("rgb", None), "atari": ("", None)},
}
LOOPS: dict[str, Iterator[int]] = {}  # the 2016 loops of this process, by recipe


def main(
    configs: Annotated[tuple[str, ...], tyro.conf.arg(help="recipes in configs/")] = ("pong", "karpathy"),
    rounds: Annotated[PositiveInt, tyro.conf.arg(help="measurements of each kind")] = 4,
    seconds: Annotated[NonNegativeFloat, tyro.conf.arg(help="minimum duration of a measurement")] = 1.5,
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto",
    json: Annotated[Path | None, tyro.conf.arg(help="file for the numbers; the tables go to .md beside it")] = None,
) -> None:
    """Measure emulation, rollout and training in turns, and print their ratios."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    recipes = {name: load_config(ROOT / f"configs/{name}.toml").replace(device=device) for name in configs}
    choose_device(device)  # an error before the first minutes
    report: dict[str, Any] = {"machine": computer(), "one core": {}, "recipes": {}}
    if any(config.is_pong for config in recipes.values()):
        report["one core"] = {f"{games:,} games": one_core(games, rounds, seconds) for games in GAMES}
        report["environment"] = {f"{games:,} games": environments(games, rounds, seconds) for games in GAMES[1:]}
    for name, config in recipes.items():
        report["recipes"][name] = recipe(config.replace(total_steps=2**31), rounds, seconds)
    Console().print(Markdown(tables(report)))
    if json:
        json.write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
        json.with_suffix(".md").write_text(tables(report), encoding="utf-8")


def computer() -> dict[str, Any]:
    """The computer and the versions."""
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"^model name\s*: *(.*)$", info.read_text(encoding="utf-8") if info.exists() else "", re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ale_py": ale_py.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def one_core(games: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The compiled Pong on one core beside ALE, in pong.toml's task: the game alone, and with observations."""
    config = load_config(ROOT / "configs/pong.toml").replace(num_envs=games)
    ale = config.replace(num_envs=min(games, MOST_IN_ALE), emulator="ale")
    turns = {"AtariVectorEnv, threads: 1": raw_pong(ale, 1), "AleFleet": fleet(ale)}
    turns |= {"machine.step": fleet(config, observed=False), "MachineFleet": fleet(config)}
    return in_turns(turns, rounds, seconds, hold(config))


def environments(games: int, rounds: int, seconds: float) -> dict[str, Any]:
    """pong/Pong-v5 on one core beside gymnasium's own way to the same observations."""
    gymnasium.register_envs(ale_py)
    report = {}
    for obs_type, (ales, wrapper) in OBSERVATIONS.items():
        ours = gymnasium.make_vec("pong/Pong-v5", games, obs_type=obs_type)
        if ales:
            theirs = gymnasium.make_vec("ALE/Pong-v5", MOST_IN_ALE, vectorization_mode="sync", obs_type=ales)
        else:
            theirs = AtariVectorEnv("pong", MOST_IN_ALE, num_threads=1, repeat_action_probability=0.25)
        turns = {obs_type: ours, f"gymnasium's {obs_type}": wrapper(theirs) if wrapper else theirs}
        for env in turns.values():
            env.reset(seed=1)
        works = {name: lockstep(env.num_envs, env.step, UP) for name, env in turns.items()}
        report |= in_turns(works, rounds, seconds, 4)
    return report


def recipe(config: Config, rounds: int, seconds: float) -> dict[str, Any]:
    """A recipe's speeds."""
    with contextlib.ExitStack() as stack:
        turns, training = {}, Training(config, stack)
        if config.is_pong:
            turns = {"raw": raw_pong(config, cores()), "2016 loop": loop_of_2016(config, stack)}
        rollout, numbers = Rollout(config, make_policy(config)), itertools.count()
        stack.callback(rollout.close)
        turns["rollout"] = functools.partial(repeat, lambda: rollout.collect(next(numbers)).steps)
        report = in_turns(turns | {"training": training.turn}, rounds, seconds, hold(config)) | training.costs()
    cuda = torch.cuda.is_available()
    return report | {"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None}


# --- turns ------------------------------------------------------------------------------------------------------------


def in_turns(turns: dict[str, Turn], rounds: int, seconds: float, frames: int) -> dict[str, Any]:
    """Each kind of work once a round: medians and ranges of agent steps a second, and of ratios turn by turn.

    A step takes so many ``frames``.
    """
    for turn in turns.values():
        turn(0.0)  # warm-up
    measured = [[turn(seconds) for turn in turns.values()] for _ in range(rounds)]
    speeds = dict(zip(turns, np.transpose(measured), strict=True))
    report: dict[str, Any] = {}
    for name, values in speeds.items():
        median = np.median(values)
        report[name] = {"steps_per_second": round(median), "frames_per_second": round(frames * median)}
    for name, other in RATIOS:
        if name in speeds and other in speeds:
            ratio = speeds[name] / speeds[other]
            middle, low, high = (round(value, 3) for value in (np.median(ratio), ratio.min(), ratio.max()))
            report[f"{name} ÷ {other}"] = {"median": middle, "range": [low, high]}
    return report


def repeat(work: Callable[[], int], seconds: float) -> float:
    """Do work that returns its agent steps for at least so long: steps a second."""
    steps, start = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - start < seconds:
        steps += work()
    return steps / (time.perf_counter() - start)


def raw_pong(config: Config, threads: int) -> Turn:
    """The recipe's game and screens in ale-py's own vector environment, without any code of ours."""
    screens = {"img_height": 210, "img_width": 160, "stack_num": 1, "maxpool": False}
    start = {"noop_max": config.noop_max, "use_fire_reset": False, "reward_clipping": False}
    game = {"frameskip": hold(config), "repeat_action_probability": config.sticky}
    emulators = AtariVectorEnv("pong", config.num_envs, num_threads=threads, **screens, **start, **game)
    emulators.reset(seed=1)
    return lockstep(config.num_envs, emulators.step, UP)


def fleet(config: Config, *, observed: bool = True) -> Turn:
    """The emulators that a recipe trains in; the compiled Pong may leave out its observations."""
    games, active = make_fleet(config, config.num_envs), np.ones(config.num_envs, np.bool_)
    games.reset(np.arange(config.num_envs))
    if not observed:
        games._observe = lambda *_: None
    return lockstep(config.num_envs, lambda actions: games.step(actions, active), 0)


def lockstep(games: int, step: Callable[[NDArray[np.int64]], Any], first: int) -> Turn:
    """All games together with random actions, ``first`` and the next one."""
    random = np.random.default_rng(0)

    def work() -> int:
        for actions in random.integers(first, first + 2, (STEPS, games)):
            step(actions)
        return STEPS * games

    return functools.partial(repeat, work)


def hold(config: Config) -> int:
    """Frames per decision, on average: raw emulators can only hold a fixed number."""
    return 3 if config.hold == "2-4" else config.hold


class Training:
    """Rollout, learning and tracking, as `pong train` does them."""

    def __init__(self, config: Config, stack: contextlib.ExitStack):
        self.trainer = stack.enter_context(contextlib.closing(Trainer(config)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tracker = Tracker(config, folder, Console(file=io.StringIO()), Counters(), time.monotonic())
        self.tracker = stack.enter_context(tracker)
        self.learned: list[tuple[int, int, float]] = []  # steps, rows, seconds of learning
        self.updates = self.trainer.run()
        next(self.updates)

    def turn(self, seconds: float) -> float:
        """Train from one update's end to another's, and leave the cores to others."""
        next(self.updates)  # played before the turn
        speed = repeat(self.update, seconds)
        self.trainer.rollout.wait()  # the next one has started
        return speed

    def update(self) -> int:
        """One update, tracked; its steps."""
        update = next(self.updates)
        self.tracker.track(update, self.trainer.steps, self.trainer.policy)
        self.learned.append((update.batch.steps, len(update.batch.observations), update.learn_seconds))
        return update.batch.steps

    def costs(self) -> dict[str, Any]:
        """Of the learner by the clock, medians over the updates."""
        steps, rows, seconds = np.median(self.learned, axis=0)
        costs = {"learner_ms_per_update": round(1e3 * seconds, 2), "rows_per_update": round(rows)}
        return {**costs, "microseconds_per_step": {"learner": round(1e6 * seconds / steps, 2)}}


def loop_of_2016(config: Config, stack: contextlib.ExitStack) -> Turn:
    """The loop in a process of its own, with one or all cores for NumPy, whichever is faster."""
    speeds = {}
    for threads in sorted({1, cores()}):
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        with mock.patch.dict(os.environ, OPENBLAS_NUM_THREADS=str(threads)):  # read when the process starts
            speeds[pool] = pool.submit(turn_of_2016, config, 1.0).result()
    fastest = max(speeds, key=lambda pool: speeds[pool])
    return lambda seconds: fastest.submit(turn_of_2016, config, seconds).result()


def turn_of_2016(config: Config, seconds: float) -> float:
    """Play and learn, from where this process's previous turn ended."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return repeat(LOOPS.setdefault(config.name, decisions_of_2016(config)).__next__, seconds)


def decisions_of_2016(config: Config) -> Iterator[int]:
    """One emulator through gymnasium, NumPy in float64, a step of RMSProp every ten games; yields 1 each decision."""
    random = np.random.default_rng(0)
    weights = numpy_2016.init(config.hidden, random)
    rms, gradients = numpy_2016.RMSProp(weights), [np.zeros_like(weight) for weight in weights]
    gymnasium.register_envs(ale_py)
    frameskip = (2, 5) if config.hold == "2-4" else config.hold
    emulator = gymnasium.make("ALE/Pong-v5", frameskip=frameskip, repeat_action_probability=config.sticky)
    for games in itertools.count(1):
        (screen, _), previous, ended, game = emulator.reset(seed=games), None, False, []
        while not ended:
            frame = numpy_2016.preprocess(screen).ravel()
            x = np.zeros_like(frame) if previous is None else frame - previous
            h, p = numpy_2016.policy_forward(*weights, x)
            y = int(random.random() < p)
            screen, reward, terminated, truncated, _ = emulator.step(UP if y else DOWN)
            previous, ended = frame, terminated or truncated
            game.append((x, h, float(p), y, float(reward)))
            yield 1
        x, h, p, y, rewards = (np.array(column) for column in zip(*game, strict=True))
        advantages = numpy_2016.standardize(numpy_2016.discount(rewards, config.gamma))
        for total, gradient in zip(gradients, numpy_2016.backward(*weights, x, h, p, y, advantages), strict=True):
            total += gradient
        if games % 10 == 0:
            rms.step(gradients)
            gradients = [np.zeros_like(weight) for weight in weights]


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    about = report["machine"] | {"gpu": report["machine"]["gpu"] or "none"}
    where = "{cpu}, {cores} cores, GPU: {gpu}; torch {torch}, ale-py {ale_py}, Python {python}, {date}.\n"
    games = {name: column(speeds, "frames_per_second") for name, speeds in report["one core"].items()}
    unit, speeds_of = ", agent steps/s", report["recipes"].items()
    recipes = {f"{name}.toml": column(speeds, "steps_per_second", unit) for name, speeds in speeds_of}
    observed = {name: column(speeds, "steps_per_second") for name, speeds in report.get("environment", {}).items()}
    title = f"frames/s on one core; ALE with {MOST_IN_ALE} games at most"
    of_environment = table(f"pong/Pong-v5, decisions/s on one core; ALE with {MOST_IN_ALE} games", observed)
    parts = (where.format(**about), table(title, games), of_environment, table("", recipes))
    return "\n".join(filter(None, parts))


def table(title: str, columns: dict[str, dict[str, str]]) -> str:
    """A table of columns, each a dictionary by row."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return markdown([{title: row, **{name: column.get(row, "") for name, column in columns.items()}} for row in rows])


def column(speeds: dict[str, Any], key: str, unit: str = "") -> dict[str, str]:
    """Speeds and ratios, and what an update costs."""
    cells = {}
    for name, value in speeds.items():
        if "÷" in name:
            digits = 2 if value["median"] < 100 else 0
            cells[name] = "{0:,.{3}f} ({1:,.{3}f} … {2:,.{3}f})".format(value["median"], *value["range"], digits)
        elif name == "microseconds_per_step":
            cells |= {f"{part}, µs per step": str(spent) for part, spent in value.items()}
        elif name == "learner_ms_per_update":
            cells["learner, ms per update"] = f"{value} ({speeds['rows_per_update']:,} rows)"
        elif name == "peak_gpu_mb" and value:
            cells["GPU memory, MiB"] = f"{value:,}"
        elif isinstance(value, dict):
            cells[name + unit] = f"{value[key]:,}"
    return cells


if __name__ == "__main__":
    run(main)
