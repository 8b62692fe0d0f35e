"""What a run shows, in one go or taken up again: metrics.csv and TensorBoard by hand, the terminal, a picture."""

import contextlib
import csv
import errno
import io
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pong.checkpoint import Counters
from pong.config import Config
from pong.evaluate import Evaluation
from pong.observations import PIXELS, SparseFrames
from pong.policies import KarpathyPolicy
from pong.progress import RunConsole, _clock
from pong.render.summaries import weight_picture
from pong.rollout import Batch, Episode
from pong.tracking import COUNTERS, TAGS, Tracker
from pong.train import Update, UpdateStats

CONFIG = Config(name="tracked", seed=4, hidden=2, total_steps=1_000, learning_rate_end=0.0, device="cpu")
POLICY = KarpathyPolicy(2, generator=torch.Generator().manual_seed(0))
NO_FRAMES = SparseFrames.from_dense(np.zeros((0, PIXELS), np.int8))


def update(number, episodes=(), points=0, **stats):
    """An update in which those games ended, given as (score, length)."""
    games = [Episode(0, score, length) for score, length in episodes]
    nothing = (NO_FRAMES, torch.zeros(0), torch.zeros(0))
    batch = Batch(*nothing, weight=1.0, episodes=games, points=points, steps=100, frames=400)
    values = {
        **{"policy_loss": -0.5, "entropy": 0.625, "grad_norm": 2.0, "approx_kl": 0.125, "explained_variance": 0.5},
        **{"prob_up": 0.375, "std": 0.75, "learning_rate": 0.25, **stats},
    }
    return Update(number, batch, UpdateStats(**values), rollout_seconds=3.0, learn_seconds=0.75)


def tracker(folder, terminal=False, config=CONFIG, counters=None):
    """A tracker and what its console shows."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120, soft_wrap=not terminal)
    return Tracker(config, folder, console, counters), shown


# --- metrics.csv and TensorBoard --------------------------------------------------------------------------------------

# One hundred games of −21 would end it all at −21; the last two make it interesting.
UPDATES = [
    (update(1, points=9), 100),
    (update(2, [(-21.0, 1000), (-19.0, 1400)], points=40, entropy=0.5), 200),
    (update(3, [(-20.0, 1200)] * 97, points=7), 350),
    (update(4, [(1.0, 2000)], points=1, approx_kl=1e-7), 400),
    (update(5, [(21.0, 800)], points=2), 1_000),
]


EVALUATIONS = {number: Evaluation([Episode(0, score, 1000)]) for number, score in ((2, -20.5), (4, 2.0))}
LOST = [  # after the checkpoint of update 3, before a crash: at a step of its own, and at one that comes again
    (update(4, points=30, entropy=0.25), 375),
    (update(5, points=30, entropy=0.25), 400),
]


@pytest.fixture(scope="module", params=["in one go", "taken up again"])
def tracked(request, tmp_path_factory):
    """A tracked run: its last counters, its header, its rows {column: text}, its events {tag: [(step, value)]}, all."""
    folder = tmp_path_factory.mktemp("tracked")
    cut = 3 if request.param == "taken up again" else 0
    counters = leave(folder, UPDATES[:cut], LOST) if cut else None
    with tracker(folder, counters=counters)[0] as track:
        for turn, steps in UPDATES[cut:]:
            track.track(turn, steps, POLICY, EVALUATIONS.get(turn.number))
            # metrics.csv is up to date while the run goes on
            assert len((folder / "metrics.csv").read_text(encoding="utf-8").splitlines()) == 1 + turn.number
        counters = track.counters(5, 1_000)
    header, rows = table(folder)
    scalars, events = tensorboard(folder)
    return counters, header, rows, scalars, events


def leave(folder, kept, lost):
    """Track some updates up to a checkpoint and some after it, long ago; returns the checkpoint's counters."""
    with tracker(folder)[0] as track:
        for turn, steps in kept:
            track.track(turn, steps, POLICY, EVALUATIONS.get(turn.number))
        counters = track.counters(turn.number, steps)
        for turn, steps in lost:
            track.track(turn, steps, POLICY)
    return counters


def table(folder):
    """The header and the rows {column: text} of metrics.csv."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, [dict(zip(header, row, strict=True)) for row in rows]


def tensorboard(folder):
    """What TensorBoard shows: scalars {tag: [(step, value)]}, and everything."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }, events


EMA = {
    # from the first game's score: −21, then 0.99·−21 + 0.01·−19
    2: -20.98,
    # 97 games of −20: the distance to −20 shrinks by 0.99 each
    3: -20 - 0.98 * 0.99**97,
}
EMA[4] = 0.99 * EMA[3] + 0.01 * 1
EMA[5] = 0.99 * EMA[4] + 0.01 * 21
MEAN100 = {
    4: (-21 - 19 - 97 * 20 + 1) / 100,  # the hundredth game
    5: (-19 - 97 * 20 + 1 + 21) / 100,  # the first one drops out
}


def test_one_row_an_update(tracked):
    _, header, rows, *_ = tracked
    assert header == [*COUNTERS, *TAGS] == ["update", "step", "games", "points", "minutes", *TAGS]
    assert [[row[key] for key in COUNTERS[:4]] for row in rows] == [
        ["1", "100", "0", "9"],
        ["2", "200", "2", "49"],
        ["3", "350", "99", "56"],
        ["4", "400", "100", "57"],
        ["5", "1000", "101", "59"],
    ]
    assert all(0 <= float(row["minutes"]) < 1 for row in rows)


def test_counters_for_a_checkpoint(tracked):
    counters, *_ = tracked
    assert (counters.updates, counters.steps, counters.games, counters.points) == (5, 1_000, 101, 59)
    assert counters.ema == pytest.approx(EMA[5], rel=1e-12)
    assert counters.last100 == (-19.0, *[-20.0] * 97, 1.0, 21.0)


def column(rows, tag):
    return [float(row[tag]) if row[tag] else None for row in rows]


VALUES = {
    "charts/episodic_return": [None, -20.0, -20.0, 1.0, 21.0],
    "charts/episodic_length": [None, 1200.0, 1200.0, 2000.0, 800.0],
    "charts/episodic_return_mean100": [None, None, None, MEAN100[4], MEAN100[5]],
    "charts/episodic_return_ema": [None, EMA[2], EMA[3], EMA[4], EMA[5]],
    "charts/learning_rate": [0.25] * 5,
    "losses/policy_loss": [-0.5] * 5,
    "losses/entropy": [0.625, 0.5, 0.625, 0.625, 0.625],
    "losses/grad_norm": [2.0] * 5,
    "losses/approx_kl": [0.125, 0.125, 0.125, 1e-7, 0.125],
    "losses/explained_variance": [0.5, 0.5, 0.5, 0.5, 0.5],
    "eval/episodic_return": [None, -20.5, None, 2.0, None],
    "policy/prob_up": [0.375] * 5,
    "policy/std": [0.75] * 5,
    "time/rollout_seconds": [3.0] * 5,
    "time/learn_seconds": [0.75] * 5,
}


@pytest.mark.parametrize(("tag", "values"), VALUES.items(), ids=VALUES)
def test_values_in_csv_and_tensorboard(tracked, tag, values):
    _, _, rows, scalars, _ = tracked
    there = [(steps, value) for (_, steps), value in zip(UPDATES, values, strict=True) if value is not None]
    assert column(rows, tag) == [None if value is None else pytest.approx(value, rel=1e-5) for value in values]
    assert scalars[tag] == [(steps, pytest.approx(value, rel=1e-6)) for steps, value in there]  # x axis: agent steps


def test_every_tag_is_in_tensorboard(tracked):
    *_, scalars, _ = tracked
    assert set(TAGS) - {"eval/standard_error"} <= scalars.keys()  # a single game has none
    assert VALUES.keys() | {"charts/SPS", "time/track_seconds", "eval/standard_error"} == set(TAGS)
    assert scalars["charts/games"] == list(zip((100, 200, 350, 400, 1_000), (0, 2, 99, 100, 101), strict=True))
    assert scalars["charts/points"] == list(zip((100, 200, 350, 400, 1_000), (9, 49, 56, 57, 59), strict=True))


def test_tracking_times_itself(tmp_path):
    with tracker(tmp_path)[0] as track:
        for number in (1, 2, 3):
            track.track(update(number), 100 * number, POLICY)
    first, *others = column(table(tmp_path)[1], "time/track_seconds")
    assert first == 0  # of the update before
    assert all(seconds > 0 for seconds in others)


def test_the_config_the_picture_and_the_hyperparameters_are_there(tracked):
    *_, scalars, events = tracked
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert 'name = "tracked"' in text
    assert [(image.step, image.width, image.height) for image in events.Images("policy/W1")] == [(100, 640, 400)]
    assert scalars["hparam/mean100"] == [(1_000, pytest.approx(MEAN100[5]))]
    assert scalars["hparam/games"] == [(1_000, 101)]


def test_steps_per_second_are_recent(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pong.tracking.time.monotonic", lambda: now[0])
    with tracker(tmp_path)[0] as track:
        for number in range(1, 41):  # twenty updates at 100 steps in 10 s, then twenty at 100 steps in 1 s
            now[0] += 10 if number <= 20 else 1
            track.track(update(number), 100 * number, POLICY)
    rates = column(table(tmp_path)[1], "charts/SPS")
    assert rates[:20] == [10] * 20
    assert rates[29] == pytest.approx(2000 / 110, rel=1e-5)  # the last 20 updates: ten slow ones and ten fast ones
    assert rates[39] == 100  # the slow ones are forgotten


def test_a_run_that_fails_keeps_what_it_has(tmp_path):
    with contextlib.suppress(RuntimeError), tracker(tmp_path)[0] as track:
        track.track(update(1), 100, POLICY)
        raise RuntimeError("on purpose")
    assert len((tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert tensorboard(tmp_path)[0]["charts/points"] == [(100, 0)]


def test_a_game_that_cannot_be_played_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    """What fails in making a picture is said as it is; only what can't be written waits."""

    def no_game(*_):
        raise OSError("no emulator")

    monkeypatch.setattr("pong.tracking.game_summary", no_game)
    track, shown = tracker(tmp_path)
    with pytest.raises(OSError, match=r"^no emulator$"), track:
        track.track(update(1), 100, POLICY, EVALUATIONS[2])
    assert "can't be written" not in shown.getvalue()
    assert len(table(tmp_path)[1]) == 1


# --- a run taken up again: what its tables hold is tested above -------------------------------------------------------


def test_clocks_go_on_from_the_checkpoint(tmp_path, monkeypatch):
    """Time lost since the checkpoint, or spent switched off, isn't counted."""
    now = [1000.0]
    monkeypatch.setattr("pong.tracking.time.monotonic", lambda: now[0])
    with tracker(tmp_path)[0] as track:
        for number in (1, 2, 3):  # 100 steps in 60 s each
            now[0] += 60
            track.track(update(number), 100 * number, POLICY)
            if number == 2:
                counters = track.counters(2, 200)
    now[0] = 50.0  # another boot
    with tracker(tmp_path, counters=counters)[0] as track:
        now[0] += 30
        track.track(update(3), 300, POLICY)
    rows = table(tmp_path)[1]
    assert column(rows, "minutes") == [1, 2, 2.5]
    assert column(rows, "charts/SPS")[2] == pytest.approx(100 / 30, rel=1e-5)


def test_without_metrics_a_run_can_be_taken_up_all_the_same(tmp_path):
    counters = leave(tmp_path, UPDATES[:2], [])
    (tmp_path / "metrics.csv").unlink()
    with tracker(tmp_path, counters=counters)[0] as track:
        track.track(*UPDATES[2], POLICY)
    (row,) = table(tmp_path)[1]
    assert (row["update"], row["games"], row["points"]) == ("3", "99", "56")


@pytest.mark.parametrize("half", ["2", "20", "3,300,4", "3,300,4,5,0.0", "", "\0\0", "é"])
def test_half_a_line_of_metrics_is_nobodys_row(tmp_path, half):
    """A line cut off by a kill or a full disk may look like an earlier update's: 2 may be all that is left of 200."""
    counters = leave(tmp_path, UPDATES[:2], [])
    before = (tmp_path / "metrics.csv").read_bytes()
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(half.encode()[:7])
    with tracker(tmp_path, counters=counters)[0] as track:
        assert (tmp_path / "metrics.csv").read_bytes() == before
        track.track(*UPDATES[2], POLICY)
    assert [row["update"] for row in table(tmp_path)[1]] == ["1", "2", "3"]


def test_columns_of_another_version_stay_with_their_names(tmp_path):
    (tmp_path / "metrics.csv").write_text("update,minutes,gone,losses/entropy\n1,0.5,7,0.625\n", encoding="utf-8")
    with tracker(tmp_path, counters=Counters(1, 100))[0]:
        pass
    header, (row,) = table(tmp_path)
    assert header == [*COUNTERS, *TAGS]
    assert {name: value for name, value in row.items() if value} == {
        **{"update": "1", "minutes": "0.5", "losses/entropy": "0.625"}
    }


@pytest.mark.parametrize("lost", [1, 10, 60])
def test_half_an_event_does_not_hide_those_of_the_next_start(tmp_path, lost):
    """The file of a start that was cut off in the middle of its last record, of update 3."""
    with tracker(tmp_path)[0] as track:
        for turn, steps in UPDATES[:2]:
            track.track(turn, steps, POLICY)
        (file,) = tmp_path.glob("events.*")
        size, counters = file.stat().st_size, track.counters(2, 200)
        track.track(*UPDATES[2], POLICY)
    assert file.stat().st_size > size + lost
    file.write_bytes(file.read_bytes()[:-lost])
    with tracker(tmp_path, counters=counters)[0] as track:
        track.track(*UPDATES[2], POLICY)
    assert tensorboard(tmp_path)[0]["charts/games"] == [(100, 0), (200, 2), (350, 99)]


def test_a_run_that_begins_once_more_forgets_everything(tmp_path):
    """It was killed before its first checkpoint."""
    leave(tmp_path, UPDATES[:2], [])
    with tracker(tmp_path)[0] as track:
        track.track(*UPDATES[0], POLICY)
    assert [row["update"] for row in table(tmp_path)[1]] == ["1"]
    assert tensorboard(tmp_path)[0]["charts/games"] == [(100, 0)]


def test_many_starts_in_one_second_are_read_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pong.records.time.time", lambda: 1e9)
    counters = None
    for number in range(1, 13):
        with tracker(tmp_path, counters=counters)[0] as track:
            for turn in (number, number + 1):  # the second one is lost
                track.track(update(turn, entropy=number), 100 * turn, POLICY)
                counters = counters if turn > number else track.counters(turn, 100 * turn)
    assert tensorboard(tmp_path)[0]["losses/entropy"] == [(100 * n, min(n, 12)) for n in range(1, 13)] + [(1300, 12)]


def test_hyperparameters_are_written_once(tmp_path):
    """And not once more by a start in which nothing was trained."""
    with tracker(tmp_path)[0] as track:
        track.track(update(1, [(3.0, 1000)] * 100), 1_000, POLICY)
        counters = track.counters(1, 1_000)
    with tracker(tmp_path, counters=counters)[0]:
        pass
    assert tensorboard(tmp_path)[0]["hparam/mean100"] == [(1_000, 3)]


def test_nothing_is_left_in_memory_for_a_kill_to_take(tmp_path):
    """What was tracked is in the files at once: TensorBoard's own writer would keep it for two minutes."""
    track, _ = tracker(tmp_path)
    for turn, steps in UPDATES[:2]:
        track.track(turn, steps, POLICY)
    assert tensorboard(tmp_path)[0]["charts/games"] == [(100, 0), (200, 2)]
    assert len(table(tmp_path)[1]) == 2


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_plain_lines_where_there_is_no_terminal(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pong.tracking.time.monotonic", lambda: now[0])
    track, shown = tracker(tmp_path, config=CONFIG.model_copy(update={"total_steps": 10_000}))
    with track:
        for number in range(1, 11):
            now[0] += 6
            track.track(update(number, [(-21.0, 1000)], points=21), 1000 * number, POLICY)
        track.progress.say("saved [here]")
    lines = shown.getvalue().splitlines()
    # at 6 s, then the first ones 20 s later: 30 s and 54 s; and the end
    assert [line.split(" steps ")[0].strip() for line in lines[:-1]] == [
        "0.1 min  1,000",
        "0.5 min  5,000",
        "0.9 min  9,000",
        "1.0 min  10,000",
    ]
    assert lines[1].endswith("5 games  105 points  mean100 in 95 more games  167 steps/s  0:30 left")
    assert lines[-1] == "saved [here]"  # no markup
    assert "\x1b" not in shown.getvalue()


def test_the_mean_is_shown_once_there_is_one(tmp_path):
    track, shown = tracker(tmp_path)
    with track:
        track.track(update(1, [(3.0, 1000)] * 100), 1_000, POLICY)
    assert "mean100 +3.00" in shown.getvalue()


def test_what_nobody_can_read_stops_nothing(tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    with Tracker(CONFIG, tmp_path, Console(file=Gone(), force_terminal=False)) as track:
        track.track(*UPDATES[0], POLICY)
        track.progress.say("hello?")
    assert len(table(tmp_path)[1]) == 1


WIDTHS = {
    30: "mean100 +3.00  0:01 left  25%",
    40: "mean100 +3.00  0:01 left  25%",
    60: "mean100 +3.00  0:01 left  25%  1,000 steps/s  100 games",
    80: "mean100 +3.00  0:01 left  25%  1,000 steps/s  100 games  12 points",
    120: "mean100 +3.00  0:01 left  25%  1,000 steps/s  100 games  12 points ━━━━━━",
}


@pytest.mark.parametrize(("width", "line"), WIDTHS.items())
def test_a_terminal_shows_as_much_as_fits_and_the_score_first(tmp_path, monkeypatch, width, line):
    now = [0.0]
    monkeypatch.setattr("pong.tracking.time.monotonic", lambda: now[0])
    out = io.StringIO()
    config = CONFIG.replace(total_steps=1_000)
    with Tracker(config, tmp_path, Console(file=out, force_terminal=True, width=width)) as track:
        now[0] += 0.25
        track.track(update(1, [(3.0, 2)] * 100, points=12), 250, POLICY)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    shown = [part for part in re.split(r"[\r\n]+", text) if "mean100" in part]
    assert shown[-1].startswith(line)
    assert all(len(part.rstrip()) <= width for part in shown)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00"), (61, "1:01"), (3_599.6, "1:00:00"), (1e12, "277777:46:40")]
)
def test_a_time_is_hours_minutes_and_seconds(seconds, said):
    assert _clock(seconds) == said


@pytest.mark.parametrize("settings", [{"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1"}, {"TERM": "dumb"}])
def test_where_nobody_looks_at_a_terminal_lines_are_plain(monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert not RunConsole().is_terminal


def test_a_terminal_that_can_do_nothing_gets_plain_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with Tracker(CONFIG, tmp_path, Console(file=out, force_terminal=True)) as track:
        track.track(update(1, points=12), 250, POLICY)
    assert "0.0 min  250 steps" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_bar_on_a_terminal(tmp_path):
    track, shown = tracker(tmp_path, terminal=True)
    with track:
        track.track(update(1, points=12), 250, POLICY)
        track.progress.say("saved somewhere")
    text = shown.getvalue()
    assert "\x1b[" in text  # it redraws itself
    assert " 25%" in text
    assert "12 points" in text
    assert re.search(r"^.*saved somewhere", text, re.MULTILINE)
    assert "  playing" not in text  # no plain lines among it


# --- the picture of W1 ------------------------------------------------------------------------------------------------

WHITE, GREY, BLACK = 255, 128, 0


def test_forty_units_in_five_rows_of_eight():
    W1 = torch.zeros(41, PIXELS)
    for unit in range(41):
        W1[unit, unit] = unit + 1  # each to its own range: white, however small
        W1[unit, 6399] = -(unit + 1) / 2
    picture = weight_picture(W1)
    assert (picture.shape, picture.dtype) == ((400, 640), np.uint8)
    tiles = picture.reshape(5, 80, 8, 80).swapaxes(1, 2).reshape(40, PIXELS)  # tile k is row k // 8, column k % 8
    for unit, tile in enumerate(tiles):
        assert tile[unit] == WHITE
        assert tile[6399] == 64  # (−½ + 1)·127.5 = 63.75
        assert np.count_nonzero(tile != GREY) == 2


def test_white_is_positive_and_black_negative():
    W1 = torch.zeros(1, PIXELS)
    W1[0, 81], W1[0, 82] = 1e-5, -1e-5  # second row, second and third column
    picture = weight_picture(W1)
    assert (picture[1, 1], picture[1, 2]) == (WHITE, BLACK)
    assert np.count_nonzero(picture != GREY) == 2


def test_missing_and_empty_units_are_grey():
    W1 = torch.zeros(3, PIXELS)
    W1[0] = 1
    picture = weight_picture(W1)
    assert (picture[:80, :80] == WHITE).all()
    assert (picture[:80, 80:] == GREY).all()  # two units of zeros, five missing
    assert (picture[80:] == GREY).all()


def test_the_picture_leaves_the_weights_alone():
    W1 = torch.nn.Parameter(torch.randn(2, PIXELS, generator=torch.Generator().manual_seed(0)))
    before = W1.detach().clone()
    weight_picture(W1)
    assert torch.equal(W1, before)
