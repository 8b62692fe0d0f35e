"""TensorBoard, CSV and progress logging."""

import contextlib
import copy
import csv
import io
import itertools
import json
import os
import shlex
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.tensorboard import summary

from pong.checkpoint import Counters, write_atomically
from pong.config import Config, InputError, printable, to_toml
from pong.evaluate import Evaluation
from pong.observations import PIXELS
from pong.policies import Policy, slice_rows
from pong.render.film import fps_of
from pong.render.frame import play_frames
from pong.train import Update

LOSSES = ("policy_loss", "entropy", "grad_norm", "approx_kl", "explained_variance")
SPS_WINDOW = 20  # updates
IMAGE_EVERY = 500  # updates between pictures of the policy, each of which takes as long as several updates
GIF_FRAMES = 150  # ten seconds at hold 4
LINE_SECONDS = 20.0  # between progress lines
BUFFER = 1 << 24  # bytes of a curve that wait in memory while the disk is full


def count(counters: Counters, update: Update, steps: int) -> Counters:
    """The run's counters after one more update; ``steps`` is the run's total."""
    scores, ema = [episode.score for episode in update.batch.episodes], counters.ema
    for score in scores:  # the running mean of the 2016 program, which starts at the first game's score
        ema = score if ema is None else 0.99 * ema + 0.01 * score
    games, points = counters.games + len(scores), counters.points + update.batch.points
    last100 = (*counters.last100, *scores)[-100:]
    return replace(counters, updates=update.number, steps=steps, games=games, points=points, ema=ema, last100=last100)


class EventWriter:
    """A TensorBoard event file. TensorBoard drops what earlier files say about ``purge_step`` and later steps.

    A full disk would end the thread of torch's SummaryWriter, whose names may also sort in the wrong order.
    """

    def __init__(self, folder: Path, purge_step: int):
        earlier = [int(file.name.split(".")[3]) for file in folder.glob("events.out.tfevents.*")]
        seconds = max(int(time.time()), max(earlier, default=0) + 1)  # TensorBoard reads files in order of their names
        self.file = (folder / f"events.out.tfevents.{seconds:010d}.pong").open("ab", buffering=BUFFER)
        self._append(file_version="brain.Event:2")
        self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: dict[str, float | None], *summaries: Any) -> None:
        """Append the numbers that are not None, by tag, and other summaries."""
        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in scalars.items() if x is not None]
        values += itertools.chain.from_iterable(summary.value for summary in summaries)
        self._append(step=step, summary=Summary(value=values))

    def _append(self, **fields: Any) -> None:
        RecordWriter(self.file).write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.file.flush()


class Tracker:
    """Logs each update to TensorBoard and metrics.csv, and prints a bar on a terminal, or a line every 20 seconds.

    Both curves are cut at ``counters``. What can't be written stays in a buffer, and is written with a later update.
    """

    def __init__(self, config: Config, folder: Path, console: Console, counters: Counters, started: float):
        self.config = config
        self.counters = counters
        self._started = started - 60 * self._open_curves(folder)
        self._last_line = time.monotonic()
        self._recent = deque([(self._last_line, counters.steps)], maxlen=SPS_WINDOW + 1)
        self._track_seconds = 0.0
        self._failed: set[str] = set()
        self._console = console
        score, details = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[details]"))
        columns = (score, BarColumn(None), TaskProgressColumn(), TimeRemainingColumn(), details)
        hidden = not console.is_terminal or console.is_dumb_terminal
        self._bar = Progress(*columns, console=console, auto_refresh=False, disable=hidden)  # without a thread
        self._task = self._bar.add_task(config.name, total=config.total_steps, details="")

    def _open_curves(self, folder: Path) -> float:
        """Cut both curves at the checkpoint and open them; returns the minutes that the run took until then."""
        lines, minutes = _lines_up_to(self.counters.updates, folder / "metrics.csv")
        write_atomically(folder / "metrics.csv", "".join(f"{line}\n" for line in lines).encode())
        self._table = (folder / "metrics.csv").open("a", buffering=BUFFER, encoding="utf-8")
        self._is_empty = not lines
        steps, command = self.counters.steps, "unknown command"
        self._events = EventWriter(folder, purge_step=steps + 1 if steps else 0)
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):  # run.json is damaged
            command = shlex.join(json.loads((folder / "run.json").read_bytes())["command"])
        text = f"```\n{command}\n```\n\n```toml\n{to_toml(self.config)}```"
        self._events.write(steps, {}, summary.text("config", text))
        return minutes

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()
        mean = self.counters.mean100
        if kind is None and mean is not None:
            config = self.config.model_dump(exclude_none=True)
            plain = {key: str(value) if isinstance(value, list) else value for key, value in config.items()}
            results: dict[str, float | None] = {"hparam/mean100": mean, "hparam/games": float(self.counters.games)}
            with self._warn_once("TensorBoard"):
                hparams = summary.hparams(plain, results)
                self._events.write(self.counters.steps, results, *hparams)
        for file in (self._table, self._events.file):
            with contextlib.suppress(OSError):
                file.close()

    def track(self, update: Update, steps: int, policy: Policy, evaluation: Evaluation | None = None) -> None:
        """Log one update, and the evaluation after it if there was one; ``steps`` is the run's total."""
        start = time.perf_counter()
        self.counters = count(self.counters, update, steps)
        self._recent.append((time.monotonic(), steps))
        values, pictures = self._values(update, evaluation), self._pictures(update, policy, evaluation)
        counts = {"games": self.counters.games, "points": self.counters.points}
        with self._warn_once("metrics.csv"):
            writer = csv.writer(self._table, lineterminator="\n")
            if self._is_empty:
                writer.writerow(("update", "step", *counts, "minutes", *values))
                self._is_empty = False
            minutes = round((time.monotonic() - self._started) / 60, 3)
            texts = ("" if value is None else f"{value:.6g}" for value in values.values())
            writer.writerow((update.number, steps, *counts.values(), minutes, *texts))
            self._table.flush()
        with self._warn_once("TensorBoard"):
            self._events.write(steps, values | {f"charts/{name}": n for name, n in counts.items()}, *pictures)
        self._show_progress(values["charts/SPS"] or 0.0)
        self._track_seconds = time.perf_counter() - start

    def _values(self, update: Update, evaluation: Evaluation | None) -> dict[str, float | None]:
        """The value of each tag, None where there is none."""
        episodes, stats = update.batch.episodes, update.stats
        (first_time, first_steps), (last_time, last_steps) = self._recent[0], self._recent[-1]
        return {
            "charts/episodic_return": float(np.mean([e.score for e in episodes])) if episodes else None,
            "charts/episodic_return_mean100": self.counters.mean100,
            "charts/episodic_return_ema": self.counters.ema,
            "charts/episodic_length": float(np.mean([e.length for e in episodes])) if episodes else None,
            "charts/SPS": (last_steps - first_steps) / max(last_time - first_time, 1e-9),
            "charts/learning_rate": stats.learning_rate,
            **{f"losses/{name}": getattr(stats, name) for name in LOSSES},
            "eval/episodic_return": evaluation.mean if evaluation else None,
            "eval/standard_error": evaluation.standard_error if evaluation else None,
            "policy/prob_up": stats.prob_up,
            "policy/std": stats.std,
            "time/rollout_seconds": update.rollout_seconds,
            "time/learn_seconds": update.learn_seconds,
            "time/track_seconds": self._track_seconds,  # of the update before
        }

    @torch.no_grad()
    def _pictures(self, update: Update, policy: Policy, evaluation: Evaluation | None) -> list[Any]:
        """Summaries of the policy's probabilities and first layer now and then, and of a game after evaluations."""
        pictures = []
        if update.number % IMAGE_EVERY == 1:
            device, batch = next(policy.parameters()).device, next(update.batch.split(slice_rows(policy)))
            if not batch.actions.is_floating_point():  # a density is no probability
                taken = policy.log_prob(batch.observations.to(device), batch.actions.to(device)).exp().cpu().numpy()
                pictures.append(summary.histogram("policy/action_probability", taken, np.linspace(0, 1, 41)))
            if policy.two_layers:
                pictures.append(summary.image("policy/W1", weight_picture(policy.two_layers[0]), dataformats="HW"))
        if evaluation and self.config.has_screen:
            pictures.append(game_summary("play/game", policy, self.config, update.number))
        return pictures

    def sync(self) -> None:
        """Bring both curves to the disk before a checkpoint that continues them."""
        for name, file in (("metrics.csv", self._table), ("TensorBoard", self._events.file)):
            with self._warn_once(name):
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _warn_once(self, name: str) -> Iterator[None]:
        """Training continues when a curve can't be written."""
        try:
            yield
        except OSError as error:
            if name not in self._failed:
                self._failed.add(name)
                problem = f"{name} can't be written: {error.strerror or error}"
                self.print(f"warning: {problem}; training continues, and each update tries again")

    def print(self, text: str) -> None:
        say(self._console, text)

    def wait(self) -> None:
        """Report that a long rollout is still being played."""
        if time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line("playing: no episode has ended yet to learn from")

    def _show_progress(self, speed: float) -> None:
        """Update the bar, and print a line if the last one is long ago; ``speed`` is in steps per second."""
        counters, mean = self.counters, self.counters.mean100
        games, points = counters.games, f"  {counters.points} points" if self.config.is_pong else ""
        score = f"waiting for 100 games ({games} so far)" if mean is None else f"mean100 {mean:+.2f}  {games} games"
        details = f"{speed:,.0f} steps/s{points}"
        with contextlib.suppress(OSError, SystemExit):
            self._bar.update(self._task, completed=counters.steps, description=score, details=details, refresh=True)
        is_first_or_last = counters.updates == 1 or counters.steps >= self.config.total_steps
        if is_first_or_last or time.monotonic() - self._last_line >= LINE_SECONDS:
            left = TimeRemainingColumn().render(self._bar.tasks[0])
            self._print_line(f"{score}  {details}  {left} left")

    def _print_line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._bar.disable:
            self.print(f"{(self._last_line - self._started) / 60:6.1f} min  {self.counters.steps:,} steps  {text}")


def say(console: Console, text: str) -> None:
    """Print a line, above the progress bar if there is one; without effect if the output is closed."""
    with contextlib.suppress(OSError, SystemExit):  # rich exits at a broken pipe
        console.print(printable(text), markup=False)


def weight_picture(W1: Tensor, rows: int = 5, columns: int = 8) -> NDArray[np.uint8]:
    """The first weights of rows·columns hidden units of W1 as 80×80 tiles: white positive, black negative, grey 0."""
    units = W1.detach()[:PIXELS, : rows * columns].T.cpu().float()
    tiles = torch.zeros(rows * columns, PIXELS)
    tiles[: len(units)] = units / units.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
    grid = tiles.view(rows, columns, 80, 80).transpose(1, 2).reshape(rows * 80, columns * 80)
    return ((grid + 1) * 127.5).round().to(torch.uint8).numpy()


def game_summary(tag: str, policy: Policy, config: Config, seed: int) -> Any:
    """The start of a sampled game as a TensorBoard summary of an animated gif."""
    policy = copy.deepcopy(policy).cpu() if next(policy.parameters()).is_cuda else policy
    frames = itertools.islice(play_frames(policy, config, seed), GIF_FRAMES)
    first, *others = (Image.fromarray(frame.screen) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=1000 / fps_of(config), loop=0)
    image = Summary.Image(height=first.height, width=first.width, colorspace=3, encoded_image_string=file.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _lines_up_to(update: int, table: Path) -> tuple[list[str], float]:
    """The header and the complete lines up to an update of an interrupted run's metrics.csv, and the last minutes."""
    text = table.read_text(encoding="utf-8-sig", errors="replace") if update and table.exists() else ""
    lines = text.split("\n")[:-1]  # the rest is incomplete
    if not lines:
        return [], 0.0
    try:
        column = lines[0].split(",").index("minutes")
        rows = [line for line in lines[1:] if (n := line.split(",")[0]).isdecimal() and int(n) <= update]
        return [lines[0], *rows], float(rows[-1].split(",")[column]) if rows else 0.0
    except (ValueError, IndexError) as error:
        raise InputError(f"{table} is damaged ({error}); repair it, or move it away to start a new one") from None
