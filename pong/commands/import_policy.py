"""``pong import``: the weights of the 2016 program as a folder that eval, play and train take."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from pong.commands.export import write_folder
from pong.commands.flags import parse
from pong.config import InputError, validate

PROGRAM: dict[str, Any] = {  # of 2016, as configs/karpathy.toml has it
    "max_frames": 0,
    "num_envs": 10,
    "until": "episodes",
    "standardize": "episode",
    "reduction": "sum",
    "entropy_bonus": 0.0,
    "optimizer": "rmsprop",
    "learning_rate": 1e-4,
}


@dataclasses.dataclass(frozen=True)
class ImportFlags:
    """Make a folder of a save.p, the file of the 2016 program, as ``pong export`` makes one of a run.

    Only NumPy's arrays are read from the pickle; nothing in it is executed. The task is that of 2016 if nothing
    else is said.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAVE.P", help="a pickle of W1 and W2")]
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="to write; must not exist")]
    hold: Annotated[str, tyro.conf.arg(help="frames a decision, or 2-4, as in Pong-v0")] = "2-4"
    sticky: Annotated[float, tyro.conf.arg(help="probability that a frame repeats the previous action")] = 0.25
    noop_max: Annotated[int, tyro.conf.arg(help="up to so many NOOPs at the start of a game")] = 0
    episodes: Annotated[int, tyro.conf.arg(help="fresh games for the model card, sampled and greedy each")] = 0


def import_policy(arguments: list[str]) -> int:
    """Make a folder of a save.p."""
    flags = parse(ImportFlags, arguments, prog="pong import")
    if flags.episodes < 0 or flags.episodes == 1:
        raise InputError(f"import: --episodes {flags.episodes}: give 0, or at least 2")

    from pong import save_p
    from pong.checkpoint import Checkpoint
    from pong.policies import make_policy
    from pong.train import load_weights

    weights = save_p.read(flags.file)
    task = {"hold": int(flags.hold) if flags.hold.isdecimal() else flags.hold}
    task |= {key: getattr(flags, key) for key in ("sticky", "noop_max")}
    config = validate({**PROGRAM, **task, "name": "karpathy", "hidden": len(weights["W2"])}, source="import")
    policy = make_policy(config)
    load_weights(policy, weights)
    write_folder(flags.folder, policy, Checkpoint(config), flags.file, flags.episodes)
    return 0
