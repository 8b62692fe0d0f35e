"""Draw a frame: the screen, the probability of each action, the chosen action and the policy's observation."""

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pong.render.frame import RenderedFrame

SCALE = 3  # picture pixels per pixel of Pong's screen, so 6 per pixel of an 80×80 observation
TOP, SIDE = 35 * SCALE, 160 * SCALE  # top and side length of Pong's square play field
BOTTOM = TOP + SIDE
RIGHT = SIDE + 128  # left edge of the observation
WIDTH, HEIGHT = RIGHT + SIDE + 16, 210 * SCALE  # even, as H.264 requires
MAX_SCREEN_WIDTH = RIGHT - 16  # of a screen that is wider than Pong's

DARK, DIM, LIGHT, GREEN = (22, 22, 26), (150, 150, 156), (240, 240, 240), (92, 186, 92)  # Pong's right paddle is GREEN
TROUGH = (58, 58, 64)  # the empty part of a bar
VANISHED, UNCHANGED, APPEARED = 0, 112, 255  # grey levels of a difference of −1, 0, 1

Box = tuple[int, int, int, int]  # left, top, right, bottom


def draw_picture(frame: RenderedFrame, caption: str) -> Image.Image:
    """Draw a frame as an RGB image of WIDTH × HEIGHT.

    Args:
        frame: of a game.
        caption: a short line that names the policy.
    """
    height, width, _ = frame.screen.shape
    screen_width = min(MAX_SCREEN_WIDTH, HEIGHT * width // height)
    screen_height = screen_width * height // width
    below = screen_height < HEIGHT  # the actions are drawn below the screen, not beside it
    few = len(frame.action_names) <= 3
    image = _background(caption, _heading(frame.observation), "" if below else "P(UP)" if few else "P(action)").copy()
    image.paste(_enlarge(frame.screen, screen_width, screen_height), (0, 0))
    _paste_observation(image, frame.observation)
    pen = ImageDraw.Draw(image)
    score = signed(frame.score).replace("−", "-")  # the font has no minus sign
    pen.text((RIGHT, 40), f"score {score}", LIGHT, _font(26))
    pen.text((RIGHT + 190, 40), f"step {frame.step:,}", LIGHT, _font(26))
    if below:
        _draw_rows(pen, frame, screen_height + 12)
    elif few:
        _draw_decision(pen, frame)
    else:
        _draw_column(pen, frame)
    return image


def signed(score: float) -> str:
    """A rounded score with its sign: +3, −21, 0."""
    return f"{round(score):+d}".replace("-", "−") if round(score) else "0"


def _heading(observation: NDArray[np.int8 | np.uint8]) -> str:
    if len(observation) == 1:
        return "this screen minus the previous one"
    return "what the policy sees" + ("" if observation.dtype == np.int8 else ": the oldest picture first")


def _enlarge(pixels: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def _paste_observation(image: Image.Image, observation: NDArray[np.int8 | np.uint8]) -> None:
    """Paste a single picture in full size, several pictures in rows of two."""
    greys = observation.astype(np.uint8)
    if observation.dtype == np.int8:
        greys = np.array([UNCHANGED, APPEARED, VANISHED], np.uint8)[observation]  # index −1 is the last
    size, gap = (SIDE, 0) if len(greys) == 1 else (SIDE // 2, 4)
    for k, grey in enumerate(greys):
        image.paste(_enlarge(grey, size - gap, size - gap), (RIGHT + k % 2 * size, TOP + k // 2 * size))


def _draw_decision(pen: ImageDraw.ImageDraw, frame: RenderedFrame) -> None:
    """Draw a vertical bar of P(UP) between UP and DOWN; a third action is at the bottom."""
    center = (SIDE + RIGHT) // 2
    top, bottom = TOP + 40, BOTTOM - 40
    pen.rectangle((center - 16, top, center + 15, bottom - 1), TROUGH)
    for action, y in zip(range(len(frame.action_names)), (BOTTOM - 16, TOP + 16, BOTTOM + 22), strict=False):
        _draw_name(pen, frame, action, (center - 38, y - 16, center + 37, y + 15), 20)
    if frame.probs:
        pen.text((center, 82), f"{frame.probs[1]:.2f}", LIGHT, _font(26), anchor="mm")
        if height := round(frame.probs[1] * (bottom - top)):
            pen.rectangle((center - 16, bottom - height, center + 15, bottom - 1), GREEN)
    pen.line((center - 24, (top + bottom) // 2, center + 23, (top + bottom) // 2), LIGHT, 2)  # P(UP) = ½


def _draw_column(pen: ImageDraw.ImageDraw, frame: RenderedFrame) -> None:
    """Draw each action's name above its bar, beside the screen."""
    left, right = SIDE + 6, RIGHT - 6
    for action in range(len(frame.action_names)):
        y = TOP + 24 + 74 * action
        _draw_name(pen, frame, action, (left, y, right, y + 28), 14)
        _draw_bar(pen, frame, action, (left, y + 34, right, y + 46))


def _draw_rows(pen: ImageDraw.ImageDraw, frame: RenderedFrame, top: int) -> None:
    """Draw each action's name, bar and probability in a row, below the screen."""
    height = min((HEIGHT - 12 - top) // len(frame.action_names), 48)
    for action, y in enumerate(range(top, top + height * len(frame.action_names), height)):
        bottom = y + height - 8
        _draw_name(pen, frame, action, (8, y, 208, bottom), 17)
        _draw_bar(pen, frame, action, (220, y, MAX_SCREEN_WIDTH - 76, bottom))
        if frame.probs:
            middle = (MAX_SCREEN_WIDTH - 12, (y + bottom) // 2)
            pen.text(middle, f"{frame.probs[action]:.2f}", LIGHT, _font(20), anchor="rm")


def _draw_name(pen: ImageDraw.ImageDraw, frame: RenderedFrame, action: int, box: Box, size: int) -> None:
    """Draw an action's name in the middle of a box, which is green if the action was chosen."""
    chosen = frame.action == action
    pen.rounded_rectangle(box, 6, GREEN if chosen else DARK)
    middle = (box[0] + box[2] + 1) // 2, (box[1] + box[3] + 1) // 2
    pen.text(middle, frame.action_names[action], DARK if chosen else DIM, _font(size), anchor="mm")


def _draw_bar(pen: ImageDraw.ImageDraw, frame: RenderedFrame, action: int, box: Box) -> None:
    """Fill a box from the left in proportion to an action's probability."""
    left, top, right, bottom = box
    pen.rectangle(box, TROUGH)
    if frame.probs and (width := round(frame.probs[action] * (right - left))):
        pen.rectangle((left, top, left + width, bottom), GREEN)


@functools.cache
def _background(caption: str, heading: str, column_title: str) -> Image.Image:
    """What is the same in all pictures of a game. A long caption loses its beginning."""
    image = Image.new("RGB", (WIDTH, HEIGHT), DARK)
    pen = ImageDraw.Draw(image)
    while pen.textlength(caption, _font(17)) > SIDE:
        caption = "…" + caption[2:]
    pen.text((RIGHT, 12), caption, DIM, _font(17))
    pen.text((RIGHT, 77), heading, DIM, _font(17))
    if column_title:  # Pong
        pen.text(((SIDE + RIGHT) // 2, 54), column_title, DIM, _font(17), anchor="mm")
        for k, (word, grey) in enumerate({"appeared": APPEARED, "vanished": VANISHED, "unchanged": UNCHANGED}.items()):
            x = RIGHT + 140 * k
            pen.rectangle((x, BOTTOM + 15, x + 15, BOTTOM + 30), (grey, grey, grey), DIM)
            pen.text((x + 24, BOTTOM + 23), word, DIM, _font(17), anchor="lm")
    return image


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
