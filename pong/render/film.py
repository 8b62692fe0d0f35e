"""Pictures into an mp4 or gif file, by the ffmpeg that comes with imageio-ffmpeg."""

import contextlib
import functools
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pong.config import Config, InputError, RunError
from pong.envs import frame_rate
from pong.render.game import RenderedFrame
from pong.render.picture import DARK, GREEN, LIGHT, picture

H264 = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
ANEW = "install it anew: pip install --force-reinstall imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE"
GIF = ["-pix_fmt", "pal8"]
GIF_FPS = 50  # browsers slow a faster gif down, to 10
COLOURS = 64  # of a gif that is not of Pong
Colour = tuple[int, int, int]  # red, green, blue
Palette = tuple[Image.Image, bytes]  # for PIL, and for ffmpeg
GAME: list[Colour] = [  # Pong's colours, and those of its title screen
    *((144, 72, 17), (236, 236, 236), (92, 186, 92), (213, 130, 74)),
    *((109, 118, 43), (53, 95, 24), (210, 182, 86), (101, 111, 228)),
]


def fps_of(config: Config) -> float:
    """Pictures per second at natural speed, one for each decision; "2-4" holds 3 frames on average."""
    return frame_rate(config) / (3 if isinstance(config.hold, str) else config.hold)


def show(frames: Iterable[RenderedFrame], file: Path, fps: float, caption: str) -> None:
    """Film a game, a picture for each frame; see ``record`` and ``picture``."""
    record((picture(frame, caption) for frame in frames), file, fps)


write_film = show  # its new name


def record(pictures: Iterable[NDArray[np.uint8]], file: Path, fps: float) -> None:
    """Write a film: the whole of it, or no file.

    Args:
        pictures: (H, W, 3) uint8, RGB, all of one size, H and W even.
        file: ends in .mp4 or .gif.
        fps: pictures per second.

    Raises:
        InputError: nothing can be written there.
        RunError: writing failed on the way, such as on a full disk.
    """
    part = file.with_name(f".part-{os.getpid()}{file.suffix}")
    try:
        part.touch()
    except OSError as error:
        raise InputError(f"play: {file} can't be written: {error.strerror}") from None
    try:
        _encode(pictures, part, fps)
        part.replace(file)
    except OSError as error:
        raise RunError(f"play: {file} can't be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _encode(pictures: Iterable[NDArray[np.uint8]], part: Path, fps: float) -> None:
    gif = part.suffix.lower() == ".gif"
    rate = min(fps, GIF_FPS) if gif else fps
    first, pictures = _peek(pictures)
    palette = _palette() if gif else None
    if palette and not _shows(first, palette[0]):  # not Pong; when every pixel changes, a picture takes 100 kB
        first, pictures = _peek(map(_half, pictures))
        palette = _palette_of(first)
    raw = ["-f", "rawvideo", "-pix_fmt", "pal8" if gif else "rgb24", "-s", f"{first.shape[1]}x{first.shape[0]}"]
    program = _ffmpeg()
    output = str(part.absolute())  # ffmpeg takes "12:30.gif" for an address, and "-1.gif" for an option
    command = [program, "-v", "error", "-y", *raw, "-r", f"{rate:.6f}", "-i", "-", *(GIF if gif else H264), output]
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints, process_group=0)  # not Ctrl-C
        except OSError as error:
            raise RunError(f"play: ffmpeg ({program}) can't be started: {error.strerror}; {ANEW}") from None
        try:
            assert process.stdin
            _feed(process.stdin, pictures, palette)
            status = process.wait()
        finally:
            process.kill()  # if it has not ended
            process.wait()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip().splitlines()
    if status and said:
        raise OSError(f"{said[-1].split('] ')[-1]} (says {program})")  # without "[out#0/mp4 @ …] "
    if status:
        raise OSError(f"ffmpeg ({program}) ended with status {status} and said nothing")


def _ffmpeg() -> str:
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise RunError(f"play: there is no ffmpeg ({' '.join(str(error).split())}); {ANEW}") from None


def _peek(pictures: Iterable[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], Iterable[NDArray[np.uint8]]]:
    """The first picture, and all of them."""
    rest = iter(pictures)
    first = next(rest)
    return first, itertools.chain([first], rest)


def _feed(pipe: IO[bytes], pictures: Iterable[NDArray[np.uint8]], palette: Palette | None) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:  # ffmpeg gave up; it says why
        for picture in pictures:
            pipe.write(_indexed(picture, *palette) if palette else picture.tobytes())


def _indexed(picture: NDArray[np.uint8], palette: Image.Image, colours: bytes) -> bytes:
    """A picture's pixels as places in the palette (H·W bytes), then the palette."""
    return Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE).tobytes() + colours


def _half(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in half its height and width."""
    return np.asarray(Image.fromarray(picture).reduce(2))


def _shows(picture: NDArray[np.uint8], palette: Image.Image) -> bool:
    """Whether a palette has a picture's colours: to a level of 256, on average."""
    shown = Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")
    return float(np.abs(np.asarray(shown, np.int16) - picture).mean()) <= 1


def _palette_of(picture: NDArray[np.uint8]) -> Palette:
    """A palette of a picture's own colours."""
    palette = Image.fromarray(picture).quantize(COLOURS)
    return palette, _in_order([(r, g, b) for r, g, b in np.reshape(palette.getpalette() or [], (-1, 3)).tolist()])


@functools.cache
def _palette() -> Palette:
    """One for a whole film of Pong.

    A palette for each picture would make the file five times as large: little of a picture changes, and only that
    part is written.
    """
    exact = [*GAME, DARK, (0, 0, 0), (112, 112, 112), (255, 255, 255)]
    edges = [*_ramp(DARK, LIGHT, 150), *_ramp(DARK, GREEN, 80)]
    colours = exact + [edge for edge in edges if not any(_close(edge, colour) for colour in exact)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(list(itertools.chain(*colours)))
    return palette, _in_order(colours)


def _in_order(colours: list[Colour]) -> bytes:
    """A palette as ffmpeg wants it: blue, green, red, opacity for each of 256 colours."""
    return b"".join(bytes((*reversed(colour), 255)) for colour in colours).ljust(4 * 256, b"\0")


def _close(one: Colour, other: Colour) -> bool:
    """Whether PIL, which looks colours up in steps of 4, may take one for the other."""
    return all(abs(a - b) <= 4 for a, b in zip(one, other, strict=True))


def _ramp(start: Colour, end: Colour, n: int) -> list[Colour]:
    """As the smoothed edges of letters have them."""
    return [(r, g, b) for r, g, b in np.linspace(start, end, n).round().astype(int).tolist()]
