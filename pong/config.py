"""The config of a run: frozen, validated, read from a TOML file."""

import codecs
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

INT32 = 2**31 - 1  # the emulator's largest number
PONG = "Pong"
PONG_FRAMES = 65_209  # of a game at most: then the console's own clock runs out, see docs/pong-machine.md
RENAMED = {"reseed_every": "checkpoint_every", "processes": "players"}  # keys of older files
Units = Annotated[int, Field(ge=1)]
PathLike = str | os.PathLike[str]


class InputError(Exception):
    """Something the user gave is wrong; the message is the one line to show, with the remedy."""


class RunError(Exception):
    """A run can't continue; the message is the one line to show. What it saved is good."""


class Group(BaseModel):
    """Some of a config's keys, those of one heading in a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    title: ClassVar[str]  # their heading


class TaskKeys(Group):
    """The task."""

    title = "The task"

    env: str = Field(PONG, description="Pong, or a gymnasium id such as CartPole-v1")
    hold: Annotated[int, Field(ge=1, le=INT32)] | Literal["2-4"] = Field(
        4, description="frames per action (frame skip); 2-4: drawn at random"
    )
    sticky: float = Field(0.25, ge=0, lt=1, description="probability that a frame repeats the previous action")
    noop_max: int = Field(0, ge=0, le=INT32, description="at most this many NOOPs at the start of a game")
    max_frames: int = Field(
        108_000, ge=0, le=INT32, description="frames after which a game is truncated; 0: never, Pong at 65,209"
    )
    emulator: Literal["machine", "ale"] = Field(
        "machine", description="what plays Pong, compiled or ALE; does not change what is played"
    )


class ObservationKeys(Group):
    """What the policy sees and does."""

    title = "What the policy sees and does"

    actions: Literal[2, 3, 6] = Field(2, description="UP and DOWN; 3: NOOP too; 6: all, with and without FIRE")
    frames: Literal["difference", "stack", "both", "three"] = Field(
        "difference",
        description="this frame minus the previous one; the two; this and the difference; that and the one before it",
    )
    last_action: bool = Field(False, description="whether its previous action is shown, too")


class BatchKeys(Group):
    """The batch."""

    title = "The batch"

    num_envs: int = Field(32, ge=1, le=4096, description="emulators; with until=episodes the games per update")
    until: Literal["steps", "episodes"] = Field("steps", description="what ends a rollout")
    horizon: int = Field(128, ge=1, description="decisions per emulator and rollout, with until=steps")
    horizon_end: int | None = Field(None, ge=1, description="at total_steps, on a line to it; unset: constant")
    act_on: Literal["auto", "cpu", "learner"] = Field(
        "auto", description="where actions are decided; auto: convolutions where the learner is, all else on the CPU"
    )
    players: int = Field(
        0,
        ge=0,
        le=4096,
        description="actor threads; 0: one fewer than cores; does not change the results",
    )


class PolicyKeys(Group):
    """The policy."""

    title = "The policy"

    policy: Literal["karpathy", "conv", "mlp"] = Field(
        "karpathy", description="the 2016 network, convolutions, or a multilayer perceptron"
    )
    hidden: Units | list[Units] = Field(200, description="units of the hidden layer; of several layers for an mlp")
    channels: list[Units] = Field(
        [16, 32], min_length=1, max_length=3, description="filters of each convolution of a conv"
    )


class EstimatorKeys(Group):
    """The estimator."""

    title = "The estimator"

    gamma: float = Field(0.99, ge=0, le=1, description="discount per decision")
    reset_at_points: bool = Field(True, description="whether the return restarts at every point, or only with the game")
    standardize: Literal["batch", "episode", "none"] = Field(
        "batch", description="what the returns are standardised over"
    )
    reduction: Literal["sum", "mean"] = Field("mean", description="over the rows of a batch")
    baseline: Literal["none", "network"] = Field("none", description="what is subtracted from the returns")
    baseline_hidden: Units | list[Units] | None = Field(
        None, description="its hidden units; none: as many as the policy"
    )
    baseline_channels: list[Units] | None = Field(
        None, max_length=3, description="its convolutions; none: as the policy; []: two layers on the pixels"
    )
    baseline_learning_rate: float = Field(1e-3, gt=0, description="of the baseline's own Adam")
    baseline_unit: float = Field(1.0, gt=0, description="unit of its predictions: about the spread of the returns")
    baseline_passes: int = Field(2, ge=1, description="gradient steps of the baseline on each batch")
    entropy_bonus: float = Field(0.003, ge=0, description="weight of the mean entropy (nats) in the objective")
    entropy_bonus_end: float | None = Field(None, ge=0, description="at total_steps, on a line to it; unset: constant")


class OptimizerKeys(Group):
    """The optimiser."""

    title = "The optimiser"

    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="which optimiser")
    learning_rate: float = Field(3e-3, gt=0, description="at the start")
    learning_rate_end: float | None = Field(None, ge=0, description="at total_steps, on a line to it; unset: constant")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient")
    rmsprop_decay: float = Field(0.99, ge=0, lt=1, description="RMSProp's decay of the mean squared gradient")
    epsilon: float = Field(1e-5, gt=0, description="added to the denominator of Adam and RMSProp")


class RunKeys(Group):
    """The run."""

    title = "The run"

    name: str = Field("pong", pattern=r"^[\w.-]+$", description="what the run is called")
    seed: int = Field(1, ge=0, lt=2**63, description="random seed, of every stream")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the network is trained; auto: CUDA if available"
    )
    total_steps: int = Field(4_000_000, ge=1, description="decisions after which training ends")
    checkpoint_every: int = Field(
        200, ge=1, description="updates between checkpoints; environments that can't be saved restart there"
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="a checkpoint at least this often, too; 0: no")
    eval_episodes: int = Field(
        0, ge=0, description="fresh games after each checkpoint_every updates, to find the best; 0: none"
    )
    stop_at_mean100: float | None = Field(None, description="stop early, once the mean of 100 games reaches this")


class Config(RunKeys, OptimizerKeys, EstimatorKeys, PolicyKeys, BatchKeys, ObservationKeys, TaskKeys):  # last first
    """Everything that defines a run. A run is a function of this and nothing else.

    A key that a file leaves out takes the default written here.
    """

    def replace(self, **changes: Any) -> "Config":
        """The same config with other values of some keys, checked as those of a file are.

        Raises:
            InputError: a key is unknown, of the wrong type or out of range.
        """
        return validate({**self.model_dump(), **changes}, source="replace")

    @property
    def is_pong(self) -> bool:
        """Whether a reward ends a point: pong specific."""
        return self.env == PONG

    @property
    def is_compiled(self) -> bool:
        """Whether Pong is played in the machine, and not in ALE."""
        return self.is_pong and self.emulator == "machine"

    @property
    def game_frames(self) -> int:
        """Frames of a game of Pong, at most: ``max_frames``, or when the console's own clock runs out."""
        return min(self.max_frames or PONG_FRAMES, PONG_FRAMES)

    @property
    def task(self) -> str:
        """What is played, in a few words."""
        if self.is_pong:
            return f"sticky {self.sticky}, hold {self.hold}"
        return f"{self.env}, hold {self.hold}" if self.has_screen else self.env

    @property
    def has_screen(self) -> bool:
        """Whether the game shows pictures, so that people can look at it, too."""
        return self.policy != "mlp"

    @property
    def layers(self) -> list[int]:
        """Units of each hidden layer of the policy."""
        return self.hidden if isinstance(self.hidden, list) else [self.hidden]

    @property
    def baseline_layers(self) -> list[int]:
        """Units of each hidden layer of the baseline."""
        hidden = self.hidden if self.baseline_hidden is None else self.baseline_hidden
        return hidden if isinstance(hidden, list) else [hidden]

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.noop_max and self.game_frames <= self.noop_max:
            remedy = f"set max_frames above noop_max, or to 0; Pong ends at {PONG_FRAMES}"
            raise ValueError(f"a game would end before its first decision; {remedy}")
        if self.policy == ("mlp" if self.is_pong else "karpathy"):
            remedy = '"karpathy" plays Pong, "conv" whatever shows pictures and "mlp" what shows a vector of numbers'
            raise ValueError(f'policy = "{self.policy}" does not read what env = "{self.env}" shows; {remedy}')
        framed = () if self.has_screen else ("hold", "max_frames")  # with a screen: see envs.check_task
        for key in (*framed, "sticky", "noop_max", "emulator", "actions", "frames", "last_action", "reset_at_points"):
            if not self.is_pong and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f'{key} = {getattr(self, key)} is a setting of Pong; leave it out for env = "{self.env}"'
                )
        for key in ("hidden", "baseline_hidden"):
            if self.policy != "mlp" and isinstance(getattr(self, key), list):
                found = f"{key} = {getattr(self, key)}"
                raise ValueError(f'{found}: policy = "{self.policy}" has one hidden layer; give one number')
        if self.standardize == "episode" and self.baseline != "none":
            raise ValueError('a baseline predicts points; set standardize = "batch" or baseline = "none"')
        if self.standardize == "episode" and self.until != "episodes":
            raise ValueError(
                'standardize = "episode" needs whole games; set until = "episodes" or standardize = "batch"'
            )
        return self


GROUPS = cast("tuple[type[Group], ...]", Config.__bases__[::-1])  # in a recipe's order


def linear_schedule(first: float, last: float | None, done: float) -> float:
    """On the line from ``first`` to ``last``; ``done`` in [0, 1] says how far. Without a last one it stays."""
    return first if last is None else first + (last - first) * done


def load_config(path: PathLike) -> Config:
    """Read a TOML file, whose name gives the run's name where it sets none.

    It is UTF-8, with or without a byte-order mark, or UTF-16 with one.

    Raises:
        InputError: the file is missing or not TOML, or a key is unknown, of the wrong type or out of range.
    """
    path = Path(path)
    try:
        values = tomllib.loads(_decode(path.read_bytes()))
    except FileNotFoundError:
        known = ", ".join(sorted(str(file) for file in Path("configs").glob("*.toml")))
        raise InputError(f"config file {path} does not exist" + (f"; there are {known}" if known else "")) from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no TOML, no text, or a number too long
        raise InputError(f"config file {path} can't be read as TOML: {error}") from None
    return validate({"name": _name(path), **values}, source=str(path))


def _decode(content: bytes) -> str:
    """Text in UTF-8, or as its byte-order mark says."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf16 else "utf-8-sig")


def _name(path: Path) -> str:
    """What a run of this file is called: as the file, with a dash for what a name can't hold."""
    return re.sub(r"[^\w.-]+", "-", path.stem) or "run"


def validate(values: dict[str, Any], source: str) -> Config:
    """Build a config from plain values, naming ``source`` and the first bad key in the error.

    Raises:
        InputError: a key is unknown, of the wrong type or out of range.
    """
    values = {RENAMED.get(key, key): value for key, value in values.items()}
    try:
        return Config(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError(f"{source}: {first['msg'].removeprefix('Value error, ')}") from None
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{source}: unknown key {key!r}; {nearest(key, Config.model_fields)}") from None
        messages = [one["msg"] for one in error.errors() if one["loc"][:1] == (key,)]  # one for each type it may have
        raise InputError(f"{source}: {key} = {values.get(key)!r}: {', or '.join(messages)}") from None


def nearest(given: str, known: Iterable[str]) -> str:
    """A hint for a name that is unknown: those most like it, or all."""
    names = list(known)
    like = difflib.get_close_matches(given, names, n=2)
    return f"did you mean {' or '.join(like)}?" if like else f"there are {', '.join(names)}"


def to_toml(config: Config) -> str:
    """The config as TOML; ``load_config`` reads it back to an equal one."""
    values = config.model_dump(exclude_none=True)
    return "\n".join(
        f"# {group.title}\n"
        + "".join(f"{key} = {json.dumps(values[key])}\n" for key in group.model_fields if key in values)
        for group in GROUPS
    )
