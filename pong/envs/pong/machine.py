"""ALE's Pong as a small state machine: bit for bit the game that ale-py emulates, at a thousand times the speed.

Pong on the Atari 2600 is 2 KB of program and some twenty numbers of state, and nothing in it is random. Here is a short
function for each rule of it, in the order in which a frame goes: the knob turns, the ball flies, the paddles move, the
screen shows where they touch. docs/pong-machine.md tells the game for readers.

Exact are rewards, ends of games, counts of frames and every pixel of the 80 × 80 picture that a policy's row is made
of, for all six actions, from any seed: the sticky actions are drawn by ALE's own generator, holds and NOOP starts by
gymnasium's, number by number. After the console's clock has run out (``PONG_FRAMES`` in pong.config, where games are
cut) points and paddles are exact, the picture is not: the console then changes its colours.
Checked against ale-py 0.12.1 frame by frame: tests/test_machine.py, and 20 million frames by ``make verify-machine``
(results/machine). Sources: the program itself (Atari's "Video Olympics", game 1, ALE's pong.bin) and ALE's emulator of
the console (https://github.com/Farama-Foundation/Arcade-Learning-Environment).

Places are the program's own: the ball's column x is screen column x − 49, its line y screen rows y − 14 to y − 11; a
paddle reaches from its line fifteen rows up. Numba compiles all of it; without (``NUMBA_DISABLE_JIT=1``) the same
functions give the same numbers.
"""

import inspect
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pong.envs.pong.compiled import kernel, rule
from pong.envs.pong.task import DOWN, DOWN_FIRE, FIRE, NOOP, UP, UP_FIRE
from pong.observations import BEFORE, EARLIER, NOW, SIDE

# --- the state of a game ----------------------------------------------------------------------------------------------


class Game(Protocol):
    """A record of what defines a game from here on; places are the program's lines and columns, see above."""

    # the console's
    pot: int  # resistance of the player's knob, ohms
    clock: int  # frames since power-on, 16 bits
    stopped: bool  # the clock has run out
    pause: int  # frames until the serve; 0: the ball is in play
    cpu_points: int
    own_points: int
    x: int  # the ball's column
    y: int  # the ball's line; 0: there is no ball
    left: int  # columns a frame towards the opponent
    down: int  # lines a frame
    cpu_y: int  # the opponent's paddle, at the left
    own_y: int  # the player's paddle, at the right, as it is drawn now
    next_y: int  # and as it will be drawn in the next frame
    last: int  # who hit or scored last: OPPONENT, PLAYER or NOBODY
    fire: bool  # the button is down
    touch: int  # whose paddle overlaps the ball on the screen: OPPONENT, PLAYER or NOBODY
    scan: int  # the line at which the knob's timer ran out while the screen was drawn

    # ALE's and gymnasium's
    action: int  # executed in the frame before
    frames: int  # of this game so far, those of its NOOP start too
    ale_drawn: int  # how many numbers of its block ALE's generator has given
    gym_drawn: int  # and gymnasium's


GAME = np.dtype((np.record, [(name, np.int64) for name in inspect.get_annotations(Game)]))

OPPONENT, PLAYER, NOBODY = 0, 1, 255

WINNING_POINTS = 21

POT_START = 408_823  # ohms, the middle
POT_LOWEST, POT_HIGHEST = 27_450, 790_196  # ohms
POT_STEP = 23_000  # ohms a frame

CLOCK_START = 0x147  # the console has been on for some frames when ALE hands it over
CLOCK_SIZE = 0x10000  # 16 bits
CLOCK_STOP = 0x100  # a high byte of 0 stops the game

FIRST_PAUSE = 0x3B  # frames from the reset to the first serve
PAUSE = 0x3F  # frames from a point to the next serve

MIDDLE = 0x80  # where ball and opponent are put at a serve, line and column
LEFT_END, RIGHT_END = 52, 205  # columns at which a point ends
TOP_WALL, BOTTOM_WALL = 0x2D, 0xCE  # lines

SPEED, FASTEST = 1, 4  # columns a frame

CPU_START = 0x16  # line
CPU_SPEED = 2  # lines a frame, in
CPU_RESTS = 8  # seven frames of eight

OWN_START = 0x6D  # line
SCAN_START = 0x6E  # line, for the knob in the middle; player B's is always there
FIRST_LINE = 0x26  # of the drawing loop
LOOP_LINES = 2  # lines a turn
LOOP_CYCLES = 152  # of the processor, a turn
CYCLES_BEFORE = 2297  # from emptying the knob's capacitor to the first turn
CHARGE_CYCLES, CHARGE_OHMS = 119, 6250  # that many cycles for so many ohms charge it


@rule
def reset(game: Game) -> None:
    """A new game, as ALE hands it over: always the same."""
    game.pot = POT_START
    game.clock, game.stopped = CLOCK_START, False
    game.pause = FIRST_PAUSE
    game.cpu_points = game.own_points = 0
    game.x, game.y = 51, 0x3B  # a ball at the wall's edge, on this one screen
    game.left = game.down = 0
    game.cpu_y = CPU_START
    game.own_y = game.next_y = OWN_START
    game.last = NOBODY
    game.fire = False
    game.touch = NOBODY
    game.scan = SCAN_START
    game.action = NOOP
    game.frames = 0


# --- one frame of the game --------------------------------------------------------------------------------------------


@rule
def frame(game: Game, action: int) -> int:
    """One frame; returns points won minus points lost in it."""
    turn_knob(game, action)
    before = game.own_points - game.cpu_points
    flying = move_ball(game)
    game.own_y = game.next_y
    move_opponent(game)
    read_knob(game)
    game.touch = touching(game) if flying else NOBODY
    game.clock = (game.clock + 1) % CLOCK_SIZE
    game.fire = action in (FIRE, UP_FIRE, DOWN_FIRE)
    return game.own_points - game.cpu_points - before


@rule
def turn_knob(game: Game, action: int) -> None:
    """ALE turns a knob while UP or DOWN is held."""
    if action in (UP, UP_FIRE):
        game.pot = max(game.pot - POT_STEP, POT_LOWEST)
    elif action in (DOWN, DOWN_FIRE):
        game.pot = min(game.pot + POT_STEP, POT_HIGHEST)


@rule
def read_knob(game: Game) -> None:
    """While it draws, the program waits for a capacitor that charges through the knob; the line is the paddle's target.

    It reads the two players' knobs in turn, so ours in every second frame, and moves the paddle half way to the target.
    """
    if game.clock % 2 == 0:
        game.scan = SCAN_START
        return
    cycles = game.pot * CHARGE_CYCLES // CHARGE_OHMS
    game.scan = FIRST_LINE + LOOP_LINES * (max(cycles - CYCLES_BEFORE, 0) // LOOP_CYCLES)
    game.next_y = (game.scan + game.own_y) >> 1


@rule
def move_opponent(game: Game) -> None:
    """It follows the ball, also during the pause: 2 lines a frame, and rests in every eighth frame."""
    if game.clock % CPU_RESTS == 0:
        return
    if game.cpu_y > game.y:
        game.cpu_y -= CPU_SPEED
    elif game.cpu_y < game.y:
        game.cpu_y += CPU_SPEED


@rule
def move_ball(game: Game) -> bool:
    """Move the ball, by the screen of the frame before; returns whether it is in play."""
    if game.stopped:
        game.y = 0
        return False
    if game.clock < CLOCK_STOP:
        game.stopped = True
        game.cpu_points = 1  # the program means "player 1 has won"
        return False
    if game.pause > 0:
        return count_down(game)
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
        hit_by_opponent(game)
    return fly(game)


@rule
def fly(game: Game) -> bool:
    """The ball flies on for a frame."""
    game.y += game.down
    game.x -= game.left
    return True


@rule
def count_down(game: Game) -> bool:
    """Between points there is no ball, until the serve: to the side that lost the last point, at first to the left."""
    game.y = 0
    game.pause -= 1
    if game.pause > 0:
        return False
    game.x = game.y = game.cpu_y = MIDDLE
    game.down = 1 if game.down >= 0 else -1
    game.left = -SPEED if game.last == OPPONENT else SPEED
    return fly(game)


@rule
def end_point(game: Game, winner: int) -> bool:
    """A point is won; the ball stays where it is for this one frame."""
    game.last = winner
    game.pause = PAUSE
    return False


@rule
def hit_by_player(game: Game) -> None:
    """Back to the left; with the button down one column a frame faster, which lasts until the next serve."""
    speed = abs(game.left)
    if game.fire:
        speed = min(speed + 1, FASTEST)
    game.left = speed
    game.last = PLAYER
    game.down = bounce(game.own_y, game.y)


@rule
def hit_by_opponent(game: Game) -> None:
    """Back to the right, as fast as it came."""
    game.left = -abs(game.left)
    game.last = OPPONENT
    game.down = bounce(game.cpu_y, game.y)


@rule
def bounce(paddle: int, ball: int) -> int:
    """Lines a frame after a hit, by where the ball meets the paddle: −3 or −2 at its top to +2 at its bottom."""
    return -((paddle + 6 - ball) >> 1) >> 1


@rule
def touching(game: Game) -> int:
    """Whose paddle the ball overlaps on the screen; the program asks in the next frame."""
    # pixels that overlap: its columns 140 to 143, and the opponent's 16 to 19; the ball is two columns wide
    if 188 <= game.x <= 192 and -2 <= round_down(game.y) - round_up(game.own_y) <= 14:
        return PLAYER
    if 64 <= game.x <= 68 and -4 <= game.y - game.cpu_y <= 14:
        return OPPONENT
    return NOBODY


@rule
def round_down(line: int) -> int:
    """To an even line: the ball of an odd line is drawn there, see ``ball_rows``."""
    return line - line % 2


@rule
def round_up(line: int) -> int:
    """To an even line: the player's paddle is drawn there."""
    return line + line % 2


# --- the pixels of a frame --------------------------------------------------------------------------------------------

MOST = 35  # pixels of a frame: 16 for each paddle, 3 for the ball
CROP = 35  # the frame's first row on the screen; then every second row and column
CPU_COLUMN, OWN_COLUMN = 8, 70  # of the frame; a paddle is two columns wide


@rule
def draw(game: Game, pixels: NDArray[np.int16]) -> None:
    """List the pixels that are 1 in the 80 × 80 frame, in order: (1 + 35,) int16, the first number counts them."""
    column = ((game.x - 48) // 2) % SIDE
    ball_top, ball_bottom = frame_rows(*ball_rows(game, 2 * column))
    cpu_top, cpu_bottom = frame_rows(game.cpu_y - 15, game.cpu_y)
    own_top, own_bottom = frame_rows(round_up(game.own_y) - 14, round_up(game.own_y) + 1)
    n = 0
    for row in range(min(cpu_top, own_top, ball_top), max(cpu_bottom, own_bottom, ball_bottom) + 1):
        ball = ball_top <= row <= ball_bottom
        if ball and column < CPU_COLUMN:
            n = put(pixels, n, row, column)
        if cpu_top <= row <= cpu_bottom:
            n = put(pixels, n, row, CPU_COLUMN)
            n = put(pixels, n, row, CPU_COLUMN + 1)
            ball = ball and column > CPU_COLUMN + 1  # over a paddle it does not show
        if ball and CPU_COLUMN <= column < OWN_COLUMN:
            n = put(pixels, n, row, column)
        if own_top <= row <= own_bottom:
            n = put(pixels, n, row, OWN_COLUMN)
            n = put(pixels, n, row, OWN_COLUMN + 1)
            ball = ball and column > OWN_COLUMN + 1
        if ball and column >= OWN_COLUMN:
            n = put(pixels, n, row, column)
    pixels[0] = n


@rule
def frame_rows(top: int, bottom: int) -> tuple[int, int]:
    """The frame's rows among these rows of the screen; where there are none, the last comes before the first."""
    return max((top - CROP + 1) // 2, 0), min((bottom - CROP) // 2, SIDE - 1)


@rule
def put(pixels: NDArray[np.int16], n: int, row: int, column: int) -> int:
    """Add a pixel; returns how many there are."""
    pixels[1 + n] = SIDE * row + column
    return n + 1


@rule
def ball_rows(game: Game, column: int) -> tuple[int, int]:
    """First and last screen row of the ball in a screen column: four rows; without a ball they lie above the screen.

    The drawing loop switches the ball on and off while the beam already draws the line: at and right of the beam that
    is seen one row earlier. In odd lines that changes only rows which the picture leaves out.
    """
    top, bottom = game.y - 14, game.y - 11
    if game.y % 2 == 0:
        top -= column >= beam(game, game.y)
        bottom -= column >= beam(game, game.y + 4)
    return top, bottom


@rule
def beam(game: Game, line: int) -> int:
    """The screen column that the beam has reached when the loop switches the ball in this line.

    A branch of the program takes 2 cycles or 3, and a cycle draws 3 columns: what else there is to do decides.
    """
    column = 149
    if line <= game.scan:  # the knob's capacitor is still charging
        column += 6
    if not 0 <= line - game.own_y < 16:  # the paddle is not drawn in this line
        column += 3
    return column


# --- chance: ALE's and gymnasium's generators, number by number -------------------------------------------------------

WORDS = 624  # of ALE's generator, mt19937 (Matsumoto & Nishimura 1998)
SHIFT = 397
UINT32 = 2**32


@rule
def is_sticky(game: Game, words: NDArray[np.uint32], threshold: float) -> bool:
    """Whether ALE repeats the action of the frame before: for player A, and by a number not looked at for player B."""
    if game.ale_drawn == WORDS:
        twist(words)
        game.ale_drawn = 0
    y = np.int64(words[game.ale_drawn])
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    y ^= y >> 18
    game.ale_drawn += 2
    return bool(y < threshold)


@rule
def twist(words: NDArray[np.uint32]) -> None:
    """The generator's next 624 words, in place."""
    for i in range(WORDS):
        y = (words[i] & 0x80000000) | (words[(i + 1) % WORDS] & 0x7FFFFFFF)
        words[i] = words[(i + SHIFT) % WORDS] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)


@rule
def integer(game: Game, numbers: NDArray[np.uint32], low: int, high: int) -> int:
    """``numpy.random.Generator.integers(low, high)`` from what its bit generator gives (Lemire 2019).

    No number is drawn where there is no choice.
    """
    choices = high - low
    if choices == 1:
        return low
    while True:
        product = np.int64(numbers[game.gym_drawn]) * choices
        game.gym_drawn += 1
        if product % UINT32 >= UINT32 % choices:
            return low + int(product // UINT32)


# --- N games ----------------------------------------------------------------------------------------------------------


class Emulators(NamedTuple):
    """N games with their random numbers, and what is played."""

    games: NDArray[Any]  # (N,) of GAME
    words: NDArray[np.uint32]  # (N, 624), the state of ALE's generators
    numbers: NDArray[np.uint32]  # (N, M), what gymnasium's bit generators give next
    pixels: NDArray[np.int16]  # (4, N, 36), of frames NOTHING, EARLIER, BEFORE and NOW, see ``draw``
    differences: NDArray[np.int64]  # (P, 2), the frames whose differences a row shows: the first minus the second
    shows_action: bool  # whether a row ends with the last action
    threshold: float  # the probability of a sticky frame, times 2³²
    noop_max: int  # a game starts with 1 to so many frames of NOOP; 0 leaves them out
    max_frames: int  # after which a game is truncated
    shortest_hold: int  # frames of a decision, drawn uniformly from this number
    longest_hold: int  # to this one


@rule
def act(emulators: Emulators, i: int, game: Game, action: int) -> int:
    """One frame as ALE's ``act`` plays it, sticky or not; returns its reward. After a game's end nothing moves."""
    if not is_sticky(game, emulators.words[i], emulators.threshold):
        game.action = action
    if is_over(game, emulators.max_frames):
        return 0
    game.frames += 1
    return frame(game, game.action)


@rule
def is_over(game: Game, max_frames: int) -> bool:
    """Whether one side has won, or the game is truncated."""
    return game.own_points == WINNING_POINTS or game.cpu_points == WINNING_POINTS or game.frames >= max_frames


@rule
def start_game(emulators: Emulators, i: int, game: Game) -> None:
    """A new game, with its NOOP start if it has one."""
    reset(game)
    if emulators.noop_max > 0:
        for _ in range(integer(game, emulators.numbers[i], 1, emulators.noop_max + 1)):
            act(emulators, i, game, NOOP)


@kernel
def start_games(emulators: Emulators) -> None:
    """Start new games."""
    for i in range(len(emulators.games)):
        start_game(emulators, i, emulators.games[i])


@kernel
def step(
    emulators: Emulators,
    actions: NDArray[np.int64],
    active: NDArray[np.bool_],
    rewards: NDArray[np.float32],
    dones: NDArray[np.bool_],
    frames: NDArray[np.int64],
) -> None:
    """One decision of each active game; the others wait. A game that ends is followed by a new one.

    Args:
        emulators: the games.
        actions: (N,), ALE's.
        active: (N,).
        rewards: (N,) to write: points won minus points lost.
        dones: (N,) to write: whether the game ended.
        frames: (N,) to write: emulated for the decision.
    """
    games, numbers, max_frames = emulators.games, emulators.numbers, emulators.max_frames
    for i in range(len(games)):
        game = games[i]
        rewards[i], dones[i], frames[i] = 0, False, 0
        if not active[i]:
            continue
        before = game.frames
        for _ in range(integer(game, numbers[i], emulators.shortest_hold, emulators.longest_hold + 1)):
            rewards[i] += act(emulators, i, game, actions[i])
        frames[i] = game.frames - before
        if is_over(game, max_frames):
            dones[i] = True
            start_game(emulators, i, game)


# --- observations -----------------------------------------------------------------------------------------------------


@kernel
def observe(
    emulators: Emulators,
    actions: NDArray[np.int64],
    fresh: NDArray[np.bool_],
    columns: NDArray[np.int32],
    signs: NDArray[np.float32],
    offsets: NDArray[np.int32],
) -> int:
    """Write a sparse row for each game, see ``observations.SparseFrames``; returns how many numbers are not 0.

    Args:
        emulators: the games; the pixels of their frames move on by one decision.
        actions: (N,), the last ones.
        fresh: (N,), the games that have just started: their earlier frames equal the first, and have no last action.
        columns, signs: to write.
        offsets: (N,) to write.
    """
    pixels, differences = emulators.pixels, emulators.differences
    n = 0
    for i in range(len(offsets)):
        offsets[i] = n
        pixels[EARLIER, i] = pixels[BEFORE, i]
        pixels[BEFORE, i] = pixels[NOW, i]
        draw(emulators.games[i], pixels[NOW, i])
        if fresh[i]:
            pixels[EARLIER, i] = pixels[NOW, i]
            pixels[BEFORE, i] = pixels[NOW, i]
        for p in range(len(differences)):
            n = subtract(pixels[differences[p, 0], i], pixels[differences[p, 1], i], p * SIDE * SIDE, columns, signs, n)
        if emulators.shows_action and not fresh[i]:
            columns[n], signs[n] = len(differences) * SIDE * SIDE + actions[i], 1
            n += 1
    return n


@rule
def subtract(
    new: NDArray[np.int16],
    old: NDArray[np.int16],
    shift: int,
    columns: NDArray[np.int32],
    signs: NDArray[np.float32],
    n: int,
) -> int:
    """One frame minus another: +1 where a pixel appeared, −1 where it vanished; returns how many there are then."""
    i, j = 1, 1
    while i <= new[0] or j <= old[0]:
        if i <= new[0] and j <= old[0] and new[i] == old[j]:
            i += 1
            j += 1
        elif j > old[0] or (i <= new[0] and new[i] < old[j]):
            columns[n], signs[n] = shift + new[i], 1
            n, i = n + 1, i + 1
        else:
            columns[n], signs[n] = shift + old[j], -1
            n, j = n + 1, j + 1
    return n
