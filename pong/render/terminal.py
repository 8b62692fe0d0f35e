"""A game in a terminal: half-blocks in 24-bit colour, two pixels to a character."""

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from pong.render.game import RenderedFrame
from pong.render.pace import Pace
from pong.render.picture import signed

CLEAR, ERASE, RESET = "\x1b[2J", "\x1b[2K", "\x1b[0m"  # the page, a line, the colours
BEGIN, END = "\x1b[?1049h\x1b[?25l", RESET + "\x1b[?25h\x1b[?1049l"  # another page, without cursor; and back
STATUS = 1  # rows below the screen
BAR = 10  # characters of the bar of one of two actions
EIGHTHS = " ▁▂▃▄▅▆▇█"  # of a bar that is one character


def show(frames: Iterable[RenderedFrame], out: TextIO, speed: float = 1) -> None:
    """Show each frame at its time; the terminal is restored at the end, whatever ends it.

    Args:
        frames: of a game.
        out: a terminal.
        speed: 1 is natural.
    """
    pace = Pace(speed)
    size, shown = None, set[str]()
    with _page(out):
        for frame in frames:
            before, size = size, shutil.get_terminal_size()
            lines = layout(frame, *size)
            if size != before:
                shown = set()
                out.write(CLEAR)
            out.write("".join(line for line in lines if line not in shown))  # over SSH every byte counts
            out.flush()
            shown = set(lines)
            pace.hold(frame.frames, frame.rate)
            time.sleep(pace.left)


def layout(frame: RenderedFrame, columns: int, rows: int) -> list[str]:
    """What to print for a frame in a terminal of that size: lines that each begin by moving to their place.

    The screen keeps its shape: a character is twice as high as wide, and holds two pixels. Below it stands a line.
    """
    tall, wide, _ = frame.screen.shape
    height = max(min(2 * (rows - STATUS), columns * tall // wide) // 2 * 2, 2)
    width = height * wide // tall
    left = (columns - width) // 2 + 1
    lines = half_blocks(shrink(frame.screen, height, width))
    status = _status(frame)[:columns]
    middle = max((columns - len(status)) // 2, 0) + 1
    placed = [f"\x1b[{row};{left}H{line}" for row, line in enumerate(lines, start=1)]
    return [*placed, f"\x1b[{len(lines) + 1};{middle}H{ERASE}{status}"]


def shrink(screen: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A screen (H, W, 3) in (height, width, 3) pixels: of each block the brightest, so that no ball is lost."""
    red, green, blue = np.moveaxis(screen.astype(np.int64), -1, 0)
    ranked = ((red + green + blue) << 24) | (red << 16) | (green << 8) | blue  # by brightness
    for axis, size in enumerate((height, width)):
        ranked = np.maximum.reduceat(ranked, np.arange(size) * screen.shape[axis] // size, axis=axis)
    return np.stack([ranked >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)


def half_blocks(pixels: NDArray[np.uint8]) -> list[str]:
    """Lines of "▀" for pixels (2·lines, columns, 3): the upper pixel in front, the lower behind, and then reset."""
    return [_line(upper.tolist(), lower.tolist()) for upper, lower in zip(pixels[::2], pixels[1::2], strict=True)]


def _line(upper: list[list[int]], lower: list[list[int]]) -> str:
    text, front, back = "", None, None
    for over, under in zip(upper, lower, strict=True):
        if over != front:  # a colour stays until it is changed
            text += "\x1b[38;2;{};{};{}m".format(*over)
        if under != back:
            text += "\x1b[48;2;{};{};{}m".format(*under)
        text, front, back = text + "▀", over, under
    return text + RESET


def _status(frame: RenderedFrame) -> str:
    """What a narrow terminal cuts off comes last."""
    score, step = f"score {signed(frame.score):>3}", f"step {frame.step:>6,}"
    if frame.action is None:
        return f"{score}   the end   {step}"
    return f"{score}   {_pair(frame, frame.action) if len(frame.names) == 2 else _choice(frame)}   {step}"


def _pair(frame: RenderedFrame, action: int) -> str:
    """How likely the second of two actions was, and the one that was taken."""
    bar = "█" * round(BAR * frame.probs[1])
    width = max(map(len, frame.names))
    return f"P({frame.names[1]}) {frame.probs[1]:.2f} {bar:░<{BAR}} {frame.names[action]:<{width}}"


def _choice(frame: RenderedFrame) -> str:
    """Each action with how likely it was, the one that was taken in brackets."""
    bars = [f"{name} {EIGHTHS[round(8 * prob)]}" for name, prob in zip(frame.names, frame.probs, strict=True)]
    return " ".join(f"[{bar}]" if k == frame.action else f" {bar} " for k, bar in enumerate(bars))


@contextlib.contextmanager
def _page(out: TextIO) -> Iterator[None]:
    out.write(BEGIN)
    try:
        yield
    finally:
        out.write(END)
        out.flush()
