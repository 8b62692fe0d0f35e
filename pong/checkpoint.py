"""Checkpoints: one safetensors file, with the config as JSON in its header and a checksum. Loading one runs no code."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from pong.config import Config, InputError, PathLike, agents, resolve, validate
from pong.envs.base import EmulatorState

FORMAT = 4
SUFFIX = ".safetensors"
PARTS = ("policy", "optimizer", "baseline", "baseline_optimizer")  # with tensors; and "play", of each emulator
MOST_NAMES = 1 << 23  # bytes of a file's start: safetensors takes a minute to read 64 MiB of names
NEWEST = 2  # checkpoints of a run that are not deleted, besides the best
BEST = f"best{SUFFIX}"
POLICY = f"policy{SUFFIX}"  # of an exported folder
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Scores = Annotated[tuple[FiniteFloat, ...], Field(max_length=100)]


@dataclass(frozen=True)
class Counters:
    """The progress of a run."""

    updates: Count = 0
    steps: Count = 0  # agent steps
    games: Count = 0
    points: Count = 0
    ema: FiniteFloat | None = None  # running mean of the scores
    last100: Scores = ()  # of the last games
    best: FiniteFloat | None = None  # in best.safetensors: the mean score of its evaluation

    @property
    def mean100(self) -> float | None:
        """Mean score of the last 100 games, None before the hundredth."""
        return sum(self.last100) / 100 if len(self.last100) == 100 else None


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a run continues; by default, its beginning."""

    config: Config
    counters: Counters = Counters()
    policy: dict[str, Tensor] = field(default_factory=dict)  # its state_dict
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # its "state", by parameter number and name
    baseline: dict[str, Tensor] = field(default_factory=dict)  # the network's state_dict; empty without a baseline
    baseline_optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    play: list[EmulatorState] = field(default_factory=list)  # see Rollout.state; empty where it can't be saved


def save(folder: Path, checkpoint: Checkpoint, *, best: bool = False) -> Path:
    """Write ``update-NNNNNN.safetensors``, with ``best`` also ``best.safetensors``, and delete older checkpoints."""
    updates = checkpoint.counters.updates
    parts = {name: getattr(checkpoint, name) for name in PARTS}
    tensors = _flatten(parts | {"play": dict(enumerate(checkpoint.play))})
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(f"update {updates}: {name} is not finite; lower the learning rates")
    path = folder / file_name(updates)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        targets = (folder / BEST, path) if best else (path,)  # a kill between the two must not lose the best
        _write(targets, checkpoint, tensors)
    except (OSError, SafetensorError) as error:
        raise OSError(f"checkpoint {path} can't be written: {getattr(error, 'strerror', None) or error}") from None
    for old in (*checkpoints(folder)[:-NEWEST], *folder.glob("*.tmp*")):  # left by killed processes
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def save_policy(path: Path, config: Config, counters: Counters, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint of a policy's weights alone: enough to play or to start a training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write((path,), Checkpoint(config, counters), _flatten({"policy": weights}))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file completely or not at all; when this returns, the file is on the disk."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file to be written, which then replaces that at ``path``."""
    temporary = path.with_suffix(".tmp")  # in the same folder, so that it can be renamed
    temporary.unlink(missing_ok=True)  # left by a killed process; or a foreign link, whose target stays as it is
    try:
        temporary.open("xb").close()  # which follows no link
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # a power cut must not undo the renaming
    finally:
        os.close(folder)


def load(where: PathLike, trust: bool = False) -> Checkpoint:
    """Read a checkpoint file, or the newest checkpoint of a run folder; ``trust`` as in ``config.validate``."""
    path = find(Path(where))
    metadata, tensors = _read(path)
    try:
        header = json.loads(metadata["pong"])
        if metadata["sha256"] != _digest(metadata["pong"], tensors):
            raise InputError(f"checkpoint {path} is damaged: its checksum does not match its content; {_others(path)}")
        if header["format"] != FORMAT:
            mismatch = f"has format {header['format']}, this version of pong reads {FORMAT}"
            raise InputError(f"checkpoint {path} {mismatch}; use the version that wrote it, or train again")
        for name, tensor in tensors.items():
            if not tensor.float().isfinite().all():
                raise InputError(f"checkpoint {path} can't be used: {name} is not finite; {_others(path)}")
        config = validate(header["config"], str(path), trust)
        counters = TypeAdapter(Counters).validate_python(header["counters"])
        policy, optimizer, baseline, baseline_optimizer = (_part(name, tensors) for name in PARTS)
        emulators = sorted(_by_number(_part("play", tensors)).items())
        play = [{name: tensor.numpy() for name, tensor in emulator.items()} for _, emulator in emulators]
        return Checkpoint(
            config, counters, policy, _by_number(optimizer), baseline, _by_number(baseline_optimizer), play
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(f"checkpoint {path} is damaged or was not written by pong; {_others(path)}") from None


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file."""
    try:
        with path.open("rb") as start:
            if int.from_bytes(start.read(8), "little") > MOST_NAMES:
                raise SafetensorError("its header is too long")
        with safe_open(path, framework="pt") as file:
            return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        remedy = f"if it is a save.p of 2016: pong import {path} DIR" if path.suffix != SUFFIX else _others(path)
        raise InputError(f"checkpoint {path} can't be read: {' '.join(str(error).split())}; {remedy}") from None


def best_score(folder: Path) -> float:
    """The score of the best checkpoint in a folder, −∞ if none can be read."""
    best = None
    with contextlib.suppress(InputError):
        best = load(folder / BEST, trust=True).counters.best
    return -math.inf if best is None else best


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder from the oldest to the newest, without the best."""
    files = [file for file in folder.glob(f"update-*{SUFFIX}") if file.stem.removeprefix("update-").isdecimal()]
    return sorted(files, key=lambda file: int(file.stem.removeprefix("update-")))


def file_name(updates: int) -> str:
    """The file name of a run's checkpoint after this many updates."""
    return f"update-{updates:06d}{SUFFIX}"


def find(where: Path) -> Path:
    """The checkpoint file meant by a file, an exported folder, a run folder (its newest), or an agent's name."""
    file = resolve(where, agents(), where / POLICY, *checkpoints(where / "checkpoints")[-1:])
    if file.is_file():
        return file
    if where.exists():
        raise InputError(f"{where} holds no checkpoints/update-*{SUFFIX}; {_others(where / 'checkpoints' / POLICY)}")
    raise InputError(f"{where} does not exist; {_others(where)}")


def _others(path: Path) -> str:
    """The other checkpoints in the same folder, to choose from."""
    others = [file for file in (*checkpoints(path.parent), path.with_name(BEST)) if file != path and file.exists()]
    remedy = "give another run folder (runs/…), checkpoint or agent (pong recipes)"
    return f"there is {', '.join(map(str, others))}" if others else remedy


def _write(paths: Iterable[Path], about: Checkpoint, tensors: dict[str, Tensor]) -> None:
    header = json.dumps({"format": FORMAT, "config": about.config.model_dump(), "counters": asdict(about.counters)})
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}  # safetensors.torch leaks a type a length
    metadata = {"pong": header, "sha256": _digest(header, tensors)}
    for path in paths:
        with _replacing(path) as temporary:
            save_file(arrays, temporary, metadata)


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's whole content."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a nested dictionary, by their names joined with dots."""
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            key = f"{prefix}{name}".replace("_orig_mod.", "")  # which torch.compile adds
            flat[key] = torch.as_tensor(value).cpu().contiguous()
    return flat


def _part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _by_number(part: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    groups: dict[int, dict[str, Tensor]] = {}
    for key, tensor in part.items():
        number, name = key.split(".", 1)
        groups.setdefault(int(number), {})[name] = tensor
    return groups
