"""An exported folder speaks for itself: it is evaluated, played and trained on like a run."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pong import checkpoint
from pong.cli import main
from pong.train import load_policy

ROOT = Path(__file__).parents[1]
TINY = [
    "--num-envs",
    "2",
    "--horizon",
    "30",
    "--hidden",
    "4",
    "--max-frames",
    "240",
    "--device",
    "cpu",
    "--eval-episodes",
    "0",
]


def train(run, *flags):
    config = str(ROOT / "configs/pong.toml")
    return main(["train", config, *TINY, "--total-steps", "100", "--run-dir", str(run), *map(str, flags)])


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


def test_it_holds_all_that_is_known_of_the_policy(run, exported):
    assert sorted(file.name for file in exported.iterdir()) == [
        *("README.md", "config.toml", "eval.json", "game.gif", "policy.safetensors"),
    ]
    policy, saved = load_policy(exported)
    for name, tensor in checkpoint.load(run).policy.items():
        assert torch.equal(policy.state_dict()[name], tensor)
    assert saved.config == checkpoint.load(run).config
    assert not saved.optimizer
    scores = json.loads((exported / "eval.json").read_text())
    assert (scores["run"], scores["update"], scores["seed"]) == (str(run), saved.counters.updates, 0)
    assert [len(scores[way]["scores"]) for way in ("sampled", "greedy")] == [2, 2]
    card = (exported / "README.md").read_text()
    for words in (f"{scores['sampled']['mean']:+.2f}", "sticky 0.25", "seed 1", "pong train", "CPU cores", "game.gif"):
        assert words in card
    with Image.open(exported / "game.gif") as film:
        assert film.n_frames > 30


def test_what_fails_half_way_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    """Such as a film, after all the games: the next try need not be another name."""
    with monkeypatch.context() as patch:
        patch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
        assert main(["export", str(run), str(tmp_path / "agent"), "--episodes", "2"]) == 1
    assert "game.gif cannot be written: ffmpeg failed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["export", str(run), str(tmp_path / "agent"), "--episodes", "2"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_it_is_evaluated_like_a_run(exported, run, tmp_path, capsys):
    said = []
    for folder in (exported, run):
        assert main(["eval", str(folder), "--episodes", "2", "--json", str(tmp_path / "scores.json")]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert (tmp_path / "scores.json").read_text() == (exported / "eval.json").read_text()  # its form, and its games


def test_half_the_size_plays_as_it_was_stored(exported, run, tmp_path):
    half = tmp_path / "half"
    assert main(["export", str(run), str(half), "--episodes", "2", "--half"]) == 0
    sizes = [(folder / "policy.safetensors").stat().st_size for folder in (half, exported)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.05)
    stored, whole = (load_policy(folder)[0].state_dict()["W1"] for folder in (half, exported))
    assert torch.equal(stored, whole.half().float())
    assert not torch.equal(stored, whole)
    again = tmp_path / "scores.json"
    assert main(["eval", str(half), "--episodes", "2", "--json", str(again)]) == 0
    found, said = (json.loads(file.read_text()) for file in (again, half / "eval.json"))
    assert (found["sampled"], found["greedy"]) == (said["sampled"], said["greedy"])


def test_it_can_be_evaluated_on_another_task(exported, tmp_path, capsys):
    scores = tmp_path / "scores.json"
    flags = ["--sticky", "0", "--noop-max", "30", "--episodes", "3", "--greedy", "--json", str(scores)]
    assert main(["eval", str(exported), *flags]) == 0
    assert "greedy, seed 0, sticky 0.0, hold 4" in capsys.readouterr().out
    found = json.loads(scores.read_text())
    assert (found["sticky"], found["hold"], found["noop_max"]) == (0.0, 4, 30)
    assert len(set(found["greedy"]["lengths"])) > 1  # games without chance differ by their first NOOPs alone


def test_training_begins_with_its_policy(exported, tmp_path, capsys):
    """One step away from it, and the checkpoint of update 0 is it."""
    assert train(tmp_path / "on", "--init", exported, "--checkpoint-every", 1, "--total-steps", 60) == 0
    first, last = checkpoint.checkpoints(tmp_path / "on/checkpoints")
    begun, saved = checkpoint.load(first), checkpoint.load(exported)
    assert begun.counters.updates == 0
    assert torch.equal(begun.policy["W1"], saved.policy["W1"])
    step = (checkpoint.load(last).policy["W1"] - saved.policy["W1"]).abs().max()
    assert 0 < step < 5e-3  # Adam's step is at most about the learning rate, 2e-3
    assert main(["train", "--resume", str(first)]) == 0
    assert "resuming after update 0" in capsys.readouterr().out


def test_a_run_that_was_killed_as_it_began_still_begins_with_that_policy(exported, tmp_path, monkeypatch):
    """The folder is a run's from its config.toml on: by then the policy is there, however early the kill comes."""
    on = tmp_path / "on"
    with monkeypatch.context() as patch:
        patch.setattr("pong.train.Trainer.__init__", killed)
        with pytest.raises(SystemExit):
            train(on, "--init", exported, "--checkpoint-every", 1, "--total-steps", 60)
    assert main(["train", "--resume", str(on)]) == 0
    unbroken = tmp_path / "unbroken"
    assert train(unbroken, "--init", exported, "--checkpoint-every", 1, "--total-steps", 60) == 0
    one, other = (checkpoint.load(folder).policy["W1"] for folder in (on, unbroken))
    assert torch.equal(one, other)


def killed(*_, **__):
    raise SystemExit(9)


ERRORS = {
    "export {run} {there}": "can't be made",
    "export {run} {new} --episodes 1": "--episodes 1: give at least 2",
    "export nowhere {new}": "nowhere does not exist",
    "export {run} {new}/deeper/still": "can't be made",
}


@pytest.mark.parametrize(("arguments", "words"), ERRORS.items(), ids=ERRORS)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, capsys, arguments, words):
    new = tmp_path / "new"
    assert main(arguments.format(run=run, there=tmp_path, new=new).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: ")
    assert words in line
    assert not new.exists()


def test_another_shape_is_refused_before_anything_is_made(exported, tmp_path, capsys):
    assert train(tmp_path / "on", "--init", exported, "--hidden", 5) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another network: hidden is 4 there and 5 here" in line
    assert not (tmp_path / "on").exists()


def test_the_pretrained_agent_is_there_under_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    policy, saved = load_policy(Path("pretrained"))
    assert saved.counters.steps >= 10_000_000
    assert policy.state_dict()["W1"].shape == (200, 6400)


PONGS = ("pong", "pong_plain", "pong_conv_plain", "pong_expert", "karpathy")


@pytest.mark.parametrize("name", PONGS)
def test_every_agent_that_comes_along_is_small(name):
    folder = ROOT / "pretrained" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    assert load_policy(folder)[1].config.name == name
