"""The picture of the first layer's weights."""

import numpy as np
import torch

from pong.observations import PIXELS
from pong.render.summaries import weight_picture

WHITE, GREY, BLACK = 255, 128, 0


def test_forty_units_in_five_rows_of_eight():
    W1 = torch.zeros(41, PIXELS)
    for unit in range(41):
        W1[unit, unit] = unit + 1  # each to its own range: white, however small
        W1[unit, 6399] = -(unit + 1) / 2
    picture = weight_picture(W1)
    assert (picture.shape, picture.dtype) == ((400, 640), np.uint8)
    tiles = picture.reshape(5, 80, 8, 80).swapaxes(1, 2).reshape(40, PIXELS)  # tile k is row k // 8, column k % 8
    for unit, tile in enumerate(tiles):
        assert tile[unit] == WHITE
        assert tile[6399] == 64  # (−½ + 1)·127.5 = 63.75
        assert np.count_nonzero(tile != GREY) == 2


def test_white_is_positive_and_black_negative():
    W1 = torch.zeros(1, PIXELS)
    W1[0, 81], W1[0, 82] = 1e-5, -1e-5  # second row, second and third column
    picture = weight_picture(W1)
    assert (picture[1, 1], picture[1, 2]) == (WHITE, BLACK)
    assert np.count_nonzero(picture != GREY) == 2


def test_missing_and_empty_units_are_grey():
    W1 = torch.zeros(3, PIXELS)
    W1[0] = 1
    picture = weight_picture(W1)
    assert (picture[:80, :80] == WHITE).all()
    assert (picture[:80, 80:] == GREY).all()  # two units of zeros, five missing
    assert (picture[80:] == GREY).all()


def test_the_picture_leaves_the_weights_alone():
    W1 = torch.nn.Parameter(torch.randn(2, PIXELS, generator=torch.Generator().manual_seed(0)))
    before = W1.detach().clone()
    weight_picture(W1)
    assert torch.equal(W1, before)
