"""Every number of README and docs comes from a file in results/, and every run there has its command."""

from pathlib import Path
from types import SimpleNamespace

import bench
import common
import grid
import numpy as np
import pandas as pd
import pytest
import report

from pong.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDIES = grid.known()
RECIPES = grid.load("recipes")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_tables_follow_from_the_runs():
    tables = report.tables({name: report.finished(grid.load(name)) for name in STUDIES})
    tables["bench.md"] = bench.tables(report.read_json(ROOT / "results/bench.json"))
    assert len(tables) == 15
    for file, text in tables.items():
        assert (ROOT / "results" / file).read_text(encoding="utf-8") == text
        assert any(f"results/{file}" in page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_show_the_tables_whole(page, tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    report.update_page(copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


def test_page_gets_a_table_between_its_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results/a.md -->\nold\n<!-- end -->\nafter \\1\n", encoding="utf-8")
    (tmp_path / "a.md").write_text("| new \\1 |\n", encoding="utf-8")
    report.update_page(page)
    expected = "before\n<!-- results/a.md -->\n| new \\1 |\n<!-- end -->\nafter \\1\n"
    assert page.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("name", STUDIES)
def test_runs_of_a_study_are_its_variants_and_seeds_and_no_others(name):
    study = grid.load(name)
    jobs = [(variant, seed) for variant in study.variants for seed in study.seeds_of(variant)]
    places = {report.RESULTS / study.place(*job): job for job in jobs}
    assert {folder for place in places for folder in place.parent.glob("s*")} == set(places)
    for place, (variant, seed) in places.items():
        assert load_config(place / "config.toml") == study.variant(variant).replace(seed=seed)
        command = report.read_json(place / "run.json")["command"]
        assert command[:2] == ["pong", "train"]
        assert command[command.index("--seed") + 1] == str(seed)


def test_ladder_ends_at_the_default_recipe():
    ladder = grid.load("ladder")
    rung, pong = ladder.variant([*ladder.variants][-1]), load_config(ROOT / "configs/pong.toml")
    other = {"name", "max_frames", *ladder.common}  # without max_frames the console ends a game there, too
    assert rung.model_dump(exclude=other) == pong.model_dump(exclude=other)


@pytest.mark.parametrize("name", RECIPES.variants)
def test_shipped_agent_is_the_median_seed(name):
    scores = {run.config.seed: run.own["sampled"]["mean"] for run in report.finished(RECIPES)[name]}
    seed = load_config(ROOT / f"pretrained/{name}/config.toml").seed
    assert seed == grid.median(RECIPES, name)
    assert scores[seed] == sorted(scores.values())[(len(scores) - 1) // 2]


def test_rallies_table_follows_each_ball():
    # ten rallies: 6 won by the first ball and 2 by the second; 1 lost by missing the first and 1 by the second
    _, _, *rows = common.markdown(report.rally_rows({"won": [0, 6, 2], "lost": [1, 1, 0], "games": 3})).splitlines()
    assert rows == ["| the first | 10 | 60.0% | 10.0% | 30.0% |", "| the second | 3 | 66.7% | 33.3% | 0.0% |"]


def test_times_and_ranges_are_rounded():
    assert report.spread([0.5, 0.25, 0.2], report.duration) == "15 s (12 s … 30 s)"
    assert report.spread([-3.0, 1.0], report.signed) == "−1.0 (−3.0 … +1.0)"


def test_welch_and_holm():
    """As scipy.stats.ttest_ind (equal_var=False) and statsmodels' multipletests have them."""
    difference = report.welch(pd.Series([1.0, 2, 3]), pd.Series([4.0, 5, 7, 9]))
    assert difference == pytest.approx((-4.25, 3.3587451, 0.0237944), abs=1e-6)
    corrected = [p for _, p in report.holm([(0, 1, p) for p in (0.01, 0.04, 0.03, 0.5)])]
    assert corrected == pytest.approx([0.04, 0.09, 0.09, 0.5], rel=1e-12)


def test_band_is_where_every_seed_has_a_score():
    # two seeds, at 0 to 4 and at 2 to 6; where both are known, 1 and 3: their mean is 2, and t(1)·√2/√2 = 12.7062
    curves = [pd.DataFrame({"step": [x, x + 4.0], report.MEAN100: [y, y]}) for x, y in ((0, 1.0), (2, 3.0))]
    band = report.mean_band([SimpleNamespace(curve=curve, last=curve.iloc[-1]) for curve in curves], "step", points=7)
    assert list(band["at"]) == [2, 3, 4]
    assert np.array(band[["low", "mean", "high"]]) == pytest.approx(np.tile([2 - 12.7062, 2, 2 + 12.7062], (3, 1)))
