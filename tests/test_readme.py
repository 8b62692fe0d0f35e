"""README's commands and its Python run, and the links of all pages resolve."""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pong.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page for folder in (ROOT, ROOT / "docs", ROOT / "results") for page in sorted(folder.glob("*.md"))]


def test_readme_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```python\n(import.*?)```", README, re.DOTALL)  # the others are excerpts
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(block, {})
    first, *_, trained, pretrained = output.getvalue().splitlines()
    assert first.startswith("1 0.69")  # at first the policy tosses a coin: ln 2 nats
    assert re.fullmatch(r"[+-]\d+\.\d\d ± \d+\.\d\d, n = 20 fresh games", trained)
    assert float(pretrained.split()[0]) > 5  # the pretrained agent beats Atari's built-in opponent


@pytest.mark.parametrize("command", re.findall(r"^(make .*?) *(?:#.*)?$", README, re.MULTILINE))
def test_readme_make_commands_run(monkeypatch, command):
    """Make knows the target, and pong the flags; RUN is any run."""
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command.replace("runs/…", "'my run'"))[1:]
    done = subprocess.run(["make", "-n", *arguments], capture_output=True, text=True, check=True)
    monkeypatch.setattr("pong.run.train", lambda *_: 0)
    for line in re.findall(r"-m pong (.*)", done.stdout):
        words = shlex.split(line)
        assert main(words if words[0] == "train" else [*words, "--help"]) == 0
        assert ("my run" in words) == ("runs/…" in command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
