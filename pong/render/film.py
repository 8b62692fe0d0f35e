"""Write a game as an mp4 or gif file with the ffmpeg that comes with imageio-ffmpeg."""

import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]

from pong.config import Config, InputError, RunError
from pong.envs import frame_rate
from pong.evaluate import progress
from pong.render.frame import RenderedFrame
from pong.render.picture import HEIGHT, WIDTH, draw_picture

MP4 = "-c:v libx264 -pix_fmt yuv420p -preset veryfast -crf 20 -movflags +faststart"
# One palette of the colours in the first 30 pictures: a palette for each picture would make a gif five times as large.
PALETTE = "split[a][b]; [a]trim=end_frame=30,palettegen=reserve_transparent=0[p]; [b][p]paletteuse=dither=none"
SMALL_PALETTE = "scale=iw/2:ih/2:flags=area," + PALETTE.replace("palettegen=", "palettegen=max_colors=64:")
GIF_FPS = 50  # browsers slow faster gifs down to 10


def fps_of(config: Config) -> float:
    """Pictures per second at natural speed, one per decision; hold "2-4" averages 3 frames."""
    return frame_rate(config) / (3 if isinstance(config.hold, str) else config.hold)


def write_film(frames: Iterable[RenderedFrame], file: Path, fps: float, caption: str) -> None:
    """Write a picture of each frame of a game to an .mp4 or .gif file; if that fails, an older file is unchanged."""
    partial = file.absolute().with_name(f".part-{os.getpid()}{file.suffix}")  # to ffmpeg "12:30.gif" would be a URL
    try:
        partial.touch()
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
    try:
        _encode(iter(frames), partial, fps, caption)
        partial.replace(file)
    except OSError:
        remedy = "free some disk space or reinstall imageio-ffmpeg"
        raise RunError(f"{file} cannot be written: ffmpeg failed; {remedy}") from None
    finally:
        partial.unlink(missing_ok=True)


def _encode(frames: Iterator[RenderedFrame], file: Path, fps: float, caption: str) -> None:
    first, options = next(frames), MP4.split()
    if file.suffix.lower() == ".gif":
        # In another game than Pong all pixels change, which takes 100 kB per picture even at half the size.
        fps, options = min(fps, GIF_FPS), ["-lavfi", PALETTE if first.is_pong else SMALL_PALETTE]
    source = f"-f rawvideo -pix_fmt rgb24 -video_size {WIDTH}x{HEIGHT} -framerate {fps} -i -".split()
    # imageio_ffmpeg.write_frames would ignore ffmpeg's exit status.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-y", *source, *options, str(file)]
    with progress("recording") as show, subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin
        for frame in itertools.chain([first], frames):
            if frame.step % 20 == 0:
                show(frame.step, frame.score)
            ffmpeg.stdin.write(draw_picture(frame, caption).tobytes())
    if ffmpeg.returncode or not file.stat().st_size:
        raise OSError("incomplete film")
