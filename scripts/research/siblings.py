"""Advantages from siblings: a baseline without a network, from K games that were the same one a moment ago.

    python scripts/research/siblings.py --siblings 8 --seeds 401 402 403

trains configs/pong_expert.toml without its baseline and writes a curve of each seed to results/ceiling/siblings/; then,
also without seeds, it compares all curves there with two variants of the study in results/ceiling (docs/siblings.md).

Games come in groups of K. A group's games start a rally in the same state, with random numbers of their own, and wait
until all have ended theirs. Then all continue from the first one's next serve. With ``--hits``, they first play another
K rallies from a state in which the opponent had returned the player's shot, if that happened.

The loss is −log π(aₜ|sₜ)·(Rₜ − bₜ). The baseline bₜ is the mean return Rₜ of those siblings that are still playing t
decisions after the common start, or 0 if there are none. Given that start, the siblings are independent: bₜ depends on
their actions and on t, but not on aₜ. So E[∇log π(aₜ|sₜ)·bₜ] = E[bₜ]·E[∇log π(aₜ|sₜ)] = 0, and the baseline changes
the gradient's variance but not its mean. All rallies of a group enter the same batch, however long they are.

Sources: "vine" in Schulman et al. 2015, "Trust region policy optimization"; the leave-one-out mean in Kool et al. 2019,
"Buy 4 REINFORCE samples, get a baseline for free!".
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

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
from pong.seeds import read_curve, t_interval
from pong.train import Trainer, load_policy, load_weights

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import markdown, run

TOTAL, EVERY = 20_000_000, 1_000_000  # decisions: of all schedules, and between two evaluations
CHANGES = {"baseline": "none", "num_envs": 32, "horizon": 128, "total_steps": TOTAL, "eval_episodes": 30}
FURTHER = {"total_steps": 4_000_000, "learning_rate": 5e-4, "entropy_bonus": 0.0, "eval_episodes": 200}
STUDIES = ("pong_expert.toml", "no_baseline")
AGENT, RESULTS = Path("pretrained/pong_expert"), Path("results/ceiling/siblings")


class SiblingFleet(MachineFleet):
    """Groups of K games that play a rally each from a common start; one that has ended its rally waits."""

    def __init__(self, config: Config, siblings: int, hits: bool):
        super().__init__(config.num_envs, pong_task(config))
        self.siblings, self.hits = siblings, hits
        self.ended, self.returned = np.zeros((2, self.num_envs), np.bool_)  # the rally; the ball in it
        self.serves: dict[int, tuple[Any, ...]] = {}  # states by group: its first game's next serve
        self.comebacks: dict[int, tuple[Any, ...]] = {}  # by game: the ball came back; the last one of its rally
        self.apart: set[int] = set()  # groups that play from a comeback

    def play(self, actor: Any, observations: Any, noise: Any, active: Any, whole_episodes: bool) -> Segment:
        """One decision of each game that does not wait; groups without such a game restart."""
        before, K = self.games["last"].copy(), self.siblings
        segment = super().play(actor, observations, noise[:1], ~self.ended, whole_episodes)
        rows, last = segment.next_observations, self.games["last"]
        ends = (segment.rewards[0] != 0) | segment.dones[0]
        for i in np.flatnonzero(self.hits & self.returned & ~ends & (before == PLAYER) & (last == OPPONENT)):
            self.comebacks[i] = self._state(i, rows)
        self.returned |= (before == OPPONENT) & (last == PLAYER)
        self.ended |= ends
        for group in np.flatnonzero(ends[::K]):
            self.serves.setdefault(group, self._state(group * K, rows))
        for group in np.flatnonzero(self.ended.reshape(-1, K).all(1)):
            rows = self._restart(group, rows)
        return replace(segment, next_observations=rows)

    def _state(self, i: int, rows: Any) -> tuple[Any, ...]:
        return self.games[i].copy(), self._emulators.pixels[:, i].copy(), rows, i

    def _restart(self, group: int, rows: Any) -> SparseFrames:
        """Continue a group from a comeback, or else from its next serve; returns the observations of all games."""
        members = np.arange(group * self.siblings, (group + 1) * self.siblings)
        comebacks = [self.comebacks.pop(i) for i in members if i in self.comebacks]
        self.apart ^= {group} if comebacks or group in self.apart else set()
        game, pixels, its_rows, i = comebacks[0] if group in self.apart else self.serves.pop(group)
        drawn = self.games[["ale_drawn", "gym_drawn"]][members]  # this much of each one's own random numbers
        self.games[members] = game
        self.games["ale_drawn"][members], self.games["gym_drawn"][members] = drawn["ale_drawn"], drawn["gym_drawn"]
        self._emulators.pixels[:, members] = pixels[:, None]
        self.ended[members] = self.returned[members] = False
        source = torch.arange(len(rows))
        source[members] = len(rows) + i
        return SparseFrames.cat([rows, its_rows])[source]


class SiblingPlayer(Player):
    """Plays groups of siblings: batches of N·horizon decisions or a few more, whose returns are advantages."""

    def __init__(self, config: Config, actor: Any, siblings: int, hits: bool):
        super().__init__(config, range(config.num_envs), TRAINING, actor)
        self.fleet = SiblingFleet(config, siblings, hits)
        self.explained: list[float] = []  # share of the returns' variance, of each batch

    def _snapshot(self) -> None:
        """A run is not saved."""

    def _play(self) -> Batch:
        self._prepared.result()
        segments, decisions = list[Segment](), 0
        while decisions < len(self.emulators) * self._horizon:
            segment = self.fleet.play(self.actor, self._observations, self._noise.ahead(), self._active, False)
            segments.append(segment)
            self._noise.use(1)
            self._observations = segment.next_observations
            decisions += int(segment.active.sum())
        return self._cut(segments)

    def _returns(self, decisions: Decisions) -> tuple[Tensor, NDArray[np.bool_]]:
        """Advantages (T, N), and where all siblings have ended their rally."""
        returns, active = super()._returns(decisions)[0], decisions.active
        advantages = returns - siblings_mean(returns, torch.from_numpy(active), self.fleet.siblings)
        ends = active & (decisions.dones | (decisions.rewards != 0))
        rallies = ends.sum(0).reshape(-1, self.fleet.siblings).min(1)  # (G,), that all siblings have ended
        known = ends.cumsum(0) - ends < rallies.repeat(self.fleet.siblings)  # the rallies before: 0, 1, …
        if (rows := torch.from_numpy(known & active)).any():
            self.explained.append(1 - float(advantages[rows].var() / returns[rows].var()))
        return advantages, known


def siblings_mean(returns: Tensor, active: Tensor, siblings: int) -> Tensor:
    """The mean return (T, N) of a game's siblings that are active in the same time step; 0 if there are none."""
    grouped, playing = (x.unflatten(1, (-1, siblings)) for x in (returns * active, active))  # (T, G, K)
    others = playing.sum(-1, keepdim=True) - playing.int()
    return ((grouped.sum(-1, keepdim=True) - grouped) / others.clamp_min(1)).flatten(1)


def main(
    *,
    siblings: Annotated[PositiveInt, tyro.conf.arg(help="games of a group, K; 1: no baseline")] = 8,
    hits: Annotated[bool, tyro.conf.arg(help="also start where the opponent had returned the player's shot")] = False,
    further: Annotated[bool, tyro.conf.arg(help="train pretrained/pong_expert further, at a lower rate")] = False,
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="of the runs to train")] = (),
    steps: Annotated[PositiveInt, tyro.conf.arg(help="stop after so many decisions, those of all siblings")] = TOTAL,
) -> None:
    """Train some seeds, then compare all curves."""
    changes = CHANGES | (FURTHER if further else {})
    config = load_config("configs/pong_expert.toml").replace(checkpoint_every=TOTAL, **changes)
    processor = re.search(r"model name\s*: (.*)|$", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    RESULTS.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        about = {"siblings": siblings, "hits": hits, **changes, "seed": seed, "processor": processor and processor[1]}
        path = RESULTS / f"{'further-' * further}{siblings}-{'hits' if hits else 'serves'}-s{seed}.csv"
        path.write_text(f"# configs/pong_expert.toml with {json.dumps(about)}\n", encoding="utf-8")
        trainer = Trainer(config.replace(seed=seed))
        if further:
            load_weights(trainer.policy, load_policy(AGENT)[0].state_dict())
        for number, row in enumerate(train(trainer, siblings, hits)):
            pd.DataFrame([row]).to_csv(path, mode="a", header=not number, index=False, float_format="%.6g")
            if row["step"] >= steps:
                break
    compare()


def train(trainer: Trainer, siblings: int, hits: bool) -> Iterator[dict[str, float]]:
    """Train a run and yield a row of its curve after every million decisions."""
    trainer.rollout.close()
    with contextlib.closing(SiblingPlayer(trainer.config, trainer.actor, siblings, hits)) as player:
        trainer.rollout.players, due = [player], EVERY
        for update in trainer.run():
            if trainer.steps >= due:
                due += EVERY
                games = evaluate(trainer.actor, trainer.config, trainer.config.eval_episodes, seed=update.number)
                row = {"step": trainer.steps, "update": update.number, "score": games.mean}
                row |= {"standard_error": games.standard_error, "entropy": update.stats.entropy}
                yield row | {"explained_variance": float(np.mean(player.explained[: update.number][-200:]))}


def compare() -> None:
    """Draw mean curves with 95 % intervals over seeds, and write a table of scores after equal numbers of decisions."""
    runs = {study: [read_curve(run) for run in sorted((RESULTS.parent / study).glob("s*"))] for study in STUDIES}
    explained: dict[str, list[float]] = {}
    for file in sorted(RESULTS.glob("*.csv")):
        curve, name = pd.read_csv(file, comment="#"), file.stem.rpartition("-s")[0]
        runs.setdefault(name, []).append(curve[["step", "score"]].to_numpy().T)
        explained.setdefault(name, []).append(curve["explained_variance"].iloc[-1])
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels, rows = figure.subplots(1, 2, width_ratios=(2, 1)), []
    for name, curves in runs.items():
        at = np.arange(EVERY, min(curve[0, -1] for curve in curves) + 1, EVERY)
        scores = np.array([np.interp(at, curve[0], curve[-1]) for curve in curves])
        mean, half = t_interval(scores)
        panel = panels[int(name.startswith("further"))]
        panel.plot(at / 1e6, mean, marker=".", label=f"{name}, {len(curves)} seeds")
        panel.fill_between(at / 1e6, mean - half, mean + half, alpha=0.15)
        cells = {f"{m} M": f"{mean[m - 1]:+.1f} ± {half[m - 1]:.1f}" if m <= len(at) else "" for m in (2, 4, 8, 20)}
        share = f"{np.mean(explained[name]):.2f}" if name in explained else ""
        rows.append({"run": name, "seeds": len(curves), **cells, "variance explained": share})
    for panel in panels:
        panel.set(xlabel="decisions, millions")
        panel.grid(alpha=0.2)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("score of fresh games, sampled")
    figure.savefig(RESULTS / "curves.png", dpi=110)
    (RESULTS / "scores.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    run(main)
