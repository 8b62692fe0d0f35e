"""1,000 malformed config files and command lines: each is refused with status 2 in one line, and leaves nothing."""

import contextlib
import io
import os
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from small_runs import CONFIG, ROOT

from pong.cli import main
from pong.config import Config

pytestmark = pytest.mark.usefixtures("compiled")

EXAMPLES = 500  # of each kind
KEYS = sorted(Config.model_fields)
THOROUGH = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


class Accepted(BaseException):
    """The input was good: a run would begin now."""


def accept(*_, **__):
    raise Accepted


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty working directory, in which nothing is played."""
    folder = tmp_path_factory.mktemp("input")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("torch.cuda.is_available", lambda: False)
        for door in ("pong.run._open_run", "pong.rollout.Rollout.__init__"):
            patch.setattr(door, accept)
        yield folder


def outcome(folder, arguments):
    """2, or "accepted"; anything else is a failure of the test."""
    before = sorted(folder.iterdir())
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments)
    except Accepted:
        return "accepted"
    said = err.getvalue()
    assert status == 2, (arguments, status, said)
    assert out.getvalue() == "", arguments
    assert said.startswith("pong: "), said
    assert len(said.splitlines()) == 1, said
    assert sorted(folder.iterdir()) == before
    return status


# --- config files -----------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
values = st.one_of(
    st.integers(),
    st.integers(-3, 10**6),
    st.floats().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    words.map(lambda word: f'"{word}"'),
    st.lists(st.integers(-2, 300), max_size=3),
    st.sampled_from(["", "nan", "inf", "-1", "0", "1e999", "{}", "{a = 1}", "[[]]", "1979-05-27", "'steps'", '"2-4"']),
).map(str)
lines = st.one_of(
    st.tuples(st.sampled_from(KEYS), values).map(" = ".join),
    st.tuples(st.sampled_from(KEYS), values).map(" = ".join),
    st.tuples(words, values).map(" = ".join),
    words,
    st.sampled_from(["[table]", "[[table]]", "# nothing", "seed = 1\nseed = 2", "a.b = 1", '"" = 1', "=", "seed", "]"]),
)
GOOD = [(ROOT / f"configs/{name}.toml").read_bytes() for name in ("pong", "karpathy", "cartpole", "lqr")]


@st.composite
def mutated(draw):
    """A config file of this project that somebody's cat walked over."""
    content = bytearray(draw(st.sampled_from(GOOD)))
    start = draw(st.integers(0, len(content) - 1))
    content[start : start + draw(st.integers(0, 30))] = draw(st.binary(min_size=1, max_size=8))
    return bytes(content)


files = st.one_of(
    st.lists(lines, min_size=1, max_size=6).map(lambda some: "\n".join(some).encode(errors="replace")),
    st.binary(max_size=60),
    mutated(),
)


def test_malformed_config_files(folder):
    seen = Counter()

    @seed(0)
    @THOROUGH
    @given(content=files)
    def refuse(content):
        path = folder / "config.toml"
        path.write_bytes(content)
        seen[outcome(folder, ["train", str(path)])] += 1

    refuse()
    (folder / "config.toml").unlink()
    assert seen.total() >= EXAMPLES
    assert seen[2] >= 0.9 * seen.total(), seen


EXTREMES = {  # what no generator comes upon
    "a number of 5,000 digits": b"seed = " + b"9" * 5_000,
    "10,000 brackets": b"hidden = " + b"[" * 10_000,
    "no text": b"\xff\xfe\x00",
    "two byte order marks": "\ufeff\ufeffseed = 1".encode(),
    "nothing but a nul": b"\x00",
    "a very long key": b"a" * 100_000 + b" = 1",
}


@pytest.mark.parametrize("content", EXTREMES.values(), ids=EXTREMES)
def test_extreme_config_files(folder, content):
    path = folder / "config.toml"
    path.write_bytes(content)
    assert outcome(folder, ["train", str(path)]) == 2
    path.unlink()


# --- command lines ----------------------------------------------------------------------------------------------------

# What a shell can hand over: no NUL. Surrogates stand for bytes that are no UTF-8.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=10)
texts = texts.filter(lambda text: text not in ("-h", "--help") and not text.startswith(("--h", "-h")))
flags = st.sampled_from(KEYS).map(lambda key: f"--{key.replace('_', '-')}")
plain = st.one_of(st.integers(), st.floats(), st.booleans(), st.sampled_from(["", "-1", "2-4", "steps", "none", "[]"]))
tokens = st.one_of(
    flags, flags, plain.map(str), texts, st.just(CONFIG), st.sampled_from(["--resume", "--run-dir", "--"])
)
pairs = st.tuples(flags, st.one_of(plain.map(str), texts)).map(list)
rest = st.one_of(
    st.lists(tokens, max_size=5), st.lists(pairs, min_size=1, max_size=3).map(lambda some: list(chain(*some)))
)
commands = st.one_of(
    rest.map(lambda some: ["train", CONFIG, *some]),
    rest.map(lambda some: ["train", CONFIG, *some]),
    rest.map(lambda some: ["train", *some]),
    st.lists(texts, max_size=3).map(lambda some: ["train", "--resume", *some]),
    st.lists(tokens, max_size=4).map(lambda some: ["eval", *some]),
    st.lists(texts, max_size=3).filter(lambda some: some[:1] != ["toy"]),
)


def test_malformed_command_lines(folder):
    seen = Counter()

    @seed(0)
    @THOROUGH
    @given(arguments=commands)
    def refuse(arguments):
        seen[outcome(folder, arguments)] += 1

    refuse()
    assert seen.total() >= EXAMPLES
    assert seen[2] >= 0.9 * seen.total(), seen


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x0bb", "a" * 300, os.fsdecode(b"\xff"), "\x1b[2J", "é" * 200])
def test_names_that_no_file_should_have(folder, text):
    for arguments in (["train", text], ["train", "--resume", text], ["eval", text]):
        assert outcome(folder, arguments) == 2
    assert Path.cwd() == folder
