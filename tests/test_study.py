"""scripts/study.py: what a variant is, what is kept of a run, and what is said of several seeds."""

import contextlib
import itertools
import json
from pathlib import Path

import pytest
import study
from seeds import thin
from study import Study, interval, row, run, show, table

from pong.cli import main
from pong.config import InputError, RunError, load_config

ROOT = Path(__file__).parents[1]
TINY = {"num_envs": 2, "horizon": 30, "hidden": 4, "total_steps": 120, "max_frames": 240, "eval_episodes": 0}


def some(**variants):
    return Study(config="configs/pong.toml", common=TINY, seeds=[1, 2], episodes=2, variants=variants)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_variant_is_the_config_with_the_common_changes_and_its_own():
    config = some(still={"actions": 3, "hidden": 5}).variant("still")
    base = load_config(ROOT / "configs/pong.toml")
    assert config.name == "still"
    assert (config.actions, config.hidden, config.num_envs) == (3, 5, 2)
    assert (config.gamma, config.learning_rate) == (base.gamma, base.learning_rate)


def test_a_key_that_does_not_exist_is_named():
    with pytest.raises(InputError, match=r"variant wild: unknown key 'wings'"):
        some(wild={"wings": 2}).variant("wild")


@pytest.mark.parametrize("file", sorted((ROOT / "configs/studies").glob("*.toml")), ids=lambda file: file.stem)
def test_every_variant_of_a_shipped_study_is_a_config_and_differs_from_the_others(file):
    shipped = study.read(file.stem)
    configs = [shipped.variant(name).model_dump(exclude={"name"}) for name in shipped.variants]
    assert all(one not in configs[:number] for number, one in enumerate(configs))
    assert len(shipped.seeds) >= 3


def test_a_curve_is_thinned_to_few_rows_and_keeps_its_last(tmp_path):
    whole, kept = tmp_path / "whole.csv", tmp_path / "kept.csv"
    whole.write_text("update\n" + "".join(f"{n}\n" for n in range(1, 2508)), encoding="utf-8")
    thin(whole, kept)
    head, *rows = kept.read_text(encoding="utf-8").split()
    assert head == "update"
    assert rows[-1] == "2507"
    assert {int(b) - int(a) for a, b in itertools.pairwise(rows)} == {5}


def test_the_interval_of_equal_scores_is_that_score_and_of_two_lies_between_them():
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert interval([1.0, 3.0]) == (1.0, 3.0)  # a quarter of its bootstrap's means is 1, another 3


@pytest.fixture
def in_process(monkeypatch):
    """Commands of pong run here, where torch is imported already."""

    def run_here(log, core, *arguments):
        with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            assert main([*map(str, arguments)]) == 0

    monkeypatch.setattr("seeds.pong", run_here)


@pytest.mark.usefixtures("in_process")
def test_a_study_runs_what_is_missing_and_shows_every_seed(tmp_path, capsys):
    both = some(plain={}, still={"actions": 3})
    runs, results = tmp_path / "runs", tmp_path / "results"
    runs.mkdir()
    results.mkdir()
    for seed in both.seeds:
        run(both, seed, "still", runs, results)
    again = (results / "still/s1/eval.json").stat().st_mtime_ns
    run(both, 1, "still", runs, results)
    assert (results / "still/s1/eval.json").stat().st_mtime_ns == again  # it is done
    assert load_config(results / "still/s2/config.toml").seed == 2

    rows = [one for seed in (1, 2) if (one := row(results, "still", seed))]
    assert row(results, "plain", 1) is None
    show(both, rows, results)
    for one in rows:
        scores = json.loads((results / f"still/s{one['seed']}/eval.json").read_text(encoding="utf-8"))
        assert (one["steps"], one["games"]) == (120, 2)
        assert one["sampled"] == pytest.approx(scores["sampled"]["mean"], abs=1e-3)
    assert [file.name for file in sorted(results.glob("scores.*"))] == ["scores.csv", "scores.md", "scores.png"]
    _, _, line = table(both, rows).splitlines()
    assert line.startswith("| still | actions = 3 | 2 | 0.0 |")


@pytest.mark.usefixtures("in_process")
def test_a_run_that_was_interrupted_goes_on(tmp_path):
    one = some(plain={"checkpoint_every": 1})
    runs, results = tmp_path, tmp_path / "results"
    results.mkdir()
    short = some(plain={"checkpoint_every": 1, "total_steps": 60})
    (tmp_path / "elsewhere").mkdir()
    run(short, 1, "plain", runs, tmp_path / "elsewhere")
    assert load_config(runs / "plain/s1/config.toml").total_steps == 60
    (runs / "plain/s1/eval.json").unlink()
    run(one, 1, "plain", runs, results)  # as its folder has it: what was begun is not changed
    assert "resuming after update 1" in (runs / "plain/s1.log").read_text(encoding="utf-8")
    assert load_config(results / "plain/s1/config.toml").total_steps == 60
    assert row(results, "plain", 1) == row(tmp_path / "elsewhere", "plain", 1)


def test_what_fails_names_the_log(tmp_path):
    broken = some(plain={})
    (tmp_path / "plain/s1").mkdir(parents=True)
    (tmp_path / "plain/s1/config.toml").write_text("no config", encoding="utf-8")
    with pytest.raises(RunError, match=r"train --resume .* failed; see .*plain/s1\.log"):
        run(broken, 1, "plain", tmp_path, tmp_path / "results")
