"""Write a game as an mp4 or gif file with the ffmpeg that comes with imageio-ffmpeg."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
from PIL import Image, ImageChops, ImageStat

from pong.config import Config, InputError, RunError
from pong.envs import frame_rate
from pong.render.frame import RenderedFrame
from pong.render.picture import APPEARED, DARK, GREEN, LIGHT, UNCHANGED, VANISHED, draw_picture

H264 = ["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"]
MP4: dict[str, Any] = {"pix_fmt_in": "rgb24", "pix_fmt_out": "yuv420p", "codec": "libx264", "output_params": H264}
GIF: dict[str, Any] = {"pix_fmt_in": "pal8", "pix_fmt_out": "pal8", "codec": "gif"}
GIF_FPS = 50  # browsers slow faster gifs down to 10
PONG_COLOURS = [  # RGB, of a game and of its title screen
    *((144, 72, 17), (236, 236, 236), (92, 186, 92), (213, 130, 74)),
    *((109, 118, 43), (53, 95, 24), (210, 182, 86), (101, 111, 228)),
]
OTHER_COLOURS = 64  # in a gif of another game


def fps_of(config: Config) -> float:
    """Pictures per second at natural speed, one per decision; hold "2-4" averages 3 frames."""
    return frame_rate(config) / (3 if isinstance(config.hold, str) else config.hold)


def write_film(frames: Iterable[RenderedFrame], file: Path, fps: float, caption: str) -> None:
    """Write a picture of each frame to a film. If that fails, an older file of that name is unchanged.

    Args:
        frames: of a game.
        file: ends in .mp4 or .gif.
        fps: pictures per second.
        caption: a short line that names the policy.
    """
    partial = file.absolute().with_name(f".part-{os.getpid()}{file.suffix}")  # to ffmpeg "12:30.gif" would be a URL
    try:
        partial.touch()
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
    images = (draw_picture(frame, caption) for frame in frames)
    try:
        if file.suffix.lower() == ".gif":
            _encode(_with_palette(images), partial, min(fps, GIF_FPS), GIF)
        else:
            _encode(images, partial, fps, MP4)
        partial.replace(file)
    except OSError:
        remedy = "free some disk space or reinstall imageio-ffmpeg"
        raise RunError(f"{file} cannot be written: ffmpeg failed; {remedy}") from None
    finally:
        partial.unlink(missing_ok=True)


def _encode(images: Iterator[Image.Image], file: Path, fps: float, settings: dict[str, Any]) -> None:
    first = next(images)
    writer = imageio_ffmpeg.write_frames(
        file, first.size, fps=fps, quality=None, macro_block_size=1, ffmpeg_log_level="quiet", **settings
    )
    count = 0
    with contextlib.closing(writer):
        writer.send(None)  # starts ffmpeg
        for image in itertools.chain([first], images):
            writer.send(image.tobytes() + _ffmpeg_palette(image))
            count += 1
    with contextlib.suppress(RuntimeError):  # ffmpeg cannot read it
        if imageio_ffmpeg.count_frames_and_secs(file)[0] == count:
            return
    raise OSError("incomplete film")  # write_frames ignores ffmpeg's exit status


def _with_palette(images: Iterator[Image.Image]) -> Iterator[Image.Image]:
    """Images in the colours of one palette: a palette for each image would make a gif five times as large."""
    first, scale, palette = next(images), 1, _pong_palette()
    difference = ImageChops.difference(first, first.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB"))
    if max(ImageStat.Stat(difference).mean) > 1:  # another game, in which all pixels change: 100 kB per picture
        scale, palette = 2, first.reduce(2).quantize(OTHER_COLOURS)
    for image in itertools.chain([first], images):
        yield image.reduce(scale).quantize(palette=palette, dither=Image.Dither.NONE)


def _pong_palette() -> Image.Image:
    """The exact colours of the game and the observation, and ramps for the edges of letters.

    Longer ramps would share PIL's lookup cells, 4 levels wide, with the exact colours.
    """
    exact = [*PONG_COLOURS, DARK, *((grey, grey, grey) for grey in (VANISHED, UNCHANGED, APPEARED))]
    colours = np.concatenate([exact, np.linspace(DARK, LIGHT, 64), np.linspace(DARK, GREEN, 32)])
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.round().astype(np.uint8).tobytes())
    return palette


def _ffmpeg_palette(image: Image.Image) -> bytes:
    """An image's 256 colours as blue, green, red and opacity; nothing if it has no palette."""
    colours = np.reshape(image.getpalette("RGBA") or [], (-1, 4)).astype(np.uint8)
    return colours[:, [2, 1, 0, 3]].tobytes().ljust(4 * 256, b"\0") if len(colours) else b""
