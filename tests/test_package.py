"""The package without a checkout: its wheel, installed into an environment of its own, works in an empty folder."""

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import venv

import pytest
from small_runs import ROOT, TINY

from pong import __version__
from pong.config import recipes

CONTENT = ("pong", "configs", "pretrained", "pyproject.toml", "README.md", "LICENSE")
ELSEWHERE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # which may name the checkout


def run(folder, *command):
    done = subprocess.run([*map(str, command)], cwd=folder, env=ELSEWHERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", minversion="77")  # pyproject.toml's build-system
    pytest.importorskip("pip", minversion="22.3")  # the first with --python
    source = tmp_path_factory.mktemp("source")  # a copy, as setuptools also writes into it
    for name in CONTENT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(source, sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", ".")
    (file,) = source.glob("*.whl")
    return file


def test_wheel_trains_plays_and_evaluates_by_name(wheel, tmp_path):
    """In an empty folder, with the libraries of this environment, and inside another project's git repository."""
    venv.create(tmp_path / "venv", symlinks=True)
    python, empty = tmp_path / "venv/bin/python", tmp_path / "empty"
    run(tmp_path, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    (installed,) = tmp_path.glob("venv/lib/python*/site-packages")
    (installed / "libraries.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    run(tmp_path, "git", "init")
    run(tmp_path, "git", *shlex.split("-c user.name=x -c user.email=x@example.org commit --allow-empty -m other"))
    empty.mkdir()

    def pong(line):
        return run(empty, python.with_name("pong"), *shlex.split(line))

    assert {line.split()[0] for line in pong("recipes").splitlines()[1:]} == {*recipes()}
    trained = pong(f"train pong --total-steps 200 {shlex.join(TINY)}")
    (watch,) = re.findall(r"^done; watch it: pong (play runs/pong-s1-\S+)$", trained, re.MULTILINE)
    assert re.search(r"\nscore 0 in 8 steps, truncated: pong-s1-.*-seed0.mp4\n", pong(f"{watch} --max-frames 32"))
    (file,) = empty.glob("runs/*/run.json")
    assert json.loads(file.read_text(encoding="utf-8"))["git_revision"] == "unknown"  # not that of the other project
    (score,) = re.findall(r"^([+-]\d+)\.00,", pong("eval pong_expert --greedy --episodes 1 --emulator machine"))
    assert int(score) > 10
    assert pong("toy T1").startswith("T1")


def test_wheel_is_small_and_has_the_version_of_the_pages(wheel):
    assert wheel.stat().st_size < 12 * 2**20
    assert wheel.name.split("-")[1] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"\n## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[1] == __version__
