"""``pong export``: a trained policy as a folder that speaks for itself."""

import contextlib
import dataclasses
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pong.commands.evaluate import WAYS, fresh_games, scores, write_scores
from pong.commands.flags import check_place, parse
from pong.config import Config, InputError, to_toml

if TYPE_CHECKING:
    from pong.checkpoint import Checkpoint
    from pong.evaluate import Evaluation
    from pong.policies import Policy

GIF_SECONDS = 6
SEED = 0  # of the fresh games and the film


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Write a run's policy into a folder of its own.

    It holds the weights and the config (policy.safetensors), the config to read, scores of fresh games, a model card
    and, of a game with a screen, a film. ``pong eval``, ``pong play`` and ``pong train … --init`` take the folder where
    they take a run.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|CHECKPOINT", help="run folder or checkpoint")]
    folder: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="to write; must not exist")
    ] = None
    episodes: Annotated[int, tyro.conf.arg(help="fresh games for the model card, sampled and greedy each")] = 100
    half: Annotated[
        bool, tyro.conf.arg(help="store the weights as 16-bit numbers; the fresh games show if it matters")
    ] = False
    save_p: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help="also, or instead, write the file of the 2016 program")
    ] = None


def export(arguments: list[str]) -> int:
    """Export a run's policy."""
    flags = parse(ExportFlags, arguments, prog="pong export")
    if flags.episodes < 2:
        raise InputError(f"export: --episodes {flags.episodes}: give at least 2")
    if flags.folder is None and flags.save_p is None:
        raise InputError("export: give a folder to write, such as: pong export RUN agent")
    if flags.save_p is not None:
        check_place("export: --save-p", flags.save_p)

    from pong.train import load_policy

    policy, loaded = load_policy(flags.run)
    if flags.save_p is not None:
        _save_p(flags.save_p, loaded)
    if flags.folder is not None:
        write_folder(flags.folder, policy, loaded, flags.run, flags.episodes, half=flags.half)
    return 0


def _save_p(file: Path, loaded: "Checkpoint") -> None:
    from pong import save_p

    config = loaded.config
    if config.policy != "karpathy" or set(loaded.policy) != set(save_p.ENTRIES) or config.frames != "difference":
        raise InputError(f"export: --save-p {file} is for the 2016 network; {config.name}'s is another")
    if config.last_action:
        raise InputError(f"export: --save-p {file}: the 2016 program is not shown its last action; this policy is")
    save_p.write(file, loaded.policy)
    print(f"wrote {file}")


def write_folder(
    folder: Path, policy: "Policy", loaded: "Checkpoint", run: Path, episodes: int, *, half: bool = False
) -> None:
    """Write a policy into a new folder, and say so.

    Args:
        folder: must not exist.
        policy: as it was loaded.
        loaded: the checkpoint that it comes from.
        run: where that lies.
        episodes: fresh games to play, sampled and greedy each; none: their scores are left out.
        half: store the weights as 16-bit numbers.

    Raises:
        InputError: the folder exists, or can't be made.
    """
    import torch

    from pong import checkpoint
    from pong.train import load_policy

    with _new_folder(folder) as part:
        dtype = torch.float16 if half else torch.float32
        checkpoint.save_policy(part / checkpoint.POLICY, loaded.config, loaded.counters, policy, dtype)
        policy, _ = load_policy(part)  # as it was stored
        (part / "config.toml").write_text(to_toml(loaded.config), encoding="utf-8")
        played = {}
        if episodes:
            scored = loaded
            if loaded.config.is_pong:
                scored = dataclasses.replace(loaded, config=loaded.config.replace(emulator="ale"))
            print(f"{folder}: playing {episodes} games sampled and {episodes} greedily …", flush=True)
            played = {way: fresh_games(policy, scored.config, way, episodes, SEED) for way in WAYS}
            write_scores(part / "eval.json", scores(run, scored, SEED, played))
        if loaded.config.has_screen:
            _film(policy, loaded.config, part / "game.gif")
        card = _card(folder.name, loaded, played, _trained_on(run))
        (part / "README.md").write_text(card, encoding="utf-8", errors="replace")
    print(f"wrote {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that gets its name when all is in it; what fails half way leaves nothing.

    Raises:
        InputError: there is something of that name, or nothing can be made there.
    """
    try:
        folder.mkdir()  # the name is taken, from here on
    except OSError as error:
        raise InputError(f"export: {folder} can't be made: {error.strerror}; give a new folder") from None
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.absolute().parent) as temporary:
            part = Path(temporary) / "part"
            part.mkdir()
            yield part
            part.replace(folder)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is still empty


def _film(policy: "Policy", config: Config, file: Path) -> None:
    """The first seconds of a game."""
    from pong.envs import frame_rate
    from pong.render.film import fps_of, write_film
    from pong.render.frame import play_frames

    short = config.model_copy(update={"max_frames": config.noop_max + GIF_SECONDS * frame_rate(config)})
    caption = f"{config.name} · sampled · seed {SEED}"
    write_film(play_frames(policy, short, SEED), file, fps_of(config), caption)


def _trained_on(run: Path) -> dict[str, Any]:
    """The run.json of the run that a checkpoint or run folder belongs to; empty if it is gone."""
    for folder in (run, run.parent.parent):
        if (folder / "run.json").exists():
            about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            return about
    return {}


def _card(name: str, loaded: "Checkpoint", played: "dict[str, Evaluation]", run: dict[str, Any]) -> str:
    config = loaded.config
    task = f"{config.env}, {config.task}" if config.is_pong else config.task
    film = "![a game's first seconds](game.gif)\n\n" if config.has_screen else ""
    blind = config.is_pong and config.frames == "difference"
    files = "- `eval.json`: the score of each game.\n" if played else ""
    return f"""# {name}

A policy trained by policy gradient, on the loss −log π·R. Task: {task}.

{film}{_scored(config, played)}{_origin(loaded, run)}
- `policy.safetensors`: the weights, and the config in its header; no pickle. `config.toml`: the same config to read.
{files}
Use: `pong eval DIR`, `pong play DIR`, `pong train CONFIG.toml --init DIR`, with this folder for DIR.

Limits: it plays this task and no other, and other seeds of the same recipe end a little higher or
lower.{" It sees only what changed between two decisions." if blind else ""}
"""


def _scored(config: Config, played: "dict[str, Evaluation]") -> str:
    if not played:
        return ""
    lines = [
        f"- {way}: **{games.mean:+.2f} ± {games.standard_error:.2f}** (mean ± standard error of {games.n} games)\n"
        for way, games in played.items()
    ]
    where = " in ALE" if config.is_pong else ""
    return f"Fresh games, seed {SEED}, played{where} with Python {platform.python_version()}:\n\n{''.join(lines)}\n"


def _origin(loaded: "Checkpoint", run: dict[str, Any]) -> str:
    """How it was trained, by the run.json of its run."""
    config, counters = loaded.config, loaded.counters
    if not run:
        return f"Trained for {counters.updates:,} updates, if it tells; its run is not at hand.\n"
    counts = f"{counters.updates:,} updates, {counters.steps:,} agent steps, {counters.games:,} games"
    hardware = f"CPU cores: {run.get('cpu_count', '?')}, device: {run.get('device', '?')}"
    where = "ALE" if config.emulator == "ale" else "the machine, which is ALE's game bit for bit"
    versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
    return f"""Trained{f" in {where}" if config.is_pong else ""} for {counts}, seed {config.seed}:
`{" ".join(run.get("command", ["unknown"]))}` (revision {run.get("git_revision", "unknown")}; {hardware}; {versions}).
"""
