"""Show a game in a terminal with half blocks in 24-bit colour, two pixels per character."""

import shutil
import time
from collections.abc import Iterable
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from pong.render.frame import RenderedFrame
from pong.render.picture import signed

CLEAR, ERASE_LINE, RESET = "\x1b[2J", "\x1b[2K", "\x1b[0m"  # RESET: the default colours
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", RESET + "\x1b[?25h\x1b[?1049l"  # the alternate screen, without a cursor
EIGHTHS = " ▁▂▃▄▅▆▇█"  # bars of one character


def show(frames: Iterable[RenderedFrame], out: TextIO, speed: float = 1) -> None:
    """Show each frame of a game for its time divided by ``speed``, the last frame for a second.

    The terminal ``out`` is restored at the end.
    """
    size, previous, due = None, set[str](), time.monotonic()
    out.write(ENTER)
    try:
        for frame in frames:
            if size != (size := shutil.get_terminal_size()):
                previous = set()
                out.write(CLEAR)
            lines = layout(frame, *size)
            out.write("".join(line for line in lines if line not in previous))  # saves bandwidth over SSH
            out.flush()
            previous = set(lines)
            now = time.monotonic()
            due = max(due + (frame.frames / frame.frame_rate / speed if frame.frames else 1), now)
            time.sleep(due - now)
    finally:
        out.write(LEAVE)
        out.flush()


def layout(frame: RenderedFrame, columns: int, rows: int) -> list[str]:
    """The lines of a frame, each with its position: the screen in its aspect ratio and a status line below it."""
    height, width, _ = frame.screen.shape
    new_height = max(min(2 * (rows - 1), columns * height // width) // 2 * 2, 2)
    new_width = new_height * width // height
    lines = half_blocks(shrink(frame.screen, new_height, new_width))
    status = _status(frame)[:columns]
    left, middle = (columns - new_width) // 2 + 1, (columns - len(status)) // 2 + 1
    placed = [f"\x1b[{row};{left}H{line}" for row, line in enumerate(lines, start=1)]
    return [*placed, f"\x1b[{len(lines) + 1};{middle}H{ERASE_LINE}{status}"]


def shrink(screen: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a screen (H, W, 3) to (height, width, 3). Each block keeps its brightest pixel, so the ball stays."""
    red, green, blue = np.moveaxis(screen.astype(np.int64), -1, 0)
    ranked = ((red + green + blue) << 24) | (red << 16) | (green << 8) | blue  # sorts by brightness
    for axis, size in enumerate((height, width)):
        ranked = np.maximum.reduceat(ranked, np.arange(size) * screen.shape[axis] // size, axis=axis)
    return np.stack([ranked >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)


def half_blocks(pixels: NDArray[np.uint8]) -> list[str]:
    """Lines of "▀" for pixels (2·lines, columns, 3), with the upper pixel as foreground, the lower as background."""
    lines = []
    for row in np.concatenate([pixels[::2], pixels[1::2]], axis=2).tolist():
        line, previous = "", [-1] * 6
        for pixel in row:  # red, green and blue of the upper and of the lower one
            if pixel[:3] != previous[:3]:  # a colour applies until it changes
                line += "\x1b[38;2;{};{};{}m".format(*pixel[:3])
            if pixel[3:] != previous[3:]:
                line += "\x1b[48;2;{};{};{}m".format(*pixel[3:])
            line, previous = line + "▀", pixel
        lines.append(line + RESET)
    return lines


def _status(frame: RenderedFrame) -> str:
    """Score, each action's probability with the chosen action in brackets, and step; a narrow terminal cuts it off."""
    bars = [f"{name} {EIGHTHS[round(8 * prob)]}" for name, prob in zip(frame.action_names, frame.probs, strict=False)]
    decision = " ".join(f"[{bar}]" if k == frame.action else f" {bar} " for k, bar in enumerate(bars)) or "the end"
    return f"score {signed(frame.score):>3}   {decision}   step {frame.step:>6,}"
