"""How close training on Doom comes to ViZDoom's own speed, and which share of a step is the game's.

In turns, as in bench.py: raw, gymnasium's environments in a process each with random actions and nothing of ours, with
the screen that we ask for and with ViZDoom's usual one; rollout; training. Then the processor's time by activity.
"""

import contextlib
import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import tyro
import vizdoom
from bench import machine, summaries
from bench_turns import Training, Turn, hold, in_turns, repeat, rollout_only, where_the_time_goes
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray
from vizdoom.gymnasium_wrapper.base_gymnasium_env import VizdoomEnv

from pong.config import Config, load_config
from pong.distributed import cores
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
    speeds = measure(config, flags)
    shares = where_the_time_goes(config, 2 * flags.seconds, PLAYING, outside="emulator")
    report = {
        "machine": {**machine(), "vizdoom": vizdoom.__version__},
        "config": str(flags.config),
        **summaries(speeds, hold(config)),
        "microseconds_per_step": shares,
        "emulator_share_of_a_step": round(shares["emulator"] / sum(shares.values()), 3),
    }
    text = json.dumps(report, indent=2, ensure_ascii=False)
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n", encoding="utf-8")


def measure(config: Config, flags: Flags) -> dict[str, NDArray[np.float64]]:
    """The turns of each kind of work."""
    with contextlib.ExitStack() as stack:
        turns = {what: raw(config, screen, flags.games or cores(), stack) for what, screen in SCREENS.items()}
        turns |= {"rollout": rollout_only(config, stack), "training": Training(config, stack).turn}
        return in_turns(turns, flags.rounds, flags.seconds)


def raw(config: Config, screen: str, games: int, stack: contextlib.ExitStack) -> Turn:
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

    def work() -> int:
        envs.step(envs.action_space.sample())
        return games

    return functools.partial(repeat, work)


if __name__ == "__main__":
    main()
