"""Work whose speed bench.py, bench_doom.py and gpu_report.py measure in turns, and where the processor's time goes.

A turn works for at least so many seconds and says how many agent steps it did a second. Each kind of work has its turn
once a round, so that a computer's moods hit all kinds alike.
"""

import contextlib
import functools
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from numpy.typing import NDArray
from rich.console import Console
from torch.utils.benchmark import Timer

from pong.config import Config
from pong.distributed import cores
from pong.envs import UP, make_fleet
from pong.envs.pong.fleet import MachineFleet
from pong.observations import SparseFrames
from pong.policies import CategoricalPolicy, KarpathyPolicy, make_policy
from pong.rollout import Rollout
from pong.tracking import Tracker
from pong.train import Trainer

Turn = Callable[[float], float]  # seconds → agent steps a second
MOMENTS = 16  # drawn and timed together: each alone would slow the machine down
PLAYING = (
    *(("play", MachineFleet, name) for name in ("reset", "play_segment", "step")),
    *(("play", policy, "act") for policy in (KarpathyPolicy, CategoricalPolicy)),
)
LEARNING = (("learner", Trainer, "_learn"), ("tracking", Tracker, "track"))


def in_turns(turns: dict[Any, Turn], rounds: int, seconds: float) -> dict[Any, NDArray[np.float64]]:
    """Each turn once a round: (rounds,) agent steps a second of each."""
    for turn in turns.values():
        turn(0.0)  # what is slow but once
    speeds = [[turn(seconds) for turn in turns.values()] for _ in range(rounds)]
    return dict(zip(turns, np.transpose(speeds), strict=True))


def repeat(work: Callable[[], int], seconds: float) -> float:
    """Do it again and again, for at least so long; each time it says its steps; returns steps a second."""
    steps, began = 0, time.perf_counter()
    while steps == 0 or time.perf_counter() - began < seconds:
        steps += work()
    return steps / (time.perf_counter() - began)


def raw(config: Config, threads: int) -> Turn:
    """The recipe's game and screens in ale-py's own vector environment, without anything of ours."""
    emulators = AtariVectorEnv(
        "pong",
        config.num_envs,
        num_threads=threads,
        repeat_action_probability=config.sticky,
        img_height=210,
        img_width=160,
        stack_num=1,
        frameskip=hold(config),
        maxpool=False,
        noop_max=config.noop_max,
        reward_clipping=False,
        use_fire_reset=False,
    )
    emulators.reset(seed=1)
    return lockstep(config.num_envs, emulators.step, UP)


def best_threads(config: Config, seconds: float) -> int:
    """How many threads make raw emulation fastest here."""
    candidates = sorted({min(n, config.num_envs) for n in (max(cores() // 2, 1), cores(), 2 * cores())})
    speeds = in_turns({threads: raw(config, threads) for threads in candidates}, 3, seconds)
    return max(candidates, key=lambda threads: np.median(speeds[threads]))


def fleet(config: Config, method: str = "step") -> Turn:
    """What a player plays in: "step" makes the rows for the policy, too; the machine's "play" does not."""
    games, everyone = make_fleet(config), np.ones(config.num_envs, np.bool_)
    games.reset(np.arange(config.num_envs))
    play = getattr(games, method)
    return lockstep(config.num_envs, lambda actions: play(actions, everyone), 0)


def lockstep(games: int, step: Callable[[NDArray[np.int64]], Any], first: int) -> Turn:
    """All games together with random actions, ``first`` and the one after it."""
    random = np.random.default_rng(0)

    def work() -> int:
        for actions in random.integers(first, first + 2, (MOMENTS, games)):
            step(actions)
        return MOMENTS * games

    return functools.partial(repeat, work)


def hold(config: Config) -> int:
    """Frames per decision, on average: raw emulators can only hold a fixed number."""
    return 3 if config.hold == "2-4" else config.hold


def rollout_only(config: Config, stack: contextlib.ExitStack) -> Turn:
    """Play with an untrained policy, learning nothing."""
    rollout = stack.enter_context(contextlib.closing(Rollout(config, make_policy(config))))
    updates = itertools.count()
    return functools.partial(repeat, lambda: rollout.collect(next(updates)).steps)


class Training:
    """The whole of it: rollout, learning, tracking.

    Attributes:
        learned: of each update: seconds of learning, rows, and pixels that are not 0 in all of them.
    """

    def __init__(self, config: Config, stack: contextlib.ExitStack):
        self.trainer = stack.enter_context(contextlib.closing(Trainer(config)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.tracker = stack.enter_context(Tracker(config, folder, Console(file=io.StringIO())))
        self.learned: list[tuple[float, int, int]] = []
        self.updates = self.trainer.run()
        next(self.updates)

    def turn(self, seconds: float) -> float:
        """Train for so long, from one update's end to another's, and leave the cores to others."""
        next(self.updates)  # played before the turn
        speed = repeat(self.update, seconds)
        for player in self.trainer.rollout.players:
            player.finish()  # it has begun the next rollout
        return speed

    def update(self) -> int:
        """One update, tracked; its steps."""
        update = next(self.updates)
        self.tracker.track(update, self.trainer.steps, self.trainer.policy)
        seen = update.batch.observations
        pixels = len(seen.columns) if isinstance(seen, SparseFrames) else 0
        self.learned.append((update.learn_seconds, len(seen), pixels))
        return update.batch.steps

    def medians(self) -> dict[str, float]:
        """Over all updates."""
        seconds, rows, _ = np.median(self.learned, axis=0)
        return {"learner_ms_per_update": round(1e3 * seconds, 2), "rows_per_update": round(rows)}


def where_the_time_goes(config: Config, seconds: float, playing: Any = PLAYING, outside: str = "") -> dict[str, float]:
    """The processor's time by activity, microseconds per agent step, of all threads together; one of them plays.

    The last is what the learner's first layers can't do without: their multiply-adds, at the rate at which a core here
    multiplies full matrices.

    Args:
        config: the recipe.
        seconds: to measure for, at least.
        playing: what a player does, functions (activity, owner, name).
        outside: the activity that another process does, such as an emulator's: it is measured by the clock.
    """
    clock = dict.fromkeys((what for what, _, _ in (*playing, *LEARNING)), 0.0)
    waited = {outside: 0.0} if outside else {}  # for another process
    with contextlib.ExitStack() as stack:
        training = Training(config.model_copy(update={"players": 1}), stack)
        for what, owner, name in (*playing, *LEARNING):
            work = timed(clock, what)(getattr(owner, name))
            if what == outside:
                work = timed(waited, what, time.perf_counter)(work)
            stack.enter_context(mock.patch.object(owner, name, work))
        before, used = training.trainer.steps, time.process_time()
        repeat(training.update, seconds)
        clock["bookkeeping"] = time.process_time() - used - sum(clock.values())
        clock |= waited
        steps = training.trainer.steps - before
    if config.policy == "karpathy":
        passes = 3 + 2 * config.baseline_passes * (config.baseline == "network")  # there, back, and there for the KL
        products = passes * config.layers[0] * sum(pixels for _, _, pixels in training.learned)
        clock["the learner's multiply-adds alone"] = products / multiply_adds()
    return {what: round(1e6 * spent / steps, 2) for what, spent in clock.items()}


@contextlib.contextmanager
def timed(clock: dict[str, float], what: str, now: Callable[[], float] = time.thread_time) -> Iterator[None]:
    """Add the time that this thread spends here to a clock; ``now`` tells its own or everybody's."""
    began = now()
    try:
        yield
    finally:
        clock[what] += now() - began


def multiply_adds(side: int = 1024) -> float:
    """Of float32 numbers, a second, on one core."""
    timer = Timer("x @ x", f"x = torch.ones({side}, {side})", timer=time.thread_time)  # one thread
    return side**3 / timer.blocked_autorange(min_run_time=0.5).median
