"""A frame as a picture: the screen, how likely each action was and which was taken, and what the policy sees.

A difference frame is as large as the play field beside it.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pong.render.game import RenderedFrame

SCALE = 3  # picture's pixels per pixel of the screen, so 6 per pixel of a difference frame
TOP, SIDE = 35 * SCALE, 160 * SCALE  # of the play field: below the score, and square
BOTTOM = TOP + SIDE
MIDDLE = 128  # width between the screen and the difference frame
RIGHT = SIDE + MIDDLE  # where the difference frame begins
WIDTH, HEIGHT = RIGHT + SIDE + 16, 210 * SCALE  # even numbers, as H.264 wants them
WIDE = RIGHT - 16  # of the screen in other games than Pong

DARK, DIM, LIGHT, GREEN = (22, 22, 26), (150, 150, 156), (240, 240, 240), (92, 186, 92)  # green as the policy's paddle
TROUGH = (58, 58, 64)  # of a bar, where it is not filled
VANISHED, UNCHANGED, APPEARED = 0, 112, 255
GREYS = np.array([UNCHANGED, APPEARED, VANISHED], np.uint8)  # by difference 0, 1, −1


def picture(frame: RenderedFrame, caption: str) -> NDArray[np.uint8]:
    """What a frame looks like: (630, 1104, 3) uint8, RGB.

    Args:
        frame: of a game.
        caption: a short line that says what plays.
    """
    tall, wide, _ = frame.screen.shape
    width = min(WIDE, HEIGHT * wide // tall)
    height = width * tall // wide
    beside = height == HEIGHT  # the decision, as there is no room below the screen
    few = len(frame.names) <= 3
    over_the_column = "" if not beside else "P(UP)" if few else "P(action)"
    image = _lettering(caption, _heading(frame.seen), over_the_column).copy()
    image.paste(Image.fromarray(frame.screen).resize((width, height), Image.Resampling.NEAREST), (0, 0))
    _paste_seen(image, frame.seen)
    pen = ImageDraw.Draw(image)
    score = signed(frame.score).replace("−", "-")  # the font has no minus sign
    pen.text((RIGHT, 40), f"score {score}", LIGHT, _font(26))
    pen.text((RIGHT + 190, 40), f"step {frame.step:,}", LIGHT, _font(26))
    if not beside:
        _bars(pen, frame, height + 12)
    elif few:
        _decision(pen, frame)
    else:
        _column(pen, frame)
    return np.asarray(image)


def signed(score: int) -> str:
    """A score with its sign: +3, −21, 0."""
    return f"{score:+d}".replace("-", "−") if score else "0"


def _heading(seen: NDArray[np.int8 | np.uint8]) -> str:
    if len(seen) == 1:
        return "this screen minus the previous one"
    return "what the policy sees" if seen.dtype == np.int8 else "what the policy sees: the oldest picture first"


def _paste_seen(image: Image.Image, seen: NDArray[np.int8 | np.uint8]) -> None:
    """What the policy sees: one picture, or two to a row."""
    greys = GREYS[seen] if seen.dtype == np.int8 else seen
    size, gap = (SIDE, 0) if len(seen) == 1 else (SIDE // 2, 4)
    for k, grey in enumerate(greys):
        small = Image.fromarray(grey).resize((size - gap, size - gap), Image.Resampling.NEAREST)
        image.paste(small, (RIGHT + k % 2 * size, TOP + k // 2 * size))


def _decision(pen: ImageDraw.ImageDraw, frame: RenderedFrame) -> None:
    """The bar of P(UP), with the actions above and below it; lit: taken."""
    centre = SIDE + MIDDLE // 2
    top, bottom = TOP + 40, BOTTOM - 40
    pen.rectangle((centre - 16, top, centre + 15, bottom - 1), fill=TROUGH)
    middles = (BOTTOM - 16, TOP + 16, BOTTOM + 22)  # by action
    for action, (name, middle) in enumerate(zip(frame.names, middles, strict=False)):
        box = (centre - 38, middle - 16, centre + 37, middle + 15)
        _name(pen, box, name, frame.action == action, (centre, middle), "mm", 20)
    if frame.probs:
        prob_up = frame.probs[1]
        pen.text((centre, 82), f"{prob_up:.2f}", LIGHT, _font(26), anchor="mm")
        height = round(prob_up * (bottom - top))
        if height:
            pen.rectangle((centre - 16, bottom - height, centre + 15, bottom - 1), fill=GREEN)
    pen.line((centre - 24, (top + bottom) // 2, centre + 23, (top + bottom) // 2), LIGHT, 2)  # P(UP) = ½


def _column(pen: ImageDraw.ImageDraw, frame: RenderedFrame) -> None:
    """Each action above a bar as long as its probability; lit: taken."""
    left, right = SIDE + 6, RIGHT - 6
    for k, name in enumerate(frame.names):
        y = TOP + 24 + k * 74
        _name(pen, (left, y, right, y + 28), name, frame.action == k, ((left + right) // 2, y + 14), "mm", 14)
        _bar(pen, (left, y + 34, right, y + 46), frame.probs[k] if frame.probs else 0.0)


def _bars(pen: ImageDraw.ImageDraw, frame: RenderedFrame, top: int) -> None:
    """A bar as long as its probability for each action, from ``top`` down; lit: taken."""
    height = min((HEIGHT - 12 - top) // len(frame.names), 48)
    for k, name in enumerate(frame.names):
        y = top + k * height
        middle, bottom = y + height // 2 - 4, y + height - 8
        _name(pen, (8, y, 208, bottom), name, frame.action == k, (16, middle), "lm", 17)
        _bar(pen, (220, y, WIDE - 76, bottom), frame.probs[k] if frame.probs else 0.0)
        if frame.probs:
            pen.text((WIDE - 12, middle), f"{frame.probs[k]:.2f}", LIGHT, _font(20), anchor="rm")


Box = tuple[int, int, int, int]  # left, top, right, bottom


def _name(
    pen: ImageDraw.ImageDraw, box: Box, name: str, taken: bool, at: tuple[int, int], anchor: str, size: int
) -> None:
    """An action's name in a box, which is lit if the action was taken."""
    pen.rounded_rectangle(box, 6, GREEN if taken else DARK)
    pen.text(at, name, DARK if taken else DIM, _font(size), anchor=anchor)


def _bar(pen: ImageDraw.ImageDraw, box: Box, prob: float) -> None:
    """A probability as the filled part of a box."""
    left, top, right, bottom = box
    pen.rectangle(box, TROUGH)
    if width := round(prob * (right - left)):
        pen.rectangle((left, top, left + width, bottom), GREEN)


@functools.cache
def _lettering(caption: str, heading: str, beside: str) -> Image.Image:
    """What stays the same; of a long caption its end is shown. ``beside`` is over the column beside Pong's screen."""
    image = Image.new("RGB", (WIDTH, HEIGHT), DARK)
    pen = ImageDraw.Draw(image)
    while pen.textlength(caption, _font(17)) > SIDE:
        caption = "…" + caption[2:]
    pen.text((RIGHT, 12), caption, DIM, _font(17))
    pen.text((RIGHT, 77), heading, DIM, _font(17))
    if not beside:
        return image
    pen.text((SIDE + MIDDLE // 2, 54), beside, DIM, _font(17), anchor="mm")
    x = RIGHT
    for grey, word in ((APPEARED, "appeared"), (VANISHED, "vanished"), (UNCHANGED, "unchanged")):
        pen.rectangle((x, BOTTOM + 15, x + 15, BOTTOM + 30), (grey, grey, grey), DIM)
        pen.text((x + 24, BOTTOM + 23), word, DIM, _font(17), anchor="lm")
        x += 140
    return image


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
