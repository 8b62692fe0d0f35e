"""README's numbers are those of the files in results/."""

from pathlib import Path

from plot import read, table

ROOT = Path(__file__).parent.parent
PATTERNS = ("pong-s*", "pong_plain-s*", "karpathy-s*")  # as `make plots` has them
RUNS = [read(folder) for pattern in PATTERNS for folder in sorted((ROOT / "results").glob(pattern))]


def test_the_table_follows_from_the_csv_files() -> None:
    assert (ROOT / "results/learning.md").read_text(encoding="utf-8") == table(RUNS)


def test_readme_shows_that_table_whole() -> None:
    assert table(RUNS) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_seed_of_the_default_recipe_is_shown_and_at_least_two_were_run() -> None:
    seeds = [run.seed for run in RUNS if run.name == "pong"]
    assert len(seeds) == len(set(seeds)) >= 2
