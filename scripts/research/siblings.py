"""Advantages from siblings: a baseline without a network, from K games that were the same one a moment ago.

    python scripts/research/siblings.py --siblings 8 --seeds 401 402 403

trains configs/pong_expert.toml without its baseline and writes each seed's curve to results/ceiling/siblings/. With or
without seeds, it then compares all curves there with two variants of the study in results/ceiling (docs/siblings.md).

Games come in groups of K. A group's games start a rally in the same state, with random numbers of their own, and wait
until all have ended theirs. Then all continue from the first one's next serve. With ``--hits``, they first play another
K rallies from a state in which the opponent had returned the player's shot, if that happened.

The loss is −log π(aₜ|sₜ)·(Rₜ − bₜ). The baseline bₜ is the mean return Rₜ of those siblings that are still playing t
decisions after the common start, or 0 if there are none. Given that start, the siblings are independent: bₜ depends on
their actions and on t, but not on aₜ. So E[∇log π(aₜ|sₜ)·bₜ] = E[bₜ]·E[∇log π(aₜ|sₜ)] = 0, and the baseline changes
the gradient's variance but not its mean. All K rallies of a group enter the same batch, so that long ones can't lag.

Sources: "vine" in Schulman et al. 2015, "Trust region policy optimization"; the leave-one-out mean in Kool et al. 2019,
"Buy 4 REINFORCE samples, get a baseline for free!".
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from pong.config import Config, load_config
from pong.envs.base import Segment
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import OPPONENT, PLAYER
from pong.envs.pong.task import pong_task
from pong.evaluate import evaluate
from pong.observations import SparseFrames
from pong.rollout import TRAINING, Batch, Decisions, Player
from pong.train import Trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import run

GAMES = 32  # at the same time
EVERY = 1_000_000  # decisions between two evaluations
FRESH_GAMES = 30  # of an evaluation, sampled
RESULTS = Path("results/ceiling/siblings")
DRAWN = ("ale_drawn", "gym_drawn")  # the part of a game that belongs to its random numbers


class Start(NamedTuple):
    """A state from which a group plays K rallies."""

    game: Any  # a record of machine.GAME
    pixels: NDArray[np.int16]  # (4, 1 + MOST), its last frames
    observations: SparseFrames  # of all games
    number: int  # of the game


class SiblingFleet(MachineFleet):
    """Groups of K games that play a rally each from a common start; one that has ended its rally waits."""

    def __init__(self, config: Config, siblings: int, hits: bool):
        super().__init__(config.num_envs, pong_task(config))
        self.siblings, self.hits = siblings, hits
        self.ended, self.returned = np.zeros((2, self.num_envs), np.bool_)  # the rally; the ball in it
        self.serves: dict[int, Start] = {}  # by group, its first game's next one
        self.comebacks: dict[int, Start] = {}  # by game, the last one of its rally
        self.apart: set[int] = set()  # groups that play from a comeback

    def play(self, actor: Any, observations: Any, noise: Any, active: Any, whole_episodes: bool) -> Segment:
        """One decision of each game that does not wait; groups without such a game restart."""
        before, K = self.games["last"].copy(), self.siblings
        segment = super().play(actor, observations, noise[:1], ~self.ended, whole_episodes)
        rows, last = segment.next_observations, self.games["last"]
        ends = (segment.rewards[0] != 0) | segment.dones[0]
        if self.hits:
            for i in np.flatnonzero(self.returned & ~ends & (before == PLAYER) & (last == OPPONENT)):
                self.comebacks[i] = self._start(i, rows)
        self.returned |= (before == OPPONENT) & (last == PLAYER)
        self.ended |= ends
        for group in np.flatnonzero(ends[::K]):
            self.serves.setdefault(group, self._start(group * K, rows))
        for group in np.flatnonzero(self.ended.reshape(-1, K).all(1)):
            rows = self._restart(group, rows)
        return replace(segment, next_observations=rows)

    def _start(self, i: int, rows: Any) -> Start:
        return Start(self.games[i].copy(), self._emulators.pixels[:, i].copy(), rows, i)

    def _restart(self, group: int, rows: Any) -> SparseFrames:
        """Let a group's games play on from a comeback, or else from the next serve; returns all games' observations."""
        members = np.arange(group * self.siblings, (group + 1) * self.siblings)
        comebacks = [self.comebacks.pop(i) for i in members if i in self.comebacks]
        if comebacks and group not in self.apart:
            self.apart.add(group)
            start = comebacks[0]
        else:
            self.apart.discard(group)
            start = self.serves.pop(group)
        drawn = {name: self.games[name][members] for name in DRAWN}
        self.games[members] = start.game
        for name, numbers in drawn.items():
            self.games[name][members] = numbers
        self._emulators.pixels[:, members] = start.pixels[:, None]
        self.ended[members] = self.returned[members] = False
        source = torch.arange(len(rows))
        source[members] = len(rows) + start.number
        return SparseFrames.cat([rows, start.observations])[source]


class SiblingPlayer(Player):
    """Plays groups of siblings; a batch's returns are advantages, and a batch has N·horizon decisions or a few more."""

    def __init__(self, config: Config, actor: Any, siblings: int, hits: bool):
        super().__init__(config, range(config.num_envs), TRAINING, actor)
        self.fleet = SiblingFleet(config, siblings, hits)
        self.siblings = siblings
        self.explained: list[float] = []  # share of the returns' variance, of each batch

    def _snapshot(self) -> None:
        """A run is not saved."""

    def _play(self) -> Batch:
        self._prepared.result()
        segments: list[Segment] = []
        decisions = 0
        while decisions < len(self.emulators) * self._horizon:
            noise = self._noise.ahead()
            segments.append(self.fleet.play(self.actor, self._observations, noise, self._active, False))
            self._noise.use(1)
            self._observations = segments[-1].next_observations
            decisions += int(segments[-1].active.sum())
        return self._cut(segments)

    def _returns(self, decisions: Decisions) -> tuple[Tensor, NDArray[np.bool_]]:
        """Advantages (T, N), and where all siblings have ended their rally."""
        returns, _ = super()._returns(decisions)
        known = complete(decisions, self.siblings)
        baseline = siblings_mean(returns, torch.from_numpy(decisions.active), self.siblings)
        rows = torch.from_numpy(known & decisions.active)
        left, all_returns = (returns - baseline)[rows], returns[rows]
        if len(left):
            self.explained.append(1 - float(left.var() / all_returns.var()))
        return returns - baseline, known


def main(
    *,
    siblings: Annotated[PositiveInt, tyro.conf.arg(help="games of a group, K; 1: no baseline")] = 8,
    hits: Annotated[bool, tyro.conf.arg(help="also start where the opponent had returned the player's shot")] = False,
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="of the runs to train; none: only compare")] = (),
    total_steps: Annotated[PositiveInt, tyro.conf.arg(help="decisions of a run, those of all siblings")] = 20_000_000,
) -> None:
    """Train some seeds, then compare all curves."""
    changes = {"baseline": "none", "num_envs": GAMES, "horizon": 128, "checkpoint_every": total_steps}
    config = load_config("configs/pong_expert.toml").replace(**changes, total_steps=total_steps)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        name = f"{siblings}-{'hits' if hits else 'serves'}-s{seed}"
        about = {"siblings": siblings, "hits": hits, "processor": processor(), **config.replace(seed=seed).model_dump()}
        curve = pd.DataFrame(train(config.replace(seed=seed), siblings, hits))
        text = f"# {json.dumps(about)}\n{curve.to_csv(index=False, float_format='%.6g')}"
        (RESULTS / f"{name}.csv").write_text(text, encoding="utf-8")


def train(config: Config, siblings: int, hits: bool) -> Iterator[dict[str, float]]:
    """Train a run and yield a row of its curve after every million decisions."""
    with contextlib.closing(Trainer(config)) as trainer:
        trainer.rollout.close()
        player = SiblingPlayer(config, trainer.actor, siblings, hits)
        trainer.rollout.players = [player]
        before = 0
        for update in trainer.run():
            if trainer.done < 1 and trainer.steps // EVERY == before // EVERY:
                continue
            games = evaluate(trainer.actor, config, FRESH_GAMES, seed=update.number)
            explained = float(np.mean(player.explained[-200 - 1 : -1]))
            row = {"step": trainer.steps, "update": update.number, "score": games.mean}
            row |= {"standard_error": games.standard_error, "entropy": update.stats.entropy}
            yield row | {"explained_variance": explained}
            before = trainer.steps


def complete(decisions: Decisions, siblings: int) -> NDArray[np.bool_]:
    """Which decisions (T, N) belong to a rally that all siblings have ended."""
    ends = decisions.active & (decisions.dones | (decisions.rewards != 0))
    rally = ends.cumsum(0) - ends  # (T, N), from 0
    whole = ends.sum(0).reshape(-1, siblings).min(1)  # (G,), rallies that all have ended
    return rally < whole.repeat(siblings)


def siblings_mean(returns: Tensor, active: Tensor, siblings: int) -> Tensor:
    """The mean return (T, N) of a game's siblings that are active in the same time step; 0 if there are none."""
    grouped, playing = (x.unflatten(1, (-1, siblings)) for x in (returns * active, active))  # (T, G, K)
    others = playing.sum(-1, keepdim=True) - playing.int()
    return ((grouped.sum(-1, keepdim=True) - grouped) / others.clamp_min(1)).flatten(1)


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    run(main)
