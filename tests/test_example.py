"""examples/karpathy.py: games equal Pong-v0's, gradients NumPy's, and updates those of the project's trainer."""

import ast
import importlib.util
import itertools
import pickle
import re
import runpy
from pathlib import Path

import annotate
import gymnasium
import karpathy_numpy
import numpy as np
import pytest
import torch
from conftest import CONFIGS, replay
from conftest import weights_of as numpys_weights_of
from small_runs import ROOT
from test_parity import float64, numpy_gradient_of_games, relative

from pong.config import load_config
from pong.returns import discounted_returns
from pong.train import Trainer

FILE = ROOT / "examples" / "karpathy.py"
LINE = re.compile(r"resetting env\. episode reward total was (-?\d+\.\d{6})\. running mean: (-?\d+\.\d{6})")


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("example_karpathy", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def learner(example, weights=None):
    """A policy and its optimiser, as main makes them; with given weights W1 and W2."""
    policy = example.Policy()
    if weights:
        policy.load_state_dict(dict(zip(("W1", "W2"), map(torch.as_tensor, weights), strict=True)))
    return policy, torch.optim.RMSprop(policy.parameters(), **example.RMSPROP)


def weights_of(policy):
    return [w.detach().double().numpy().copy() for w in (policy.W1, policy.W2)]


# --- games ------------------------------------------------------------------------------------------------------------


class Seeded(gymnasium.Wrapper):
    def reset(self, **_):
        return super().reset(seed=7)


def test_play_equals_pong_v0(example, pong_v0):
    policy, _ = learner(example)
    torch.manual_seed(0)
    observations, went_up, rewards = example.play(Seeded(pong_v0(max_num_frames_per_episode=900)), policy)
    frames, _, expected, _ = replay(pong_v0(max_num_frames_per_episode=900), 7, went_up.numpy().astype(int))
    np.testing.assert_array_equal(observations, frames)
    np.testing.assert_array_equal(rewards, expected)
    assert 250 < len(frames) < 400  # held for 2 to 4 frames
    assert frames.any(axis=1).mean() > 0.9
    assert (expected == -1).any()

    torch.manual_seed(0)
    u = torch.stack([torch.rand(()) for _ in went_up])
    _, p = karpathy_numpy.forward(*weights_of(policy), frames.astype(float))
    np.testing.assert_array_equal(went_up, u.numpy() < p)


def test_preprocess_equals_numpys(example, pong_v0):
    env = pong_v0()
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(100):
        screen, *_ = env.step(env.action_space.sample())
        np.testing.assert_array_equal(example.preprocess(screen), karpathy_numpy.preprocess(screen).ravel())
    black = np.zeros_like(screen)  # does not occur in a game
    assert not example.preprocess(black).any()


# --- learning ---------------------------------------------------------------------------------------------------------


def test_loss_of_gradient_equals_numpys(example, recorded):
    policy = learner(example, recorded.before)[0].double()
    for game in recorded.games:
        tensors = map(torch.from_numpy, (game.x, game.y == 1, game.rewards))
        example.loss_of(policy, *tensors).backward()
    for ours, numpys in zip(
        policy.parameters(), numpy_gradient_of_games(float64(recorded.before), recorded), strict=True
    ):
        assert relative(-ours.grad, numpys) < 1e-12


def test_settings_equal_karpathy_toml(example):
    config = load_config(CONFIGS / "karpathy.toml")
    sizes = example.BATCH, example.H, example.MAX_FRAMES
    assert sizes == (config.num_envs, config.hidden, config.game_frames)
    torch.manual_seed(0)
    W1, W2 = weights_of(example.Policy())
    assert (W1.shape, W2.shape) == ((200, 6400), (200,))
    assert W1.std() * 80 == pytest.approx(1, rel=0.01)  # of 1.28 million draws
    assert W2.std() * np.sqrt(200) == pytest.approx(1, rel=0.15)  # three standard errors of 200


def test_update_equals_the_trainers(example, monkeypatch):
    """Three updates of karpathy.toml with three games each, with the rewards that the trainer computes returns of."""
    config = load_config(CONFIGS / "karpathy.toml").replace(num_envs=3, players=1, device="cpu")
    of_updates = []  # of each update, (T, N)
    monkeypatch.setattr(
        "pong.rollout.discounted_returns",
        lambda rewards, *rest, **named: of_updates.append(rewards) or discounted_returns(rewards, *rest, **named),
    )
    trainer = Trainer(config)
    start = numpys_weights_of(trainer.policy)
    policy, optimizer = learner(example, start)
    for number, played in enumerate(itertools.islice(trainer.run(), 3)):
        lengths = [episode.length for episode in played.batch.episodes]  # one game per emulator
        observations = played.batch.observations.dense(torch.int8).split(lengths)
        went_up = (played.batch.actions == 1).split(lengths)
        rewards = [of_updates[number][:length, i] for i, length in enumerate(lengths)]
        assert [float(r.sum()) for r in rewards] == [episode.score for episode in played.batch.episodes]
        example.update(policy, optimizer, zip(observations, went_up, rewards, strict=True))
        for ours, trainers, first in zip(weights_of(policy), numpys_weights_of(trainer.policy), start, strict=True):
            assert relative(ours, trainers) < 1e-6
            assert relative(ours - first, trainers - first) < 1e-3  # see test_parity about float32
    trainer.close()


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def batches():
    """Three batches of two made-up games."""
    torch.manual_seed(0)
    shape = (3, 2, 30)
    x = torch.randint(-1, 2, (*shape, 6400), dtype=torch.int8)
    up, rewards = torch.rand(shape) < 0.5, torch.randint(-1, 2, shape).float()
    return [[(x[k, i], up[k, i], rewards[k, i]) for i in range(2)] for k in range(3)]


def test_load_continues_the_training(example, tmp_path, batches):
    file, progress = tmp_path / "save.pt", {"games": 20, "mean": -20.25}
    uninterrupted = learner(example)
    for games in batches[:2]:
        example.update(*uninterrupted, games)
    example.save(file, *uninterrupted, progress)
    resumed = learner(example)
    assert example.load(file, *resumed) == progress
    for policy, optimizer in (uninterrupted, resumed):
        example.update(policy, optimizer, batches[2])
    assert all(torch.equal(*pair) for pair in zip(uninterrupted[0].parameters(), resumed[0].parameters(), strict=True))
    assert list(tmp_path.iterdir()) == [file]


def test_save_that_fails_keeps_the_last(example, tmp_path, monkeypatch):
    file = tmp_path / "save.pt"
    example.save(file, *learner(example), {"games": 10})
    monkeypatch.setattr(torch, "save", lambda _, where: Path(where).write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        example.save(file, *learner(example), {"games": 20})
    assert example.load(file, *learner(example)) == {"games": 10}


@pytest.mark.parametrize("damage", [lambda saved: saved[:-100], lambda _: b"", lambda _: pickle.dumps({"W1": 0}, 2)])
def test_load_refuses_a_damaged_or_foreign_file(example, tmp_path, capsys, damage):
    file = tmp_path / "save.pt"
    example.save(file, *learner(example), {"games": 10})
    file.write_bytes(content := damage(file.read_bytes()))
    with pytest.raises(SystemExit, match="2"):
        example.main(20, file)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{file} is damaged or of another program; delete or rename it to start over"
    assert file.read_bytes() == content


@pytest.mark.filterwarnings("error")
def test_main_prints_saves_and_continues(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "BATCH", 2)
    monkeypatch.setattr(example, "MAX_FRAMES", 700)
    make, made = gymnasium.make, []
    monkeypatch.setattr(gymnasium, "make", lambda *name, **cap: made.append((*name, cap)) or make(*name, **cap))
    file = tmp_path / "save.pt"
    for games in (2, 6):
        example.main(games, file)
    assert made == [("ale_py:ALE/Pong-v5", {"frameskip": (2, 5), "max_num_frames_per_episode": 700})] * 2
    assert gymnasium.spec("ALE/Pong-v5").kwargs | {"frameskip": (2, 5)} == gymnasium.spec("Pong-v0").kwargs
    lines = capsys.readouterr().out.splitlines()
    totals, means = np.array([[float(number) for number in LINE.fullmatch(line).groups()] for line in lines]).T
    assert len(totals) == 6
    assert (totals < 0).any()
    expected = itertools.accumulate(totals, lambda mean, total: 0.99 * mean + 0.01 * total)
    np.testing.assert_allclose(means, list(expected), atol=1e-5)  # six digits are printed
    policy, optimizer = learner(example)
    assert example.load(file, policy, optimizer) == {"games": 6, "mean": pytest.approx(means[-1], abs=1e-6)}
    assert [state["step"] for state in optimizer.state.values()] == [3, 3]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_file_is_short_and_imports_only_losses_and_returns():
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    nodes = list(ast.walk(ast.parse(text)))
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert {name for name in modules if name.startswith("pong")} == {"pong.losses", "pong.returns"}


def test_file_ends_in_one_line_at_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):  # in main's first step
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gymnasium, "make", interrupt)
    with pytest.raises(SystemExit, match="130"):
        runpy.run_path(str(FILE), run_name="__main__")
    assert capsys.readouterr().err == "\nstopped; the games since the last save, at most 10, are lost\n"


def test_annotated_pages_are_of_this_program():
    rows, html = list(annotate.blocks()), annotate.PAGE.with_suffix(".html")
    assert annotate.PAGE.read_text(encoding="utf-8") == annotate.page(rows), "run scripts/annotate.py"
    assert html.read_text(encoding="utf-8") == annotate.webpage(annotate.page(rows))
    assert sum(len(notes) for _, notes in rows) == annotate.NOTES.read_text(encoding="utf-8").count("[[notes]]")
