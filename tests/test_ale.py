"""AleFleet plays gymnasium's Pong-v0 from the same seeds, frame for frame."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing

from pong.config import Config
from pong.envs import make_fleet, task_spec
from pong.envs.pong.ale import AleFleet
from pong.envs.pong.task import PongTask
from pong.observations import PIXELS, preprocess

GYM_ACTIONS = [3, 2, 0, 1, 4, 5]  # Pong-v0's actions in our order; the first two are those of the gist


def fleet_of(num_envs, **task):
    return AleFleet(num_envs, PongTask(**task))


def actions_from(seed, *shape, actions=2):
    return np.random.default_rng(seed).integers(actions, size=shape)


def step(fleet, *actions):
    """One decision; −1: none."""
    actions = np.array(actions)
    return fleet.step(actions, actions >= 0)


def screens_of(fleet):
    return np.stack([emulator.ale.getScreenGrayscale() for emulator in fleet.emulators])


# --- gymnasium's games ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hold", "changes"), [("2-4", {}), (4, {"frameskip": 4})], ids=str)
def test_ale_fleet_game_equals_pong_v0(hold, changes, pong_v0):
    # The game from a seed, the next one, and one after a reset without a seed.
    original = pong_v0(obs_type="grayscale", **changes)
    screen, _ = original.reset(seed=1)
    frame, ends = 0, []
    fleet = fleet_of(1, hold=hold, actions=6)
    fleet.reset(np.array([1]))
    np.testing.assert_array_equal(screens_of(fleet)[0], screen)
    for t, action in enumerate(actions_from(1, 3000, actions=6)):
        result = step(fleet, action)
        screen, reward, terminated, _, info = original.step(GYM_ACTIONS[action])
        assert (result.rewards[0], result.dones[0]) == (reward, terminated)
        assert result.frames[0] == info["frame_number"] - frame
        frame = info["frame_number"]
        if terminated:
            ends.append(t)
        if terminated or (ends and t == ends[0] + 60):
            screen, _ = original.reset()
        if ends and t == ends[0] + 60:
            fleet.reset()
        np.testing.assert_array_equal(screens_of(fleet)[0], screen)
        if ends and t == ends[0] + 120:
            break
    assert len(ends) == 1


def test_ale_fleet_noops_equal_atari_preprocessing(pong_v0, monkeypatch):
    # AtariPreprocessing imports OpenCV, but does not resize here
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(resize=lambda image, *_, **__: image, INTER_AREA=None))
    game = pong_v0(frameskip=1, max_num_frames_per_episode=80, obs_type="grayscale")
    original = AtariPreprocessing(game, noop_max=30, frame_skip=1, screen_size=(160, 210))
    screen, _ = original.reset(seed=5)
    fleet = fleet_of(1, hold=1, noop_max=30, max_frames=80)
    fleet.reset(np.array([5]))
    lengths = [0]
    for action in actions_from(5, 600):
        np.testing.assert_array_equal(screens_of(fleet)[0], screen)
        result = step(fleet, action)
        screen, reward, _, truncated, _ = original.step(GYM_ACTIONS[action])
        assert (result.rewards[0], result.dones[0]) == (reward, truncated)
        lengths[-1] += 1
        if truncated:
            screen, _ = original.reset()
            lengths.append(0)
    assert len(lengths) > 8
    assert len(set(lengths)) > 3


# --- holds, NOOP starts and truncation --------------------------------------------------------------------------------


def frames_of_games(fleet, seeds, games):
    """Frames of each emulator's first games, (games, N)."""
    fleet.reset(seeds)
    played = [[0] for _ in seeds]
    while min(len(frames) for frames in played) <= games:
        result = step(fleet, *[1] * len(seeds))
        for frames, more, done in zip(played, result.frames, result.dones, strict=True):
            frames[-1] += int(more)
            if done:
                frames.append(0)
    return np.array([frames[:games] for frames in played]).T


def test_ale_fleet_noops_are_uniform_and_games_truncated():
    # NOOPs count as frames of the game but not of a decision: of 12 frames they leave fewer to play.
    noops = 12 - frames_of_games(fleet_of(2, hold="2-4", noop_max=4, max_frames=12), np.array([1, 2]), 100)
    assert set(noops.ravel().tolist()) == {1, 2, 3, 4}
    # Pearson's χ² with 3 degrees of freedom: a fair source exceeds 25 once in 65,000
    assert ((np.bincount(noops.ravel())[1:] - 50) ** 2 / 50).sum() < 25
    assert (noops[:, 0] == noops[:, 1]).mean() == pytest.approx(1 / 4, abs=0.17)  # independent; ± 4·√(¼·¾/100)
    assert (frames_of_games(fleet_of(2, max_frames=80), np.array([1, 2]), 4) == 80).all()


# --- seeds, and emulators without a decision --------------------------------------------------------------------------


def play(fleet, seeds, actions):
    """Screens (T + 1, N, 210, 160) and frames (T, N) of new games; ``actions`` is (T, N)."""
    fleet.reset(seeds)
    screens, frames = [screens_of(fleet)], []
    for row in actions:
        frames.append(step(fleet, *row).frames)
        screens.append(screens_of(fleet))
    return np.stack(screens), np.stack(frames)


def test_ale_fleet_game_depends_only_on_seed_and_actions():
    # Not on earlier games, the number and order of emulators, or the others' actions.
    actions = actions_from(2, 120)
    screens, frames = play(fleet_of(2, hold="2-4"), np.array([11, 12]), np.stack([actions, actions], axis=1))
    assert (screens[:, 0] != screens[:, 1]).any()
    assert (frames[:, 0] != frames[:, 1]).any()
    others = np.stack([actions_from(3, 120) - 1, actions, actions_from(4, 120)], axis=1)
    fleet = fleet_of(3, hold="2-4")
    for middle, i in ((11, 0), (12, 1)):
        again, frames_again = play(fleet, np.array([1, middle, 2]), others)
        np.testing.assert_array_equal(again[:, 1], screens[:, i])
        np.testing.assert_array_equal(frames_again[:, 1], frames[:, i])


def test_ale_fleet_inactive_emulator_waits():
    # Two emulators with one seed take turns: 60 steps each. A frame, a hold or a random number spent on waiting would
    # make their games differ.
    fleet = fleet_of(2, hold="2-4")
    fleet.reset(np.array([31, 31]))
    games = []
    for player in (0, 1):
        game, waiting = [], screens_of(fleet)[1 - player]
        for action in actions_from(6, 60):
            actions = np.full(2, -1)
            actions[player] = action
            result = step(fleet, *actions)
            np.testing.assert_array_equal(screens_of(fleet)[1 - player], waiting)
            assert result.frames[1 - player] == result.rewards[1 - player] == result.dones[1 - player] == 0
            assert not result.observations.dense()[1 - player].any()
            row = result.observations.dense()[player].tolist()
            game.append((screens_of(fleet)[player].tolist(), row, result.rewards[player], result.frames[player]))
        games.append(game)
    assert games[0] == games[1]


# --- actions and observations -----------------------------------------------------------------------------------------


def paddle(fleet):
    """Mean row of the agent's paddle: the right one, green (luminance 147), at columns 140 to 143."""
    rows = np.flatnonzero((screens_of(fleet)[0, 34:194, 140:144] == 147).all(axis=1))
    assert len(rows) > 0
    return rows.mean()


def test_ale_fleet_actions_0_and_1_move_the_paddle():
    rows = []
    fleet = fleet_of(1)
    fleet.reset(np.array([1]))
    assert np.count_nonzero(screens_of(fleet)[0, 34:194, :140] == 147) == 0  # green is on the right side only
    for action in (1, 0, 1):
        for _ in range(8):
            step(fleet, action)
        rows.append(paddle(fleet))
    up, down, up_again = rows  # of 160, from the top
    assert up < 40
    assert down > up + 40
    assert up_again < down - 40


def test_ale_fleet_observes_differences_of_screens():
    fleet = make_fleet(Config(hold="2-4", noop_max=5, max_frames=90, emulator="ale"), 2)
    moving = []
    for seeds in (np.array([1, 2]), None):  # None continues the random streams
        assert not fleet.reset(seeds).dense().any()
        for actions in actions_from(9, 80, 2):
            before = preprocess(screens_of(fleet)).astype(int)
            result = step(fleet, *actions)
            expected = (preprocess(screens_of(fleet)) - before).reshape(2, PIXELS)
            expected[result.dones] = 0  # a new game's first
            np.testing.assert_array_equal(result.observations.dense(), expected)
            moving.append(expected.any(axis=1)[~result.dones])
    assert np.concatenate(moving).mean() > 0.5
    fleet.close()


@pytest.mark.parametrize("emulator", ["machine", "ale"])
def test_make_fleet_follows_the_config(emulator):
    task = {"hold": 3, "sticky": 0.1, "noop_max": 30, "max_frames": 1000, "actions": 3}
    config = Config(frames="both", last_action=True, emulator=emulator, **task)
    fleet = make_fleet(config, 5)
    assert fleet.num_envs == 5
    assert {name: getattr(fleet.task, name) for name in task} == task
    first = fleet.reset(np.arange(5))
    assert first.width == task_spec(config).inputs == 2 * PIXELS + 3
    assert not first.dense()[:, -3:].any()  # no action so far
    rows = step(fleet, 2, 1, 0, -1, 2).observations.dense()
    assert rows[:3, -3:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    endless = make_fleet(config.replace(max_frames=0), 1)
    assert endless.task.max_frames == 65_209  # the console's clock ends a game
