"""Speed of training beside the emulators' own speed and the 2016 loop, and of the compiled Pong beside ALE.

The kinds of work alternate, so that slow spells of the computer cancel out in the ratios.
"""

import contextlib
import functools
import io
import itertools
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from json import dumps
from pathlib import Path
from typing import Annotated, Any

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

from pong.checkpoint import Counters
from pong.config import Config, load_config
from pong.distributed import cores
from pong.envs import make_fleet
from pong.envs.pong.task import DOWN, UP
from pong.observations import DifferenceFrames
from pong.policies import make_policy
from pong.rollout import Rollout
from pong.tracking import Tracker
from pong.train import Trainer

sys.path.insert(0, str(ROOT / "tests"))
import karpathy_numpy as numpy_2016

Turn = Callable[[float], float]  # seconds → agent steps a second
Measure = Callable[..., dict[str, Any]]  # turns, by what they measure → speeds and ratios
GAMES = (16, 32, 1024)
MOST_IN_ALE = 32  # 1,024 emulators would take minutes to start, and be no faster
STEPS = 16  # whose random actions are drawn together
OBSERVATIONS = {  # by obs_type of pong/Pong-v5, gymnasium's own way to the same: ALE's obs_type, and what wraps it
    "state": ("ram", None),
    "karpathy": ("grayscale", DifferenceFrames),
    "grayscale": ("grayscale", None),
    "rgb": ("rgb", None),
    "atari": ("", None),
}
RATIOS = [
    ("machine.step", "AtariVectorEnv, threads: 1"),
    ("MachineFleet", "AleFleet"),
    ("training", "raw"),
    ("rollout", "raw"),
    ("training", "2016 loop"),
    *((obs_type, f"gymnasium's {obs_type}") for obs_type in OBSERVATIONS),
]


def main(
    configs: Annotated[tuple[str, ...], tyro.conf.arg(help="recipes in configs/")] = ("pong", "karpathy"),
    rounds: Annotated[PositiveInt, tyro.conf.arg(help="measurements of each kind")] = 4,
    seconds: Annotated[NonNegativeFloat, tyro.conf.arg(help="minimum duration of a measurement")] = 1.5,
    json: Annotated[Path | None, tyro.conf.arg(help="file for the numbers; the tables go to .md beside it")] = None,
) -> None:
    """Measure emulation, rollout and training in turns, and print their ratios."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    recipes = {name: load_config(ROOT / f"configs/{name}.toml") for name in configs}
    in_turns = functools.partial(measure, rounds=rounds, seconds=seconds)
    report: dict[str, Any] = {"machine": computer(), "one core": {}, "environment": {}, "recipes": {}}
    if any(config.is_pong for config in recipes.values()):
        report["one core"] = {f"{games:,} games": in_turns(one_core(games)) for games in GAMES}
        report["environment"] = {f"{games:,} games": environments(games, in_turns) for games in GAMES[1:]}
    for name, config in recipes.items():
        report["recipes"][name] = recipe(config.replace(total_steps=2**31), in_turns)
    print(text := tables(report))
    if json:
        json.write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
        json.with_suffix(".md").write_text(text, encoding="utf-8")


def computer() -> dict[str, Any]:
    """The computer and the versions."""
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: *(.*)", info.read_text(encoding="utf-8") if info.exists() else "")
    return {
        "cpu": cpu[1] if cpu else "unknown",
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ale_py": ale_py.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def one_core(games: int) -> dict[str, Turn]:
    """The compiled Pong on one core beside ALE, in pong.toml's task: the game alone, and with observations."""
    config = load_config(ROOT / "configs/pong.toml").replace(num_envs=games)
    ale = config.replace(num_envs=min(games, MOST_IN_ALE), emulator="ale")
    return {
        "AtariVectorEnv, threads: 1": raw_pong(ale, 1),
        "AleFleet": fleet(ale),
        "machine.step": fleet(config, observed=False),
        "MachineFleet": fleet(config),
    }


def environments(games: int, in_turns: Measure) -> dict[str, Any]:
    """pong/Pong-v5 on one core beside gymnasium's own way to the same observations."""
    report = {}
    for obs_type, (ales, wrapper) in OBSERVATIONS.items():
        ours = gymnasium.make_vec("pong/Pong-v5", games, obs_type=obs_type)
        if ales:
            theirs = gymnasium.make_vec("ALE/Pong-v5", MOST_IN_ALE, vectorization_mode="sync", obs_type=ales)
        else:
            theirs = AtariVectorEnv("pong", MOST_IN_ALE, num_threads=1, repeat_action_probability=0.25)
        envs = {obs_type: ours, f"gymnasium's {obs_type}": wrapper(theirs) if wrapper else theirs}
        for env in envs.values():
            env.reset(seed=1)
        report |= in_turns({name: lockstep(env.num_envs, env.step, UP) for name, env in envs.items()})
    return report


def recipe(config: Config, in_turns: Measure) -> dict[str, Any]:
    """A recipe's speeds, and by the clock what an update costs, medians over the updates."""
    turns, learned = {}, list[tuple[int, int, float]]()  # steps, rows, seconds of learning
    if config.is_pong:
        turns["raw"] = raw_pong(config, cores())
        turns["2016 loop"] = functools.partial(repeat, decisions_of_2016(config).__next__)
    with contextlib.ExitStack() as stack:
        rollout, numbers = Rollout(config, make_policy(config)), itertools.count()
        stack.callback(rollout.close)
        turns["rollout"] = functools.partial(repeat, lambda: rollout.collect(next(numbers)).steps)
        turns["training"] = training(config, stack, learned)
        report = in_turns(turns, frames=hold(config))
    steps, rows, seconds = np.median(learned, axis=0)
    cuda = torch.cuda.is_available()
    return report | {
        "learner_ms_per_update": round(1e3 * seconds, 2),
        "rows_per_update": round(rows),
        "microseconds_per_step": {"learner": round(1e6 * seconds / steps, 2)},
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None,
    }


def measure(turns: dict[str, Turn], rounds: int, seconds: float, frames: int = 4) -> dict[str, Any]:
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


def training(config: Config, stack: contextlib.ExitStack, learned: list[Any]) -> Turn:
    """Rollout, learning and tracking, as `pong train` does them."""
    trainer = stack.enter_context(contextlib.closing(Trainer(config)))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    tracker = Tracker(config, folder, Console(file=io.StringIO()), Counters(), time.monotonic())
    stack.enter_context(tracker)
    updates = trainer.run()

    def work() -> int:
        update = next(updates)
        tracker.track(update, trainer.steps, trainer.policy)
        learned.append((update.batch.steps, len(update.batch.observations), update.learn_seconds))
        return update.batch.steps

    def turn(seconds: float) -> float:
        next(updates)  # played before the turn
        speed = repeat(work, seconds)
        trainer.rollout.wait()  # the next one has started
        return speed

    return turn


def decisions_of_2016(config: Config) -> Iterator[int]:
    """One emulator through gymnasium, NumPy in float64, a step of RMSProp every ten games; yields 1 each decision."""
    random = np.random.default_rng(0)
    weights = numpy_2016.init(config.hidden, random)
    rms, total = numpy_2016.RMSProp(weights), [0.0, 0.0]
    frameskip = (2, 5) if config.hold == "2-4" else config.hold
    emulator = gymnasium.make("ALE/Pong-v5", frameskip=frameskip, repeat_action_probability=config.sticky)
    for games in itertools.count(1):
        screen, _ = emulator.reset(seed=games)
        previous, ended, game = numpy_2016.preprocess(screen).ravel(), False, []
        while not ended:
            frame = numpy_2016.preprocess(screen).ravel()
            x, previous = frame - previous, frame
            h, p = numpy_2016.policy_forward(*weights, x)
            y = int(random.random() < p)
            screen, reward, terminated, truncated, _ = emulator.step(UP if y else DOWN)
            ended = terminated or truncated
            game.append((x, h, p, y, reward))
            yield 1
        x, h, p, y, rewards = (np.array(column) for column in zip(*game, strict=True))
        advantages = numpy_2016.standardize(numpy_2016.discount(rewards, config.gamma))
        gradients = numpy_2016.backward(*weights, x, h, p, y, advantages)
        total = [sum(pair) for pair in zip(total, gradients, strict=True)]
        if games % 10 == 0:
            rms.step(total)
            total = [0.0, 0.0]


def tables(report: dict[str, Any]) -> str:
    """The tables of docs/performance.md."""
    text = "{cpu}, {cores} cores, GPU: {gpu}; torch {torch}, ale-py {ale_py}, Python {python}, {date}.\n"
    where = text.format(**report["machine"] | {"gpu": report["machine"]["gpu"] or "none"})
    recipes = {f"{name}.toml": speeds for name, speeds in report["recipes"].items()}
    parts = (
        (f"frames/s on one core; ALE with {MOST_IN_ALE} games at most", report["one core"], "frames_per_second"),
        (f"pong/Pong-v5 on one core; ALE with {MOST_IN_ALE} games", report["environment"], "ratios only"),
        ("", recipes, "steps_per_second", ", agent steps/s"),
    )
    return "\n".join([where, *filter(None, (table(*part) for part in parts))])


def table(title: str, report: dict[str, Any], key: str = "steps_per_second", unit: str = "") -> str:
    """A table with a column for each part of a report."""
    columns = {name: cells(speeds, key, unit) for name, speeds in report.items()}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return markdown([{title: row, **{name: column.get(row, "") for name, column in columns.items()}} for row in rows])


def cells(speeds: dict[str, Any], key: str, unit: str) -> dict[str, str]:
    """A column: speeds and ratios, and what an update costs."""
    column = {}
    for name, value in speeds.items():
        if "÷" in name:
            form = "{:,.2f} ({:,.2f} … {:,.2f})" if value["median"] < 100 else "{:,.0f} ({:,.0f} … {:,.0f})"
            column[name] = form.format(value["median"], *value["range"])
        elif isinstance(value, dict) and key in value:
            column[name + unit] = f"{value[key]:,}"
    if "rows_per_update" in speeds:
        column["learner, ms per update"] = f"{speeds['learner_ms_per_update']} ({speeds['rows_per_update']:,} rows)"
        column["learner, µs per step"] = str(speeds["microseconds_per_step"]["learner"])
    if speeds.get("peak_gpu_mb"):
        column["GPU memory, MiB"] = f"{speeds['peak_gpu_mb']:,}"
    return column


if __name__ == "__main__":
    run(main)
