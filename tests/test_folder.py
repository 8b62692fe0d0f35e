"""A run's folder: what it says, and when it is refused."""

import errno
import json
import re

import pytest
import torch

from pong.config import Config, InputError, load_config
from pong.folder import create_run_folder, lock_run_folder, new_run_folder

CPU = torch.device("cpu")
CONFIG = Config(name="tracked", seed=4, hidden=2, total_steps=1_000, learning_rate_end=0.0, device="cpu")


def test_a_run_folder_holds_config_and_circumstances(tmp_path, monkeypatch):
    monkeypatch.setattr("pong.folder.cores", lambda: 5)  # that the process may use, as under taskset
    command = ["pong", "train", "configs/pong.toml", "--seed", "4"]
    folder = tmp_path / "deep" / "run"
    create_run_folder(CONFIG, folder, CPU, command)
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "run.json"]
    assert load_config(folder / "config.toml") == CONFIG
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert about.keys() == {"command", "started", "git_revision", "device", "cpu_count", "python", "versions"}
    assert about["command"] == command
    assert (about["device"], about["cpu_count"]) == ("cpu", 5)
    assert about["versions"]["torch"] == torch.__version__
    assert {"ale-py", "gymnasium", "numpy"} <= about["versions"].keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", about["started"])
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", about["git_revision"])


def test_without_a_folder_a_name_is_made_up():
    assert re.fullmatch(r"runs/tracked-s4-\d{8}-\d{6}", str(new_run_folder(CONFIG)))


def test_a_folder_with_a_run_is_left_alone(tmp_path):
    folder = tmp_path / "run"
    create_run_folder(CONFIG, folder, CPU, ["first"])
    before = (folder / "run.json").read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"run already holds a run; choose another --run-dir$"):
        create_run_folder(CONFIG, folder, CPU, ["second"])
    assert (folder / "run.json").read_text(encoding="utf-8") == before


def test_a_folder_that_a_kill_left_half_made_may_be_used(tmp_path):
    """config.toml is written last, and whole."""
    (tmp_path / "lock").touch()
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    (tmp_path / "config.tmp").write_text("name =", encoding="utf-8")
    create_run_folder(CONFIG, tmp_path, CPU, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "lock", "run.json"]
    assert load_config(tmp_path / "config.toml") == CONFIG


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    folder = tmp_path / "file" / below
    with pytest.raises(InputError, match=r"can't be written: .*; make room there or choose another --run-dir$"):
        create_run_folder(CONFIG, folder, CPU, [])
    with pytest.raises(InputError, match=r"can't be written: "), lock_run_folder(folder):
        pass
    assert (tmp_path / "file").read_text(encoding="utf-8") == "precious"


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with pytest.raises(InputError, match=r"can't be locked: No locks available; "), lock_run_folder(tmp_path):
        pass
