"""Observations: screens to 80×80 frames, sparse rows of difference frames, and a gymnasium wrapper."""

import functools
import math
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

SOLID_RED, SOLID_LUMINANCE = (  # by a pixel's value: 0 for black and for the two backgrounds, else 1
    np.array([value not in (0, *backgrounds) for value in range(256)], np.int8)
    for backgrounds in ((144, 109), (87, 107))  # in the red channel, and in ALE's grayscale palette
)


def preprocess(screen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop a screen to the play field, keep every second row and column, and mark what is not background.

    Screens (…, 210, 160, 3) RGB or (…, 210, 160) luminance become frames (…, 80, 80) uint8: in rows 35 to 194, the
    background colours and black become 0, and all else 1. Both kinds of screen give the same result.

    Source: Karpathy 2016, gist pg-pong.py, ``prepro`` (there from the red channel).
    """
    if screen.dtype != np.uint8:
        raise ValueError(f"screen must be uint8, got {screen.dtype}")
    if screen.shape[-3:] == (210, 160, 3):
        screen, solid = screen[..., 0], SOLID_RED
    elif screen.shape[-2:] == (210, 160):
        solid = SOLID_LUMINANCE
    else:
        raise ValueError(f"screen must be (…, 210, 160, 3) or (…, 210, 160), got {screen.shape}")
    return solid[screen[..., ROWS, ::2]].view(np.uint8)


@dataclass(frozen=True)
class SparseFrames:
    """Sparse rows, of which only nonzero entries are stored: of a difference frame, about 27 of 6,400."""

    columns: Tensor  # (nnz,) int32, the columns of row 0's numbers, then of row 1's, …, each in [0, width)
    signs: Tensor  # (nnz,) float32, +1 where something appeared and −1 where it vanished
    offsets: Tensor  # (B,) int32, where each row starts in ``columns``
    width: int = PIXELS  # numbers in a row, with the zeros

    @classmethod
    def from_dense(cls, frames: NDArray[np.int8]) -> "SparseFrames":
        """Compress rows (B, width) int8 in {−1, 0, 1}."""
        rows, columns = np.nonzero(frames)
        offsets = torch.from_numpy(np.searchsorted(rows, np.arange(len(frames)))).int()
        signs = torch.from_numpy(frames[rows, columns]).float()
        return cls(torch.from_numpy(columns).int(), signs, offsets, frames.shape[1])

    @classmethod
    def cat(cls, parts: "Sequence[SparseFrames]") -> "SparseFrames":
        before = np.cumsum([0, *(len(part.columns) for part in parts)]).tolist()
        columns, signs = torch.cat([part.columns for part in parts]), torch.cat([part.signs for part in parts])
        offsets = torch.cat([part.offsets + pixels for part, pixels in zip(parts, before, strict=False)])
        return cls(columns, signs, offsets, parts[0].width)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, rows: Tensor) -> "SparseFrames":
        """The rows with these numbers, (b,) int64, in this order."""
        counts = self.counts()[rows]
        ends = counts.cumsum(0)
        starts = (ends - counts).int()
        pixels = (self.offsets[rows] - starts).repeat_interleave(counts)  # from new to old place of each pixel
        pixels += torch.arange(len(pixels), dtype=torch.int32, device=rows.device)
        return SparseFrames(self.columns[pixels], self.signs[pixels], starts, self.width)

    def split(self, rows: int) -> "list[SparseFrames]":
        """Parts of this many rows, the last one perhaps smaller, like ``Tensor.split``."""
        if len(self) <= rows:
            return [self]
        starts = self.offsets[rows::rows].tolist()
        parts = zip(self.columns.tensor_split(starts), self.signs.tensor_split(starts), strict=True)
        offsets = torch.split(self.offsets, rows)
        return [SparseFrames(*part, first - first[:1], self.width) for part, first in zip(parts, offsets, strict=True)]

    def counts(self) -> Tensor:
        """The number of nonzero entries of each row, (B,) int32."""
        return F.pad(self.offsets, (0, 1), value=len(self.columns)).diff()

    def rows(self) -> Tensor:
        """The row of each number that is not 0: (nnz,) int64."""
        rows = torch.arange(len(self), device=self.offsets.device)
        return rows.repeat_interleave(self.counts(), output_size=len(self.columns))

    def __matmul__(self, table: Tensor) -> Tensor:
        """The product (B, n) with a matrix (width, n); it and its gradient only touch what is not 0."""
        return SparseProduct.apply(self, table)  # type: ignore[no-any-return, no-untyped-call]

    @functools.cached_property
    def transposed(self) -> "SparseFrames":
        """The transposed matrix, (width, B): of each pixel the rows in which it changed."""
        order = self.columns.argsort(stable=True)
        counts = self.columns.bincount(minlength=self.width)
        offsets = (counts.cumsum(0) - counts).int()
        return SparseFrames(self.rows()[order].int(), self.signs[order], offsets, len(self))

    def to(self, device: torch.device | str) -> "SparseFrames":
        return self if torch.device(device) == self.columns.device else self.of(move(self.tensors, device))

    @property
    def tensors(self) -> list[Tensor]:
        """The attributes, and those of the transposed matrix if it is known: a GPU takes longer to compute it."""
        matrices = [self, *([self.transposed] if "transposed" in vars(self) else [])]
        return [tensor for x in matrices for tensor in (x.columns, x.signs, x.offsets)]

    def of(self, tensors: Sequence[Tensor]) -> "SparseFrames":
        """The same rows of copies of ``tensors``."""
        (columns, signs, offsets), transposed = tensors[:3], tensors[3:]
        rows = SparseFrames(columns, signs, offsets, self.width)
        if transposed:
            vars(rows)["transposed"] = SparseFrames(transposed[0], transposed[1], transposed[2], len(self))
        return rows

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows as an ordinary matrix (B, width) in {−1, 0, 1}."""
        frames = torch.zeros(len(self), self.width, dtype=dtype, device=self.offsets.device)
        frames[self.rows(), self.columns.long()] = self.signs.to(dtype)
        return frames


class SparseProduct(torch.autograd.Function):
    """x @ table of sparse rows x."""

    @staticmethod
    def forward(ctx: Any, x: SparseFrames, table: Tensor) -> Tensor:
        ctx.x = x
        signs = x.signs.to(table.dtype)
        return F.embedding_bag(x.columns, table, x.offsets, mode="sum", per_sample_weights=signs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.x.transposed @ gradient.contiguous()  # ∂/∂table, (width, n), of ∂/∂product, (B, n)


def move(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """The tensors of one device on another, in a single copy between CPU and GPU; int64 ones come first, bytes last."""
    source, target = tensors[0].device, torch.device(device)
    if {source.type, target.type} != {"cpu", "cuda"}:
        return [tensor.to(target) for tensor in tensors]
    flat = [tensor.detach().flatten() for tensor in tensors]  # a single number may have the stride 0
    parts = [numbers.as_strided((len(numbers),), (1,)).view(torch.uint8) for numbers in flat]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    to_gpu = target.type == "cuda"
    host = _host_buffer(ends[-1])
    packed = host if to_gpu else torch.empty_like(host, device=source, pin_memory=False)
    moved = torch.empty_like(host, device=target, pin_memory=False) if to_gpu else host
    moved.copy_(torch.cat(parts, out=packed), non_blocking=to_gpu)
    numbers = zip(moved.tensor_split(ends[:-1]), tensors, strict=True)
    return [part.view(tensor.dtype).view(tensor.shape) for part, tensor in numbers]


def _host_buffer(size: int) -> Tensor:
    """Bytes in page-locked memory, which a GPU copies from and to by itself, if the system has such memory left."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)


Observations = Tensor | SparseFrames  # B rows: of numbers (B, …), or of frames


def cat(parts: Sequence[Observations]) -> Observations:
    """Concatenate observations of the same kind; a single part is returned itself."""
    kind: Any = SparseFrames if isinstance(parts[0], SparseFrames) else torch
    return parts[0] if len(parts) == 1 else kind.cat(parts)


FrameKind = Literal["difference", "both", "three"]
NOTHING, EARLIER, BEFORE, NOW = range(4)  # the frames that an environment of Pong keeps: all 0, the last two, this one
DIFFERENCES: dict[FrameKind, tuple[tuple[int, int], ...]] = {  # side by side in a row: the first minus the second
    "difference": ((NOW, BEFORE),),
    "both": ((NOW, NOTHING), (NOW, BEFORE)),
    "three": ((NOW, NOTHING), (NOW, BEFORE), (BEFORE, EARLIER)),
}


@dataclass(frozen=True)
class RowLayout:
    """The parts of an observation of Pong: differences of frames side by side, and perhaps the last action."""

    kind: FrameKind = "difference"  # which frames, see ``DIFFERENCES``
    actions: int = 0  # how many actions there are, if a row ends with the last one, one-hot; else 0

    @property
    def differences(self) -> tuple[tuple[int, int], ...]:
        return DIFFERENCES[self.kind]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the frames in a row, (C, 80, 80)."""
        return len(self.differences), SIDE, SIDE

    @property
    def width(self) -> int:
        return math.prod(self.shape) + self.actions

    @property
    def memory(self) -> slice:
        """The frames of earlier decisions, and this one, that the next row depends on."""
        return slice(BEFORE if self.kind == "three" else NOW, NOW + 1)

    def rows(self, frames: NDArray[np.int8], last_actions: NDArray[np.int64]) -> SparseFrames:
        """Rows of N games: frames (4, N, 6400) int8 in {0, 1} and last actions (N,), negative where there is none."""
        parts = [frames[new] - frames[old] for new, old in self.differences]
        if self.actions:
            parts.append((last_actions[:, None] == np.arange(self.actions)).astype(np.int8))
        return SparseFrames.from_dense(np.concatenate(parts, axis=1))


class DifferenceFrames(VectorWrapper):
    """Turns a vector environment's screens into difference frames (N, 6400) int8 in {−1, 0, 1}.

    An observation is this frame minus the previous one, or all zeros at an episode's first screen, as in 2016. ``env``
    shows screens as ``preprocess`` takes them, and has ``AutoresetMode.SAME_STEP`` or ``NEXT_STEP``.
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

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[NDArray[np.int8], dict[str, Any]]:
        screens, infos = self.env.reset(seed=seed, options=options)
        self._before = preprocess(screens).reshape(-1, PIXELS).view(np.int8)
        if self._before.mean() > 0.5:  # in Pong a hundredth of the field is not background
            raise ValueError(f"{self.env} shows other colours than ALE's Pong; make it with obs_type rgb or grayscale")
        self._done = np.zeros(len(screens), bool)
        return np.zeros_like(self._before), infos

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.int8], Any, Any, Any, dict[str, Any]]:
        screens, rewards, terminations, truncations, infos = self.env.step(actions)
        frames = preprocess(screens).reshape(-1, PIXELS).view(np.int8)
        done = terminations | truncations
        fresh, self._done = self._done if self._next_step else done, done
        differences = np.where(fresh[:, None], np.int8(0), frames - self._before)
        self._before = frames
        return differences, rewards, terminations, truncations, infos
