"""Checkpoints: what goes in comes out, nothing else is believed, and a save that fails destroys nothing."""

import hashlib
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pong import checkpoint
from pong.baseline import Baseline
from pong.checkpoint import Checkpoint, Counters
from pong.config import Config, InputError
from pong.distributed import Ranks
from pong.optimizers import make_optimizer
from pong.policies import KarpathyPolicy, make_policy
from pong.train import Trainer

CONFIG = Config(name="kept", seed=3, hidden=4, hold="2-4", learning_rate_end=1e-4, stop_at_mean100=18.5, device="cpu")
SCORES = (-21.0, -19.0, 3.0)
COUNTERS = Counters(20, 12_345, games=67, points=890, ema=-20.1 - 1e-14, last100=SCORES, best=-1 / 3)  # to the bit


def learner(seed=3, steps=2, **changes):
    """A policy and its optimiser after some steps."""
    config = CONFIG.model_copy(update={"seed": seed, **changes})
    policy = make_policy(config)
    optimizer = make_optimizer(config, policy)
    for step in range(steps):
        for parameter, gradient in zip(policy.parameters(), gradients(policy, seed + step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return config, policy, optimizer


def gradients(policy, seed=0):
    """Random gradients, laid out as autograd would: like their parameters."""
    generator = torch.Generator().manual_seed(seed)
    random = [torch.randn(parameter.shape, generator=generator) for parameter in policy.parameters()]
    return [torch.empty_like(p).copy_(values).detach() for p, values in zip(policy.parameters(), random, strict=True)]


def save(folder, counters=COUNTERS, best=False, **changes):
    config, policy, optimizer = learner(**changes)
    return checkpoint.save(folder, config, counters, policy, optimizer, best=best)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor), name


def complaint(path):
    """The error of loading that path: one line that names it."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_what_is_saved_is_loaded(tmp_path, optimizer):
    config, policy, optimiser = learner(optimizer=optimizer)
    path = checkpoint.save(tmp_path, config, COUNTERS, policy, optimiser)
    loaded = checkpoint.load(path)
    assert isinstance(loaded, Checkpoint)
    assert loaded.config == config
    assert loaded.counters == COUNTERS
    assert_same(loaded.policy, policy.state_dict())
    state = optimiser.state_dict()["state"]
    assert loaded.optimizer.keys() == state.keys() == {0, 1}
    names = {"adam": {"step", "exp_avg", "exp_avg_sq"}, "rmsprop": {"step", "square_avg"}}
    for number in state:
        assert loaded.optimizer[number].keys() == names[optimizer]
        assert_same(loaded.optimizer[number], {k: torch.as_tensor(v) for k, v in state[number].items()})


def test_a_baseline_is_kept_apart_from_the_policy(tmp_path):
    config, policy, optimizer = learner()
    _, network, its_optimizer = learner(seed=5)
    baseline = Baseline(network, learning_rate=1e-3, passes=1, ranks=Ranks())
    baseline.optimizer = its_optimizer
    loaded = checkpoint.load(checkpoint.save(tmp_path, config, COUNTERS, policy, optimizer, baseline))
    assert_same(loaded.policy, policy.state_dict())
    assert_same(loaded.baseline, network.state_dict())
    for state, kept in ((loaded.optimizer, optimizer), (loaded.baseline_optimizer, its_optimizer)):
        assert state.keys() == {0, 1}
        assert_same(state[0], kept.state_dict()["state"][0])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_loaded_optimiser_takes_the_same_step(tmp_path, monkeypatch, optimizer):
    """W1 is stored by columns and its file by rows, which a fused optimiser wouldn't notice."""
    config, policy, optimiser = learner(optimizer=optimizer, players=1)
    loaded = checkpoint.load(checkpoint.save(tmp_path, config, COUNTERS, policy, optimiser))

    monkeypatch.setattr("pong.rollout.make_fleet", lambda config, num_envs: None)
    trainer = Trainer(config.model_copy(update={"seed": 99}))
    trainer.restore(loaded)
    assert (trainer.updates, trainer.steps) == (COUNTERS.updates, COUNTERS.steps)
    for p, o in ((policy, optimiser), (trainer.policy, trainer.optimizer)):
        for parameter, gradient in zip(p.parameters(), gradients(p), strict=True):
            parameter.grad = gradient
        o.step()
    assert_same(trainer.policy.state_dict(), policy.state_dict())


def test_a_loaded_policy_plays_the_same(tmp_path):
    config, policy, _ = learner()
    loaded = KarpathyPolicy(config.hidden)
    loaded.load_state_dict(checkpoint.load(save(tmp_path)).policy)
    x = torch.randn(5, 6400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), policy(x))


def test_an_optimiser_that_never_stepped_has_no_state(tmp_path):
    assert checkpoint.load(save(tmp_path, steps=0)).optimizer == {}


def test_the_file_is_safetensors(tmp_path):
    path = save(tmp_path / "not" / "there" / "yet")
    assert path.name == "update-000020.safetensors"
    assert load_file(path)["policy.W1"].shape == (4, 6400)  # any safetensors reader opens it
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["pong"])
    assert about["format"] == 3
    assert about["counters"] == {
        **{"updates": 20, "steps": 12345, "games": 67, "points": 890},
        **{"ema": -20.1 - 1e-14, "last100": [-21.0, -19.0, 3.0], "best": -1 / 3},
    }
    assert about["config"]["name"] == "kept"
    # 8 bytes of length, a JSON header, numbers: nothing that could be executed
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.keys() == {"__metadata__", *load_file(path)}
    assert names(path.parent) == [path.name]  # no temporary file stays


def test_a_run_that_has_not_begun():
    begin = Checkpoint(CONFIG)
    assert begin.counters == Counters(updates=0, steps=0, games=0, points=0, ema=None, last100=(), best=None)
    assert (begin.policy, begin.optimizer) == ({}, {})


# --- which checkpoint -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [[2, 10, 9], [999_999, 1_000_000]], ids=str)
def test_a_run_folder_gives_its_newest(tmp_path, updates):
    for number in updates:
        save(tmp_path / "checkpoints", Counters(number))
    assert checkpoint.load(tmp_path).counters.updates == max(updates)


def test_a_file_gives_itself(tmp_path):
    paths = [save(tmp_path / "checkpoints", Counters(number)) for number in (1, 2)]
    assert checkpoint.load(paths[0]).counters.updates == 1


def test_nothing_there(tmp_path):
    assert "does not exist" in complaint(tmp_path / "nowhere")
    assert "holds no checkpoints/" in complaint(tmp_path)
    assert not checkpoint.exists(tmp_path)


def test_a_name_that_is_wrong_is_answered_with_those_that_are_right(tmp_path):
    path = save(tmp_path)
    assert complaint(tmp_path / "update-000021.safetensors").endswith(f"does not exist; there is {path}")
    run = tmp_path / "run"
    best = save(run / "checkpoints", best=True).with_name("best.safetensors")
    (run / "checkpoints/update-000020.safetensors").unlink()
    assert checkpoint.exists(run)  # and it is not taken for the newest
    assert complaint(run).endswith(f"holds no checkpoints/update-*.safetensors; there is {best}")


def test_a_copy_by_another_name_is_not_the_newest(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, Counters(2))
    (folder / "update-000001-before-the-holidays.safetensors").write_bytes(b"a copy")
    assert checkpoint.load(tmp_path).counters.updates == 2


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    for number in range(1, 7):
        save(tmp_path, Counters(number), best=number in (2, 3))
    assert names(tmp_path) == ["best.safetensors", "update-000005.safetensors", "update-000006.safetensors"]
    assert checkpoint.load(tmp_path / "best.safetensors").counters.updates == 3


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    (tmp_path / "update-000019.tmp").write_bytes(b"half a file")
    (tmp_path / "best.tmp").write_bytes(b"half a file")
    save(tmp_path)
    assert names(tmp_path) == ["update-000020.safetensors"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["policy.W2", "optimizer.0.exp_avg"])
def test_what_is_not_finite_is_not_saved(tmp_path, where, value):
    before = save(tmp_path).read_bytes()
    config, policy, optimizer = learner()
    with torch.no_grad():
        (policy.W2 if where == "policy.W2" else optimizer.state[policy.W1]["exp_avg"])[-1] = value
    with pytest.raises(FloatingPointError, match=f"^update 20: {where} is not finite"):
        checkpoint.save(tmp_path, config, COUNTERS, policy, optimizer)
    assert (tmp_path / "update-000020.safetensors").read_bytes() == before


# --- going on from another one than the newest ------------------------------------------------------------------------


def history(folder, best=3):
    """The checkpoints of updates 4 and 5, and that of the best; all differ."""
    for number in range(1, 6):
        save(folder, Counters(number), seed=number, best=number == best)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_newer_ones_are_set_aside(tmp_path):
    before = history(tmp_path)
    chosen = tmp_path / "update-000004.safetensors"
    assert checkpoint.make_newest(chosen, 4) == [tmp_path / "update-000005.set-aside-1"]
    assert (tmp_path / "update-000005.set-aside-1").read_bytes() == before["update-000005.safetensors"]
    assert names(tmp_path) == ["best.safetensors", "update-000004.safetensors", "update-000005.set-aside-1"]

    save(tmp_path, Counters(5), seed=77)  # the other branch, which is left as well
    other = (tmp_path / "update-000005.safetensors").read_bytes()
    assert checkpoint.make_newest(chosen, 4) == [tmp_path / "update-000005.set-aside-2"]
    assert (tmp_path / "update-000005.set-aside-1").read_bytes() == before["update-000005.safetensors"]
    assert (tmp_path / "update-000005.set-aside-2").read_bytes() == other

    assert checkpoint.make_newest(chosen, 4) == []


def test_a_best_that_is_newer_is_set_aside_too(tmp_path):
    before = history(tmp_path, best=5)
    aside = checkpoint.make_newest(tmp_path / "update-000004.safetensors", 4)
    assert {path.name for path in aside} == {"update-000005.set-aside-1", "best.set-aside-1"}
    assert (tmp_path / "best.set-aside-1").read_bytes() == before["best.safetensors"]
    assert names(tmp_path / ".") == ["best.set-aside-1", "update-000004.safetensors", "update-000005.set-aside-1"]


def test_the_best_can_become_the_newest(tmp_path):
    before = history(tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints"
    aside = checkpoint.make_newest(folder / "best.safetensors", 3)
    assert aside == [folder / "update-000005.set-aside-1", folder / "update-000004.set-aside-1"]
    assert checkpoint.find(tmp_path) == folder / "update-000003.safetensors"
    assert checkpoint.find(tmp_path).read_bytes() == before["best.safetensors"]
    assert (folder / "best.safetensors").read_bytes() == before["best.safetensors"]


def test_what_was_set_aside_can_be_taken_back(tmp_path):
    before = history(tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints"
    (aside,) = checkpoint.make_newest(folder / "update-000004.safetensors", 4)
    checkpoint.make_newest(aside, 5)
    assert checkpoint.find(tmp_path).read_bytes() == before["update-000005.safetensors"]


# --- files that are something else ------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it creates the file it is given."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("dump", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_a_pickle_is_refused_and_not_executed(tmp_path, dump):
    crater = tmp_path / "crater"
    pickle.loads(pickle.dumps(Bomb(crater)))
    assert crater.exists()  # the bomb does go off where somebody unpickles it
    crater.unlink()

    path = tmp_path / "update-000001.safetensors"
    dump(Bomb(crater), path)
    complaint(path)
    assert not crater.exists()


def foreign(path, **metadata):
    save_file({"policy.W1": torch.zeros(2, 2)}, path, metadata or None)
    return path


def signed(path, about, tensors=None):
    """A file with that JSON, and with the checksum of format 2, written down here once more."""
    tensors = tensors or {"policy.W1": torch.zeros(2, 2)}
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(f"{name} torch.float32 {tuple(tensors[name].shape)}".encode() + tensors[name].numpy().tobytes())
    save_file(tensors, path, {"pong": about, "sha256": digest.hexdigest()})
    return path


def about(**changes):
    """The JSON of a valid header, with changes; None leaves a key out."""
    whole = {"format": 2, "config": {}, "counters": {"updates": 1, "steps": 1, "games": 1, "points": 1}, **changes}
    return json.dumps({key: value for key, value in whole.items() if value is not None})


FOREIGN = {
    "no metadata": {},
    "other metadata": {"format": "pt"},
    "not JSON": {"pong": "{"},
    "JSON of something else": {"pong": "[]"},
    "an empty object": {"pong": "{}"},
    "a format that is no number": {"pong": about(format="two")},
    "no checksum": {"pong": about()},
}
SIGNED = {
    "no config": about(config=None),
    "a config that is none": about(config=[1]),
    "no counters": about(counters=None),
    "other counters": about(counters={"epochs": 3}),
    "counters that are none": about(counters=[1]),
    "scores that are none": about(counters={"last100": 3}),
}


@pytest.mark.parametrize("metadata", FOREIGN.values(), ids=FOREIGN)
def test_somebody_elses_safetensors(tmp_path, metadata):
    assert "not written by pong" in complaint(foreign(tmp_path / "model.safetensors", **metadata))


@pytest.mark.parametrize("about", SIGNED.values(), ids=SIGNED)
def test_a_header_of_something_else(tmp_path, about):
    assert "not written by pong" in complaint(signed(tmp_path / "model.safetensors", about))


def test_tensors_of_another_kind(tmp_path):
    path = signed(tmp_path / "model.safetensors", about(), {"optimizer.first.step": torch.zeros(1)})
    assert "not written by pong" in complaint(path)


def test_a_config_that_does_not_validate(tmp_path):
    assert "gamma = 7" in complaint(signed(tmp_path / "model.safetensors", about(config={"gamma": 7})))


def test_other_formats(tmp_path):
    # whatever else the future keeps in there
    path = signed(tmp_path / "model.safetensors", json.dumps({"format": 4, "brain": "huge"}))
    assert complaint(path).endswith("has format 4, this version reads 2 and 3; update pong")
    path = foreign(tmp_path / "model.safetensors", pong=about(format=1))  # there was no checksum then
    assert "has format 1, this version reads 2 and 3; use the version of pong that wrote it" in complaint(path)


def test_counters_that_a_file_leaves_out(tmp_path):
    path = signed(tmp_path / "model.safetensors", about())
    assert checkpoint.load(path).counters == Counters(1, 1, 1, 1, ema=None, last100=(), best=None)


def test_a_truncated_file(tmp_path):
    path = save(tmp_path)
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        complaint(path)
    path.write_bytes(whole)
    assert checkpoint.load(path).counters == COUNTERS


# --- saves that fail --------------------------------------------------------------------------------------------------


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


class Full(io.FileIO):
    """A file for half of which there is room."""

    def write(self, content):
        super().write(content[: len(content) // 2])
        fail()


def open_full(path, mode="r", **settings):
    return Full(path, mode) if "w" in mode else open(path, mode, **settings)  # noqa: PTH123


FAILURES = {
    "writing": ("pathlib.Path.open", open_full),
    "flushing": ("os.fsync", fail),
    "renaming": ("os.replace", fail),
}


@pytest.mark.parametrize(("what", "failure"), FAILURES.values(), ids=FAILURES)
def test_a_failed_save_leaves_the_last_one(tmp_path, monkeypatch, what, failure):
    folder = tmp_path / "checkpoints"
    path = save(folder)
    whole = path.read_bytes()
    monkeypatch.setattr(what, failure)
    for counters in (COUNTERS, Counters(21)):  # of the same update, and of the next
        with pytest.raises(OSError, match="No space left"):
            save(folder, counters, seed=8)
        assert path.read_bytes() == whole
        assert checkpoint.load(tmp_path).counters == COUNTERS  # what is half there is not taken for a checkpoint
    monkeypatch.undo()
    save(folder, Counters(21), seed=8)  # and is no obstacle later
    assert checkpoint.load(tmp_path).counters.updates == 21


@pytest.mark.parametrize(("what", "failure"), FAILURES.values(), ids=FAILURES)
def test_a_failed_save_leaves_the_best_one(tmp_path, monkeypatch, what, failure):
    save(tmp_path, best=True)
    whole = (tmp_path / "best.safetensors").read_bytes()
    monkeypatch.setattr(what, failure)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, Counters(21), seed=8, best=True)
    assert (tmp_path / "best.safetensors").read_bytes() == whole
    assert names(tmp_path) == ["best.safetensors", "update-000020.safetensors"]


def test_what_the_system_refuses_names_the_file(tmp_path):
    (tmp_path / "update-000020.tmp").mkdir()  # what is to be the temporary file can't be opened
    with pytest.raises(OSError, match="update-000020"):
        save(tmp_path)
