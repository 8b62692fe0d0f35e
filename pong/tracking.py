"""What a run shows of how it goes: TensorBoard events, metrics.csv, a progress bar."""

import contextlib
import csv
import io
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from rich.console import Console
from torch.utils.tensorboard import summary

from pong.checkpoint import Counters, write_atomically
from pong.config import Config, to_toml
from pong.evaluate import Evaluation
from pong.folder import command_of, writable
from pong.policies import Policy
from pong.progress import ProgressLine, RunConsole
from pong.records import Events, Records, scalars
from pong.render.summaries import game_summary, weight_picture
from pong.rollout import Episode
from pong.train import Update

COUNTERS = ("update", "step", "games", "points", "minutes")
TAGS = (
    "charts/episodic_return",
    "charts/episodic_return_mean100",
    "charts/episodic_return_ema",
    "charts/episodic_length",
    "charts/SPS",
    "charts/learning_rate",
    "losses/policy_loss",
    "losses/entropy",
    "losses/grad_norm",
    "losses/approx_kl",
    "losses/explained_variance",
    "eval/episodic_return",
    "eval/standard_error",
    "policy/prob_up",
    "policy/std",
    "time/rollout_seconds",
    "time/learn_seconds",
    "time/track_seconds",
)
SPS_WINDOW = 20  # updates
IMAGE_EVERY = 500  # updates between pictures, which take as long as some updates


class Scores:
    """Running tallies over the games of a run."""

    def __init__(self, counters: Counters | None = None) -> None:
        counters = counters or Counters()
        self.games = counters.games
        self.points = counters.points
        self.last100: deque[float] = deque(counters.last100, maxlen=100)
        self.ema = counters.ema  # 0.99·old + 0.01·new, from the first game's score, as in 2016

    def add(self, episode: Episode) -> None:
        """Count one more game."""
        self.games += 1
        self.last100.append(episode.score)
        self.ema = episode.score if self.ema is None else 0.99 * self.ema + 0.01 * episode.score

    @property
    def mean100(self) -> float | None:
        """Mean score of the last 100 games, None before the hundredth."""
        return float(np.mean(self.last100)) if len(self.last100) == 100 else None

    def reached(self, goal: float | None) -> bool:
        """Whether the mean of 100 games is at least ``goal``; None is never reached."""
        return goal is not None and self.mean100 is not None and self.mean100 >= goal


def _rows_up_to(update: int, file: Path) -> list[dict[str, str]]:
    """The rows of an interrupted run's metrics.csv that its checkpoint knows of."""
    if not file.exists():
        return []
    *lines, _ = file.read_text(encoding="utf-8", errors="replace").split("\n")  # what follows the last: half a line
    rows = [row for row in csv.DictReader(lines) if (row.get("update") or "").isdecimal()]
    return [row for row in rows if int(row["update"]) <= update]


@torch.no_grad()
def _pictures(update: Update, policy: Policy) -> Iterator[Any]:
    """How sure the policy is of what it does, and what its first layer looks for."""
    device, batch = next(policy.parameters()).device, update.batch
    if not batch.actions.is_floating_point():  # a density is no probability
        taken = policy.log_prob(batch.observations.to(device), batch.actions.to(device)).exp().cpu().numpy()
        yield summary.histogram("policy/action_probability", taken, np.linspace(0, 1, 41))  # type: ignore[no-untyped-call]
    if policy.two_layers:
        yield summary.image("policy/W1", weight_picture(policy.two_layers[0]), dataformats="HW")  # type: ignore[no-untyped-call]


def _line(values: Iterable[object]) -> bytes:
    """A line of metrics.csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode()


class Tracker:
    """Writes each update to TensorBoard, metrics.csv and the terminal.

    Args:
        config: the run's config.
        folder: the run's folder, see ``folder.create_run_folder``.
        console: where progress goes; a bar on a terminal, plain lines elsewhere.
        counters: how far the run had come, if it is resumed: what was written later is removed.
        began: when its minutes begin to count, or continue, on the monotonic clock; now if None.

    Raises:
        InputError: the folder can't be written.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        console: Console | None = None,
        counters: Counters | None = None,
        began: float | None = None,
    ):
        counters = counters or Counters()
        self.config = config
        self.scores = Scores(counters)
        with writable(folder):
            before = self._truncate(counters, folder)
        self._began = (time.monotonic() if began is None else began) - 60 * before
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), counters.steps)], maxlen=SPS_WINDOW + 1)
        self._steps = self._began_at = counters.steps
        self._track_seconds = 0.0
        self._failing: set[str] = set()  # what can't be written
        self.progress = ProgressLine(console or RunConsole(), config.name, config.total_steps, self._began)

    def _truncate(self, counters: Counters, folder: Path) -> float:
        """Cut both curves at the checkpoint and open them; returns the minutes that the run had taken to it."""
        rows = _rows_up_to(counters.updates, folder / "metrics.csv")
        names = (*COUNTERS, *TAGS)
        lines = [names, *([row.get(name) or "" for name in names] for row in rows)]
        write_atomically(folder / "metrics.csv", b"".join(map(_line, lines)))
        self._table = Records(folder / "metrics.csv")
        self._events = Events(folder, purge_step=counters.steps + 1 if counters.updates else 0)
        if not counters.updates:
            about = f"```\n{command_of(folder)}\n```\n\n```toml\n{to_toml(self.config)}```"
            self._events.summaries([summary.text("config", about)], 0)  # type: ignore[no-untyped-call]
        return float(rows[-1]["minutes"]) if rows else 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()
        if kind is None and self._steps > self._began_at:
            with self._or_continue("TensorBoard"):
                self._write_hparams()
        self._events.close()
        self._table.close()

    def _write_hparams(self) -> None:
        if self.scores.mean100 is None:
            return
        config = self.config.model_dump(exclude_none=True)
        results = {"hparam/mean100": self.scores.mean100, "hparam/games": float(self.scores.games)}
        plain = {key: str(value) if isinstance(value, list) else value for key, value in config.items()}
        made = summary.hparams(plain, results)  # type: ignore[no-untyped-call]
        self._events.summaries([*made, scalars(results)], self._steps)

    def track(self, update: Update, steps: int, policy: Policy, evaluation: Evaluation | None = None) -> None:
        """Record one update, with the evaluation after it if there was one; ``steps`` is those of the run so far.

        What can't be written is said once, and tried again with the next update: training continues.
        """
        began = time.perf_counter()
        for episode in update.batch.episodes:
            self.scores.add(episode)
        self.scores.points += update.batch.points
        self._steps = steps
        self._recent.append((time.monotonic(), steps))
        values = self._values(update, evaluation)
        minutes = (time.monotonic() - self._began) / 60
        counters = (update.number, steps, self.scores.games, self.scores.points, round(minutes, 3))
        with self._or_continue("metrics.csv"):
            self._table.add(_line((*counters, *("" if v is None else f"{v:.6g}" for v in values.values()))))
        pictures = self._pictures_due(update, policy, evaluation)  # what fails in making them is no matter of writing
        with self._or_continue("TensorBoard"):
            self._write_events(values, steps, pictures)
        self._show(values["charts/SPS"] or 0.0)
        self._track_seconds = time.perf_counter() - began

    def _write_events(self, values: dict[str, float | None], steps: int, pictures: list[Any]) -> None:
        counts = {"charts/games": float(self.scores.games), "charts/points": float(self.scores.points)}
        numbers = {tag: v for tag, v in values.items() if v is not None} | counts
        self._events.summaries([scalars(numbers), *pictures], steps)  # at once: they wait together

    def _pictures_due(self, update: Update, policy: Policy, evaluation: Evaluation | None) -> list[Any]:
        """What TensorBoard shows besides curves: every so often the policy, and a game after each evaluation."""
        pictures = list(_pictures(update, policy)) if update.number % IMAGE_EVERY == 1 else []
        if evaluation and self.config.has_screen:
            pictures.append(game_summary("play/game", policy, self.config, update.number))
        return pictures

    def sync(self) -> None:
        """Have both curves on the disk up to here, before a checkpoint is."""
        with self._or_continue("metrics.csv"):
            self._table.sync()
        with self._or_continue("TensorBoard"):
            self._events.sync()

    @contextlib.contextmanager
    def _or_continue(self, what: str) -> Iterator[None]:
        """Say when something can't be written, and when it can again."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                why = f"can't be written: {error.strerror or error}"
                self.progress.say(f"warning: {what} {why}; it is kept and tried again; training continues")
        else:
            if what in self._failing:
                self._failing.remove(what)
                self.progress.say(f"{what} is written again; nothing was lost")

    def counters(self, updates: int, steps: int, best: float | None = None) -> Counters:
        """How far the run has come, for a checkpoint; ``best`` is the mean score of its best evaluation."""
        scores = self.scores
        return Counters(updates, steps, scores.games, scores.points, scores.ema, tuple(scores.last100), best)

    def _values(self, update: Update, evaluation: Evaluation | None) -> dict[str, float | None]:
        episodes = update.batch.episodes
        (first_time, first_steps), (last_time, last_steps) = self._recent[0], self._recent[-1]
        stats = update.stats
        values = (
            float(np.mean([episode.score for episode in episodes])) if episodes else None,
            self.scores.mean100,
            self.scores.ema,
            float(np.mean([episode.length for episode in episodes])) if episodes else None,
            (last_steps - first_steps) / max(last_time - first_time, 1e-9),
            stats.learning_rate,
            stats.policy_loss,
            stats.entropy,
            stats.grad_norm,
            stats.approx_kl,
            stats.explained_variance,
            evaluation.mean if evaluation else None,
            evaluation.standard_error if evaluation and evaluation.n > 1 else None,
            stats.prob_up,
            stats.std,
            update.rollout_seconds,
            update.learn_seconds,
            self._track_seconds,  # of the update before
        )
        return dict(zip(TAGS, values, strict=True))

    def _show(self, speed: float) -> None:
        scores, mean100 = self.scores, self.scores.mean100
        more = f"mean100 in {100 - len(scores.last100)} more games"
        mean = more if mean100 is None else f"mean100 {mean100:+.2f}"
        points = f"{scores.points} points" if self.config.is_pong else ""
        self.progress.show(self._steps, mean, f"{scores.games} games", points, speed)

    def wait(self) -> None:
        """Say every so often that a rollout takes long."""
        self.progress.wait(self._steps)
