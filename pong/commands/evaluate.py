"""``pong eval``: fresh games with frozen weights."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pong.commands.flags import check_place, parse
from pong.config import Config, InputError, validate

if TYPE_CHECKING:
    from pong.checkpoint import Checkpoint
    from pong.evaluate import Evaluation
    from pong.policies import Policy

WAYS = ("sampled", "greedy")  # of choosing actions


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Play fresh games with a run's weights, sampled and greedily, and print mean ± standard error of each.

    Sampled play takes its actions as training does; greedy play takes the likelier one.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CHECKPOINT", help="run folder or checkpoint")]
    episodes: Annotated[int, tyro.conf.arg(help="games, sampled and greedy each")] = 100
    sampled: Annotated[bool, tyro.conf.arg(help="only the sampled games")] = False
    greedy: Annotated[bool, tyro.conf.arg(help="only the greedy games")] = False
    seed: Annotated[int, tyro.conf.arg(help="of the emulators and the sampled actions")] = 0
    sticky: Annotated[
        float | None,
        tyro.conf.arg(help="play Pong with this probability of sticky actions, not that of training"),
    ] = None
    noop_max: Annotated[int | None, tyro.conf.arg(help="and with at most this many NOOPs at a game's start")] = None
    emulator: Annotated[
        Literal["ale", "machine"], tyro.conf.arg(help="where Pong is played; the scores are the same")
    ] = "ale"
    json: Annotated[Path | None, tyro.conf.arg(help="also write the scores to this file")] = None


def evaluate(arguments: list[str]) -> int:
    """Play games with frozen weights, sampled and greedily, and print mean ± standard error of each."""
    flags = _eval_input(arguments)

    from pong.train import load_policy

    policy, loaded = load_policy(flags.run)
    loaded = dataclasses.replace(loaded, config=_task(flags, loaded.config))
    played = {}
    for way in _ways(flags):
        played[way] = fresh_games(policy, loaded.config, way, flags.episodes, flags.seed)
        print(_line(way, played[way], flags.seed, loaded), flush=True)  # the next games take minutes
    if flags.json is not None:
        try:
            write_scores(flags.json, scores(flags.run, loaded, flags.seed, played))
        except OSError as error:
            raise InputError(f"eval: --json {flags.json} can't be written: {error.strerror}") from None
    return 0


def fresh_games(policy: "Policy", config: Config, way: str, episodes: int, seed: int) -> "Evaluation":
    """Games in which a policy chooses its actions in one of ``WAYS``."""
    from pong.evaluate import Greedy
    from pong.evaluate import evaluate as play

    return play(Greedy(policy) if way == "greedy" else policy, config, episodes, seed=seed)


def scores(run: Path, loaded: "Checkpoint", seed: int, played: "dict[str, Evaluation]") -> dict[str, Any]:
    """All that a file of scores says: whose games, of what task, and how each ended, for each way of playing."""
    config, counters = loaded.config, loaded.counters
    return {
        "run": str(run),
        "update": counters.updates,
        "steps": counters.steps,
        "seed": seed,
        "env": config.env,
        **({key: getattr(config, key) for key in ("sticky", "hold", "noop_max")} if config.is_pong else {}),
        **({"emulator": "machine"} if config.is_compiled else {}),  # ALE goes without saying
        **{way: games.as_json(frames=_counts_frames(config)) for way, games in played.items()},
    }


def write_scores(file: Path, about: dict[str, Any]) -> None:
    """Write what ``scores`` gives."""
    file.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _task(flags: EvalFlags, trained: Config) -> Config:
    """What is played: the task of the training, with the changes asked for, and Pong in ALE if nothing else is."""
    changes = {key: value for key in ("sticky", "noop_max") if (value := getattr(flags, key)) is not None}
    if trained.is_pong:
        changes["emulator"] = flags.emulator
    return validate({**trained.model_dump(), **changes}, source="eval")


def _counts_frames(config: Config) -> bool:
    """Whether the frames of a game are told: where its steps are not all equally long, and it is no Pong."""
    return config.has_screen and not config.is_pong


def _ways(flags: EvalFlags) -> list[str]:
    """Those of ``WAYS`` that are asked for: without a flag both."""
    if flags.sampled or flags.greedy:
        return ["sampled" if flags.sampled else "greedy"]
    return list(WAYS)


def _line(way: str, games: "Evaluation", seed: int, loaded: "Checkpoint") -> str:
    """The result in one line."""
    spread = f"± {games.standard_error:.2f} (mean ± standard error)" if games.n > 1 else "(one game)"
    frames = f" of {games.frames:.1f} frames" if _counts_frames(loaded.config) else ""
    return (
        f"{games.mean:+.2f} {spread}, n = {games.n} games{frames}, {way}, "
        f"seed {seed}, {loaded.config.task}, update {loaded.counters.updates}"
    )


def _eval_input(arguments: list[str]) -> EvalFlags:
    flags = parse(EvalFlags, arguments, prog="pong eval")
    if flags.episodes < 1:
        raise InputError(f"eval: --episodes {flags.episodes}: give at least 1")
    if flags.seed < 0:
        raise InputError(f"eval: --seed {flags.seed}: give 0 or more")
    if flags.sampled and flags.greedy:
        raise InputError("eval: --sampled and --greedy: give one of them, or none to play both ways")
    if flags.json is not None:
        check_place("eval: --json", flags.json)
    return flags
