"""Playing to look at: the moments are the policy's own game, films can be read again, errors are one line."""

import contextlib
import fcntl
import io
import itertools
import os
import pty
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import ImageDraw, ImageFont

from pong import checkpoint
from pong.cli import main
from pong.config import Config, InputError, RunError
from pong.envs import make_fleet
from pong.evaluate import Greedy, evaluate
from pong.observations import preprocess
from pong.player import EVALUATION, ActionNoise, emulator_seeds
from pong.render import film, terminal
from pong.render.game import RenderedFrame, play
from pong.render.pace import Pace
from pong.render.picture import BOTTOM, HEIGHT, RIGHT, SCALE, SIDE, TOP, WIDTH, picture, signed
from pong.train import make_optimizer, make_policy

pytestmark = pytest.mark.usefixtures("compiled")

ROOT = Path(__file__).parents[1]
TINY = Config(hidden=4, device="cpu", max_frames=240)  # 60 decisions at hold 4


def saved(folder, config):
    """A run folder with an untrained checkpoint, after update 7."""
    policy = make_policy(config)
    counters = checkpoint.Counters(updates=7)
    checkpoint.save(folder / "checkpoints", config, counters, policy, make_optimizer(config, policy))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs: of Pong, of CartPole, one whose checkpoint is damaged, and one whose weights don't fit."""
    folder = tmp_path_factory.mktemp("runs")
    saved(folder / "run", TINY)
    saved(folder / "pole", Config(env="CartPole-v1", policy="mlp", hidden=4, device="cpu"))
    (path,) = (saved(folder / "damaged", TINY) / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    other = make_policy(TINY.model_copy(update={"hidden": 5}))
    counters = checkpoint.Counters()
    checkpoint.save(folder / "unfit" / "checkpoints", TINY, counters, other, make_optimizer(TINY, other))
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def moments(config=TINY, seed=0, **how):
    return list(play(make_policy(config), config, seed, **how))


@pytest.fixture(scope="module")
def game():
    """The moments of a real game of 60 decisions."""
    return moments()


def moment(screen=None, **others):
    """A made-up moment."""
    screen = np.zeros((210, 160, 3), np.uint8) if screen is None else screen
    values = {"step": 12, "score": -3, "probs": (0.75, 0.25), "action": 0, "frames": 4, "names": ("DOWN", "UP")}
    return RenderedFrame(screen, np.zeros((1, 80, 80), np.int8), **{**values, **others})


# --- the moments ------------------------------------------------------------------------------------------------------


TASKS = [
    ({}, False),
    ({"hold": "2-4", "sticky": 0.0, "noop_max": 30}, True),
    ({"hold": 3, "sticky": 0.5}, False),
    ({"actions": 3, "frames": "both", "last_action": True}, False),
    ({"actions": 6, "frames": "both"}, False),
]


@pytest.mark.parametrize(("task", "greedy"), TASKS, ids=str)
def test_the_moments_are_those_of_a_fleet(task, greedy):
    """Step for step what a fleet and the policy do: observations, probabilities, actions, scores and frames."""
    config = TINY.model_copy(update=task)
    policy = make_policy(config)
    actor = Greedy(policy) if greedy else policy
    noise = ActionNoise(3, 0, range(1), EVALUATION)
    fleet = make_fleet(config, 1)
    seen, score, done = fleet.reset(emulator_seeds(3, 0, range(1), EVALUATION)), 0, False

    *decisions, last = play(policy, config, 3, greedy=greedy)
    for step, now in enumerate(decisions):
        assert not done
        assert (now.step, now.score, now.finished) == (step, score, False)
        np.testing.assert_array_equal(now.seen.ravel(), seen.dense(torch.int8).numpy()[0, : now.seen.size])
        if config.actions == 2:
            assert now.probs[1] == policy.distribution(seen).probs.item() == 1 - now.probs[0]
        else:
            assert now.probs == tuple(policy.distribution(seen).probs[0].tolist())
        assert now.names == ("DOWN", "UP", "NOOP", "FIRE", "UP+FIRE", "DOWN+FIRE")[: config.actions]
        action = actor.act(seen, noise.draw()).numpy()
        assert now.action == action[0]
        played = fleet.step(action, np.ones(1, bool))
        assert now.frames == played.frames[0]
        seen, done, score = played.observations, bool(played.dones[0]), score + int(played.rewards[0])
    assert done
    assert (last.step, last.score, last.probs, last.action, last.frames) == (len(decisions), score, (), None, 0)
    assert not last.finished  # max_frames cut it off


def test_the_screens_are_those_of_the_difference_frames(game):
    """The difference on show is that of the two colour screens on show."""
    frames = [preprocess(now.screen).astype(np.int8) for now in game]
    assert not game[0].seen.any()
    for before, after, now in zip(frames, frames[1:], game[1:-1], strict=False):
        np.testing.assert_array_equal(now.seen[0], after - before)
    assert sum(np.count_nonzero(now.seen) for now in game) > 100
    assert (frames[-1] != frames[-2]).any()  # the last screen is that of the end, not of the next game's beginning
    assert (game[-1].screen == (92, 186, 92)).all(-1).any()  # where the policy's paddle is not yet green


def test_it_is_the_first_game_of_an_evaluation():
    config = TINY.model_copy(update={"players": 1, "hold": "2-4"})
    result = evaluate(make_policy(config), config, 2, seed=5)
    (first,) = (episode for episode in result.episodes if episode.emulator == 0)
    last = moments(config, 5)[-1]
    assert (last.score, last.step) == (first.score, first.length)


def test_the_same_seed_is_the_same_game(game):
    config = TINY.model_copy(update={"seed": 99})  # the run's own plays no part
    again, other = ([*play(make_policy(TINY), config, seed)] for seed in (0, 1))
    for a, b in zip(game, again, strict=True):
        np.testing.assert_array_equal(a.screen, b.screen)
        assert (a.probs, a.action, a.score) == (b.probs, b.action, b.score)
    assert any((a.screen != b.screen).any() for a, b in zip(game, other, strict=False))


def test_greedy_and_sampled_games_differ(game):
    greedy, again = moments(greedy=True), moments(greedy=True)
    assert all((a.screen == b.screen).all() for a, b in zip(greedy, again, strict=True))
    assert all(now.action == (now.probs[1] > 0.5) for now in greedy[:-1])
    assert any(now.action != (now.probs[1] > 0.5) for now in game[:-1])
    assert [now.action for now in greedy] != [now.action for now in game]


def test_a_whole_game_is_finished():
    last = moments(TINY.model_copy(update={"max_frames": 0, "hold": 8}), greedy=True)[-1]
    assert last.finished
    assert last.score == -21  # no untrained greedy policy wins a point


def test_an_endless_rally_ends(monkeypatch):
    monkeypatch.setattr("pong.config.PONG_FRAMES", 40)
    assert len(moments(TINY.model_copy(update={"max_frames": 0}))) == 10 + 1


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_holds_the_screen_and_the_difference(game):
    now = game[50]
    image = picture(now, "a run")
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    big = now.screen.repeat(SCALE, 0).repeat(SCALE, 1)  # nearest neighbours
    np.testing.assert_array_equal(image[:, :SIDE], big)
    greys = np.select([now.seen[0] > 0, now.seen[0] < 0], [255, 0], 112).repeat(2 * SCALE, 0)
    greys = greys.repeat(2 * SCALE, 1)
    assert now.seen.any()
    for channel in range(3):  # beside the play field, row for row
        np.testing.assert_array_equal(image[TOP:BOTTOM, RIGHT : RIGHT + SIDE, channel], greys)


GREEN = (92, 186, 92)


@pytest.mark.parametrize(("prob_up", "height"), [(0.0, 0), (0.25, 100), (1.0, 400)])
def test_the_bar_is_as_high_as_the_probability(prob_up, height):
    column = picture(moment(probs=(1 - prob_up, prob_up)), "")[TOP + 40 : BOTTOM - 40, SIDE + 64 - 10]
    green = (column == GREEN).all(-1)
    assert green[len(green) - height :].sum() >= height - 2  # but for the mark at ½
    assert not green[: len(green) - height].any()


@pytest.mark.parametrize(("action", "lit"), [(1, [True, False]), (0, [False, True]), (None, [False, False])])
def test_the_action_is_lit(action, lit):
    image = picture(moment(action=action), "")
    x = SIDE + 64 - 35  # in the box, left of the word
    assert [tuple(image[y, x]) == GREEN for y in (TOP + 16, BOTTOM - 16)] == lit


def test_a_third_action_is_below_and_two_pictures_are_side_by_side():
    seen = np.stack([np.ones((80, 80), np.int8), np.full((80, 80), -1, np.int8)])
    three = {"names": ("DOWN", "UP", "NOOP"), "probs": (0.5, 0.25, 0.25)}
    image = picture(replace(moment(action=2, **three), seen=seen), "")
    assert tuple(image[BOTTOM + 22, SIDE + 64 - 35]) == GREEN
    assert tuple(picture(moment(action=1, **three), "")[BOTTOM + 22, SIDE + 64 - 35]) != GREEN
    assert (image[TOP : TOP + 236, RIGHT : RIGHT + 236] == 255).all()
    assert (image[TOP : TOP + 236, RIGHT + 240 : RIGHT + 476] == 0).all()


def test_of_six_actions_each_has_a_bar_as_long_as_its_probability():
    probs = (0.5, 0.0, 0.125, 0.25, 0.0625, 0.0625)
    names = ("DOWN", "UP", "NOOP", "FIRE", "UP+FIRE", "DOWN+FIRE")
    image = picture(moment(names=names, probs=probs, action=3), "")
    column = (image[:, SIDE:RIGHT] == GREEN).all(-1)
    tops = [TOP + 24 + 74 * k for k in range(6)]
    assert [bool(column[top + 4, 20]) for top in tops] == [False, False, False, True, False, False]
    lengths = [int(column[top + 40].sum()) for top in tops]
    assert lengths == [pytest.approx(prob * (RIGHT - SIDE - 12), abs=1.5) if prob else 0 for prob in probs]


def test_a_long_name_is_cut_at_its_beginning():
    image = picture(moment(), "pong-with-a-name " * 10)
    assert (image[:TOP, WIDTH - 16 :] == image[0, -1]).all()
    assert (image[:35, RIGHT : RIGHT + SIDE] != image[0, -1]).any()


@pytest.mark.parametrize("score", [-3, 0, 3])
def test_the_font_has_every_letter(monkeypatch, score):
    written = []
    draw = ImageDraw.ImageDraw.text

    def noted(self, at, text, *others, **keys):
        written.append(text)
        draw(self, at, text, *others, **keys)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    picture(moment(score=score), f"a run of score {score} · sampled · seed 0")
    font = ImageFont.load_default(26)
    missing = bytes(font.getmask("\N{BULLSEYE}"))
    assert len(written) > 5
    assert all(bytes(font.getmask(letter)) != missing for letter in "".join(written))


@pytest.mark.parametrize(("score", "text"), [(3, "+3"), (0, "0"), (-21, "−21")])
def test_scores_have_signs(score, text):
    assert signed(score) == text


# --- films ------------------------------------------------------------------------------------------------------------


def read(file):
    """The pictures (N, H, W, 3) of a film, and its seconds."""
    frames = imageio_ffmpeg.read_frames(str(file))
    about = next(frames)
    width, height = about["size"]
    pictures = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])
    return pictures, imageio_ffmpeg.count_frames_and_secs(str(file))[1]


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".GIF"])
def test_a_film_can_be_read_again(elsewhere, game, ending):
    film.show(game[:21], Path(f"game{ending}"), 15.0, "a run")
    pictures, seconds = read(f"game{ending}")
    assert pictures.shape == (21, HEIGHT, WIDTH, 3)
    assert seconds == pytest.approx(21 / 15, abs=0.02)
    for i in (0, 20):
        wanted = picture(game[i], "a run").astype(int)
        wrong = np.abs(pictures[i] - wanted)
        assert wrong.mean() < 1.5
        if ending != ".mp4":  # where H.264 loses a little, a gif has the game's own colours
            assert wrong[:, :SIDE].max() == wrong[TOP:BOTTOM, RIGHT : RIGHT + SIDE].max() == 0
            assert wrong.max() <= 24  # the edges of letters
    assert [path.name for path in elsewhere.iterdir()] == [f"game{ending}"]


@pytest.mark.parametrize(("hold", "fps"), [(1, 60), (4, 15), ("2-4", 20)])
def test_natural_speed(hold, fps):
    assert film.fps_of(Config(hold=hold)) == fps


def test_a_gif_is_not_too_fast_for_browsers(elsewhere, game):
    film.show(game[:10], Path("game.gif"), 60.0, "a run")
    assert read("game.gif")[1] == pytest.approx(10 / 50, abs=0.011)


def broken(game, error):
    yield from game[:3]
    raise error


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("on purpose")], ids=repr)
def test_no_half_film_is_left(elsewhere, game, ending, error):
    with pytest.raises(type(error)):
        film.show(broken(game, error), Path(f"game{ending}"), 15.0, "")
    assert list(elsewhere.iterdir()) == []


def test_a_failing_ffmpeg_is_one_line_and_leaves_nothing(elsewhere, monkeypatch, game):
    """It reads a little, says what is wrong, and dies, as on a full disk."""
    ffmpeg = elsewhere / "ffmpeg"
    ffmpeg.write_text('#!/bin/sh\nhead -c 9 >/dev/null\necho "[out#0 @ 0x5] No space left on device" >&2\nexit 228\n')
    ffmpeg.chmod(0o755)
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: str(ffmpeg))
    cannot = "^play: game.mp4 can't be written: "
    with pytest.raises(RunError, match=rf"{cannot}No space left on device \(says {ffmpeg}\)$"):
        film.show(game, Path("game.mp4"), 15.0, "")
    ffmpeg.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(RunError, match=rf"{cannot}ffmpeg \({ffmpeg}\) ended with status -9 and said nothing$"):
        film.show(game, Path("game.mp4"), 15.0, "")
    assert list(elsewhere.iterdir()) == [ffmpeg]


def test_a_full_disk_is_one_line_and_leaves_nothing(elsewhere, runs, capfd):
    """Files may grow to 20 kB here."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert main(["play", str(runs / "run"), "--max-frames", "100"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capfd.readouterr().err
    assert err.startswith("pong: play: run-update7-seed0.mp4 can't be written: ")
    assert len(err.splitlines()) == 1
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_takes_no_file(elsewhere, monkeypatch, game):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # root may write anywhere
    with pytest.raises(InputError, match=r"^play: game.mp4 can't be written: Permission denied$"):
        film.show(game, Path("game.mp4"), 15.0, "")


# --- the terminal -----------------------------------------------------------------------------------------------------

RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def test_half_blocks_of_a_tiny_picture():
    """4 rows of 3 pixels are 2 lines of 3 characters; a colour is set only where it changes."""
    pixels = np.array([[RED, RED, BLUE], [BLUE, BLUE, BLUE], [BLACK] * 3, [BLACK, RED, RED]], np.uint8)
    assert terminal.half_blocks(pixels) == [
        "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀▀\x1b[38;2;0;0;255m▀\x1b[0m",
        "\x1b[38;2;0;0;0m\x1b[48;2;0;0;0m▀\x1b[48;2;255;0;0m▀▀\x1b[0m",
    ]


def test_shrinking_keeps_the_brightest():
    screen = np.full((210, 160, 3), (144, 72, 17), np.uint8)
    screen[101:105, 77:79] = 236  # a ball of 2 × 4
    small = terminal.shrink(screen, 42, 32)  # a fifth: blocks of 5 × 5
    assert small.dtype == np.uint8
    bright = np.argwhere((small == 236).all(-1)).tolist()
    assert bright == [[20, 15]]  # rows 100 to 104, columns 75 to 79
    assert (np.delete(small.reshape(-1, 3), 20 * 32 + 15, axis=0) == (144, 72, 17)).all()


def test_enlarging_repeats_pixels(game):
    screen = game[30].screen
    np.testing.assert_array_equal(terminal.shrink(screen, 420, 320), screen.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("columns", "rows", "height", "width"),
    [(80, 24, 46, 35), (60, 100, 78, 59), (1000, 106, 210, 160), (1, 1, 2, 1), (3, 2, 2, 1)],
)
def test_the_screen_fits_the_terminal_and_keeps_its_shape(columns, rows, height, width):
    lines = terminal.layout(moment(), columns, rows)
    assert len(lines) == height // 2 + 1
    for row, line in enumerate(lines[:-1], start=1):
        assert line.startswith(f"\x1b[{row};{(columns - width) // 2 + 1}H\x1b[38;2;0;0;0m")
        assert line.count("▀") == width
    status = lines[-1].partition(terminal.ERASE)[2]
    assert len(status) <= columns


def test_the_line_below():
    *_, line = terminal.layout(moment(), 80, 24)
    assert line == "\x1b[24;15H\x1b[2Kscore  −3   P(UP) 0.25 ██░░░░░░░░ DOWN   step     12"
    *_, line = terminal.layout(moment(probs=(), action=None, score=21), 80, 24)
    assert line == "\x1b[24;24H\x1b[2Kscore +21   the end   step     12"
    *_, line = terminal.layout(moment(names=("DOWN", "UP", "NOOP"), probs=(0.5, 0.25, 0.25), action=2), 80, 24)
    assert line.endswith("\x1b[2Kscore  −3    DOWN ▄   UP ▂  [NOOP ▂]   step     12")


@pytest.fixture
def still(monkeypatch):
    """Time that passes only by sleeping; gives the list of the pauses."""
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(pauses))
    return pauses


def test_only_what_changes_is_printed_again(monkeypatch, still):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    out = io.StringIO()
    second = moment(step=13)
    terminal.show([moment(), second], out)
    first_lines, second_lines = (terminal.layout(m, 80, 24) for m in (moment(), second))
    assert out.getvalue() == "".join(
        ["\x1b[?1049h\x1b[?25l", "\x1b[2J", *first_lines, second_lines[-1], "\x1b[0m\x1b[?25h\x1b[?1049l"]
    )


def test_another_size_prints_all_again(monkeypatch, still):
    sizes = iter([os.terminal_size((80, 24)), os.terminal_size((81, 24))])
    monkeypatch.setattr("shutil.get_terminal_size", lambda: next(sizes))
    out = io.StringIO()
    terminal.show([moment(), moment()], out)
    assert out.getvalue().count("\x1b[2J") == 2
    assert out.getvalue().count("▀") == 2 * 23 * 35


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_put_back(still, error):
    out = io.StringIO()
    with pytest.raises(error):
        terminal.show(broken([moment()] * 3, error()), out)
    assert out.getvalue().endswith("\x1b[0m\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize("speed", [1, 2])
def test_each_moment_stays_for_its_frames(still, speed):
    terminal.show([moment(frames=4), moment(frames=2), moment(frames=0)], io.StringIO(), speed)
    assert still == pytest.approx([4 / 60 / speed, 2 / 60 / speed, 1])  # the last one for a second


def test_lost_time_is_not_made_up_for(still):
    pace = Pace(1)
    still.append(10.0)  # ten seconds of something else
    pace.hold(6, 60)
    assert pace.left == 0
    pace.hold(6, 60)
    assert pace.left == pytest.approx(0.1)


# --- the command ------------------------------------------------------------------------------------------------------

# arguments: what the line must say. {runs} holds the runs of the fixture; there.mp4 exists
ERRORS = {
    "play": ["RUN|CHECKPOINT"],
    "play nowhere": ["nowhere does not exist"],
    "play {root}": ["{root} holds no checkpoints"],
    "play {runs}/damaged": ["{runs}/damaged", "can't be read"],
    "play {runs}/unfit": ["does not fit its config"],
    "play {runs}/pole": ["{runs}/pole was trained on CartPole-v1", "no screen to show"],
    "play {runs}/run surplus": ["surplus"],
    "play {runs}/run --fly": ["--fly"],
    "play {runs}/run --seed -1": ["--seed -1", "0 or more"],
    "play {runs}/run --seed one": ["--seed", "'one'"],
    "play {runs}/run --max-frames 0": ["--max-frames 0", "1 to 2147483647"],
    "play {runs}/run --max-frames 2147483648": ["--max-frames 2147483648", "1 to 2147483647"],
    "play {runs}/run --terminal --window": ["choose one of --file, --terminal and --window"],
    "play {runs}/run --file a.mp4 --terminal": ["choose one of --file, --terminal and --window"],
    "play {runs}/run --file a.mp4 --window": ["choose one of --file, --terminal and --window"],
    "play {runs}/run --speed 2": ["--speed is for --terminal and --window"],
    "play {runs}/run --speed 0": ["--speed 0", "above 0"],
    "play {runs}/run --speed nan": ["--speed nan", "above 0"],
    "play {runs}/run --speed inf": ["--speed inf", "above 0"],
    "play {runs}/run --file game.avi": ["--file game.avi", ".mp4 or .gif"],
    "play {runs}/run --file game": ["--file game", ".mp4 or .gif"],
    "play {runs}/run --file nowhere/game.mp4": ["--file nowhere/game.mp4", "a folder that exists"],
    "play {runs}/run --file {there}": ["{there} exists"],
    "play {runs}/run --file " + 300 * "x" + ".mp4": ["can't be written", "too long"],
    "play {runs}/run --file " + 300 * "x" + "/game.mp4": ["can't be written", "too long"],
    "play {runs}/run --terminal": ["--terminal", "not a terminal"],
    "play {runs}/run --window": ["--window", "no display"],
}


def no_game(*args, **kwargs):
    raise AssertionError("a game was played before the error was found")


@pytest.fixture
def headless(monkeypatch):
    """A Linux machine with pygame and without a display."""
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setitem(sys.modules, "pygame", FakePygame())


def error_line(capsys, *arguments, status=2):
    """What ``pong`` says on stderr: one line, and nothing on stdout."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pong: ")
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize(("arguments", "words"), ERRORS.items(), ids=[key[:60] for key in ERRORS])
def test_bad_input_is_one_line_and_leaves_nothing(
    elsewhere, tmp_path_factory, monkeypatch, capsys, runs, headless, arguments, words
):
    there = tmp_path_factory.mktemp("there") / "there.mp4"
    there.write_bytes(b"a film")
    monkeypatch.setattr("pong.render.game.make_rendered", no_game)
    names = {"root": ROOT, "runs": runs, "there": there}
    err = error_line(capsys, *(argument.format(**names) for argument in arguments.split()))
    for word in words:
        assert word.format(**names) in err
    assert list(elsewhere.iterdir()) == []
    assert there.read_bytes() == b"a film"


def test_help(elsewhere, capsys):
    with contextlib.suppress(SystemExit):
        main(["play", "--help"])
    out = capsys.readouterr().out
    for flag in ("RUN|CHECKPOINT", "--file", "--terminal", "--window", "--speed", "--greedy", "--seed", "--max-frames"):
        assert flag in out


def test_help_and_bad_input_load_nothing_slow(elsewhere):
    code = (
        "import sys; from pong.cli import main; main(['play', '--seed', '-1', 'x']); "
        "sys.exit(str({'torch', 'imageio_ffmpeg', 'pygame', 'PIL', 'ale_py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "set()"


def test_a_film_by_the_command(elsewhere, runs, capsys):
    assert main(["play", str(runs / "run"), "--max-frames", "80"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    file = "run-update7-seed0.mp4"
    assert out.splitlines()[-1] == f"score 0 in 20 steps, truncated: {file}"
    assert "update 7, sampled, seed 0, sticky 0.25, hold 4" in out
    assert read(file)[0].shape == (20 + 1, HEIGHT, WIDTH, 3)

    (path,) = (runs / "run" / "checkpoints").iterdir()  # named after its run
    assert main(["play", str(path), "--max-frames", "40", "--greedy", "--seed", "3"]) == 0
    assert sorted(p.name for p in elsewhere.iterdir()) == ["run-update7-greedy-seed3.mp4", file]


def test_a_film_replaces_another_under_the_default_name_alone(elsewhere, runs, capsys):
    """One that is named may be anybody's, even where it has that name."""
    file = Path("run-update7-seed0.mp4")
    command = ["play", str(runs / "run"), "--max-frames", "40"]
    file.write_bytes(b"a film")
    assert f"{file} exists" in error_line(capsys, *command, "--file", str(file))
    assert file.read_bytes() == b"a film"

    assert main(command) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[-1], err) == (f"score 0 in 10 steps, truncated: {file}", "")
    assert len(read(file)[0]) == 10 + 1
    assert list(elsewhere.iterdir()) == [file.absolute()]


def test_a_film_that_is_interrupted_leaves_the_one_before(elsewhere, monkeypatch, runs, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    file = Path("run-update7-seed0.mp4")
    file.write_bytes(b"a film")
    monkeypatch.setattr("pong.render.film._feed", interrupt)
    assert main(["play", str(runs / "run"), "--max-frames", "40"]) == 130
    assert file.read_bytes() == b"a film"
    assert list(elsewhere.iterdir()) == [file.absolute()]


def test_a_default_name_that_cannot_be_a_films(elsewhere, monkeypatch, runs, capsys):
    """A folder has it, or it is too long, since the run's own is long."""
    monkeypatch.setattr("pong.render.game.make_rendered", no_game)
    Path("run-update7-seed0.mp4").mkdir()
    assert "--file run-update7-seed0.mp4: give a file" in error_line(capsys, "play", str(runs / "run"))
    long = saved(elsewhere / (250 * "x"), TINY)
    assert "File name too long; give another name" in error_line(capsys, "play", str(long))


def test_max_frames_below_the_noops(elsewhere, capsys):
    run = saved(elsewhere / "noops", TINY.model_copy(update={"noop_max": 30}))
    assert "--max-frames 30: give 31 to" in error_line(capsys, "play", str(run), "--max-frames", "30")


def test_a_terminal_without_half_blocks(elsewhere, monkeypatch, capsys, runs):
    class Latin(io.StringIO):
        encoding = "latin-1"

        def isatty(self):
            return True

    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Latin())
        assert main(["play", str(runs / "run"), "--terminal"]) == 2
    assert "latin-1 has no half-blocks" in capsys.readouterr().err


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_whole_game_in_the_terminal(elsewhere, monkeypatch, runs, capsys, still):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "12")
    assert main(["play", str(runs / "run"), "--terminal", "--max-frames", "40", "--speed", "4"]) == 0
    out, err = capsys.readouterr()
    page, after = out.split("\x1b[?1049h\x1b[?25l")[1].split("\x1b[0m\x1b[?25h\x1b[?1049l")
    assert "▀" * 10 in page
    assert (after, err) == ("score 0 in 10 steps, truncated: the terminal\n", "")
    assert sum(still) == pytest.approx(40 / 60 / 4 + 1)
    assert list(elsewhere.iterdir()) == []


def heed_interrupts():
    """In the process to be: a test run in the background of a shell has been told to ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_a_real_terminal(elsewhere, runs):
    """Forty columns and twelve rows, interrupted after the first pictures."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 40, 0, 0))
    command = [sys.executable, "-m", "pong", "play", str(runs / "run"), "--terminal"]
    sizeless = {key: value for key, value in environment().items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=sizeless,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    os.close(theirs)
    said = b""
    try:
        while said.count(b"score") < 3:
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux's way to say that it ended
            while some := os.read(ours, 4096):
                said += some
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert (process.returncode, err) == (130, b"pong: interrupted\n")
    page, after = said.decode().split("\x1b[?1049h\x1b[?25l")[1].split("\x1b[0m\x1b[?25h\x1b[?1049l")
    assert page.count("▀") >= 11 * 16  # of 22 pixels of height and 16 of width
    assert after == ""


def test_interrupting_a_film_leaves_nothing(elsewhere, runs):
    command = [sys.executable, "-m", "pong", "play", str(runs / "run"), "--max-frames", "100000"]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in elsewhere.iterdir()):  # the first pictures
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, b"pong: interrupted\n")
    assert list(elsewhere.iterdir()) == []


# --- the window -------------------------------------------------------------------------------------------------------


class FakePygame:
    """As much of pygame as a window needs; it is closed once ``polls`` looks have found nothing."""

    QUIT = 256
    error = type("error", (Exception,), {})

    def __init__(self, polls=10**9, display=True):
        self.said = []
        self.polls = itertools.count()
        self.image = self.display = self.event = self
        self._closes, self._display = polls, display

    def __getattr__(self, name):
        return lambda *args: self.said.append((name, *args)) or self

    def set_mode(self, size):
        if not self._display:
            raise self.error("No available video device")
        return self

    def frombuffer(self, data, size, layout):
        self.said.append(("picture", data))
        return self

    def peek(self, kind):
        return next(self.polls) >= self._closes


@pytest.fixture
def display(monkeypatch):
    """Makes a pygame be there; gives it back."""

    def make(**settings):
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        monkeypatch.setitem(sys.modules, "pygame", pygame := FakePygame(**settings))
        return pygame

    return make


def test_a_window(elsewhere, display, runs, game, capsys, still):
    pygame = display()
    assert main(["play", str(runs / "run"), "--window", "--max-frames", "40", "--speed", "2"]) == 0
    assert capsys.readouterr().out.endswith("score 0 in 10 steps, truncated: a window\n")
    shown = [said[1] for said in pygame.said if said[0] == "picture"]
    wanted = [picture(now, "run · update 7 · sampled · seed 0").tobytes() for now in game[:10]]
    assert shown[:10] == wanted
    assert len(shown) == 11
    assert pygame.said[-1] == ("quit",)
    assert sum(still) == pytest.approx(10 * 4 / 60 / 2 + 1)
    assert list(elsewhere.iterdir()) == []


def test_closing_the_window_ends_the_program(elsewhere, display, runs, capsys, still):
    pygame = display(polls=3)
    assert main(["play", str(runs / "run"), "--window"]) == 0
    assert "closed before its end: a window\n" in capsys.readouterr().out
    assert pygame.said[-1] == ("quit",)


def test_interrupting_a_window_closes_it(elsewhere, monkeypatch, display, runs, capsys):
    def interrupt(pause):
        raise KeyboardInterrupt

    pygame = display()
    monkeypatch.setattr("time.sleep", interrupt)
    assert main(["play", str(runs / "run"), "--window"]) == 130
    assert pygame.said[-1] == ("quit",)


def test_a_window_without_pygame(elsewhere, monkeypatch, runs, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)  # importing it fails
    assert "run: pip install pygame" in error_line(capsys, "play", str(runs / "run"), "--window")


def test_a_window_on_a_display_that_fails(elsewhere, display, runs, capsys):
    display(display=False)
    err = error_line(capsys, "play", str(runs / "run"), "--window")
    assert "no display (No available video device)" in err


def test_a_window_by_the_real_pygame(elsewhere, monkeypatch, runs, capsys):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(["play", str(runs / "run"), "--window", "--max-frames", "12", "--speed", "100"]) == 0
    assert "score 0 in 3 steps, truncated: a window\n" in capsys.readouterr().out
