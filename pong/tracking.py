"""What a run leaves behind and shows meanwhile: its folder, TensorBoard events, metrics.csv, a progress bar."""

import csv
import json
import platform
import subprocess
import time
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from pong.checkpoint import Counters
from pong.config import Config, InputError, to_toml
from pong.policies import KarpathyPolicy, Policy
from pong.rollout import Episode
from pong.train import Update

PACKAGES = ("torch", "ale-py", "gymnasium", "numpy", "tensorboard", "pong-from-pixels")
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
    "policy/prob_up",
    "policy/std",
    "time/rollout_seconds",
    "time/learn_seconds",
    "time/track_seconds",
)
SPS_WINDOW = 20  # updates
LINE_SECONDS = 20.0  # between plain progress lines
IMAGE_EVERY = 50  # updates between pictures of W1


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


def create_run_folder(config: Config, folder: Path | None, device: torch.device, command: list[str]) -> Path:
    """Make the run's folder with config.toml (as resolved) and run.json (versions, git revision, device, command).

    Raises:
        InputError: the folder already holds a run, or can't be made.
    """
    if folder is None:
        folder = Path("runs") / f"{config.name}-s{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (folder / "config.toml").exists():
        raise InputError(f"run folder {folder} already holds a run; choose another --run-dir")
    about = {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_revision": _git_revision(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_count": torch.multiprocessing.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
        (folder / "run.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"run folder {folder} can't be written: {error.strerror}; choose another --run-dir") from None
    return folder


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git_revision() -> str:
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _rows_up_to(update: int, file: Path) -> list[list[str]]:
    """The rows of an interrupted run's metrics.csv that its checkpoint knows of."""
    if not update or not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [row for row in list(csv.reader(lines))[1:] if row and row[0].isdigit() and int(row[0]) <= update]


class Tracker:
    """Writes each update to TensorBoard, metrics.csv and the terminal.

    Args:
        config: the run's config.
        folder: the run's folder, see ``create_run_folder``.
        console: where progress goes; a bar on a terminal, plain lines elsewhere.
        counters: how far the run had come, if it is taken up again: what was written later is taken back.
    """

    def __init__(self, config: Config, folder: Path, console: Console | None = None, counters: Counters | None = None):
        counters = counters or Counters()
        self.config = config
        self.scores = Scores(counters)
        self._console = console or Console(soft_wrap=True, highlight=False)
        self._writer = SummaryWriter(str(folder), purge_step=counters.steps + 1 if counters.updates else None)
        before = _rows_up_to(counters.updates, folder / "metrics.csv")
        minutes = float(before[-1][COUNTERS.index("minutes")]) if before else 0.0
        with (folder / "metrics.tmp").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([(*COUNTERS, *TAGS), *before])
        (folder / "metrics.tmp").replace(folder / "metrics.csv")
        self._file = (folder / "metrics.csv").open("a", newline="", encoding="utf-8", buffering=1)
        self._csv = csv.writer(self._file)
        self._began = time.monotonic() - 60 * minutes
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), counters.steps)], maxlen=SPS_WINDOW + 1)
        self._track_seconds = 0.0
        self._last_line = -LINE_SECONDS
        self._progress = self._make_progress() if self._console.is_terminal else None
        self._writer.add_text("config", "```toml\n" + to_toml(config) + "```")

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        if self.scores.mean100 is not None:
            self._writer.add_hparams(
                {k: str(v) if isinstance(v, list) else v for k, v in self.config.model_dump(exclude_none=True).items()},
                {"hparam/mean100": self.scores.mean100, "hparam/games": self.scores.games},
                run_name=".",
            )
        self._writer.close()
        self._file.close()

    def track(self, update: Update, steps: int, policy: Policy) -> None:
        """Record one update; ``steps`` is the agent steps of the run so far."""
        began = time.perf_counter()
        for episode in update.batch.episodes:
            self.scores.add(episode)
        self.scores.points += update.batch.points
        self._recent.append((time.monotonic(), steps))
        values = self._values(update)
        for tag, value in values.items():
            if value is not None:
                self._writer.add_scalar(tag, value, steps)
        for tag, count in (("charts/games", self.scores.games), ("charts/points", self.scores.points)):
            self._writer.add_scalar(tag, count, steps)
        if update.number % IMAGE_EVERY == 1 and isinstance(policy, KarpathyPolicy):
            self._writer.add_image("policy/W1", weight_picture(policy.W1), steps, dataformats="HW")
        minutes = (time.monotonic() - self._began) / 60
        counters = (update.number, steps, self.scores.games, self.scores.points, round(minutes, 3))
        self._csv.writerow((*counters, *("" if value is None else f"{value:.6g}" for value in values.values())))
        self._show(steps, values["charts/SPS"] or 0.0)
        self._track_seconds = time.perf_counter() - began

    def counters(self, updates: int, steps: int) -> Counters:
        """How far the run has come, for a checkpoint."""
        scores = self.scores
        return Counters(updates, steps, scores.games, scores.points, scores.ema, tuple(scores.last100))

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        (self._progress.console if self._progress else self._console).print(text, markup=False)

    def _values(self, update: Update) -> dict[str, float | None]:
        episodes = update.batch.episodes
        (first_time, first_steps), (last_time, last_steps) = self._recent[0], self._recent[-1]
        learned = update.learned
        values = (
            float(np.mean([episode.score for episode in episodes])) if episodes else None,
            self.scores.mean100,
            self.scores.ema,
            float(np.mean([episode.length for episode in episodes])) if episodes else None,
            (last_steps - first_steps) / max(last_time - first_time, 1e-9),
            learned.learning_rate,
            learned.policy_loss,
            learned.entropy,
            learned.grad_norm,
            learned.approx_kl,
            learned.explained_variance,
            learned.prob_up,
            learned.std,
            update.rollout_seconds,
            update.learn_seconds,
            self._track_seconds,  # of the update before
        )
        return dict(zip(TAGS, values, strict=True))

    def _make_progress(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=self._console)
        self._task = progress.add_task(self.config.name, total=self.config.total_steps)
        return progress

    def _show(self, steps: int, sps: float) -> None:
        mean100 = self.scores.mean100
        mean = (
            f"mean100 {mean100:+.2f}"
            if mean100 is not None
            else f"mean100 after {100 - len(self.scores.last100)} more games"
        )
        points = f"  {self.scores.points} points" if self.config.points else ""
        summary = f"{self.scores.games} games{points}  {mean}  {sps:,.0f} steps/s"
        if self._progress:
            self._progress.update(self._task, completed=steps, description=summary)
            return
        now = time.monotonic() - self._began
        if now - self._last_line >= LINE_SECONDS or steps >= self.config.total_steps:
            self._last_line = now
            left = (self.config.total_steps - steps) / max(sps, 1e-9)
            self.say(f"{now / 60:6.1f} min  {steps:,} steps  {summary}  {max(left, 0) / 60:.0f} min left")


def weight_picture(
    W1: torch.Tensor, rows: int = 5, columns: int = 8
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The first 40 hidden units' weights as 80×80 pictures, white positive and black negative, as in the blog's figure.

    Args:
        W1: (hidden, 6400); each unit is scaled to its own range.

    Returns:
        (rows·80, columns·80) uint8; grey tiles where there are fewer units.
    """
    units = W1.detach()[: rows * columns].cpu().float()
    tiles = torch.zeros(rows * columns, 80, 80)
    tiles[: len(units)] = (units / units.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)).view(-1, 80, 80)
    grid = tiles.view(rows, columns, 80, 80).permute(0, 2, 1, 3).reshape(rows * 80, columns * 80)
    picture: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = ((grid + 1) * 127.5).round().to(torch.uint8).numpy()
    return picture
