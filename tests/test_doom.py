"""Doom: games that are what ViZDoom plays, the same again from the same seeds, and that leave nothing behind.

``PONG_DOOM=required`` makes a missing ViZDoom an error instead of skipping all this.
"""

import contextlib
import itertools
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
from small_runs import ROOT, alone_and_shared, environment, pong, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pong import checkpoint
from pong.cli import main
from pong.config import Config, InputError, RunError, load_config
from pong.envs import DoomFleet, check_task, make_fleet, pictures, spaces
from pong.envs.doom import SIDE, Game, launching, shrink
from pong.policies import contrast, make_policy
from pong.render import terminal
from pong.render.film import fps_of, write_film
from pong.render.frame import play_frames
from pong.render.picture import HEIGHT, MAX_SCREEN_WIDTH, WIDTH, draw_picture
from pong.rollout import Rollout
from pong.train import Trainer, load_policy

pytestmark = pytest.mark.skipif(
    find_spec("vizdoom") is None and os.environ.get("PONG_DOOM") != "required",
    reason="ViZDoom is not installed; make doom installs it",
)

HEALTH, BASIC = "VizdoomHealthGathering-v1", "VizdoomBasic-v1"
SMALL = {"policy": "conv", "channels": [2], "hidden": 4, "until": "episodes", "players": 1, "device": "cpu"}
TINY = Config(env=HEALTH, num_envs=2, max_frames=40, checkpoint_every=2, total_steps=80, **SMALL)  # 10 decisions a game
FLAGS = ["--channels", "2", "--hidden", "4", "--num-envs", "2", "--max-frames", "40", "--device", "cpu"]
BOTH = np.ones(2, bool)
NOTHING, FORWARD, RIGHT, LEFT = range(4)
ATTACK = 1  # in the basic task


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def fleet(config, num_envs=2, seed=1):
    with contextlib.closing(DoomFleet(config, num_envs)) as games:
        yield games, games.reset(np.arange(seed, seed + num_envs))


def games_of(pid):
    """The processes of ViZDoom that a process has started, itself or through others."""
    lines = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    table = [line.split(None, 2) for line in lines.splitlines()[1:]]
    found = [str(pid)]
    for one in found:
        found += [child for child, parent, _ in table if parent == one]
    return [int(child) for child, _, command in table if child in found and command.split()[0].endswith("/vizdoom")]


def wait_for(so, seconds=60.0):
    end = time.monotonic() + seconds
    while not (result := so()):
        assert time.monotonic() < end, "it never happens"
        time.sleep(0.02)
    return result


def left_behind():
    """Temporary folders and shared memory of games."""
    return {*Path(os.environ.get("TMPDIR", "/tmp")).glob("pong-doom-*"), *Path("/dev/shm").glob("ViZDoom*")}


# --- the games --------------------------------------------------------------------------------------------------------


def test_doing_nothing_lasts_384_tics():
    """100 health, less 8 every 32 tics: 384 tics alive, 96 decisions, and 100 off the score for dying."""
    config = TINY.model_copy(update={"max_frames": 0})
    with fleet(config, 1) as (games, _):
        played = [games.step(np.array([NOTHING]), np.ones(1, bool)) for _ in range(96)]
    assert [one.dones.item() for one in played] == [False] * 95 + [True]
    assert sum(one.frames.item() for one in played) == 384
    assert sum(one.rewards.item() for one in played) == 384 - 100
    assert games.finished
    assert games.actions == ("NOTHING", "MOVE FORWARD", "TURN RIGHT", "TURN LEFT")


def test_a_game_out_of_time_is_terminated_and_truncated_and_counts_once():
    """300 tics of −1, 75 decisions; the 14 in which the weapon is drawn come before and are not counted."""
    config = Config(env=BASIC, num_envs=1, **SMALL)
    with launching_game(config) as game:
        game.reset(seed=1)
        for _ in range(75):
            _, _, terminated, truncated, _ = game.step(0)
        assert terminated and truncated  # noqa: PT018
        assert game.finished
    with contextlib.closing(Rollout(config, Idle())) as rollout:
        batch = rollout.collect(0)
    (episode,) = batch.episodes
    assert (episode.length, episode.frames, episode.score) == (75, 300, -300)
    assert batch.steps == len(batch.returns) == 75
    assert batch.observations.shape == (75, 4, SIDE, SIDE)
    assert batch.observations.dtype == torch.uint8


@pytest.mark.parametrize(("env", "whole", "lines"), [(BASIC, 0.70, 0.29), (HEALTH, 0.53, 0.03)])
def test_what_pictures_have_in_common_as_docs_have_it(env, whole, lines):
    random, seen = np.random.default_rng(0), []
    with fleet(Config(env=env, **SMALL), 16) as (games, _):
        for decision in range(60):
            played = games.step(random.integers(0, 4, 16), np.ones(16, bool))
            if decision % 20 == 19:
                seen.append(played.observations)
    pictures = torch.cat(seen)

    def common(pixels):
        return pixels.mean(0).square().mean() / pixels.square().mean()

    assert common(contrast(pictures.flatten(1))) == pytest.approx(whole, abs=0.01)
    assert common(contrast(pictures)) == pytest.approx(lines, abs=0.01)


def test_a_monster_that_dies_ends_the_game_and_its_clock():
    """Seed 1 begins in front of it. A last decision whose length ViZDoom doesn't tell counts as a whole one."""
    with launching_game(Config(env=BASIC, num_envs=1, **SMALL)) as game:
        game.reset(seed=1)
        first, last = game.step(ATTACK), game.step(ATTACK)
        assert first[1:4] == (-4, False, False)
        assert last[1:4] == (101 - 2, True, False)
        assert (game.tics, game.finished) == (4, True)


class Idle:
    """Does nothing, in each of N games."""

    noise_shape = ()
    two_layers = None

    def act(self, x, noise):
        return torch.zeros(len(noise), dtype=torch.long)


@contextlib.contextmanager
def launching_game(config):
    import vizdoom

    with launching(vizdoom.exe_path) as launcher, contextlib.closing(Game(config, launcher)) as game:
        yield game


def test_a_game_that_is_cut_off():
    with fleet(TINY, 1) as (games, _):
        dones = [games.step(np.array([FORWARD]), np.ones(1, bool)).dones.item() for _ in range(10)]
    assert dones == [False] * 9 + [True]  # 40 tics at 4 a decision
    assert not games.finished


def test_what_is_seen_are_the_last_four_screens_the_newest_last():
    with fleet(TINY) as (games, first):
        second = games.step(np.array([RIGHT, LEFT]), BOTH).observations
        screens = np.stack([game.screen for game in games.games])
    assert first.shape == (2, 4, SIDE, SIDE)
    assert (first == first[:, :1]).all()  # the first screen, four times
    assert torch.equal(second[:, :3], first[:, 1:])
    np.testing.assert_array_equal(second[:, 3], [shrink(screen) for screen in screens])
    assert screens.shape == (2, 120, 160, 3)
    assert (screens[0] != screens[1]).any()


def test_shrinking_takes_the_mean():
    """Of 120 × 160 pixels 10/7 × 40/21 are one of 84 × 84: half black, half white stays so, and its edge is grey."""
    screen = np.zeros((120, 160, 3), np.uint8)
    screen[:, 80:] = 255
    small = shrink(screen)
    assert small.dtype == np.uint8
    assert set(np.unique(small)) <= {0, 255}  # 80 is the edge of a small pixel
    screen[60:] = (255, 0, 0)
    assert (shrink(screen)[43:] == 76).all()  # 0.299 · 255, the luminance of red


def test_a_game_without_a_decision_stands_still():
    with fleet(TINY) as (games, first):
        before = [game._game.get_episode_time() for game in games.games]
        played = games.step(np.array([RIGHT, RIGHT]), np.array([True, False]))
        after = [game._game.get_episode_time() for game in games.games]
    assert played.frames.tolist() == [4, 0]
    assert [b - a for a, b in zip(before, after, strict=True)] == [4, 0]
    assert torch.equal(played.observations[1], first[1])
    assert played.rewards.tolist() == [4, 0]


# --- the same again ---------------------------------------------------------------------------------------------------


def record(games, seeds, decisions=25):
    """All that comes of a fixed row of actions, in games of 10 decisions."""
    random = np.random.default_rng(0)
    seen = [games.reset(seeds)]
    played = [games.step(random.integers(0, 4, 2), BOTH) for _ in range(decisions)]
    return torch.stack([*seen, *(one.observations for one in played)]), np.array([one.rewards for one in played])


def test_the_same_seeds_are_the_same_games_whatever_was_played_before():
    seeds = np.array([5, 6])
    with fleet(TINY) as (games, _):
        first, rewards = record(games, seeds)
        record(games, np.array([7, 8]), decisions=3)
        second, rewards_again = record(games, seeds)
    with fleet(TINY, seed=9) as (games, _):
        third, _ = record(games, seeds)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    np.testing.assert_array_equal(rewards, rewards_again)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first[0, 0], first[10, 0])  # and the next game is another


def test_the_number_of_players_changes_nothing():
    for alone, shared in alone_and_shared(TINY):
        assert [e.frames for e in alone.episodes] == [e.frames for e in shared.episodes] == [40, 40]


def test_a_run_that_is_taken_up_where_games_start_afresh_is_the_same_to_the_bit(tmp_path):
    with contextlib.closing(Trainer(TINY)) as whole:
        for update in whole.run():
            if update.number == 2:
                counters = checkpoint.Counters(whole.updates, whole.steps)
                checkpoint.save(tmp_path, TINY, counters, whole.policy, whole.optimizer)
    with contextlib.closing(Trainer(TINY)) as taken_up:
        taken_up.restore(checkpoint.load(tmp_path / checkpoint.file_name(2)))
        numbers = [update.number for update in taken_up.run()]
    assert numbers == [3, 4]
    for one, other in zip(whole.policy.parameters(), taken_up.policy.parameters(), strict=True):
        assert torch.equal(one, other)


# --- the command line -------------------------------------------------------------------------------------------------


def test_train_eval_and_play_leave_their_own_files_and_no_others(elsewhere, capfd):
    before = left_behind()
    config = str(ROOT / "configs" / "doom_health.toml")
    flags = [*FLAGS, "--eval-episodes", "1", "--total-steps", "30", "--checkpoint-every", "1", "--run-dir", "run"]
    assert main(["train", config, *flags]) == 0
    assert [row["update"] for row in rows("run")] == ["1", "2"]
    assert float(rows("run")[1]["losses/grad_norm"]) > 0
    events = EventAccumulator("run")
    events.Reload()
    shown = events.Images("play/game")
    assert [(image.step, image.width, image.height) for image in shown] == [(20, 160, 120), (40, 160, 120)]
    assert main(["eval", "run", "--episodes", "2", "--json", "scores.json"]) == 0
    assert main(["play", "run", "--max-frames", "20", "--file", "game.gif"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "n = 2 games of 40.0 frames, sampled, seed 0, VizdoomHealthGathering-v1, hold 4, update 2" in out
    assert sorted(path.name for path in elsewhere.iterdir()) == ["game.gif", "run", "scores.json"]
    assert left_behind() <= before
    assert games_of(os.getpid()) == []
    about = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    assert about["greedy"]["frames"] == [40, 40]
    assert "vizdoom" in json.loads(Path("run/run.json").read_text(encoding="utf-8"))["versions"]


def test_without_vizdoom_it_is_one_line(elsewhere, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    spaces.cache_clear()
    assert main(["train", str(ROOT / "configs" / "doom_health.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: env = 'VizdoomHealthGathering-v1' needs ViZDoom")
    assert 'pip install "pong-from-pixels[doom]"' in line
    assert list(elsewhere.iterdir()) == []


REFUSED = {
    "unknown": ({"env": "VizdoomNothing-v1"}, r"VizdoomNothing.* doesn't exist"),
    "many buttons": ({"env": "VizdoomBasic-MultiBinary-v1"}, "takes MultiBinary.* a button at a time"),
    "numbers alone": ({"policy": "mlp"}, 'policy = "mlp" is not made for; try policy = "conv"'),
    "a random hold": ({"hold": "2-4"}, "hold = 2-4: .* has no such setting"),
    "pictures of CartPole": ({"env": "CartPole-v1", "max_frames": 108_000}, 'try policy = "mlp"'),
}


@pytest.mark.parametrize(("changes", "what"), REFUSED.values(), ids=REFUSED)
def test_what_no_policy_can_play(changes, what):
    with pytest.raises(InputError, match=what):
        check_task(TINY.model_copy(update=changes))


def test_the_recipes_are_the_texts_network():
    health, basic = (load_config(ROOT / "configs" / f"doom_{name}.toml") for name in ("health", "basic"))
    for config in (health, basic):
        check_task(config)
        assert pictures(config) == ((4, 84, 84), 0, 4)
    shapes = [tuple(p.shape) for p in make_policy(health).network.parameters() if p.ndim > 1]
    assert shapes == [(32, 4, 8, 8), (64, 32, 4, 4), (128, 64, 4, 4), (512, 128 * 3 * 3), (4, 512)]


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_game_that_dies_is_one_line():
    with fleet(TINY) as (games, _):
        os.kill(games_of(os.getpid())[1], signal.SIGKILL)
        with pytest.raises(RunError, match=r"^a game of Doom has failed \(ViZDoom\w+: Unexpected ViZDoom"):
            [games.step(np.array([FORWARD, FORWARD]), BOTH) for _ in range(3)]


@contextlib.contextmanager
def training(folder):
    """A run by two players that goes on and on, with a checkpoint after each update, past its first one."""
    flags = [*FLAGS, "--eval-episodes", "0", "--players", "2", "--checkpoint-every", "1", "--total-steps", "1000000"]
    config = ROOT / "configs" / "doom_health.toml"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = pong("train", config, *flags, "--run-dir", folder, cwd=folder.parent, **pipes)
    try:
        wait_for(lambda: run.poll() is not None or list(folder.glob("checkpoints/*.safetensors")))
        yield run
    finally:
        run.kill()  # if it has not ended
        run.wait()


def test_a_game_that_dies_ends_the_run_with_one_line_and_a_good_checkpoint(tmp_path):
    """ViZDoom waits for ever for a game that is killed while it holds the lock that both share: then once more."""
    before = left_behind()
    for attempt in itertools.count():
        with training(tmp_path / "run") as run:
            games = games_of(run.pid)
            assert len(games) == 2
            os.kill(games[0], signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired if attempt < 3 else ()):
                _, err = run.communicate(timeout=20)
                break
        shutil.rmtree(tmp_path / "run")
    assert run.returncode == 1
    (line,) = err.splitlines()
    assert line.startswith("pong: a game of Doom has failed (ViZDoom")
    assert "the last good checkpoint is " in line
    load_policy(tmp_path / "run")
    wait_for(lambda: left_behind() <= before)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_games_end_with_their_run(tmp_path, number, status):
    """Ctrl-C reaches the games' processes, too: they go on until the update is done and saved."""
    before = left_behind()
    with training(tmp_path / "run") as run:
        games = games_of(run.pid)
        (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
        run.communicate(timeout=60)
    assert run.returncode == status
    wait_for(lambda: not any(Path(f"/proc/{game}").exists() for game in games))
    wait_for(lambda: left_behind() <= before)
    load_policy(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("started", ["", "fleet.reset(np.array([1, 2]))"], ids=["before they started", "in them"])
def test_a_program_that_is_killed_takes_its_games_along(started):
    before = left_behind()
    code = f"""
import os, signal, numpy as np
from pong.config import Config
from pong.envs import make_fleet
fleet = make_fleet(Config(**{TINY.model_dump()!r}))
{started}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: left_behind() <= before)


# --- to look at -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moments():
    """A game of 10 decisions."""
    return list(play_frames(make_policy(TINY), TINY, seed=3))


def test_the_moments_of_a_game(moments):
    *decisions, last = moments
    assert [now.step for now in moments] == list(range(11))
    assert [now.score for now in moments] == list(range(0, 44, 4))
    assert all(now.probs == (0.25,) * 4 and now.frames == 4 and now.frame_rate == 35 for now in decisions)
    for before, now in itertools.pairwise(decisions):
        np.testing.assert_array_equal(now.observation[:3], before.observation[1:])
        np.testing.assert_array_equal(now.observation[3], shrink(now.screen))
    assert (last.action, last.probs, last.frames, last.finished) == (None, (), 0, False)


def test_its_picture_lights_the_action_and_its_bars_are_as_long_as_they_are_likely(moments):
    now = moments[4]
    image = np.asarray(draw_picture(now, "a run"))
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    green = (image[444:, :MAX_SCREEN_WIDTH] == (92, 186, 92)).all(-1)  # below the screen, 592 × 444
    lit = [green[12 + 40 * k + 4, 100] for k in range(4)]
    assert lit == [k == now.action for k in range(4)]
    assert [green[12 + 40 * k + 4, 220:].sum() for k in range(4)] == [round(0.25 * 296) + 1] * 4


def test_it_can_be_filmed_and_shown_in_a_terminal(elsewhere, moments):
    write_film(moments, Path("game.gif"), 35 / 4, "a run")
    assert Path("game.gif").stat().st_size > 10_000
    *_, status = terminal.layout(moments[4], 100, 40)
    name = moments[4].action_names[moments[4].action]
    assert f"[{name} ▂]" in status
    assert status.count("▂") == 4
    assert "the end" in terminal.layout(moments[-1], 100, 40)[-1]


def test_a_film_is_at_natural_speed():
    assert fps_of(TINY) == 35 / 4
    assert make_fleet(TINY, 1).close() is None


@pytest.mark.parametrize("name", ["doom_basic", "doom_health"])
def test_every_agent_that_comes_along_is_small_and_plays(name, elsewhere):
    folder = ROOT / "pretrained" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    assert main(["eval", str(folder), "--episodes", "2", "--greedy", "--json", "scores.json"]) == 0
    found, said = (json.loads(file.read_text())["greedy"] for file in (Path("scores.json"), folder / "eval.json"))
    assert found["scores"] == said["scores"][:2]
