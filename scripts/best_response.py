"""How well Pong can be played with sticky actions: a player that knows the game's state and looks ahead.

    python scripts/best_response.py pretrained/pong --games 100 --json results/ceiling/hold-4.json

Before each decision it tries every action: it copies the game's state many times, takes the action, and lets the
policy play each copy, with other sticky draws, until the point ends. It takes the action that won most points. This is
one step of policy improvement with the game itself as the model ("rollout", Tesauro and Galperin 1996,
https://papers.nips.cc/paper/1302): but for chance it plays no worse than the policy, and the best of all players plays
no worse than it. So its score is a lower bound of what can be reached.
"""

import json
import statistics
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from pong.config import Config, InputError
from pong.envs import machine
from pong.envs.machine_fleet import MachineFleet
from pong.frames import ObservationBuilder
from pong.player import emulator_seeds
from pong.ranks import cores
from pong.train import load_policy

SEGMENT = 16  # decisions that the copies play between two looks at which of them have ended
FIRST, REAL, COPIES = 0, 10, 11  # what streams of random numbers are for


def main(
    agent: tyro.conf.Positional[Path],
    *,
    games: Annotated[int, tyro.conf.arg(help="to play")] = 100,
    copies: Annotated[int, tyro.conf.arg(help="of the game that are played for each action")] = 16,
    actions: Annotated[int, tyro.conf.arg(help="that it may choose from: 2, 3 or 6")] = 6,
    hold: Annotated[str, tyro.conf.arg(help="frames of a decision, or 2-4; default: the agent's")] = "",
    seed: int = 0,
    file: Annotated[Path | None, tyro.conf.arg(name="json", help="where the scores go")] = None,
) -> None:
    """Play games with looking ahead, one on each core.

    Args:
        agent: a run or an exported folder; its policy has two layers.
    """
    _, saved = load_policy(agent)
    held = int(hold) if hold.isdecimal() else hold or saved.config.hold
    jobs = [Job(agent, saved.config.replace(hold=held), actions, copies, seed + game) for game in range(games)]
    scores: list[int] = []
    with get_context("spawn").Pool(cores()) as pool:
        for score in pool.imap_unordered(play, jobs):
            scores.append(score)
            print(f"{len(scores)} games: {said(scores)}", flush=True)
    about = {"agent": str(agent), "hold": held, "sticky": saved.config.sticky, "actions": actions, "copies": copies}
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None
        result = {**about, "n": len(scores), "mean": statistics.mean(scores), "standard_error": error}
        file.write_text(json.dumps({**result, "scores": sorted(scores)}, indent=1) + "\n", encoding="utf-8")


def said(scores: list[int]) -> str:
    error = f" ± {statistics.stdev(scores) / len(scores) ** 0.5:.2f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):+.2f}{error}"


@dataclass(frozen=True)
class Job:
    """A game to be played."""

    agent: Path
    config: Config
    actions: int
    copies: int
    seed: int


def play(job: Job) -> int:
    """One game; its score."""
    torch.set_num_threads(1)
    policy, _ = load_policy(job.agent)
    network = policy.two_layers
    if network is None:
        raise InputError(f"{job.agent}: only policies of two layers look ahead fast enough")
    real, ahead = fleet(job.config, 1), fleet(job.config, job.actions * job.copies)
    real.reset(emulator_seeds(job.seed, FIRST, [REAL]))
    ahead.reset(emulator_seeds(job.seed, FIRST, range(COPIES, COPIES + ahead.num_envs)))
    random = np.random.default_rng((job.seed, COPIES))
    score, done, one = 0.0, False, np.ones(1, np.bool_)
    while not done:
        action = best(real, ahead, network, job.actions, random)
        played = real.step(np.array([action]), one)
        score, done = score + float(played.rewards[0]), bool(played.dones[0])
    return round(score)


def fleet(config: Config, games: int) -> MachineFleet:
    view = ObservationBuilder(config.frames, config.actions if config.last_action else 0)
    task: dict[str, Any] = {"sticky": config.sticky, "noop_max": config.noop_max, "max_frames": config.game_frames}
    return MachineFleet(games, config.hold, view, **task)


def best(real: MachineFleet, ahead: MachineFleet, network: Any, actions: int, random: np.random.Generator) -> int:
    """The action after which the policy wins most of the copied games' points."""
    copy(real, ahead)
    first = np.arange(ahead.num_envs) % actions
    played = ahead.step(first, np.ones(ahead.num_envs, np.bool_))
    points, active = played.rewards.copy(), played.rewards == 0
    seen: Any = played.observations
    while active.any():
        noise = random.random((SEGMENT, ahead.num_envs), np.float32)
        segment = ahead.play_segment(network, seen, noise, active, True)
        ends = np.cumsum(segment.rewards != 0, axis=0)
        points += (segment.rewards * ((ends == 1) & (segment.rewards != 0))).sum(0) * active
        active, seen = active & (ends[-1] == 0), segment.seen
    means = np.array([points[first == action].mean() for action in range(actions)])
    return int(means.argmax())


def copy(real: MachineFleet, ahead: MachineFleet) -> None:
    """Let all copies be in the real game's state, with random numbers of their own."""
    drawn = {name: ahead.games[name].copy() for name in ("ale_drawn", "gym_drawn")}
    ahead.games[:] = real.games[0]
    for name, numbers in drawn.items():
        ahead.games[name] = numbers
    ahead._pictures[machine.NOW] = real._pictures[machine.NOW, 0]


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (InputError, OSError) as error:
        sys.exit(f"best_response: {error}")
