"""Where a trained agent's points go: rallies won and lost, by how often it returned the ball.

    python scripts/research/rallies.py

plays fresh games of pretrained/pong_expert, sampled, and writes results/ceiling/rallies.json. The games are the
compiled Pong's, whose state tells who hit the ball last; it is the same game as ALE's (docs/pong-machine.md).
"""

import json
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from pong.envs import make_fleet, prepare
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import PLAYER
from pong.policies import Policy
from pong.rollout import EVALUATION, emulator_seeds
from pong.train import load_policy

AGENT = Path("pretrained/pong_expert")
MOST = 100  # returns in a rally that are counted separately


def main(games: int = 500, results: Path = Path("results/ceiling/rallies.json")) -> None:
    """Play and count rallies."""
    policy, loaded = load_policy(AGENT)
    config = loaded.config.replace(emulator="machine")
    prepare(config)
    fleet = make_fleet(config, games)
    assert isinstance(fleet, MachineFleet)
    won, lost = count(policy, fleet)
    longest = int(np.flatnonzero(won + lost)[-1]) + 1
    counts = {"won": won[:longest].tolist(), "lost": lost[:longest].tolist()}
    report = {"agent": AGENT.as_posix(), "games": games, **counts}
    results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def count(policy: Policy, fleet: MachineFleet, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rallies won and lost after returning the ball never, once, twice, …, (MOST,) each, in a game of each emulator."""
    n = fleet.num_envs
    observations, random = (
        fleet.reset(emulator_seeds(seed, 0, range(n), EVALUATION)),
        torch.Generator().manual_seed(seed),
    )
    active, returned = np.ones(n, np.bool_), np.zeros(n, np.int64)
    won, lost = np.zeros((2, MOST), np.int64)
    while active.any():
        before = fleet.games["last"].copy()
        result = fleet.step(
            policy.act(observations, torch.rand(n, *policy.noise_shape, generator=random)).numpy(), active
        )
        observations, points = result.observations, result.rewards
        np.add.at(won, returned[points > 0], 1)
        np.add.at(lost, returned[points < 0], 1)
        returned += (fleet.games["last"] == PLAYER) & (before != PLAYER)
        returned[points != 0] = 0
        active &= ~result.dones
    return won, lost


if __name__ == "__main__":
    tyro.cli(main)
