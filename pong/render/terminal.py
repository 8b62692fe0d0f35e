"""Show a game in a terminal with half blocks in 24-bit colour, two pixels per character."""

import itertools
import time
from collections.abc import Iterable
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pong.render.frame import RenderedFrame
from pong.render.picture import signed

HOME, RESET, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[0m", "\x1b[K", "\x1b[J"  # RESET: the default colours
EIGHTHS = " ▁▂▃▄▅▆▇█"  # bars of one character


def show(frames: Iterable[RenderedFrame], out: TextIO, speed: float = 1) -> None:
    """Show each frame of a game for its time divided by ``speed``, the last frame for a second."""
    console, due = Console(file=out, force_terminal=True), time.monotonic()
    with console.screen():
        for frame in frames:
            out.write(HOME + "\n".join(layout(frame, *console.size)))
            out.flush()
            now = time.monotonic()
            due = max(due + (frame.frames / frame.frame_rate / speed if frame.frames else 1), now)
            time.sleep(due - now)


def layout(frame: RenderedFrame, columns: int, rows: int) -> list[str]:
    """The lines of a frame: its screen, then a status line with each action's probability, the chosen in brackets."""
    height, width, _ = frame.screen.shape
    new_height = max(min(2 * (rows - 1), columns * height // width) // 2 * 2, 2)
    new_width = new_height * width // height
    margin = ERASE_LINE + " " * ((columns - new_width) // 2)
    lines = half_blocks(shrink(frame.screen, new_height, new_width))
    bars = [f"{name} {EIGHTHS[round(8 * prob)]}" for name, prob in zip(frame.action_names, frame.probs, strict=False)]
    decision = " ".join(f"[{bar}]" if k == frame.action else f" {bar} " for k, bar in enumerate(bars)) or "the end"
    status = f"score {signed(frame.score):>3}   {decision}   step {frame.step:>6,}"
    return [*(margin + line for line in lines), ERASE_BELOW + status[:columns].center(columns)]


def half_blocks(pixels: NDArray[np.uint8]) -> list[str]:
    """Lines of "▀" for pixels (2·lines, columns, 3), with the upper pixel as foreground, the lower as background."""
    lines = []
    for row in np.concatenate([pixels[::2], pixels[1::2]], axis=2).tolist():
        runs = ((color, len([*run])) for color, run in itertools.groupby(row))
        colored = ("\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*color) + "▀" * n for color, n in runs)
        lines.append("".join(colored) + RESET)
    return lines


def shrink(screen: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize a screen (H, W, 3) to (height, width, 3). Each block keeps its brightest pixel, so the ball stays."""
    red, green, blue = np.moveaxis(screen.astype(np.int64), -1, 0)
    ranked = ((red + green + blue) << 24) | (red << 16) | (green << 8) | blue  # sorts by brightness
    for axis, size in enumerate((height, width)):
        ranked = np.maximum.reduceat(ranked, np.arange(size) * screen.shape[axis] // size, axis=axis)
    return np.stack([ranked >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
