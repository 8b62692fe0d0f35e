"""A policy as a folder of its own: its weights, scores of fresh games, a video and a model card."""

import contextlib
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pong import checkpoint, save_p
from pong.checkpoint import Checkpoint, Counters
from pong.config import Config, InputError, to_toml, validate
from pong.envs import frame_rate
from pong.evaluate import Evaluation, Greedy, evaluate
from pong.policies import Policy, make_policy
from pong.train import load_policy, load_weights

WAYS = ("sampled", "greedy")  # of choosing actions
GIF_SECONDS = 6
SEED = 0  # of the fresh games and the video
PROGRAM: dict[str, Any] = {  # the 2016 program, as in configs/karpathy.toml
    "name": "karpathy",
    "max_frames": 0,
    "num_envs": 10,
    "until": "episodes",
    "standardize": "episode",
    "reduction": "sum",
    "entropy_bonus": 0.0,
    "optimizer": "rmsprop",
    "learning_rate": 1e-4,
}


# --- scores -----------------------------------------------------------------------------------------------------------


def play_games(policy: Policy, config: Config, way: str, episodes: int, seed: int) -> Evaluation:
    """Fresh games in which a policy chooses its actions in one of ``WAYS``."""
    return evaluate(Greedy(policy) if way == "greedy" else policy, config, episodes, seed=seed)


def summary(games: Evaluation, config: Config) -> str:
    """The mean score, its standard error and the number of games, in a few words."""
    error = f"± {games.standard_error:.2f} (mean ± standard error)" if games.n > 1 else "(one game)"
    frames = f" of {games.frames:.1f} frames" if _counts_frames(config) else ""
    return f"{games.mean:+.2f} {error}, n = {games.n} games{frames}"


def write_scores(
    file: Path, source: Path, config: Config, counters: Counters, seed: int, games: dict[str, Evaluation]
) -> None:
    """Write the score of each game, whose games they are and of what task, as JSON.

    Args:
        file: to write.
        source: the run or checkpoint that played.
        config: of the task that was played.
        counters: how far the policy's training had come.
        seed: of the games.
        games: for each way of choosing actions.
    """
    scores = {
        "run": str(source),
        "update": counters.updates,
        "steps": counters.steps,
        "seed": seed,
        "env": config.env,
        **({key: getattr(config, key) for key in ("sticky", "hold", "noop_max")} if config.is_pong else {}),
        **({"emulator": "machine"} if config.is_compiled else {}),  # ALE is the default
        **{way: played.as_json(frames=_counts_frames(config)) for way, played in games.items()},
    }
    file.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _counts_frames(config: Config) -> bool:
    """Whether the frames of a game are reported: in Doom, where its steps are not equally long."""
    return config.has_screen and not config.is_pong


# --- the folder -------------------------------------------------------------------------------------------------------


def write_folder(
    folder: Path, policy: Policy, loaded: Checkpoint, source: Path, episodes: int, *, half: bool = False
) -> None:
    """Write a policy into a new folder, which appears under its name when it is complete.

    Args:
        folder: must not exist.
        policy: as it was loaded.
        loaded: the checkpoint that it comes from.
        source: the checkpoint's file or run folder.
        episodes: fresh games to play, sampled and greedy each; 0: no scores.
        half: store the weights as 16-bit numbers.
    """
    config, counters = loaded.config, loaded.counters
    games: dict[str, Evaluation] = {}
    with _new_folder(folder) as part:
        dtype = torch.float16 if half else torch.float32
        checkpoint.save_policy(part / checkpoint.POLICY, config, counters, policy, dtype)
        policy, _ = load_policy(part)  # as it was stored
        (part / "config.toml").write_text(to_toml(config), encoding="utf-8")
        if episodes:
            print(f"{folder}: playing {episodes} games sampled and {episodes} greedily …", flush=True)
            task = config.replace(emulator="ale") if config.is_pong else config
            games = {way: play_games(policy, task, way, episodes, SEED) for way in WAYS}
            write_scores(part / "eval.json", source, task, counters, SEED, games)
        if config.has_screen:
            _write_film(policy, config, part / "game.gif")
        (part / "README.md").write_text(_card(folder.name, loaded, games, source), encoding="utf-8")
    print(f"wrote {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that gets its name at the end; a failure leaves nothing."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.absolute().parent) as temporary:
        part = Path(temporary) / "part"
        part.mkdir()
        yield part
        part.rename(folder)


def _write_film(policy: Policy, config: Config, file: Path) -> None:
    """A video of the first seconds of a game."""
    from pong.render.film import fps_of, write_film
    from pong.render.frame import play_frames

    short = config.replace(max_frames=config.noop_max + GIF_SECONDS * frame_rate(config))
    write_film(play_frames(policy, short, SEED), file, fps_of(config), f"{config.name} · sampled · seed {SEED}")


def _card(name: str, loaded: Checkpoint, games: dict[str, Evaluation], source: Path) -> str:
    """The model card."""
    config = loaded.config
    task = f"{config.env}, {config.task}" if config.is_pong else config.task
    film = "![the first seconds of a game](game.gif)\n\n" if config.has_screen else ""
    where = " in ALE" if config.is_pong else ""
    scores = "".join(f"- {way}: {summary(played, config)}\n" for way, played in games.items())
    if games:
        scores = f"Fresh games, seed {SEED}, played{where} with Python {platform.python_version()}:\n\n{scores}\n"
    scores_file = "- `eval.json`: the score of each game.\n" if games else ""
    limit = (
        "It sees only what changed between two decisions.\n" if config.is_pong and config.frames == "difference" else ""
    )
    return f"""# {name}

A policy trained by policy gradient, on the loss −log π·R. Task: {task}.

{film}{scores}{_origin(loaded, source)}

- `policy.safetensors`: the weights, with the config in its header; no pickle. `config.toml`: the same config to read.
{scores_file}
Use: `pong eval DIR`, `pong play DIR`, `pong train CONFIG.toml --init DIR`, with this folder for DIR.

Limits: it plays this task and no other, and other seeds of the same recipe end noticeably higher or lower.
{limit}"""


def _origin(loaded: Checkpoint, source: Path) -> str:
    """How the policy was trained, from the run.json of its run."""
    config, counters = loaded.config, loaded.counters
    files = [folder / "run.json" for folder in (source, source.parent.parent) if (folder / "run.json").exists()]
    if not files and not counters.updates:
        return f"Imported from {source.name}; how long it was trained is unknown."
    where = " in ALE" if config.emulator == "ale" else " in the compiled Pong, which equals ALE's bit for bit,"
    counts = f"{counters.updates:,} updates, {counters.steps:,} agent steps, {counters.games:,} games"
    trained = f"Trained{where if config.is_pong else ''} for {counts}, seed {config.seed}"
    if not files:
        return f"{trained}."
    run = json.loads(files[0].read_text(encoding="utf-8"))
    hardware = f"CPU cores: {run.get('cpu_count', '?')}, device: {run.get('device', '?')}"
    versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
    command = " ".join(run.get("command", ["unknown"]))
    return f"{trained}:\n`{command}` (revision {run.get('git_revision', 'unknown')}; {hardware}; {versions})."


# --- the 2016 program's file ------------------------------------------------------------------------------------------


def import_save_p(file: Path, task: dict[str, Any]) -> tuple[Policy, Checkpoint]:
    """The policy of a save.p, for a task (``hold``, ``sticky`` and ``noop_max``)."""
    weights = save_p.read(file)
    config = validate({**PROGRAM, **task, "hidden": len(weights["W2"])}, source="import")
    policy = make_policy(config)
    load_weights(policy, weights)
    return policy, Checkpoint(config)


def write_save_p(file: Path, loaded: Checkpoint) -> None:
    """Write a policy's weights as the 2016 program writes them.

    Raises:
        InputError: the policy is not that program's network, or has other inputs.
    """
    config = loaded.config
    network = (config.policy, config.frames, config.last_action, set(loaded.policy))
    if network != ("karpathy", "difference", False, set(save_p.ENTRIES)):
        raise InputError(
            f"export: --save-p {file} is for the 2016 network; {config.name} is another, or has other inputs"
        )
    save_p.write(file, loaded.policy)
    print(f"wrote {file}")
