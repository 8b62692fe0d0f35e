"""pong/Pong-v5 is ALE/Pong-v5: the same spaces, observations, rewards, ends and infos, from the same seeds."""

import runpy
import sys
from types import SimpleNamespace

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.error import ClosedEnvironmentError, Error, InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from small_runs import ROOT
from verify_machine import read

import pong.envs  # noqa: F401 (registers the environment)
from pong.envs.pong.screen import STATE
from pong.observations import DifferenceFrames

gymnasium.register_envs(ale_py)
OURS, ALE = "pong/Pong-v5", "ALE/Pong-v5"
OBS_TYPES = ("rgb", "grayscale", "atari", "karpathy", "state")
SETTINGS = {
    "defaults": {},
    "ranges": {"frameskip": (2, 5), "full_action_space": True, "repeat_action_probability": 0.5},
    "truncated": {"frameskip": 3, "max_num_frames_per_episode": 200, "repeat_action_probability": 0.0},
}


def make(obs_type="rgb", **settings):
    return gymnasium.make(OURS, obs_type=obs_type, **settings)


def vector(env, num_envs=3, *, mode=AutoresetMode.NEXT_STEP, sync=False, **settings):
    """Our vector environment, or gymnasium's of ALE's or of our own."""
    if env == OURS and not sync:
        return gymnasium.make_vec(OURS, num_envs, autoreset_mode=mode, **settings)
    kwargs = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": mode}}
    return gymnasium.make_vec(env, num_envs, **kwargs, **settings)


def assert_same(ours, expected):
    assert data_equivalence(ours, expected, exact=True)


# --- the same as ALE's ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_environment_is_ales(obs_type, settings):
    settings = {"obs_type": obs_type, "render_mode": "rgb_array", **settings}
    ales, ours = gymnasium.make(ALE, **settings), gymnasium.make(OURS, **settings)
    check_environments_match(ales, ours, num_steps=600, seed=3, info_comparison="equivalence")
    assert ours.unwrapped.get_action_meanings() == ales.unwrapped.get_action_meanings()
    assert ours.unwrapped.get_keys_to_action() == ales.unwrapped.get_keys_to_action()
    assert ours.unwrapped.np_random.bit_generator.state == ales.unwrapped.np_random.bit_generator.state


def test_screens_show_all_points():
    ales, ours = gymnasium.make(ALE, frameskip=2), make(frameskip=2)
    ales.reset(seed=1), ours.reset(seed=1)
    (game,) = ours.unwrapped._games._step.games
    for points in np.ndindex(21, 21):  # after 21 the game is over
        for byte, name, value in zip((0x0D, 0x0E), ("cpu_points", "own_points"), points, strict=True):
            ales.unwrapped.ale.setRAM(byte, value)
            game[name] = value
        ales.unwrapped.ale.setRAM(0x0B, 30)
        game["pause"] = 30
        np.testing.assert_array_equal(ours.step(0)[0], ales.step(0)[0], err_msg=str(points))


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("env", "own"), [(ALE, {}), (OURS, {"two_players": True})], ids=["ale", "two players"])
def test_vector_is_a_sync_vector_env(env, own, mode):
    settings = {"obs_type": "grayscale", "max_num_frames_per_episode": 150, "frameskip": (2, 5), **own}
    ours, expected = vector(OURS, mode=mode, **settings), vector(env, mode=mode, sync=True, **settings)
    assert ours.observation_space == expected.observation_space
    assert ours.action_space == expected.action_space
    assert ours.metadata["autoreset_mode"] == mode
    assert_same(ours.reset(seed=[7, None, 9])[1], expected.reset(seed=[7, None, 9])[1])
    assert_same(ours.reset(seed=5), expected.reset(seed=5))
    random = np.random.default_rng(0)
    for _ in range(150):
        actions = random.integers(0, 6, ours.action_space.shape)
        result = ours.step(actions)
        assert_same(result, expected.step(actions))
        done = result[2] | result[3]
        if mode == AutoresetMode.DISABLED and done.any():
            with pytest.raises(ResetNeeded):
                ours.step(actions)
            assert_same(*(env.reset(options={"reset_mask": done.copy()}) for env in (ours, expected)))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_karpathy_is_difference_frames(mode):
    settings = {"max_num_frames_per_episode": 150}
    ours = vector(OURS, mode=mode, obs_type="karpathy", **settings)
    expected = DifferenceFrames(vector(ALE, mode=mode, obs_type="grayscale", **settings))
    assert ours.single_observation_space == expected.single_observation_space
    assert_same(ours.reset(seed=5)[0], expected.reset(seed=5)[0])
    random = np.random.default_rng(0)
    for _ in range(150):
        actions = random.integers(0, 6, 3)
        assert_same(ours.step(actions)[:4], expected.step(actions)[:4])


def test_state_is_ales_memory():
    ours, ales = make("state"), gymnasium.make(ALE, obs_type="ram")
    ours.reset(seed=1), ales.reset(seed=1)
    for action in np.random.default_rng(0).integers(0, 6, 400).tolist():
        state, *result = ours.step(action)
        assert_same(result, list(ales.step(action)[1:]))
        assert state in ours.observation_space
        state, memory = dict(zip(STATE, state.tolist(), strict=True)), read([ales.unwrapped.ale])
        different = {name for name, value in memory.items() if state[name] != value[0]}
        assert different <= ({"x", "y"} if state["pause"] else set())  # where there is no ball


# --- resized screens --------------------------------------------------------------------------------------------------

STACKS = [  # frames of a decision, NOOPs, frames of a game: that end in each frame of a decision, and with points
    (4, 30, None, 0.25),
    *[(4, 0, 200 + frames, 0.0) for frames in range(4)],
    (3, 5, 100, 0.25),
    *[(2, 0, 50 + frames, 0.25) for frames in range(2)],
    (1, 0, 101, 0.0),
]


@pytest.mark.parametrize(("skip", "noops", "frames", "sticky"), STACKS)
def test_atari_is_gymnasiums_wrappers(skip, noops, frames, sticky):
    pytest.importorskip("cv2")  # comes with gymnasium[other], and is tested in CI
    settings = {"max_num_frames_per_episode": frames, "repeat_action_probability": sticky}
    ales = AtariPreprocessing(gymnasium.make(ALE, frameskip=1, **settings), noop_max=noops, frame_skip=skip)
    expected, ours = FrameStackObservation(ales, 4), make("atari", frameskip=skip, noop_max=noops, **settings)
    check_environments_match(expected, ours, num_steps=500, seed=3, info_comparison="equivalence")


def test_atari_is_ales_vector_environment():
    # whose OpenCV is another one; without sticky actions, for which its seeds differ
    start = {"noop_max": 0, "use_fire_reset": False, "reward_clipping": False}
    expected = AtariVectorEnv("pong", 2, **start)
    ours = vector(OURS, 2, obs_type="atari", repeat_action_probability=0.0)
    np.testing.assert_array_equal(ours.reset(seed=1)[0][:, 3], expected.reset(seed=1)[0][:, 3])
    random, ends = np.random.default_rng(0), 0
    for t in range(1200):
        actions = random.integers(0, 6, 2)
        result, (stacks, *others, _) = ours.step(actions), expected.step(actions)
        ends += int((others[1] | others[2]).sum())
        np.testing.assert_array_equal(result[1], others[0])
        if not ends and t >= 3:  # it fills a new stack with 0
            np.testing.assert_array_equal(result[0], stacks)
    assert ends


def test_wrappers_find_what_they_ask_ale_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(resize=lambda image, *_, **__: image.copy(), INTER_AREA=0))
    ales, ours = (AtariPreprocessing(gymnasium.make(env, frameskip=1)) for env in (ALE, OURS))
    check_environments_match(ales, ours, num_steps=100, seed=1, skip_obs=True, info_comparison="equivalence")
    np.testing.assert_array_equal(ales.step(2)[0], ours.step(2)[0])


# --- its own ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obs_type", OBS_TYPES)
def test_environment_passes_gymnasiums_checks(obs_type):
    check_env(make(obs_type, two_players=obs_type == "state").unwrapped)


@pytest.mark.parametrize("obs_type", OBS_TYPES)
@pytest.mark.parametrize("include_rng", [True, False])
@pytest.mark.parametrize("two", [True, False])
def test_restored_games_go_on_as_they_did(obs_type, include_rng, two):
    sticky = 0.25 * include_rng
    env = vector(OURS, obs_type=obs_type, frameskip=4, repeat_action_probability=sticky, two_players=two)
    env.reset(seed=1)
    actions = np.random.default_rng(0).integers(0, 6, (60, *env.action_space.shape))
    for row in actions:
        env.step(row)
    state = env.clone_state(include_rng)
    first = [env.step(row) for row in actions]
    env.restore_state(state)
    for row, expected in zip(actions, first, strict=True):
        assert_same(env.step(row), expected)


def test_observations_are_copies_unless_told():
    for copy in (True, False):
        env = vector(OURS, obs_type="atari", copy=copy)
        before = env.reset(seed=1)[0]
        assert (env.step([0, 0, 0])[0] is before) == (not copy)


WRONG = {
    "obs_type": ["ram", "sound"],
    "frameskip": [0, 2.5, (3, 3), (1, 2, 3), True],
    "repeat_action_probability": [1.5],
    "max_num_frames_per_episode": [-1],
    "render_mode": ["ansi"],
    "mode": [1],
    "difficulty": [3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_settings_are_refused_in_one_line(name, value):
    with pytest.raises(Error, match=rf"^pong/Pong-v5: {name} = .* must be [^\n]*$"):
        gymnasium.make_vec(OURS, **{name: value})
    with pytest.raises(Error, match=r"frameskip = .* must be a positive int for atari"):
        gymnasium.make_vec(OURS, obs_type="atari", frameskip=(2, 5))


def test_calls_are_refused_in_one_line():
    env = vector(OURS, obs_type="state")
    with pytest.raises(ResetNeeded):
        env.step([0, 0, 0])
    env.reset()
    for actions in ([0, 0], 0, [[0, 0, 0]], [0.0, 0.0, 0.0], [0, 0, 6], [-1, 0, 0]):
        with pytest.raises(InvalidAction, match=r"^[^\n]*$"):
            env.step(actions)
    for seed, options in (([1], None), (None, {"reset_mask": np.zeros(3, bool)}), (None, {"reset_mask": [True]})):
        with pytest.raises(ValueError, match=r"seed|reset_mask"):
            env.reset(seed=seed, options=options)
    with pytest.raises(Error, match="render_mode"):
        env.render()
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.step([0, 0, 0])


# --- two players ------------------------------------------------------------------------------------------------------

NOOP, FIRE, UP, DOWN = range(4)


def duel(right, left, sticky=0.0):
    """The states after each frame, by name, and the right player's rewards."""
    env = make("state", two_players=True, frameskip=1, repeat_action_probability=sticky)
    env.reset(seed=1)
    states, rewards, *_ = zip(*map(env.step, zip(right, left, strict=True)), strict=True)
    return dict(zip(STATE, np.transpose(states), strict=True)), np.array(rewards)


def test_left_player_returns_the_ball():
    # the serve reaches the left paddle 59 + 60 frames after the reset, at line 188; 13 frames of DOWN take the paddle
    # to line 183, so the ball flies back level: (183 + 6 - 188) >> 1 = 0; FIRE adds a column a frame
    for button, speed in ((NOOP, 1), (FIRE, 2)):
        states, rewards = duel([NOOP] * 140, [DOWN] * 13 + [button] * 127)
        assert [states[name][-1] for name in ("left", "down", "cpu_y", "y")] == [-speed, 0, 183, 188]
        assert not rewards.any()
    assert duel([NOOP] * 140, [NOOP] * 140)[1].sum() == 1


def test_left_paddle_moves_like_the_right_one():
    for actions, last in (([UP] * 50, 38), ([DOWN] * 50, 203), (np.random.default_rng(0).integers(0, 6, 400), None)):
        states, _ = duel(actions, actions)
        np.testing.assert_array_equal(states["cpu_y"], states["own_y"])
        assert last in (None, states["cpu_y"][-1])


def test_left_player_who_follows_the_ball_is_never_behind():
    env = vector(OURS, 8, obs_type="state", two_players=True, frameskip=1)
    states, y, cpu_y, score = env.reset(seed=1)[0].T, STATE.index("y"), STATE.index("cpu_y"), np.zeros(8)
    for right in np.random.default_rng(0).integers(0, 6, (3000, 8)):
        states, rewards, *_ = env.step(np.stack([right, np.where(states[y] < states[cpu_y] - 6, UP, DOWN)], 1))
        states, score = states.T, score - rewards
        assert (score >= 0).all()
    assert (score > 0).all()


def test_second_player_changes_no_random_number_of_the_first():
    actions, env = np.random.default_rng(0).integers(0, 6, (2, 400)), make("state", frameskip=1)
    env.reset(seed=1)
    own_y = [env.step(action)[0][STATE.index("own_y")] for action in actions[0]]
    np.testing.assert_array_equal(duel(*actions, sticky=0.25)[0]["own_y"], own_y)


# --- the examples -----------------------------------------------------------------------------------------------------


def test_ppo_learns_the_same_in_ale():
    pytest.importorskip("cv2")
    ppo = runpy.run_path(str(ROOT / "examples/ppo.py"))
    sizes = {"num_envs": 2, "horizon": 8, "total_steps": 48, "epochs": 1, "minibatches": 2}
    weights = [ppo["main"](ppo["Args"](env, **sizes)).state_dict() for env in (f"pong.envs:{OURS}", f"ale_py:{ALE}")]
    for name, ours in weights[0].items():
        assert torch.equal(ours, weights[1][name]), name


def test_stable_baselines3_plays(monkeypatch):
    pytest.importorskip("stable_baselines3")
    monkeypatch.setattr(sys, "argv", ["sb3.py", "1"])
    assert runpy.run_path(str(ROOT / "examples/sb3.py"))["model"].num_timesteps == 8 * 128
