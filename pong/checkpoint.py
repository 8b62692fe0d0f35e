"""What a run needs to be used again, in one safetensors file: weights, optimiser state, and JSON in its header.

No pickle is written or read, so loading a stranger's checkpoint executes nothing. A file is there whole or not at all,
and its checksum tells whether it still is what was written.
"""

import contextlib
import hashlib
import itertools
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from pong.baseline import Baseline
from pong.config import Config, InputError, PathLike, validate
from pong.envs.fleet import EmulatorState
from pong.save_p import is_pickle

FORMAT = 3  # every format but 1 has a checksum, that of ``_digest``
READS = (2, 3)  # 2 had no play
SUFFIX = ".safetensors"
KEPT = 2  # the newest checkpoints of a run; and the best
BEST = f"best{SUFFIX}"
PLAY, LENGTHS = "play.", ".lengths"
POLICY = f"policy{SUFFIX}"  # of an exported folder
PRETRAINED = Path(__file__).parents[1] / "pretrained/pong"


@dataclass(frozen=True)
class Counters:
    """How far a run has come."""

    updates: int = 0
    steps: int = 0  # agent steps
    games: int = 0
    points: int = 0
    ema: float | None = None  # running mean of the scores
    last100: tuple[float, ...] = ()  # scores of the last games, at most 100
    best: float | None = None  # mean score of the best evaluation


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; by default that of a run which has not begun.

    Attributes:
        config: of the run.
        counters: how far it had come.
        policy: the policy's ``state_dict``.
        optimizer: the ``state`` part of the optimiser's ``state_dict``, by parameter number and name.
        baseline: the baseline network's ``state_dict``; empty without one.
        baseline_optimizer: as ``optimizer``.
        play: what each emulator continues from, see ``Rollout.state``; empty where that is not kept.
    """

    config: Config
    counters: Counters = Counters()
    policy: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    baseline: dict[str, Tensor] = field(default_factory=dict)
    baseline_optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    play: list[EmulatorState] = field(default_factory=list)


def save(
    folder: Path,
    config: Config,
    counters: Counters,
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    baseline: Baseline | None = None,
    play: list[EmulatorState] | None = None,
    *,
    best: bool = False,
) -> Path:
    """Write ``update-NNNNNN.safetensors`` into a folder, whole or not at all, and delete all but the newest two.

    Args:
        folder: of the run's checkpoints; it is made if need be.
        config: of the run.
        counters: how far it has come.
        policy: its weights are saved, and
        optimizer: its state.
        baseline: and those of the baseline, if there is one.
        play: what each emulator continues from, if that can be kept.
        best: whether it is kept as ``best.safetensors`` too, whatever is deleted later.

    Returns:
        The file's path.

    Raises:
        FloatingPointError: a tensor holds NaN or infinity; nothing is written.
        OSError: the file can't be written; what was saved before is untouched.
    """
    tensors = _tensors("policy.", policy, "optimizer.", optimizer)
    if baseline:
        tensors |= _tensors("baseline.", baseline.network, "baseline_optimizer.", baseline.optimizer)
    tensors |= _joined(play or [])
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(f"update {counters.updates}: {name} is not finite; lower the learning rates")
    content = _content(config, counters, tensors)
    path = folder / file_name(counters.updates)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in (folder / BEST, path) if best else (path,):  # a kill between the two leaves no best behind
            write_atomically(target, content)
    except OSError as error:
        raise OSError(f"checkpoint {path} can't be written: {error.strerror or error}") from None
    _tidy(folder)
    return path


def save_policy(
    path: Path, config: Config, counters: Counters, policy: torch.nn.Module, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint of the policy alone, its weights as ``dtype``: enough to play, and to begin another training.

    Raises:
        OSError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"policy.{name}": tensor.cpu().to(dtype).contiguous() for name, tensor in policy.state_dict().items()}
    write_atomically(path, _content(config, counters, tensors))


def _content(config: Config, counters: Counters, tensors: dict[str, Tensor]) -> bytes:
    about = json.dumps({"format": FORMAT, "config": config.model_dump(), "counters": asdict(counters)})
    return serialize(tensors, {"pong": about, "sha256": _digest(about, tensors)})


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and on the disk when this returns.

    Raises:
        OSError: it can't be written; what was there before is untouched.
    """
    temporary = path.with_suffix(".tmp")  # in the same folder, so that renaming it is one step
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _sync(folder: Path) -> None:
    """Bring the folder's list of files to the disk, so that a power cut does not undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tidy(folder: Path) -> None:
    """Delete all but the newest checkpoints, and what a killed save left."""
    for file in (*checkpoints(folder)[:-KEPT], *folder.glob("*.tmp")):
        with contextlib.suppress(OSError):
            file.unlink()


def make_newest(path: Path, updates: int) -> list[Path]:
    """Let a run resume from one of its checkpoints, that after ``updates``: newer ones are set aside, not deleted.

    Returns:
        What was set aside, under its new name; the best too, if it is a newer one.

    Raises:
        OSError: the folder can't be written.
    """
    folder = path.parent
    newer = [file for file in checkpoints(folder) if _number(file) >= updates and not file.samefile(path)]
    if path.name != BEST and best_of(folder).updates > updates:
        newer.append(folder / BEST)
    aside = [_set_aside(file) for file in reversed(newer)]  # the newest first: a kill in between is no other choice
    if path.name != file_name(updates):
        write_atomically(folder / file_name(updates), path.read_bytes())
    return aside


def _set_aside(path: Path) -> Path:
    names = (path.with_suffix(f".set-aside-{number}") for number in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


def best_of(folder: Path) -> Counters:
    """How far the run had come at its best, by the file itself; not at all without one that can be read."""
    try:
        return load(folder / BEST).counters
    except InputError:
        return Counters()


def _digest(about: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint says."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def load(where: PathLike) -> Checkpoint:
    """Read a checkpoint file, or the newest one of a run folder.

    Raises:
        InputError: there is no checkpoint, or the file is damaged, foreign or of another format. A damaged one is never
            passed over: the message names the others, and whoever wants one names it.
    """
    path = find(Path(where))
    metadata, tensors = _read(path)
    try:
        about = _about(path, metadata, tensors)
        return Checkpoint(
            config=validate(about["config"], str(path)),
            counters=_counters(about["counters"]),
            policy=_under("policy.", tensors),
            optimizer=_by_parameter(_under("optimizer.", tensors)),
            baseline=_under("baseline.", tensors),
            baseline_optimizer=_by_parameter(_under("baseline_optimizer.", tensors)),
            play=_parted(_under(PLAY, tensors)),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"checkpoint {path} is damaged or was not written by pong; {_others(path.parent, path)}"
        ) from None


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header's texts, and the tensors."""
    try:
        with path.open("rb") as opened, safe_open(_in_utf8(path, opened.fileno()), framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        what = f"checkpoint {path} can't be read: {' '.join(str(error).split())}"
        if path.suffix != SUFFIX and is_pickle(path):
            raise InputError(
                f"{what}; of a save.p of the 2016 program, make a folder: pong import {path} DIR"
            ) from None
        raise InputError(f"{what}; {_others(path.parent, path)}") from None


def _in_utf8(path: Path, descriptor: int) -> str:
    """A name of an open file that safetensors can read: it takes none that is no UTF-8."""
    try:
        return str(path).encode().decode()
    except UnicodeEncodeError:
        return f"/dev/fd/{descriptor}"


def _about(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Any:
    """What a checkpoint says of itself, if it is whole and of this format."""
    about = json.loads(metadata["pong"])
    found = about["format"]
    if (found != 1 or "sha256" in metadata) and metadata["sha256"] != _digest(metadata["pong"], tensors):
        raise InputError(
            f"checkpoint {path} is damaged: its checksum is not that of its content; {_others(path.parent, path)}"
        )
    if found not in READS:
        remedy = "update pong" if found > FORMAT else "use the version of pong that wrote it, or train anew"
        reads = " and ".join(map(str, READS))
        raise InputError(f"checkpoint {path} has format {found}, this version reads {reads}; {remedy}")
    return about


def _counters(values: dict[str, Any]) -> Counters:
    return Counters(**{**values, "last100": tuple(values.get("last100", ()))})


def exists(run: Path) -> bool:
    """Whether a run folder holds a checkpoint, be it only the best one."""
    return any((run / "checkpoints").glob(f"*{SUFFIX}"))


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest last; the best is not among them."""
    files = [file for file in folder.glob(f"update-*{SUFFIX}") if file.stem.removeprefix("update-").isdecimal()]
    return sorted(files, key=_number)


def file_name(updates: int) -> str:
    """The file name of a run's checkpoint after this many updates."""
    return f"update-{updates:06d}{SUFFIX}"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("update-"))


def find(where: Path) -> Path:
    """A checkpoint file as it is, the newest one of a run folder, or that of an exported folder.

    "pretrained" is the agent that comes with the project.

    Raises:
        InputError: there is none.
    """
    if where == Path("pretrained"):
        where = PRETRAINED
    try:
        if where.is_file():
            return where
        if (where / POLICY).is_file():
            return where / POLICY
        there = where.exists()
    except OSError as error:
        raise InputError(f"{where} can't be read: {error.strerror}") from None
    if not there:
        remedy = _others(where.parent) if where.suffix == SUFFIX else "give a run folder (runs/…) or a checkpoint file"
        raise InputError(f"{where} does not exist; {remedy}")
    found = checkpoints(where / "checkpoints")
    if not found:
        remedy = _others(where / "checkpoints") if exists(where) else "train longer or choose another run"
        raise InputError(f"{where} holds no checkpoints/update-*{SUFFIX}; {remedy}")
    return found[-1]


def _others(folder: Path, but: Path | None = None) -> str:
    """Which checkpoints of a folder to name instead of one that is no good."""
    others = [file for file in (*checkpoints(folder), folder / BEST) if file != but and file.exists()]
    return f"there is {', '.join(map(str, others))}" if others else "there is no other in its folder"


def _tensors(
    names: str, module: torch.nn.Module, optimizer_names: str, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    tensors = {f"{names}{name}": tensor for name, tensor in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{optimizer_names}{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return tensors


def _joined(play: list[EmulatorState]) -> dict[str, Tensor]:
    """The emulators' arrays, those of one name behind each other, and how long each is."""
    tensors = {}
    for name in play[0] if play else ():
        arrays = [kept[name] for kept in play]
        tensors[f"{PLAY}{name}"] = torch.from_numpy(np.concatenate(arrays))
        tensors[f"{PLAY}{name}{LENGTHS}"] = torch.tensor([len(array) for array in arrays])
    return tensors


def _parted(tensors: dict[str, Tensor]) -> list[EmulatorState]:
    """The reverse of ``_joined``."""
    parted = {
        name: torch.split(tensor, tensors[name + LENGTHS].tolist())
        for name, tensor in tensors.items()
        if not name.endswith(LENGTHS)
    }
    emulators = zip(*parted.values(), strict=True)
    return [{name: part.numpy() for name, part in zip(parted, parts, strict=True)} for parts in emulators]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _by_parameter(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Any]] = {}
    for key, tensor in flat.items():
        number, name = key.split(".", 1)
        states.setdefault(int(number), {})[name] = tensor
    return states
