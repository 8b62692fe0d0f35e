"""How well Pong can be played with sticky actions: scores of players that know the exact game state.

    python scripts/research/best_response.py

trains such a player for each task, by −log π·R: two holds, and two, three or six actions. It knows what a policy must
infer from pixels, and what no pixel shows: where the ball will arrive, where the knob stands, and which action was
executed last. Its scores in 1,000 fresh games, in results/ceiling/bound/, are a lower bound on what is achievable.

The games are the compiled Pong's, since ALE does not show its state; both are the same game (docs/pong-machine.md).
"""

import itertools
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numba
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from pong.distributed import cores
from pong.envs.pong.fleet import MachineFleet, compile_once
from pong.envs.pong.machine import BOTTOM_WALL, POT_HIGHEST, POT_LOWEST, TOP_WALL
from pong.evaluate import Evaluation
from pong.losses import surrogate_loss
from pong.returns import standardize
from pong.rollout import EVALUATION, Episode, emulator_seeds

Hold = int | Literal["2-4"]
Game = Any  # a record of machine.GAME
RESULTS = Path("results/ceiling/bound")
HOLDS, ACTIONS = (4, "2-4"), (2, 3, 6)
STICKY = 0.25  # probability that a frame repeats the previous action

WAYS = ("sampled", "greedy")  # of choosing actions

GAMES, HORIZON = 256, 32  # of a batch: games side by side, and decisions of each
HIDDEN = 128  # units of each of two layers
PARTS = 4  # of a batch, with a gradient step each
GAMMA, LAMBDA = 0.995, 0.95  # of the λ-return, which lets the baseline stand for what is farther away
LEARNING_RATE, ENTROPY_BONUS = 1e-3, 0.02  # both on a line to 0

BINS, LINES = 64, 2  # of a difference of lines, and lines in each
FRAMES = 4  # in each bin of a time
SCALED, KINDS = 12, (9, 7, 8, 3, 3, 6)  # plain numbers, and marks among so many: see ``describe``
FEATURES = SCALED + sum(KINDS) + 3 * BINS
LEFT, RIGHT = 62, 186  # columns at which the paddles meet the ball
FIRST_LINE, LAST_LINE = 38, 203  # of the player's paddle


def main(
    steps: Annotated[int, tyro.conf.arg(help="decisions of each training")] = 40_000_000,
    games: Annotated[int, tyro.conf.arg(help="fresh games at the end, sampled and greedy each")] = 1000,
    results: Annotated[Path, tyro.conf.arg(help="folder of the scores; existing ones stay")] = RESULTS,
) -> None:
    """Train a player for each task that has no scores yet, one on each core."""
    results.mkdir(parents=True, exist_ok=True)
    compile_once()
    tasks = itertools.product(HOLDS, ACTIONS)
    jobs = [(*task, steps, games, results / f"hold-{task[0]}-actions-{task[1]}.json") for task in tasks]
    with get_context("spawn").Pool(cores(), torch.set_num_threads, (1,)) as pool:
        pool.starmap(run, [job for job in jobs if not job[-1].exists()], chunksize=1)


def run(hold: Hold, actions: int, steps: int, games: int, file: Path) -> None:
    """Train a player, evaluate it, and write its scores."""
    player = Player(hold, actions)
    player.train(steps)
    report = {"hold": hold, "sticky": STICKY, "actions": actions, "steps": steps}
    for way in WAYS:
        scores = evaluate(player, games, way == "greedy").as_json()
        report[way] = {key: scores[key] for key in ("n", "mean", "standard_error")}
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Player:
    """A policy and a baseline of the game's state, two hidden layers each."""

    def __init__(self, hold: Hold, actions: int, seed: int = 1):
        self.hold, self.seed = hold, seed
        self.random = torch.Generator().manual_seed(seed)
        self.policy, self.baseline = network(actions, self.random), network(1, self.random)
        with torch.no_grad():
            self.policy[-1].weight.zero_()  # every action is as likely as every other, at first
            self.baseline[-1].weight.zero_()
        self.optimizer = torch.optim.Adam([*self.policy.parameters(), *self.baseline.parameters()], LEARNING_RATE)

    def act(self, state: Tensor, greedy: bool = False) -> Tensor:
        """Actions (N,) for states (N, FEATURES)."""
        with torch.no_grad():
            logits = self.policy(state)
            noise = 0 if greedy else torch.empty_like(logits).exponential_(generator=self.random).log()
            return (logits - noise).argmax(1)

    def train(self, steps: int) -> None:
        """Learn from so many decisions."""
        fleet = MachineFleet(GAMES, self.hold, sticky=STICKY)
        fleet.reset(emulator_seeds(self.seed, 0, range(GAMES)))
        for batch in range(updates := -(-steps // (GAMES * HORIZON))):
            left = 1 - batch / updates
            states, actions, rewards = [see(fleet)], [], []
            for _ in range(HORIZON):
                actions.append(self.act(states[-1]))
                reward, _, _ = fleet.play(actions[-1].numpy(), np.ones(GAMES, np.bool_))
                states.append(see(fleet))
                rewards.append(torch.from_numpy(reward))
            self.learn(torch.stack(states), torch.stack(actions), torch.stack(rewards), left)

    def learn(self, states: Tensor, actions: Tensor, rewards: Tensor, left: float) -> None:
        """A gradient step on each part of a batch: states (T + 1, N, FEATURES), actions and rewards (T, N)."""
        self.optimizer.param_groups[0]["lr"] = LEARNING_RATE * left
        with torch.no_grad():
            values = self.baseline(states).squeeze(-1)
            returns = lambda_returns(rewards, values)
            advantages = standardize((returns - values[:-1]).flatten())
        states, actions, returns = states[:-1].flatten(0, 1), actions.flatten(), returns.flatten()
        for rows in torch.arange(len(actions)).chunk(PARTS):
            chosen = Categorical(logits=self.policy(states[rows]), validate_args=False)
            loss = surrogate_loss(chosen.log_prob(actions[rows]), advantages[rows], reduction="mean")
            unexplained = self.baseline(states[rows]).squeeze(-1) - returns[rows]
            loss = loss - ENTROPY_BONUS * left * chosen.entropy().mean() + 0.5 * unexplained.square().mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
            self.optimizer.step()


def network(outputs: int, random: torch.Generator) -> nn.Sequential:
    """Two hidden layers."""
    sizes = (FEATURES, HIDDEN, HIDDEN, outputs)
    layers = [nn.utils.skip_init(nn.Linear, n, m) for n, m in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=random)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def lambda_returns(rewards: Tensor, values: Tensor) -> Tensor:
    """Returns (T, N) that end with their point: Rₜ = γ·((1 − λ)·V(sₜ₊₁) + λ·Rₜ₊₁), and the reward at the point.

    The values (T + 1, N) are the baseline's predictions; the last one stands for all that follows.
    """
    returns, later = torch.empty_like(rewards), values[-1]
    for t in range(len(rewards) - 1, -1, -1):
        ahead = GAMMA * ((1 - LAMBDA) * values[t + 1] + LAMBDA * later)
        later = returns[t] = torch.where(rewards[t] == 0, ahead, rewards[t])
    return returns


def evaluate(player: Player, games: int, greedy: bool) -> Evaluation:
    """Fresh games, all at the same time."""
    fleet = MachineFleet(games, player.hold, sticky=STICKY)
    fleet.reset(emulator_seeds(player.seed, 0, range(games), EVALUATION))
    active, counts = np.ones(games, np.bool_), np.zeros((3, games))
    while active.any():
        rewards, dones, emulated = fleet.play(player.act(see(fleet), greedy).numpy(), active)
        counts += np.stack((rewards, active, emulated)) * active
        active &= ~dones
    return Evaluation(
        [Episode(i, score, int(length), int(frames)) for i, (score, length, frames) in enumerate(counts.T)]
    )


def see(fleet: MachineFleet) -> Tensor:
    """The state of each game as numbers of about −1 to 1: (N, FEATURES) float32."""
    numbers = np.zeros((fleet.num_envs, FEATURES), np.float32)
    describe(fleet.games, numbers)
    return torch.from_numpy(numbers)


@numba.njit
def describe(games: NDArray[Any], numbers: NDArray[np.float32]) -> None:
    """Write the state of each game."""
    for i in range(len(games)):
        game, row = games[i], numbers[i]
        knob = FIRST_LINE + (game.pot - POT_LOWEST) / (POT_HIGHEST - POT_LOWEST) * (LAST_LINE - FIRST_LINE)
        row[0], row[1] = (game.own_y - 120) / 60, (game.next_y - game.own_y) / 10
        row[2], row[3] = (knob - game.own_y) / 30, (game.cpu_y - 120) / 60
        row[4], row[5] = game.pause / 60, game.fire
        n = SCALED
        values = (game.left + 4, game.down + 3, game.clock % 8, min(game.last, 2), min(game.touch, 2), game.action)
        for value, size in zip(values, KINDS):  # noqa: B905  Numba knows no strict
            mark(row, n, value, size)
            n += size
        if game.y == 0 or game.pause > 0:
            continue
        line, frames = arrival(game)
        row[6], row[7], row[8] = (game.x - 128) / 80, (game.y - 120) / 60, (line - 120) / 60
        if game.left < 0:
            row[9] = frames / 60
            mark(row, n, int((line - knob) // LINES) + BINS // 2, BINS)
            mark(row, n + BINS, int((line - game.next_y) // LINES) + BINS // 2, BINS)
            mark(row, n + 2 * BINS, frames // FRAMES, BINS)
        else:
            row[10], row[11] = frames / 60, (line - game.cpu_y) / 16


@numba.njit
def mark(row: NDArray[np.float32], begin: int, number: int, size: int) -> None:
    """A 1 among zeros; at an end if the number lies beyond."""
    row[begin + min(max(number, 0), size - 1)] = 1


@numba.njit
def arrival(game: Game) -> tuple[int, int]:
    """The line at which the ball will reach the paddle that it flies to, and in how many frames."""
    x, y, down, frames = game.x, game.y, game.down, 0
    while game.left != 0 and (x < RIGHT if game.left < 0 else x > LEFT):
        if y <= TOP_WALL:
            y, down = y + 1, -down
        elif y >= BOTTOM_WALL:
            y, down = y - 1, -down
        x, y, frames = x - game.left, y + down, frames + 1
    return y, frames


if __name__ == "__main__":
    tyro.cli(main)
