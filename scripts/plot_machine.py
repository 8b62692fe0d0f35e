"""Draw docs/images/pong-bounce.png and pong-opponent.png: the ball leaving a paddle, and the opponent following it.

Every path is played by pong.envs.pong.machine.
"""

from typing import Any

import numpy as np
from common import BLUE, GREEN, GREY, ORANGE, RED, ROOT
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from pong.envs.pong import machine
from pong.envs.pong.task import NOOP

PLAYERS, OPPONENTS = "#5cba5c", "#d59a5c"  # paddles, much as on the screen
LINE = 120  # of the ball at each hit, far from the walls
OFFSETS = range(-20, 21)  # y − p: lines from a paddle's line to the ball's; no paddle reaches that far
FLAT, STEEP = 10, 14  # offsets of the second picture's two hits


def main() -> None:
    for name, draw in (("pong-bounce", draw_bounce), ("pong-opponent", draw_opponent)):
        figure = Figure(figsize=(8.0, 4.4), dpi=100, layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        path = ROOT / f"docs/images/{name}.png"
        figure.savefig(path)
        Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def meeting(side: int, offset: int) -> Any:
    """A game whose ball has just reached a side's paddle, ``offset`` lines below it; None if it misses."""
    game = np.zeros(1, machine.GAME)[0]
    machine.reset(game)
    game.pause, game.left = 0, -machine.SPEED
    columns = range(machine.LEFT_END, machine.RIGHT_END)
    for game.y in (LINE, LINE + 1):
        for game.x in columns if side == machine.PLAYER else reversed(columns):
            game.cpu_y = game.own_y = game.next_y = game.y - offset
            game.touch = machine.touching(game)
            if game.touch == side:
                return game
    return None


def reach(side: int) -> list[int]:
    """The offsets at which a side's paddle meets the ball."""
    return [offset for offset in OFFSETS if meeting(side, offset) is not None]


def flight(game: Any) -> NDArray[np.int64]:
    """From the player's hit to the opponent's paddle: the ball's column and line and the opponent's line, (T, 3)."""
    places = [(game.x, game.y, game.cpu_y)]
    arrival = meeting(machine.OPPONENT, 0).x
    while game.x > arrival:
        machine.frame(game, NOOP)
        places.append((game.x, game.y, game.cpu_y))
    return np.array(places)


def rate(down: int) -> str:
    return f"{abs(down)} line{'s' * (abs(down) != 1)} a frame{('', ' down', ' up')[np.sign(down)]}"


def draw_bounce(figure: Figure, columns: int = 16) -> None:
    """The ball's paths from the player's paddle, one for each offset."""
    axes, offsets = figure.add_subplot(), reach(machine.PLAYER)
    for down, color in zip(range(-2, 3), (RED, ORANGE, GREY, GREEN, BLUE), strict=True):
        same = [offset for offset in offsets if machine.bounce(0, offset) == down]
        for offset in same:
            x, y, _ = flight(meeting(machine.PLAYER, offset))[: columns + 1].T
            axes.plot(x[0] - x, offset + y - y[0], color=color, linewidth=1)
        text = f"y − p = {same[0]} to {same[-1]}:\n{rate(down)}".replace("-", "−")
        axes.text(columns + 0.5, sum(same) / len(same) + columns * down, text, color=color, ha="right", va="center")
    axes.add_patch(Rectangle((0, 0), -1, 16, color=PLAYERS, linewidth=0))  # lines
    axes.set(xlim=(columns + 6, -1.2), ylim=(53, -41), xticks=range(0, columns + 1, 4))
    axes.set(xlabel="columns from the paddle", ylabel="y − p, lines (0: ball and paddle tops level)")
    axes.set_title("Where the ball meets the player's paddle decides how steeply it leaves")


def draw_opponent(figure: Figure) -> None:
    """The same shot, flat and steep, and what the opponent's paddle reaches of it."""
    low, *_, high = reach(machine.OPPONENT)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, offset in zip(panels, (FLAT, STEEP), strict=True):
        game = meeting(machine.PLAYER, offset)
        game.cpu_y = game.y
        _, ball, paddle = flight(game).T
        frames = np.arange(len(ball))
        band = axes.fill_between(frames, paddle + low, paddle + high, color=OPPONENTS, alpha=0.5, linewidth=0)
        (line,) = axes.plot(frames, ball, color=BLUE)
        beyond = max(paddle[-1] + low - ball[-1], ball[-1] - paddle[-1] - high)
        title = f"{rate(machine.bounce(0, offset))}: " + (f"missed by {beyond} lines" if beyond > 0 else "returned")
        axes.set(title=title, xlabel="frames after the player's hit", ylim=(212, 40))
    panels[0].set_ylabel("line")
    panels[0].legend((line, band), ("the ball", "what the opponent's paddle reaches"), frameon=False, loc="upper left")


if __name__ == "__main__":
    main()
