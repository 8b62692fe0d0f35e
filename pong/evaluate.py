"""Games with frozen weights, on emulators of their own."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pong.config import Config
from pong.envs import make_envs
from pong.frames import SparseFrames
from pong.policies import KarpathyPolicy
from pong.rollout import EVALUATION, Noise, emulator_seeds

PARALLEL = 25  # games at a time
MAX_FRAMES = 108_000  # half an hour of play: a greedy rally can go round for ever


@dataclass(frozen=True)
class Evaluation:
    """The scores of some games, each −21 to 21 (points won minus points lost)."""

    scores: list[float]
    lengths: list[int]  # agent steps

    @property
    def n(self) -> int:
        """Games."""
        return len(self.scores)

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; NaN for a single game."""
        return float(np.std(self.scores, ddof=1) / math.sqrt(self.n)) if self.n > 1 else math.nan


def evaluate(policy: KarpathyPolicy, config: Config, episodes: int, *, seed: int = 0, greedy: bool = False) -> Evaluation:
    """Play fresh games of a config's task and score them.

    Every emulator has its number of games fixed beforehand, so short games don't crowd out long ones.

    Args:
        policy: plays; its weights don't change.
        config: names the task (``hold``, ``sticky``, …); its seed plays no part.
        episodes: games, at least 1.
        seed: of the emulators and the sampled actions.
        greedy: take the likelier action instead of sampling.
    """
    task = config.model_copy(update={"max_frames": config.max_frames or MAX_FRAMES})
    num_envs = min(episodes, PARALLEL)
    games_left = np.full(num_envs, episodes // num_envs)
    games_left[: episodes % num_envs] += 1
    envs = make_envs(task, num_envs)
    observations, _ = envs.reset(seed=emulator_seeds(seed, 0, num_envs, EVALUATION))
    noise = Noise(seed, 0, num_envs, EVALUATION)
    score, length = np.zeros(num_envs), np.zeros(num_envs, int)
    scores, lengths = [], []
    while games_left.any():
        active = games_left > 0
        frames = SparseFrames.from_dense(observations)
        actions = policy.act_greedily(frames) if greedy else policy.act(frames, noise.draw())
        observations, rewards, terminations, truncations, _ = envs.step(np.where(active, actions.numpy(), -1))
        score += rewards
        length += 1
        for i in np.flatnonzero((terminations | truncations) & active):
            scores.append(float(score[i]))
            lengths.append(int(length[i]))
            games_left[i] -= 1
        score[terminations | truncations] = 0
        length[terminations | truncations] = 0
    envs.close()
    return Evaluation(scores, lengths)


def load_policy(config: Config, weights: dict[str, torch.Tensor]) -> KarpathyPolicy:
    """The policy a checkpoint holds."""
    policy = KarpathyPolicy(config.hidden)
    policy.load_state_dict(weights)
    return policy
