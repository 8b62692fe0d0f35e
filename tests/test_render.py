"""Games, pictures, films, the terminal and TensorBoard's pictures."""

import io

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from pong.config import Config, InputError, RunError
from pong.envs import make_fleet
from pong.evaluate import Greedy
from pong.observations import PIXELS, preprocess
from pong.policies import make_policy
from pong.render import terminal
from pong.render.film import fps_of, write_film
from pong.render.frame import RenderedFrame, play_frames
from pong.render.picture import BOTTOM, GREEN, HEIGHT, RIGHT, SCALE, SIDE, TOP, WIDTH, draw_picture, signed
from pong.rollout import EVALUATION, ActionNoise, emulator_seeds
from pong.tracking import game_summary, weight_picture

pytestmark = pytest.mark.usefixtures("compiled")

TINY = Config(hidden=4, device="cpu", max_frames=240)  # 60 decisions at hold 4
NAMES = ("DOWN", "UP", "NOOP", "FIRE", "UP+FIRE", "DOWN+FIRE")
CENTER = (SIDE + RIGHT) // 2  # of the column between the screen and the observation


@pytest.fixture(scope="module")
def game():
    """60 decisions of an untrained policy and the last screen."""
    return list(play_frames(make_policy(TINY), TINY))


def make_frame(screen=None, **fields):
    screen = np.zeros((210, 160, 3), np.uint8) if screen is None else screen
    values = {"step": 12, "score": -3, "probs": (0.75, 0.25), "action": 0, "frames": 4, "action_names": NAMES[:2]}
    values |= {"observation": np.zeros((1, 80, 80), np.int8), "frame_rate": 60}
    return RenderedFrame(screen, **{**values, **fields})


def draw(frame, caption=""):
    return np.asarray(draw_picture(frame, caption))


TASKS = [
    ({}, False),
    ({"hold": "2-4", "sticky": 0.0, "noop_max": 30}, True),
    ({"actions": 3, "frames": "both", "last_action": True}, False),
    ({"actions": 6, "frames": "both"}, True),
]


@pytest.mark.parametrize(("task", "greedy"), TASKS, ids=str)
def test_play_frames_equal_the_steps_of_a_fleet(task, greedy):
    config = TINY.model_copy(update=task)
    policy = make_policy(config)
    actor = Greedy(policy) if greedy else policy
    noise = ActionNoise(3, 0, range(1), EVALUATION)
    fleet = make_fleet(config, 1)
    observations, score, done = fleet.reset(emulator_seeds(3, 0, range(1), EVALUATION)), 0, False

    *decisions, last = play_frames(policy, config, 3, greedy=greedy)
    for step, frame in enumerate(decisions):
        assert not done
        assert (frame.step, frame.score, frame.finished) == (step, score, False)
        row = observations.dense(torch.int8).numpy()[0, : frame.observation.size]
        np.testing.assert_array_equal(frame.observation.ravel(), row)
        probs = policy.distribution(observations).probs.flatten().tolist()
        assert frame.probs == ((1 - probs[0], probs[0]) if config.actions == 2 else tuple(probs))
        assert frame.action_names == NAMES[: config.actions]
        action = actor.act(observations, torch.from_numpy(noise.ahead()[0])).numpy()
        noise.use(1)
        assert frame.action == action[0]
        result = fleet.step(action, np.ones(1, bool))
        assert frame.frames == result.frames[0]
        observations, done, score = result.observations, bool(result.dones[0]), score + int(result.rewards[0])
    assert done
    assert (last.step, last.score, last.probs, last.action, last.frames) == (len(decisions), score, (), None, 0)
    assert not last.finished  # max_frames truncated it


def test_play_frames_observe_differences_of_screens(game):
    frames = [preprocess(frame.screen).astype(np.int8) for frame in game]
    assert not game[0].observation.any()
    for before, after, frame in zip(frames, frames[1:], game[1:-1], strict=False):
        np.testing.assert_array_equal(frame.observation[0], after - before)
    assert sum(np.count_nonzero(frame.observation) for frame in game) > 100
    assert (frames[-1] != frames[-2]).any()  # the last screen is not that of the last decision


def test_play_frames_of_a_whole_game():
    config = TINY.model_copy(update={"max_frames": 0, "hold": 8})
    *_, last = play_frames(make_policy(config), config, greedy=True)
    assert (last.finished, last.score) == (True, -21)  # an untrained greedy policy wins no point


def test_draw_picture_screen_and_observation(game):
    frame = game[50]
    assert frame.observation.any()
    image = draw(frame, "a run")
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    np.testing.assert_array_equal(image[:, :SIDE], frame.screen.repeat(SCALE, 0).repeat(SCALE, 1))
    greys = np.select([frame.observation[0] > 0, frame.observation[0] < 0], [255, 0], 112)
    greys = greys.repeat(2 * SCALE, 0).repeat(2 * SCALE, 1)  # 80 × 6 = 160 × 3 pixels
    np.testing.assert_array_equal(image[TOP:BOTTOM, RIGHT : RIGHT + SIDE], np.stack([greys] * 3, axis=-1))


@pytest.mark.parametrize(("prob_up", "height"), [(0.0, 0), (0.25, 100), (1.0, 400)])
def test_draw_picture_bar_height(prob_up, height):
    """The bar is 400 pixels high: SIDE = 480, less 40 for each action's name."""
    column = draw(make_frame(probs=(1 - prob_up, prob_up)))[TOP + 40 : BOTTOM - 40, CENTER - 10]
    green = (column == GREEN).all(-1)
    assert green[len(green) - height :].sum() >= height - 2  # the mark at ½ covers 2 pixels
    assert not green[: len(green) - height].any()


@pytest.mark.parametrize(("action", "lit"), [(0, 1), (1, 0), (2, 2), (None, None)])
def test_draw_picture_action(action, lit):
    image = draw(make_frame(action=action, action_names=NAMES[:3], probs=(0.5, 0.25, 0.25)))
    up, down, noop = TOP + 16, BOTTOM - 16, BOTTOM + 22
    assert [tuple(image[y, CENTER - 35]) == GREEN for y in (up, down, noop)] == [k == lit for k in range(3)]


def test_draw_picture_two_observations():
    observation = np.stack([np.ones((80, 80), np.int8), np.full((80, 80), -1, np.int8)])
    image = draw(make_frame(observation=observation))
    assert (image[TOP : TOP + 236, RIGHT : RIGHT + 236] == 255).all()
    assert (image[TOP : TOP + 236, RIGHT + 240 : RIGHT + 476] == 0).all()


def test_draw_picture_six_actions():
    probs = (0.5, 0.0, 0.125, 0.25, 0.0625, 0.0625)
    column = (draw(make_frame(action_names=NAMES, probs=probs, action=3))[:, SIDE:RIGHT] == GREEN).all(-1)
    tops = [TOP + 24 + 74 * k for k in range(6)]
    assert [bool(column[top + 4, 20]) for top in tops] == [False, False, False, True, False, False]
    lengths = [int(column[top + 40].sum()) for top in tops]
    assert lengths == [pytest.approx(prob * (RIGHT - SIDE - 12), abs=1.5) if prob else 0 for prob in probs]


def test_draw_picture_long_caption():
    image = draw(make_frame(), "pong-with-a-name " * 10)
    assert (image[:TOP, WIDTH - 16 :] == image[0, -1]).all()
    assert (image[:35, RIGHT : RIGHT + SIDE] != image[0, -1]).any()


def test_draw_picture_font_has_every_letter(monkeypatch):
    texts, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda *args, **keys: texts.append(args[2]) or draw(*args, **keys))
    draw_picture(make_frame(score=-3), "a run · sampled · seed 0")
    font = ImageFont.load_default(26)
    missing = bytes(font.getmask("\N{BULLSEYE}"))
    assert all(bytes(font.getmask(letter)) != missing for letter in "".join(texts))


@pytest.mark.parametrize(("score", "text"), [(3.2, "+3"), (0, "0"), (-0.2, "0"), (-21, "−21")])
def test_signed(score, text):
    assert signed(score) == text


def read(file):
    """The pictures (N, H, W, 3) of a film and its duration in seconds."""
    frames = imageio_ffmpeg.read_frames(str(file))
    width, height = next(frames)["size"]
    pictures = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])
    return pictures, imageio_ffmpeg.count_frames_and_secs(str(file))[1]


# Browsers slow down gifs of more than 50 pictures per second.
@pytest.mark.parametrize(("ending", "fps", "actual"), [(".mp4", 15, 15), (".gif", 60, 50), (".GIF", 15, 15)])
def test_write_film_frames_and_speed(tmp_path, game, ending, fps, actual):
    file = tmp_path / f"12:30{ending}"  # ffmpeg would read a protocol before the colon
    write_film(game[:21], file, fps, "a run")
    pictures, seconds = read(file)
    assert pictures.shape == (21, HEIGHT, WIDTH, 3)
    assert seconds == pytest.approx(21 / actual, abs=0.02)
    for k in (0, 20):
        error = np.abs(pictures[k] - draw(game[k], "a run").astype(int))
        assert error.mean() < 1.5  # H.264 is lossy
        if ending != ".mp4":
            assert error[:, :SIDE].max() == error[TOP:BOTTOM, RIGHT : RIGHT + SIDE].max() == 0
            assert error.max() <= 24  # edges of letters and bars
    assert list(tmp_path.iterdir()) == [file]


def test_write_film_mp4_codec_and_progress(tmp_path, monkeypatch, capsys, game):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("TERM", "xterm")
    write_film(game[:41], tmp_path / "game.mp4", 15.0, "")
    out, err = capsys.readouterr()
    assert out == ""
    assert f"recording: 40 steps, score {game[40].score:+.2f} " in err
    metadata = next(imageio_ffmpeg.read_frames(str(tmp_path / "game.mp4")))
    assert (metadata["codec"], metadata["pix_fmt"][:7]) == ("h264", "yuv420p")
    data = (tmp_path / "game.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart: the index is before the pictures


@pytest.mark.parametrize(("hold", "fps"), [(1, 60), (4, 15), ("2-4", 20)])
def test_fps_of(hold, fps):
    assert fps_of(Config(hold=hold)) == fps


def broken(frames, error):
    yield from frames[:3]
    raise error


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_write_film_interrupted_keeps_the_old_file(tmp_path, game, ending):
    file = tmp_path / f"game{ending}"
    file.write_bytes(b"a film")
    with pytest.raises(KeyboardInterrupt):
        write_film(broken(game, KeyboardInterrupt()), file, 15.0, "")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"a film"


SCRIPTS = {
    "fails at once": "exit 1",
    "fails on the way": "head -c 9 >/dev/null; exit 228",
    "at the end": "cat >/dev/null",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_write_film_with_a_failing_ffmpeg(tmp_path, monkeypatch, capfd, game, script):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text(f"#!/bin/sh\n{script}\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    with pytest.raises(RunError, match=r"game.mp4 cannot be written: ffmpeg failed; .*reinstall imageio-ffmpeg$"):
        write_film(game, tmp_path / "game.mp4", 15.0, "")
    assert list(tmp_path.iterdir()) == [ffmpeg]
    assert capfd.readouterr().err == ""


def test_write_film_rejects_a_missing_folder(tmp_path, game):
    with pytest.raises(InputError, match=r"nowhere/game.mp4 cannot be written: No such file or directory$"):
        write_film(game, tmp_path / "nowhere/game.mp4", 15.0, "")


def test_game_summary():
    config = TINY.model_copy(update={"max_frames": 40, "hold": 3})
    (value,) = game_summary("play/game", make_policy(config), config, 1).value
    assert (value.tag, value.image.width, value.image.height) == ("play/game", 160, 210)
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as film:
        assert (film.size, film.info["duration"], film.info["loop"]) == ((160, 210), 50, 0)  # 3 frames at 60 Hz
        assert film.n_frames > 5  # of 15, as equal screens are one picture


RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def test_half_blocks_by_hand():
    """4 rows of 3 pixels are 2 lines of 3 characters."""
    pixels = np.array([[RED, RED, BLUE], [BLUE, BLUE, BLUE], [BLACK] * 3, [BLACK, RED, RED]], np.uint8)
    assert terminal.half_blocks(pixels) == [
        "\x1b[38;2;255;0;0;48;2;0;0;255m▀▀\x1b[38;2;0;0;255;48;2;0;0;255m▀\x1b[0m",
        "\x1b[38;2;0;0;0;48;2;0;0;0m▀\x1b[38;2;0;0;0;48;2;255;0;0m▀▀\x1b[0m",
    ]


def test_shrink_by_hand():
    screen = np.full((210, 160, 3), (144, 72, 17), np.uint8)
    screen[101:105, 77:79] = 236  # a ball of 2 × 4
    small = terminal.shrink(screen, 42, 32)  # a fifth: blocks of 5 × 5
    expected = np.full((42, 32, 3), (144, 72, 17), np.uint8)
    expected[20, 15] = 236  # rows 100 to 104, columns 75 to 79
    np.testing.assert_array_equal(small, expected)


SIZES = [(80, 24, 46, 35), (60, 100, 78, 59), (1000, 106, 210, 160), (1, 1, 2, 1), (3, 2, 2, 1)]


@pytest.mark.parametrize(("columns", "rows", "height", "width"), SIZES)
def test_layout_size(columns, rows, height, width):
    *lines, status = terminal.layout(make_frame(), columns, rows)
    assert len(lines) == height // 2
    for line in lines:
        assert line.startswith("\x1b[K" + " " * ((columns - width) // 2) + "\x1b[38;2;0;0;0;")
        assert line.count("▀") == width
    assert len(status.removeprefix("\x1b[J")) == columns


def test_layout_status_line():
    three = make_frame(action_names=NAMES[:3], probs=(0.5, 0.25, 0.25), action=2)
    frames = make_frame(), make_frame(probs=(), action=None, score=21), three
    assert [terminal.layout(frame, 80, 24)[-1].removeprefix("\x1b[J").strip() for frame in frames] == [
        "score  −3   [DOWN ▆]  UP ▂    step     12",
        "score +21   the end   step     12",
        "score  −3    DOWN ▄   UP ▂  [NOOP ▂]   step     12",
    ]


@pytest.fixture
def pauses(monkeypatch):
    """Durations of all sleeps; no other time passes."""
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(pauses))
    return pauses


def test_show_restores_the_terminal(pauses, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        terminal.show(broken([make_frame()] * 3, KeyboardInterrupt()), out)
    start, *pictures = out.getvalue().removesuffix("\x1b[?1049l\x1b[?25h").split("\x1b[H")[1:]
    assert (out.getvalue().startswith("\x1b[?1049h"), start) == (True, "\x1b[?25l")
    assert pictures == 3 * ["\n".join(terminal.layout(make_frame(), 60, 20))]


@pytest.mark.parametrize("speed", [1, 2])
def test_show_speed(pauses, speed):
    terminal.show([make_frame(frames=4), make_frame(frames=2), make_frame(frames=0)], io.StringIO(), speed)
    assert pauses == pytest.approx([4 / 60 / speed, 2 / 60 / speed, 1])  # the last one for a second


def test_show_after_a_delay(pauses):
    def slow():
        yield make_frame(frames=6)
        pauses.append(10.0)
        yield make_frame(frames=6)
        yield make_frame(frames=6)

    terminal.show(slow(), io.StringIO())
    assert pauses == pytest.approx([0.1, 10.0, 0.0, 0.1])


def test_weight_picture_has_a_tile_for_each_of_forty_units():
    W1 = torch.nn.Parameter(torch.zeros(PIXELS, 41))
    with torch.no_grad():
        for unit in range(39):  # the fortieth has no weights, the last one no tile
            W1[unit, unit] = unit + 1  # each to its own range: white, however small
            W1[6399, unit] = -(unit + 1) / 2
    picture = weight_picture(W1)
    assert (picture.shape, picture.dtype) == ((400, 640), np.uint8)
    tiles = picture.reshape(5, 80, 8, 80).swapaxes(1, 2).reshape(40, PIXELS)  # tile k is row k // 8, column k % 8
    for unit, tile in enumerate(tiles[:39]):
        assert (tile[unit], tile[6399]) == (255, 64)  # (1 + 1)·127.5 and (−½ + 1)·127.5 = 63.75
        assert np.count_nonzero(tile != 128) == 2  # all others are grey, (0 + 1)·127.5 = 127.5
    assert (tiles[39] == 128).all()
    few = weight_picture(torch.full((PIXELS, 3), -1e-5))
    assert (few[:80, :240] == 0).all()  # black is negative
    assert (few[:80, 240:] == 128).all()
    assert (few[80:] == 128).all()
