"""README's commands and the API page's Python run, and the links of all pages lead somewhere."""

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pong.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    page
    for pattern in ("*.md", "*/*.md", "pretrained/*/*.md", "notebooks/*.ipynb")
    for page in sorted(ROOT.glob(pattern))
]


def test_python_of_the_api_page_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(block, {})
    first, *_, trained, pretrained = output.getvalue().splitlines()
    assert first.startswith("1 0.69")  # at first the policy tosses a coin: ln 2 nats
    assert re.fullmatch(r"[+-]\d+\.\d\d ± \d+\.\d\d, n = 20 fresh games", trained)
    assert float(pretrained.split()[0]) > 5  # the pretrained agent beats Atari's built-in opponent


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Run make with programs that only print their arguments, and return these."""
    monkeypatch.chdir(ROOT)
    for name in ".ready", ".doom", ".notebook", "python", "tensorboard", "jupyter":
        file = tmp_path / name
        file.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:], end=',')", encoding="utf-8")
        file.chmod(0o700)
    clean = {"PATH": os.environ["PATH"]}  # without the variables of a make that runs the tests
    command = ["make", "-s", f"VENV={tmp_path}", f"BIN={tmp_path}"]
    return lambda *words: ast.literal_eval(f"[{subprocess.check_output([*command, *words], text=True, env=clean)}]")


@pytest.mark.parametrize("command", re.findall(r"^(make .*?) *(?:#.*)?$", README, re.MULTILINE))
def test_readme_make_commands_run(make, monkeypatch, command):
    """Make knows the target, and pong the flags; RUN is any run."""
    for function in ("pong.run.train", "pong.seeds.train_seeds"):
        monkeypatch.setattr(function, lambda *_: 0)
    for _, package, *words in make(*shlex.split(command.replace("runs/…", "'my run'"))[1:]):
        if package == "pong":
            assert main(words if words[0] == "train" else [*words, "--help"]) == 0
            assert ("my run" in words) == ("runs/…" in command)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train ARGS=--help", "train configs/pong.toml --help"),
        ("train CONFIG=doom_basic ARGS='--name \"my run\"'", "train doom_basic --name 'my run'"),
        ("train ARGS='--resume runs/a'", "train --resume runs/a"),
        ("eval", "eval"),
    ],
)
def test_make_gives_pong_its_arguments(make, arguments, expected):
    assert make(*shlex.split(arguments)) == [["-m", "pong", *shlex.split(expected)]]


@pytest.mark.parametrize("variable", ["train CONFIG", "eval RUN", "play RUN", "tensorboard RUNS"])
def test_make_executes_nothing_in_a_name(make, tmp_path, variable):
    hit = f"touch {tmp_path}/hit"
    name = f"`{hit}` $({hit}) $$({hit}) $(shell {hit}) '\" ; {hit} # doom"
    (words,) = make(*f"{variable}={name}".split(maxsplit=1))
    assert words[-1] == name
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_a_file_and_a_heading(page):
    for target, anchor in re.findall(r"\]\((?!\w+:|ADDRESS)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(page):
    """GitHub's names of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
