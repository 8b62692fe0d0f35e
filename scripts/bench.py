"""Speed of training beside the emulators' own speed and the 2016 loop, and of the compiled Pong beside ALE.

All kinds of work take turns in one run, so that slow spells of the computer cancel out in the ratios. A turn works for
at least some seconds and returns agent steps a second.
"""

import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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
from rich.console import Console
from rich.markdown import Markdown

from pong.checkpoint import Counters
from pong.config import PONG, Config, load_config, to_toml
from pong.distributed import cores
from pong.envs import DOWN, UP, make_fleet
from pong.policies import make_policy
from pong.rollout import Rollout
from pong.tracking import Tracker
from pong.train import Trainer

sys.path.insert(0, str(ROOT / "tests"))
import karpathy_numpy as numpy_2016

Turn = Callable[[float], float]  # seconds → agent steps a second
GAMES = (16, 32, 1024)
MOST_IN_ALE = 32  # 1,024 emulators would take minutes to start, and be no faster
STEPS = 16  # whose random actions are drawn together
DOOM_SCREENS = {"raw": "RES_160X120", "raw, 320 × 240": "RES_320X240"}  # ours, and ViZDoom's usual one
LOOPS: dict[str, Iterator[int]] = {}  # the 2016 loops of this process, by recipe


@dataclass(frozen=True)
class Flags:
    """Measure emulation, rollout and training in turns, and print their ratios."""

    configs: Annotated[tuple[str, ...], tyro.conf.arg(help="recipes in configs/")] = ("pong", "karpathy")
    rounds: Annotated[int, tyro.conf.arg(help="turns of each kind of work")] = 4
    seconds: Annotated[float, tyro.conf.arg(help="the least that each turn takes")] = 1.5
    device: Annotated[str, tyro.conf.arg(help="auto, cpu or cuda")] = "auto"
    watch_updates: Annotated[int, tyro.conf.arg(help="updates of `pong train` to watch; 0: don't run it")] = 100
    ranks: Annotated[int, tyro.conf.arg(help="also watch it with so many torch.distributed ranks")] = 0
    json: Annotated[Path | None, tyro.conf.arg(help="file for the numbers; the tables go to .md beside it")] = None


def main(flags: tyro.conf.OmitArgPrefixes[Flags]) -> None:
    """Measure, print, write."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    configs = {name: load_config(ROOT / f"configs/{name}.toml") for name in flags.configs}
    endless = {"device": flags.device, "total_steps": 2**31}
    report: dict[str, Any] = {"machine": machine(), "one core": {}, "recipes": {}}
    if any(config.env == PONG for config in configs.values()):
        report["one core"] = {f"{games:,} games": one_core(games, flags) for games in GAMES}
    for name, config in configs.items():
        report["recipes"][name] = recipe(config.model_copy(update=endless), flags)
    Console().print(Markdown(tables(report)))
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        flags.json.with_suffix(".md").write_text(tables(report), encoding="utf-8")


def machine() -> dict[str, Any]:
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


def one_core(games: int, flags: Flags) -> dict[str, Any]:
    """The compiled Pong on one core beside ALE, in pong.toml's task: the game alone, and with observations."""
    config = load_config(ROOT / "configs/pong.toml")
    ours, ale = (config.model_copy(update={"num_envs": n}) for n in (games, min(games, MOST_IN_ALE)))
    threads = sorted({1, cores()}) if games <= MOST_IN_ALE else [1]  # with more games ALE is only compared with
    turns = {f"AtariVectorEnv, threads: {n}": raw_pong(ale, n) for n in threads}
    turns["PongFleet"] = fleet(ale.model_copy(update={"emulator": "ale"}))
    turns |= {"machine.step": fleet(ours, "play"), "MachineFleet": fleet(ours)}
    report = in_turns(turns, flags, config)
    if games > MOST_IN_ALE:
        del report["AtariVectorEnv, threads: 1"], report["PongFleet"]
    return report


def recipe(config: Config, flags: Flags) -> dict[str, Any]:
    """A recipe's speeds, and `pong train` watched from outside."""
    with contextlib.ExitStack() as stack:
        training, turns = Training(config, stack), {}
        if config.env == PONG:
            turns = {"raw": raw_pong(config, cores())}
        elif config.env.startswith("Vizdoom"):
            turns = {name: raw_doom(config, screen, stack) for name, screen in DOOM_SCREENS.items()}
        rollout, updates = (
            stack.enter_context(contextlib.closing(Rollout(config, make_policy(config)))),
            itertools.count(),
        )
        turns["rollout"] = functools.partial(repeat, lambda: rollout.collect(next(updates)).steps)
        turns["training"] = training.turn
        if config.env == PONG:
            turns["2016 loop"] = loop_of_2016(config, stack)
        report = in_turns(turns, flags, config) | training.costs()
    for ranks in sorted({1, flags.ranks or 1}) if flags.watch_updates else ():
        name = f"pong train, {ranks} ranks" if ranks > 1 else "pong train"
        report[name] = watch(config, flags.watch_updates, ranks)
    cuda = torch.cuda.is_available()
    return report | {"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None}


# --- turns ------------------------------------------------------------------------------------------------------------


def in_turns(turns: dict[str, Turn], flags: Flags, config: Config) -> dict[str, Any]:
    """Each kind of work once a round: medians and ranges of agent steps a second, and of ratios turn by turn."""
    for turn in turns.values():
        turn(0.0)  # warm-up
    rounds = [[turn(flags.seconds) for turn in turns.values()] for _ in range(flags.rounds)]
    speeds = dict(zip(turns, np.transpose(rounds), strict=True))
    report: dict[str, Any] = {}
    for name, values in speeds.items():
        report[name] = {
            "steps_per_second": round(np.median(values)),
            "steps_per_second_range": [round(values.min()), round(values.max())],
            "frames_per_second": round(hold(config) * np.median(values)),
        }
    for name, other in RATIOS:
        if name in speeds and other in speeds:
            ratio = speeds[name] / speeds[other]
            middle, low, high = (round(value, 3) for value in (np.median(ratio), ratio.min(), ratio.max()))
            report[f"{name} ÷ {other}"] = {"median": middle, "range": [low, high]}
    return report


RATIOS = (
    *(("machine.step", "AtariVectorEnv, threads: 1"), ("MachineFleet", "PongFleet")),
    *(("training", "raw"), ("rollout", "raw"), ("training", "2016 loop")),
)


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


def raw_doom(config: Config, screen: str, stack: contextlib.ExitStack) -> Turn:
    """ViZDoom in gymnasium's environments, one process per core, without any code of ours."""
    import vizdoom

    from pong.envs import doom

    folder = stack.enter_context(tempfile.TemporaryDirectory())  # for ViZDoom's files
    Path(folder, "_vizdoom").mkdir()  # games that start together would fail to create it
    shape = {"frame_skip": config.hold, "screen_resolution": getattr(vizdoom.ScreenResolution, screen)}
    with contextlib.chdir(folder):
        games = [functools.partial(doom.make_game, config.env, **shape)] * cores()
        envs = stack.enter_context(contextlib.closing(gymnasium.vector.AsyncVectorEnv(games)))
    envs.reset(seed=1)
    return functools.partial(repeat, lambda: len(envs.step(envs.action_space.sample())[1]))


def fleet(config: Config, method: str = "step") -> Turn:
    """The emulators that a recipe trains in; their "step" makes observations, the compiled Pong's "play" does not."""
    games, active = make_fleet(config), np.ones(config.num_envs, np.bool_)
    games.reset(np.arange(config.num_envs))
    play = getattr(games, method)
    return lockstep(config.num_envs, lambda actions: play(actions, active), 0)


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
        self.learned: list[tuple[int, int, float, float]] = []  # steps, rows, seconds of learning and of tracking
        self.updates = self.trainer.run()
        next(self.updates)

    def turn(self, seconds: float) -> float:
        """Train from one update's end to another's, and leave the cores to others."""
        next(self.updates)  # played before the turn
        speed = repeat(self.update, seconds)
        for player in self.trainer.rollout.players:
            player.finish()  # it has begun the next rollout
        return speed

    def update(self) -> int:
        """One update, tracked; its steps."""
        update, start = next(self.updates), time.perf_counter()
        self.tracker.track(update, self.trainer.steps, self.trainer.policy)
        tracking = time.perf_counter() - start
        self.learned.append((update.batch.steps, len(update.batch.observations), update.learn_seconds, tracking))
        return update.batch.steps

    def costs(self) -> dict[str, Any]:
        """Of the learner and of tracking, by the clock, medians over the updates."""
        steps, rows, learning, tracking = np.median(self.learned, axis=0)
        each_step = {"learner": round(1e6 * learning / steps, 2), "tracking": round(1e6 * tracking / steps, 2)}
        costs = {"learner_ms_per_update": round(1e3 * learning, 2), "rows_per_update": round(rows)}
        return {**costs, "microseconds_per_step": each_step}


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
    return repeat(LOOPS.setdefault(config.name, decisions_of_2016(config)).__next__, seconds)


def decisions_of_2016(config: Config) -> Iterator[int]:
    """One emulator through gymnasium, NumPy in float64, a step of RMSProp every ten games; yields 1 each decision."""
    random = np.random.default_rng(0)
    weights = numpy_2016.init(config.hidden, random)
    rms, gradients = numpy_2016.RMSProp(weights), [np.zeros_like(weight) for weight in weights]
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
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


def watch(config: Config, updates: int, ranks: int) -> dict[str, int]:
    """Agent steps/s of `pong train` after its first update, and the most MiB of all its processes, early and ever."""
    from soak import samples  # psutil is only needed here

    with tempfile.TemporaryDirectory() as folder:
        file, run = Path(folder) / "config.toml", Path(folder) / "run"
        file.write_text(to_toml(config), encoding="utf-8")
        with contextlib.closing(samples(run, 1.0, file, ranks=ranks)) as watched:
            memory = list(itertools.takewhile(lambda sample: sample.updates <= updates, watched))
        rows = np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)
    return {
        "updates": len(rows),
        "steps_per_second": round(np.ptp(rows["step"]) / np.ptp(rows["minutes"]) / 60),
        "early_mb": round(max((sample.memory for sample in memory if sample.updates <= updates / 10), default=0)),
        "peak_mb": round(max(sample.memory for sample in memory)),
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    about = report["machine"] | {"gpu": report["machine"]["gpu"] or "none"}
    where = "{cpu}, {cores} cores, GPU: {gpu}; torch {torch}, ale-py {ale_py}, Python {python}, {date}.\n"
    games = {name: cells(result, "frames_per_second", "") for name, result in report["one core"].items()}
    recipes = {f"{name}.toml": recipe_cells(result) for name, result in report["recipes"].items()}
    title = f"frames/s on one core; ALE with {MOST_IN_ALE} games at most"
    return "\n".join(filter(None, (where.format(**about), table(title, games), table("", recipes))))


def table(title: str, columns: dict[str, dict[str, str]]) -> str:
    """A table of columns, each a dictionary by row."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return markdown([{title: row, **{name: column.get(row, "") for name, column in columns.items()}} for row in rows])


def cells(result: dict[str, Any], key: str, unit: str) -> dict[str, str]:
    """A column of speeds and ratios."""
    column = {}
    for name, value in result.items():
        if "÷" in name:
            digits = 2 if value["median"] < 100 else 0
            column[name] = "{0:,.{3}f} ({1:,.{3}f} … {2:,.{3}f})".format(value["median"], *value["range"], digits)
        elif isinstance(value, dict) and "frames_per_second" in value:
            column[name + unit] = f"{value[key]:,}"
    return column


def recipe_cells(result: dict[str, Any]) -> dict[str, str]:
    """A recipe's column."""
    column = cells(result, "steps_per_second", ", agent steps/s")
    column["learner, ms per update"] = f"{result['learner_ms_per_update']} ({result['rows_per_update']:,} rows)"
    column |= {f"{name}, µs per step": str(spent) for name, spent in result["microseconds_per_step"].items()}
    for command, value in result.items():
        if command.startswith("pong train"):
            memory = f"{command}, memory of all processes, MiB: first tenth, most (updates)"
            column[f"{command}, agent steps/s"] = f"{value['steps_per_second']:,}"
            column[memory] = "{early_mb:,}, {peak_mb:,} ({updates})".format(**value)
    if result["peak_gpu_mb"] is not None:
        column["GPU memory, MiB"] = f"{result['peak_gpu_mb']:,}"
    return column


if __name__ == "__main__":
    run(main)
