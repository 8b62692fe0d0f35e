"""Checkpoints that are damaged, or not those of the run: refused in one line that names them and the others there."""

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CONFIG, TINY, Dice, contents, play

from pong import checkpoint
from pong.checkpoint import Counters
from pong.cli import main
from pong.config import Config, InputError
from pong.distributed import Ranks
from pong.rollout import Rollout
from pong.train import make_baseline, make_optimizer, make_policy

pytestmark = pytest.mark.usefixtures("compiled")

TRIALS = 1_000
# 20 decisions an update, 6 updates, a checkpoint at every other
DICE = [
    "train",
    CONFIG,
    *TINY,
    "--horizon",
    "10",
    "--checkpoint-every",
    "2",
    "--total-steps",
    "120",
    "--run-dir",
    "run",
]


def small(folder, updates, best=False):
    """A checkpoint of a policy with one hidden unit, after a step."""
    config = Config(hidden=1, device="cpu", num_envs=2, horizon=100, players=1)
    policy = make_policy(config)
    optimizer = make_optimizer(config, policy)
    for parameter in policy.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    counters = Counters(updates, 10 * updates, 3, 4, -20.5, (-21.0, -20.0), -1.5)
    with contextlib.closing(Rollout(config, policy)) as rollout:
        rollout.collect(0)
        return checkpoint.save(folder, config, counters, policy, optimizer, play=rollout.state(), best=best)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run's newest checkpoint, what is in it, how long its header is, and how the line of a refusal ends."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    older, path = small(folder, 2, best=True), small(folder, 4)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    return path, whole, header, f"; there is {older}, {folder / 'best.safetensors'}"


def refusal(path, ending):
    """What loading the run says: one line that names the file and the other checkpoints."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(path.parents[1])
    said = str(caught.value)
    assert said.startswith(f"checkpoint {path} ")
    assert said.endswith(ending)
    assert "\n" not in said
    return said


@pytest.fixture
def mended(files):
    """The newest checkpoint is whole before and after a test."""
    path, whole, *_ = files
    assert checkpoint.load(path).counters.updates == 4
    yield
    path.write_bytes(whole)
    assert checkpoint.load(path).counters.updates == 4


def test_any_bit_flipped(files, mended):
    """1,000 bits at random, half of them in the header."""
    path, whole, header, ending = files
    rng = np.random.default_rng(0)
    places = [*rng.integers(header, size=TRIALS // 2), *rng.integers(header, len(whole), size=TRIALS // 2)]
    kinds = set()
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        kinds.add(refusal(path, ending).removeprefix(f"checkpoint {path} ").split(":")[0].split(";")[0])
    # which of them depends on the bit: the file's own structure, its checksum, or what the header says
    assert kinds == {"can't be read", "is damaged", "is damaged or was not written by pong"}


def test_cut_off_anywhere(files, mended):
    path, whole, header, ending = files
    rng = np.random.default_rng(1)
    lengths = [0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1, *rng.integers(len(whole), size=200)]
    for length in lengths:
        path.write_bytes(whole[:length])
        assert "can't be read: " in refusal(path, ending)


def test_overwritten_or_longer(files, mended):
    """A block of zeros, as some file systems leave after a power cut; and what somebody appended."""
    path, whole, header, ending = files
    for start in (0, header // 2, header, len(whole) // 2, len(whole) - 512):
        path.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
        refusal(path, ending)
    path.write_bytes(whole + b"\0")
    refusal(path, ending)


# --- what the command line makes of it --------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A finished run on dice in run/, with checkpoints of updates 4 and 6."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch, Dice)
    assert main(DICE) == 0
    capsys.readouterr()
    return Path("run")


def refused(capsys, *words, command=("train", "--resume", "run")):
    """The command is refused in one line with those words, and nothing is changed."""
    before = contents(".")
    assert main([*command]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) <= 1  # that it takes the run up
    assert err.startswith("pong: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert contents(".") == before
    assert Dice.open == 0


COMMANDS = (["train", "--resume", "run"], ["eval", "run", "--episodes", "1"])
NEWEST = Path("run/checkpoints/update-000006.safetensors")
OLDER = "there is run/checkpoints/update-000004.safetensors\n"


@pytest.mark.parametrize("command", COMMANDS, ids=["resume", "eval"])
def test_a_damaged_checkpoint_is_never_passed_over(run, capsys, command):
    content = bytearray(NEWEST.read_bytes())
    content[-100] ^= 1
    NEWEST.write_bytes(content)
    refused(capsys, f"checkpoint {NEWEST} is damaged: its checksum", OLDER, command=command)


class Bomb:
    """Unpickling it creates the file it is given."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("command", COMMANDS, ids=["resume", "eval"])
@pytest.mark.parametrize("dump", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_a_pickle_is_refused_and_not_executed(run, capsys, command, dump):
    crater = Path("crater").absolute()
    pickle.loads(pickle.dumps(Bomb(crater)))
    assert crater.exists()  # the bomb does go off where somebody unpickles it
    crater.unlink()
    dump(Bomb(crater), NEWEST)
    refused(capsys, f"checkpoint {NEWEST} can't be read: ", OLDER, command=command)
    assert not crater.exists()


def rewritten(run, monkeypatch, whole=True, **changes):
    """The newest checkpoint is written anew with another config in it, in another format, or without the baseline."""
    loaded = checkpoint.load(NEWEST)
    monkeypatch.setattr(checkpoint, "FORMAT", changes.pop("format", checkpoint.FORMAT))
    hidden = changes.pop("units", loaded.config.hidden)
    config = loaded.config.model_copy(update=changes)
    policy = make_policy(config.model_copy(update={"hidden": hidden}))
    baseline = make_baseline(config, torch.device("cpu"), Ranks()) if whole else None
    checkpoint.save(NEWEST.parent, config, loaded.counters, policy, make_optimizer(config, policy), baseline)
    monkeypatch.setattr(checkpoint, "FORMAT", 3)


OTHERS = [  # what the checkpoint has that the run has not
    ({"seed": 2}, "run: seed = 1, but the checkpoint was trained with 2; "),
    ({"gamma": 0.5}, "run: gamma = 0.99, but the checkpoint was trained with 0.5; "),
    ({"hidden": 5}, "run: hidden = 4, but the checkpoint was trained with 5; "),
    ({"hold": "2-4"}, "run: hold = 4, but the checkpoint was trained with '2-4'; "),
    ({"noop_max": 7}, "run: noop_max = 0, but the checkpoint was trained with 7; "),
    ({"eval_episodes": 7}, "run: eval_episodes = 0, but the checkpoint was trained with 7; "),
    ({"units": 5}, "size mismatch for W1: copying a param with shape torch.Size([5, 6400]) from checkpoint"),
    ({"format": 4}, f"checkpoint {NEWEST} has format 4, this version reads 2 and 3; update pong\n"),
    ({"format": 1}, f"checkpoint {NEWEST} has format 1, this version reads 2 and 3; use the version"),
]


@pytest.mark.parametrize(("changes", "words"), OTHERS, ids=[",".join(map(str, *what.items())) for what, _ in OTHERS])
def test_what_differs_is_named(run, monkeypatch, capsys, changes, words):
    rewritten(run, monkeypatch, **dict(changes))
    refused(capsys, words)


def test_a_checkpoint_of_the_format_before_goes_on(run, monkeypatch, capsys):
    """It held no games: they begin afresh."""
    rewritten(run, monkeypatch, format=2)
    assert main(["train", "--resume", "run"]) == 0
    assert "resuming after update 6; games restart\n" in capsys.readouterr().out


def test_a_checkpoint_without_the_baseline_is_refused(run, monkeypatch, capsys):
    rewritten(run, monkeypatch, whole=False)
    refused(capsys, "run: the checkpoint holds no baseline, a policy alone; a new run can --init with it\n")
