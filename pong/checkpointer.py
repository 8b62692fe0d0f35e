"""What is kept of a run while it trains: its curves, its evaluations, its checkpoints."""

import math
import time
from pathlib import Path

from pong import checkpoint
from pong.checkpoint import Counters
from pong.envs.base import EmulatorState
from pong.evaluate import Evaluation, evaluate
from pong.tracking import Tracker
from pong.train import Trainer, Update


class Checkpointer:
    """Tracks a run's updates, evaluates it now and then, and saves it.

    Args:
        folder: the run's folder.
        trainer: what is saved.
        tracker: where updates are written and things are said.
        counters: how far the run had come.
    """

    def __init__(self, folder: Path, trainer: Trainer, tracker: Tracker, counters: Counters):
        self._folder = folder / "checkpoints"
        self._trainer = trainer
        self._tracker = tracker
        self._config = trainer.config
        self._saved, self._saved_at = counters.updates, time.monotonic()
        self._best = checkpoint.best_of(self._folder).best
        self._evaluation: Evaluation | None = None  # after this update

    def keep(self, update: Update) -> None:
        """Track an update, and every so often evaluate the policy.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        if not math.isfinite(update.stats.policy_loss):
            raise FloatingPointError(f"update {update.number}: the loss is not finite; lower learning_rate")
        evaluates = self._at_a_boundary() and self._config.eval_episodes
        self._evaluation = self._evaluate(update.number) if evaluates else None
        self._tracker.track(update, self._trainer.steps, self._trainer.policy, self._evaluation)

    def wait(self) -> None:
        """Say that a rollout takes long."""
        self._tracker.wait()

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint: by updates, or by the clock where a run can resume from anywhere."""
        seconds = self._config.checkpoint_seconds if self._config.is_pong else 0
        return self._at_a_boundary() or 0 < seconds <= time.monotonic() - self._saved_at

    def _at_a_boundary(self) -> bool:
        return self._trainer.updates % self._config.checkpoint_every == 0

    def try_to_save(self, play: list[EmulatorState] | None) -> None:
        """Save; what can't be written is said, and training continues."""
        try:
            self.save(play)
        except OSError as error:
            self._best = checkpoint.best_of(self._folder).best  # it may be there, or not
            self._tracker.progress.say(f"warning: {error}; training continues, and the next checkpoint is tried again")

    def save(self, play: list[EmulatorState] | None) -> None:
        """Write a checkpoint, unless there is one of this update; ``play`` is what the emulators continue from.

        Raises:
            FloatingPointError: a weight is NaN or infinite; nothing is saved.
            OSError: it can't be written.
        """
        trainer, evaluation = self._trainer, self._evaluation
        self._saved_at = time.monotonic()
        if trainer.updates == self._saved:
            return
        best = evaluation is not None and (self._best is None or evaluation.mean > self._best)
        highest = evaluation.mean if evaluation is not None and best else self._best
        counters = self._tracker.counters(trainer.updates, trainer.steps, highest)
        self._tracker.sync()
        parts = trainer.policy, trainer.optimizer, trainer.baseline, play
        path = checkpoint.save(self._folder, self._config, counters, *parts, best=best)
        self._saved, self._best = trainer.updates, highest
        self._tracker.progress.say(f"saved {path}" + (f", the best so far: {evaluation}" if best else ""))

    def reached_goal(self) -> bool:
        """Whether the run may end before its steps are made."""
        return self._tracker.scores.reached(self._config.stop_at_mean100)

    def _evaluate(self, update: int) -> Evaluation:
        return evaluate(self._trainer.actor, self._config, self._config.eval_episodes, seed=update)
