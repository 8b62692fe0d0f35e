"""Observations that ALE and gymnasium make from Pong's screen, drawn from the state of the compiled Pong.

Whole screens are ALE's, byte for byte, until the console's clock ends; the digits are drawn from the numbers below.
Resized screens are those of ``gymnasium.wrappers.AtariPreprocessing``: the maximum of the last two screens, which
OpenCV's ``INTER_AREA`` shrinks. docs/environment.md says how both were checked.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

import pong.envs.pong.machine as machine
from pong.envs.pong.compiled import kernel, rule
from pong.envs.pong.machine import MOST, OPPONENT, PLAYER, WINNING_POINTS, Floats, Game, round_up
from pong.observations import PIXELS

HEIGHT, WIDTH, SIDE = 210, 160, 84  # of a screen; of a resized one
FIELD_TOP, FIELD_BOTTOM = 34, 193  # rows between the walls, which hide what moves
BLACK, BACKGROUND, WALL, CPU, OWN = range(5)  # colours: the ball has that of the walls, points those of the paddles
COLOURS = np.array(  # (2, 5, 4): in play, and on a game's first two screens; red, green, blue and luminance
    [
        [[0, 0, 0, 0], [144, 72, 17, 87], [236, 236, 236, 236], [213, 130, 74, 148], [92, 186, 92, 147]],
        [[0, 0, 0, 0], [109, 118, 43, 107], [53, 95, 24, 74], [210, 182, 86, 179], [101, 111, 228, 121]],
    ],
    np.uint8,
)
DIGITS = np.array(  # 0 to 9 as five rows of three bits, an octal digit each
    [0o75557, 0o22222, 0o71747, 0o71317, 0o55711, 0o74717, 0o44757, 0o71111, 0o75757, 0o75711]
)
BIT = 4  # rows and columns of the screen
CPU_POINTS, OWN_POINTS = 36, 116  # first column of the points; the tens are four bits before

Screen = NDArray[np.uint8]
WAIT, PLAY, START = range(3)  # what a game does in a step: nothing, a decision, or a new game starts


class Step(NamedTuple):
    """N games after a step, with what else is drawn."""

    games: NDArray[Any]  # (N,) of GAME
    before: NDArray[Any]  # (N,) of GAME, one frame earlier
    shown: NDArray[Any]  # (N, 3) of GAME, from which the last observation was drawn
    plan: NDArray[np.int8]  # (N,): WAIT, PLAY or START
    max_frames: int


# --- whole screens ----------------------------------------------------------------------------------------------------


class Paint(NamedTuple):
    """What screens are drawn with, each first in play and then on a game's first two screens."""

    colours: Screen  # (2, 5, C)
    empty: Screen  # (2, 210, 160, C), screens without points, paddles and ball


def paint(colours: Screen) -> Paint:
    """For some of the numbers of a colour."""
    places = np.full((HEIGHT, WIDTH), BACKGROUND)
    places[0, :8] = BLACK
    places[24:FIELD_TOP] = places[FIELD_BOTTOM + 1 :] = WALL
    return Paint(colours.copy(), colours.take(places, axis=1))


RGB, GREY = paint(COLOURS[:, :, :3]), paint(COLOURS[:, :, 3:])
Area = tuple[int, int, int, int, int]  # a colour in the screen's rows and columns, first and last


@rule
def boxes(game: Game) -> tuple[Area, Area, Area, Area]:
    """The paddles and, on top of them, both columns of the ball."""
    own_y, left, right = round_up(game.own_y), (game.x - 49) % WIDTH, (game.x - 48) % WIDTH
    left_top, left_bottom = all_ball_rows(game, left)
    right_top, right_bottom = all_ball_rows(game, right)
    return (
        in_field(game.cpu_y - 15, game.cpu_y, 16, 19, CPU),
        in_field(own_y - 14, own_y + 1, 140, 143, OWN),
        in_field(left_top, left_bottom, left, left, WALL),
        in_field(right_top, right_bottom, right, right, WALL),
    )


@rule
def in_field(top: int, bottom: int, left: int, right: int, colour: int) -> Area:
    """The part of a box between the walls."""
    return max(top, FIELD_TOP), min(bottom, FIELD_BOTTOM), left, right, colour


@rule
def all_ball_rows(game: Game, column: int) -> tuple[int, int]:
    """``machine.ball_rows`` for odd lines, too, at which the program switches the ball a line earlier."""
    if game.y % 2 == 0:
        return machine.ball_rows(game, column)
    return game.y - 14 - (column >= odd_beam(game, game.y - 1)), game.y - 11 - (column >= odd_beam(game, game.y + 3))


@rule
def odd_beam(game: Game, line: int) -> int:
    """``machine.beam`` in the loop's second line: both paddles matter."""
    own, cpu = 0 <= line - game.own_y < 16, 0 <= line + 2 - game.cpu_y < 16
    return 127 + 6 * (line <= game.scan) + 3 * (not own) + 3 * (not cpu)


@rule
def points(game: Game) -> tuple[int, int]:
    """The opponent's and the player's points on the screen, which shows a new point one frame later."""
    new = game.pause == machine.PAUSE
    return game.cpu_points - (new and game.last == OPPONENT), game.own_points - (new and game.last == PLAYER)


@rule
def draw_screen(screen: Screen, game: Game, paint: Paint) -> None:
    """Draw the whole screen, (210, 160, C)."""
    first = int(game.frames < 2)
    colours, (cpu, own) = paint.colours[first], points(game)
    copy(paint.empty[first].ravel(), screen.ravel())
    draw_number(screen, cpu, CPU_POINTS, colours[CPU])
    draw_number(screen, own, OWN_POINTS, colours[OWN])
    for box in boxes(game):
        fill(screen, box, colours[box[4]])


@rule
def copy(source: Screen, target: Screen) -> None:
    """Copy numbers (n,); an assignment to a slice takes ten times as long in Numba."""
    for k in range(len(target)):
        target[k] = source[k]


@rule
def draw_number(screen: Screen, number: int, left: int, colour: Screen) -> None:
    """Draw the points of one side."""
    while True:
        for bit in range(15):
            if DIGITS[number % 10] >> (14 - bit) & 1:
                top, start = 1 + BIT * (bit // 3), left + BIT * (bit % 3)
                fill(screen, (top, top + BIT - 1, start, start + BIT - 1, 0), colour)
        number, left = number // 10, left - 4 * BIT
        if number == 0:
            break


@rule
def fill(screen: Screen, box: Area, colour: Screen) -> None:
    """Fill a box with a colour, (C,)."""
    top, bottom, left, right, _ = box
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            for c in range(len(colour)):
                screen[row, column, c] = colour[c]


@kernel
def draw_screens(step: Step, paint: Paint, screens: Screen) -> Screen:
    """Draw the screens (N, 210, 160, C) of the games that don't wait."""
    for i in range(len(screens)):
        if step.plan[i] != WAIT:
            draw_screen(screens[i], step.games[i], paint)
    return screens


# --- stacks of four resized screens -----------------------------------------------------------------------------------

Taps = tuple[NDArray[np.int64], Floats]  # (84,), the first of three rows that a resized row covers; (84, 3), how far


def taps(size: int) -> Taps:
    """Of this many rows or columns."""
    edges, pixels = np.arange(SIDE)[:, None] * size, np.arange(size) * SIDE
    shared = np.minimum(edges + size, pixels + SIDE) - np.maximum(edges, pixels)  # (84, size)
    first = np.minimum((shared > 0).argmax(1), size - 3)
    weights = np.maximum(np.take_along_axis(shared, first[:, None] + np.arange(3), 1), 0) / size
    return first, weights.astype(np.float32)


FIRST_ROW, ROW_WEIGHTS = taps(HEIGHT)
FIRST_COLUMN, COLUMN_WEIGHTS = taps(WIDTH)


@rule
def resize(screen: Screen, small: Screen, box: Area) -> None:
    """Shrink the part of a screen (210, 160, 1) that covers a box, in OpenCV's order of float32 operations."""
    top, bottom, left, right, _ = box
    for row in range(top * SIDE // HEIGHT, ((bottom + 1) * SIDE - 1) // HEIGHT + 1):
        for column in range(left * SIDE // WIDTH, ((right + 1) * SIDE - 1) // WIDTH + 1):
            total = np.float32(0)
            for r in range(3):
                line = np.float32(0)
                for c in range(3):
                    pixel = np.float32(screen[FIRST_ROW[row] + r, FIRST_COLUMN[column] + c, 0])
                    line += pixel * COLUMN_WEIGHTS[column, c]
                total += line * ROW_WEIGHTS[row, r]
            small[row, column] = np.uint8(np.rint(total))  # a half to the even number


WHOLE = (0, HEIGHT - 1, 0, WIDTH - 1, 0)


@kernel
def resize_points(paint: Paint, small: Screen) -> Screen:
    """Draw resized screens (22, 22, 84, 84) with all pairs of points, but without paddles and ball."""
    for cpu in range(WINNING_POINTS + 1):
        for own in range(WINNING_POINTS + 1):
            screen = paint.empty[0].copy()
            draw_number(screen, cpu, CPU_POINTS, paint.colours[0, CPU])
            draw_number(screen, own, OWN_POINTS, paint.colours[0, OWN])
            resize(screen, small[cpu, own], WHOLE)
    return small


@functools.cache
def small_screens() -> Screen:
    """The result of ``resize_points``, 3 MB."""
    return resize_points(GREY, np.empty((WINNING_POINTS + 1, WINNING_POINTS + 1, SIDE, SIDE), np.uint8))


@kernel
def draw_stacks(step: Step, paint: Paint, small: Screen, stacks: Screen) -> Screen:
    """Add a resized screen to the stacks (N, 4, 84, 84) of the games that don't wait; a new game's are all the same."""
    screen = paint.empty[0].copy()
    for i in range(len(stacks)):
        if step.plan[i] == WAIT:
            continue
        stack = stacks[i].reshape(4, SIDE * SIDE)
        for k in range(3):
            copy(stack[k + 1], stack[k])
        show(step, i)
        draw_small(step.shown[i], paint, small, screen, stacks[i, 3])
        for k in range(3 if step.plan[i] == START else 0):
            copy(stack[3], stack[k])
    return stacks


@rule
def show(step: Step, i: int) -> None:
    """Choose the screens of which ``AtariPreprocessing`` shows the maximum, in the order of time.

    A decision that ends the game keeps the screens from before. If it ends with the last frame of the decision, the
    frame before it adds its screen.
    """
    game, before, shown = step.games[i], step.before[i], step.shown[i]
    if step.plan[i] == START:
        shown[0] = shown[1] = shown[2] = game
    elif not machine.is_over(game, step.max_frames):
        shown[0] = before
        shown[1] = shown[2] = game
    elif before.frames == game.frames - 1:
        shown[2] = before


@rule
def draw_small(shown: NDArray[Any], paint: Paint, small: Screen, screen: Screen, out: Screen) -> None:
    """Draw the resized maximum (84, 84) of three screens; ``screen`` is an empty one, before and after."""
    cpu, own = points(shown[0])
    if shown[0].frames < 2 or points(shown[1]) != (cpu, own) or points(shown[2]) != (cpu, own):
        draw_rare(shown, paint, out)
        return
    copy(small[cpu, own].ravel(), out.ravel())
    first, middle, last = boxes(shown[0]), boxes(shown[1]), boxes(shown[2])
    for k in range(4):
        grey = paint.colours[0, last[k][4], 0]
        brighten(screen, first[k], grey)
        brighten(screen, last[k], grey)
        if shown[1].frames != shown[2].frames:
            brighten(screen, middle[k], grey)
    for k in range(4):
        resize(screen, out, around(first[k], around(middle[k], last[k])))
    for k in range(4):
        fill(screen, around(first[k], around(middle[k], last[k])), paint.colours[0, BACKGROUND])


@rule
def around(one: Area, other: Area) -> Area:
    """The smallest area with both."""
    top, left = min(one[0], other[0]), min(one[2], other[2])
    return top, max(one[1], other[1]), left, max(one[3], other[3]), one[4]


@rule
def brighten(screen: Screen, box: Area, grey: int) -> None:
    """Fill a box where the screen is darker."""
    top, bottom, left, right, _ = box
    for row in range(top, bottom + 1):
        for column in range(left, right + 1):
            screen[row, column, 0] = max(screen[row, column, 0], grey)


@rule
def draw_rare(shown: NDArray[Any], paint: Paint, out: Screen) -> None:
    """``draw_small`` of screens that differ in points or colours."""
    most, one = np.empty((HEIGHT, WIDTH, 1), np.uint8), np.empty((HEIGHT, WIDTH, 1), np.uint8)
    draw_screen(most, shown[0], paint)
    for k in range(1, 3):
        draw_screen(one, shown[k], paint)
        most = np.maximum(most, one)
    resize(most, out, WHOLE)


# --- difference frames ------------------------------------------------------------------------------------------------


@kernel
def draw_differences(step: Step, frames: NDArray[np.int8]) -> NDArray[np.int8]:
    """Draw the difference frames (N, 6400) of the games that don't wait; a new game's is 0."""
    new, old = np.empty(1 + MOST, np.int16), np.empty(1 + MOST, np.int16)
    for i in range(len(frames)):
        if step.plan[i] == WAIT:
            continue
        game, shown = step.games[i], step.shown[i]
        if step.plan[i] == START:
            shown[0] = game
        machine.draw(game, new)
        machine.draw(shown[0], old)
        for k in range(PIXELS):
            frames[i, k] = 0
        for pixel in new[1 : new[0] + 1]:
            frames[i, pixel] += 1
        for pixel in old[1 : old[0] + 1]:
            frames[i, pixel] -= 1
        shown[0] = game
    return frames


# --- the kinds of observation -----------------------------------------------------------------------------------------

STATE = (machine.GAME.names or ())[:-2]  # the numbers of a state, see ``machine.Game``; the last two are ALE's


def states(step: Step, out: NDArray[np.int64]) -> NDArray[np.int64]:
    """The states (N, 19), which the games themselves hold."""
    if out.base is not None:
        return out  # of the first step
    return step.games.view(np.int64).reshape(len(out), -1)[:, : len(STATE)]


class Kind(NamedTuple):
    """A kind of observation."""

    space: Box
    draw: Callable[[Step, Any], NDArray[Any]]  # the observations (N, …), into an array or elsewhere


KINDS = {  # by ``obs_type``
    "rgb": Kind(Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8), lambda step, out: draw_screens(step, RGB, out)),
    "grayscale": Kind(
        Box(0, 255, (HEIGHT, WIDTH), np.uint8), lambda step, out: draw_screens(step, GREY, out[..., None])[..., 0]
    ),
    "atari": Kind(
        Box(0, 255, (4, SIDE, SIDE), np.uint8), lambda step, out: draw_stacks(step, GREY, small_screens(), out)
    ),
    "karpathy": Kind(Box(-1, 1, (PIXELS,), np.int8), draw_differences),
    "state": Kind(Box(-(2**6), 2**20, (len(STATE),), np.int64), states),
}
