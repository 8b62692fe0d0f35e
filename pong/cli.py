"""The command line: ``pong train | eval | play | export | import | toy | recipes``."""

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tyro
from pydantic import AfterValidator, Field, NewPath, model_validator
from tyro.conf import Positional, arg

from pong import STARTED
from pong import config as keys
from pong.config import GROUPS, Config, InputError, RunError, Settings, agents, load_config, nearest, printable, recipes

ABOUT = """Karpathy's Pong from Pixels in PyTorch.

Exit status: 0 done, 2 bad input, 1 anything else, 130 interrupted."""
POLICY = "run folder, checkpoint, exported folder or agent (pong recipes)"
TRUST = 'import the module that a file names in env = "module:Id", which runs its code'


def _in_a_folder(file: Path) -> Path:
    """Check that a file can be written, before the games are played that it is for."""
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError("give a file in a folder that exists")
    return file


Source = Annotated[Path, Positional, arg(metavar="RUN|CHECKPOINT")]
Newest = Annotated[Path | None, Positional, arg(metavar="RUN|CHECKPOINT", help_behavior_hint="(default: newest run)")]
Recipe = Annotated[Path | None, Positional, arg(metavar="NAME|CONFIG.toml", help_behavior_hint="")]
Resumed = Annotated[Path | None, arg(metavar="RUN|CHECKPOINT")]
SeedRange = Annotated[str | None, arg(metavar="1-16|1,3,5")]
Video = Annotated[NewPath | None, arg(help_behavior_hint="(default: RUN-updateN-seedN.mp4)")]
AsTrained = arg(help_behavior_hint="(default: as in training)")
OutputFile = Annotated[Path, AfterValidator(_in_a_folder)]
JsonFile = Annotated[OutputFile | None, arg(name="json")]
HubName = Annotated[str | None, arg(metavar="NAME")]
Examples = Annotated[list[str], Positional, arg(metavar="EXAMPLE")]


class Train(Settings):
    """Train a policy, or resume a run; every key of the config is a flag.

    A recipe's values are the defaults (pong train pong --help). Without a recipe, the keys' own defaults are listed.
    """

    recipe: Recipe = Field(None, description="a recipe's name (pong recipes) or a config file")
    resume: Resumed = Field(None, description="resume a run in its folder, or a checkpoint in a new folder")
    run_dir: Path | None = Field(None, description="folder of the run; a run in it is resumed; default: runs/NAME-…")
    seeds: SeedRange = Field(None, description="train a run for each seed, one core each; in runs/NAME-seeds-TIME")
    init: Path | None = Field(None, description="start with the policy of this run, exported folder or agent")
    trust: bool = Field(False, description=f"{TRUST}; --env does, too")
    task: keys.TaskKeys = keys.TaskKeys()
    observation: keys.ObservationKeys = keys.ObservationKeys()
    batch: keys.BatchKeys = keys.BatchKeys()
    policy: keys.PolicyKeys = keys.PolicyKeys()
    estimator: keys.EstimatorKeys = keys.EstimatorKeys()
    optimizer: keys.OptimizerKeys = keys.OptimizerKeys()
    run: keys.RunKeys = keys.RunKeys()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.recipe and self.resume:
            raise ValueError("choose one of CONFIG.toml and --resume")
        if self.resume and self.init:
            raise ValueError("--init is for a new run; leave it out to resume")
        if self.resume and self.seeds:
            raise ValueError("--seeds resumes its runs when the same command starts again; leave --resume out")
        if self.seeds is not None:
            _numbers(self.seeds)
        if self.resume and self.run_dir and self.resume.is_dir():
            raise ValueError("a run resumes in its own folder; leave --run-dir out, or resume a checkpoint")
        return self

    def train(self, command: list[str], started: float) -> int:
        """Train one run, or one for each of the seeds, and return the exit status."""
        from pong.run import TrainRequest, train
        from pong.seeds import train_seeds

        config = Config(**{key: value for name in GROUPS for key, value in getattr(self, name)})
        request = TrainRequest(config, self.run_dir, checkpoint=self.resume, init=self.init)
        if self.resume and self.resume.is_dir():
            request = TrainRequest(config, self.resume)
        if self.seeds:
            return train_seeds(request, _numbers(self.seeds), command)
        return train(request, command, started)


class Eval(Settings):
    """Play fresh games with a policy and print their mean score ± its standard error."""

    source: Newest = Field(None, description=POLICY)
    episodes: int = Field(100, ge=1, description="games, both sampled and greedy")
    sampled: bool = Field(False, description="play only games with sampled actions, as in training")
    greedy: bool = Field(False, description="play only games with the likeliest action")
    seed: int = Field(0, ge=0, description="seed of the emulators and the sampled actions")
    sticky: Annotated[float | None, AsTrained] = Field(None, description="probability of sticky actions")
    noop_max: Annotated[int | None, AsTrained] = Field(None, description="maximum NOOPs at the start of a game")
    emulator: Literal["ale", "machine"] = Field("ale", description="machine is faster; the scores are the same")
    scores: JsonFile = Field(None, alias="json", description="also write the scores to this file")
    trust: bool = Field(False, description=TRUST)

    def __call__(self) -> None:
        from pong.distributed import cores
        from pong.evaluate import WAYS, evaluate
        from pong.export import scores_json
        from pong.train import load_policy

        policy, loaded = load_policy(source := self.source or _newest(), self.trust)
        changes = self.model_dump(include={"sticky", "noop_max"}, exclude_none=True)
        if loaded.config.is_pong:
            changes["emulator"] = self.emulator
        config, counters, games = loaded.config.replace(**changes), loaded.counters, {}
        if not self.source:
            print(f"{source}: playing fresh games …", flush=True)
        for way in [way for way in WAYS if getattr(self, way)] or WAYS:
            actor = WAYS[way](policy)
            games[way] = evaluate(actor, config, self.episodes, seed=self.seed, title=way, processes=cores())
            task = f"{way}, seed {self.seed}, {config.task}, update {counters.updates}"
            print(f"{games[way]}, {task}", flush=True)  # the next games take minutes
        if self.scores is not None:
            content = scores_json(source, config, counters, games, self.seed)
            self.scores.write_text(content, encoding="utf-8")


class Play(Settings):
    """Save a video of one game of a policy, or show it live in the terminal."""

    source: Newest = Field(None, description=POLICY)
    file: Video = Field(None, description="video to write, .mp4 or .gif, never overwritten")
    terminal: bool = Field(False, description="show the game in this terminal instead")
    speed: float = Field(1, gt=0, description="with --terminal: 1 is natural, in Pong 60 frames a second")
    greedy: bool = Field(False, description="take the likeliest action instead of sampling")
    seed: int = Field(0, ge=0, description="seed; the same one plays the first game of pong eval")
    max_frames: Annotated[int | None, AsTrained] = Field(None, description="frames after which the game ends")
    trust: bool = Field(False, description=TRUST)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.file is not None and self.file.suffix.lower() not in (".mp4", ".gif"):
            raise ValueError(f"--file {self.file}: give a name that ends in .mp4 or .gif")
        if self.file is not None and self.terminal:
            raise ValueError("choose one of --file and --terminal")
        if self.speed != 1 and not self.terminal:
            raise ValueError("--speed is for --terminal; a video runs at natural speed")
        if self.terminal and not sys.stdout.isatty():
            raise ValueError("--terminal: the output is not a terminal; leave --terminal out to save a video")
        return self

    def __call__(self) -> None:
        from pong.render.film import fps_of, write_film
        from pong.render.frame import play_frames
        from pong.render.picture import signed
        from pong.render.terminal import show
        from pong.train import load_policy

        policy, loaded = load_policy(source := self.source or _newest(), self.trust)
        config, updates = loaded.config, loaded.counters.updates
        if not config.has_screen:
            raise InputError(f"play: {source} was trained on {config.env}, which has no screen to show")
        config = config.replace(**self.model_dump(include={"max_frames"}, exclude_none=True))
        path, way = source.resolve(), "greedy" if self.greedy else "sampled"
        name = (path.parents[1] if path.parent.name == "checkpoints" else path).name.removesuffix(".safetensors")
        file = self.file or Path(f"{name}-update{updates}{'-greedy' if self.greedy else ''}-seed{self.seed}.mp4")
        doing = "playing one game in the terminal" if self.terminal else f"recording one game to {file}"
        print(printable(f"{source}: update {updates}, {way}, seed {self.seed}, {config.task}; {doing} …"), flush=True)
        with contextlib.closing(play_frames(policy, config, self.seed, greedy=self.greedy)) as frames:
            watched = (last := frame for frame in frames)
            if self.terminal:
                show(watched, sys.stdout, self.speed)
            else:
                write_film(watched, file, fps_of(config), f"{name} · update {updates} · {way} · seed {self.seed}")
        end = ("" if last.finished else ", truncated") + ("" if self.terminal else f": {file}")
        print(printable(f"score {signed(last.score)} in {last.step:,} steps{end}"))


class Export(Settings):
    """Write a policy, its scores and a model card into a folder that eval, play and train --init take like a run."""

    source: Source = Field(description=POLICY)
    folder: Annotated[NewPath | None, Positional, arg(metavar="DIR")] = Field(None, description="folder to write")
    episodes: int = Field(100, ge=1, description="fresh games for the model card, sampled and greedy each")
    half: bool = Field(False, description="store the weights as 16-bit numbers; the card has their scores")
    save_p: OutputFile | None = Field(None, description="also, or instead, write the file of the 2016 program")
    page: bool = Field(False, description="also write page.bin for the page in the browser (make page)")
    push_to_hub: HubName = Field(None, description="also upload the folder, with a video, to the Hugging Face hub")
    trust: bool = Field(False, description=TRUST)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.folder is None and (self.page or self.save_p is None):
            raise ValueError("give a folder to write, such as: pong export RUN agent")
        if self.push_to_hub and not (self.folder and find_spec("huggingface_hub")):
            raise ValueError("--push-to-hub needs a folder to write, and: pip install huggingface_hub")
        return self

    def __call__(self) -> None:
        from pong.export import agent_bytes, push, write_folder, write_save_p
        from pong.train import load_policy

        policy, loaded = load_policy(self.source, self.trust)
        for_page = agent_bytes(policy, loaded.config) if self.page else b""
        if self.save_p is not None:
            write_save_p(self.save_p, loaded)
        if self.folder is not None:
            write_folder(self.folder, policy, loaded, self.source, self.episodes, half=self.half)
            if self.page:
                (self.folder / "page.bin").write_bytes(for_page)
            if self.push_to_hub:
                push(self.folder, self.push_to_hub)


class Import(Settings):
    """Turn a save.p of the 2016 program or a port into a folder like that of pong export; nothing in it is executed."""

    file: Annotated[Path, Positional, arg(metavar="SAVE.P")] = Field(
        description="a pickle, also gzipped, or an .npz, with W1 and W2, possibly in a dictionary 'model'"
    )
    folder: Annotated[NewPath, Positional, arg(metavar="DIR")] = Field(description="folder to write")
    hold: int | Literal["2-4"] = Field("2-4", description="frames per action; 2-4: drawn at random, as in Pong-v0")
    sticky: float = Field(0.25, description="probability that a frame repeats the previous action")
    noop_max: int = Field(0, description="maximum number of NOOPs at the start of a game")
    episodes: int = Field(0, ge=0, description="fresh games for the model card, sampled and greedy each")

    def __call__(self) -> None:
        from pong.export import import_save_p, write_folder

        policy, loaded = import_save_p(self.file, self.model_dump(include={"hold", "sticky", "noop_max"}))
        write_folder(self.folder, policy, loaded, self.file, self.episodes, half=False)


class Toy(Settings):
    """Show the log-derivative trick with numbers: by hand, by autograd and by finite differences."""

    examples: Examples = Field([], description="T1 to T11, or all; leave it out to list them")
    samples: int | None = Field(None, ge=2, le=100_000, description="estimate from this many random batches")
    seed: int | None = Field(None, ge=0, lt=2**63, description="seed of the random batches")

    def __call__(self) -> None:
        from pong.toy import toy

        toy(self.examples, self.samples, self.seed)


class Recipes(Settings):
    """List the recipes for pong train, and which of them have a trained agent for pong play and pong eval."""

    def __call__(self) -> None:
        """Print the first line of each, up to a colon."""
        print(f"{'recipe':18}{'agent':7}what it is")
        trained = agents()
        for name, path in recipes().items():
            title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").split(": ")[0]
            print(f"{name:18}{'yes' if name in trained else '-':7}{title}")


COMMANDS: dict[str, Any] = {kind.__name__.lower(): kind for kind in (Train, Eval, Play, Export, Import, Toy, Recipes)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error becomes one line."""
    started, arguments = (STARTED, sys.argv[1:]) if argv is None else (time.monotonic(), list(argv))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal can't show becomes a question mark
            stream.reconfigure(errors="replace")
    command, status = None, 0
    try:
        command = _parse(arguments)
        if isinstance(command, Train):
            status = command.train(["pong", *arguments], started)
        elif command:
            command()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
    except (InputError, RunError, FloatingPointError, OSError, MemoryError) as error:
        with contextlib.suppress(OSError):
            print("pong:", printable(" ".join(str(error).split())), file=sys.stderr)
        return 2 if command is None or isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("pong: interrupted", file=sys.stderr)
        return 130
    return status


def _parse(arguments: list[str]) -> Any:
    """A command with its flags; None if tyro has printed the help."""
    counts = r"(--(?:total.steps|max.frames|episodes)[\0=])(\d+(?:\.\d+)?e\d+)(?=\0|$)"  # may be 1e6
    name, *flags = re.sub(counts, lambda m: f"{m[1]}{float(m[2]):.0f}", "\0".join(arguments)).split("\0")
    if name not in (*COMMANDS, "-h", "--help"):
        problem = f"unknown command {name!r}" if name else "no command"
        raise InputError(f"{problem}; {nearest(name, COMMANDS)} (pong --help)")
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            if name not in COMMANDS:
                tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="pong", description=ABOUT, args=[name])
            default = _train_defaults(flags) if name == "train" else None
            style = [tyro.conf.OmitArgPrefixes] if default else [tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff]
            return tyro.cli(COMMANDS[name], default=default, args=flags, prog=f"pong {name}", config=style)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except SystemExit as end:
        if not end.code:
            return None
    text = output.getvalue().partition("\n")[2]  # tyro draws a box, in colour on a terminal, with a title
    text = re.sub(r"\x1b\[[\d;]*m|[│╭╮╰╯─]|\+?-{3,}\+?|^\||\|$", "", text, flags=re.MULTILINE)
    text = " ".join(re.split("Got errors|Argument helptext|For full helptext", text)[0].split())
    text = re.sub(r" (?:Perhaps you meant|Arguments similar to \S+): (--[\w-]+).*", r"; did you mean \1?", text)
    text = re.sub(r"no type matching (.+) could be instantiated from \['(.*)'\]\.", r"'\2' is not \1", text)
    text = re.sub(r"(options: --lr\b[^;]*)$", r"\1; did you mean --learning-rate?", text)
    text = re.sub(r"(?i)(options: (?:true|false|yes|no))$", r"\1; a switch takes no value; --no-… turns it off", text)
    raise InputError(f"{name}: {text} (pong {name} --help)")


def _train_defaults(flags: list[str]) -> Train:
    """Flags with the values of the config file or the run."""
    names = {flag.partition("=")[0] for flag in flags}
    trust = not names.isdisjoint(("--trust", "--env"))  # --env: the file's is not used
    if {"--seed", "--seeds"} <= names:
        raise InputError("choose one of --seed and --seeds")
    if resumed := re.search(r"(?:^|\0)--resume[=\0]([^\0]+)", "\0".join(flags)):
        config = _saved_config(Path(resumed[1]), trust)
    elif flags and not flags[0].startswith("-"):
        config = load_config(flags[0], trust)
    elif flags[:1] in (["-h"], ["--help"]):
        config = Config()
    else:
        raise InputError("give a recipe (pong recipes), a config file or --resume RUN first, such as: pong train pong")
    values = config.model_dump()
    return Train(**{name: group(**{key: values[key] for key in group.model_fields}) for name, group in GROUPS.items()})


def _numbers(text: str) -> list[int]:
    """The seeds of a text such as 1-16 or 1,3,5."""
    parts = [re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part) for part in text.split(",")]
    seeds = dict.fromkeys(seed for part in parts if part for seed in range(int(part[1]), int(part[2] or part[1]) + 1))
    if not all(parts) or not seeds:
        raise ValueError(f"--seeds {text}: give numbers of up to four digits, such as 1-16 or 1,3,5")
    return list(seeds)


def _saved_config(source: Path, trust: bool) -> Config:
    """The config of a run or of a checkpoint."""
    if source.suffix == ".safetensors":
        from pong import checkpoint

        return checkpoint.load(source, trust).config
    if not (file := source / "config.toml").exists():
        raise InputError(f"--resume {source}: no run is there; give a run folder (runs/…) or one of its checkpoints")
    return load_config(file, trust)


def _newest() -> Path:
    """The run in runs/ with the newest checkpoint, or the default recipe's trained agent."""
    from pong.checkpoint import checkpoints

    times = {path.parent: path.stat().st_mtime for path in Path("runs").rglob("checkpoints") if checkpoints(path)}
    return max(times, key=times.__getitem__, default=Path("pong"))
