"""From a config to the environments it is played in."""

import functools
from typing import cast

import gymnasium
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pong.config import PONG, Config, InputError
from pong.envs.atari import DOWN, NOOP, UP, Pong, PongFleet, make_pong, make_view
from pong.envs.fleet import Fleet, Played
from pong.envs.lqr import LQR
from pong.envs.vectors import VectorFleet

__all__ = [
    "DOWN",
    "LQR",
    "NOOP",
    "UP",
    "Fleet",
    "Played",
    "Pong",
    "PongFleet",
    "VectorFleet",
    "make_fleet",
    "make_pong",
    "make_view",
    "spaces",
]

gymnasium.register("pong/LQR-v0", "pong.envs.lqr:LQR")


def make_fleet(config: Config, num_envs: int | None = None) -> Fleet:
    """The environments that a config describes, with what a policy sees of them.

    Args:
        config: the run's config.
        num_envs: how many, if not as many as the config says.
    """
    if config.env == PONG:
        return PongFleet(make_pong(config, num_envs), make_view(config))
    envs = gymnasium.make_vec(
        config.env,
        num_envs or config.num_envs,
        vectorization_mode="sync",  # an environment each, with a seed each
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    return VectorFleet(cast(SyncVectorEnv, envs))


@functools.cache
def spaces(env: str) -> tuple[Box, Discrete | Box]:
    """What a gymnasium environment shows, and what can be done in it.

    Raises:
        InputError: gymnasium does not know it, or it shows or takes something else than a policy can handle.
    """
    try:
        one = gymnasium.make(env)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise InputError(f"env = {env!r}: {' '.join(str(error).split())}") from None
    observations: Space[object] = one.observation_space
    actions: Space[object] = one.action_space
    one.close()
    if not (isinstance(observations, Box) and len(observations.shape) == 1):
        raise InputError(f"env = {env!r} shows {observations}; choose one that shows a vector of numbers")
    if (isinstance(actions, Discrete) and actions.start == 0) or (isinstance(actions, Box) and len(actions.shape) == 1):
        return observations, actions
    raise InputError(f"env = {env!r} takes {actions}; choose one that takes a vector of numbers, or one of 0, 1, …")
