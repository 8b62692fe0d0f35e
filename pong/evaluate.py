"""Evaluation: fresh games with frozen weights, scored."""

import contextlib
import itertools
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, start_processes

from pong.config import Config, RunError, is_doom
from pong.envs import make_fleet, prepare
from pong.envs.base import Actor
from pong.policies import Policy
from pong.rollout import EVALUATION, POLL_SECONDS, Episode, Player, Rollout, emulator_seeds

PARALLEL = 25  # games at a time
Show = Callable[[int, float], None]  # how much is done, and the score so far


@dataclass(frozen=True)
class Evaluation:
    """Finished games; in Pong each is scored −21 to 21, points won minus points lost."""

    episodes: list[Episode]
    exact: bool = False  # these are all possible games
    counts_frames: bool = False  # as in Doom, where the steps of a game are not equally long

    @property
    def n(self) -> int:
        return len(self.episodes)

    @property
    def scores(self) -> list[float]:
        return [episode.score for episode in self.episodes]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single game, or if the mean is exact."""
        return float(np.std(self.scores, ddof=1) / math.sqrt(self.n)) if self.n > 1 and not self.exact else None

    def __str__(self) -> str:
        if self.exact:
            return f"{self.mean:+.2f} exactly, n = {self.n}: every NOOP start once"
        games = ", one fresh game" if self.n == 1 else f" ± {self.standard_error:.2f}, n = {self.n} fresh games"
        frames = np.mean([episode.frames for episode in self.episodes])
        return f"{self.mean:+.2f}{games}" + (f" of {frames:.1f} frames" if self.counts_frames else "")

    def as_json(self) -> dict[str, Any]:
        """The games as a file of scores has them."""
        values = {name: getattr(self, name) for name in ("n", "mean", "standard_error", "scores")}
        values["lengths"] = [episode.length for episode in self.episodes]
        return values | ({"frames": [episode.frames for episode in self.episodes]} if self.counts_frames else {})


class Greedy:
    """Plays a policy's likeliest action and ignores the noise."""

    two_layers = None

    def __init__(self, policy: Policy):
        self.policy = policy
        self.noise_shape = policy.noise_shape

    def act(self, x: Any, noise: Tensor) -> Tensor:
        return self.policy.act_greedily(x)


WAYS: dict[str, Callable[[Policy], Actor]] = {"sampled": lambda policy: policy, "greedy": Greedy}  # of choosing actions


@contextlib.contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Show]:
    """Show a bar if there is a title and a terminal; yields what moves it."""
    console = Console(stderr=True)  # the standard output has only the results
    hidden = not title or not console.is_terminal or console.is_dumb_terminal
    with Progress(console=console, auto_refresh=False, transient=True, disable=hidden) as bar:
        task = bar.add_task(title, total=total)
        label = f"{title}: {{}} of {total}, score {{:+.2f}}" if total else f"{title}: {{}} steps, score {{:+.2f}}"
        yield lambda done, score: bar.update(task, completed=done, description=label.format(done, score), refresh=True)


def evaluate(
    policy: Actor, config: Config, episodes: int, *, seed: int = 0, title: str = "", processes: int = 1
) -> Evaluation:
    """Play fresh games of a config's task on the CPU and score them; ``title`` shows a progress bar on a terminal.

    Waves of up to 25 games are played to the last one's end: taking the first to finish would favour short ones. In
    ALE, several processes play the same games; then a script needs ``if __name__ == "__main__":``. Greedy Pong without
    sticky actions plays each NOOP start once, if ``episodes`` are enough for it. The config's seed is not used.
    """
    only_noops = isinstance(policy, Greedy) and config.is_pong and not config.sticky and config.hold != "2-4"
    if only_noops and 1 < config.noop_max <= episodes:
        return _every_start(policy, config)
    waves = math.ceil(episodes / PARALLEL)
    num_envs = math.ceil(episodes / waves)
    whole_games = {"until": "episodes", "standardize": "none", "checkpoint_every": waves}
    config = config.model_copy(update={"seed": seed, "num_envs": num_envs, **whole_games})
    if config.is_pong and not config.is_compiled and min(processes, num_envs) > 1:
        with progress(title, episodes) as show:
            return Evaluation(_in_processes(policy, config, episodes, min(processes, num_envs), show))
    games: list[Episode] = []
    with progress(title, episodes) as show, contextlib.closing(Rollout(config, policy, EVALUATION)) as rollout:
        for wave in range(waves):
            wanted = min(num_envs, episodes - len(games))
            games += [episode for episode in rollout.collect(wave).episodes if episode.emulator < wanted]
            show(len(games), Evaluation(games).mean)
    return Evaluation(games, counts_frames=is_doom(config.env))


def _every_start(policy: Actor, config: Config) -> Evaluation:
    """Play one game from each number of NOOPs, 1 to ``noop_max``: the first game of a seed that draws it."""
    fleet: Any = make_fleet(config.replace(emulator="machine"), 1)
    games, seeds = dict[int, Episode](), itertools.count()
    while len(games) < config.noop_max:
        fleet.reset(emulator_seeds(seed := next(seeds), 0, [0], EVALUATION))
        if (noops := int(fleet.games["frames"][0])) not in games:
            games[noops] = evaluate(policy, config, 1, seed=seed).episodes[0]
    return Evaluation([games[noops] for noops in sorted(games)], exact=True)


def _in_processes(policy: Actor, config: Config, episodes: int, processes: int, show: Show) -> list[Episode]:
    """Play in processes: ale-py lets no other thread run, so threads would share one core."""
    prepare(config)
    multiprocessing.set_forkserver_preload([__name__])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C stops this process, and it the others
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(processes)]
    shared, games = ([pipe[1] for pipe in pipes], policy, config, episodes), dict[int, Episode]()
    try:
        playing = start_processes(_play, shared, processes, False, True, "forkserver")
        while not playing.join(POLL_SECONDS) or len(games) < episodes:
            for received, _ in pipes:
                while received.poll():
                    number, games[number] = received.recv()
                    show(len(games), Evaluation([*games.values()]).mean)
    except ProcessException as error:
        raise RunError(f"a process that plays games failed: {str(error).strip().splitlines()[-1]}") from None
    return [games[number] for number in range(episodes)]


def _play(k: int, pipes: list[Any], policy: Actor, config: Config, episodes: int) -> None:
    """Play the games of each emulator whose turn it is, and send them by number; without a receiver, that fails."""
    for i in range(k, config.num_envs, len(pipes)):
        with contextlib.closing(Player(config, range(i, i + 1), EVALUATION, policy)) as player:
            for wave, number in enumerate(range(i, episodes, config.num_envs)):
                player.start(wave)
                pipes[k].send((number, *player.batch.result().episodes))
