"""Pictures for TensorBoard: the weights of the first layer, and a game that moves."""

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
from pong.policies import CategoricalPolicy, KarpathyPolicy, Policy, TwoLayers
from pong.render.film import fps_of
from pong.render.game import play

FRAMES = 150  # ten seconds at hold 4


def weight_picture(W1: torch.Tensor, rows: int = 5, columns: int = 8) -> NDArray[np.uint8]:
    """The first 40 hidden units' weights as 80×80 pictures, white positive and black negative, as in the blog's figure.

    Args:
        W1: (hidden, 6400 or more, of which the first 6400 are shown); each unit is scaled to its own range.
        rows: of pictures.
        columns: of pictures.

    Returns:
        (rows·80, columns·80) uint8; grey tiles where there are fewer units.
    """
    units = W1.detach()[:PIXELS, : rows * columns].T.cpu().float()
    tiles = torch.zeros(rows * columns, 80, 80, dtype=torch.float32)
    tiles[: len(units)] = (units / units.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)).view(-1, 80, 80)
    grid = tiles.view(rows, columns, 80, 80).permute(0, 2, 1, 3).reshape(rows * 80, columns * 80)
    picture: NDArray[np.uint8] = ((grid + 1) * 127.5).round().to(torch.uint8).numpy()
    return picture


def first_weights(policy: Policy) -> torch.Tensor | None:
    """The weights (hidden, inputs) that ``weight_picture`` shows, if the policy looks at frames with such ones."""
    network = policy.network if isinstance(policy, CategoricalPolicy) else policy
    return network.W1 if isinstance(network, (KarpathyPolicy, TwoLayers)) else None


def game_summary(tag: str, policy: Policy, config: Config, seed: int) -> Any:
    """The beginning of a game, sampled, as TensorBoard's summary of an animated picture."""
    on_cpu = copy.deepcopy(policy).cpu() if next(policy.parameters()).is_cuda else policy
    screens = [frame.screen for frame in itertools.islice(play(on_cpu, config, seed), FRAMES)]
    (height, width, _), fps = screens[0].shape, fps_of(config)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif(screens, fps))
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def gif(screens: list[NDArray[np.uint8]], fps: float) -> bytes:
    """Screens (H, W, 3) uint8 as an animated gif that begins anew at its end."""
    first, *others = (Image.fromarray(screen) for screen in screens)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0)
    return file.getvalue()
