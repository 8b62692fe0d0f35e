"""README's numbers are those of the files in results/."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import markdown
from plot import Run, learning, openness, read, scores, tables

from pong.commands.evaluate import WAYS
from pong.evaluate import Evaluation
from pong.player import Episode

ROOT = Path(__file__).parent.parent
# as `make plots` has them
LEARNING = (
    *("pong-s*", "whole/pong-s*", "whole/pong_noop-s*", "whole/pong_conv-s*"),
    *("pong_plain-s*", "whole/pong_conv_plain-s*", "karpathy-s*"),
)
CONVOLUTIONS = (
    *("whole/pong_conv_128-s*", "whole/conv_fast_rate-s*", "whole/pong_conv-s*", "whole/pong_conv_longer-s*"),
    *("whole/conv_plain_low_entropy-s*", "whole/conv_plain_bonus_0.02-s*", "whole/pong_conv_plain-s*"),
)


def runs(patterns: tuple[str, ...]) -> list[Run]:
    return [read(folder) for pattern in patterns for folder in sorted((ROOT / "results").glob(pattern))]


RUNS = {"learning": runs(LEARNING), "convolutions": runs(CONVOLUTIONS)}


@pytest.mark.parametrize("name", RUNS)
def test_the_tables_follow_from_the_csv_files(name: str) -> None:
    shown = tables(RUNS[name], entropy=name == "convolutions")
    assert (ROOT / f"results/{name}.md").read_text(encoding="utf-8") == shown


@pytest.mark.parametrize(
    ("shown", "name", "page"),
    [
        (learning, "learning", "README.md"),
        (scores, "learning", "README.md"),
        (scores, "convolutions", "docs/ceiling.md"),
        (openness, "convolutions", "docs/ceiling.md"),
    ],
)
def test_docs_show_those_tables_whole(shown: Callable[[list[Run]], str], name: str, page: str) -> None:
    assert shown(RUNS[name]) in (ROOT / page).read_text(encoding="utf-8")


def test_every_seed_of_the_default_recipe_is_shown_and_at_least_two_were_run() -> None:
    seeds = [read(folder).config.seed for folder in (ROOT / "results").glob("pong-s*")]
    assert len(seeds) == len(set(seeds)) >= 3


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
        ("ceiling/scores.md", "ceiling.md"),
    ],
)
def test_docs_show_the_tables(file: str, page: str) -> None:
    shown = (ROOT / "results" / file).read_text(encoding="utf-8")
    assert shown in (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(("task", "thresholds"), [("basic", (0.0, 70.0)), ("health", (800.0, 1500.0))])
def test_dooms_tables_follow_from_the_csv_files(task: str, thresholds: tuple[float, ...]) -> None:
    runs = [read(folder) for folder in sorted((ROOT / "results/doom").glob(f"doom_{task}-s*"))]
    assert (ROOT / f"results/doom/{task}.md").read_text(encoding="utf-8") == tables(runs, thresholds)
    assert [run.config.seed for run in runs] == [1, 2, 3]
