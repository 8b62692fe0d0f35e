"""The emulators play gymnasium's Pong-v0, frame for frame, hold for hold, from the seeds they were given."""

import ctypes
import multiprocessing
import os
import signal
import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from pong.config import Config
from pong.envs import NO_CAP, FixedHoldPong, RandomHoldPong, make_envs
from pong.frames import PIXELS, DifferenceFrames

KINDS = ["random hold", "hold 4"]
GYM_ACTION = {1: 2, 0: 3, -1: 0}  # ours → Pong-v0's: 2 and 3 as in the gist, and its NOOP


def build(kind, num_envs, sticky=0.0, num_threads=1):
    if kind == "random hold":
        return RandomHoldPong(num_envs, sticky=sticky, max_frames=NO_CAP)
    return FixedHoldPong(num_envs, 4, sticky=sticky, noop_max=0, max_frames=NO_CAP, num_threads=num_threads)


def actions_from(seed, *shape):
    return np.random.default_rng(seed).integers(2, size=shape)


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
        total = 0
        for _ in range(hold):
            self.screen, reward, terminated, truncated, _ = self.env.step(GYM_ACTION[action])
            total += reward
            if terminated:
                self.screen, _ = self.env.reset()
                break
        assert not truncated
        return self.screen, total, terminated


@pytest.mark.parametrize("kind", KINDS)
def test_without_stickiness_a_whole_game_equals_gymnasiums_frame_for_frame(kind, pong_v0):
    original = FrameByFrame(pong_v0)
    lowest = 0 if kind == "random hold" else -1  # a fleet in lockstep plays NOOP where there is no decision
    scores, after_the_end = [0], 0
    with closing(build(kind, 1)) as envs:
        screens, _ = envs.reset(seed=seeds(3))
        np.testing.assert_array_equal(screens[0], original.screen)
        for action in np.random.default_rng(0).integers(lowest, 2, size=3000):
            screens, rewards, terminations, truncations, infos = envs.step(np.array([action]))
            screen, reward, ended = original.step(int(action), int(infos["hold"][0]))
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


def test_random_hold_is_the_unmodified_pong_v0(pong_v0):
    # From one seed, with nothing switched off: the same holds, the same stickiness, the same game to its end, the same
    # next game, and the same again after a reset that lets the random streams run on.
    original = pong_v0(obs_type="grayscale")
    screen, _ = original.reset(seed=1)
    frame, ends = 0, []
    with closing(build("random hold", 1, sticky=0.25)) as envs:
        screens, _ = envs.reset(seed=seeds(1))
        np.testing.assert_array_equal(screens[0], screen)
        for t, action in enumerate(actions_from(1, 3000)):
            screens, rewards, terminations, truncations, infos = envs.step(np.array([action]))
            screen, reward, terminated, truncated, info = original.step(GYM_ACTION[int(action)])
            assert (rewards[0], terminations[0], truncations[0]) == (reward, terminated, truncated)
            assert infos["hold"][0] == info["frame_number"] - frame  # the frames that were really played
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


def test_a_fixed_hold_is_what_it_says():
    with closing(FixedHoldPong(2, 3, sticky=0.0, noop_max=0, max_frames=NO_CAP, num_threads=1)) as envs:
        envs.reset(seed=seeds(1, 2))
        assert envs.step(np.array([0, 1]))[4]["hold"].tolist() == [3, 3]


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_hold():
    """Two sticky emulators, for the tests that seed them anew."""
    with closing(build("random hold", 2, sticky=0.25)) as envs:
        yield envs


def play(envs, its_seeds, actions):
    """Screens (T + 1, N, 210, 160) and holds (T, N) of new games; ``actions`` is (T, N)."""
    screens, holds = [envs.reset(seed=its_seeds)[0]], []
    for moment in actions:
        screen, *_, infos = envs.step(moment)
        screens.append(screen)
        holds.append(infos["hold"])
    return np.stack(screens), np.stack(holds)


def test_the_same_seeds_give_the_same_game_and_holds(random_hold):
    actions = actions_from(2, 120, 1).repeat(2, axis=1)  # both emulators do the same
    screens, holds = play(random_hold, seeds(11, 12), actions)
    assert (screens[:, 0] != screens[:, 1]).any()  # and yet play different games
    assert (holds[:, 0] != holds[:, 1]).any()
    again, holds_again = play(random_hold, seeds(11, 12), actions)
    np.testing.assert_array_equal(again, screens)
    np.testing.assert_array_equal(holds_again, holds)
    swapped, holds_swapped = play(random_hold, seeds(12, 11), actions)  # a game depends on its own seed alone
    np.testing.assert_array_equal(swapped, screens[:, ::-1])
    np.testing.assert_array_equal(holds_swapped, holds[:, ::-1])


def test_sticky_actions_depend_on_the_seed_and_not_on_the_number_of_threads():
    actions = actions_from(3, 100, 1).repeat(3, axis=1)  # all emulators do the same
    one, three = (play(build("hold 4", 3, 0.25, threads), seeds(5, 6, 5), actions)[0] for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(one[:, 0], one[:, 2])
    assert (one[:, 0] != one[:, 1]).any()  # stickiness is all that a seed decides here


# --- no decision ------------------------------------------------------------------------------------------------------


def test_an_emulator_without_a_decision_stands_still_and_misses_nothing(random_hold):
    # Two emulators with one seed: while the one plays 60 steps the other waits, then the other way round. Both must
    # have seen the same game; a frame, a hold or a draw of stickiness spent on waiting would set them apart.
    screens, _ = random_hold.reset(seed=seeds(31, 31))
    start = screens[1].copy()
    actions = actions_from(6, 60)
    games = []
    for player in (0, 1):
        seen = []
        waiting = screens[1 - player].copy()
        for action in actions:
            moment = np.full(2, -1)
            moment[player] = action
            screens, rewards, terminations, truncations, infos = random_hold.step(moment)
            np.testing.assert_array_equal(screens[1 - player], waiting)
            assert infos["hold"][1 - player] == rewards[1 - player] == 0
            assert not terminations[1 - player]
            assert not truncations[1 - player]
            seen.append((screens[player], rewards[player], infos["hold"][player]))
        games.append(seen)
        assert (screens[player] != start).any()
    for first, second in zip(*games, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        assert first[1:] == second[1:]


def test_all_may_wait(random_hold):
    screens, _ = random_hold.reset(seed=seeds(41, 42))
    waited, rewards, terminations, truncations, infos = random_hold.step(np.array([-1, -1]))
    np.testing.assert_array_equal(waited, screens)
    assert not np.concatenate([rewards, terminations, truncations, infos["hold"]]).any()


def test_screens_handed_out_stay_what_they_were(random_hold):
    fixed = build("hold 4", 1)
    for envs, its_seeds in ((random_hold, seeds(1, 2)), (fixed, seeds(1))):
        first, _ = envs.reset(seed=its_seeds)
        kept = [first] + [envs.step(np.ones(envs.num_envs, int))[0] for _ in range(5)]
        copies = [screen.copy() for screen in kept]
        envs.step(np.zeros(envs.num_envs, int))
        for screen, copy in zip(kept, copies, strict=True):
            np.testing.assert_array_equal(screen, copy)


# --- processes --------------------------------------------------------------------------------------------------------


def signals():
    """How this process takes Ctrl-C, whose group it hears it with, and (Linux) what happens when its parent dies."""
    when_the_parent_dies = ctypes.c_int()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(2, ctypes.byref(when_the_parent_dies))  # PR_GET_PDEATHSIG
    return str(signal.getsignal(signal.SIGINT)), os.getpgrp(), when_the_parent_dies.value


def build_and_report(report):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signals()
    build("random hold", 1).close()
    report.send((before, signals()))


def test_building_emulators_leaves_the_process_that_trains_its_signals():
    # An emulator's process does not hear Ctrl-C and dies with its parent. The one that trains must hear it and live,
    # although AsyncVectorEnv builds an emulator there too, to look at its spaces. (A fresh process plays its part: this
    # one may lead its group, which could not be told from having made one.)
    receive, send = multiprocessing.Pipe(duplex=False)
    trainer = multiprocessing.Process(target=build_and_report, args=(send,))
    trainer.start()
    send.close()
    before, after = receive.recv()
    trainer.join()
    assert after == before


def test_closing_ends_the_emulators_processes():
    before = set(multiprocessing.active_children())
    envs = build("random hold", 2)
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    envs.close()
    assert not started & set(multiprocessing.active_children())


# --- actions ----------------------------------------------------------------------------------------------------------


def paddle(screen):
    """Mean row of the agent's paddle: the right one, green (luminance 147), at columns 140 to 143."""
    rows = np.flatnonzero((screen[34:194, 140:144] == 147).all(axis=1))
    assert len(rows) > 0
    return rows.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_action_1_moves_the_agents_paddle_up_and_action_0_down(kind):
    rows = []
    with closing(build(kind, 1)) as envs:
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


# --- make_envs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch):
    """The fleets that make_envs asks for, without building any: a list of (class, arguments, settings)."""
    calls = []
    for name in ("FixedHoldPong", "RandomHoldPong"):
        monkeypatch.setattr(f"pong.envs.{name}", lambda *args, name=name, **kwargs: calls.append((name, args, kwargs)))
    monkeypatch.setattr("pong.envs.DifferenceFrames", lambda fleet: fleet)
    return calls


def test_make_envs_picks_the_fleet_by_the_hold_and_passes_the_task_on(built):
    make_envs(Config(num_envs=5, hold=3, sticky=0.1, noop_max=30, max_frames=1000, emulator_threads=2))
    make_envs(Config(num_envs=3, hold="2-4", sticky=0.25, noop_max=0, max_frames=0))  # 0: no cap
    assert built == [
        ("FixedHoldPong", (5, 3), {"sticky": 0.1, "noop_max": 30, "max_frames": 1000, "num_threads": 2}),
        ("RandomHoldPong", (3,), {"sticky": 0.25, "max_frames": 2**31 - 1}),
    ]


@pytest.mark.parametrize("hold", [4, "2-4"])
def test_make_envs_gives_difference_frames_and_cuts_at_max_frames(hold):
    envs = make_envs(Config(num_envs=2, hold=hold, sticky=0.0, max_frames=80, emulator_threads=1))
    assert isinstance(envs, DifferenceFrames)
    assert envs.num_envs == 2
    assert envs.single_action_space == gymnasium.spaces.Discrete(2)
    assert envs.action_space == gymnasium.spaces.MultiDiscrete([2, 2])
    assert envs.observation_space == gymnasium.spaces.Box(-1, 1, (2, PIXELS), np.int8)
    assert envs.unwrapped.single_observation_space == gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)
    assert envs.unwrapped.observation_space == gymnasium.spaces.Box(0, 255, (2, 210, 160), np.uint8)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP

    observations, _ = envs.reset(seed=seeds(1, 2))
    assert envs.observation_space.contains(observations)
    assert not observations.any()
    left = np.full(2, 80)  # frames until a game is cut
    cuts, moving = 0, []
    for action in actions_from(7, 60, 2):
        observations, rewards, terminations, truncations, infos = envs.step(action)
        assert (rewards.dtype, rewards.shape) == (np.float32, (2,))
        assert envs.observation_space.contains(observations)
        left -= infos["hold"]
        np.testing.assert_array_equal(truncations, left <= 0)
        assert not terminations.any()
        assert not observations[truncations].any()  # a new game's first step
        moving.append(observations[~truncations].any())
        left[truncations] = 80
        cuts += truncations.sum()
    assert cuts >= 4
    assert np.mean(moving) > 0.5
    envs.close()
