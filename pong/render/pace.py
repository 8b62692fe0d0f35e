"""Natural speed."""

import time


class Pace:
    """When the next picture is due.

    Args:
        speed: 1 is natural, 2 twice as fast.
    """

    def __init__(self, speed: float):
        self._speed = speed
        self._due = time.monotonic()

    def hold(self, frames: int, rate: int) -> None:
        """The picture on show stays for this many emulated frames, ``rate`` a second; the last one, 0, for a second."""
        later = self._due + frames / rate / self._speed if frames else time.monotonic() + 1
        self._due = max(later, time.monotonic())  # time lost is not made up for by hurrying

    @property
    def left(self) -> float:
        """Seconds until the next picture, at least 0."""
        return max(self._due - time.monotonic(), 0)
