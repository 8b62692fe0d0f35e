"""A run's folder, curves and progress: metrics.csv and TensorBoard against values derived by hand."""

import io
import json
import re
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from small_runs import CONFIG as RECIPE
from small_runs import TINY, Won, play, rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pong.checkpoint import Counters
from pong.cli import main
from pong.config import Config, InputError, load_config
from pong.evaluate import Evaluation
from pong.observations import PIXELS, SparseFrames
from pong.policies import KarpathyPolicy
from pong.rollout import Batch, Episode
from pong.run import _place
from pong.tracking import Tracker
from pong.train import Update, UpdateStats

CONFIG = Config(name="tracked", seed=4, hidden=2, total_steps=1_000, learning_rate_end=0.0, device="cpu")
POLICY = KarpathyPolicy(2, generator=torch.Generator().manual_seed(0))
ROW = SparseFrames.from_dense(np.zeros((1, PIXELS), np.int8)), torch.zeros(1), torch.zeros(1)


def update(number, games=(), points=0, **stats):
    """An update in which those games, (score, length), ended."""
    episodes = [Episode(0, score, length) for score, length in games]
    batch = Batch(*ROW, weight=1.0, episodes=episodes, points=points, steps=100, frames=400)
    values = {"policy_loss": -0.5, "entropy": 0.625, "grad_norm": 2.0, "approx_kl": 0.125, "learning_rate": 0.25}
    values |= {"explained_variance": 0.5, "prob_up": 0.375, "std": 0.75, **stats}
    return Update(number, batch, UpdateStats(**values), rollout_seconds=3.0, learn_seconds=0.75)


NEW = Counters()


def tracker(folder, counters=NEW, out=None, config=CONFIG, **console):
    console = Console(file=out or io.StringIO(), **{"width": 200, **console})
    return Tracker(config, folder, console, counters, time.monotonic())


@pytest.fixture
def clock(monkeypatch):
    """Seconds on the monotonic clock, to be set."""
    now = [0.0]
    monkeypatch.setattr("pong.tracking.time.monotonic", lambda: now[0])
    return now


def test_first_line_says_why_no_gpu_is_used(monkeypatch):
    for module in ("train", "run"):
        monkeypatch.setattr(f"pong.{module}.gpu_problem", lambda number=0: "its driver is too old")
    assert _place(Config(device="auto")) == "on the CPU (its driver is too old)"


# --- metrics.csv and TensorBoard --------------------------------------------------------------------------------------

UPDATES = [  # with the run's steps after them
    (update(1, points=9), 100),
    (update(2, [(-21.0, 1000), (-19.0, 1400)], points=40, entropy=0.5), 200),
    (update(3, [(-20.0, 1200)] * 97, points=7), 350),
    (update(4, [(1.0, 2000)], points=1, approx_kl=1e-7), 400),
    (update(5, [(21.0, 800)], points=2), 1_000),
]
EVALUATIONS = {number: Evaluation([Episode(0, score, 1000)]) for number, score in ((2, -20.5), (4, 2.0))}
LOST = [  # after the checkpoint of update 3: at a step of its own, and at one that is repeated
    (update(4, points=30, entropy=0.25), 375),
    (update(5, points=30, entropy=0.25), 400),
]


def leave(folder, updates, lost=()):
    """Track updates up to a checkpoint, and some after it; returns the checkpoint's counters."""
    with tracker(folder) as track:
        for turn, steps in updates:
            track.track(turn, steps, POLICY, EVALUATIONS.get(turn.number))
        counters = track.counters
        for turn, steps in lost:
            track.track(turn, steps, POLICY)
    return counters


def column(folder, tag):
    return [float(row[tag]) if row[tag] else None for row in rows(folder)]


def tensorboard(folder):
    """What TensorBoard shows: scalars {tag: [(step, value)]}, and its accumulator."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}, events


@pytest.fixture(scope="module", params=["uninterrupted", "resumed"])
def tracked(request, tmp_path_factory):
    """A run folder with both curves, and the run's last counters."""
    folder = tmp_path_factory.mktemp("tracked")
    cut = 3 if request.param == "resumed" else 0
    counters = leave(folder, UPDATES[:cut], LOST) if cut else NEW
    with tracker(folder, counters) as track:
        for turn, steps in UPDATES[cut:]:
            track.track(turn, steps, POLICY, EVALUATIONS.get(turn.number))
            assert len(rows(folder)) == turn.number  # up to date during the run
    return folder, track.counters


# from the first game's score: −21, then 0.99·−21 + 0.01·−19; 97 games of −20 shrink the distance to −20 by 0.99 each
EMA = {2: -20.98, 3: -20 - 0.98 * 0.99**97}
EMA[4] = 0.99 * EMA[3] + 0.01 * 1
EMA[5] = 0.99 * EMA[4] + 0.01 * 21
MEAN100 = {
    4: (-21 - 19 - 97 * 20 + 1) / 100,  # the hundredth game
    5: (-19 - 97 * 20 + 1 + 21) / 100,  # the first game drops out
}
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
    "losses/explained_variance": [0.5] * 5,
    "eval/episodic_return": [None, -20.5, None, 2.0, None],
    "policy/prob_up": [0.375] * 5,
    "policy/std": [0.75] * 5,
    "time/rollout_seconds": [3.0] * 5,
    "time/learn_seconds": [0.75] * 5,
}


def test_tracker_counters(tracked):
    folder, counters = tracked
    table = [[int(row[key]) for key in ("update", "step", "games", "points")] for row in rows(folder)]
    assert table == [[1, 100, 0, 9], [2, 200, 2, 49], [3, 350, 99, 56], [4, 400, 100, 57], [5, 1000, 101, 59]]
    assert (counters.updates, counters.steps, counters.games, counters.points) == (5, 1_000, 101, 59)
    assert counters.ema == pytest.approx(EMA[5], rel=1e-12)
    assert counters.last100 == (-19.0, *[-20.0] * 97, 1.0, 21.0)


def test_tracker_columns_and_tags(tracked):
    folder, _ = tracked
    scalars, _ = tensorboard(folder)
    tags = {*VALUES, "charts/SPS", "time/track_seconds"}
    header = ["update", "step", "games", "points", "minutes", *tags, "eval/standard_error"]  # None for a single game
    assert sorted(rows(folder)[0]) == sorted(header)
    assert scalars.keys() >= tags
    steps = (100, 200, 350, 400, 1_000)
    assert scalars["charts/games"] == list(zip(steps, (0, 2, 99, 100, 101), strict=True))
    assert scalars["charts/points"] == list(zip(steps, (9, 49, 56, 57, 59), strict=True))


@pytest.mark.parametrize(("tag", "values"), VALUES.items(), ids=VALUES)
def test_tracker_values(tracked, tag, values):
    folder, _ = tracked
    pairs = [(steps, value) for (_, steps), value in zip(UPDATES, values, strict=True) if value is not None]
    assert column(folder, tag) == [None if value is None else pytest.approx(value, rel=1e-5) for value in values]
    assert tensorboard(folder)[0][tag] == [(steps, pytest.approx(value, rel=1e-6)) for steps, value in pairs]


def test_tracker_config_picture_and_hparams(tracked):
    scalars, events = tensorboard(tracked[0])
    assert b'name = "tracked"' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert [(image.step, image.width, image.height) for image in events.Images("policy/W1")] == [(100, 640, 400)]
    assert scalars["hparam/mean100"] == [(1_000, pytest.approx(MEAN100[5]))]
    assert scalars["hparam/games"] == [(1_000, 101)]


def test_tracker_speed_of_last_20_updates(tmp_path, clock):
    with tracker(tmp_path) as track:
        for number in range(1, 41):  # 20 updates of 100 steps in 10 s, then 20 of 100 steps in 1 s
            clock[0] += 10 if number <= 20 else 1
            track.track(update(number), 100 * number, POLICY)
    speeds = column(tmp_path, "charts/SPS")
    assert speeds[:20] == [10] * 20
    assert speeds[29] == pytest.approx(2000 / 110, rel=1e-5)  # 10 slow updates and 10 fast ones
    assert speeds[39] == 100


def test_tracker_clock_of_resumed_run(tmp_path, clock):
    """Neither the time lost after the checkpoint counts, nor the time until the run is resumed."""
    clock[0] = 1000.0
    with tracker(tmp_path) as track:
        states = []
        for number in (1, 2, 3):  # 100 steps in 60 s each
            clock[0] += 60
            track.track(update(number), 100 * number, POLICY)
            states.append(track.counters)
    clock[0] = 50.0  # the computer was restarted
    with tracker(tmp_path, states[1]) as track:
        clock[0] += 30
        track.track(update(3), 300, POLICY)
    assert column(tmp_path, "minutes") == [1, 2, 2.5]
    assert column(tmp_path, "charts/SPS")[2] == pytest.approx(100 / 30, rel=1e-5)
    first, *others = column(tmp_path, "time/track_seconds")
    assert first == 0  # it is that of the update before
    assert others[0] > 0


@pytest.mark.parametrize("half", ["2", "3,300,4", "\0\0"])  # 2 may be what is left of 200
def test_tracker_half_a_line_and_half_an_event(tmp_path, half):
    """The ends of the files of a start that was interrupted in the middle of update 3's records."""
    counters = leave(tmp_path, UPDATES[:2], UPDATES[2:3])
    (events,), table = tmp_path.glob("events.*"), tmp_path / "metrics.csv"
    events.write_bytes(events.read_bytes()[:-10])
    before = b"".join(table.read_bytes().splitlines(keepends=True)[:-1])
    table.write_bytes(before + half.encode())
    with tracker(tmp_path, counters) as track:
        assert table.read_bytes() == before
        track.track(*UPDATES[2], POLICY)
    assert tensorboard(tmp_path)[0]["charts/games"] == [(100, 0), (200, 2), (350, 99)]


@pytest.mark.parametrize("about", ["", "[]", "{", '{"command": 1}'])
def test_tracker_damaged_run_json(tmp_path, about):
    (tmp_path / "run.json").write_text(about, encoding="utf-8")
    tracker(tmp_path).__exit__(None)
    text = tensorboard(tmp_path)[1].Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert text.startswith(b"```\nunknown command\n```")


MINUTES = "(?m)^(2,200,2,49,)[^,]*"  # of update 2
TABLES = {  # what damages a metrics.csv: the updates that are left; None: it is refused
    "byte order mark": (lambda text: "\ufeff" + text, [1, 2]),
    "empty": (lambda text: "", []),
    "no minutes": (lambda text: re.sub(MINUTES, r"\1", text), None),
    "few cells": (lambda text: re.sub(f"{MINUTES}.*", "2,200", text), None),
    "no header": (lambda text: text.split("\n", 1)[1], None),
    "semicolons": (lambda text: text.replace(",", ";"), None),
}


@pytest.mark.parametrize(("damage", "updates"), TABLES.values(), ids=TABLES)
def test_tracker_damaged_metrics(tmp_path, damage, updates):
    counters, table = leave(tmp_path, UPDATES[:2], UPDATES[2:3]), tmp_path / "metrics.csv"
    before = damage(table.read_text(encoding="utf-8"))
    table.write_text(before, encoding="utf-8")
    if updates is None:
        with pytest.raises(InputError, match=r"metrics.csv is damaged \(.*\); repair it, or move it away"):
            tracker(tmp_path, counters)
        assert table.read_text(encoding="utf-8") == before
    else:
        tracker(tmp_path, counters).__exit__(None)
        assert [int(row["update"]) for row in rows(tmp_path)] == updates


def test_progress_plain_lines(tmp_path, clock):
    out = io.StringIO()
    with tracker(tmp_path, out=out, config=CONFIG.replace(total_steps=10_000)) as track:
        for number in range(1, 11):
            clock[0] += 6
            track.track(update(number, [(-21.0, 1000)] * 20, points=21), 1000 * number, POLICY)
        track.print("saved [somewhere]")
    lines = out.getvalue().splitlines()
    # at the first update, after 6 s; then at the first update that is 20 s later: at 30 s, at 54 s; and at the end
    starts = ["0.1 min  1,000", "0.5 min  5,000", "0.9 min  9,000", "1.0 min  10,000"]
    assert [line.split(" steps ")[0].strip() for line in lines[:-1]] == starts
    # 1,000 steps in 6 s
    assert "waiting for 100 games (20 so far)  167 steps/s  21 points  " in lines[0]
    assert "mean100 -21.00  100 games  167 steps/s  105 points  " in lines[1]
    assert re.search(r"  [\d:-]+ left$", lines[1])
    assert lines[-1] == "saved [somewhere]"
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_progress_bar(tmp_path, width):
    out = io.StringIO()
    with tracker(tmp_path, out=out, force_terminal=True, width=width) as track:
        track.track(update(1, [(3.0, 2)] * 100, points=12), 250, POLICY)
        track.print("saved somewhere")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert text != out.getvalue()  # it is redrawn in place
    assert re.search(r"[\r\n]mean100 \+3\.00  100 games ━.* 25% .* steps/s  12 points", text)
    assert re.search(r"[\r\n]saved somewhere *\n", text)
    assert " min  " not in text  # no plain lines


@pytest.fixture
def short(tmp_path, monkeypatch):
    """The command of a run of three updates of 60 won games, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch, Won)
    return ["train", RECIPE, *TINY, "--total-steps", "180"]


def test_run_folder_contents(short, tmp_path, monkeypatch):
    """Of a killed start there is everything but config.toml, which is written last and whole."""
    monkeypatch.setattr("pong.run.cores", lambda: 5)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{", encoding="utf-8")
    (run / "config.tmp").write_text("name =", encoding="utf-8")
    assert main([*short, "--run-dir", "run"]) == 0
    (events,) = run.glob("events.out.tfevents.*")
    names = {"checkpoints", "config.toml", events.name, "lock", "metrics.csv", "run.json"}
    assert {path.name for path in run.iterdir()} == names
    assert load_config(run / "config.toml").total_steps == 180
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert about.keys() == {"command", "started", "git_revision", "device", "cpu_count", "python", "versions"}
    assert about["command"] == ["pong", *short, "--run-dir", "run"]
    assert (about["device"], about["cpu_count"]) == ("cpu", 5)
    assert about["versions"]["torch"] == torch.__version__
    assert {"ale-py", "gymnasium", "numpy"} <= about["versions"].keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", about["started"])
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", about["git_revision"])
