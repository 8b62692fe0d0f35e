"""What a rollout plays in: N environments stepped together, each with random streams of its own."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pong.frames import Observations


@dataclass(frozen=True)
class Played:
    """What a decision led to, in each of N environments.

    Attributes:
        observations: N rows, what the policy sees next.
        rewards: (N,) float32.
        dones: (N,) bool, the episode ended; the observation is already the next one's first.
        frames: (N,) int64, emulated for this decision.
    """

    observations: Observations
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    frames: NDArray[np.int64]


class Fleet(Protocol):
    """N environments."""

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Observations:
        """New episodes: N observations; ``seeds`` (N,) of each one's random streams, or None to let them run on."""
        ...

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> Played:
        """One decision of each active environment: actions (N,) or (N, d). What the others do is of no interest."""
        ...

    def close(self) -> None:
        """End the environments."""
        ...


class Shown(Fleet, Protocol):
    """One environment whose screens can be shown to people.

    Attributes:
        rate: frames a second at natural speed.
    """

    rate: int

    @property
    def actions(self) -> tuple[str, ...]:
        """What each action is called."""
        ...

    def seen(self, observations: Observations) -> NDArray[np.int8 | np.uint8]:
        """The pictures in an observation, (C, h, w): uint8, or int8 in {−1, 0, 1}, a screen minus another."""
        ...

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The screen of this moment: (H, W, 3) uint8, RGB."""
        ...

    @property
    def last(self) -> NDArray[np.uint8]:
        """The last screen of the game before this one, the same."""
        ...

    @property
    def finished(self) -> bool:
        """That game ended as games do, and was not cut off."""
        ...
