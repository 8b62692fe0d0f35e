"""How well Pong can be played with sticky actions: a planner that knows the exact state; results/ceiling/planner.json.

Before each decision it plays random sequences of actions on in the compiled Pong, all in the same random futures: which
frames are sticky and how long decisions are held. It takes the first action of the best sequence. Sequential halving
(Karnin et al. 2013) saves time: after 4 futures the better half of the sequences goes on, after 8 half of these, ….
"""

import json
import sys
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from pong.distributed import cores
from pong.envs.pong.compiled import kernel, rule
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import ALE, NOOP, Game, frame
from pong.envs.pong.task import PongTask
from pong.rollout import EVALUATION, emulator_seeds

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import run

BUDGET = (128, 64, 80)  # S sequences, F futures, T frames of a future
PLAYERS = [(hold, actions, *BUDGET) for hold in (4, "2-4") for actions in (2, 3, 6)]
PLAYERS += [(4, 2, *budget) for budget in ((32, 8, 40), (64, 16, 80), (256, 128, 80))]
COLUMNS = ("hold", "actions", "sequences", "futures", "frames")
AT_ONCE = 25  # games of a job
NEAR, TOUCHABLE = 184, 188  # columns of the ball: the player's paddle may touch it in the next frame; in this one
RETURNED = 0.8  # points that a rally counts if it goes on


class Search(NamedTuple):
    """What the planner knows beside the games."""

    task: tuple[int, float, int, int]  # number of actions; probability of a sticky frame; shortest and longest hold
    budget: tuple[int, int, int]  # S, F, T
    chosen: NDArray[np.int64]  # (N, T), each game's last sequence, whose rest competes again


def main(games: PositiveInt = 200, seed: NonNegativeInt = 0) -> None:
    """Let every player play so many games, rounded up to a multiple of 25."""
    jobs = [(*player, seed, job) for player in PLAYERS for job in range(-(-games // AT_ONCE))]
    with get_context("spawn").Pool(cores(), torch.set_num_threads, (1,)) as pool:
        scores = np.reshape(pool.starmap(play, jobs, chunksize=1), (len(PLAYERS), -1))
    players: list[dict[str, Any]] = []
    for player, row in zip(PLAYERS, scores, strict=True):
        summary = {"n": len(row), "mean": row.mean(), "standard_error": row.std(ddof=1) / len(row) ** 0.5}
        counts = {"scores": dict(sorted(Counter(row.tolist()).items()))}
        players.append(dict(zip(COLUMNS, player, strict=True)) | summary | counts)
    report = {"seed": seed, "numpy": np.__version__, "games of a job": AT_ONCE, "players": players}
    Path("results/ceiling/planner.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def play(hold: Any, actions: int, S: int, F: int, T: int, seed: int, job: int, N: int = AT_ONCE) -> list[int]:
    """The scores of N games."""
    task = PongTask(hold=hold, actions=actions)
    fleet = MachineFleet(N, task)
    fleet.reset(emulator_seeds(seed, job, range(N), EVALUATION))
    search = Search((actions, task.sticky, *task.holds), (S, F, T), np.zeros((N, T), np.int64))
    decided, scores, active = np.zeros(N, np.int64), np.zeros(N, np.int64), np.ones(N, np.bool_)
    random = np.random.default_rng((seed, job))
    while active.any():
        plan(fleet.games, active, search, random, decided)
        result = fleet.step(decided, active)
        scores += result.rewards.astype(int)
        active &= ~result.dones
    return scores.tolist()


@kernel
def plan(games: Any, active: Any, search: Search, random: Generator, decided: Any) -> None:
    """Decide in each active game: (N,). Any action will do while the ball is too far away, so it is a random one."""
    actions, (S, _, T) = search.task[0], search.budget
    for i in np.flatnonzero(active):
        decided[i] = random.integers(0, actions)
        frames = arrival(games[i : i + 1].copy()[0], T)
        if frames < T:
            sequences, futures = random.integers(0, actions, (S, T)), draw(search, random)
            sequences[0, :-1] = search.chosen[i, 1:]
            search.chosen[i] = sequences[best(games[i : i + 1], frames, sequences, futures)]
            decided[i] = search.chosen[i, 0]


@rule
def arrival(game: Game, most: int) -> int:
    """After how many frames the ball is near the player's paddle, which has no effect before."""
    for t in range(most):
        if game.pause == 0 and game.left < 0 and game.x >= NEAR:
            return t
        if frame(game, NOOP) != 0:
            return most
    return most


@rule
def draw(search: Search, random: Generator) -> Any:
    """Draw futures, (F, T): the decision whose action each frame executes; −1: the one before the first."""
    (_, sticky, shortest, longest), (_, F, T) = search.task, search.budget
    futures = np.full((F, T), -1)
    for executed in futures:
        decision, held = -1, 0
        for t in range(T):
            if held == 0:
                decision, held = decision + 1, random.integers(shortest, longest + 1)
            executed[t] = executed[t - 1] if random.random() < sticky else decision
            held -= 1
    return futures


@rule
def best(start: Any, frames: int, sequences: Any, futures: Any) -> int:
    """The sequence with the most points."""
    game, points, rest = start.copy(), np.zeros(len(sequences)), np.arange(len(sequences))
    first, last = 0, 4
    while first < len(futures):
        for s in rest:
            for executed in futures[first:last]:
                game[0] = start[0]
                points[s] += play_on(game[0], frames, sequences[s], executed)
        rest = rest[np.argsort(-points[rest], kind="mergesort")[: max(len(rest) // 2, 1)]]
        first, last = last, 2 * last
    return rest[0]


@rule
def play_on(game: Game, frames: int, sequence: Any, executed: Any) -> float:
    """The points of a sequence in a future, whose ball is near after so many frames: 1, −1, or ``RETURNED``."""
    for t, decision in enumerate(executed):
        if decision >= 0:
            game.action = ALE[sequence[decision]]
        if frame(game, game.action) != 0:
            return -1.0
        if t >= frames and game.left > 0 and game.x < TOUCHABLE:  # the player's shot: it depends on no more actions
            while game.left > 0:
                if frame(game, NOOP) != 0:
                    return 1.0
            break
    return RETURNED


if __name__ == "__main__":
    run(main)
