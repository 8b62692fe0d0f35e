"""Doom: games, reproducibility, commands, crashes and signals.

``PONG_DOOM=required`` makes a missing ViZDoom an error; otherwise these tests are skipped.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import ROOT, pong, rows

from pong import checkpoint
from pong.cli import main
from pong.config import Config, InputError, RunError, load_config
from pong.envs import _gym_spec, check_task, images
from pong.envs.doom import SIDE, DoomFleet, shrink
from pong.policies import make_policy
from pong.train import Trainer, load_policy

pytestmark = pytest.mark.skipif(
    find_spec("vizdoom") is None and os.environ.get("PONG_DOOM") != "required",
    reason="ViZDoom is not installed; make doom installs it",
)

HEALTH, BASIC = "VizdoomHealthGathering-v1", "VizdoomBasic-v1"
SMALL = {"policy": "conv", "channels": [2], "hidden": 4, "until": "episodes", "players": 1, "device": "cpu"}
TINY = Config(env=HEALTH, num_envs=2, max_frames=40, checkpoint_every=2, total_steps=80, **SMALL)  # 10 decisions a game
FLAGS = ["--channels", "2", "--hidden", "4", "--num-envs", "2", "--max-frames", "40", "--device", "cpu"]
RECIPES = {name: ROOT / "configs" / f"doom_{name}.toml" for name in ("basic", "health")}
NOTHING, FORWARD, RIGHT, LEFT = range(4)
ATTACK = 1  # in the basic task
ONE, BOTH = np.ones(1, bool), np.ones(2, bool)


@contextlib.contextmanager
def fleet(config, num_envs=2):
    with contextlib.closing(DoomFleet(config, num_envs)) as games:
        yield games, games.reset(np.arange(1, 1 + num_envs))


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def games_of(pid):
    """The games {pid: instance id} that a process has started."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return {int(line.split()[0]): line.split("viz_instance_id ")[1].split()[0] for line in lines if "viz_" in line}


def remaining_files(games):
    """The processes and the shared memory of games."""
    shared = [path for name in games.values() for path in Path("/dev/shm").glob(f"ViZDoom*{name}")]
    return [path for path in (Path(f"/proc/{pid}") for pid in games) if path.exists()] + shared


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """An empty folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


# --- games ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "decisions", "tics", "score", "actions"),
    [  # 100 health, less 8 every 32 tics; +1 a tic, −100 for dying | −1 a tic until the time is up
        (HEALTH, 96, 384, 384 - 100, "NOTHING, MOVE FORWARD, TURN RIGHT, TURN LEFT"),
        (BASIC, 75, 300, -300, "NOTHING, ATTACK, MOVE RIGHT, MOVE LEFT"),
    ],
)
def test_fleet_game_without_actions(env, decisions, tics, score, actions):
    with fleet(Config(env=env, **SMALL), 1) as (games, _):
        steps = [games.step(np.array([NOTHING]), ONE) for _ in range(decisions)]
        assert games.finished
        assert ", ".join(games.action_names) == actions
    assert [step.dones.item() for step in steps] == [False] * (decisions - 1) + [True]
    assert sum(step.frames.item() for step in steps) == tics
    assert sum(step.rewards.item() for step in steps) == score


def test_fleet_truncates_a_game_at_max_frames():
    with fleet(TINY, 1) as (games, _):
        for decision in range(1, 11):  # 40 tics at 4 a decision
            before = games.screen
            assert games.step(np.array([FORWARD]), ONE).dones.item() == (decision == 10)
        np.testing.assert_array_equal(games.last_screen, before)
        assert not games.finished


def test_fleet_monster_that_dies_ends_the_game():
    """Seed 1 starts in front of it: −1 a tic, 101 for the monster. The last decision's length is unknown, so 4 tics."""
    with fleet(Config(env=BASIC, **SMALL), 1) as (games, _):
        games.games[0].reset(seed=1)
        results = [games.games[0].step(ATTACK)[1:4] for _ in range(2)]
        assert results == [(-4, False, False), (101 - 2, True, False)]
        assert (games.games[0].tics, games.games[0].finished) == (4, True)


def test_fleet_observes_the_last_four_screens():
    with fleet(TINY) as (games, first):
        second = games.step(np.array([RIGHT, LEFT]), BOTH)
        screens = np.stack([game.screen for game in games.games])
        third = games.step(np.array([RIGHT, RIGHT]), np.array([True, False]))
    assert first.shape == (2, 4, SIDE, SIDE)
    assert (first == first[:, :1]).all()  # the first screen, four times
    assert torch.equal(second.observations[:, :3], first[:, 1:])
    np.testing.assert_array_equal(second.observations[:, 3], [shrink(screen) for screen in screens])
    np.testing.assert_array_equal(images(TINY, second.observations)[3], shrink(screens[0]))
    assert screens.shape == (2, 120, 160, 3)
    assert (screens[0] != screens[1]).any()
    assert (third.frames.tolist(), third.rewards.tolist()) == ([4, 0], [4, 0])  # a game without a decision waits
    assert torch.equal(third.observations[1], second.observations[1])


def test_shrink_takes_the_mean_luminance():
    """A sharp edge at column 80 of 160 falls between two of the 84 columns; red has 0.299 · 255."""
    screen = np.zeros((120, 160, 3), np.uint8)
    screen[:, 80:] = 255
    assert shrink(screen).dtype == np.uint8
    assert set(np.unique(shrink(screen))) == {0, 255}
    screen[60:] = (255, 0, 0)
    assert (shrink(screen)[43:] == 76).all()


# --- reproducibility --------------------------------------------------------------------------------------------------


def play(games, seeds, decisions=25):
    """The observations and rewards of fixed actions, in games of 10 decisions."""
    random, observations = np.random.default_rng(0), [games.reset(seeds)]
    results = [games.step(random.integers(0, 4, 2), BOTH) for _ in range(decisions)]
    rewards = [result.rewards.tolist() for result in results]
    return torch.stack(observations + [result.observations for result in results]), rewards


def test_fleet_games_depend_only_on_seeds():
    with fleet(TINY) as (games, _):
        observations, rewards = play(games, np.array([5, 6]))
        play(games, np.array([7, 8]), decisions=3)
        observations_again, rewards_again = play(games, np.array([5, 6]))
    assert torch.equal(observations, observations_again)
    assert rewards == rewards_again
    assert not torch.equal(observations[:, 0], observations[:, 1])
    assert not torch.equal(observations[0, 0], observations[10, 0])  # the next game differs


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    with contextlib.closing(Trainer(TINY)) as uninterrupted:
        for update in uninterrupted.run():
            if update.number == 2:
                counters = checkpoint.Counters(uninterrupted.updates, uninterrupted.steps)
                checkpoint.save(tmp_path, uninterrupted.checkpoint(counters, play=None))
    with contextlib.closing(Trainer(TINY)) as resumed:
        resumed.restore(checkpoint.load(tmp_path / checkpoint.file_name(2)))
        assert [update.number for update in resumed.run()] == [3, 4]
    for a, b in zip(uninterrupted.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)


# --- the command line -------------------------------------------------------------------------------------------------


def test_commands_leave_only_their_own_files(tmp_path, monkeypatch, temporary, capfd):
    monkeypatch.chdir(tmp_path)
    flags = [*FLAGS, "--eval-episodes", "1", "--total-steps", "30", "--checkpoint-every", "1", "--run-dir", "run"]
    assert main(["train", str(RECIPES["health"]), *flags]) == 0
    assert [row["update"] for row in rows("run")] == ["1", "2"]
    assert float(rows("run")[1]["losses/grad_norm"]) > 0
    assert main(["eval", "run", "--episodes", "2", "--json", "scores.json"]) == 0
    assert main(["play", "run", "--max-frames", "20", "--file", "game.gif"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "n = 2 fresh games of 40.0 frames, sampled, seed 0, VizdoomHealthGathering-v1, hold 4, update 2" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["game.gif", "run", "scores.json"]
    assert [*temporary.glob("pong-*"), *games_of(os.getpid())] == []
    assert json.loads(Path("scores.json").read_text(encoding="utf-8"))["greedy"]["frames"] == [40, 40]


def test_train_without_vizdoom_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    _gym_spec.cache_clear()
    assert main(["train", str(RECIPES["health"])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: env = 'VizdoomHealthGathering-v1' needs ViZDoom")
    assert line.endswith("run: make doom, or: pip install vizdoom")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "VizdoomNothing-v1"}, r"VizdoomNothing.* doesn't exist"),
        ({"env": "VizdoomBasic-MultiBinary-v1"}, "takes MultiBinary"),
        ({"policy": "mlp"}, 'policy = "mlp" does not fit .*; try policy = "conv"'),
        ({"env": "CartPole-v1", "max_frames": 108_000}, 'try policy = "mlp"'),
    ],
)
def test_check_task_rejects(changes, words):
    with pytest.raises(InputError, match=words):
        check_task(TINY.model_copy(update=changes))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_and_its_agent(name, tmp_path):
    config, agent = load_config(RECIPES[name]), ROOT / "pretrained" / f"doom_{name}"
    check_task(config)
    if name == "health":
        shapes = [tuple(p.shape) for p in make_policy(config).network.parameters() if p.ndim > 1]
        assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (128, 64, 4, 4), (512, 128 * 3 * 3), (4, 512)]
    scores = tmp_path / "scores.json"
    assert main(["eval", str(agent), "--episodes", "2", "--greedy", "--json", str(scores)]) == 0
    fresh, saved = (json.loads(file.read_text())["greedy"]["scores"] for file in (scores, agent / "eval.json"))
    assert fresh == saved[:2]


# --- crashes and signals ----------------------------------------------------------------------------------------------


def test_fleet_games_survive_ctrl_c(temporary):
    """They ignore a terminal's signals, since the run finishes its update; a game that dies ends the run."""
    with fleet(TINY) as (games, _):
        processes = games_of(os.getpid())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(list(processes)[1], number)
        [games.step(np.array([FORWARD, FORWARD]), BOTH) for _ in range(10)]
        os.kill(list(processes)[1], signal.SIGKILL)
        with pytest.raises(RunError, match=r"^a game of Doom has failed \(ViZDoom\w+: Unexpected ViZDoom"):
            [games.step(np.array([FORWARD, FORWARD]), BOTH) for _ in range(3)]
    assert [*remaining_files(processes), *temporary.iterdir()] == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_train_ends_its_games(tmp_path, temporary, number, status):
    """Ctrl-C, or kill -9, which leaves temporary files and shared memory."""
    flags = [*FLAGS, "--eval-episodes", "0", "--players", "2", "--checkpoint-every", "1", "--total-steps", "1000000"]
    run = pong("train", RECIPES["health"], *flags, "--run-dir", "run", cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: list(tmp_path.glob("run/checkpoints/*.safetensors")))
        games = games_of(run.pid)
        (os.kill if number == signal.SIGKILL else os.killpg)(run.pid, number)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert (run.returncode, len(games), "failed" in err) == (status, 2, False)
    if number != signal.SIGKILL:
        assert [*remaining_files(games), *temporary.glob("pong-*")] == []
    elif shutil.which("setpriv"):
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in games))
    for path in remaining_files(games):
        path.unlink()
    load_policy(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
