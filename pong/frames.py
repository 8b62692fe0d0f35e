"""From an Atari screen to the network's input: crop, halve, erase the background, subtract the previous frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import Tensor

SIDE = 80  # the play field, every second row and column
PIXELS = SIDE * SIDE  # 6400, the network's input

RED_BACKGROUNDS = (144, 109)  # red channel of the two backgrounds
LUMINANCE_BACKGROUNDS = (87, 107)  # the same two colours in ALE's grayscale palette


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
        screen, backgrounds = screen[..., 0], RED_BACKGROUNDS
    elif screen.shape[-2:] == (210, 160):
        backgrounds = LUMINANCE_BACKGROUNDS
    else:
        raise ValueError(f"screen must be (…, 210, 160, 3) or (…, 210, 160), got {screen.shape}")
    field = np.ascontiguousarray(screen[..., 35:195:2, ::2])  # (…, 80, 80)
    solid = field != 0
    for background in backgrounds:
        solid &= field != background
    frame: NDArray[np.uint8] = solid.view(np.uint8)
    return frame


class DifferenceFrames(VectorWrapper):
    """Turns a vector environment's screens (N, 210, 160) into difference frames (N, 6400) int8 in {−1, 0, 1}.

    Each observation is this frame minus the previous one; at an episode's first step there is no previous one and
    the difference is all zeros. Points within a game do not reset it, as in the original. The wrapped environment must
    reset a finished emulator in the same step (``AutoresetMode.SAME_STEP``), or at ``reset``.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        super().__init__(env)
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (PIXELS,), np.int8)
        self.observation_space = gymnasium.spaces.Box(-1, 1, (env.num_envs, PIXELS), np.int8)
        self._previous = np.zeros((env.num_envs, PIXELS), np.int8)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int8], dict[str, Any]]:
        """Start new episodes: every difference frame is zero."""
        screens, infos = self.env.reset(seed=seed, options=options)
        self._previous = self._flatten(screens)
        return np.zeros_like(self._previous), infos

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.int8], Any, Any, Any, dict[str, Any]]:
        """Step the emulators and subtract each one's previous frame."""
        screens, rewards, terminations, truncations, infos = self.env.step(actions)
        frames = self._flatten(screens)
        differences = frames - self._previous
        differences[terminations | truncations] = 0  # the screen already shows the next episode's first frame
        self._previous = frames
        return differences, rewards, terminations, truncations, infos

    @staticmethod
    def _flatten(screens: NDArray[np.uint8]) -> NDArray[np.int8]:
        return preprocess(screens).reshape(len(screens), PIXELS).view(np.int8)


@dataclass(frozen=True)
class SparseFrames:
    """Difference frames kept as the few pixels that changed: about 25 of 6400, so a row takes 125 bytes, not 25,600.

    Attributes:
        columns: (nnz,) int32, the changed pixels of row 0, then of row 1, …, each in [0, 6400).
        signs: (nnz,) int8, +1 where something appeared and −1 where it vanished.
        counts: (B,) int64, how many of them belong to each row.
    """

    columns: Tensor
    signs: Tensor
    counts: Tensor

    @classmethod
    def from_dense(cls, frames: NDArray[np.int8]) -> "SparseFrames":
        """Compress difference frames (B, 6400) int8 in {−1, 0, 1}."""
        if frames.ndim != 2 or frames.shape[1] != PIXELS:
            raise ValueError(f"frames must be (B, {PIXELS}), got {frames.shape}")
        changed = frames != 0
        rows_and_columns = np.flatnonzero(changed)
        signs = frames.ravel()[rows_and_columns]
        columns = (rows_and_columns % frames.shape[1]).astype(np.int32)
        counts = np.count_nonzero(changed, axis=1)
        return cls(torch.from_numpy(columns), torch.from_numpy(signs), torch.from_numpy(counts))

    @classmethod
    def cat(cls, parts: "Sequence[SparseFrames]") -> "SparseFrames":
        """Put batches one after the other."""
        return cls(
            torch.cat([part.columns for part in parts]),
            torch.cat([part.signs for part in parts]),
            torch.cat([part.counts for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, keep: Tensor) -> "SparseFrames":
        """The rows where ``keep``, (B,) bool, is True."""
        if keep.dtype != torch.bool or keep.shape != self.counts.shape:
            raise ValueError(f"keep must be ({len(self)},) bool, got {tuple(keep.shape)} {keep.dtype}")
        pixels = keep.repeat_interleave(self.counts)
        return SparseFrames(self.columns[pixels], self.signs[pixels], self.counts[keep])

    def offsets(self) -> Tensor:
        """Where each row's pixels begin in ``columns``: (B,) int32."""
        return (self.counts.cumsum(0) - self.counts).to(torch.int32)

    def to(self, device: torch.device | str) -> "SparseFrames":
        """The same rows on another device."""
        return SparseFrames(self.columns.to(device), self.signs.to(device), self.counts.to(device))

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows as an ordinary matrix (B, 6400) in {−1, 0, 1}."""
        rows = torch.arange(len(self), device=self.counts.device).repeat_interleave(self.counts)
        frames = torch.zeros(len(self), PIXELS, dtype=dtype, device=self.counts.device)
        frames[rows, self.columns.long()] = self.signs.to(dtype)
        return frames
