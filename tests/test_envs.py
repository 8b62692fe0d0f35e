"""The emulators play gymnasium's Pong-v0, frame for frame, hold for hold, from the seeds they were given."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import AtariPreprocessing
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from pong.config import Config
from pong.envs import Pong, make_fleet, make_observation_builder, make_pong
from pong.observations import PIXELS, preprocess

GYM_ACTION = {1: 2, 0: 3}  # ours → Pong-v0's, as in the gist


def actions_from(seed, *shape, lowest=0):
    return np.random.default_rng(seed).integers(lowest, 2, size=shape)


def seeds(*values):
    return np.array(values)


# --- the same game as gymnasium's -------------------------------------------------------------------------------------


class FrameByFrame:
    """Pong-v0 without its own randomness: every action is held for as many frames as told."""

    def __init__(self, pong_v0):
        self.env = pong_v0(frameskip=1, repeat_action_probability=0.0, obs_type="grayscale")
        self.screen, _ = self.env.reset(seed=0)

    def step(self, action, hold):
        """Screen, reward and whether the game ended; a new game's first screen where it did."""
        total, terminated, truncated = 0, False, False
        for _ in range(hold):
            self.screen, reward, terminated, truncated, _ = self.env.step(GYM_ACTION[action])
            total += reward
            if terminated:
                self.screen, _ = self.env.reset()
                break
        assert not truncated
        return self.screen, total, terminated


def test_without_stickiness_a_whole_game_equals_gymnasiums_frame_for_frame(pong_v0):
    original = FrameByFrame(pong_v0)
    scores, after_the_end = [0], 0
    envs = Pong(1, "2-4", sticky=0.0)
    screens, _ = envs.reset(seed=seeds(3))
    np.testing.assert_array_equal(screens[0], original.screen)
    for action in actions_from(0, 4000, lowest=-1):  # −1: no decision, no frame
        screens, rewards, terminations, truncations, infos = envs.step(np.array([action]))
        screen, reward, ended = original.step(int(action), int(infos["frames"][0]))
        assert (rewards[0], terminations[0], truncations[0]) == (reward, ended, False)
        np.testing.assert_array_equal(screens[0], screen)
        scores[-1] += reward
        if ended:
            scores.append(0)
        after_the_end += len(scores) > 1
        if after_the_end == 100:  # the next game began in the step that ended this one, and goes on alike
            break
    assert len(scores) == 2
    assert -21 <= scores[0] <= -10  # 21 points to the built-in player, few to random play


@pytest.mark.parametrize(("hold", "changes"), [("2-4", {}), (4, {"frameskip": 4})], ids=str)
def test_a_sticky_game_is_that_of_pong_v0(hold, changes, pong_v0):
    # From one seed, the stickiness and (for "2-4") the holds those of the unmodified environment: the same game to its
    # end, the same next game, and the same again after a reset that lets the random streams run on.
    original = pong_v0(obs_type="grayscale", **changes)
    screen, _ = original.reset(seed=1)
    frame, ends = 0, []
    envs = Pong(1, hold)
    screens, _ = envs.reset(seed=seeds(1))
    np.testing.assert_array_equal(screens[0], screen)
    for t, action in enumerate(actions_from(1, 3000)):
        screens, rewards, terminations, truncations, infos = envs.step(np.array([action]))
        screen, reward, terminated, truncated, info = original.step(GYM_ACTION[int(action)])
        assert (rewards[0], terminations[0], truncations[0]) == (reward, terminated, truncated)
        assert infos["frames"][0] == info["frame_number"] - frame  # those that were really played
        frame = info["frame_number"]
        if terminated:
            ends.append(t)
        if terminated or (ends and t == ends[0] + 60):
            screen, _ = original.reset()
        if ends and t == ends[0] + 60:
            screens, _ = envs.reset()
        np.testing.assert_array_equal(screens[0], screen)
        if ends and t == ends[0] + 120:
            break
    assert len(ends) == 1


# --- holds ------------------------------------------------------------------------------------------------------------


def test_holds_are_uniform_and_independent(recorded):
    # Pearson's χ² of the counts, and of the pairs of consecutive holds: with 2 degrees of freedom a fair source exceeds
    # 20 in one game of e^10 = 22,000, and with about 8 it exceeds 35 as seldom.
    for game in recorded.games:
        holds = game.holds[:-1]  # the last may be cut short by the end of the game
        assert len(holds) > 1000
        assert set(holds.tolist()) == {2, 3, 4}
        counts = np.bincount(holds - 2)
        expected = len(holds) / 3
        assert ((counts - expected) ** 2 / expected).sum() < 20
        pairs = np.bincount(3 * (holds[:-1] - 2) + holds[1:] - 2, minlength=9)
        expected = (len(holds) - 1) / 9
        assert ((pairs - expected) ** 2 / expected).sum() < 35


def test_each_emulator_has_holds_of_its_own(recorded):
    first, second, third = (game.holds[:1000] for game in recorded.games)
    for a, b in ((first, second), (first, third), (second, third)):
        assert (a == b).mean() == pytest.approx(1 / 3, abs=0.06)  # ± 4·√(⅓·⅔/1000)


# --- games that start late and end early ------------------------------------------------------------------------------


def test_games_are_cut_at_max_frames():
    envs = Pong(2, "2-4", max_frames=80)
    first = envs.reset(seed=seeds(1, 2))[0][0].copy()  # every game begins alike
    left = np.full(2, 80)  # frames until a game is cut
    cuts = 0
    for action in actions_from(7, 60, 2):
        screens, _, terminations, truncations, infos = envs.step(action)
        left -= infos["frames"]
        np.testing.assert_array_equal(truncations, left == 0)
        assert not terminations.any()
        for i in range(2):
            assert (screens[i] == first).all() == truncations[i]  # restarted in the step that cut it
        left[truncations] = 80
        cuts += truncations.sum()
    assert cuts >= 4


def frames_of_games(envs, its_seeds, games):
    """Frames that each of the emulators' first games lasts, (games, N)."""
    envs.reset(seed=its_seeds)
    played = [[0] for _ in its_seeds]
    while min(len(frames) for frames in played) <= games:
        _, _, _, truncations, infos = envs.step(np.ones(len(its_seeds), int))
        for frames, more, cut in zip(played, infos["frames"], truncations, strict=True):
            frames[-1] += int(more)
            if cut:
                frames.append(0)
    return np.array([frames[:games] for frames in played]).T


def test_a_game_starts_with_1_to_noop_max_frames_of_noop_uniformly():
    # They count as frames of the game, though of no decision: of 12 that a game may last, they leave fewer to play.
    noops = 12 - frames_of_games(Pong(2, "2-4", noop_max=4, max_frames=12), seeds(1, 2), 100)
    assert set(noops.ravel().tolist()) == {1, 2, 3, 4}
    # Pearson's χ² with 3 degrees of freedom: a fair source exceeds 25 once in 65,000
    assert ((np.bincount(noops.ravel())[1:] - 50) ** 2 / 50).sum() < 25
    assert (noops[:, 0] == noops[:, 1]).mean() == pytest.approx(1 / 4, abs=0.17)  # each its own; ± 4·√(¼·¾/100)


def test_noops_are_those_of_gymnasiums_atari_preprocessing(pong_v0, monkeypatch):
    # which asks for OpenCV, to resize screens that here keep their size
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(resize=lambda image, *_, **__: image, INTER_AREA=None))
    original = AtariPreprocessing(
        pong_v0(frameskip=1, max_num_frames_per_episode=80, obs_type="grayscale"),
        noop_max=30,
        frame_skip=1,
        screen_size=(160, 210),
    )
    screen, _ = original.reset(seed=5)
    envs = Pong(1, 1, noop_max=30, max_frames=80)
    screens, _ = envs.reset(seed=seeds(5))
    lengths = [0]
    for action in actions_from(5, 600):
        np.testing.assert_array_equal(screens[0], screen)
        screens, rewards, *_, truncations, _ = envs.step(np.array([action]))
        screen, reward, _, truncated, _ = original.step(GYM_ACTION[int(action)])
        assert (rewards[0], truncations[0]) == (reward, truncated)
        lengths[-1] += 1
        if truncated:
            screen, _ = original.reset()
            lengths.append(0)
    assert len(lengths) > 8
    assert len(set(lengths)) > 3


# --- seeds ------------------------------------------------------------------------------------------------------------


def play(envs, its_seeds, actions):
    """Screens (T + 1, N, 210, 160) and frames (T, N) of new games; ``actions`` is (T, N)."""
    screens, frames = [envs.reset(seed=its_seeds)[0].copy()], []
    for moment in actions:
        screen, *_, infos = envs.step(moment)
        screens.append(screen.copy())
        frames.append(infos["frames"])
    return np.stack(screens), np.stack(frames)


def test_a_game_depends_on_its_seed_and_actions_alone():
    # Not on what was played before, nor on the number of emulators, their order or what the others do.
    actions = actions_from(2, 120)
    same = np.stack([actions, actions], axis=1)
    screens, frames = play(Pong(2, "2-4"), seeds(11, 12), same)
    assert (screens[:, 0] != screens[:, 1]).any()  # the seed does decide
    assert (frames[:, 0] != frames[:, 1]).any()
    others = np.stack([actions_from(3, 120, lowest=-1), actions, actions_from(4, 120)], axis=1)
    envs = Pong(3, "2-4")
    for middle, i in ((11, 0), (12, 1)):
        again, frames_again = play(envs, seeds(1, middle, 2), others)
        np.testing.assert_array_equal(again[:, 1], screens[:, i])
        np.testing.assert_array_equal(frames_again[:, 1], frames[:, i])


# --- no decision ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two():
    """Two emulators with nothing switched off, for the tests that start them anew."""
    return Pong(2, "2-4")


def test_an_emulator_without_a_decision_stands_still_and_misses_nothing(two):
    # Two emulators with one seed: while the one plays 60 steps the other waits, then the other way round. Both must
    # have seen the same game; a frame, a hold or a draw of stickiness spent on waiting would set them apart.
    screens, _ = two.reset(seed=seeds(31, 31))
    start = screens[1].copy()
    games = []
    for player in (0, 1):
        seen = []
        waiting = screens[1 - player].copy()
        for action in actions_from(6, 60):
            moment = np.full(2, -1)
            moment[player] = action
            screens, rewards, terminations, truncations, infos = two.step(moment)
            np.testing.assert_array_equal(screens[1 - player], waiting)
            assert infos["frames"][1 - player] == rewards[1 - player] == 0
            assert not terminations[1 - player]
            assert not truncations[1 - player]
            seen.append((screens[player].copy(), rewards[player], infos["frames"][player]))
        games.append(seen)
        assert (screens[player] != start).any()
    for first, second in zip(*games, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        assert first[1:] == second[1:]


def test_all_may_wait(two):
    before = two.reset()[0].copy()
    screens, rewards, terminations, truncations, infos = two.step(np.array([-1, -1]))
    np.testing.assert_array_equal(screens, before)
    assert not np.concatenate([rewards, terminations, truncations, infos["frames"]]).any()


# --- actions ----------------------------------------------------------------------------------------------------------


def paddle(screen):
    """Mean row of the agent's paddle: the right one, green (luminance 147), at columns 140 to 143."""
    rows = np.flatnonzero((screen[34:194, 140:144] == 147).all(axis=1))
    assert len(rows) > 0
    return rows.mean()


def test_action_1_moves_the_agents_paddle_up_and_action_0_down():
    rows = []
    envs = Pong(1)
    start, _ = envs.reset(seed=seeds(1))
    assert np.count_nonzero(start[0, 34:194, :140] == 147) == 0  # green is on the right side only
    for action in (1, 0, 1):
        for _ in range(8):
            screens, *_ = envs.step(np.array([action]))
        rows.append(paddle(screens[0]))
    up, down, up_again = rows  # of 160, from the top
    assert up < 40
    assert down > up + 40
    assert up_again < down - 40


def test_action_2_leaves_the_paddle_where_it_is():
    envs = Pong(1, sticky=0, actions=3)
    envs.reset(seed=seeds(1))
    rows = []
    for action in (1, *[2] * 12, 0, *[2] * 12):
        screens, *_ = envs.step(np.array([action]))
        rows.append(paddle(screens[0]))
    assert rows[4:13] == [rows[4]] * 9  # it comes to rest, and stays
    assert rows[17:] == [rows[17]] * 9
    assert rows[17] > rows[4]  # a decision of DOWN later
    assert envs.single_action_space.n == 3


def test_make_fleet_shows_what_the_config_says():
    fleet = make_fleet(Config(num_envs=2, frames="both", last_action=True, actions=3))
    seen = fleet.reset(seeds(1, 2))
    assert seen.dense()[:, -3:].tolist() == [[0, 0, 0]] * 2  # nothing was decided yet
    played = fleet.step(np.array([2, 1]), np.ones(2, bool))
    assert played.observations.dense()[:, -3:].tolist() == [[0, 0, 1], [0, 1, 0]]
    assert (
        played.observations.width == make_observation_builder(Config(frames="both", last_action=True, actions=3)).width
    )
    fleet.close()


# --- a vector environment like any other ------------------------------------------------------------------------------


def test_pong_declares_its_spaces_and_keeps_to_them(two):
    assert isinstance(two, VectorEnv)
    assert two.num_envs == 2
    assert two.single_observation_space == gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)
    assert two.observation_space == gymnasium.spaces.Box(0, 255, (2, 210, 160), np.uint8)
    assert two.single_action_space == gymnasium.spaces.Discrete(2)
    assert two.action_space == gymnasium.spaces.MultiDiscrete([2, 2])
    assert two.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP

    screens, infos = two.reset()
    assert screens in two.observation_space
    assert infos == {}
    two.action_space.seed(0)
    screens, *others, infos = two.step(two.action_space.sample())
    assert screens in two.observation_space
    assert [values.dtype for values in (*others, infos["frames"])] == [np.float32, np.bool_, np.bool_, np.int64]
    assert {values.shape for values in (*others, infos["frames"])} == {(2,)}


def test_gymnasiums_own_wrappers_take_it():
    envs = RecordEpisodeStatistics(Pong(2, 4, max_frames=40))
    envs.reset(seed=[1, 2])
    ends = [envs.step(np.array([1, 0]))[4].get("episode") for _ in range(20)]
    assert [t for t, episode in enumerate(ends) if episode] == [9, 19]  # of 10 steps each
    assert ends[-1]["l"].tolist() == [10, 10]


# --- fleets -----------------------------------------------------------------------------------------------------------


def test_a_fleet_shows_the_difference_of_preprocessed_screens():
    config = Config(num_envs=2, hold="2-4", noop_max=5, max_frames=90, emulator="ale")
    fleet, envs = make_fleet(config), make_pong(config)
    actions = actions_from(9, 80, 2, lowest=-1)
    moving = []
    for its_seeds in (seeds(1, 2), None):  # then new games with the random streams running on
        screens, _ = envs.reset(seed=its_seeds)
        assert torch.equal(fleet.reset(its_seeds).dense(), torch.zeros(2, PIXELS))
        for moment in actions:
            before = preprocess(screens).astype(int)
            screens, rewards, _, truncations, infos = envs.step(moment)
            expected = (preprocess(screens) - before).reshape(2, PIXELS)
            expected[truncations] = 0  # a new game's first
            played = fleet.step(moment, moment >= 0)
            np.testing.assert_array_equal(played.observations.dense(), expected)
            np.testing.assert_array_equal(played.rewards, rewards)
            np.testing.assert_array_equal(played.dones, truncations)
            np.testing.assert_array_equal(played.frames, infos["frames"])
            moving.append(expected.any(axis=1)[(moment >= 0) & ~truncations])
    assert np.concatenate(moving).mean() > 0.5
    fleet.close()
    assert fleet.envs.closed


def test_make_fleet_passes_the_configs_task_on(monkeypatch):
    built = []

    def pong(num_envs, *hold, **settings):
        built.append((num_envs, *hold, settings))
        return SimpleNamespace(num_envs=num_envs)

    monkeypatch.setattr("pong.envs.pong.ale.Pong", pong)
    ale = Config(emulator="ale")
    first = make_fleet(
        ale.model_copy(update={"num_envs": 5, "hold": 3, "sticky": 0.1, "noop_max": 30, "max_frames": 1000})
    )
    second = make_fleet(  # 0: as long as the console's clock runs
        ale.model_copy(update={"num_envs": 3, "hold": "2-4", "noop_max": 7, "max_frames": 0, "actions": 3}), 2
    )
    assert built == [
        (5, 3, {"sticky": 0.1, "noop_max": 30, "max_frames": 1000, "actions": 2}),
        (2, "2-4", {"sticky": 0.25, "noop_max": 7, "max_frames": 65_209, "actions": 3}),
    ]
    assert (first.num_envs, second.num_envs) == (5, 2)
