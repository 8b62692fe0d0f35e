"""One game with frozen weights, frame by frame."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config
from pong.envs import frame_rate, images, make_fleet
from pong.evaluate import Greedy
from pong.policies import Policy
from pong.rollout import EVALUATION, ActionNoise, emulator_seeds


@dataclass(frozen=True)
class RenderedFrame:
    """A screen and the decision that the policy makes on it. The last screen of a game has no decision."""

    screen: NDArray[np.uint8]  # (H, W, 3), RGB; in Pong (210, 160, 3)
    observation: NDArray[np.int8 | np.uint8]  # (C, h, w), of the last decision; in Pong int8 in {−1, 0, 1}
    action_names: tuple[str, ...]
    frame_rate: int  # frames per second at natural speed
    step: int = 0  # number of earlier decisions
    score: float = 0.0  # sum of the earlier rewards
    probs: tuple[float, ...] = ()  # of each action; empty on the last screen
    action: int | None = None  # the chosen one; None on the last screen
    frames: int = 0  # emulated for this decision
    finished: bool = False  # True on the last screen, unless the game was truncated

    @property
    def is_pong(self) -> bool:
        return self.observation.dtype == np.int8


def play_frames(policy: Policy, config: Config, seed: int = 0, *, greedy: bool = False) -> Generator[RenderedFrame]:
    """Play one game on the CPU, the first game of ``evaluate`` with the same seed, which is not the config's own."""
    actor = Greedy(policy) if greedy else policy
    noise = ActionNoise(seed, 0, range(1), EVALUATION)
    game: Any = make_fleet(config.replace(emulator="ale") if config.is_pong else config, 1)
    with contextlib.closing(game):
        observations, done = game.reset(emulator_seeds(seed, 0, range(1), EVALUATION)), False
        frame = RenderedFrame(game.screen, images(config, observations), game.action_names, frame_rate(config))
        while not done:
            with torch.inference_mode():
                p: Tensor = policy.distribution(observations).probs  # type: ignore[attr-defined]  # (1,) or (1, actions)
            probs = (1 - p.item(), p.item()) if p.ndim == 1 else tuple(p[0].tolist())  # a Bernoulli's is of action 1
            frame = replace(frame, screen=game.screen, observation=images(config, observations), probs=probs)
            segment = game.play(actor, observations, noise.ahead()[:1], np.ones(1, np.bool_), whole_episodes=True)
            noise.use(1)
            yield replace(frame, action=int(segment.actions[0, 0]), frames=int(segment.frames[0, 0]))
            observations, done = segment.next_observations, bool(segment.dones[0, 0])
            frame = replace(frame, step=frame.step + 1, score=frame.score + float(segment.rewards[0, 0]))
        yield replace(frame, screen=game.last_screen, probs=(), finished=game.finished)
