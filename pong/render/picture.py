"""Draw a frame: the screen, the probability of each action, the chosen action and the policy's observation."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pong.render.frame import RenderedFrame

SCALE = 3  # picture pixels per pixel of Pong's screen, so 6 per pixel of an 80×80 observation
TOP, SIDE = 35 * SCALE, 160 * SCALE  # top and side length of Pong's square play field
BOTTOM = TOP + SIDE
RIGHT = SIDE + 128  # left edge of the observation
CENTER = (SIDE + RIGHT) // 2  # of the column between the screen and the observation
WIDTH, HEIGHT = RIGHT + SIDE + 16, 210 * SCALE  # even, as H.264 requires
MAX_SCREEN_WIDTH = RIGHT - 16  # of a screen that is wider than Pong's

DARK, DIM, LIGHT, GREEN = (22, 22, 26), (150, 150, 156), (240, 240, 240), (92, 186, 92)  # Pong's right paddle is GREEN
TROUGH = (58, 58, 64)  # the empty part of a bar
DIFFERENCES = np.array([112, 255, 0], np.uint8)  # grey levels of 0, 1 and −1, the last index
LEGEND = {"appeared": 1, "vanished": -1, "unchanged": 0}

Box = tuple[int, int, int, int]  # left, top, right, bottom, all inside


class Place(NamedTuple):
    """The position of an action in the picture."""

    name: Box
    bar: Box | None = None  # filled from the left, or from the bottom if it is higher than wide
    number: tuple[int, int] | None = None  # middle of the probability


def draw_picture(frame: RenderedFrame, caption: str) -> Image.Image:
    """Draw a frame, with a caption that names the policy, as an RGB image of WIDTH × HEIGHT."""
    height, width, _ = frame.screen.shape
    screen_width = min(MAX_SCREEN_WIDTH, HEIGHT * width // height)
    screen_height = screen_width * height // width
    actions = len(frame.action_names)
    image = _background(caption, actions, len(frame.observation), frame.is_pong).copy()
    image.paste(_enlarge(frame.screen, screen_width, screen_height))
    greys = DIFFERENCES[frame.observation] if frame.is_pong else frame.observation.astype(np.uint8)
    size, gap = (SIDE, 0) if len(greys) == 1 else (SIDE // 2, 4)  # several pictures in rows of two
    for k, grey in enumerate(greys):
        image.paste(_enlarge(grey, size - gap, size - gap), (RIGHT + k % 2 * size, TOP + k // 2 * size))
    pen = ImageDraw.Draw(image)
    score = signed(frame.score).replace("−", "-")  # the font has no minus sign
    pen.text((RIGHT, 40), f"score {score}", LIGHT, _font(26))
    pen.text((RIGHT + 190, 40), f"step {frame.step:,}", LIGHT, _font(26))
    places = _places_beside(actions) if frame.is_pong else _places_below(actions, screen_height + 12)
    for action, place in enumerate(places):
        _draw_action(pen, frame, action, place)
    return image


def signed(score: float) -> str:
    """A rounded score with its sign: +3, −21, 0."""
    return f"{round(score):+d}".replace("-", "−") if round(score) else "0"


def _enlarge(pixels: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def _places_beside(actions: int) -> list[Place]:
    """A bar of P(UP) between UP and DOWN, with a third action at the bottom; or more actions, each above its bar."""
    if actions > 3:
        tops = range(TOP + 24, TOP + 24 + 74 * actions, 74)
        return [Place((SIDE + 6, y, RIGHT - 6, y + 28), (SIDE + 6, y + 34, RIGHT - 6, y + 46)) for y in tops]
    middles = (BOTTOM - 16, TOP + 16, BOTTOM + 22)[:actions]
    down, up, *noop = (Place((CENTER - 38, y - 16, CENTER + 37, y + 15)) for y in middles)
    bar = CENTER - 16, TOP + 40, CENTER + 15, BOTTOM - 41
    return [down, up._replace(bar=bar, number=(CENTER, 82)), *noop]


def _places_below(actions: int, top: int) -> list[Place]:
    """A row for each action, with its name, bar and probability."""
    height = min((HEIGHT - 12 - top) // actions, 48)
    rows = ((y, y + height - 8) for y in range(top, top + height * actions, height))
    right = MAX_SCREEN_WIDTH
    return [Place((8, y, 208, end), (220, y, right - 76, end), (right - 38, (y + end) // 2)) for y, end in rows]


def _draw_action(pen: ImageDraw.ImageDraw, frame: RenderedFrame, action: int, place: Place) -> None:
    """Draw an action's name, in a green box if the action was chosen, and its probability."""
    chosen, prob = frame.action == action, frame.probs[action] if frame.probs else 0.0
    pen.rounded_rectangle(place.name, 6, GREEN if chosen else DARK)
    left, top, right, bottom = place.name
    middle = (left + right + 1) // 2, (top + bottom + 1) // 2
    pen.text(middle, frame.action_names[action], DARK if chosen else DIM, _font(17), anchor="mm")
    if place.bar:
        _draw_bar(pen, place.bar, prob)
    if place.number and frame.probs:
        pen.text(place.number, f"{prob:.2f}", LIGHT, _font(24), anchor="mm")


def _draw_bar(pen: ImageDraw.ImageDraw, box: Box, prob: float) -> None:
    left, top, right, bottom = box
    is_vertical = bottom - top > right - left
    pen.rectangle(box, TROUGH)
    if length := round(prob * (max(bottom - top, right - left) + 1)):
        start, end = (bottom - length + 1, right) if is_vertical else (top, left + length - 1)
        pen.rectangle((left, start, end, bottom), GREEN)
    if is_vertical:
        middle = (top + bottom + 1) // 2  # P(UP) = ½
        pen.line((left - 8, middle, right + 8, middle), LIGHT, 2)


@functools.cache
def _background(caption: str, actions: int, pictures: int, is_pong: bool) -> Image.Image:
    """The parts that all pictures of a game share. A long caption loses its beginning."""
    image = Image.new("RGB", (WIDTH, HEIGHT), DARK)
    pen = ImageDraw.Draw(image)
    while pen.textlength(caption, _font(17)) > SIDE:
        caption = "…" + caption[2:]
    pen.text((RIGHT, 12), caption, DIM, _font(17))
    heading = "what the policy sees" + ("" if is_pong else ": the oldest picture first")
    pen.text((RIGHT, 77), "this screen minus the previous one" if pictures == 1 else heading, DIM, _font(17))
    if is_pong:
        pen.text((CENTER, 54), "P(UP)" if actions <= 3 else "P(action)", DIM, _font(17), anchor="mm")
        for k, (word, difference) in enumerate(LEGEND.items()):
            x = RIGHT + 140 * k
            pen.rectangle((x, BOTTOM + 15, x + 15, BOTTOM + 30), (int(DIFFERENCES[difference]),) * 3, DIM)
            pen.text((x + 24, BOTTOM + 23), word, DIM, _font(17), anchor="lm")
    return image


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
