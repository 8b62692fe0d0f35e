"""Frames: real screens in both colour codes, differences by hand, and sparse rows that lose nothing."""

import contextlib

import ale_py
import gymnasium
import karpathy_numpy
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.utils.passive_env_checker import check_action_space, check_observation_space
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from pong.observations import (
    BEFORE,
    EARLIER,
    NOTHING,
    NOW,
    PIXELS,
    DifferenceFrames,
    RowLayout,
    SparseFrames,
    preprocess,
)

SCREENS = 2_000
exact = settings(deadline=None, derandomize=True, max_examples=40)  # the same examples on every machine


# --- real screens -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(pong_v0):
    """2,000 screens of the unmodified Pong-v0, more than one game, preprocessed in three ways: each (2000, 80, 80)."""
    env = pong_v0()
    ale = env.unwrapped.ale
    actions = np.random.default_rng(0).integers(env.action_space.n, size=SCREENS)  # all six actions
    ways = {"luminance": [], "colour": [], "reference": []}
    games = 0
    env.reset(seed=0)
    for action in actions:
        colour, _, terminated, _, _ = env.step(action)
        luminance = ale.getScreenGrayscale()
        ways["luminance"].append(preprocess(luminance))
        ways["colour"].append(preprocess(colour))
        ways["reference"].append(karpathy_numpy.preprocess(colour, np.uint8))
        if terminated:
            env.reset()
            games += 1
    env.close()
    assert games >= 1
    return {way: np.stack(frames) for way, frames in ways.items()}


@pytest.mark.parametrize("way", ["luminance", "colour"])
def test_real_screens_give_what_the_reference_gives_bit_for_bit(seen, way):
    assert seen[way].shape == (SCREENS, 80, 80)
    assert seen[way].dtype == np.uint8
    np.testing.assert_array_equal(seen[way], seen["reference"])


def test_real_screens_show_a_game(seen):
    # Agreement on empty frames would say nothing. The paddles and the ball fill 1 % or so of the field, and most
    # frames differ from the one before.
    assert 0.002 < seen["reference"].mean() < 0.05
    assert (seen["reference"][1:] != seen["reference"][:-1]).any(axis=(1, 2)).mean() > 0.9


@pytest.mark.parametrize("code", ["luminance", "colour"])
def test_preprocess_crops_halves_and_erases(code):
    # (row, column, value) of the screen → the pixel it becomes, or None where the rule never looks
    backgrounds = {"luminance": (87, 107), "colour": (144, 109)}[code]
    pixels = [
        (35, 0, 236, (0, 0)),  # first row and column kept
        (193, 158, 1, (79, 79)),  # last row and column kept; the faintest value there is
        (37, 4, 255, (1, 2)),
        (34, 20, 236, None),  # the wall above the play field
        (195, 22, 236, None),  # the wall below it
        (36, 26, 236, None),  # 36 − 35 is odd
        (35, 27, 236, None),  # an odd column
        *((39 + 2 * i, 8, v, None) for i, v in enumerate(backgrounds)),
        *((49 + 2 * i, 8, v + 1, (7 + i, 4)) for i, v in enumerate(backgrounds)),  # a neighbour is no background
        *((59 + 2 * i, 8, v - 1, (12 + i, 4)) for i, v in enumerate(backgrounds)),
    ]
    screen = np.zeros((210, 160), np.uint8)
    expected = np.zeros((80, 80), np.uint8)
    for row, column, value, place in pixels:
        screen[row, column] = value
        if place is not None:
            expected[place] = 1
    if code == "colour":
        screen = np.stack([screen, screen[::-1], np.full_like(screen, 77)], axis=-1)  # only red counts
    before = screen.copy()
    np.testing.assert_array_equal(preprocess(screen), expected)
    np.testing.assert_array_equal(screen, before)


@pytest.mark.parametrize("shape", [(210, 160), (210, 160, 3)])
@pytest.mark.parametrize("batch", [(0,), (1,), (3,), (2, 3)])
def test_preprocess_keeps_batch_dimensions(shape, batch):
    screens = np.random.default_rng(1).choice(np.array([0, 87, 107, 109, 144, 147, 236], np.uint8), (*batch, *shape))
    frames = preprocess(screens)
    assert frames.shape == (*batch, 80, 80)
    for index in np.ndindex(batch):
        np.testing.assert_array_equal(frames[index], preprocess(screens[index]))


@pytest.mark.parametrize(
    "shape", [(), (160,), (160, 210), (210, 160, 1), (210, 160, 4), (84, 84), (3, 210, 161), (2, 209, 160)]
)
def test_preprocess_names_a_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"screen must be .*210, 160, 3.*got ") as error:
        preprocess(np.zeros(shape, np.uint8))
    assert str(error.value).endswith(str(shape))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.bool_])
def test_preprocess_names_a_wrong_dtype(dtype):
    with pytest.raises(ValueError, match=f"uint8, got {np.dtype(dtype)}"):
        preprocess(np.zeros((210, 160), dtype))


# --- differences by hand ----------------------------------------------------------------------------------------------


def screen(*lit):
    """A luminance screen whose play field is background but for the pixels (0, k) that are lit."""
    picture = np.full((210, 160), 87, np.uint8)
    picture[35, [2 * k for k in lit]] = 236
    return picture


def row(**signs):
    """A difference frame: ``row(plus=[3], minus=[1])`` is +1 at pixel 3 and −1 at pixel 1."""
    frame = np.zeros(PIXELS, np.int8)
    frame[signs.get("plus", [])] = 1
    frame[signs.get("minus", [])] = -1
    return frame


class Scripted(VectorEnv):
    """Two emulators that show what the script says, whatever the actions; each step overwrites the screens."""

    # per step: screens, rewards, terminations, truncations
    SCRIPT = (
        ((screen(1), screen(6)), (0, 0), (0, 0), (0, 0)),
        ((screen(1, 2), screen(7)), (-1, 1), (0, 0), (0, 0)),  # points, but no game ends
        ((screen(3), screen(5)), (0, 1), (0, 1), (0, 0)),  # emulator 1's game ends, the screen is the new game's
        ((screen(), screen(6)), (1, 0), (1, 0), (0, 0)),  # emulator 0's ends, in an empty field
        ((screen(0), screen(8)), (0, 0), (0, 0), (0, 1)),  # emulator 1 is cut off and starts anew
        ((screen(4), screen(2)), (0, 0), (0, 0), (0, 0)),
    )

    def __init__(self):
        self.num_envs = 2
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (210, 160), np.uint8)
        self.observation_space = gymnasium.spaces.Box(0, 255, (2, 210, 160), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, 2)
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        self.screens = np.empty((2, 210, 160), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.moment = 0
        self.screens[:] = screen(0), screen(5)
        return self.screens, {"seed": seed}

    def step(self, actions):
        self.screens[:], rewards, terminations, truncations = self.SCRIPT[self.moment]
        self.moment += 1
        ended = np.array(terminations, bool), np.array(truncations, bool)
        return self.screens, np.array(rewards, np.float32), *ended, {"actions": actions, "frames": 10 + actions}


@pytest.fixture
def envs():
    return DifferenceFrames(Scripted())


# this frame minus the previous; zeros where the screen is a new game's first
DIFFERENCES = (
    (row(plus=[1], minus=[0]), row(plus=[6], minus=[5])),
    (row(plus=[2]), row(plus=[7], minus=[6])),  # pixel 1 stays lit: no change there, and a point resets nothing
    (row(plus=[3], minus=[1, 2]), row()),
    (row(), row(plus=[6], minus=[5])),  # the new game's second frame minus its first, not minus the old game's last
    (row(plus=[0]), row()),
    (row(plus=[4], minus=[0]), row(plus=[2], minus=[8])),
)


def test_differences_are_this_frame_minus_the_previous_of_the_same_game(envs):
    observations, _ = envs.reset()
    assert observations.dtype == np.int8
    np.testing.assert_array_equal(observations, np.zeros((2, PIXELS)))
    for expected in DIFFERENCES:
        observations, *_ = envs.step(np.zeros(2, int))
        assert observations.dtype == np.int8
        np.testing.assert_array_equal(observations, np.stack(expected))


def games(shown, mode):
    """Two games of the real thing, cut off after a few decisions."""
    return gymnasium.make_vec(
        "ALE/Pong-v5",
        2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        obs_type=shown,
        max_num_frames_per_episode=40,
    )


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("shown", ["rgb", "grayscale"])
def test_differences_are_those_of_preprocess_however_games_restart(shown, mode):
    """Each screen as ``preprocess`` makes it, minus the one before; a game's first screen has none before it."""
    with contextlib.closing(games(shown, mode)) as plain, contextlib.closing(games(shown, mode)) as wrapped:
        envs = DifferenceFrames(wrapped)
        before = preprocess(plain.reset(seed=[3, 4])[0]).astype(np.int8)
        assert not envs.reset(seed=[3, 4])[0].any()
        over, firsts, moved = np.zeros(2, bool), 0, 0
        for number in range(60):
            actions = np.array([2, 3]) if number % 9 < 5 else np.array([3, 2])
            screens, _, terminations, truncations, _ = plain.step(actions)
            now, done = preprocess(screens).astype(np.int8), terminations | truncations
            fresh = over if mode == AutoresetMode.NEXT_STEP else done
            expected = np.where(fresh[:, None, None], 0, now - before).reshape(2, PIXELS)
            np.testing.assert_array_equal(envs.step(actions)[0], expected)
            firsts, moved = firsts + fresh.sum(), moved + bool(expected.any())
            before, over = now, done
        assert firsts >= 8
        assert moved > 40


def test_environments_that_show_something_else_or_do_not_restart_are_refused():
    found = r"autoreset_mode .*DISABLED; make it with AutoresetMode\.SAME_STEP"
    with contextlib.closing(games("rgb", AutoresetMode.DISABLED)) as envs, pytest.raises(ValueError, match=found):
        DifferenceFrames(envs)
    found = r"^screens must be \(210, 160, 3\) or \(210, 160\), uint8; .* shows Box"
    with contextlib.closing(gymnasium.make_vec("CartPole-v1", 2)) as envs, pytest.raises(ValueError, match=found):
        DifferenceFrames(envs)


def test_reset_in_the_middle_of_a_game_starts_at_zero_again(envs):
    envs.reset()
    envs.step(np.zeros(2, int))
    envs.step(np.zeros(2, int))
    observations, _ = envs.reset()
    np.testing.assert_array_equal(observations, np.zeros((2, PIXELS)))
    observations, *_ = envs.step(np.zeros(2, int))
    np.testing.assert_array_equal(observations, np.stack(DIFFERENCES[0]))  # minus the reset's frame


def test_observations_stay_what_they_were(envs):
    kept = [envs.reset()[0]] + [envs.step(np.zeros(2, int))[0] for _ in DIFFERENCES]
    np.testing.assert_array_equal(kept[0], np.zeros((2, PIXELS)))
    np.testing.assert_array_equal(kept[1], np.stack(DIFFERENCES[0]))


def test_all_but_the_observations_passes_through(envs):
    _, infos = envs.reset(seed=7)
    assert infos == {"seed": 7}
    for _, rewards, terminations, truncations in Scripted.SCRIPT:
        _, *got, infos = envs.step(np.array([1, -1]))
        assert [list(values) for values in got] == [list(rewards), list(terminations), list(truncations)]
        assert infos["actions"].tolist() == [1, -1]


def test_difference_frames_declare_their_spaces(envs):
    assert envs.num_envs == 2
    assert envs.single_observation_space == gymnasium.spaces.Box(-1, 1, (PIXELS,), np.int8)
    assert envs.observation_space == gymnasium.spaces.Box(-1, 1, (2, PIXELS), np.int8)
    assert envs.observation_space.contains(envs.reset()[0])
    assert envs.observation_space.contains(envs.step(np.zeros(2, int))[0])


# --- sparse rows ------------------------------------------------------------------------------------------------------


@st.composite
def difference_frames(draw, rows=None):
    """(B, 6400) int8 in {−1, 0, 1}, mostly zero, some rows empty; B may be 0."""
    rows = draw(st.integers(0, 6)) if rows is None else rows
    changes = st.dictionaries(st.integers(0, PIXELS - 1), st.sampled_from([-1, 1]), max_size=12)
    frames = np.zeros((rows, PIXELS), np.int8)
    for b in range(rows):
        for column, sign in draw(changes).items():
            frames[b, column] = sign
    return frames


# row 0: +1 at 3, −1 at 6399; row 1: nothing; row 2: −1 at 0, +1 at 3, −1 at 4; row 3: nothing
BY_HAND = np.stack([row(plus=[3], minus=[6399]), row(), row(plus=[3], minus=[0, 4]), row()])


def equal(a, b):
    """The same rows, kept in the same way: values and dtypes."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("columns", "signs", "offsets")]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def test_sparse_by_hand():
    sparse = SparseFrames.from_dense(BY_HAND)
    assert len(sparse) == 4
    assert sparse.columns.tolist() == [3, 6399, 0, 3, 4]
    assert sparse.signs.tolist() == [1, -1, -1, 1, -1]
    assert sparse.offsets.tolist() == [0, 2, 2, 5]  # an empty row begins where the next one does
    assert sparse.counts().tolist() == [2, 0, 3, 0]
    types = [sparse.columns.dtype, sparse.signs.dtype, sparse.offsets.dtype, sparse.counts().dtype]
    assert types == [torch.int32, torch.float32, torch.int32, torch.int32]


@exact
@given(difference_frames())
def test_from_dense_and_back_loses_nothing(frames):
    sparse = SparseFrames.from_dense(frames)
    assert len(sparse) == len(frames)
    np.testing.assert_array_equal(sparse.counts(), np.count_nonzero(frames, axis=1))
    np.testing.assert_array_equal(sparse.dense(torch.int8).numpy(), frames)


@exact
@given(st.lists(difference_frames(), min_size=1, max_size=4))
def test_cat_is_concatenation(parts):
    joined = SparseFrames.cat([SparseFrames.from_dense(part) for part in parts])
    assert equal(joined, SparseFrames.from_dense(np.concatenate(parts)))


@exact
@given(difference_frames(rows=5), st.lists(st.integers(0, 4), max_size=9))
def test_indexing_gives_the_rows_asked_for_in_that_order(frames, rows):
    rows = np.array(rows, np.int64)  # any of them, some more than once, or none
    assert equal(SparseFrames.from_dense(frames)[torch.from_numpy(rows)], SparseFrames.from_dense(frames[rows]))


@exact
@given(difference_frames())
def test_transposed_is_the_transposed_matrix(frames):
    sparse = SparseFrames.from_dense(frames)
    transposed = sparse.transposed
    assert (len(transposed), transposed.width) == (PIXELS, len(frames))
    assert torch.equal(transposed.dense(torch.int8), torch.from_numpy(frames.T.copy()))
    assert equal(transposed.transposed, sparse)  # each row's pixels in order
    assert transposed is sparse.transposed  # made once
    table = torch.arange(3.0 * len(frames)).view(-1, 3) - 4  # small whole numbers: sums are exact
    assert torch.equal(transposed @ table, torch.from_numpy(frames.T.astype(np.float32)) @ table)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_frames_without_a_change_are_rows_all_the_same(rows):
    sparse = SparseFrames.from_dense(np.zeros((rows, PIXELS), np.int8))
    assert len(sparse) == rows
    assert len(sparse.columns) == len(sparse.signs) == 0
    assert sparse.offsets.tolist() == [0] * rows
    assert torch.equal(sparse.dense(), torch.zeros(rows, PIXELS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8])
def test_dense_has_the_dtype_asked_for(dtype):
    dense = SparseFrames.from_dense(BY_HAND).dense(dtype)
    assert dense.dtype == dtype
    assert torch.equal(dense, torch.from_numpy(BY_HAND).to(dtype))
    assert SparseFrames.from_dense(BY_HAND).dense().dtype == torch.float32


def test_from_dense_takes_rows_that_are_not_contiguous_and_keeps_nothing_of_them():
    frames = np.asfortranarray(np.repeat(BY_HAND, 2, axis=0))[::2]
    sparse = SparseFrames.from_dense(frames)
    assert equal(sparse, SparseFrames.from_dense(BY_HAND))
    frames[:] = 0
    np.testing.assert_array_equal(sparse.dense(torch.int8).numpy(), BY_HAND)


def test_to_keeps_the_rows():
    sparse = SparseFrames.from_dense(BY_HAND)
    assert equal(sparse.to("cpu"), sparse)
    moved = sparse.to("meta")
    assert {part.device.type for part in (moved.columns, moved.signs, moved.offsets)} == {"meta"}


def test_indexing_a_row_that_does_not_exist_raises():
    frames = np.zeros((3, PIXELS), np.int8)
    with pytest.raises(IndexError, match="3"):
        SparseFrames.from_dense(frames)[torch.tensor([0, 3])]


@exact
@given(difference_frames(rows=3), st.integers(1, 4))
def test_split_gives_consecutive_rows(frames, rows):
    parts = SparseFrames.from_dense(frames).split(rows)
    assert equal(SparseFrames.cat(parts), SparseFrames.from_dense(frames))
    assert [len(part) for part in parts] == [len(part) for part in np.array_split(frames, range(rows, 3, rows))]


# --- rows of Pong -----------------------------------------------------------------------------------------------------

EXPECTED = {"difference": ["minus"], "both": ["now", "minus"], "three": ["now", "minus", "minus before"]}


@exact
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(EXPECTED)), st.sampled_from([0, 2, 6]))
def test_row_layout_puts_differences_and_the_last_action_side_by_side(seed, kind, actions):
    rng, n = np.random.default_rng(seed), 3
    frames = rng.integers(2, size=(4, n, PIXELS)).astype(np.int8)
    frames[NOTHING] = 0
    last_actions = rng.integers(-1, max(actions, 1), size=n)
    layout = RowLayout(kind, actions)
    before, now = frames[BEFORE], frames[NOW]
    parts = {"now": now, "minus": now - before, "minus before": before - frames[EARLIER]}
    one_hot = np.zeros((n, actions))
    for i, action in enumerate(last_actions):
        if actions and action >= 0:
            one_hot[i, action] = 1
    rows = layout.rows(frames, last_actions)
    expected = np.concatenate([*(parts[name] for name in EXPECTED[kind]), one_hot], axis=1)
    np.testing.assert_array_equal(rows.dense().numpy(), expected)
    assert rows.width == layout.width == expected.shape[1]
    assert layout.shape == (len(EXPECTED[kind]), 80, 80)


def test_the_wrapper_passes_gymnasiums_checks_on_its_own_vector_environment():
    """ALE/Pong-v5 as gymnasium makes it, with native luminance screens."""
    gymnasium.register_envs(ale_py)
    made = gymnasium.make_vec(
        "ALE/Pong-v5",
        2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        obs_type="grayscale",
    )
    envs = DifferenceFrames(made)
    for space in (envs.observation_space, envs.single_observation_space):
        check_observation_space(space)
    check_action_space(envs.single_action_space)
    observations, _ = envs.reset(seed=[1, 2])
    assert observations in envs.observation_space
    for _ in range(30):
        observations, rewards, terminations, truncations, _ = envs.step(envs.action_space.sample())
        assert observations in envs.observation_space
        assert rewards.shape == terminations.shape == truncations.shape == (2,)
    assert observations.any()
    assert data_equivalence(envs.reset(seed=[1, 2])[0], envs.reset(seed=[1, 2])[0])
    envs.close()
