"""How close training on Doom comes to ViZDoom's own speed, and which share of a step is the game's.

In turns, as in bench.py: raw, gymnasium's environments in a process each with random actions and nothing of ours, with
the screen that we ask for and with ViZDoom's usual one; rollout; training. Then the processor's time by activity.
"""

import contextlib
import itertools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import bench
import gymnasium
import tyro
import vizdoom
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from vizdoom.gymnasium_wrapper.base_gymnasium_env import VizdoomEnv

from pong.config import Config, load_config
from pong.envs import doom
from pong.policies import CategoricalPolicy

SCREENS = {"raw": "RES_160X120", "raw, 320 × 240": "RES_320X240"}
PLAYING = (
    ("emulator", VizdoomEnv, "reset"),
    ("emulator", VizdoomEnv, "step"),
    ("frames", doom, "shrink"),
    ("policy", CategoricalPolicy, "act"),
)


@dataclass(frozen=True)
class Flags:
    """Measure ViZDoom, rollout and training in turns, and where one core's time goes."""

    config: Annotated[Path, tyro.conf.arg(help="recipe")] = Path("configs/doom_basic.toml")
    rounds: Annotated[int, tyro.conf.arg(help="turns of each")] = 4
    seconds: Annotated[float, tyro.conf.arg(help="the least each turn takes")] = 5.0
    games: Annotated[int, tyro.conf.arg(help="of the raw environments; 0: one per core")] = 0
    json: Annotated[Path | None, tyro.conf.arg(help="also write everything to this file")] = None


def main() -> None:
    """Measure, print, write."""
    flags = tyro.cli(Flags, prog="scripts/bench_doom.py")
    config = load_config(flags.config).model_copy(update={"device": "cpu"})
    speeds = in_turns(config, flags)
    shares = bench.where_the_time_goes(config, flags.seconds, PLAYING)
    report = {
        "machine": {**bench.machine(), "vizdoom": vizdoom.__version__},
        "config": str(flags.config),
        **{what: bench.summary(some) for what, some in speeds.items()},
        "microseconds_per_step": shares,
        "emulator_share_of_a_step": round(shares["emulator"] / sum(shares.values()), 3),
    }
    print(json.dumps(report, indent=2, ensure_ascii=False))
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def in_turns(config: Config, flags: Flags) -> dict[str, list[bench.Speed]]:
    """The turns of each kind of work."""
    with contextlib.ExitStack() as stack:
        turns: dict[str, bench.Turn] = {
            what: raw(config, screen, flags.games or bench.cores(), stack) for what, screen in SCREENS.items()
        }
        turns |= {"rollout": bench.rollout_only(config, stack), "training": bench.Training(config, stack).turn}
        speeds: dict[str, list[bench.Speed]] = {what: [] for what in turns}
        for _, (what, turn) in itertools.product(range(flags.rounds), turns.items()):
            speeds[what].append(turn(flags.seconds))
    return speeds


def raw(config: Config, screen: str, games: int, stack: contextlib.ExitStack) -> bench.Turn:
    """The environments with random actions, each in a process of its own."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())  # for ViZDoom's files
    size = getattr(vizdoom.ScreenResolution, screen)

    def make() -> gymnasium.Env[Any, Any]:
        return doom.make_game(config.env, frame_skip=config.hold, screen_resolution=size)

    Path(folder, "_vizdoom").mkdir()  # or the games, which start at once, get into each other's way making it
    with contextlib.chdir(folder):
        envs = AsyncVectorEnv([make] * games, autoreset_mode=AutoresetMode.SAME_STEP)
    stack.callback(envs.close)
    envs.reset(seed=1)

    def turn(seconds: float) -> bench.Speed:
        steps, began = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - began < seconds:
            envs.step(envs.action_space.sample())
            steps += games
        return bench.Speed(steps, steps * int(config.hold), time.perf_counter() - began)

    return turn


if __name__ == "__main__":
    main()
