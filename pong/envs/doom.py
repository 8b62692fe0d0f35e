"""Doom: ViZDoom's gymnasium environments without a display, observed as the last four screens in grey."""

import itertools
import shlex
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray
from PIL import Image

from pong.config import Config, InputError
from pong.envs.base import StepResult, one_line_errors
from pong.envs.gym import VectorFleet, make_env

SIDE, STACK = 84, 4  # Simonini's: 84 × 84 grey pixels, the last four screens
WAIT = -1  # an action: the game stands still
ERROR = "a game of Doom has failed"

# Games run in a folder of their own, since ViZDoom writes files, and ignore the terminal's Ctrl-C, since a run still
# finishes its update. A game never notices that its player was killed; on Linux setpriv ends it.
LAUNCHER = """#!/bin/sh
trap '' HUP INT TERM
guard='setpriv --pdeathsig KILL'
$guard true 2>/dev/null || guard=
cd {folder} && exec $guard {program} "$@"
"""


class Game(gymnasium.Wrapper[NDArray[np.uint8], int, dict[str, Any], int]):
    """One game: observations (4, 84, 84) uint8, the oldest screen first; ``hold`` and ``max_frames`` are in tics."""

    screen: NDArray[np.uint8] = np.zeros((120, 160, 3), np.uint8)  # the current one, RGB
    last_screen: NDArray[np.uint8]  # of the game before, the same
    finished = False  # the game before was not truncated by ``max_frames``
    tics = 0  # of the last decision, at most ``hold``; ``hold`` where ViZDoom does not report it

    def __init__(self, env: str, hold: int = 4, max_frames: int = 0):
        try:
            import vizdoom.gymnasium_wrapper  # noqa: F401  # registers the environments
        except ImportError as error:
            remedy = "run: make doom, or: pip install vizdoom"
            raise InputError(f"env = {env!r} needs ViZDoom ({error}); {remedy}") from None
        settings = {"frame_skip": hold, "screen_resolution": "RES_160X120"}  # half the default: drawing takes most time
        super().__init__(make_env(env, disable_env_checker=True, **settings))
        self.doom = self.unwrapped.game  # type: ignore[attr-defined]  # ViZDoom's own interface
        self._truncates = 0 < max_frames < (self.doom.get_episode_timeout() or np.inf)
        if self._truncates:
            self.doom.set_episode_timeout(max_frames)
        self.observation_space = Box(0, 255, (STACK, SIDE, SIDE), np.uint8)
        self._hold = hold

    @one_line_errors(ERROR)
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        observation: Any = self.env.reset(seed=seed, options=options)[0]
        self.last_screen, self.screen = self.screen, observation["screen"]
        self._stack = deque([shrink(self.screen)] * STACK, STACK)
        return np.stack(self._stack), {}

    @one_line_errors(ERROR)
    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold one decision for some tics."""
        if action == WAIT:
            self.tics = 0
            return np.stack(self._stack), 0.0, False, False, {}
        start = self.doom.get_episode_time()
        observation: Any
        observation, reward, terminated, truncated, _ = self.env.step(action)
        tics = self.doom.get_episode_time() - start
        self.tics = tics if tics > 0 else self._hold  # the clock stops when a level is left
        if terminated or truncated:  # both, if time has run out; ViZDoom shows no screen then
            self.finished = not (truncated and self._truncates)
        else:
            self.screen = observation["screen"]
            self._stack.append(shrink(self.screen))
        return np.stack(self._stack), float(reward), terminated, truncated, {}


def shrink(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luminance of a screen (H, W, 3), averaged to (84, 84) uint8."""
    return np.asarray(Image.fromarray(screen).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


class DoomFleet(VectorFleet):
    """Games of Doom; a game without a decision stands still, and ``StepResult.frames`` are tics."""

    def __init__(self, config: Config, num_envs: int):
        self.games = [Game(config.env, int(config.hold), config.max_frames) for _ in range(num_envs)]
        super().__init__(self.games)
        import vizdoom  # an extra; ``Game`` has found it

        self._folder = tempfile.TemporaryDirectory(prefix="pong-doom-")
        launcher = Path(self._folder.name, "launch")
        folder, program = shlex.quote(self._folder.name), shlex.quote(vizdoom.exe_path)
        launcher.write_text(LAUNCHER.format(folder=folder, program=program), encoding="utf-8")
        launcher.chmod(0o700)
        for game in self.games:
            game.doom.set_vizdoom_path(str(launcher))

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        result, first = super().step(np.where(active, actions, WAIT), active), self.games[0]
        self.last_screen, self.finished = first.last_screen, first.finished
        return result._replace(frames=np.array([game.tics for game in self.games]))

    def close(self) -> None:
        super().close()
        self._folder.cleanup()

    @property
    def action_names(self) -> tuple[str, ...]:
        """The buttons that each action presses, such as "MOVE FORWARD", or "NOTHING"."""
        env: Any = self.games[0].unwrapped
        names = [button.name.replace("_", " ") for button in env.game.get_available_buttons()]
        pressed = (itertools.compress(names, buttons) for buttons in env.button_map)
        return tuple(" + ".join(buttons) or "NOTHING" for buttons in pressed)

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The first game's screen: (120, 160, 3) uint8, RGB."""
        return self.games[0].screen
