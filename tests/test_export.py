"""``pong export``: a folder that eval, play and train --init take like a run."""

import json
import re

import pytest
import torch
from PIL import Image
from small_runs import CONFIG, ROOT, TINY

from pong import checkpoint
from pong.cli import main
from pong.config import RunError
from pong.export import push
from pong.train import load_policy

pytestmark = pytest.mark.usefixtures("compiled")


def train(run, *flags):
    command = ["train", CONFIG, *TINY, "--max-frames", "240", "--total-steps", "100", "--run-dir", run, *flags]
    return main(list(map(str, command)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exporting") / "run"
    assert train(folder) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run):
    folder = run.parent / "agent"
    assert main(["export", str(run), str(folder), "--episodes", "2"]) == 0
    return folder


def test_export_holds_the_policy_its_scores_and_a_card(run, exported):
    names = ["README.md", "config.json", "config.toml", "eval.json", "game.gif", "policy.safetensors", "run.json"]
    assert sorted(file.name for file in exported.iterdir()) == names
    saved, exported_policy = checkpoint.load(run), checkpoint.load(exported)
    torch.testing.assert_close(exported_policy.policy, saved.policy, rtol=0, atol=0)
    assert (exported_policy.config, exported_policy.optimizer) == (saved.config, {})
    scores = json.loads((exported / "eval.json").read_text(encoding="utf-8"))
    assert (scores["run"], scores["update"], scores["seed"]) == (str(run), saved.counters.updates, 0)
    card = (exported / "README.md").read_text(encoding="utf-8")
    mean = f"- sampled: {scores['sampled']['mean']:+.2f} ± "
    loss = "−log π·R with a learned baseline and an entropy bonus. Task: Pong, sticky 0.25"
    for words in (mean, loss, "seed 1:\n`pong train", "game.gif", "noticeably higher"):
        assert words in card
    with Image.open(exported / "game.gif") as film:
        assert film.n_frames == 6 * 60 / 4 + 1  # 6 s at 60 frames/s, held for 4; and the last screen


def test_export_describes_the_policy_as_the_hub_expects(exported):
    yaml = pytest.importorskip("yaml")
    card, scores, about = ((exported / name).read_text("utf-8") for name in ("README.md", "eval.json", "config.json"))
    front = yaml.safe_load(card.removeprefix("---\n").split("---\n\n# agent\n")[0])
    for way, result in zip(("sampled", "greedy"), front["model-index"][0]["results"], strict=True):
        assert result["dataset"]["config"] == f"{way}, sticky 0.25, hold 4"
        assert result["dataset"]["args"] == {"sticky": 0.25, "hold": 4, "noop_max": 0, "seed": 0, "games": 2}
        a, b = json.loads(scores)[way]["scores"]  # of two numbers, the standard deviation is half the distance
        assert result["metrics"][0]["value"] == f"{(a + b) / 2:.2f} +/- {abs(a - b) / 2:.2f}"
    assert '"policy": "karpathy"' in about
    assert "learning_rate" not in about


HUB = """
class HfApi:
    def create_repo(self, name, exist_ok):
        self.repo_id = name
        return self
    def upload_folder(self, repo_id, folder_path):
        if "/" not in repo_id:
            raise OSError("no such user")
        (folder_path.parent / "uploaded").write_text(" ".join(sorted(path.name for path in folder_path.iterdir())))
"""


def test_export_pushes_to_the_hub(run, tmp_path, monkeypatch, capsys):
    """A local stand-in for huggingface_hub."""
    folder = tmp_path / "agent"
    command = ["export", str(run), str(folder), "--episodes", "1", "--push-to-hub", "me/pong"]
    with monkeypatch.context() as patch:
        patch.setattr("pong.cli.find_spec", lambda name: None)
        assert main(command) == 2
    assert "pip install huggingface_hub" in capsys.readouterr().err
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "huggingface_hub.py").write_text(HUB, encoding="utf-8")
    assert main(command) == 0
    names = "README.md config.json config.toml eval.json game.gif policy.safetensors replay.mp4 run.json"
    assert (tmp_path / "uploaded").read_text(encoding="utf-8") == names
    with pytest.raises(RunError, match="no such user; try again: hf upload nobody "):
        push(folder, "nobody")


@pytest.mark.parametrize("about", [None, "[]", "{", '{"versions": []}'])
def test_export_of_a_checkpoint_without_its_run(run, tmp_path, about):
    """Or with a damaged run.json."""
    (path,) = (run / "checkpoints").iterdir()
    copy = tmp_path / "run/checkpoints/copy.safetensors"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    if about is not None:
        (tmp_path / "run/run.json").write_text(about, encoding="utf-8")
    assert main(["export", str(copy), str(tmp_path / "agent"), "--episodes", "1"]) == 0
    card = (tmp_path / "agent/README.md").read_text(encoding="utf-8")
    assert f"for {checkpoint.load(path).counters.updates} updates" in card
    assert ", seed 1.\n" in card  # and no command
    assert ", one fresh game\n" in card


def test_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pong.render.film.PALETTE", "no such filter")
    assert main(["export", str(run), str(tmp_path / "agent"), "--episodes", "1"]) == 1
    assert "ffmpeg failed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_export_half_plays_as_it_was_stored_and_keeps_the_origin(exported, tmp_path):
    half, scores = tmp_path / "half", tmp_path / "scores.json"
    assert main(["export", str(exported), str(half), "--episodes", "2", "--half"]) == 0
    sizes = [(folder / "policy.safetensors").stat().st_size for folder in (half, exported)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.05)
    stored, full = (load_policy(folder)[0].state_dict()["W1"] for folder in (half, exported))
    assert torch.equal(stored, full.half().float())
    assert main(["eval", str(half), "--episodes", "2", "--json", str(scores)]) == 0
    again, before = (json.loads(file.read_text(encoding="utf-8")) for file in (scores, half / "eval.json"))
    assert (again["sampled"], again["greedy"]) == (before["sampled"], before["greedy"])
    cards = [(folder / "README.md").read_text(encoding="utf-8") for folder in (half, exported)]
    assert len({re.search(r"\nTrained .*\n`pong train .*`", card)[0] for card in cards}) == 1


def test_train_init_starts_with_the_exported_policy(exported, tmp_path):
    assert train(tmp_path / "on", "--init", exported, "--checkpoint-every", 1, "--total-steps", 60) == 0
    first, last = checkpoint.checkpoints(tmp_path / "on/checkpoints")
    W1 = checkpoint.load(exported).policy["W1"]
    assert checkpoint.load(first).counters.updates == 0
    assert torch.equal(checkpoint.load(first).policy["W1"], W1)
    assert 0 < (checkpoint.load(last).policy["W1"] - W1).abs().max() < 5e-3  # Adam's step is about 2e-3, the rate


@pytest.mark.parametrize("name", ["pong", "pong_plain", "pong_conv_plain", "pong_expert", "karpathy"])
def test_pretrained_agents_are_small(monkeypatch, tmp_path, name):
    folder = ROOT / "pretrained" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    monkeypatch.chdir(tmp_path)
    assert load_policy(name)[1].config.name == name
