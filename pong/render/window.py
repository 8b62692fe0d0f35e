"""A game in a window, by pygame."""

import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pong.config import InputError
from pong.render.game import RenderedFrame
from pong.render.pace import Pace
from pong.render.picture import HEIGHT, WIDTH, picture

if TYPE_CHECKING:
    import pygame  # type: ignore[import-not-found, unused-ignore]

DISPLAYS = {"WAYLAND_DISPLAY": "wayland", "DISPLAY": "x11"}  # on Linux: what names a display, and SDL's driver for it
PATIENCE = 0.02  # seconds between looks at whether the window was closed


def open_window(title: str) -> "pygame.Surface":
    """A window of the size of a picture, to draw on.

    Raises:
        InputError: pygame is missing, or there is no display.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise InputError("play: --window needs pygame; run: pip install pygame-ce") from None
    try:
        _choose_driver()
        pygame.display.init()
        pygame.display.set_caption(title)
        return pygame.display.set_mode((WIDTH, HEIGHT))
    except pygame.error as error:
        raise InputError(f"play: --window: no display ({error}); use --terminal, or --file") from None


def _choose_driver() -> None:
    """Without it SDL on a Linux machine without a display draws to nowhere, and says nothing."""
    drivers = [driver for variable, driver in DISPLAYS.items() if os.environ.get(variable)]
    if sys.platform == "linux" and not os.environ.get("SDL_VIDEODRIVER"):
        if not drivers:
            raise InputError(f"play: --window: no display ({' or '.join(DISPLAYS)}); use --terminal, or --file")
        os.environ["SDL_VIDEODRIVER"] = ",".join(drivers)


def show(frames: Iterable[RenderedFrame], window: "pygame.Surface", caption: str, speed: float = 1) -> None:
    """Show each frame at its time until the game ends or the window is closed; close it.

    Args:
        frames: of a game.
        window: from ``open_window``.
        caption: a short line that says what plays.
        speed: 1 is natural.
    """
    import pygame

    pace = Pace(speed)
    try:
        for frame in frames:
            drawn = pygame.image.frombuffer(picture(frame, caption).tobytes(), (WIDTH, HEIGHT), "RGB")
            window.blit(drawn, (0, 0))
            pygame.display.flip()
            pace.hold(frame.frames, frame.rate)
            if _closed_within(pace):
                return
    finally:
        pygame.display.quit()


def _closed_within(pace: Pace) -> bool:
    """Wait for the next picture's time; whether the window was closed meanwhile."""
    import pygame

    while not pygame.event.peek(pygame.QUIT):
        if not pace.left:
            return False
        time.sleep(min(pace.left, PATIENCE))
    return True
