"""Where a trained agent's points go: rallies won and lost, by how often it returned the ball.

    python scripts/rallies.py

plays fresh games of pretrained/pong_expert, sampled, and writes results/ceiling/rallies.json. The games are the
machine's: it shows who hit the ball last, and is the same game as ALE's (docs/pong-machine.md).
"""

import json
from pathlib import Path

import command_line
import numpy as np
import torch
from numpy.typing import NDArray

from pong.envs import make_fleet, prepare
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import PLAYER
from pong.policies import Policy
from pong.rollout import EVALUATION, emulator_seeds
from pong.train import load_policy

MOST = 100  # returns in a rally that are told apart


def main(
    agent: Path = Path("pretrained/pong_expert"),
    games: int = 500,
    results: Path = Path("results/ceiling/rallies.json"),
) -> None:
    """Play, count, and keep what was counted."""
    policy, loaded = load_policy(agent)
    config = loaded.config.replace(emulator="machine")
    prepare(config)
    fleet = make_fleet(config, games)
    assert isinstance(fleet, MachineFleet)
    won, lost = count(policy, fleet)
    some = int(np.flatnonzero(won + lost)[-1]) + 1
    kept = {"agent": agent.as_posix(), "games": games, "won": won[:some].tolist(), "lost": lost[:some].tolist()}
    results.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def count(policy: Policy, fleet: MachineFleet, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Play a game in each emulator of a fleet, with sampled actions.

    Returns:
        How many rallies it won, and how many it lost, after returning the ball never, once, twice, …: (MOST,) each.
    """
    n = fleet.num_envs
    seen, random = fleet.reset(emulator_seeds(seed, 0, range(n), EVALUATION)), torch.Generator().manual_seed(seed)
    active, returned = np.ones(n, np.bool_), np.zeros(n, np.int64)
    won, lost = np.zeros((2, MOST), np.int64)
    while active.any():
        before = fleet.games["last"].copy()
        played = fleet.step(policy.act(seen, torch.rand(n, *policy.noise_shape, generator=random)).numpy(), active)
        seen, points = played.observations, played.rewards
        np.add.at(won, returned[points > 0], 1)
        np.add.at(lost, returned[points < 0], 1)
        returned += (fleet.games["last"] == PLAYER) & (before != PLAYER)
        returned[points != 0] = 0
        active &= ~played.dones
    return won, lost


if __name__ == "__main__":
    command_line.run(main)
