"""The actions of Pong, and the settings that define its task."""

from dataclasses import dataclass, field
from typing import Literal

from pong.config import PONG_FRAMES, Config
from pong.observations import RowLayout

NOOP, FIRE, UP, DOWN, UP_FIRE, DOWN_FIRE = range(6)  # ALE's minimal action set; it calls UP and DOWN RIGHT and LEFT
ALE_ACTIONS = (DOWN, UP, NOOP, FIRE, UP_FIRE, DOWN_FIRE)  # indexed by our actions
ACTION_NAMES = ("DOWN", "UP", "NOOP", "FIRE", "UP+FIRE", "DOWN+FIRE")  # likewise


@dataclass(frozen=True)
class PongTask:
    """How Pong is played and observed."""

    hold: int | Literal["2-4"] = 4  # frames of a decision; "2-4" draws 2, 3 or 4 each time, as gym's ``Pong-v0`` does
    sticky: float = 0.25  # probability that a frame repeats the previous action
    noop_max: int = 0  # a game starts with 1 to so many frames of NOOP, drawn uniformly; 0 leaves them out
    max_frames: int = PONG_FRAMES  # emulated frames after which a game is truncated
    actions: int = 2  # 2: DOWN and UP; 3: NOOP too; 6: all, with FIRE
    layout: RowLayout = field(default_factory=RowLayout)  # of an observation

    @property
    def holds(self) -> tuple[int, int]:
        """The shortest and the longest hold."""
        return (2, 4) if isinstance(self.hold, str) else (self.hold, self.hold)


def pong_task(config: Config) -> PongTask:
    """The task of a config."""
    layout = RowLayout(config.frames, config.actions if config.last_action else 0)
    return PongTask(config.hold, config.sticky, config.noop_max, config.game_frames, config.actions, layout)
