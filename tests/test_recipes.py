"""Six updates of every recipe give the numbers in recipes.json.

``python tests/test_recipes.py`` writes that file again, after a change that is meant to alter what a run computes.
"""

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pong.config import is_doom, load_config
from pong.train import Trainer

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
NUMBERS = Path(__file__).with_name("recipes.json")
SMALL: dict[str, Any] = {"num_envs": 3, "device": "cpu", "players": 1}
PONG, DOOM = {"max_frames": 600}, {"max_frames": 120, "num_envs": 2}  # shorter games


def six_updates(path: Path) -> dict[str, Any]:
    config = load_config(path)
    short = PONG if config.is_pong else DOOM if is_doom(config.env) else {}
    config = config.replace(**{**SMALL, **short, **({"horizon": 40} if config.until == "steps" else {})})
    with contextlib.closing(Trainer(config)) as trainer:
        updates = list(itertools.islice(trainer.run(), 6))
        weights = [p.detach().double() for p in trainer.policy.parameters()]
    return {
        "grad_norm": [update.stats.grad_norm for update in updates],
        "entropy": [update.stats.entropy for update in updates],
        "return": [update.batch.returns.double().mean().item() for update in updates],
        "rows": [len(update.batch.returns) for update in updates],
        "weights": [[p.flatten()[0].item(), p.flatten()[-1].item(), p.norm().item()] for p in weights],
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_six_updates(path):
    if "doom" in path.stem and os.environ.get("PONG_DOOM") != "required":
        pytest.importorskip("vizdoom")
    expected = json.loads(NUMBERS.read_text())[path.stem]
    computed = six_updates(path)
    assert computed["rows"] == expected["rows"]
    for name in ("grad_norm", "entropy", "return"):
        assert computed[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
    for weights, committed in zip(computed["weights"], expected["weights"], strict=True):
        assert weights == pytest.approx(committed, rel=1e-5, abs=1e-5)


if __name__ == "__main__":
    NUMBERS.write_text(json.dumps({path.stem: six_updates(path) for path in CONFIGS}, indent=1) + "\n")
