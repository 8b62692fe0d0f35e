"""A game as its moments: the screen in colour, what the policy sees of it, and what it does."""

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from ale_py.env import AtariEnv
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config
from pong.envs import RATE, Pong, PongFleet, make_shown, make_view
from pong.evaluate import MAX_FRAMES, Greedy
from pong.frames import SIDE, Observations, preprocess
from pong.player import EVALUATION, Actor, Noise, emulator_seeds
from pong.policies import Policy


@dataclass(frozen=True)
class Moment:
    """A screen, and the decision made on it; after the last decision comes one more screen, without.

    Attributes:
        screen: (H, W, 3) uint8, RGB; in Pong (210, 160, 3).
        difference: Pong's (80, 80) int8 in {−1, 0, 1}, this frame minus the previous one; all 0 on the last screen.
            None in other games, which have ``seen``.
        step: decisions made before.
        score: the sum of the rewards before, to the nearest whole number; points won minus points lost.
        prob_up: P(UP), or None on the last screen, and in other games.
        action: 0 DOWN, 1 UP, 2 NOOP, or None on the last screen; in other games one of ``names``.
        frames: emulated for the decision.
        finished: the last screen, and one side has its 21 points; the game was not cut off.
        seen: (C, h, w) uint8, the pictures that the policy sees, the oldest first.
        probs: of each action; none on the last screen.
        names: of the actions, where they are not Pong's.
        rate: frames a second at natural speed.
    """

    screen: NDArray[np.uint8]
    difference: NDArray[np.int8] | None
    step: int
    score: int
    prob_up: float | None = None
    action: int | None = None
    frames: int = 0
    finished: bool = False
    seen: NDArray[np.uint8] | None = None
    probs: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    rate: int = RATE


Moments = Generator[Moment, None, None]


class ColourPong(Pong):
    """One emulator of a config's task that can be seen in colour, too.

    Attributes:
        last: (210, 160, 3) uint8, RGB, the screen on which the game before this one ended.
        finished: that game was played to 21 points, not cut off.
    """

    def __init__(self, config: Config):
        super().__init__(
            1,
            config.hold,
            sticky=config.sticky,
            noop_max=config.noop_max,
            max_frames=config.max_frames or MAX_FRAMES,
            actions=config.actions,
        )

    def screen(self) -> NDArray[np.uint8]:
        """The screen of this moment: (210, 160, 3) uint8, RGB, a copy."""
        colours: NDArray[np.uint8] = self._emulators[0].ale.getScreenRGB()
        return colours

    def _new_game(self, emulator: AtariEnv, seed: int | None = None) -> NDArray[np.uint8]:
        self.last = self.screen()
        self.finished = emulator.ale.game_over(with_truncation=False)
        return super()._new_game(emulator, seed)


def play(policy: Policy, config: Config, seed: int = 0, *, greedy: bool = False) -> Moments:
    """One game, moment by moment: the first one that ``evaluate`` plays with the same seed.

    Args:
        policy: plays, on the CPU. Nothing is learned.
        config: names the task (``hold``, ``sticky``, …) and what the policy sees of it; its seed plays no part.
        seed: of the emulator and the sampled actions.
        greedy: take the likeliest action instead of sampling.
    """
    actor = Greedy(policy) if greedy else policy
    yield from (_pong if config.points else _pictures)(policy, actor, config, seed)


def _pong(policy: Policy, actor: Actor, config: Config, seed: int) -> Moments:
    noise = Noise(seed, 0, range(1), EVALUATION)
    envs = ColourPong(config)
    fleet = PongFleet(envs, make_view(config))
    with contextlib.closing(fleet):
        seen: Observations = fleet.reset(emulator_seeds(seed, 0, range(1), EVALUATION))
        step, score, done, before = 0, 0, False, preprocess(envs.screen()).view(np.int8)
        while not done:
            screen = envs.screen()
            frame = preprocess(screen).view(np.int8)
            difference, before = frame - before, frame
            (_, prob_up, *_), action = _probs(policy, seen), actor.act(seen, noise.draw()).numpy()  # (1,)
            played = fleet.step(action, np.ones(1, np.bool_))
            yield Moment(screen, difference, step, score, prob_up, int(action[0]), int(played.frames[0]))
            seen, done = played.observations, bool(played.dones[0])
            step, score = step + 1, score + int(played.rewards[0])
        yield Moment(envs.last, np.zeros((SIDE, SIDE), np.int8), step, score, finished=envs.finished)


def _pictures(policy: Policy, actor: Actor, config: Config, seed: int) -> Moments:
    noise = Noise(seed, 0, range(1), EVALUATION)
    game = make_shown(config)
    with contextlib.closing(game):
        seen: Observations = game.reset(emulator_seeds(seed, 0, range(1), EVALUATION))  # (1, C, h, w)
        step, score, done = 0, 0.0, False
        while not done:
            assert isinstance(seen, Tensor)
            now = Moment(
                game.screen, None, step, round(score), seen=seen[0].numpy(), names=game.actions, rate=game.rate
            )
            probs, action = _probs(policy, seen), actor.act(seen, noise.draw()).numpy()  # (1,)
            played = game.step(action, np.ones(1, np.bool_))
            yield replace(now, probs=probs, action=int(action[0]), frames=int(played.frames[0]))
            seen, done = played.observations, bool(played.dones[0])
            step, score = step + 1, score + float(played.rewards[0])
        yield replace(now, screen=game.last, step=step, score=round(score), finished=game.finished)


@torch.inference_mode()
def _probs(policy: Policy, seen: Observations) -> tuple[float, ...]:
    """Of each action; a Bernoulli policy says that of action 1."""
    probs: Tensor = policy.distribution(seen).probs  # type: ignore[attr-defined]  # (1,), or of each action (1, n)
    if probs.ndim == 1:
        return 1 - probs.item(), probs.item()
    return tuple(probs[0].tolist())
