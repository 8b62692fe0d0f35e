"""Advantages from siblings: a baseline without a network, from K games that were the same one a moment ago.

    python scripts/research/siblings.py --siblings 8 --seeds 401 402 403

trains configs/pong_expert.toml without its baseline, writes a curve of each seed to results/ceiling/siblings/, and
compares all curves there with two variants of the study in results/ceiling. docs/siblings.md has method and results.

The loss is −log π(aₜ|sₜ)·(Rₜ − bₜ), where bₜ is the mean return of the siblings that still play t decisions after the
common start. Given that start, the siblings are independent: bₜ depends on their actions and on t, but not on aₜ. So
E[∇log π(aₜ|sₜ)·bₜ] = E[bₜ]·E[∇log π(aₜ|sₜ)] = 0: the baseline changes the gradient's variance but not its mean. All
rallies of a group enter the same batch, however long they are.

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
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pong.config import Config, load_config
from pong.envs.base import Segment
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.machine import OPPONENT, PLAYER
from pong.envs.pong.task import pong_task
from pong.evaluate import evaluate
from pong.observations import SparseFrames
from pong.rollout import TRAINING, Batch, Decisions, Player
from pong.seeds import t_interval
from pong.train import Trainer, load_policy, load_weights

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import markdown, run

EVERY = 1_000_000  # decisions between two evaluations
CHANGES = {"baseline": "none", "num_envs": 32, "horizon": 128, "total_steps": 20 * EVERY, "eval_episodes": 30}
FURTHER = {"total_steps": 4 * EVERY, "learning_rate": 5e-4, "entropy_bonus": 0.0, "eval_episodes": 200}
STUDY = ("pong_expert.toml", "no_baseline")  # variants in results/ceiling
AGENT, RESULTS = Path("pretrained/pong_expert"), Path("results/ceiling/siblings")


class SiblingFleet(MachineFleet):
    """Groups of K games that play a rally each from a common start; one that has ended its rally waits."""

    def __init__(self, config: Config, siblings: int, hits: bool):
        super().__init__(config.num_envs, pong_task(config))
        self.siblings, self.hits = siblings, hits
        # ended its rally; returned a ball in it; plays it from a comeback
        self.ended, self.returned, self.apart = np.zeros((3, self.num_envs), np.bool_)
        self.serves: dict[int, tuple[Any, ...]] = {}  # states by group: its first game's next serve
        self.comebacks: dict[int, tuple[Any, ...]] = {}  # states by game, when the ball last came back

    def play(self, actor: Any, observations: Any, noise: Any, active: Any, whole_episodes: bool) -> Segment:
        """One decision of each game that does not wait; groups without such a game restart."""
        before, K = self.games["last"].copy(), self.siblings
        segment = super().play(actor, observations, noise[:1], ~self.ended, whole_episodes)
        rows, last = segment.next_observations, self.games["last"]
        ends = (segment.rewards[0] != 0) | segment.dones[0]
        came_back = self.returned & ~ends & (before == PLAYER) & (last == OPPONENT)
        self.returned |= (before == OPPONENT) & (last == PLAYER)
        self.ended |= ends
        for i in np.flatnonzero(came_back & ~self.apart & self.hits):
            self.comebacks[i] = self._state(i, rows)
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
        game, pixels, its_rows, i = comebacks[0] if comebacks else self.serves.pop(group)
        own = self.games[members]
        self.games[members] = game
        for name in ("ale_drawn", "gym_drawn"):  # of random numbers, which each game has of its own
            self.games[name][members] = own[name]
        self._emulators.pixels[:, members] = pixels[:, None]
        self.ended[members], self.returned[members], self.apart[members] = False, False, bool(comebacks)
        source = torch.arange(len(rows))
        source[members] = len(rows) + i
        return SparseFrames.cat([rows, its_rows])[source]


class SiblingPlayer(Player):
    """Plays groups of siblings: batches of N·horizon decisions or a few more, whose returns are advantages."""

    fleet: SiblingFleet

    def __init__(self, config: Config, actor: Any, siblings: int, hits: bool):
        super().__init__(config, range(config.num_envs), TRAINING, actor)
        self.fleet = SiblingFleet(config, siblings, hits)
        self.explained: list[float] = []  # share of the returns' variance, of each batch

    def _play(self) -> Batch:
        self._prepared.result()
        segments, decisions = list[Segment](), 0
        while decisions < len(self.emulators) * self._horizon:
            segments.append(self.fleet.play(self.actor, self._observations, self._noise.ahead(), self._active, False))
            self._noise.use(1)
            self._observations = segments[-1].next_observations
            decisions += np.count_nonzero(segments[-1].active)
        return self._cut(segments)

    def _returns(self, decisions: Decisions) -> tuple[Tensor, NDArray[np.bool_]]:
        """Advantages (T, N), and where all siblings have ended their rally."""
        returns, active = super()._returns(decisions)[0], decisions.active
        advantages = returns - siblings_mean(returns, torch.from_numpy(active), self.fleet.siblings)
        ends = active & (decisions.dones | (decisions.rewards != 0))
        whole = ends.sum(0).reshape(-1, self.fleet.siblings).min(1)  # (G,), rallies that all siblings have ended
        known = ends.cumsum(0) - ends < whole.repeat(self.fleet.siblings)
        if (rows := torch.from_numpy(known & active)).any():
            self.explained.append(1 - float(advantages[rows].var() / returns[rows].var()))
        return advantages, known


def siblings_mean(returns: Tensor, active: Tensor, siblings: int) -> Tensor:
    """The mean return (T, N) of a game's siblings that are active in the same time step; 0 if there are none."""
    grouped, playing = (x.unflatten(1, (-1, siblings)) for x in (returns * active, active))  # (T, G, K)
    others = playing.sum(-1, keepdim=True) - playing.int()
    return ((grouped.sum(-1, keepdim=True) - grouped) / others.clamp_min(1)).flatten(1)


def main(
    siblings: Annotated[Literal[1, 2, 4, 8, 16, 32], tyro.conf.arg(help="games of a group, K; 1: no baseline")] = 8,
    hits: Annotated[bool, tyro.conf.arg(help="also start where the opponent had returned the player's shot")] = False,
    further: Annotated[bool, tyro.conf.arg(help="train pretrained/pong_expert further, at a lower rate")] = False,
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="of the runs to train")] = (),
    steps: Annotated[int, tyro.conf.arg(help="stop after so many decisions, those of all siblings")] = 20 * EVERY,
) -> None:
    """Train some seeds, then compare all curves."""
    changes = CHANGES | (FURTHER if further else {})
    processor = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    for seed in seeds:
        about = {"siblings": siblings, "hits": hits, **changes, "seed": seed, "processor": processor[0]}
        path = RESULTS / f"{'further-' * further}{siblings}-{'hits' if hits else 'serves'}-s{seed}.csv"
        head, rows = f"# configs/pong_expert.toml with {json.dumps(about)}\n", []
        trainer = Trainer(load_config("configs/pong_expert.toml").replace(**changes, seed=seed))
        if further:
            load_weights(trainer.policy, load_policy(AGENT)[0].state_dict())
        for row in train(trainer, siblings, hits):
            rows.append(row)
            path.write_text(head + pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"), encoding="utf-8")
            if row["step"] >= steps:
                break
    compare()


def train(trainer: Trainer, siblings: int, hits: bool) -> Iterator[dict[str, Any]]:
    """Train a run and yield a row of its curve after every million decisions."""
    trainer.rollout.close()
    player = SiblingPlayer(trainer.config, trainer.actor, siblings, hits)
    trainer.rollout.players, due = [player], EVERY
    with contextlib.closing(player):
        for update in trainer.run():
            if trainer.steps >= due:
                due += EVERY
                games = evaluate(trainer.actor, trainer.config, trainer.config.eval_episodes, seed=update.number)
                row = {"step": trainer.steps, "update": update.number, "score": games.mean}
                row |= {"standard_error": games.standard_error, "entropy": update.stats.entropy}
                yield row | {"explained_variance": np.mean(player.explained[: update.number][-200:])}


def compare() -> None:
    """Draw scores, and write a table of their means with 95 % intervals over seeds, after equal decisions."""
    runs = {name: [read(file) for file in (RESULTS.parent / name).glob("s*/metrics.csv")] for name in STUDY}
    for file in sorted(RESULTS.glob("*.csv"), key=lambda file: (len(file.stem), file.stem)):
        runs.setdefault(file.stem.rpartition("-s")[0], []).append(read(file))
    figure, rows = Figure(figsize=(7, 4), layout="constrained"), []
    axes = figure.subplots()
    for name, curves in runs.items():
        at = np.arange(EVERY, min(steps[-1] for steps, *_ in curves) + 1, EVERY)
        values = np.array([[np.interp(at, steps, y) for y in ys] for steps, *ys in curves])  # (seeds, 2, M)
        mean, half = t_interval(values)
        if not name.startswith("further"):
            color = f"C{len(rows)}"
            axes.plot(at / EVERY, values[:, 0].T, color=color, linewidth=0.7, alpha=0.6)
            axes.plot(at / EVERY, mean[0], color=color, marker=".", label=f"{name}: {len(curves)} seeds and their mean")
        cells = {m: f"{mean[0, m - 1]:+.1f} ± {half[0, m - 1]:.1f}" if m <= len(at) else "" for m in (1, 2, 4, 20)}
        scores = {f"score at {m} M": cell.removesuffix(" ± nan").replace("-", "−") for m, cell in cells.items()}
        explained = {"variance explained": f"{mean[1, :4][-1]:.2f}".replace("nan", "–")}
        rows.append({"run": name, "seeds": len(curves), **scores, **explained})
    axes.set(xlabel="decisions, millions", ylabel="score", xlim=(0, 12), ylim=(-21, 21))
    axes.grid(alpha=0.2)
    axes.legend(loc="lower right")
    figure.savefig(RESULTS / "curves.png", dpi=100)
    (RESULTS / "scores.md").write_text(markdown(rows), encoding="utf-8")


def read(file: Path) -> NDArray[np.float64]:
    """Steps, scores and the explained share of the returns' variance, (3, rows), of a run of the study or of this."""
    curve = pd.read_csv(file, comment="#").rename(columns=lambda name: name.rpartition("/")[2])
    score = "episodic_return_mean100" if file.name == "metrics.csv" else "score"
    return curve[["step", score, "explained_variance"]].to_numpy(float).T


if __name__ == "__main__":
    run(main)
