"""``pong eval``: fresh games with frozen weights."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated

import tyro

from pong.commands.flags import parse
from pong.config import InputError


@dataclasses.dataclass(frozen=True)
class EvalFlags:
    """Play fresh games with a run's weights and print mean ± standard error."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CHECKPOINT", help="run folder or checkpoint")]
    episodes: Annotated[int, tyro.conf.arg(help="games")] = 100
    greedy: Annotated[bool, tyro.conf.arg(help="take the likelier action instead of sampling")] = False
    seed: Annotated[int, tyro.conf.arg(help="of the emulators and the sampled actions")] = 0
    json: Annotated[Path | None, tyro.conf.arg(help="also write the scores to this file")] = None


def evaluate(arguments: list[str]) -> int:
    """Play games with frozen weights and print mean ± standard error."""
    flags = _eval_input(arguments)

    from pong.evaluate import Greedy
    from pong.evaluate import evaluate as play
    from pong.train import load_policy

    policy, loaded = load_policy(flags.run)
    config = loaded.config
    result = play(Greedy(policy) if flags.greedy else policy, config, flags.episodes, seed=flags.seed)
    spread = f"± {result.standard_error:.2f} (mean ± standard error)" if result.n > 1 else "(one game)"
    how = "greedy" if flags.greedy else "sampled"
    print(
        f"{result.mean:+.2f} {spread}, n = {result.n} games, {how}, "
        f"seed {flags.seed}, {config.task}, update {loaded.counters.updates}"
    )
    if flags.json is not None:
        about = {
            "run": str(flags.run),
            "update": loaded.counters.updates,
            "steps": loaded.counters.steps,
            "n": result.n,
            "mean": result.mean,
            "standard_error": None if math.isnan(result.standard_error) else result.standard_error,
            "greedy": flags.greedy,
            "seed": flags.seed,
            "env": config.env,
            **({"sticky": config.sticky, "hold": config.hold} if config.points else {}),
            "scores": result.scores,
            "lengths": [episode.length for episode in result.episodes],
        }
        try:
            flags.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"eval: --json {flags.json} can't be written: {error.strerror}") from None
    return 0


def _eval_input(arguments: list[str]) -> EvalFlags:
    flags = parse(EvalFlags, arguments, prog="pong eval")
    if flags.episodes < 1:
        raise InputError(f"eval: --episodes {flags.episodes}: give at least 1")
    if flags.seed < 0:
        raise InputError(f"eval: --seed {flags.seed}: give 0 or more")
    if flags.json is not None and (flags.json.is_dir() or not flags.json.parent.is_dir()):
        raise InputError(f"eval: --json {flags.json}: give a file in a folder that exists")
    return flags
