"""The command line: ``pong train | eval | play | export | import | toy``."""

import contextlib
import difflib
import io
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

import pydantic
import tyro
from pydantic import Field, NewPath, model_validator
from tyro.conf import Positional, arg

from pong import STARTED
from pong.config import GROUPS, Config, InputError, RunError, load_config, nearest, validate

if TYPE_CHECKING:
    from pong.render.frame import RenderedFrame
    from pong.run import TrainRequest

ABOUT = """Karpathy's Pong from Pixels in PyTorch.

Exit status: 0 done, 2 bad input, 1 anything else, 130 interrupted."""
POLICY = "run folder, checkpoint or exported folder"


def _in_a_folder(file: Path) -> Path:
    """Check that a file can be written, before the games are played that it is for."""
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError("give a file in a folder that exists")
    return file


Source = Annotated[Path, Positional, arg(metavar="RUN|CHECKPOINT")]
OutputFile = Annotated[Path, pydantic.AfterValidator(_in_a_folder)]


class Flags(pydantic.BaseModel):
    """The flags of a command."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            value = "".join(f"{key} = {problem['input']}: " for key in problem["loc"][:1])
            raise InputError(value + problem["msg"].removeprefix("Value error, ")) from None


class Train(Flags):
    """Train a policy, or resume a run; every key of the config is a flag (pong train CONFIG.toml --help)."""

    recipe: Annotated[Path | None, Positional, arg(metavar="CONFIG.toml")] = Field(
        None, description="the config whose values are the defaults"
    )
    resume: Annotated[Path | None, arg(metavar="RUN|CHECKPOINT")] = Field(
        None, description="resume a run in its folder, or a checkpoint in a new folder, instead of CONFIG.toml"
    )
    run_dir: Path | None = Field(None, description="folder of the new run; default: runs/NAME-sSEED-TIME")
    init: Path | None = Field(None, description="start with the policy of this run or exported folder")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.recipe and self.resume:
            raise ValueError("train: choose one of CONFIG.toml and --resume")
        if self.resume and self.init:
            raise ValueError("train: --init is for a new run; leave it out to resume")
        if self.resume and self.run_dir and self.resume.is_dir():
            raise ValueError("train: a run resumes in its own folder; leave --run-dir out, or resume a checkpoint")
        return self

    def __call__(self, command: list[str], started: float) -> int:
        """Train, and return the exit status."""
        from pong.run import train

        return train(self._request(), command, started)

    def _request(self) -> "TrainRequest":
        """What to train."""
        from pong.run import TrainRequest

        groups = self.model_dump(exclude=set(Train.model_fields))
        config = validate({key: value for group in groups.values() for key, value in group.items()}, "command line")
        if self.resume:
            _check_same_run(config, self.resume)
            named = None if self.resume.is_dir() else self.resume
            return TrainRequest(config, self.run_dir if named else self.resume, resume=True, checkpoint=named)
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun, after a failure
        if restarted and self.run_dir and (self.run_dir / "config.toml").exists():
            return TrainRequest(config, self.run_dir, resume=True)
        return TrainRequest(config, self.run_dir, init=self.init)


class Eval(Flags):
    """Play fresh games with a policy and print their mean score ± its standard error."""

    source: Source = Field(description=POLICY)
    episodes: int = Field(100, ge=1, description="games, sampled and greedy each")
    sampled: bool = Field(False, description="only games that sample the actions, as training does")
    greedy: bool = Field(False, description="only games that take the likeliest action")
    seed: int = Field(0, ge=0, description="of the emulators and the sampled actions")
    sticky: float | None = Field(None, description="probability of sticky actions; default: as in training")
    noop_max: int | None = Field(None, description="most NOOPs at the start of a game; default: as in training")
    emulator: Literal["ale", "machine"] = Field("ale", description="what plays Pong; the scores are the same")
    scores: Annotated[OutputFile | None, arg(name="json")] = Field(
        None, alias="json", description="also write the scores to this file"
    )

    def __call__(self) -> None:
        """Play games with frozen weights and print their scores."""
        from pong.export import WAYS, play_games, summary, write_scores
        from pong.train import load_policy

        policy, loaded = load_policy(self.source)
        config, counters = self._task(loaded.config), loaded.counters
        games = {}
        for way in [way for way in WAYS if getattr(self, way)] or WAYS:
            games[way] = play_games(policy, config, way, self.episodes, self.seed)
            task = f"{way}, seed {self.seed}, {config.task}, update {counters.updates}"
            print(f"{summary(games[way], config)}, {task}", flush=True)  # the next games take minutes
        if self.scores is not None:
            write_scores(self.scores, self.source, config, counters, self.seed, games)

    def _task(self, trained: Config) -> Config:
        """The task of the training with the changes asked for."""
        changes = {
            "sticky": self.sticky,
            "noop_max": self.noop_max,
            "emulator": self.emulator if trained.is_pong else None,
        }
        changes = {key: value for key, value in changes.items() if value is not None}
        return validate({**trained.model_dump(), **changes}, source="eval")


class Play(Flags):
    """Save a video of one game of a policy, or show it live in the terminal."""

    source: Source = Field(description=POLICY)
    file: NewPath | None = Field(
        None, description="video to write, .mp4 or .gif, never overwritten; default: RUN-updateN-seedN.mp4"
    )
    terminal: bool = Field(False, description="show the game in this terminal instead")
    speed: float = Field(1, gt=0, description="with --terminal: 1 is natural, in Pong 60 frames a second")
    greedy: bool = Field(False, description="take the likeliest action instead of sampling")
    seed: int = Field(0, ge=0, description="of the emulator and the sampled actions; the first game of pong eval")
    max_frames: int | None = Field(None, description="frames after which the game ends; default: as in training")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.file is not None and self.file.suffix.lower() not in (".mp4", ".gif"):
            raise ValueError(f"play: --file {self.file}: give a name that ends in .mp4 or .gif")
        if self.file is not None and self.terminal:
            raise ValueError("play: choose one of --file and --terminal")
        if self.speed != 1 and not self.terminal:
            raise ValueError("play: --speed is for --terminal; a video runs at natural speed")
        if self.terminal and not sys.stdout.isatty():
            raise ValueError("play: --terminal: the output is not a terminal; leave --terminal out to save a video")
        return self

    def __call__(self) -> None:
        """Play one game with frozen weights and print its score."""
        from pong.render.frame import play_frames
        from pong.render.picture import signed
        from pong.train import load_policy

        policy, loaded = load_policy(self.source)
        config, updates = self._task(loaded.config), loaded.counters.updates
        name, way = _run_name(self.source), "greedy" if self.greedy else "sampled"
        file = self.file or Path(f"{name}-update{updates}{'-greedy' if self.greedy else ''}-seed{self.seed}.mp4")
        where = "playing one game in the terminal" if self.terminal else f"recording one game to {file}"
        print(f"{self.source}: update {updates}, {way}, seed {self.seed}, {config.task}; {where} …", flush=True)
        with contextlib.closing(play_frames(policy, config, self.seed, greedy=self.greedy)) as frames:
            last = self._show(frames, config, file, f"{name} · update {updates} · {way} · seed {self.seed}")
        end = "" if last.finished else ", truncated"
        print(f"score {signed(last.score)} in {last.step:,} steps{end}{'' if self.terminal else f': {file}'}")

    def _task(self, trained: Config) -> Config:
        """The task of the training, with another ``max_frames`` if asked for."""
        if not trained.has_screen:
            raise InputError(f"play: {self.source} was trained on {trained.env}, which has no screen to show")
        frames = trained.max_frames if self.max_frames is None else self.max_frames
        return validate({**trained.model_dump(), "max_frames": frames}, source="play")

    def _show(self, frames: "Iterable[RenderedFrame]", config: Config, file: Path, caption: str) -> "RenderedFrame":
        """Show a game in the terminal or save a video of it, and return its last frame."""
        from pong.render import film, terminal

        last: list[RenderedFrame] = []

        def watched() -> "Iterator[RenderedFrame]":
            for frame in frames:
                last[:] = [frame]
                yield frame

        if self.terminal:
            terminal.show(watched(), sys.stdout, self.speed)
        else:
            film.write_film(watched(), file, film.fps_of(config), caption)
        return last[0]


class Export(Flags):
    """Write a policy, its scores and a model card into a folder that eval, play and train --init take like a run."""

    source: Source = Field(description=POLICY)
    folder: Annotated[NewPath | None, Positional, arg(metavar="DIR")] = Field(None, description="to write")
    episodes: int = Field(100, ge=1, description="fresh games for the model card, sampled and greedy each")
    half: bool = Field(False, description="store the weights as 16-bit numbers; the fresh games show if it matters")
    save_p: OutputFile | None = Field(None, description="also, or instead, write the file of the 2016 program")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.folder is None and self.save_p is None:
            raise ValueError("export: give a folder to write, such as: pong export RUN agent")
        return self

    def __call__(self) -> None:
        """Export a policy."""
        from pong.export import write_folder, write_save_p
        from pong.train import load_policy

        policy, loaded = load_policy(self.source)
        if self.save_p is not None:
            write_save_p(self.save_p, loaded)
        if self.folder is not None:
            write_folder(self.folder, policy, loaded, self.source, self.episodes, half=self.half)


class Import(Flags):
    """Turn a save.p of the 2016 program into a folder like that of pong export; nothing in the pickle is executed."""

    file: Annotated[Path, Positional, arg(metavar="SAVE.P")] = Field(description="a pickle of W1 and W2")
    folder: Annotated[NewPath, Positional, arg(metavar="DIR")] = Field(description="to write")
    hold: int | Literal["2-4"] = Field("2-4", description="frames per action; 2-4: drawn at random, as in Pong-v0")
    sticky: float = Field(0.25, description="probability that a frame repeats the previous action")
    noop_max: int = Field(0, description="at most this many NOOPs at the start of a game")
    episodes: int = Field(0, ge=0, description="fresh games for the model card, sampled and greedy each")

    def __call__(self) -> None:
        """Import a policy."""
        from pong.export import import_save_p, write_folder

        policy, loaded = import_save_p(self.file, self.model_dump(include={"hold", "sticky", "noop_max"}))
        write_folder(self.folder, policy, loaded, self.file, self.episodes)


class Toy(Flags):
    """Show the log-derivative trick with numbers: by hand, by autograd and by finite differences."""

    examples: Annotated[list[str], Positional, arg(metavar="EXAMPLE")] = Field(
        [], description="T1 to T10, or all; none: list them"
    )
    samples: int | None = Field(None, ge=2, le=100_000, description="estimate from this many random batches")
    seed: int | None = Field(None, ge=0, lt=2**63, description="of the random batches")
    plot: Path | None = Field(None, description="write three plots into this folder instead")

    def __call__(self) -> None:
        """Show examples."""
        from pong.toy import toy

        toy(self.examples, self.samples, self.seed, self.plot)


COMMANDS: dict[str, type[Flags]] = {
    "train": Train,
    "eval": Eval,
    "play": Play,
    "export": Export,
    "import": Import,
    "toy": Toy,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    started = STARTED if argv is None else time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal can't show becomes a question mark
            stream.reconfigure(errors="replace")
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv), started)
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 0


def _run(arguments: list[str], started: float) -> int:
    """Run one command; an error becomes one line."""
    flags = None
    try:
        flags = _parse(arguments)
        if isinstance(flags, Train):
            return flags(["pong", *arguments], started)
        flags()
    except BrokenPipeError:
        raise
    except (InputError, RunError, FloatingPointError, OSError, MemoryError) as error:
        print("pong:", " ".join(str(error).split()), file=sys.stderr)
        return 2 if flags is None or isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("pong: interrupted", file=sys.stderr)
        return 130
    except SystemExit:
        if flags is not None:
            raise
    return 0  # also where tyro has printed the help


def _parse(arguments: list[str]) -> Any:
    """The flags of a command.

    Raises:
        InputError: there is no such command or flag, or a value is wrong.
    """
    name = arguments[0] if arguments else ""
    if name not in (*COMMANDS, "-h", "--help"):
        problem = f"unknown command {name!r}" if arguments else "no command"
        raise InputError(f"{problem}; {nearest(name, COMMANDS)} (pong --help)")
    commands = COMMANDS | ({"train": _train_flags(arguments[1:])} if name == "train" else {})
    flags, unknown = _parse_with_tyro(commands, arguments)
    if unknown:
        keys = (*COMMANDS[name].model_fields, *(Config.model_fields if name == "train" else ()))
        similar = difflib.get_close_matches(unknown[0].partition("=")[0].replace("-", "_"), keys, n=1)
        hint = f"; did you mean --{similar[0].replace('_', '-')}?" if similar else ""
        raise InputError(f"{name}: unknown argument {unknown[0]}{hint} (pong {name} --help)")
    return flags


def _parse_with_tyro(commands: dict[str, type[Flags]], arguments: list[str]) -> tuple[Any, list[str]]:
    """The flags of a command, and the arguments that tyro doesn't know."""
    union: Any = Union[tuple(Annotated[flags, tyro.conf.subcommand(name)] for name, flags in commands.items())]  # noqa: UP007
    settings: dict[str, Any] = {"prog": "pong", "description": ABOUT, "config": (tyro.conf.OmitArgPrefixes,)}
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(union, args=arguments, return_unknown_args=True, **settings)
    except SystemExit as end:
        if not end.code:
            raise
        text = output.getvalue().partition("\n")[2]  # tyro draws a box, in colour on a terminal, with a title
        text = re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯─]|\+?-{3,}\+?|^\||\|$", "", text, flags=re.MULTILINE)
        text = " ".join(re.split("Got errors|Argument helptext|For full helptext", text)[0].split())
        raise InputError(f"{arguments[0]}: {text} (pong {arguments[0]} --help)") from None


def _train_flags(arguments: list[str]) -> type[Train]:
    """Flags for every key of the config, with the values of the config file or the run, in groups as in a recipe."""
    if arguments[:1] == ["--resume"] and len(arguments) > 1:
        defaults = _saved_config(Path(arguments[1]))
    elif arguments and not arguments[0].startswith("-"):
        defaults = load_config(arguments[0])
    elif arguments[:1] in (["-h"], ["--help"]):
        defaults = Config()
    else:
        raise InputError("train: give a config file or --resume RUN first, such as: pong train configs/pong.toml")
    groups: dict[str, Any] = {}
    for group in GROUPS:
        flags = pydantic.create_model(group.__name__, __base__=(Flags, group), __doc__=group.__doc__)
        values = flags(**defaults.model_dump(include=set(group.model_fields)))
        groups[group.__name__.removesuffix("Keys").lower()] = (flags, values)
    return pydantic.create_model("Train", __base__=Train, __doc__=Train.__doc__, **groups)


def _saved_config(source: Path) -> Config:
    """The config of a run or of a checkpoint.

    Raises:
        InputError: there is none, or it can't be resumed.
    """
    wrong = f"train: --resume {source}"
    if source.name == "policy.safetensors" or (source / "policy.safetensors").exists():
        raise InputError(
            f"{wrong}: this is an exported policy; start a new run: pong train CONFIG.toml --init {source}"
        )
    if source.suffix == ".safetensors":
        from pong import checkpoint

        return checkpoint.load(source).config
    if not (source / "config.toml").exists():
        raise InputError(f"{wrong}: no run is there; give a run folder (runs/…) or one of its checkpoints")
    if not (source / "lock").exists() and not (source / "checkpoints").exists():
        raise InputError(f"{wrong}: it has no checkpoints; start a new run: pong train {source / 'config.toml'}")
    return load_config(source / "config.toml")


def _check_same_run(config: Config, source: Path) -> None:
    """Refuse to resume with changes to what defines a run."""
    from pong.run import FREE

    for key, value in _saved_config(source).model_dump().items():
        if key not in FREE and getattr(config, key) != value:
            raise InputError(f"train: --resume {source}: {key} defines the run and can't change; start a new run")


def _run_name(source: Path) -> str:
    """The name of a run folder, of a checkpoint's run, or of a checkpoint elsewhere."""
    path = source.resolve()
    if path.is_dir():
        return path.name
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem
