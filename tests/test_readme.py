"""README's Python runs as it stands there."""

import contextlib
import io
import multiprocessing
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import environment

from pong.evaluate import evaluate
from pong.train import load_policy

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


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_it_is_a_script_too_wherever_processes_are_spawned(tmp_path, method) -> None:
    """Nothing in it starts a process, which would run the script again."""
    (block,) = blocks()
    script = tmp_path / "mine.py"
    first = f"import multiprocessing\nmultiprocessing.set_start_method({method!r})\nprint('once')\n"
    script.write_text(first + block, encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("once") == 1


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["play", "RUN=my run"], 'play "my run"'),
        (["play"], 'play "pretrained"'),
        (["eval", "RUN=my run"], 'eval "my run"'),
        (["train", "CONFIG=my copy.toml"], 'train "my copy.toml"'),
    ],
)
def test_make_takes_names_with_blanks(arguments, command) -> None:
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"pong {command}" in done.stdout


def score(seed: int) -> list[float]:
    """In a worker, which may have no children."""
    policy, loaded = load_policy(ROOT / "pretrained/pong")
    return evaluate(policy, loaded.config.replace(max_frames=2_000), 2, seed=seed).scores


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_a_pool_can_evaluate(method) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(score, [1, 2]) == [score(1), score(2)]
