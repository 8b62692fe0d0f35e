"""From a config to the environments it is played in."""

import functools
from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from pong.config import PONG, Config, InputError
from pong.envs.doom import DoomFleet, Game, is_doom
from pong.envs.fleet import EmulatorState, Fleet, Network, RenderedEnv, Segment, StepResult
from pong.envs.gym import VectorFleet, make_env
from pong.envs.lqr import LQR
from pong.envs.pong.actions import DOWN, NOOP, UP
from pong.envs.pong.ale import RATE, Pong, PongFleet, RenderedPong, make_observation_builder, make_pong, task

if TYPE_CHECKING:
    from pong.envs.pong.fleet import MachineFleet

__all__ = [
    "DOWN",
    "LQR",
    "NOOP",
    "RATE",
    "UP",
    "EmulatorState",
    "Fleet",
    "Network",
    "Pong",
    "PongFleet",
    "RenderedEnv",
    "Segment",
    "StepResult",
    "VectorFleet",
    "check_task",
    "frame_rate",
    "make_fleet",
    "make_observation_builder",
    "make_pong",
    "make_rendered",
    "pictures",
    "prepare",
    "spaces",
]

PACKAGES = ("ale-py", "gymnasium", "vizdoom")  # that the environments come from

gymnasium.register("pong/LQR-v0", "pong.envs.lqr:LQR")


def make_fleet(config: Config, num_envs: int | None = None) -> Fleet:
    """The environments that a config describes, with what a policy sees of them.

    Args:
        config: the run's config.
        num_envs: how many, if not as many as the config says.
    """
    if config.in_machine:
        return _machine()(num_envs or config.num_envs, config.hold, make_observation_builder(config), **task(config))
    if config.env == PONG:
        return PongFleet(make_pong(config, num_envs), make_observation_builder(config))
    if is_doom(config.env):
        return DoomFleet(config, num_envs or config.num_envs)
    return VectorFleet([make_env(config.env) for _ in range(num_envs or config.num_envs)])


def prepare(config: Config) -> None:
    """Have ready what every player of a config needs, before there are several of them.

    Raises:
        InputError: Numba is missing, or can't compile Pong.
    """
    if config.points:
        _machine()


@functools.cache
def _machine() -> "type[MachineFleet]":
    """Pong's machine and decisions, compiled; Numba is imported when Pong is first played."""
    try:
        from pong.envs.pong import fleet as machine_fleet

        machine_fleet.compile_once()
    except Exception as error:  # whatever Numba meets: it is a large library
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(
            f"Pong needs Numba, which fails here ({what}); install it anew: pip install --force-reinstall numba"
        ) from error
    return machine_fleet.MachineFleet


def make_rendered(config: Config) -> RenderedEnv:
    """One environment of a config's task whose screens can be shown to people.

    Raises:
        InputError: it has no screens.
    """
    if config.env == PONG:
        return RenderedPong(config)
    if is_doom(config.env):
        return DoomFleet(config, 1)
    raise InputError(f"env = {config.env!r} has no screen to show")


def frame_rate(config: Config) -> int:
    """Frames a second at natural speed."""
    return DoomFleet.rate if is_doom(config.env) else RATE


def pictures(config: Config) -> tuple[tuple[int, ...], int, int]:
    """What a policy sees and does in a game that shows pictures.

    Returns:
        The pictures' shape (C, H, W), how many numbers follow their pixels in a row, and the number of actions.
    """
    if config.points:
        builder = make_observation_builder(config)
        return builder.shape, builder.width - int(np.prod(builder.shape)), config.actions
    observations, actions = spaces(config.env)
    assert isinstance(actions, Discrete), "see check_task"
    return observations.shape, 0, int(actions.n)


def check_task(config: Config) -> None:
    """Refuse a config whose policy can't play its environment.

    Raises:
        InputError: it can't be made, or shows or takes something else, or has no ``hold`` or ``max_frames``.
    """
    if config.points:
        return
    observations, actions = spaces(config.env)
    shown = "mlp" if len(observations.shape) == 1 else "conv"
    if config.policy != shown or (shown == "conv" and not isinstance(actions, Discrete)):
        found = f"env = {config.env!r} shows {observations} and takes {actions}"
        raise InputError(f'{found}, which policy = "{config.policy}" is not made for; try policy = "{shown}"')
    for key in ("hold", "max_frames"):
        value, default = getattr(config, key), Config.model_fields[key].default
        if value != default and (isinstance(value, str) or not is_doom(config.env)):
            raise InputError(f"{key} = {value}: env = {config.env!r} has no such setting; leave it out")


@functools.cache
def spaces(env: str) -> tuple[Box, Discrete | Box]:
    """What a gymnasium environment shows, and what can be done in it.

    Raises:
        InputError: gymnasium does not know it, or it shows or takes something else than a policy can handle.
    """
    made = Game(env) if is_doom(env) else make_env(env)
    observations: Space[object] = made.observation_space
    actions: Space[object] = made.action_space
    made.close()
    if not (isinstance(observations, Box) and _can_be_seen(observations)):
        raise InputError(
            f"env = {env!r} shows {observations}; choose one that shows a vector of numbers, or pictures of bytes"
        )
    if (isinstance(actions, Discrete) and actions.start == 0) or (isinstance(actions, Box) and len(actions.shape) == 1):
        return observations, actions
    raise InputError(f"env = {env!r} takes {actions}; choose one that takes a vector of numbers, or one of 0, 1, …")


def _can_be_seen(box: Box) -> bool:
    """Whether it is a vector of numbers, or pictures (C, H, W) of bytes."""
    return len(box.shape) == 1 or (len(box.shape) == 3 and box.dtype == np.uint8)
