"""Many runs side by side, the seeds of one config, and the mean of their scores."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_runs import CONFIG, ROOT, TINY, pong, saved, wait_until

from pong import checkpoint, seeds
from pong.cli import main
from pong.config import load_config

pytestmark = pytest.mark.usefixtures("compiled")
COMMAND = ["train", CONFIG, *TINY, "--total-steps", "8000"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and processes that import this checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_seeds_stopped_and_started_again_equal_uninterrupted_runs(monkeypatch, capsys):
    sleep, sent = time.sleep, []

    def stop(seconds):
        sleep(0.01)
        if not sent and seeds.read_curve(Path("runs/s1"))[0, -1] > 0:
            sent.append(signal.raise_signal(signal.SIGTERM))

    with monkeypatch.context() as patch:
        patch.setattr("pong.seeds.time.sleep", stop)
        assert main([*COMMAND, "--seeds", "1-2", "--run-dir", "runs"]) == 130
    again = capsys.readouterr().out.rpartition("\nresume with: pong ")[2]
    assert checkpoint.load("runs/s1").counters.steps < 8000
    assert main([*COMMAND, "--hidden", "5", "--seeds", "1-2", "--run-dir", "runs"]) == 2
    assert "hidden = 5, but the run was started with 4" in capsys.readouterr().err
    assert main(shlex.split(again)) == 0
    assert "resuming after update" in Path("runs/s1.log").read_text()
    for seed in "12":
        assert main([*COMMAND, "--seed", seed, "--run-dir", seed]) == 0
        assert saved(checkpoint.find(Path(f"runs/s{seed}"))) == saved(checkpoint.find(Path(seed)))


def test_seeds_a_failed_one_is_named_and_the_others_go_on(capsys):
    Path("runs").mkdir()
    Path("runs/s2").touch()
    assert main([*COMMAND[:-1], "60", "--device", "auto", "--seeds", "2,3", "--run-dir", "runs"]) == 1
    assert load_config("runs/config.toml").device == "cpu"  # even where there is a GPU
    err = capsys.readouterr().err
    assert err.startswith("pong: run folder runs/s2 can't be written")
    assert err.endswith(" (see runs/s2.log)\n")
    assert [run["seed"] for run in json.loads(Path("runs/seeds.json").read_text())["seeds"]] == [3]


def test_seeds_save_and_end_after_kill_9_of_their_parent():
    process = pong(*COMMAND[:-1], "8000000", "--seeds", "1", "--run-dir", "runs", stdout=subprocess.DEVNULL)
    wait_until(lambda: seeds.read_curve(Path("runs/s1"))[0, -1] > 0, process, "an update")
    process.kill()
    process.wait()
    end = "the process that started this one is gone; resume with: pong train --resume runs/s1\n"
    for _ in range(600):
        if Path("runs/s1.log").read_text().endswith(end):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the run goes on")
    assert checkpoint.load("runs/s1").counters.steps > 0


def test_side_by_side_gives_each_job_a_core(tmp_path, monkeypatch):
    shares = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, share: shares.append(share))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    Path("python").write_text('#!/bin/sh\ntouch "$3"\nwhile [ ! -e "$4" ]; do sleep 0.01; done\n')
    Path("python").chmod(0o700)
    waiting = [(Path("a.log"), [("a", "b")]), (Path("b.log"), [("b", "a"), ("c", "a")])]  # each for the other's file
    assert seeds.side_by_side(waiting, []) == {}
    assert seeds.side_by_side([(Path("c.log"), [("c", "c")])], [], at_once=1) == {}
    assert shares == [[3], [5], [5], [3, 5]]


@pytest.fixture
def runs():
    """Two runs with three rows each; the first score of one is missing, and a fourth row is being written."""
    folders = {3: Path("s3"), 4: Path("s4")}
    for run, scores in zip(folders.values(), (("", "1", "3"), ("-1", "4", "7")), strict=True):
        run.mkdir()
        lines = ["step,minutes,charts/episodic_return_mean100", *(f"{n}000000,{n}.5,{y}" for n, y in enumerate(scores))]
        (run / "metrics.csv").write_text("\n".join([*lines, "300"]))
    return folders


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_has_a_line_or_a_bar_for_each_seed(runs, monkeypatch, capsys, terminal):
    monkeypatch.setattr(seeds, "CONSOLE", Console(force_terminal=terminal, no_color=True))
    monkeypatch.setattr(seeds, "LINE_SECONDS", 0)
    with seeds._progress(runs | {5: Path("none yet")}, 4_000_000) as show:
        show()
    line = "seed 3 mean100 +3.00 at 50%, seed 4 mean100 +7.00 at 50%, seed 5 at 0%\n"
    out = capsys.readouterr().out
    assert out.count("50%") >= 2 and out.count("seed 5") if terminal else out == line


def test_summary_of_two_seeds(runs, monkeypatch, capsys):
    """Their scores end at 3 and 7: mean 5, s = √8, and t·s/√2 = 2·12.7062."""
    seeds.summarize(Path(), runs)
    *_, first, second, mean = capsys.readouterr().out.splitlines()
    assert (first.split(), second.split()) == (["3", "2,000,000", "2.5", "+3.00"], ["4", "2,000,000", "2.5", "+7.00"])
    assert mean == "mean100 of 2 seeds: +5.00 ± 25.41 (95 %, Student's t)"
    result = json.loads(Path("seeds.json").read_text())
    assert result["seeds"][1] == {"seed": 4, "steps": 2e6, "minutes": 2.5, "mean100": 7}
    assert (result["mean100"], result["plus_minus"]) == pytest.approx((5, 25.4124), abs=1e-4)
    assert Path("curves.png").stat().st_size > 10_000
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    seeds.summarize(Path(), runs)
    assert capsys.readouterr().out.endswith("needs matplotlib: pip install matplotlib\n")


def test_t_quantile_and_interval():
    """Of tables; of 1, 2, 3: mean 2, s = 1."""
    assert [seeds.t_quantile(df) for df in (1, 4, 9, 15)] == pytest.approx([12.7062, 2.7764, 2.2622, 2.1314], abs=1e-4)
    assert seeds.t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2, 4.30265 / 3**0.5), abs=1e-5)


def test_t_interval_of_five_scores_covers_their_mean_in_95_percent():
    """Of 20,000 seeded samples, ± 4 standard errors of such a share; a percentile bootstrap covers 83 %."""
    mean, half = seeds.t_interval(np.random.default_rng(1).normal(size=(5, 20_000)))
    assert np.mean(np.abs(mean) < half) == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 20_000) ** 0.5)
