"""Checkpoints: what goes in comes out, nothing else is believed, and a save that fails destroys nothing."""

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
from pong.policies import KarpathyPolicy
from pong.ranks import Ranks
from pong.train import Trainer, make_optimizer, make_policy

CONFIG = Config(name="kept", seed=3, hidden=4, hold="2-4", learning_rate_end=1e-4, stop_at_mean100=18.5, device="cpu")
SCORES = (-21.0, -19.0, 3.0)
COUNTERS = Counters(updates=20, steps=12_345, games=67, points=890, ema=-20.1 - 1e-14, last100=SCORES)  # to the bit


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


def save(folder, counters=COUNTERS, **changes):
    config, policy, optimizer = learner(**changes)
    return checkpoint.save(folder, config, counters, policy, optimizer)


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
    config, policy, optimiser = learner(optimizer=optimizer, processes=1)
    loaded = checkpoint.load(checkpoint.save(tmp_path, config, COUNTERS, policy, optimiser))

    monkeypatch.setattr("pong.rollout.make_fleet", lambda config, num_envs: None)
    trainer = Trainer(config.model_copy(update={"seed": 99}))
    trainer.take_up(loaded)
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
    assert about["format"] == 1
    assert about["counters"] == {
        **{"updates": 20, "steps": 12345, "games": 67, "points": 890},
        **{"ema": -20.1 - 1e-14, "last100": [-21.0, -19.0, 3.0]},
    }
    assert about["config"]["name"] == "kept"
    # 8 bytes of length, a JSON header, numbers: nothing that could be executed
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.keys() == {"__metadata__", *load_file(path)}
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]  # no temporary file stays


def test_a_run_that_has_not_begun():
    begin = Checkpoint(CONFIG)
    assert begin.counters == Counters(updates=0, steps=0, games=0, points=0, ema=None, last100=())
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


def about(**changes):
    """The JSON of a valid header, with changes; None leaves a key out."""
    whole = {"format": 1, "config": {}, "counters": {"updates": 1, "steps": 1, "games": 1, "points": 1}, **changes}
    return json.dumps({key: value for key, value in whole.items() if value is not None})


FOREIGN = {
    "no metadata": {},
    "other metadata": {"format": "pt"},
    "not JSON": {"pong": "{"},
    "JSON of something else": {"pong": "[]"},
    "an empty object": {"pong": "{}"},
    "no config": {"pong": about(config=None)},
    "a config that is none": {"pong": about(config=[1])},
    "no counters": {"pong": about(counters=None)},
    "other counters": {"pong": about(counters={"epochs": 3})},
    "counters that are none": {"pong": about(counters=[1])},
    "scores that are none": {"pong": about(counters={"last100": 3})},
}


@pytest.mark.parametrize("metadata", FOREIGN.values(), ids=FOREIGN)
def test_somebody_elses_safetensors(tmp_path, metadata):
    assert "not written by pong" in complaint(foreign(tmp_path / "model.safetensors", **metadata))


def test_tensors_of_another_kind(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"optimizer.first.step": torch.zeros(1)}, path, {"pong": about()})
    assert "not written by pong" in complaint(path)


def test_a_config_that_does_not_validate(tmp_path):
    path = foreign(tmp_path / "model.safetensors", pong=about(config={"gamma": 7}))
    assert "gamma = 7" in complaint(path)


def test_a_newer_format(tmp_path):
    # whatever else the future keeps in there
    path = foreign(tmp_path / "model.safetensors", pong=json.dumps({"format": 2, "brain": "huge"}))
    assert "format 2, this version reads 1" in complaint(path)


def test_a_file_from_before_scores_were_kept(tmp_path):
    path = foreign(tmp_path / "model.safetensors", pong=about())
    assert checkpoint.load(path).counters == Counters(1, 1, 1, 1, ema=None, last100=())


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


def fail_half_way(tensors, path, metadata=None):
    Path(path).write_bytes(b"half a file")
    fail()


FAILURES = {
    "writing": ("pong.checkpoint.save_file", fail_half_way),
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


def test_what_the_system_refuses_is_an_oserror(tmp_path):
    """Safetensors has an exception of its own for it, which says nothing of the file."""
    (tmp_path / "update-000020.tmp").mkdir()  # what is to be the temporary file can't be opened
    with pytest.raises(OSError, match="update-000020"):
        save(tmp_path)
