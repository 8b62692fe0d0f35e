"""What a run needs to be used again, in one safetensors file: weights, optimiser state, and JSON in its header.

No pickle is written or read, so loading a stranger's checkpoint executes nothing.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pong.baseline import Baseline
from pong.config import Config, InputError, validate

FORMAT = 1
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Counters:
    """How far a run has come."""

    updates: int = 0
    steps: int = 0  # agent steps
    games: int = 0
    points: int = 0
    ema: float | None = None  # running mean of the scores
    last100: tuple[float, ...] = ()  # scores of the last games, at most 100


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
    """

    config: Config
    counters: Counters = Counters()
    policy: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    baseline: dict[str, Tensor] = field(default_factory=dict)
    baseline_optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def save(
    folder: Path,
    config: Config,
    counters: Counters,
    policy: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    baseline: Baseline | None = None,
) -> Path:
    """Write ``update-NNNNNN.safetensors`` into a folder, whole or not at all.

    Returns:
        The file's path.

    Raises:
        OSError: the file can't be written; what was saved before is untouched.
    """
    tensors = _tensors("policy.", policy, "optimizer.", optimizer)
    if baseline:
        tensors |= _tensors("baseline.", baseline.network, "baseline_optimizer.", baseline.optimizer)
    about = {"format": FORMAT, "config": config.model_dump(), "counters": asdict(counters)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"update-{counters.updates:06d}{SUFFIX}"
    temporary = path.with_suffix(".tmp")
    try:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, temporary, {"pong": json.dumps(about)})
    except SafetensorError as error:  # what the operating system refused
        raise OSError(f"checkpoint {path} can't be written: {error}") from None
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def load(where: Path) -> Checkpoint:
    """Read a checkpoint file, or the newest one of a run folder.

    Raises:
        InputError: there is no checkpoint, or the file is damaged, foreign or of a newer format.
    """
    path = _find(where)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} can't be read: {error}; choose an earlier one in its folder") from None
    try:
        about = json.loads(metadata["pong"])
        if about["format"] != FORMAT:
            found = about["format"]
            raise InputError(f"checkpoint {path} has format {found}, this version reads {FORMAT}; update pong")
        return Checkpoint(
            config=validate(about["config"], str(path)),
            counters=_counters(about["counters"]),
            policy=_under("policy.", tensors),
            optimizer=_by_parameter(_under("optimizer.", tensors)),
            baseline=_under("baseline.", tensors),
            baseline_optimizer=_by_parameter(_under("baseline_optimizer.", tensors)),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(f"checkpoint {path} was not written by pong; give a file from a run's checkpoints/") from None


def _counters(values: dict[str, Any]) -> Counters:
    return Counters(**{**values, "last100": tuple(values.get("last100", ()))})


def exists(folder: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    return bool(_checkpoints(folder))


def _checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(f"checkpoints/update-*{SUFFIX}"))


def _find(where: Path) -> Path:
    if where.is_file():
        return where
    if not where.exists():
        raise InputError(f"{where} does not exist; give a run folder (runs/…) or a checkpoint file")
    found = _checkpoints(where)
    if not found:
        raise InputError(f"{where} holds no checkpoints/update-*{SUFFIX}; train longer or choose another run")
    return max(found, key=lambda file: (len(file.name), file.name))  # 999999 before 1000000


def _tensors(
    names: str, module: torch.nn.Module, optimizer_names: str, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    tensors = {f"{names}{name}": tensor for name, tensor in module.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{optimizer_names}{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return tensors


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _by_parameter(flat: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    states: dict[int, dict[str, Any]] = {}
    for key, tensor in flat.items():
        number, name = key.split(".", 1)
        states.setdefault(int(number), {})[name] = tensor
    return states
