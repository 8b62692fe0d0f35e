"""README's numbers are those of the files in results/."""

import itertools
import json
import re
from pathlib import Path

import plot
import pytest
import study
from bench import markdown
from plot import read, tables

import results
from pong.config import InputError, load_config
from pong.evaluate import Evaluation
from pong.export import WAYS
from pong.rollout import Episode

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_tables_follow_from_the_runs_and_pages_show_them_whole() -> None:
    made = results.tables(results.everything(), results.ladder(), results.studied())
    assert set(made) == set(results.PAGES)
    for file, text in made.items():
        assert (ROOT / "results" / file).read_text(encoding="utf-8") == text
        for page in results.PAGES[file]:
            assert f"<!-- results/{file} -->\n{text}<!-- end -->" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", results.RECIPES)
def test_every_seed_of_a_recipe_was_run_with_its_file(name: str) -> None:
    """No other seed, no other setting: what is there is what a user's `make train` would do."""
    recipe = load_config(ROOT / f"configs/{name}.toml")
    folders = sorted((ROOT / "results" / name).iterdir(), key=lambda folder: int(folder.name[1:]))
    runs = [read(folder) for folder in folders]
    assert [run.config.seed for run in runs] == list(results.RECIPES[name].seeds)
    for run in runs:
        assert run.config == recipe.model_copy(update={"seed": run.config.seed})
        assert run.own["sampled"]["n"] == run.own["greedy"]["n"] == 100
        assert run.rows[-1]["step"] >= recipe.total_steps


@pytest.mark.parametrize("name", results.STUDIES)
def test_every_variant_of_a_study_was_run_as_it_says_and_no_other(name: str) -> None:
    plan, folders = study.read(name), (ROOT / "results" / name).glob("*/s*")
    runs = {(folder.parent.name, folder.name): read(folder).config for folder in folders}
    variants = {study.slug(variant): plan.variant(variant) for variant in plan.variants}
    assert runs == {
        (slug, f"s{seed}"): config.model_copy(update={"seed": seed})
        for (slug, config), seed in itertools.product(variants.items(), plan.seeds)
    }


@pytest.mark.parametrize("name", results.OTHER)
def test_the_agent_that_comes_along_is_the_median_seed(name: str) -> None:
    runs = results.finished(name)
    scores = sorted(results.sampled(run) for run in runs)
    assert (
        results.sampled(runs[results.RECIPES[name].seeds.index(results.median(name))]) == scores[(len(runs) - 1) // 2]
    )
    assert load_config(ROOT / f"pretrained/{name}/config.toml").seed == results.median(name)


def test_all_that_comes_along_is_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "pretrained").rglob("*")) < 20e6


def test_each_ball_of_a_rally_is_won_missed_or_comes_back() -> None:
    # ten rallies: 6 won by the first ball and 2 by the second; 1 lost by missing the first and 1 by the second
    table = results.rallies_table(won=[0, 6, 2], lost=[1, 1, 0], games=3, agent="somebody")
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()] == [
        ["ball of a rally", "in 3 games", "wins by it", "misses it", "it comes back"],
        ["---"] * 5,
        ["the first", "10", "60.0%", "10.0%", "30.0%"],
        ["the second", "3", "66.7%", "33.3%", "0.0%"],
    ]


def test_a_table_is_put_between_its_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results/a.md -->\nold\n<!-- end -->\nafter \\1\n", encoding="utf-8")
    for shown in ("| new \\1 |\n", "| newer |\n| rows |\n"):
        results.put_into(page, "a.md", shown)
        text = page.read_text(encoding="utf-8")
        assert text == f"before\n<!-- results/a.md -->\n{shown}<!-- end -->\nafter \\1\n"
    with pytest.raises(InputError, match=re.escape("has no place for results/b.md")):
        results.put_into(page, "b.md", "")


def test_times_and_ranges_are_said_as_people_read_them() -> None:
    assert results.spread([0.5, 0.25, 0.2], plot.duration) == "15 s (12 s … 30 s)"
    assert results.spread([2.5], plot.duration) == "2.5 min"
    assert results.spread([-3.0, 1.0], plot.signed) == "−1.0 (−3.0 … +1.0)"


def test_docs_show_the_benchmark_as_it_was_measured() -> None:
    shown = (ROOT / "results/bench.md").read_text(encoding="utf-8")
    assert shown == markdown(json.loads((ROOT / "results/bench.json").read_text(encoding="utf-8")))
    assert shown.strip() in (ROOT / "docs/performance.md").read_text(encoding="utf-8")


SCORES = sorted(file for folder in ("results", "pretrained") for file in (ROOT / folder).rglob("eval*.json"))


@pytest.mark.parametrize("file", SCORES, ids=[str(file.relative_to(ROOT)) for file in SCORES])
def test_files_of_scores_have_the_form_that_eval_writes(file: Path) -> None:
    about = json.loads(file.read_text(encoding="utf-8"))
    task = ["env", "sticky", "hold", "noop_max"] if about["env"] == "Pong" else ["env"]
    ways = [way for way in WAYS if way in about]
    assert list(about) == ["run", "update", "steps", "seed", *task, *ways]
    for way in ways:
        games = about[way]
        played = zip(games["scores"], games["lengths"], strict=True)
        again = Evaluation([Episode(0, score, length) for score, length in played]).as_json("frames" in games)
        assert list(games) == list(again)
        for key in ("n", "mean", "standard_error"):
            assert games[key] == pytest.approx(again[key], rel=1e-12)
    assert ways
    assert file.name in ("eval.json", "eval-plain.json", "eval-sticky.json")


@pytest.mark.parametrize(
    ("file", "page"),
    [
        ("classroom/cartpole.md", "small-systems.md"),
        ("classroom/lqr.md", "small-systems.md"),
        ("doom/basic.md", "doom.md"),
        ("doom/health.md", "doom.md"),
    ],
)
def test_docs_show_the_tables(file: str, page: str) -> None:
    shown = (ROOT / "results" / file).read_text(encoding="utf-8")
    assert shown in (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("task", "thresholds"), [("basic", (0.0, 70.0)), ("health", (800.0, 1500.0))])
def test_dooms_tables_follow_from_the_csv_files(task: str, thresholds: tuple[float, ...]) -> None:
    runs = [read(folder) for folder in sorted((ROOT / "results/doom").glob(f"doom_{task}/s*"))]
    assert (ROOT / f"results/doom/{task}.md").read_text(encoding="utf-8") == tables(runs, thresholds)
    assert [run.config.seed for run in runs] == [1, 2, 3]
