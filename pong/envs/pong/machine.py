"""ALE's Pong as a small state machine: bit for bit the same game, hundreds of times as fast.

Pong on the Atari 2600 is a program of 2 KB. Its whole state fits in about twenty integers, and nothing in it is random.
Each rule of the game is a short function here, in the order of a frame: the knob turns, the ball flies, the paddles
move, and the screen shows who touches the ball. docs/pong-machine.md explains the rules.

Rewards, ends of games, numbers of frames and every pixel of the 80 × 80 frame are exact, for all six actions and from
any seed, until the console's clock runs out (``PONG_FRAMES`` in pong.config) and its colours change. This was checked
against ale-py 0.12.1: in tests/test_machine.py, and on 20 million frames by ``make verify-machine`` (results/machine).
Sources: the program itself (Atari's "Video Olympics", game 1, ALE's pong.bin) and ALE's emulator of the console
(https://github.com/Farama-Foundation/Arcade-Learning-Environment).

Coordinates are the program's own. A ball in column x and line y is drawn in screen column x − 49 and in screen rows
y − 14 to y − 11; a paddle at line p is drawn in screen rows p − 15 to p. Numba compiles everything; uncompiled
(``NUMBA_DISABLE_JIT=1``) the same functions give the same numbers.
"""

import inspect
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pong.envs.pong.compiled import kernel, rule
from pong.envs.pong.task import ALE_ACTIONS, DOWN, DOWN_FIRE, FIRE, NOOP, UP, UP_FIRE
from pong.observations import BEFORE, EARLIER, NOW, SIDE

Floats = NDArray[np.float32]
Pixels = NDArray[np.int16]  # (1 + MOST,): how many pixels of a frame are 1, then their indices in ascending order

# --- the state of a game ----------------------------------------------------------------------------------------------


class Game(Protocol):
    """The state of a game: everything that its future depends on, in the program's lines and columns (see above)."""

    # the console's
    pot: int  # resistance of the player's knob, ohms
    clock: int  # frames since power-on, 16 bits
    stopped: bool  # the clock has run out
    pause: int  # frames until the serve; 0: the ball is in play
    cpu_points: int
    own_points: int
    x: int  # the ball's column
    y: int  # the ball's line; 0: there is no ball
    left: int  # the ball's speed to the left, columns a frame
    down: int  # and downwards, lines a frame
    cpu_y: int  # line of the opponent's paddle, at the left
    own_y: int  # line of the player's paddle, at the right, in this frame
    next_y: int  # and in the next frame
    last: int  # who hit the ball or scored last: OPPONENT, PLAYER or NOBODY
    fire: bool  # the button is down
    touch: int  # whose paddle overlaps the ball on the screen: OPPONENT, PLAYER or NOBODY
    scan: int  # the line that was being drawn when the knob's capacitor was charged

    # ALE's and gymnasium's
    action: int  # executed in the previous frame
    frames: int  # of this game so far, with its NOOP start
    ale_drawn: int  # numbers used of ALE's generator, out of its current block
    gym_drawn: int  # and of gymnasium's


GAME = np.dtype((np.record, [(name, np.int64) for name in inspect.get_annotations(Game)]))

OPPONENT, PLAYER, NOBODY = 0, 1, 255
WINNING_POINTS = 21

POT_LOWEST, POT_HIGHEST = 27_450, 790_196  # ohms
POT_STEP = 23_000  # ohms a frame

CLOCK_SIZE = 0x10000  # 16 bits
CLOCK_STOP = 0x100  # the game stops when the high byte is 0

PAUSE = 0x3F  # frames from a point to the next serve
MIDDLE = 0x80  # line of the opponent, and line and column of the ball, at a serve
LEFT_END, RIGHT_END = 52, 205  # columns at which a point ends
TOP_WALL, BOTTOM_WALL = 0x2D, 0xCE  # lines
SPEED, FASTEST = 1, 4  # columns a frame

CPU_SPEED = 2  # lines a frame
CPU_REST = 8  # the opponent rests in every eighth frame

SCAN_START = 0x6E  # line, for a knob in the middle, where player B's always is
FIRST_LINE = 0x26  # of the loop that draws the screen
LOOP_LINES = 2  # lines an iteration
LOOP_CYCLES = 152  # of the processor, an iteration
CYCLES_BEFORE = 2297  # from emptying the knob's capacitor to the first iteration
CHARGE_CYCLES, CHARGE_OHMS = 119, 6250  # it charges in 119 cycles for every 6250 ohms


@rule
def reset(game: Game) -> None:
    """Start a new game; ALE's games all start in this state."""
    game.pot = 408_823  # ohms, the middle
    game.clock = 0x147  # the console has been on for some frames when ALE hands it over
    game.pause = 0x3B  # frames from the reset to the first serve
    game.x, game.y = 51, 0x3B  # the first screen has a ball at its left edge
    game.cpu_y = 0x16
    game.own_y = game.next_y = 0x6D
    game.scan = SCAN_START
    game.cpu_points = game.own_points = game.left = game.down = game.frames = 0
    game.stopped = game.fire = False
    game.last = game.touch = NOBODY
    game.action = NOOP


# --- one frame of the game --------------------------------------------------------------------------------------------


@rule
def frame(game: Game, action: int, left: Game | None = None, left_action: int = NOOP) -> int:
    """Emulate one frame, perhaps with a second player; returns the points won minus the points lost in it."""
    turn_knob(game, action)
    before = game.own_points - game.cpu_points
    flying = move_ball(game, left.fire if left is not None else False)
    game.own_y = game.next_y
    if left is None:
        move_opponent(game)
    else:
        move_left(game, left, left_action)
    read_knob(game)
    game.touch = touching(game) if flying else NOBODY
    game.clock = (game.clock + 1) % CLOCK_SIZE
    game.fire = action in (FIRE, UP_FIRE, DOWN_FIRE)
    return game.own_points - game.cpu_points - before


@rule
def turn_knob(game: Game, action: int) -> None:
    """UP and DOWN turn the knob."""
    if action in (UP, UP_FIRE):
        game.pot = max(game.pot - POT_STEP, POT_LOWEST)
    elif action in (DOWN, DOWN_FIRE):
        game.pot = min(game.pot + POT_STEP, POT_HIGHEST)


@rule
def read_knob(game: Game) -> None:
    """Move the paddle half of the way to its target, in every second frame; in the others player B's knob is read.

    A capacitor charges through the knob while the screen is drawn; the target is the line reached when it is charged.
    """
    if game.clock % 2 == 0:
        game.scan = SCAN_START
        return
    cycles = game.pot * CHARGE_CYCLES // CHARGE_OHMS
    game.scan = FIRST_LINE + LOOP_LINES * (max(cycles - CYCLES_BEFORE, 0) // LOOP_CYCLES)
    game.next_y = (game.scan + game.own_y) >> 1


@rule
def move_opponent(game: Game) -> None:
    """The opponent follows the ball by 2 lines a frame, also in a pause, and rests in every eighth frame."""
    if game.clock % CPU_REST == 0:
        return
    if game.cpu_y > game.y:
        game.cpu_y -= CPU_SPEED
    elif game.cpu_y < game.y:
        game.cpu_y += CPU_SPEED


@rule
def move_left(game: Game, left: Game, action: int) -> None:
    """Our rule for a second player, whom ALE's game lacks: what moves the right paddle moves the left one.

    ``left`` is this player's: ``pot``, ``next_y``, ``own_y`` and ``fire``. Both knobs are read in the same frames.
    """
    turn_knob(left, action)
    game.cpu_y = left.own_y = left.next_y
    left.clock = game.clock
    read_knob(left)
    left.fire = action in (FIRE, UP_FIRE, DOWN_FIRE)


@rule
def move_ball(game: Game, left_fire: bool) -> bool:
    """Move the ball, which may hit what it touched on the previous screen; returns whether it is in play."""
    if game.stopped:
        game.y = 0
        return False
    if game.clock < CLOCK_STOP:
        game.stopped = True
        game.cpu_points = 1  # by which the program means that player 1 has won
        return False
    if game.pause > 0 and not count_down(game):
        return False
    if game.x <= LEFT_END:
        game.own_points += 1
        return end_point(game, PLAYER)
    if game.x >= RIGHT_END:
        game.cpu_points += 1
        return end_point(game, OPPONENT)
    if game.y <= TOP_WALL:
        game.y += 1
        game.down = -game.down
    elif game.y >= BOTTOM_WALL:
        game.y -= 1
        game.down = -game.down
    elif game.touch == PLAYER:
        hit_by_player(game)
    elif game.touch == OPPONENT:
        hit_by_opponent(game, left_fire)
    game.y += game.down
    game.x -= game.left
    return True


@rule
def count_down(game: Game) -> bool:
    """Between points there is no ball; then it is served towards the side that lost the point, at first to the left.

    Returns whether it is in play.
    """
    game.y = 0
    game.pause -= 1
    if game.pause > 0:
        return False
    game.x = game.y = game.cpu_y = MIDDLE
    game.down = 1 if game.down >= 0 else -1
    game.left = -SPEED if game.last == OPPONENT else SPEED
    return True


@rule
def end_point(game: Game, winner: int) -> bool:
    """End a point; the ball stays where it is in this frame."""
    game.last = winner
    game.pause = PAUSE
    return False


@rule
def hit_by_player(game: Game) -> None:
    """The ball flies back; with the button down it gains one column a frame, which lasts until the next serve."""
    game.left = min(abs(game.left) + game.fire, FASTEST)
    game.last = PLAYER
    game.down = bounce(game.own_y, game.y)


@rule
def hit_by_opponent(game: Game, fire: bool) -> None:
    """The ball flies back as fast as it came; only a second player can have the button down."""
    game.left = -min(abs(game.left) + fire, FASTEST)
    game.last = OPPONENT
    game.down = bounce(game.cpu_y, game.y)


@rule
def bounce(paddle: int, ball: int) -> int:
    """The ball's lines a frame after a hit: from −3 or −2 at the paddle's top to +2 at its bottom."""
    return -((paddle + 6 - ball) >> 1) >> 1


@rule
def touching(game: Game) -> int:
    """Whose paddle overlaps the ball on the screen, which the program uses in the next frame."""
    # the ball is two screen columns wide; the player's paddle has columns 140 to 143, the opponent's 16 to 19;
    # the ball and the player's paddle are drawn at even lines
    if 188 <= game.x <= 192 and -2 <= game.y - game.y % 2 - round_up(game.own_y) <= 14:
        return PLAYER
    if 64 <= game.x <= 68 and -4 <= game.y - game.cpu_y <= 14:
        return OPPONENT
    return NOBODY


@rule
def round_up(line: int) -> int:
    """The even line at which the player's paddle is drawn."""
    return line + line % 2


# --- the pixels of a frame --------------------------------------------------------------------------------------------

MOST = 35  # pixels that can be 1 in a frame: 16 of each paddle, 3 of the ball
CROP = 35  # the screen's row that is the frame's first; a frame has every second row and column
CPU_COLUMN, OWN_COLUMN = 8, 70  # of the frame; a paddle is two columns wide


@rule
def draw(game: Game, pixels: Pixels) -> None:
    """List the pixels that are 1 in the 80 × 80 frame."""
    column = ((game.x - 48) // 2) % SIDE
    ball_top, ball_bottom = frame_rows(*ball_rows(game, 2 * column))
    cpu_top, cpu_bottom = frame_rows(game.cpu_y - 15, game.cpu_y)
    own_top, own_bottom = frame_rows(round_up(game.own_y) - 14, round_up(game.own_y) + 1)
    n = 0
    for row in range(min(cpu_top, own_top, ball_top), max(cpu_bottom, own_bottom, ball_bottom) + 1):
        ball = ball_top <= row <= ball_bottom
        for left, top, bottom in ((CPU_COLUMN, cpu_top, cpu_bottom), (OWN_COLUMN, own_top, own_bottom)):
            if ball and column < left:
                n += 1
                pixels[n] = SIDE * row + column
                ball = False
            if top <= row <= bottom:
                pixels[n + 1] = SIDE * row + left
                pixels[n + 2] = SIDE * row + left + 1
                n += 2
                ball = ball and column > left + 1  # on a paddle it adds no pixel
        if ball:
            n += 1
            pixels[n] = SIDE * row + column
    pixels[0] = n


@rule
def frame_rows(top: int, bottom: int) -> tuple[int, int]:
    """The frame's rows, first and last, within these rows of the screen; the last is smaller if there are none."""
    return max((top - CROP + 1) // 2, 0), min((bottom - CROP) // 2, SIDE - 1)


@rule
def ball_rows(game: Game, column: int) -> tuple[int, int]:
    """The ball's first and last screen row in a screen column; without a ball they lie above the screen.

    The program switches the ball on and off while the beam draws a line; right of the beam this shows one row earlier.
    At an odd line this only changes rows that the frame leaves out.
    """
    top, bottom = game.y - 14, game.y - 11
    if game.y % 2 == 0:
        top -= column >= beam(game, game.y)
        bottom -= column >= beam(game, game.y + 4)
    return top, bottom


@rule
def beam(game: Game, line: int) -> int:
    """The screen column that the beam has reached when the program switches the ball on or off in this line.

    The beam draws 3 columns in a cycle of the processor, and the program's other work in the line takes some cycles.
    """
    column = 149
    if line <= game.scan:  # the knob's capacitor is still charging
        column += 6
    if not 0 <= line - game.own_y < 16:  # the player's paddle is not drawn in this line
        column += 3
    return column


# --- the random numbers of ALE and gymnasium --------------------------------------------------------------------------

WORDS = 624  # of ALE's generator, mt19937 (Matsumoto & Nishimura 1998)
SHIFT = 397
UINT32 = 2**32


@rule
def take(
    game: Game, action: int, words: NDArray[np.uint32], threshold: float, left: Game | None = None, other: int = NOOP
) -> None:
    """Take the action of a frame, and the other of a second player, unless ALE repeats the previous one.

    Numba counts the users of every array that a rule gets, which would take longer than a frame with all of Emulators.
    """
    if game.ale_drawn == WORDS:
        twist(words)
        game.ale_drawn = 0
    if not is_below(words[game.ale_drawn], threshold):
        game.action = action
    game.ale_drawn += 1
    if left is not None and not is_below(words[game.ale_drawn], threshold):
        left.action = other
    game.ale_drawn += 1  # in a game of one player, too


@rule
def is_below(word: int, threshold: float) -> bool:
    """Whether the generator's next number, made of a word, is smaller."""
    y = np.int64(word)
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    y ^= y >> 18
    return bool(y < threshold)


@rule
def twist(words: NDArray[np.uint32]) -> None:
    """Replace the generator's words by the next 624."""
    for i in range(WORDS):
        y = (words[i] & 0x80000000) | (words[(i + 1) % WORDS] & 0x7FFFFFFF)
        words[i] = words[(i + SHIFT) % WORDS] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)


@rule
def integer(game: Game, numbers: NDArray[np.uint32], low: int, high: int) -> int:
    """``numpy.random.Generator.integers(low, high)`` (Lemire 2019); draws nothing if there is only one choice."""
    choices = high - low
    if choices == 1:
        return low
    while True:
        product = np.int64(numbers[game.gym_drawn]) * choices
        game.gym_drawn += 1
        if product % UINT32 >= UINT32 % choices:
            return low + int(product // UINT32)


# --- N games ----------------------------------------------------------------------------------------------------------

ALE = np.array(ALE_ACTIONS)  # ALE's number of each action


class Emulators(NamedTuple):
    """N games with their random numbers, and their task (see ``task.PongTask``)."""

    games: NDArray[Any]  # (N,) of GAME
    words: NDArray[np.uint32]  # (N, 624), the state of ALE's generators
    numbers: NDArray[np.uint32]  # (N, M), the next numbers of gymnasium's generators
    pixels: Pixels  # (4, N, 1 + MOST), of the frames NOTHING, EARLIER, BEFORE and NOW
    differences: NDArray[np.int64]  # (P, 2), pairs of frames: a row has the first minus the second of each
    shows_action: bool  # a row ends with the last action
    threshold: float  # probability of a sticky frame, times 2³²
    noop_max: int
    max_frames: int
    shortest_hold: int  # of a decision, frames
    longest_hold: int


@rule
def act(game: Game, max_frames: int, left: Game | None = None) -> int:
    """Emulate a frame with the actions taken; returns its reward. An ended game stands still."""
    if is_over(game, max_frames):
        return 0
    game.frames += 1
    return frame(game, game.action) if left is None else frame(game, game.action, left, left.action)


@rule
def is_over(game: Game, max_frames: int) -> bool:
    """Whether one side has won, or the game is truncated."""
    return game.own_points == WINNING_POINTS or game.cpu_points == WINNING_POINTS or game.frames >= max_frames


@rule
def start_game(emulators: Emulators, i: int, game: Game) -> None:
    """Start a new game, with NOOPs if the task has them."""
    reset(game)
    if emulators.noop_max > 0:
        for _ in range(integer(game, emulators.numbers[i], 1, emulators.noop_max + 1)):
            take(game, NOOP, emulators.words[i], emulators.threshold)
            act(game, emulators.max_frames)


@kernel
def start_games(emulators: Emulators) -> None:
    """Start N new games."""
    for i in range(len(emulators.games)):
        start_game(emulators, i, emulators.games[i])


@kernel
def step(
    emulators: Emulators,
    actions: NDArray[np.int64],  # (N,), see ``task.ACTION_NAMES``
    active: NDArray[np.bool_],  # (N,)
    rewards: Floats,  # (N,) to write: points won minus points lost
    dones: NDArray[np.bool_],  # (N,) to write: the game ended
    frames: NDArray[np.int64],  # (N,) to write: emulated for the decision
) -> None:
    """Play one decision of each active game; the others wait. After a game's end a new one starts."""
    for i in range(len(emulators.games)):
        game, numbers, words = emulators.games[i], emulators.numbers[i], emulators.words[i]
        rewards[i], dones[i], frames[i] = 0, False, 0
        if not active[i]:
            continue
        before = game.frames
        for _ in range(integer(game, numbers, emulators.shortest_hold, emulators.longest_hold + 1)):
            take(game, ALE[actions[i]], words, emulators.threshold)
            rewards[i] += act(game, emulators.max_frames)
        frames[i] = game.frames - before
        if is_over(game, emulators.max_frames):
            dones[i] = True
            start_game(emulators, i, game)


# --- observations -----------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """B sparse rows, see ``observations.SparseFrames``."""

    columns: NDArray[np.int32]
    signs: Floats
    offsets: NDArray[np.int32]  # (B + 1,), the last one is the last row's end


@kernel
def observe(
    emulators: Emulators,  # whose ``pixels`` move on by one decision
    actions: NDArray[np.int64],  # (N,), the last ones
    fresh: NDArray[np.bool_],  # (N,), the game has just started: its earlier frames equal this one, with no last action
    rows: Rows,  # to write: a row of each game
    first: int,  # after so many rows
) -> None:
    """Write what the policy observes of each game."""
    pixels, differences = emulators.pixels, emulators.differences
    n = int(rows.offsets[first])
    for i in range(len(emulators.games)):
        pixels[EARLIER, i] = pixels[BEFORE, i]
        pixels[BEFORE, i] = pixels[NOW, i]
        draw(emulators.games[i], pixels[NOW, i])
        if fresh[i]:
            pixels[EARLIER:NOW, i] = pixels[NOW, i]
        for p in range(len(differences)):
            n = subtract(pixels[differences[p, 0], i], pixels[differences[p, 1], i], p * SIDE * SIDE, rows, n)
        if emulators.shows_action and not fresh[i]:
            rows.columns[n], rows.signs[n] = len(differences) * SIDE * SIDE + actions[i], 1
            n += 1
        rows.offsets[first + i + 1] = n


@rule
def subtract(new: Pixels, old: Pixels, first: int, rows: Rows, n: int) -> int:
    """Add a frame minus another to n numbers of a row, in columns from ``first`` on; returns their new number."""
    i, j = 1, 1
    while i <= new[0] or j <= old[0]:
        if i <= new[0] and j <= old[0] and new[i] == old[j]:
            i += 1
            j += 1
        elif j > old[0] or (i <= new[0] and new[i] < old[j]):
            rows.columns[n], rows.signs[n] = first + new[i], 1
            n, i = n + 1, i + 1
        else:
            rows.columns[n], rows.signs[n] = first + old[j], -1
            n, j = n + 1, j + 1
    return n
