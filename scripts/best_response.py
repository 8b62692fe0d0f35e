"""How well Pong can be played with sticky actions: a player that knows the game's state and looks ahead.

    python scripts/best_response.py pretrained/pong --games 100 --json results/ceiling/hold-4.json

Before each decision it tries every action: it copies the game's state many times, takes the action, and lets the
policy play each copy, with other sticky draws, until the point ends. It takes the action that won most points, if that
is better than the policy's own by more than chance. This is one step of policy improvement with the game itself as the
model ("rollout", Tesauro and Galperin 1996, https://papers.nips.cc/paper/1302), and the best of all players plays at
least as well: its score is a lower bound of what can be reached.
"""

import json
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from pong.config import Config, InputError
from pong.envs import make_fleet, prepare
from pong.envs.machine_fleet import MachineFleet
from pong.evaluate import Evaluation
from pong.player import Episode, emulator_seeds
from pong.ranks import cores
from pong.train import load_policy

SEGMENT = 16  # decisions that the copies play between two looks at which of them have ended
FIRST, REAL, COPIES = 0, 10, 11  # what streams of random numbers are for


def main(
    agent: tyro.conf.Positional[Path],
    *,
    games: Annotated[int, tyro.conf.arg(help="to play")] = 100,
    copies: Annotated[int, tyro.conf.arg(help="of the game that are played for each action")] = 24,
    actions: Annotated[Literal[2, 3, 6], tyro.conf.arg(help="that it may choose from")] = 6,
    hold: Annotated[int | Literal["2-4"] | None, tyro.conf.arg(help="as in a config; default: the agent's")] = None,
    seed: int = 0,
    file: Annotated[Path | None, tyro.conf.arg(name="json", help="where the scores go")] = None,
) -> None:
    """Play games with looking ahead, one on each core.

    Args:
        agent: a run or an exported folder; its policy has two layers.
    """
    policy, saved = load_policy(agent)
    if policy.two_layers is None:
        raise InputError(f"{agent}: only policies of two layers look ahead fast enough")
    if saved.config.last_action and actions > saved.config.actions:
        raise InputError(
            f"{agent} sees its last action, one of {saved.config.actions}; give --actions {saved.config.actions}"
        )
    prepare(saved.config)  # compile once, not in every process
    config = saved.config.replace(hold=hold or saved.config.hold)
    jobs = [Job(agent, config, actions, copies, seed + game) for game in range(games)]
    played = Evaluation([])
    with get_context("spawn").Pool(cores()) as pool:
        for episode in pool.imap(play, jobs):
            played.episodes.append(episode)
            print(played, flush=True)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        task = {"hold": config.hold, "sticky": config.sticky, "actions": actions}
        about = {"agent": str(agent), **task, "copies": copies, **played.as_json()}
        file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Job:
    """A game to be played."""

    agent: Path
    config: Config
    actions: int
    copies: int
    seed: int


def play(job: Job) -> Episode:
    """One game."""
    torch.set_num_threads(1)
    policy, _ = load_policy(job.agent)
    real, ahead = fleet(job.config, 1), fleet(job.config, job.actions * job.copies)
    seen = real.reset(emulator_seeds(job.seed, FIRST, [REAL]))
    ahead.reset(emulator_seeds(job.seed, FIRST, range(COPIES, COPIES + ahead.num_envs)))
    random = np.random.default_rng((job.seed, COPIES))
    score, length, frames, done = 0.0, 0, 0, False
    while not done:
        usual = int(policy.act_greedily(seen)[0])
        points = look_ahead(real, ahead, policy.two_layers, job.actions, random)
        played = real.step(np.array([choose(points, usual)]), np.ones(1, np.bool_))
        seen, done = played.observations, bool(played.dones[0])
        score, length, frames = score + float(played.rewards[0]), length + 1, frames + int(played.frames[0])
    return Episode(job.seed, score, length, frames)


def fleet(config: Config, games: int) -> MachineFleet:
    made = make_fleet(config.replace(emulator="machine"), games)
    assert isinstance(made, MachineFleet)
    return made


def look_ahead(
    real: MachineFleet, ahead: MachineFleet, network: Any, actions: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """The point that each copy of the game ends in, won or lost, by its first action: (actions, copies) of ±1."""
    ahead.copy(real)
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
    return points.reshape(-1, actions).T


def choose(points: NDArray[np.float32], usual: int) -> int:
    """The best action, or the policy's if it is not worse by more than the difference's standard error."""
    means, errors = points.mean(1), points.var(1) / points.shape[1]
    best = int(means.argmax())
    return best if means[best] - means[usual] > np.sqrt(errors[best] + errors[usual]) else usual


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (InputError, OSError) as error:
        sys.exit(f"best_response: {error}")
