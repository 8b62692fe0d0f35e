"""The Hugging Face hub: what it reads of an exported folder, and uploading one."""

import importlib
import json
import shlex
from pathlib import Path

import numpy as np

from pong.config import GROUPS, Config, RunError
from pong.evaluate import Evaluation
from pong.render.film import fps_of, write_film
from pong.render.frame import play_frames
from pong.train import load_policy

LIBRARY = "pong-from-pixels"
TASK = "reinforcement-learning"


def config_json(config: Config) -> str:
    """The keys that rebuild the network and its task, as JSON; config.toml has those of training, too."""
    keys = {key for name in ("task", "observation", "policy") for key in GROUPS[name].model_fields}
    return json.dumps({"library_name": LIBRARY, **config.model_dump(include=keys)}, indent=2) + "\n"


def metadata(name: str, config: Config, games: dict[str, Evaluation], seed: int) -> str:
    """The front matter of a model card, as YAML: the scores of fresh games, by the way of choosing actions.

    By the hub's convention, a mean is followed by the standard deviation of the games' scores.
    """
    env, results = "ALE/Pong-v5" if config.is_pong else config.env, []
    for way, played in games.items():
        keys = ["sticky", "noop_max"] * config.is_pong + ["hold"] * config.has_screen
        args = {**config.model_dump(include=set(keys)), "games": played.n, "seed": seed}
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
        write_film(play_frames(policy, config, 0), folder / "replay.mp4", fps_of(config), f"{config.name} · seed 0")
    try:
        api = importlib.import_module("huggingface_hub").HfApi()
        url = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder)
    except Exception as error:  # of the network, the hub or a missing login
        raise RunError(f"{error}; try again: hf upload {shlex.join([name, str(folder)])}") from error
    print(f"uploaded to {url}")
