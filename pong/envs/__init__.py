"""Environments from a config: compiled Pong and ALE's, gymnasium environments, LQR, Doom."""

import contextlib
import functools
import math
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from pong.config import Config, InputError, is_doom
from pong.envs.base import Fleet
from pong.envs.doom import DoomFleet, Game
from pong.envs.gym import VectorFleet, make_env
from pong.envs.pong.ale import AleFleet
from pong.envs.pong.task import pong_task
from pong.observations import Observations, SparseFrames

COMPILED_PONG = "pong.envs.pong.environment"  # imported when an environment is made, since it imports Numba

gymnasium.register("pong/LQR-v0", "pong.envs.lqr:LQR")
gymnasium.register("pong/Pong-v5", f"{COMPILED_PONG}:PongEnv", vector_entry_point=f"{COMPILED_PONG}:PongVectorEnv")


@dataclass(frozen=True)
class TaskSpec:
    """The shapes of a task's observations and actions."""

    shape: tuple[int, ...]  # of an observation: (k,) numbers, or images (C, H, W)
    extra: int  # numbers that follow an image's pixels in a row
    actions: int  # how many there are to choose from, or how many numbers a continuous action has
    continuous: bool = False  # an action is a vector of real numbers

    @property
    def inputs(self) -> int:
        return math.prod(self.shape) + self.extra


def task_spec(config: Config) -> TaskSpec:
    """The shapes of a config's task."""
    if config.is_pong:
        task = pong_task(config)
        return TaskSpec(task.layout.shape, task.layout.actions, task.actions)
    return _gym_spec(config.env)


@functools.cache
def _gym_spec(env: str) -> TaskSpec:
    with contextlib.closing(Game(env) if is_doom(env) else make_env(env)) as made:
        observations, actions = made.observation_space, made.action_space
    images = isinstance(observations, Box) and len(observations.shape) == 3 and observations.dtype == np.uint8
    if not isinstance(observations, Box) or not (images or len(observations.shape) == 1):
        raise InputError(f"env = {env!r} has {observations}; choose one with a vector of numbers, or images of bytes")
    if isinstance(actions, Discrete) and actions.start == 0:
        return TaskSpec(observations.shape, 0, int(actions.n))
    if isinstance(actions, Box) and len(actions.shape) == 1 and not images:
        return TaskSpec(observations.shape, 0, actions.shape[0], continuous=True)
    raise InputError(f"env = {env!r} takes {actions}; choose one with actions 0, 1, … or vectors of numbers")


def check_task(config: Config) -> None:
    """Reject a config whose policy can't play its environment."""
    fits = "mlp" if len(task_spec(config).shape) == 1 else "conv"
    if not config.is_pong and config.policy != fits:
        raise InputError(f'policy = "{config.policy}" does not fit env = {config.env!r}; try policy = "{fits}"')


def make_fleet(config: Config, num_envs: int) -> Fleet:
    """The environments of a config's task, with the policy's observations of them."""
    prepare(config)
    if config.is_compiled:
        from pong.envs.pong.fleet import MachineFleet  # Numba is imported when Pong is first played

        return MachineFleet(num_envs, pong_task(config))
    if config.is_pong:
        return AleFleet(num_envs, pong_task(config))
    if is_doom(config.env):
        return DoomFleet(config, num_envs)
    return VectorFleet([make_env(config.env) for _ in range(num_envs)])


def images(config: Config, observations: Observations) -> NDArray[np.int8 | np.uint8]:
    """The images (C, H, W) in the first row of observations; in Pong differences of frames, in {−1, 0, 1}."""
    shape = task_spec(config).shape
    rows = observations.dense(torch.int8) if isinstance(observations, SparseFrames) else observations
    return rows[0].numpy().ravel()[: math.prod(shape)].reshape(shape)


def frame_rate(config: Config) -> int:
    """Frames a second at natural speed."""
    return 35 if is_doom(config.env) else 60


def prepare(config: Config) -> None:
    """Compile what every player of a config needs, before there are several of them."""
    if not config.is_pong:
        return
    try:
        from pong.envs.pong.fleet import compile_once

        compile_once()
    except Exception as error:  # anything that Numba raises: it is a large library
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        remedy = "reinstall it: pip install --force-reinstall numba"
        raise InputError(f"Pong needs Numba, which fails here ({message}); {remedy}") from error
