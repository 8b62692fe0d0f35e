"""The config of a run: frozen, validated, read from a TOML file."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

INT32 = 2**31 - 1  # the emulator's largest number
PONG = "Pong"
PONG_FRAMES = 65_209  # the longest game: then the console's own clock runs out, see docs/pong-machine.md
PONG_KEYS = ("sticky", "noop_max", "emulator", "actions", "frames", "last_action", "reset_at_points")
FRAMES = "difference: this frame minus the last; both: also this frame; three: also the difference before"
END = "value reached at total_steps (linear schedule); unset: stays constant"
Count = Annotated[int, BeforeValidator(lambda x: int(x) if isinstance(x, float) and x.is_integer() else x)]  # 1e6
Units = Annotated[int, Field(ge=1, le=INT32)]
Filters = Annotated[list[Units], Field(max_length=3)]
Hold = Annotated[int, Field(ge=1, le=INT32)] | Literal["2-4"]
PathLike = str | os.PathLike[str]
MOST_BYTES, MOST_DOTS = 65_536, 1_000  # of a config file: tomllib takes minutes for a key with many dots


class InputError(Exception):
    """The user's input is wrong; the message is one line that says what to do."""


class RunError(Exception):
    """A run can't continue; the message is one line. The last checkpoint is intact."""


class Settings(BaseModel):
    """Checked values; the docstring of a group of keys is its heading in a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any):
        try:
            super().__init__(**values)
            return
        except ValidationError as error:
            errors = error.errors()
        key = str(errors[0]["loc"][0]) if errors[0]["loc"] else ""
        errors = [item for item in errors if key in ("", *item["loc"][:1])]
        bounds = [item for item in errors if "than" in item["type"]]  # of a number, which need not be a list instead
        messages = [item["msg"].removeprefix("Value error, ") for item in bounds or errors]
        if errors[0]["type"] == "extra_forbidden":
            raise InputError(f"unknown key {key!r}; {nearest(key, type(self).model_fields)}")
        value = values.get(key)  # with a message for each type that it may have
        start = f"{key} = {value if isinstance(value, Path) else repr(value)}: " if key else ""
        raise InputError(start + ", or ".join(messages))


class TaskKeys(Settings):
    """The task"""

    env: str = Field(PONG, pattern=r"^[\w:./-]+$", description="Pong, or a gymnasium id such as CartPole-v1")
    hold: Hold = Field(4, description="frames per action (frame skip); 2-4: drawn at random for each action")
    sticky: float = Field(0.25, ge=0, lt=1, description="probability that a frame repeats the previous action")
    noop_max: int = Field(0, ge=0, le=INT32, description="maximum number of NOOPs at the start of a game")
    max_frames: Count = Field(108_000, ge=0, le=INT32, description="longest game in frames; 0: no limit (Pong: 65,209)")
    emulator: Literal["machine", "ale"] = Field("machine", description="compiled Pong, or ALE; the games are the same")


class ObservationKeys(Settings):
    """What the policy sees and does"""

    actions: Literal[2, 3, 6] = Field(2, description="2: UP and DOWN; 3: also NOOP; 6: all, with and without FIRE")
    frames: Literal["difference", "both", "three"] = Field("difference", description=FRAMES)
    last_action: bool = Field(False, description="whether the policy also sees its previous action")


class BatchKeys(Settings):
    """The batch"""

    num_envs: int = Field(32, ge=1, le=4096, description="emulators; with until=episodes: games per update")
    until: Literal["steps", "episodes"] = Field("steps", description="what ends a rollout")
    horizon: int = Field(128, ge=1, description="decisions per emulator and rollout, with until=steps")
    horizon_end: int | None = Field(None, ge=1, description=END)
    players: int = Field(0, ge=0, le=4096, description="actor threads; 0: automatic; the results are the same")


class PolicyKeys(Settings):
    """The policy"""

    policy: Literal["karpathy", "conv", "mlp"] = Field("karpathy", description="2016 network, convolutions, or an MLP")
    hidden: Units | list[Units] = Field(200, description="units of the hidden layer; an mlp may have several layers")
    channels: Filters = Field([16, 32], min_length=1, description="filters of each convolution, for policy = conv")


class EstimatorKeys(Settings):
    """The estimator"""

    gamma: float = Field(0.99, ge=0, le=1, description="discount per decision")
    reset_at_points: bool = Field(True, description="whether the return restarts at every point, or only with the game")
    standardize: Literal["batch", "episode", "none"] = Field("batch", description="standardise the returns over this")
    reduction: Literal["sum", "mean"] = Field("mean", description="sum or mean of the loss over the rows of a batch")
    baseline: Literal["none", "network"] = Field("none", description="subtract a network's prediction from the returns")
    baseline_hidden: Units | list[Units] | None = Field(None, description="hidden units; unset: those of the policy")
    baseline_channels: Filters | None = Field(None, description="unset: the policy's; []: no convolutions")
    baseline_learning_rate: float = Field(1e-3, gt=0, description="learning rate of the baseline's own Adam")
    baseline_unit: float = Field(1.0, gt=0, description="scale of its predictions, about the spread of the returns")
    baseline_passes: int = Field(2, ge=1, description="gradient steps of the baseline on each batch")
    entropy_bonus: float = Field(0.003, ge=0, description="weight of the mean entropy (nats) in the objective")
    entropy_bonus_end: float | None = Field(None, ge=0, description=END)


class OptimizerKeys(Settings):
    """The optimiser"""

    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="Adam or RMSProp")
    learning_rate: float = Field(3e-3, gt=0, description="learning rate at the start")
    learning_rate_end: float | None = Field(None, ge=0, description=END)
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the mean gradient")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient")
    rmsprop_decay: float = Field(0.99, ge=0, lt=1, description="RMSProp's decay of the mean squared gradient")
    epsilon: float = Field(1e-5, gt=0, description="added to the denominator of Adam and RMSProp")


class RunKeys(Settings):
    """The run"""

    name: str = Field("pong", pattern=r"^[\w.-]+$", description="name of the run")
    seed: int = Field(1, ge=0, lt=2**63, description="seed of all random streams")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to learn; auto: on a CUDA GPU, if any")
    total_steps: Count = Field(4_000_000, ge=1, description="decisions after which training ends")
    checkpoint_every: int = Field(200, ge=1, description="updates between checkpoints; all but Pong restart then")
    checkpoint_seconds: float = Field(60.0, ge=0, description="maximum seconds between checkpoints; 0: no limit")
    eval_episodes: int = Field(0, ge=0, description="games to score every checkpoint_every updates; 0: none")
    stop_at_mean100: float | None = Field(None, description="stop once the last 100 games average this score")


class Config(RunKeys, OptimizerKeys, EstimatorKeys, PolicyKeys, BatchKeys, ObservationKeys, TaskKeys):  # last first
    """All that defines a run: the same config gives the same run. A key that a file omits takes the default."""

    def replace(self, **changes: Any) -> "Config":
        """The same config with new, validated values of some keys."""
        return Config(**{**self.model_dump(), **changes})

    @property
    def is_pong(self) -> bool:
        """Whether the environment is Pong, where every reward ends a point."""
        return self.env == PONG

    @property
    def is_compiled(self) -> bool:
        """Whether Pong runs in the compiled emulator, and not in ALE."""
        return self.is_pong and self.emulator == "machine"

    @property
    def has_screen(self) -> bool:
        """Whether the environment has a screen that people can watch."""
        return self.is_pong or is_doom(self.env)

    @property
    def game_frames(self) -> int:
        """The longest possible game of Pong, in frames."""
        return min(self.max_frames or PONG_FRAMES, PONG_FRAMES)

    @property
    def task(self) -> str:
        """The task in a few words."""
        if self.is_pong:
            return f"sticky {self.sticky}, hold {self.hold}"
        return f"{self.env}, hold {self.hold}" if self.has_screen else self.env

    @property
    def layers(self) -> list[int]:
        return self.hidden if isinstance(self.hidden, list) else [self.hidden]

    @property
    def baseline_layers(self) -> list[int]:
        hidden = self.hidden if self.baseline_hidden is None else self.baseline_hidden
        return hidden if isinstance(hidden, list) else [hidden]

    @model_validator(mode="after")
    def _check_combinations(self) -> "Config":
        env, policy, per_game = f'env = "{self.env}"', f'policy = "{self.policy}"', self.standardize == "episode"
        values = {key: f"{key} = {getattr(self, key)!r}" for key in type(self).model_fields}
        other = not self.has_screen
        pong_keys = [*PONG_KEYS, *["hold"] * (other or isinstance(self.hold, str)), *["max_frames"] * other]
        changed = [values[key] for key in pong_keys if getattr(self, key) != type(self).model_fields[key].default]
        lists = [values[key] for key in ("hidden", "baseline_hidden") if isinstance(getattr(self, key), list)]
        policies = '"karpathy" plays Pong, "conv" games with a screen, "mlp" environments that give numbers'
        refused = {  # message: whether it applies
            f"{values['noop_max']} fills a whole game; set max_frames above it": self.noop_max >= self.game_frames,
            f"{policy} can't play {env}; {policies}": self.policy == ("mlp" if self.is_pong else "karpathy"),
            f"{', '.join(changed)}: {env} has no such setting; leave it out": changed and not self.is_pong,
            f"{', '.join(lists)}: {policy} has one hidden layer; give one number": lists and self.policy != "mlp",
            'standardize = "episode" needs until = "episodes"': per_game and self.until != "episodes",
            'standardize = "episode" needs baseline = "none"': per_game and self.baseline != "none",
        }
        if messages := [message for message, applies in refused.items() if applies]:
            raise ValueError(messages[0])
        return self


GROUPS: dict[str, Any] = {group.__name__.removesuffix("Keys").lower(): group for group in Config.__bases__[::-1]}


def is_doom(env: str) -> bool:
    """Whether an environment's id is one of ViZDoom's."""
    return env.startswith("Vizdoom")


def linear_schedule(start: float, end: float | None, progress: float) -> float:
    """The value on the line from ``start`` to ``end`` at ``progress`` in [0, 1]; constant without an end."""
    return start if end is None else start + (end - start) * progress


def recipes() -> dict[str, Path]:
    """The recipes that come with the package: {name: config file}."""
    return {path.stem: path for path in sorted(_data("configs").glob("*.toml"))}


def agents() -> dict[str, Path]:
    """The trained agents that come with the package: {name: file of the policy}."""
    return {path.parent.name: path for path in sorted(_data("pretrained").glob("*/policy.safetensors"))}


def _data(name: str) -> Path:
    """A folder of data, which is in the installed package, and beside the package in a checkout."""
    installed = Path(__file__).with_name(name)
    return installed if installed.is_dir() else installed.parents[1] / name


def resolve(name: Path, known: dict[str, Path], *inside: Path) -> Path:
    """The first that is a file: ``name``, what a folder of that name may have ``inside``, the ``known`` file."""
    return next((file for file in (name, *inside, known.get(str(name), name)) if file.is_file()), name)


def load_config(path: PathLike, trust: bool = False) -> Config:
    """Read a TOML file in UTF-8, which by default names the run, or a recipe; ``trust`` as in ``validate``."""
    path = resolve(Path(path), recipes())
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES or content.count(b".") > MOST_DOTS:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes or {MOST_DOTS:,} dots")
        values = tomllib.loads(content.decode("utf-8-sig"))
    except FileNotFoundError:
        hint = f"; {nearest(path.stem, recipes())}" if recipes() else ""
        raise InputError(f"config file {path} does not exist{hint}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, or too long a number
        raise InputError(f"config file {path} can't be read as TOML: {error}") from None
    name = re.sub(r"[^\w.-]+", "-", path.stem) or "run"
    return validate({"name": name, **values}, str(path), trust)


def validate(values: dict[str, Any], source: str, trust: bool = False) -> Config:
    """Build a config from plain values, which name a module only with ``trust``; an InputError names their source."""
    try:
        config = Config(**values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if ":" in config.env and not trust:  # gymnasium imports what precedes the colon
        raise InputError(f"{source}: env = {config.env!r} runs a module's code; if you trust it, add --trust")
    return config


def nearest(given: str, known: Collection[str]) -> str:
    """A hint for an unknown name: the names most like it, or all."""
    similar = difflib.get_close_matches(given, known, n=2)
    return f"did you mean {' or '.join(similar)}?" if similar else f"there are {', '.join(known)}"


def printable(text: str) -> str:
    """The text for a terminal, at most 2,000 characters: control characters, which can command it, are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:2000])


def to_toml(config: Config) -> str:
    """The config as TOML; ``load_config`` reads it back to an equal one."""
    values = config.model_dump(exclude_none=True)
    lines = {key: f"{key} = {json.dumps(value)}\n" for key, value in values.items()}
    groups = (
        f"# {group.__doc__}\n{''.join(lines.get(key, '') for key in group.model_fields)}" for group in GROUPS.values()
    )
    return "\n".join(groups)
