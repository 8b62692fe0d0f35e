"""``pong export``: a trained policy as a folder that speaks for itself."""

import dataclasses
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pong.commands.evaluate import WAYS, fresh_games, scores, write_scores
from pong.commands.flags import parse
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
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="to write; must not exist")]
    episodes: Annotated[int, tyro.conf.arg(help="fresh games for the model card, sampled and greedy each")] = 100
    half: Annotated[
        bool, tyro.conf.arg(help="store the weights as 16-bit numbers; the fresh games show if it matters")
    ] = False


def export(arguments: list[str]) -> int:
    """Export a run's policy."""
    flags = parse(ExportFlags, arguments, prog="pong export")
    if flags.episodes < 2:
        raise InputError(f"export: --episodes {flags.episodes}: give at least 2")

    import torch

    from pong import checkpoint
    from pong.train import load_policy

    policy, loaded = load_policy(flags.run)
    try:
        flags.folder.mkdir()
    except OSError as error:
        raise InputError(f"export: {flags.folder} can't be made: {error.strerror}; give a new folder") from None
    dtype = torch.float16 if flags.half else torch.float32
    checkpoint.save_policy(flags.folder / checkpoint.POLICY, loaded.config, loaded.counters, policy, dtype)
    policy, _ = load_policy(flags.folder)  # as it was stored
    scored = loaded
    if loaded.config.points:
        scored = dataclasses.replace(loaded, config=loaded.config.model_copy(update={"emulator": "ale"}))
    (flags.folder / "config.toml").write_text(to_toml(loaded.config), encoding="utf-8")
    print(f"{flags.folder}: playing {flags.episodes} games sampled and {flags.episodes} greedily …", flush=True)
    played = {way: fresh_games(policy, scored.config, way, flags.episodes, SEED) for way in WAYS}
    write_scores(flags.folder / "eval.json", scores(flags.run, scored, SEED, played))
    if loaded.config.pictures:
        _film(policy, loaded.config, flags.folder / "game.gif")
    card = _card(flags.folder.name, loaded, played, _trained_on(flags.run))
    (flags.folder / "README.md").write_text(card, encoding="utf-8")
    print(f"wrote {', '.join(sorted(file.name for file in flags.folder.iterdir()))}")
    return 0


def _film(policy: "Policy", config: Config, file: Path) -> None:
    """The first seconds of a game."""
    from pong.envs import frame_rate
    from pong.play import film
    from pong.play.game import play

    short = config.model_copy(update={"max_frames": config.noop_max + GIF_SECONDS * frame_rate(config)})
    caption = f"{config.name} · sampled · seed {SEED}"
    film.show(play(policy, short, SEED), file, film.fps_of(config), caption)


def _trained_on(run: Path) -> dict[str, Any]:
    """The run.json of the run that a checkpoint or run folder belongs to; empty if it is gone."""
    for folder in (run, run.parent.parent):
        if (folder / "run.json").exists():
            about: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            return about
    return {}


def _card(name: str, loaded: "Checkpoint", played: "dict[str, Evaluation]", run: dict[str, Any]) -> str:
    config, counters = loaded.config, loaded.counters
    task = f"{config.env}, {config.task}" if config.points else config.task
    counts = f"{counters.updates:,} updates, {counters.steps:,} agent steps, {counters.games:,} games"
    lines = [
        f"- {way}: **{games.mean:+.2f} ± {games.standard_error:.2f}** (mean ± standard error of {games.n} games)"
        for way, games in played.items()
    ]
    command = " ".join(run.get("command", ["unknown"]))
    hardware = f"CPU cores: {run.get('cpu_count', '?')}, device: {run.get('device', '?')}"
    where = "ALE" if config.emulator == "ale" else "the machine, which is ALE's game bit for bit"
    trained, scored = (f" in {where}", " in ALE") if config.points else ("", "")
    film = "![a game's first seconds](game.gif)\n\n" if config.pictures else ""
    blind = config.points and config.frames == "difference"
    versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
    return f"""# {name}

A policy trained by pong-from-pixels with nothing but the loss −log π·R. Task: {task}.

{film}Fresh games, seed {SEED}, played{scored} with Python {platform.python_version()}:

{chr(10).join(lines)}

Trained{trained} for {counts}, seed {config.seed}:
`{command}` (revision {run.get("git_revision", "unknown")}; {hardware}; {versions or "versions unknown"}).

- `policy.safetensors`: the weights, and the config in its header; no pickle. `config.toml`: the same config to read.
- `eval.json`: the score of each game.

Use: `pong eval DIR`, `pong play DIR`, `pong train CONFIG.toml --init DIR`, with this folder for DIR.

Limits: it plays this task and no other, and other seeds of the same recipe end a little higher or
lower.{" It sees only what changed between two decisions." if blind else ""}
"""
