"""From Atari screens to the network's input: crop, halve, erase the background, subtract the previous frame."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SIDE = 80  # the play field, every second row and column
PIXELS = SIDE * SIDE  # 6400, the network's input
ROWS = slice(35, 195, 2)  # of the screen

RED_BACKGROUNDS = (144, 109)  # red channel of the two backgrounds
LUMINANCE_BACKGROUNDS = (87, 107)  # the same two colours in ALE's grayscale palette
SOLID_RED, SOLID_LUMINANCE = (  # by a pixel's value: 0 for black and for background, else 1
    np.array([value not in (0, *backgrounds) for value in range(256)], np.int8)
    for backgrounds in (RED_BACKGROUNDS, LUMINANCE_BACKGROUNDS)
)


def preprocess(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop a screen to the play field, keep every second row and column, and mark what is not background.

    Rows 35..194, then every second row and column; the background colours become 0 and everything else that is not
    black becomes 1. Colour and luminance screens of the same moment give the same result.

    Source: Karpathy 2016, gist pg-pong.py, ``prepro`` (there from the red channel).

    Args:
        screen: (210, 160, 3) RGB or (210, 160) luminance, uint8; leading batch dimensions are kept.

    Returns:
        (80, 80) uint8 in {0, 1}, with the leading dimensions of ``screen``.

    Raises:
        ValueError: the screen is neither of these shapes, or not uint8.
    """
    if screen.dtype != np.uint8:
        raise ValueError(f"screen must be uint8, got {screen.dtype}")
    if screen.shape[-3:] == (210, 160, 3):
        screen, solid = screen[..., 0], SOLID_RED
    elif screen.shape[-2:] == (210, 160):
        solid = SOLID_LUMINANCE
    else:
        raise ValueError(f"screen must be (…, 210, 160, 3) or (…, 210, 160), got {screen.shape}")
    frame: NDArray[np.uint8] = solid[screen[..., ROWS, ::2]].view(np.uint8)
    return frame


def play_field(screens: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows of luminance screens (N, 210, 160) that a frame is made of: a copy (N, 80, 160), still all columns."""
    return np.ascontiguousarray(screens[:, ROWS])


@dataclass(frozen=True)
class SparseFrames:
    """Difference frames kept as the few pixels that changed: about 27 of 6400, so a row takes 220 bytes, not 25,600.

    Other inputs that are mostly 0 are kept in the same way, see ``ObservationBuilder``.

    Attributes:
        columns: (nnz,) int32, the changed pixels of row 0, then of row 1, …, each in [0, width).
        signs: (nnz,) float32, +1 where something appeared and −1 where it vanished.
        offsets: (B,) int32, where each row's pixels begin in ``columns``.
        width: numbers in a row, with the zeros.
    """

    columns: Tensor
    signs: Tensor
    offsets: Tensor
    width: int = PIXELS

    @classmethod
    def from_dense(cls, frames: NDArray[np.int8]) -> "SparseFrames":
        """Compress difference frames (B, 6400) int8 in {−1, 0, 1}."""
        if frames.ndim != 2 or frames.shape[1] != PIXELS:
            raise ValueError(f"frames must be (B, {PIXELS}), got {frames.shape}")
        changed = np.flatnonzero(frames)
        return cls._of_pixels(changed, frames.ravel()[changed], len(frames))

    @classmethod
    def difference(cls, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> "SparseFrames":
        """Difference frames of N emulators: ``preprocess`` of their screens after, minus that of those before.

        Most of a screen stands still, so the screens are compared eight pixels at a time, as they are, and only the
        eights that differ are halved, erased and subtracted.

        Args:
            before: (N, 80, 160) uint8, contiguous, see ``play_field``.
            after: the same, one decision later.
        """
        old, new = before.view(np.uint64).ravel(), after.view(np.uint64).ravel()
        eights = np.flatnonzero(old != new)  # numbered through all N screens
        was, now = SOLID_LUMINANCE[np.stack((old[eights], new[eights])).view(np.uint8)[:, ::2]]  # (4·eights,) each
        differences = now - was
        changed = np.flatnonzero(differences)
        return cls._of_pixels(4 * eights[changed >> 2] + (changed & 3), differences[changed], len(after))

    @classmethod
    def _of_pixels(cls, pixels: NDArray[np.int64], signs: NDArray[np.int8], rows: int) -> "SparseFrames":
        """From the changed pixels, numbered through all rows, in order."""
        offsets = np.searchsorted(pixels, np.arange(0, rows * PIXELS, PIXELS))
        return cls(
            torch.from_numpy((pixels % PIXELS).astype(np.int32)),
            torch.from_numpy(signs.astype(np.float32)),
            torch.from_numpy(offsets.astype(np.int32)),
        )

    @classmethod
    def cat(cls, parts: "Sequence[SparseFrames]") -> "SparseFrames":
        """Put batches one after the other."""
        before = np.cumsum([0, *(len(part.columns) for part in parts)]).tolist()
        return cls(
            torch.cat([part.columns for part in parts]),
            torch.cat([part.signs for part in parts]),
            torch.cat([part.offsets + pixels for part, pixels in zip(parts, before, strict=False)]),
            parts[0].width,
        )

    @classmethod
    def beside(cls, parts: "Sequence[SparseFrames]") -> "SparseFrames":
        """Put inputs of the same B moments side by side: each row has the first part's numbers, then the second's, …"""
        before = np.cumsum([0, *(part.width for part in parts)]).tolist()
        rows = torch.cat([part.rows() for part in parts])
        order = rows.argsort(stable=True)
        columns = torch.cat([part.columns + width for part, width in zip(parts, before, strict=False)])
        signs = torch.cat([part.signs for part in parts])
        return cls(columns[order], signs[order], sum(part.offsets for part in parts[1:]) + parts[0].offsets, before[-1])

    @classmethod
    def one_hot(cls, numbers: NDArray[np.int64], width: int) -> "SparseFrames":
        """Rows that are 1 in the column with this number and 0 elsewhere; all 0 where it is negative.

        Args:
            numbers: (B,), each below ``width``.
            width: numbers in a row.
        """
        some = numbers >= 0
        return cls(
            torch.from_numpy(numbers[some].astype(np.int32)),
            torch.ones(int(some.sum()), dtype=torch.float32),
            torch.from_numpy((some.cumsum() - some).astype(np.int32)),
            width,
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, rows: Tensor) -> "SparseFrames":
        """The rows with these numbers, (b,) int64, in this order."""
        counts = self.counts()[rows]
        ends = counts.cumsum(0)
        shifts = (self.offsets[rows] - (ends - counts)).repeat_interleave(counts)  # from new to old place of each pixel
        pixels = torch.arange(len(shifts), device=rows.device) + shifts
        return SparseFrames(self.columns[pixels], self.signs[pixels], (ends - counts).int(), self.width)

    def split(self, rows: int) -> "list[SparseFrames]":
        """The rows in parts of this many, the last one maybe smaller, like ``Tensor.split``."""
        offsets = torch.split(self.offsets, rows)
        begins = [int(part[0]) for part in offsets[1:]]
        pixels = zip(self.columns.tensor_split(begins), self.signs.tensor_split(begins), offsets, strict=True)
        return [SparseFrames(columns, signs, part - part[:1], self.width) for columns, signs, part in pixels]

    def counts(self) -> Tensor:
        """How many pixels of each row changed: (B,) int32."""
        end = self.offsets.new_tensor([len(self.columns)])
        return torch.cat([self.offsets, end]).diff()

    def rows(self) -> Tensor:
        """The row of each pixel: (nnz,) int64."""
        return torch.arange(len(self), device=self.offsets.device).repeat_interleave(self.counts())

    def __matmul__(self, table: Tensor) -> Tensor:
        """The product (B, n) with a matrix (width, n)."""
        signs = self.signs.to(table.dtype)
        return F.embedding_bag(self.columns, table.contiguous(), self.offsets, mode="sum", per_sample_weights=signs)

    @functools.cached_property
    def transposed(self) -> "SparseFrames":
        """The transposed matrix, (width, B): of each pixel the rows in which it changed."""
        order = self.columns.argsort(stable=True)
        counts = self.columns.bincount(minlength=self.width)
        offsets = (counts.cumsum(0) - counts).int()
        return SparseFrames(self.rows()[order].int(), self.signs[order], offsets, len(self))

    def to(self, device: torch.device | str) -> "SparseFrames":
        """The same rows on another device."""
        return SparseFrames(self.columns.to(device), self.signs.to(device), self.offsets.to(device), self.width)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows as an ordinary matrix (B, width) in {−1, 0, 1}."""
        frames = torch.zeros(len(self), self.width, dtype=dtype, device=self.offsets.device)
        frames[self.rows(), self.columns.long()] = self.signs.to(dtype)
        return frames

    def cut(self, width: int) -> tuple[Tensor, Tensor]:
        """The rows as two ordinary float32 matrices, (B, width) and (B, the rest), without gaps between rows."""
        columns, rows, rest = self.columns.long(), self.rows(), self.width - width
        numbers = torch.zeros(len(self) * self.width, dtype=torch.float32, device=self.offsets.device)
        first, second = numbers.tensor_split([len(self) * width])
        places = torch.where(columns < width, rows * width + columns, len(first) + rows * rest + columns - width)
        numbers[places] = self.signs
        return first.view(-1, width), second.view(len(self), rest)


Observations = Tensor | SparseFrames  # B rows: of numbers (B, …), or of frames


def cat(parts: Sequence[Observations]) -> Observations:
    """Put observations of one kind one after the other."""
    if isinstance(parts[0], SparseFrames):
        return SparseFrames.cat([part for part in parts if isinstance(part, SparseFrames)])
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def nbytes(observations: Observations) -> int:
    """How much memory they take."""
    if isinstance(observations, SparseFrames):
        return sum(part.nbytes for part in (observations.columns, observations.signs, observations.offsets))
    return observations.nbytes


def blank(like: Observations) -> Observations:
    """One row of zeros of the same kind."""
    if isinstance(like, SparseFrames):
        return SparseFrames(like.columns[:0], like.signs[:0], like.offsets.new_zeros(1), like.width)
    return like.new_zeros(1, *like.shape[1:])


FrameKind = Literal["difference", "stack", "both", "three"]
TIMES = ("now", "before", "earlier")
FRAMES: dict[FrameKind, list[tuple[str, str]]] = {  # side by side, each a screen less another one
    "difference": [("now", "before")],
    "stack": [("now", "nothing"), ("before", "nothing")],
    "both": [("now", "nothing"), ("now", "before")],
    "three": [("now", "nothing"), ("now", "before"), ("before", "earlier")],
}


class ObservationBuilder:
    """What a policy sees of N emulators, from one screen after the other.

    A row is this frame minus the previous one ("difference"), or this frame and beside it the previous one ("stack"),
    the difference ("both"), or the difference and the one before it ("three").

    Args:
        shown: which frames.
        actions: how many there are, if the last decision is shown too: a 1 among so many zeros, after the frames.

    Attributes:
        width: numbers in a row.
        shape: of the frames in it, (C, 80, 80).
        frames: what each is, see ``FRAMES``.
        memory: screens that it keeps, 1 or 2.
        fields: of each, the newest first, (N, 80, 160) uint8, see ``play_field``.
    """

    def __init__(self, shown: FrameKind = "difference", actions: int = 0):
        self.frames = FRAMES[shown]
        self.actions = actions
        self.shape = (len(self.frames), SIDE, SIDE)
        self.width = len(self.frames) * PIXELS + actions
        self.memory = max(TIMES.index(time) for frame in self.frames for time in frame if time in TIMES)

    def first(self, screens: NDArray[np.uint8]) -> SparseFrames:
        """Of screens (N, 210, 160) without a previous one: it counts as the same, and no decision was made."""
        fresh = np.ones(len(screens), np.bool_)
        self.restore([play_field(screens) for _ in range(self.memory)])
        return self.next(screens, fresh)

    def restore(self, fields: list[NDArray[np.uint8]]) -> None:
        """Continue after the ``fields`` that were seen last."""
        self.fields = fields
        self._nothing = np.full_like(fields[0], LUMINANCE_BACKGROUNDS[0])

    def next(
        self, screens: NDArray[np.uint8], fresh: NDArray[np.bool_], decisions: NDArray[np.int64] | None = None
    ) -> SparseFrames:
        """Of the next screens.

        Args:
            screens: (N, 210, 160) uint8.
            fresh: (N,) bool, the emulators that show a new episode's first frame.
            decisions: (N,) int64, the actions that led here; not needed unless they are shown.
        """
        now = play_field(screens)
        for field in self.fields:
            field[fresh] = now[fresh]
        fields = {"nothing": self._nothing, **dict(zip(TIMES, [now, *self.fields], strict=False))}
        self.fields = [now, *self.fields][: self.memory]
        frames = [SparseFrames.difference(fields[old], fields[new]) for new, old in self.frames]
        if self.actions:
            shown = np.where(fresh, -1, -1 if decisions is None else decisions)
            frames.append(SparseFrames.one_hot(shown, self.actions))
        return frames[0] if len(frames) == 1 else SparseFrames.beside(frames)


class DifferenceFrames(VectorWrapper):
    """Turns a vector environment's screens into difference frames (N, 6400) int8 in {−1, 0, 1}.

    Each observation is this frame minus the previous one, both as ``preprocess`` makes them; at an episode's first
    screen there is no previous one and the difference is all zeros. Points within a game do not reset it, as in the
    original.

    Args:
        env: shows screens (N, 210, 160, 3) RGB or (N, 210, 160) luminance, uint8, and restarts a finished environment
            in the same step or in the next one (``AutoresetMode.SAME_STEP`` or ``NEXT_STEP``).

    Raises:
        ValueError: it shows something else, or does not restart by itself.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        super().__init__(env)
        screens, mode = env.single_observation_space, env.metadata.get("autoreset_mode")
        if screens.shape not in ((210, 160, 3), (210, 160)) or screens.dtype != np.uint8:
            raise ValueError(f"screens must be (210, 160, 3) or (210, 160), uint8; {env} shows {screens}")
        if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
            raise ValueError(f"{env} has autoreset_mode {mode}; make it with AutoresetMode.SAME_STEP or NEXT_STEP")
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (PIXELS,), np.int8)
        self.observation_space = gymnasium.spaces.Box(-1, 1, (env.num_envs, PIXELS), np.int8)
        self._next_step = mode == AutoresetMode.NEXT_STEP

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int8], dict[str, Any]]:
        """Start new episodes: every difference frame is zero."""
        screens, infos = self.env.reset(seed=seed, options=options)
        self._before = preprocess(screens).reshape(-1, PIXELS).view(np.int8)
        self._done = np.zeros(len(screens), bool)
        return np.zeros_like(self._before), infos

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.int8], Any, Any, Any, dict[str, Any]]:
        """Step the environments and subtract each one's previous frame."""
        screens, rewards, terminations, truncations, infos = self.env.step(actions)
        frames = preprocess(screens).reshape(-1, PIXELS).view(np.int8)
        done = terminations | truncations
        fresh, self._done = self._done if self._next_step else done, done
        differences = np.where(fresh[:, None], np.int8(0), frames - self._before)
        self._before = frames
        return differences, rewards, terminations, truncations, infos
