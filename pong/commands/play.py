"""``pong play``: one game with frozen weights, to look at."""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pong.commands.flags import check_place, parse
from pong.config import INT32, Config, InputError

if TYPE_CHECKING:
    from pong.render.frame import RenderedFrame

    Show = Callable[[Iterable[RenderedFrame]], None]

ENDINGS = (".mp4", ".gif")


@dataclasses.dataclass(frozen=True)
class PlayFlags:
    """Play one game with a run's weights and film it, or show it live.

    It is the first game of ``pong eval`` with the same seed, and the same each time. A film holds one picture per
    decision and runs at natural speed (20 pictures a second where a decision is held for 2 to 4 frames). A film under
    the default name takes the place of the one before; a file that ``--file`` names is never overwritten.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CHECKPOINT", help="run folder or checkpoint")]
    file: Annotated[
        Path | None, tyro.conf.arg(help="film to write, .mp4 or .gif; default: RUN-updateN-seedN.mp4, here")
    ] = None
    terminal: Annotated[bool, tyro.conf.arg(help="show it in this terminal instead")] = False
    speed: Annotated[float, tyro.conf.arg(help="with --terminal: 1 is natural, in Pong 60 frames a second")] = 1
    greedy: Annotated[bool, tyro.conf.arg(help="take the likelier action instead of sampling")] = False
    seed: Annotated[int, tyro.conf.arg(help="of the emulator and the sampled actions")] = 0
    max_frames: Annotated[
        int | None, tyro.conf.arg(help="emulated frames after which the game is truncated; default: as in training")
    ] = None


def play(arguments: list[str]) -> int:
    """Play one game with frozen weights into a file or the terminal, and print its score."""
    flags = _play_input(arguments)

    from pong.render.frame import play_frames
    from pong.render.picture import signed
    from pong.train import load_policy

    policy, loaded = load_policy(flags.run)
    config = _task(flags, loaded.config)
    show, where = _output(flags, config, loaded.counters.updates)
    how = "greedy" if flags.greedy else "sampled"
    task = f"{how}, seed {flags.seed}, {config.task}"
    print(f"{flags.run}: update {loaded.counters.updates}, {task}; one game into {where} …", flush=True)
    with contextlib.closing(play_frames(policy, config, flags.seed, greedy=flags.greedy)) as game:
        last = _last(show, game)
    end = "" if last.finished else ", truncated"
    print(f"score {signed(last.score)} in {last.step:,} steps{end}: {where}")
    return 0


def _last(show: "Show", game: "Iterable[RenderedFrame]") -> "RenderedFrame":
    """Show a game and return the last frame that was seen."""
    seen: list[RenderedFrame] = []

    def passing() -> "Iterator[RenderedFrame]":
        for frame in game:
            seen[:] = [frame]
            yield frame

    show(passing())
    return seen[0]


def _task(flags: PlayFlags, config: Config) -> Config:
    """The run's config, with the frames asked for."""
    if not config.has_screen:
        raise InputError(f"play: {flags.run} was trained on {config.env}, which has no screen to show")
    if flags.max_frames is None:
        return config
    if not config.noop_max < flags.max_frames <= INT32:
        raise InputError(f"play: --max-frames {flags.max_frames}: give {config.noop_max + 1} to {INT32}")
    return config.model_copy(update={"max_frames": flags.max_frames})


def _output(flags: PlayFlags, config: Config, updates: int) -> "tuple[Show, str]":
    """How to show a game, and where."""
    name = _name(flags.run)
    how = "greedy" if flags.greedy else "sampled"
    caption = f"{name} · update {updates} · {how} · seed {flags.seed}"
    if flags.terminal:
        from pong.render import terminal

        return functools.partial(terminal.show, out=sys.stdout, speed=flags.speed), "the terminal"
    file = flags.file or Path(f"{name}-update{updates}{'-greedy' if flags.greedy else ''}-seed{flags.seed}.mp4")
    check_place("play: --file", file)  # the default name follows from the run's, and may be too long

    from pong.render.film import fps_of, write_film

    return functools.partial(write_film, file=file, fps=fps_of(config), caption=caption), str(file)


def _name(run: Path) -> str:
    """What a run folder is called, or that of a checkpoint, or a checkpoint elsewhere."""
    path = run.resolve()
    if not path.is_dir():
        path = path.parent.parent if path.parent.name == "checkpoints" else path.with_suffix("")
    return path.name.encode(errors="replace").decode()


def _play_input(arguments: list[str]) -> PlayFlags:
    flags = parse(PlayFlags, arguments, prog="pong play")
    if flags.seed < 0:
        raise InputError(f"play: --seed {flags.seed}: give 0 or more")
    if not 0 < flags.speed < math.inf:
        raise InputError(f"play: --speed {flags.speed}: give a number above 0")
    if flags.file is not None and flags.terminal:
        raise InputError("play: choose --file or --terminal")
    if flags.speed != 1 and not flags.terminal:
        raise InputError("play: --speed is for --terminal; a film runs at natural speed")
    if flags.terminal:
        _check_terminal()
    if flags.file is not None:
        _check_file(flags.file)
    return flags


def _check_terminal() -> None:
    if not sys.stdout.isatty():
        raise InputError("play: --terminal: the output is not a terminal; leave --terminal out to write a film")
    try:
        "▀█░".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        raise InputError(f"play: --terminal: {sys.stdout.encoding} has no half-blocks; set LANG=C.UTF-8") from None


def _check_file(file: Path) -> None:
    """Refuse a film that the user names, if it can't be written there or is there already."""
    if file.suffix.lower() not in ENDINGS:
        raise InputError(f"play: --file {file}: give a name that ends in {' or '.join(ENDINGS)}")
    check_place("play: --file", file)
    if file.exists() or file.is_symlink():
        raise InputError(f"play: {file} exists and is not overwritten; choose another --file, or delete it")
