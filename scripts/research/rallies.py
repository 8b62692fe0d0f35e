"""Where a trained agent's points go: rallies won and lost, by how often it returned the ball.

    python scripts/research/rallies.py

plays fresh games of pretrained/pong_expert, sampled, and writes results/ceiling/rallies.json. The games are the
compiled Pong's, whose state tells who hit the ball last; it is the same game as ALE's (docs/pong-machine.md).
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
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

AGENT = Path("pretrained/pong_expert")


def main(
    games: Annotated[PositiveInt, tyro.conf.arg(help="fresh games")] = 500,
    results: Annotated[Path, tyro.conf.arg(help="file of the counts")] = Path("results/ceiling/rallies.json"),
) -> None:
    """Play and count rallies."""
    policy, loaded = load_policy(AGENT)
    won, lost = count(policy, MachineFleet(games, pong_task(loaded.config)))
    counts = {"won": won.tolist(), "lost": lost.tolist()}
    report = {"agent": AGENT.as_posix(), "games": games, **counts}
    results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def count(policy: Policy, fleet: MachineFleet, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rallies won and lost after returning the ball never, once, twice, …, in a game of each emulator."""
    N, random = fleet.num_envs, torch.Generator().manual_seed(seed)
    observations = fleet.reset(emulator_seeds(seed, 0, range(N), EVALUATION))
    active, returned = np.ones(N, np.bool_), np.zeros(N, np.int64)
    rallies: dict[int, list[int]] = {1: [], -1: []}  # returns in each rally, by its point
    while active.any():
        before = fleet.games["last"].copy()
        actions = policy.act(observations, torch.rand(N, generator=random)).numpy()
        observations, points, dones, _ = fleet.step(actions, active)
        for point, returns in rallies.items():
            returns.extend(returned[points == point])
        returned += (fleet.games["last"] == PLAYER) & (before != PLAYER)
        returned[points != 0] = 0
        active &= ~dones
    longest = max(map(max, rallies.values()))
    won, lost = (np.bincount(returns, minlength=longest + 1) for returns in rallies.values())
    return won, lost


if __name__ == "__main__":
    run(main)
