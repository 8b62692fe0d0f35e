"""What a ``pong train`` command asks for: a recipe's keys as flags, or a run to resume."""

import dataclasses
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from pong.commands.flags import parse
from pong.config import GROUPS, Config, InputError, load_config, validate

TRAIN = "Train a policy. The defaults shown are those of the config file before --help, or without one built in."
# what does not define a run, and may change when it is resumed
FREE = ("device", "act_on", "players", "emulator", "checkpoint_seconds", "stop_at_mean100", "total_steps")


@dataclasses.dataclass(frozen=True)
class TrainInput:
    """What a train command asks for."""

    config: Config
    run_dir: Path | None = None
    resume: bool = False  # the run in run_dir
    checkpoint: Path | None = None  # where to resume, if not from the newest one
    init: Path | None = None  # whose policy to begin with


def train_input(arguments: list[str]) -> TrainInput:
    """What the arguments of ``pong train`` ask for.

    Raises:
        InputError: they are wrong.
    """
    if arguments[:1] == ["--resume"]:
        return _resume_input(arguments[1:])
    if arguments[:1] in (["-h"], ["--help"]):
        defaults = Config()
    elif not arguments or arguments[0].startswith("-"):
        instead = f", not {arguments[0]!r}" if arguments else ""
        raise InputError(f"train: give the config file first{instead}, such as: pong train configs/pong.toml --seed 3")
    else:
        defaults = load_config(Path(arguments[0]))
        arguments = arguments[1:]
    given = dataclasses.asdict(parse(_train_flags(defaults), arguments, prog="pong train CONFIG.toml"))
    run_dir, init = given.pop("run_dir"), given.pop("init")
    values = {key: value for group in given.values() for key, value in group.items()}
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun, after a failure
    resume = restarted and run_dir is not None and (run_dir / "config.toml").exists()
    return TrainInput(validate(values, source="command line"), run_dir, resume, init=None if resume else init)


def _resume_input(arguments: list[str]) -> TrainInput:
    if not arguments or arguments[0].startswith("-"):
        raise InputError("train: --resume takes a run folder first, such as: pong train --resume runs/…")
    given = Path(arguments[0])
    if given.suffix == ".safetensors" and given.parent == Path():  # in the folder that we are in
        given = given.absolute()
    try:
        named = given.parent.name == "checkpoints" and not given.is_dir()
        folder = given.parent.parent if named else given
        exported = (folder / "policy.safetensors").exists() and not (folder / "run.json").exists()
        there = (folder / "config.toml").exists()
        trained = (folder / "lock").exists() or (folder / "checkpoints").exists()
    except OSError as error:
        raise InputError(f"train: --resume {given}: {error.strerror}; give a run folder (runs/…)") from None
    if exported:
        instead = f"begin a new run with it: pong train CONFIG.toml --init {folder}"
        raise InputError(f"train: --resume {given}: this is an exported policy, not a run; {instead}")
    if not there:
        raise InputError(f"train: --resume {given}: no run is there; give a run folder (runs/…) or its checkpoint")
    if not trained:
        instead = f"begin a new one: pong train {folder / 'config.toml'}"
        raise InputError(f"train: --resume {given}: this run folder has no checkpoints; {instead}")
    config = load_config(folder / "config.toml")
    for flag in arguments[1:]:
        key = flag.removeprefix("--").split("=")[0].replace("-", "_")
        if flag.startswith("--") and key in Config.model_fields and key not in FREE:
            instead = f"begin a new run: pong train {folder / 'config.toml'} {flag} …"
            raise InputError(f"train: --resume {given}: {key} defines the run and stays; {instead}")
    changes = dataclasses.asdict(
        parse(_flags(config, FREE, "Resume a run."), arguments[1:], prog="pong train --resume RUN")
    )
    config = validate({**config.model_dump(), **changes}, source="command line")
    if named:  # a new run continues from that checkpoint
        return TrainInput(config, checkpoint=given)
    return TrainInput(config, folder, resume=True)


def _train_flags(defaults: Config) -> Any:
    """A flag for every key of the config, holding the value of the config file, in groups as in a recipe."""
    folder = Annotated[Path | None, tyro.conf.arg(help="folder of this run; default: runs/NAME-sSEED-TIME")]
    init = Annotated[Path | None, tyro.conf.arg(help="begin with the policy of this run or exported folder")]
    files: list[Any] = [("run_dir", folder, None), ("init", init, None)]
    groups: list[Any] = [
        (
            group.__name__.removesuffix("Keys").lower(),
            _flags(defaults, group.model_fields, group.title),
            dataclasses.field(),
        )
        for group in GROUPS
    ]
    flags = dataclasses.make_dataclass("TrainFlags", groups + files, namespace={"__doc__": TRAIN})
    return tyro.conf.configure(tyro.conf.OmitArgPrefixes)(flags)


def _flags(defaults: Config, keys: Iterable[str], about: str) -> type:
    """A flag for each of some keys of the config."""
    flags = []
    for key in keys:
        field = Config.model_fields[key]
        kind = Annotated[field.annotation, tyro.conf.arg(help=field.description)]  # type: ignore[name-defined]
        flags.append((key, kind, dataclasses.field(default_factory=functools.partial(getattr, defaults, key))))
    return dataclasses.make_dataclass("Flags", flags, namespace={"__doc__": about})
