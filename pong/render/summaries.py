"""Images for TensorBoard: the weights of the first layer and an animated game."""

import copy
import io
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from pong.config import Config
from pong.observations import PIXELS
from pong.policies import Policy
from pong.render.film import fps_of
from pong.render.frame import play_frames

FRAMES = 150  # ten seconds at hold 4


def weight_picture(W1: torch.Tensor, rows: int = 5, columns: int = 8) -> NDArray[np.uint8]:
    """The first rows·columns hidden units of W1 (6400 or more, hidden) as tiles of their first 80×80 weights.

    White is positive, black is negative, and grey is 0 or no unit; each unit is scaled to its own range.
    """
    units = W1.detach()[:PIXELS, : rows * columns].T.cpu().float()
    tiles = torch.zeros(rows * columns, PIXELS)
    tiles[: len(units)] = units / units.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
    grid = tiles.view(rows, columns, 80, 80).transpose(1, 2).reshape(rows * 80, columns * 80)
    picture: NDArray[np.uint8] = ((grid + 1) * 127.5).round().to(torch.uint8).numpy()
    return picture


def game_summary(tag: str, policy: Policy, config: Config, seed: int) -> Any:
    """The start of a sampled game as a TensorBoard summary of an animated gif."""
    policy = copy.deepcopy(policy).cpu() if next(policy.parameters()).is_cuda else policy
    frames = itertools.islice(play_frames(policy, config, seed), FRAMES)
    first, *others = (Image.fromarray(frame.screen) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=1000 / fps_of(config), loop=0)
    image = Summary.Image(height=first.height, width=first.width, colorspace=3, encoded_image_string=file.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])
