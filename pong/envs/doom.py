"""Doom: ViZDoom's gymnasium environments without a display, seen as four small grey pictures.

ViZDoom runs each game as a process of its own. A script starts it: in a folder for its files, deaf to the signals that
are meant for the run, and ended as soon as the player that owns it is gone, however that went.
"""

import contextlib
import functools
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pong.config import Config, InputError, RunError
from pong.envs.base import RenderedFleet, StepResult
from pong.envs.gym import VectorFleet
from pong.observations import Observations

PREFIX = "Vizdoom"  # of the ids of its environments
TICS = 35  # a second: Doom's frames
SIDE, STACK = 84, 4  # the text's: 84 × 84 grey, the last four
STANDS_STILL = -1  # instead of an action

LAUNCHER = """#!/bin/sh
trap '' HUP INT TERM
cd '{folder}' && echo $$ >> games && test -d '{folder}' && exec '{program}' "$@"
"""
WATCHER = """
trap '' HUP INT TERM
read -r _  # nothing is ever said: this ends when the other side does
mv "$1" "$1-over"  # from here on no game begins
kill -9 $(cat "$1-over/games")
until rm -rf "$1-over"; do sleep 1; done
"""


def is_doom(env: str) -> bool:
    """Whether an environment's id is one of ViZDoom's."""
    return env.startswith(PREFIX)


def vizdoom(env: str) -> Any:
    """The package, which is an extra; its environments are registered.

    Raises:
        InputError: it is not installed.
    """
    try:
        import vizdoom
        import vizdoom.gymnasium_wrapper  # registers the environments
    except ImportError as error:
        how = 'run: pip install "pong-from-pixels[doom]", or in a checkout: make doom'
        raise InputError(f"env = {env!r} needs ViZDoom ({error}); {how}") from None
    return vizdoom


def make_game(env: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    """A game of ViZDoom as gymnasium has it, not started yet.

    Args:
        env: its id.
        settings: of ``VizdoomEnv``, or any that ViZDoom's own config files know.

    Raises:
        InputError: ViZDoom is not installed, or does not know the id.
    """
    vizdoom(env)
    try:
        return gymnasium.make(env, disable_env_checker=True, **settings)
    except gymnasium.error.Error as error:
        raise InputError(f"env = {env!r}: {' '.join(str(error).split())}") from None


def doom_spaces(env: str) -> tuple[Box, Discrete]:
    """What a policy sees, (4, 84, 84) uint8, and its buttons.

    Raises:
        InputError: there is no such environment, or it takes something else than one of n actions.
    """
    with contextlib.closing(make_game(env)) as game:
        actions = game.action_space
    if not isinstance(actions, Discrete):
        raise InputError(f"env = {env!r} takes {actions}; choose one with a button at a time, such as VizdoomBasic-v1")
    return Box(0, 255, (STACK, SIDE, SIDE), np.uint8), actions


class Game(gymnasium.Wrapper[NDArray[np.uint8], int, dict[str, Any], int]):
    """One game that shows its screen in grey, 84 × 84, and can stand still.

    ViZDoom draws 160 × 120 pixels here, not 320 × 240: that is most of its work, and 84 × 84 is all that is looked at.

    Args:
        config: the run's; ``env``, ``hold`` (tics per decision) and ``max_frames`` (tics, if less than the game's own).
        launcher: a program to start instead of ViZDoom's.

    Attributes:
        screen: (120, 160, 3) uint8, RGB, of this moment.
        last: the same, the last one of the game before.
        tics: that the last decision took, of ``hold``; all of them where ViZDoom doesn't tell.
        finished: the game before ended as games do, and was not truncated by ``max_frames``.
        buttons: what each action presses.
    """

    def __init__(self, config: Config, launcher: Path):
        small = vizdoom(config.env).ScreenResolution.RES_160X120
        settings = {"frame_skip": config.hold, "screen_resolution": small, "vizdoom_path": str(launcher)}
        super().__init__(make_game(config.env, **settings))
        game = self._game = self.unwrapped.game  # type: ignore[attr-defined]
        self._hold = int(config.hold)
        self._own_end = game.get_episode_timeout() or np.inf
        self._max_tics = config.max_frames or np.inf
        if self._max_tics < self._own_end:
            game.set_episode_timeout(config.max_frames)
        self.observation_space = Box(0, 255, (SIDE, SIDE), np.uint8)
        self.buttons = button_names(self.unwrapped)
        self.tics, self.finished = 0, False
        self.screen: NDArray[np.uint8]
        self.last: NDArray[np.uint8]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """A new game."""
        starts = not self._game.is_running()
        observation: Any = self.env.reset(seed=seed, options=options)[0]
        if starts:  # both sides have it open: without a name nothing of it outlives them
            for file in Path("/dev/shm").glob(f"ViZDoom*{self._game.get_instance_id()}"):
                file.unlink(missing_ok=True)
        self.screen = observation["screen"]
        self._seen = shrink(self.screen)
        return self._seen, {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """One decision, held for some tics; at a game's end ViZDoom shows no screen any more."""
        if action == STANDS_STILL:
            return self._seen, 0.0, False, False, {}
        before = self._game.get_episode_time()
        seen: Any = self.env.step(action)
        observation, reward, terminated, truncated, _ = seen
        now = self._game.get_episode_time()
        self.tics = now - before if now > before else self._hold  # a level that is left has no clock any more
        if terminated or truncated:  # a game that has run out of time is both
            self.last, self.finished = self.screen, not truncated or self._max_tics >= self._own_end
        else:
            self.screen = observation["screen"]
            self._seen = shrink(self.screen)
        return self._seen, float(reward), terminated, truncated, {}


def shrink(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A screen (H, W, 3) in grey, (84, 84) uint8: luminance, each pixel the mean of those it covers."""
    small: NDArray[np.uint8] = np.asarray(
        Image.fromarray(screen).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    )
    return small


def button_names(game: Any) -> tuple[str, ...]:
    """What each action of ViZDoom's environment presses, such as "MOVE FORWARD"; "NOTHING" if it is nothing."""
    names = [button.name.replace("_", " ") for button in game.game.get_available_buttons()]
    pressed = [[name for name, down in zip(names, buttons, strict=True) if down] for buttons in game.button_map]
    return tuple(" + ".join(some) or "NOTHING" for some in pressed)


class DoomFleet(VectorFleet, RenderedFleet):
    """Games of Doom: observations (N, 4, 84, 84) uint8, the oldest picture first.

    A game without a decision stands still and costs nothing. ``StepResult.frames`` are tics: a game's last decision may
    take less of them than ``hold``.

    Args:
        config: the run's config.
        num_envs: games.

    Raises:
        InputError: ViZDoom is missing, or does not know the config's environment.
        RunError: a game can't be started, or has ended where it should not: also from ``reset`` and ``step``.
    """

    rate = TICS

    def __init__(self, config: Config, num_envs: int):
        with contextlib.ExitStack() as undo:  # if it does not come to its end
            launcher = undo.enter_context(launching(vizdoom(config.env).exe_path))
            self.games = [Game(config, launcher) for _ in range(num_envs)]
            makers = [functools.partial(FrameStackObservation, game, STACK) for game in self.games]
            super().__init__(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
            self._close = undo.pop_all()

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Any:
        """New games; ``seeds`` (N,) or None to let the random streams run on."""
        with _failing():
            return super().reset(seeds)

    def step(self, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active game: actions (N,)."""
        with _failing():
            played = super().step(np.where(active, actions, STANDS_STILL), active)
        tics = np.array([game.tics for game in self.games]) * active
        return StepResult(played.observations, played.rewards, played.dones, tics)

    def close(self) -> None:
        """End the games."""
        super().close()
        self._close.close()

    @property
    def action_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """What each action is called."""
        return self.games[0].buttons

    def images(self, observations: Observations) -> NDArray[np.uint8]:
        """The pictures in an observation: (4, 84, 84) uint8."""
        assert isinstance(observations, Tensor)
        pictures: NDArray[np.uint8] = observations[0].numpy()
        return pictures

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The first game's screen at this moment: (120, 160, 3) uint8, RGB."""
        return self.games[0].screen

    @property
    def last_screen(self) -> NDArray[np.uint8]:
        """The same, the last one before its last game ended."""
        return self.games[0].last

    @property
    def finished(self) -> bool:
        """That game ended as games do, and was not truncated."""
        return self.games[0].finished


@contextlib.contextmanager
def launching(program: str) -> Iterator[Path]:
    """A program that starts games of ViZDoom, which end with this process if not before.

    They start in a temporary folder, into which ViZDoom's ``_vizdoom.ini`` and ``_vizdoom/`` fall, and leave their
    process numbers there. A shell ends them and removes the folder as soon as its input has no writer any more.

    Args:
        program: ViZDoom's own.
    """
    folder = Path(tempfile.gettempdir(), f"pong-doom-{uuid.uuid4().hex}")
    watcher = ["/bin/sh", "-c", WATCHER, "sh", str(folder)]
    with subprocess.Popen(watcher, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True):
        folder.mkdir(mode=0o700)
        launcher = folder / "launch"
        launcher.write_text(LAUNCHER.format(folder=folder, program=program), encoding="utf-8")
        launcher.chmod(0o700)
        yield launcher


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """An error of ViZDoom, whose classes have no base of their own, ends the run in one line."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("vizdoom"):
            raise
        raise RunError(f"a game of Doom has failed ({type(error).__name__}: {' '.join(str(error).split())})") from error
