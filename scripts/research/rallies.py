"""Count the rallies that an agent wins and loses, by how often it returned the ball: results/ceiling/rallies.json.

The games are the compiled Pong's, whose state tells who hit the ball last.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt

from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import PLAYER
from pong.envs.pong.task import pong_task
from pong.policies import Policy
from pong.rollout import EVALUATION, emulator_seeds
from pong.train import load_policy

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import run

AGENT = "pretrained/pong_expert"


def main(games: PositiveInt = 500) -> None:
    """Play this many fresh games and count their rallies."""
    policy, loaded = load_policy(AGENT)
    won, lost = count(policy, MachineFleet(games, pong_task(loaded.config)))
    report = {"agent": AGENT, "games": games, "won": won.tolist(), "lost": lost.tolist()}
    Path("results/ceiling/rallies.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def count(policy: Policy, fleet: MachineFleet, seed: int = 0) -> NDArray[np.int64]:
    """Rallies won and lost after returning the ball never, once, twice, …, in a game of each emulator: (2, …)."""
    N, random = fleet.num_envs, torch.Generator().manual_seed(seed)
    observations = fleet.reset(emulator_seeds(seed, 0, range(N), EVALUATION))
    active, returned = np.ones(N, np.bool_), np.zeros(N, np.int64)
    rallies = np.zeros((2, 100), np.int64)  # won and lost, by the number of returns
    while active.any():
        before = fleet.games["last"].copy()
        actions = policy.act(observations, torch.rand(N, generator=random)).numpy()
        observations, points, dones, _ = fleet.step(actions, active)
        for counts, point in zip(rallies, (1, -1), strict=True):
            np.add.at(counts, returned[points == point], 1)
        returned += (fleet.games["last"] == PLAYER) & (before != PLAYER)
        returned[points != 0] = 0
        active &= ~dones
    return rallies[:, : rallies.any(axis=0).nonzero()[0][-1] + 1]


if __name__ == "__main__":
    run(main)
