"""A game as its rendered frames: the screen in colour, what the policy sees of it, and what it does."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config
from pong.envs import make_rendered, prepare
from pong.evaluate import Greedy
from pong.observations import Observations
from pong.policies import Policy
from pong.rollout import EVALUATION, ActionNoise, emulator_seeds


@dataclass(frozen=True)
class RenderedFrame:
    """A screen, and the decision made on it; after the last decision comes one more screen, without.

    Attributes:
        screen: (H, W, 3) uint8, RGB; in Pong (210, 160, 3).
        seen: (C, h, w), the pictures that the policy decided by: uint8, or in Pong (C, 80, 80) int8 in {−1, 0, 1}. On
            the last screen those of the last decision.
        step: decisions made before.
        score: the sum of the rewards before, to the nearest whole number; points won minus points lost.
        probs: of each action; none on the last screen.
        action: the one that was taken, or None on the last screen.
        frames: emulated for the decision.
        finished: the last screen, and the game was not truncated.
        names: of the actions.
        rate: frames a second at natural speed.
    """

    screen: NDArray[np.uint8]
    seen: NDArray[np.int8 | np.uint8]
    step: int
    score: int
    probs: tuple[float, ...] = ()
    action: int | None = None
    frames: int = 0
    finished: bool = False
    names: tuple[str, ...] = ()
    rate: int = 60


RenderedFrames = Generator[RenderedFrame, None, None]


def play(policy: Policy, config: Config, seed: int = 0, *, greedy: bool = False) -> RenderedFrames:
    """One game, frame by frame: the first one that ``evaluate`` plays with the same seed.

    Args:
        policy: plays, on the CPU. Nothing is learned.
        config: names the task (``hold``, ``sticky``, …) and what the policy sees of it; its seed plays no part.
        seed: of the emulator and the sampled actions.
        greedy: take the likeliest action instead of sampling.
    """
    prepare(config)
    actor = Greedy(policy) if greedy else policy
    noise = ActionNoise(seed, 0, range(1), EVALUATION)
    game = make_rendered(config)
    with contextlib.closing(game):
        seen: Observations = game.reset(emulator_seeds(seed, 0, range(1), EVALUATION))
        step, score, done = 0, 0.0, False
        while not done:
            now = RenderedFrame(
                game.screen, game.images(seen), step, round(score), names=game.action_names, rate=game.rate
            )
            probs, action = _probs(policy, seen), actor.act(seen, torch.from_numpy(noise.ahead()[0])).numpy()  # (1,)
            noise.use(1)
            played = game.step(action, np.ones(1, np.bool_))
            yield replace(now, probs=probs, action=int(action[0]), frames=int(played.frames[0]))
            seen, done = played.observations, bool(played.dones[0])
            step, score = step + 1, score + float(played.rewards[0])
        yield replace(now, screen=game.last_screen, step=step, score=round(score), finished=game.finished)


@torch.inference_mode()
def _probs(policy: Policy, seen: Observations) -> tuple[float, ...]:
    """Of each action; a Bernoulli policy says that of action 1."""
    probs: Tensor = policy.distribution(seen).probs  # type: ignore[attr-defined]  # (1,), or of each action (1, n)
    if probs.ndim == 1:
        return 1 - probs.item(), probs.item()
    return tuple(probs[0].tolist())
