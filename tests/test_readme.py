"""README's Python runs as it stands there."""

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks() -> list[str]:
    """The Python in README that can be run: whole programs, which begin with an import."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in found if block.startswith("import")]


def test_a_run_an_evaluation_and_a_loaded_policy_in_twenty_lines(monkeypatch) -> None:
    (block,) = blocks()
    assert len(block.splitlines()) < 20
    monkeypatch.chdir(ROOT)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block, {})
    lines = said.getvalue().splitlines()
    assert len(lines) >= 4
    assert lines[0].startswith("1 0.69")  # a coin toss at first
    assert all(re.fullmatch(r"[+-]\d+\.\d\d ± \d+\.\d\d, n = \d+ fresh games", line) for line in lines[-2:])
    assert float(lines[-1].split()[0]) > 5  # the pretrained agent beats the built-in player
