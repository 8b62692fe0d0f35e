"""A policy as a folder of its own: its weights, scores of fresh games, a video and a model card; and as other files."""

import contextlib
import importlib
import json
import platform
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pong import checkpoint, save_p
from pong.checkpoint import Checkpoint, Counters
from pong.config import GROUPS, Config, InputError, RunError, load_config, recipes, to_toml
from pong.distributed import cores
from pong.envs import frame_rate
from pong.envs.pong.task import pong_task
from pong.evaluate import WAYS, Evaluation, evaluate
from pong.policies import Policy, make_policy
from pong.render.film import fps_of, write_film
from pong.render.frame import play_frames
from pong.train import load_policy, load_weights

GIF_SECONDS = 6
SEED = 0  # of the fresh games and the videos
LIBRARY, TASK = "pong-from-pixels", "reinforcement-learning"  # for the Hugging Face hub


def scores_json(source: Path, config: Config, counters: Counters, games: dict[str, Evaluation], seed: int) -> str:
    """The score of each game, by the way of choosing actions; which policy played them, and of what task."""
    values = {"run": str(source), "update": counters.updates, "steps": counters.steps, "seed": seed, "env": config.env}
    if config.is_pong:
        values |= config.model_dump(include={"sticky", "hold", "noop_max"})
    if config.is_compiled:
        values["emulator"] = "machine"  # ALE is the default
    scores = {way: played.as_json() for way, played in games.items()}
    return json.dumps(values | scores, indent=2) + "\n"


def write_folder(folder: Path, policy: Policy, loaded: Checkpoint, source: Path, episodes: int, half: bool) -> None:
    """Write a policy, ``half`` in 16 bits, into a new folder, with scores of fresh games, sampled and greedy each."""
    config, counters, games = loaded.config, loaded.counters, {}
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.absolute().parent) as temporary:
        part = Path(temporary) / "part"
        weights = {name: tensor.half() if half else tensor.float() for name, tensor in policy.state_dict().items()}
        checkpoint.save_policy(part / checkpoint.POLICY, config, counters, weights)
        policy, _ = load_policy(part, trust=True)  # as it was stored
        keys = {key for name in ("task", "observation", "policy") for key in GROUPS[name].model_fields}
        rebuilding = {"library_name": LIBRARY, **config.model_dump(include=keys)}  # the network and its task
        texts = {"config.toml": to_toml(config), "config.json": json.dumps(rebuilding, indent=2) + "\n"}
        if run := _run_json(source):
            texts["run.json"] = json.dumps(run, indent=2) + "\n"
        if episodes:
            print(f"{folder}: playing {episodes} games sampled and {episodes} greedily …", flush=True)
            task = config.replace(emulator="ale") if config.is_pong else config
            settings: dict[str, Any] = {"seed": SEED, "processes": cores()}
            games = {way: evaluate(actor(policy), task, episodes, **settings, title=way) for way, actor in WAYS.items()}
            texts["eval.json"] = scores_json(source, task, counters, games, SEED)
        if config.has_screen:
            short = config.replace(max_frames=config.noop_max + GIF_SECONDS * frame_rate(config))
            caption = f"{config.name} · sampled · seed {SEED}"
            write_film(play_frames(policy, short, SEED), part / "game.gif", fps_of(config), caption)
        texts["README.md"] = _front_matter(folder.name, config, games) + _card(folder.name, loaded, games, source)
        for name, text in texts.items():
            (part / name).write_text(text, encoding="utf-8")
        part.rename(folder)
    print(f"wrote {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    print(f"done; use it: pong {'play' if config.has_screen else 'eval'} {shlex.quote(str(folder))}")


def _card(name: str, loaded: Checkpoint, games: dict[str, Evaluation], source: Path) -> str:
    """The model card."""
    config = loaded.config
    parts = ["a learned baseline"] * (config.baseline != "none") + ["an entropy bonus"] * (config.entropy_bonus > 0)
    loss = "−log π·R" + " with " * bool(parts) + " and ".join(parts)
    task = f"Task: {'Pong, ' if config.is_pong else ''}{config.task}."
    paragraphs = [f"# {name}", f"A policy trained by policy gradient, on the loss {loss}. {task}"]
    if config.has_screen:
        paragraphs.append("![the first seconds of a game](game.gif)")
    if games:
        where = f"{'in ALE ' if config.is_pong else ''}with Python {platform.python_version()}"
        scores = "\n".join(f"- {way}: {played}" for way, played in games.items())
        paragraphs += [f"Fresh games, seed {SEED}, played {where}; mean ± standard error (`eval.json`):", scores]
    paragraphs += [
        _origin(loaded, source),
        "`policy.safetensors` holds the weights and the config, without a pickle; `config.toml` is the config to read. "
        "Use the folder as DIR: `pong eval DIR`, `pong play DIR`, `pong train CONFIG.toml --init DIR`.",
        "Limits: it plays this task and no other, and other seeds of the same recipe end noticeably higher or lower.",
    ]
    if config.is_pong and config.frames == "difference":
        paragraphs[-1] += "\nIt sees only what changed between two decisions."
    return "\n\n".join(paragraphs) + "\n"


def _origin(loaded: Checkpoint, source: Path) -> str:
    """A sentence on how the policy was trained, from the run.json of its run."""
    config, counters, run = loaded.config, loaded.counters, _run_json(source)
    if not run and not counters.updates:
        return f"Imported from {source.name}; how long it was trained is unknown."
    where = f" in {'the compiled Pong' if config.is_compiled else 'ALE'}" if config.is_pong else ""
    counts = f"{counters.updates:,} updates, {counters.steps:,} agent steps, {counters.games:,} games"
    trained = f"Trained{where} for {counts}, seed {config.seed}"
    with contextlib.suppress(KeyError, TypeError):  # it is damaged, or there is none
        return f"{trained}:\n`{' '.join(run['command'])}` (`run.json` has the versions, the device and the revision)."
    return f"{trained}."


def _run_json(source: Path) -> Any:
    """The run.json of a policy's run, of which an exported folder has a copy; None without a good one."""
    folder = checkpoint.find(source).absolute().parent
    for file in (folder / "run.json", folder.parent / "run.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return json.loads(file.read_text(encoding="utf-8"))
    return None


def _front_matter(name: str, config: Config, games: dict[str, Evaluation]) -> str:
    """A model card's front matter, as YAML; by the hub's convention, the standard deviation follows the mean score."""
    env, results = "ALE/Pong-v5" if config.is_pong else config.env, []
    for way, played in games.items():
        keys = ["sticky", "noop_max"] * config.is_pong + ["hold"] * config.has_screen
        args = {**config.model_dump(include=set(keys)), "games": played.n, "seed": SEED}
        dataset = {"type": env, "name": env, "config": f"{way}, {config.task}", "args": args}
        score = f"{played.mean:.2f} +/- {np.std(played.scores):.2f}"
        metrics = [{"type": "mean_reward", "name": "mean_reward", "value": score}]
        results.append({"task": {"type": TASK, "name": TASK}, "dataset": dataset, "metrics": metrics})
    tags = [TASK, "deep-reinforcement-learning", "policy-gradient", env]
    values = {"library_name": LIBRARY, "pipeline_tag": TASK, "tags": tags}
    index = {"model-index": [{"name": name, "results": results}]} if results else {}
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in (values | index).items()) + "---\n\n"


def push(folder: Path, name: str) -> None:
    """Add a film of a whole game to an exported folder, and upload it as the model of that name."""
    policy, loaded = load_policy(folder, trust=True)
    if (config := loaded.config).has_screen:
        caption = f"{config.name} · seed {SEED}"
        write_film(play_frames(policy, config, SEED), folder / "replay.mp4", fps_of(config), caption)
    try:
        api = importlib.import_module("huggingface_hub").HfApi()
        url = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder)
    except Exception as error:  # of the network, the hub or a missing login
        raise RunError(f"{error}; try again: hf upload {shlex.join([name, str(folder)])}") from error
    print(f"uploaded to {url}")


def import_save_p(file: Path, task: dict[str, Any]) -> tuple[Policy, Checkpoint]:
    """The policy of a save.p, for a task (``hold``, ``sticky`` and ``noop_max``)."""
    weights, others = save_p.read(file)
    if others:
        print(f"{file}: took W1 and W2, left out {', '.join(others)[:200]!a}")
    config = load_config(recipes()["karpathy"]).replace(**task, hidden=len(weights["W2"]))
    policy = make_policy(config)
    load_weights(policy, weights)
    return policy, Checkpoint(config)


def write_save_p(file: Path, loaded: Checkpoint) -> None:
    """Write a policy's weights as the 2016 program writes them."""
    config = loaded.config
    if (config.policy, config.frames, config.actions, config.last_action) != ("karpathy", "difference", 2, False):
        problem = f"{config.name} is another network, or has other inputs"
        raise InputError(f"export: --save-p {file} is for the 2016 network; {problem}")
    save_p.write(file, loaded.policy)
    print(f"wrote {file}")


def agent_bytes(policy: Policy, config: Config) -> bytes:
    """The file of a policy for the page in the browser (web/); an InputError if the page can't play it.

    A header in JSON, with its length before it (uint32); scales (H,) and W2 (outputs, H) float32; W1 (inputs, H) int8.
    A hidden unit's weights are its integers times its scale. All numbers are little-endian.
    """
    if not config.is_pong or policy.two_layers is None:
        raise InputError(f"export: the page plays Pong with networks of two layers; {config.name} has another")
    W1, W2 = (tensor.float().numpy() for tensor in policy.two_layers)
    task = pong_task(config)
    scales = np.maximum(np.abs(W1).max(axis=0) / 127, np.finfo(np.float32).tiny)  # (H,)
    layout = {name: getattr(task.layout, name) for name in ("differences", "actions", "width")}
    header = {"name": config.name, "layout": layout, "sticky": task.sticky, "holds": task.holds}
    text = json.dumps(header | {"hidden": W1.shape[1], "outputs": len(W2)}).encode()
    text += b" " * (-len(text) % 4)
    arrays = scales.astype("<f4"), W2.astype("<f4"), np.rint(W1 / scales).astype(np.int8)
    return b"".join([np.uint32(len(text)).tobytes(), text, *(array.tobytes() for array in arrays)])
