"""How well Pong can be played with sticky actions: a player that knows the exact state of the game, and plans.

    python scripts/research/planner.py

writes results/ceiling/planner.json. Before each decision the planner draws random sequences of actions, plays them on
from copies of the game in the compiled Pong, and takes the first action of the best one. All sequences meet the same
random futures: which frames are sticky, and how long decisions are held. The planner draws them itself, as it does not
know the emulator's random numbers. Sequential halving (Karnin et al. 2013) saves time: after 4 futures the better half
of the sequences goes on, after 8 half of these, and so on.
"""

import json
import sys
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from pong.config import RunError
from pong.distributed import cores
from pong.envs.pong.ale import AleFleet
from pong.envs.pong.compiled import kernel, rule
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import ALE, CLOCK_SIZE, NOOP, Game, frame, read_knob, turn_knob
from pong.envs.pong.task import PongTask
from pong.rollout import EVALUATION, emulator_seeds

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench import computer
from common import run

BUDGET = (128, 64, 80)  # S sequences, F futures, T frames of a future
PLAYERS = [(hold, actions, *BUDGET) for hold in (4, "2-4") for actions in (2, 3, 6)]
PLAYERS += [(4, 2, *budget) for budget in ((32, 8, 40), (64, 16, 80), (256, 128, 80))]
COLUMNS = ("hold", "actions", "sequences", "futures", "frames")
AT_ONCE = 25  # games of a job
IN_ALE = {"hold": 4, "actions": 6, "job": 0}  # whose games are also played in ALE
NEAR, TOUCHABLE = 184, 188  # columns of the ball: the player's paddle may touch it in the next frame; in this one
RETURNED = 0.8  # points that a rally counts if it goes on


class Search(NamedTuple):
    """What the planner knows beside the games."""

    task: tuple[int, float, int, int]  # number of actions; probability of a sticky frame; shortest and longest hold
    budget: tuple[int, int, int]  # S, F, T
    chosen: NDArray[np.int64]  # (N, T), each game's last sequence, whose rest competes again
    shots: NDArray[np.int8]  # ends of the player's shots: 1 returned, 2 a point, 0 not known yet


def main(games: PositiveInt = 200, seed: NonNegativeInt = 0) -> None:
    """Let every player play so many games, rounded up to a multiple of 25."""
    jobs = [(*player, seed, job) for player in PLAYERS for job in range(-(-games // AT_ONCE))]
    with get_context("spawn").Pool(cores(), torch.set_num_threads, (1,)) as pool:
        scores = np.reshape(pool.starmap(play, jobs, chunksize=1), (len(PLAYERS), -1))
    versions = {"numba": numba.__version__, "numpy": np.__version__}
    report = {
        "seed": seed,
        "computer": computer() | versions,
        "in ALE": IN_ALE,
        "games of a job": AT_ONCE,
        "players": [],
    }
    for player, row in zip(PLAYERS, scores, strict=True):
        summary = {"n": len(row), "mean": row.mean(), "standard_error": row.std(ddof=1) / len(row) ** 0.5}
        counts = {"scores": dict(sorted(Counter(row.tolist()).items()))}
        report["players"].append(dict(zip(COLUMNS, player, strict=True)) | summary | counts)
    Path("results/ceiling/planner.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def play(hold: Any, actions: int, S: int, F: int, T: int, seed: int, job: int, N: int = AT_ONCE) -> list[int]:
    """The scores of N games."""
    task = PongTask(hold=hold, actions=actions)
    in_ale = {"hold": hold, "actions": actions, "job": job} == IN_ALE
    fleets = [MachineFleet(N, task), *([AleFleet(N, task)] if in_ale else [])]
    for fleet in fleets:
        fleet.reset(emulator_seeds(seed, job, range(N), EVALUATION))
    chosen, shots = np.zeros((N, T), np.int64), np.zeros((8, 4, 4, 8, 256, 256), np.int8)
    search = Search((actions, task.sticky, *task.holds), (S, F, T), chosen, shots)
    decided, scores, active = np.zeros(N, np.int64), np.zeros(N, np.int64), np.ones(N, np.bool_)
    random = np.random.default_rng((seed, job))
    while active.any():
        plan(fleets[0].games, active, search, random, decided)
        results = [fleet.step(decided, active) for fleet in fleets]
        if (results[0].rewards != results[-1].rewards).any():
            raise RunError("ALE and the compiled Pong score differently; see `make verify-machine`")
        scores += results[0].rewards.astype(int)
        active &= ~results[0].dones
    return scores.tolist()


@kernel
def plan(games: Any, active: Any, search: Search, random: Generator, decided: Any) -> None:
    """Decide in each active game: (N,). Any action will do while the ball is too far away, so it is a random one."""
    actions, (S, _, T), ball = search.task[0], search.budget, games[:1].copy()
    for i in np.flatnonzero(active):
        ball[0], decided[i] = games[i], random.integers(0, actions)
        frames = approach(ball[0], T)
        if frames < T:
            sequences, futures = random.integers(0, actions, (S, T)), draw(search, random)
            sequences[0, :-1] = search.chosen[i, 1:]
            search.chosen[i] = sequences[best(games[i : i + 1], ball[0], frames, sequences, futures, search.shots)]
            decided[i] = search.chosen[i, 0]


@rule
def approach(ball: Game, most: int) -> int:
    """Let the ball come to the player's paddle, which has no effect before; returns after how many frames."""
    for t in range(most):
        if ball.pause == 0 and ball.left < 0 and ball.x >= NEAR:
            return t
        if frame(ball, NOOP) != 0:
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
def best(start: Any, ball: Game, frames: int, sequences: Any, futures: Any, shots: Any) -> int:
    """The sequence with the most points."""
    game, points, rest = start.copy(), np.zeros(len(sequences)), np.arange(len(sequences))
    first, last = 0, 4
    while first < len(futures):
        for s in rest:
            for executed in futures[first:last]:
                game[0] = start[0]
                points[s] += play_on(game[0], ball, frames, sequences[s], executed, shots)
        rest = rest[np.argsort(-points[rest], kind="mergesort")[: max(len(rest) // 2, 1)]]
        first, last = last, 2 * last
    return rest[0]


@rule
def play_on(game: Game, ball: Game, frames: int, sequence: Any, executed: Any, shots: Any) -> float:
    """The points of a sequence in a future: 1, −1, or ``RETURNED``."""
    for t, decision in enumerate(executed):
        if decision >= 0:
            game.action = ALE[sequence[decision]]
        if t < frames:  # the ball is not here yet
            turn_knob(game, game.action)
            game.own_y = game.next_y
            read_knob(game)
            game.clock = (game.clock + 1) % CLOCK_SIZE
            continue
        if t == frames:
            game.x, game.y, game.left, game.down = ball.x, ball.y, ball.left, ball.down
            game.cpu_y, game.pause, game.last, game.touch = ball.cpu_y, ball.pause, ball.last, ball.touch
        if frame(game, game.action) != 0:
            return -1.0
        if game.left > 0 and game.x < TOUCHABLE:
            return 1.0 if is_won(game, shots) else RETURNED
    return RETURNED


@rule
def is_won(game: Game, shots: Any) -> bool:
    """Whether the opponent misses the player's shot, which depends on the ball and the opponent alone."""
    key = game.clock % 8, game.x % 4, game.left % 4, game.down % 8, game.y, game.cpu_y
    if shots[key] == 0:
        shots[key] = 1
        while game.left > 0 and shots[key] == 1:
            shots[key] += frame(game, NOOP)
    return shots[key] == 2


if __name__ == "__main__":
    run(main)
