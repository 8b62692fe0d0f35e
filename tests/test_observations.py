"""Observations: preprocessed screens, differences of frames, sparse rows, and the layout of a row."""

import contextlib

import gymnasium
import karpathy_numpy
import numpy as np
import pytest
import torch
from gymnasium.utils.passive_env_checker import check_observation_space
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import GrayscaleObservation, TransformObservation
from hypothesis import given, settings
from hypothesis import strategies as st
from verify_machine import same_rows

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

exact = settings(deadline=None, derandomize=True, max_examples=40)  # the same examples on every machine


# --- preprocess -------------------------------------------------------------------------------------------------------


def test_preprocess_of_real_screens_equals_numpys(pong_v0):
    """2,000 screens of the unmodified Pong-v0, more than one game, in colour and luminance."""
    env = pong_v0()
    env.reset(seed=0)
    games, frames = 0, []
    for action in np.random.default_rng(0).integers(env.action_space.n, size=2_000):  # all six actions
        colour, _, terminated, _, _ = env.step(action)
        frames.append(karpathy_numpy.preprocess(colour, np.uint8))
        for screen in (colour, env.unwrapped.ale.getScreenGrayscale()):
            np.testing.assert_array_equal(preprocess(screen), frames[-1])
        if terminated:
            env.reset()
            games += 1
    env.close()
    assert games >= 1
    # paddles and ball fill about 1 % of the field, and most frames differ from the one before
    assert 0.002 < np.mean(frames) < 0.05
    assert (np.diff(frames, axis=0) != 0).any(axis=(1, 2)).mean() > 0.9


@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3)])
def test_preprocess_of_any_values_equals_numpys(batch):
    """The luminances 87 and 107 are the reds 144 and 109."""
    rng = np.random.default_rng(1)
    reds = rng.choice(np.array([0, 1, 87, 107, 108, 109, 110, 143, 144, 145, 255], np.uint8), (*batch, 210, 160))
    colours = np.stack([reds, reds[..., ::-1], np.full_like(reds, 77)], axis=-1)  # only red counts
    luminance = np.arange(256, dtype=np.uint8)
    luminance[[144, 109, 87, 107]] = 87, 107, 144, 109
    before = colours.copy()
    frames = preprocess(colours)
    assert (frames.shape, frames.dtype) == ((*batch, 80, 80), np.uint8)
    np.testing.assert_array_equal(preprocess(luminance[reds]), frames)
    np.testing.assert_array_equal(colours, before)
    for index in np.ndindex(batch):
        np.testing.assert_array_equal(frames[index], karpathy_numpy.preprocess(colours[index]))


@pytest.mark.parametrize(
    "shape", [(), (160,), (160, 210), (210, 160, 1), (210, 160, 4), (84, 84), (3, 210, 161), (2, 209, 160)]
)
def test_preprocess_rejects_a_shape(shape):
    with pytest.raises(ValueError, match=r"screen must be .*210, 160, 3.*got ") as error:
        preprocess(np.zeros(shape, np.uint8))
    assert str(error.value).endswith(str(shape))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.bool_])
def test_preprocess_rejects_a_dtype(dtype):
    with pytest.raises(ValueError, match=f"uint8, got {np.dtype(dtype)}"):
        preprocess(np.zeros((210, 160), dtype))


# --- differences ------------------------------------------------------------------------------------------------------


def make_games(screens, mode, max_frames=0):
    """Two emulators of the unmodified game, which miss every ball unless ``max_frames`` truncates it."""
    settings = {
        "obs_type": screens,
        "max_num_frames_per_episode": max_frames,
        "vector_kwargs": {"autoreset_mode": mode},
    }
    return gymnasium.make_vec("ALE/Pong-v5", 2, vectorization_mode="sync", **settings)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("screens", ["rgb", "grayscale"])
@pytest.mark.parametrize("max_frames", [40, 500])
def test_difference_frames_equal_preprocess(screens, mode, max_frames):
    """Each frame minus the one before; 0 at a game's first screen, but not after a point."""
    with contextlib.ExitStack() as stack:
        plain, wrapped = (stack.enter_context(contextlib.closing(make_games(screens, mode, max_frames))) for _ in "ab")
        envs = DifferenceFrames(wrapped)
        before = preprocess(plain.reset(seed=[3, 4])[0]).astype(np.int8)
        observations, expected = [envs.reset(seed=[3, 4])[0]], [np.zeros((2, PIXELS))]
        over, restarts, moves_after_points = np.zeros(2, bool), 0, 0
        for number in range(100):
            actions = np.array([2, 3]) if number % 9 < 5 else np.array([3, 2])
            screen, rewards, terminations, truncations, _ = plain.step(actions)
            now, done = preprocess(screen).astype(np.int8), terminations | truncations
            fresh = over if mode == AutoresetMode.NEXT_STEP else done
            expected.append(np.where(fresh[:, None, None], 0, now - before).reshape(2, PIXELS))
            difference, *others, _ = envs.step(actions)
            np.testing.assert_array_equal(others, [rewards, terminations, truncations])
            observations.append(difference)
            restarts += fresh.sum()
            moves_after_points += (expected[-1].any(1) & (rewards != 0)).sum()
            before, over = now, done
        np.testing.assert_array_equal(observations, expected)  # earlier observations are unchanged
        assert np.any(expected, axis=(1, 2)).mean() > 0.6
        assert restarts >= 8 if max_frames == 40 else moves_after_points >= 2
        assert not envs.reset(seed=[3, 4])[0].any()  # in the middle of a game
        np.testing.assert_array_equal(envs.step(np.array([2, 3]))[0], expected[1])
        assert observations[1] in envs.observation_space
        check_observation_space(envs.single_observation_space)


def make_bgr():
    return TransformObservation(make_games("rgb", AutoresetMode.NEXT_STEP), lambda screens: screens[..., ::-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GrayscaleObservation(make_games("rgb", AutoresetMode.NEXT_STEP)), "shows other colours than ALE's"),
        (make_bgr, "; make it with obs_type rgb or grayscale$"),
        (lambda: make_games("rgb", AutoresetMode.DISABLED), r"autoreset_mode .*DISABLED; make it with AutoresetMode"),
        (lambda: gymnasium.make_vec("CartPole-v1", 2), r"^screens must be \(210, 160, 3\) or .* uint8; .* shows Box"),
    ],
)
def test_difference_frames_rejects_an_environment(make, message):
    with contextlib.closing(make()) as envs, pytest.raises(ValueError, match=message):
        DifferenceFrames(envs).reset(seed=0)


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
BY_HAND = np.zeros((4, PIXELS), np.int8)
BY_HAND[[0, 2], 3] = 1
BY_HAND[[0, 2, 2], [6399, 0, 4]] = -1


def test_from_dense_by_hand():
    sparse = SparseFrames.from_dense(BY_HAND)
    assert len(sparse) == 4
    assert sparse.columns.tolist() == [3, 6399, 0, 3, 4]
    assert sparse.signs.tolist() == [1, -1, -1, 1, -1]
    assert sparse.offsets.tolist() == [0, 2, 2, 5]  # an empty row has the next one's offset
    assert sparse.counts().tolist() == [2, 0, 3, 0]
    types = [sparse.columns.dtype, sparse.signs.dtype, sparse.offsets.dtype, sparse.counts().dtype]
    assert types == [torch.int32, torch.float32, torch.int32, torch.int32]
    for dtype in (torch.float32, torch.float64, torch.int8):
        assert torch.equal(sparse.dense(dtype), torch.from_numpy(BY_HAND).to(dtype))
    assert sparse.dense().dtype == torch.float32


@exact
@given(difference_frames())
def test_dense_inverts_from_dense(frames):
    sparse = SparseFrames.from_dense(frames)
    assert len(sparse) == len(frames)
    np.testing.assert_array_equal(sparse.counts(), np.count_nonzero(frames, axis=1))
    np.testing.assert_array_equal(sparse.dense(torch.int8).numpy(), frames)


@exact
@given(st.lists(difference_frames(), min_size=1, max_size=4))
def test_cat_concatenates_rows(parts):
    joined = SparseFrames.cat([SparseFrames.from_dense(part) for part in parts])
    assert same_rows(joined, SparseFrames.from_dense(np.concatenate(parts)))


@exact
@given(difference_frames(rows=5), st.lists(st.integers(0, 4), max_size=9))
def test_getitem_selects_rows_in_order(frames, rows):
    rows = np.array(rows, np.int64)  # repeated ones, or none
    assert same_rows(SparseFrames.from_dense(frames)[torch.from_numpy(rows)], SparseFrames.from_dense(frames[rows]))


@exact
@given(difference_frames())
def test_transposed_equals_the_transposed_matrix(frames):
    sparse = SparseFrames.from_dense(frames)
    transposed = sparse.transposed
    assert (len(transposed), transposed.width) == (PIXELS, len(frames))
    assert torch.equal(transposed.dense(torch.int8), torch.from_numpy(frames.T.copy()))
    assert same_rows(transposed.transposed, sparse)  # each row's pixels in order
    assert transposed is sparse.transposed  # cached
    table = torch.arange(3.0 * len(frames)).view(-1, 3) - 4  # small whole numbers: sums are exact
    assert torch.equal(transposed @ table, torch.from_numpy(frames.T.astype(np.float32)) @ table)


def test_to_moves_the_rows():
    sparse = SparseFrames.from_dense(BY_HAND)
    assert sparse.to("cpu") is sparse
    known = len(sparse.transposed)
    moved = sparse.to("meta")
    assert [part.device.type for part in moved.tensors] == ["meta"] * 6  # with the transposed matrix
    assert (len(moved), moved.width) == (moved.transposed.width, len(moved.transposed)) == (len(sparse), known)


def test_getitem_rejects_a_missing_row():
    frames = np.zeros((3, PIXELS), np.int8)
    with pytest.raises(IndexError, match="3"):
        SparseFrames.from_dense(frames)[torch.tensor([0, 3])]


@exact
@given(difference_frames(rows=3), st.integers(1, 4))
def test_split_gives_consecutive_rows(frames, rows):
    parts = SparseFrames.from_dense(frames).split(rows)
    assert same_rows(SparseFrames.cat(parts), SparseFrames.from_dense(frames))
    assert [len(part) for part in parts] == [len(part) for part in np.array_split(frames, range(rows, 3, rows))]


# --- rows of Pong -----------------------------------------------------------------------------------------------------

EXPECTED = {"difference": ["minus"], "both": ["now", "minus"], "three": ["now", "minus", "minus before"]}


@exact
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(EXPECTED)), st.sampled_from([0, 2, 6]))
def test_row_layout_rows(seed, kind, actions):
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
