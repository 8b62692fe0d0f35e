"""Checkpoints: what is saved is loaded, damaged and foreign files are refused, and a failed save destroys nothing."""

import contextlib
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import CONFIG as RECIPE
from small_runs import TINY, Dice, contents, play
from test_save_p import Bomb

from pong import checkpoint
from pong.checkpoint import FORMAT, Checkpoint, Counters
from pong.cli import main
from pong.config import Config, InputError
from pong.envs.pong.machine import GAME as GAME_DTYPE
from pong.optimizers import make_optimizer
from pong.policies import make_policy
from pong.rollout import Rollout
from pong.train import load_policy

CONFIG = Config(name="saved", seed=3, hidden=4, hold="2-4", learning_rate_end=1e-4, stop_at_mean100=18.5, device="cpu")
SCORES = (-21.0, -19.0, 3.0)
COUNTERS = Counters(20, 12_345, games=67, points=890, ema=-20.1 - 1e-14, last100=SCORES, best=-1 / 3)  # to the bit
NEWEST = "update-000020.safetensors"
GAMES = [{"ram": np.arange(i, dtype=np.uint8), "rows.signs": np.full((2, i), -i, np.int16)} for i in range(11)]


def learner(steps=2, **changes):
    """A policy and its optimiser after some steps on random gradients."""
    config = CONFIG.model_copy(update=changes)
    policy, generator = make_policy(config), torch.Generator().manual_seed(config.seed)
    optimizer = make_optimizer(config, policy)
    for _ in range(steps):
        for parameter in policy.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return config, policy, optimizer


def state_of(learner, counters=COUNTERS, play=()):
    config, policy, optimizer = learner
    return Checkpoint(config, counters, policy.state_dict(), optimizer.state_dict()["state"], play=[*play])


def save(folder, counters=COUNTERS, best=False, play=(), **changes):
    return checkpoint.save(folder, state_of(learner(**changes), counters, play), best=best)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(tensors, expected):
    torch.testing.assert_close(tensors, expected, rtol=0, atol=0)


def refusal(path, named=None):
    """The error of loading that path: one line that names it."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(named or path) in message
    assert "\n" not in message
    return message


# --- round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_checkpoint_round_trip(tmp_path, optimizer):
    config, policy, optimiser = learner(optimizer=optimizer)
    loaded = checkpoint.load(checkpoint.save(tmp_path, state_of((config, policy, optimiser))))
    assert (loaded.config, loaded.counters, loaded.baseline, loaded.play) == (config, COUNTERS, {}, [])
    assert_same(loaded.policy, policy.state_dict())
    state = optimiser.state_dict()["state"]
    assert state.keys() == {0, 1}
    assert_same(loaded.optimizer, {i: {k: torch.as_tensor(v) for k, v in state[i].items()} for i in state})


def test_checkpoint_games_keep_their_order_types_and_lengths(tmp_path):
    """Eleven emulators: by name, emulator 10 would come before emulator 2."""
    loaded = checkpoint.load(save(tmp_path, play=GAMES)).play
    assert len(loaded) == 11
    for game, expected in zip(loaded, GAMES, strict=True):
        assert game.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(game[name], array, strict=True)


def test_checkpoint_file_is_safetensors_with_a_json_header(tmp_path):
    path = save(tmp_path / "new" / "folder", steps=0)
    assert names(path.parent) == [NEWEST]  # no temporary file remains
    assert load_file(path).keys() == {"policy.W1", "policy.W2"}  # an optimiser that never stepped has no state
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pong"])
    assert (header["format"], header["config"]) == (FORMAT, CONFIG.model_dump())
    assert header["counters"] == dataclasses.asdict(COUNTERS) | {"last100": [-21.0, -19.0, 3.0]}


# --- which checkpoint -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [[2, 10, 9], [999_999, 1_000_000]], ids=str)
def test_find_newest_of_a_run(tmp_path, updates):
    paths = {number: save(tmp_path / "checkpoints", Counters(number)) for number in updates}
    (tmp_path / "checkpoints/update-2000000-before-the-holidays.safetensors").write_bytes(b"a copy")
    assert checkpoint.find(tmp_path) == paths[max(updates)]
    assert checkpoint.load(paths[max(updates)]).counters.updates == max(updates)


def test_find_exported_folder_and_agents_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pong").mkdir()  # has no policy
    assert load_policy("pong")[1].config.name == "pong"
    path = Path("pong/policy.safetensors")
    weights = make_policy(CONFIG).half().state_dict()
    checkpoint.save_policy(path, CONFIG, COUNTERS, weights)
    assert checkpoint.find(Path("pong")) == path  # which comes before the agent of that name
    assert checkpoint.load("pong").policy["W1"].dtype == torch.float16


def test_find_missing_names_the_alternatives(tmp_path):
    assert "does not exist; give another run folder" in refusal(tmp_path / "nowhere")
    assert "holds no checkpoints/update-*.safetensors; give another run folder" in refusal(tmp_path)
    path = save(tmp_path / "checkpoints", best=True)
    best = path.with_name("best.safetensors")
    missing = path.with_name("update-000021.safetensors")
    assert refusal(missing).endswith(f"does not exist; there is {path}, {best}")
    path.unlink()
    assert refusal(tmp_path).endswith(f"holds no checkpoints/update-*.safetensors; there is {best}")


# --- what is saved and deleted ----------------------------------------------------------------------------------------


def test_save_keeps_the_newest_two_and_the_best(tmp_path):
    for name in ("update-000001.tmp", ".tmpSwLvRp"):  # the second one is safetensors' own
        (tmp_path / name).write_bytes(b"of a killed process")
    for number in range(1, 7):
        save(tmp_path, Counters(number), best=number in (2, 3))
    assert names(tmp_path) == ["best.safetensors", "update-000005.safetensors", "update-000006.safetensors"]
    assert checkpoint.load(tmp_path / "best.safetensors").counters.updates == 3
    assert checkpoint.best_score(tmp_path) == -math.inf  # these were not evaluated


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("where", ["policy.W2", "optimizer.0.exp_avg"])
def test_save_refuses_what_is_not_finite(tmp_path, where, value):
    before = save(tmp_path).read_bytes()
    config, policy, optimizer = learner()
    with torch.no_grad():
        (policy.W2 if where == "policy.W2" else optimizer.state[policy.W1]["exp_avg"])[-1] = value
    with pytest.raises(FloatingPointError, match=f"^update 20: {where} is not finite"):
        checkpoint.save(tmp_path, state_of((config, policy, optimizer)))
    assert (tmp_path / NEWEST).read_bytes() == before


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("updates", [20, 21], ids=["same", "next"])
def test_save_failure_leaves_earlier_checkpoints(tmp_path, monkeypatch, function, updates):
    path = save(tmp_path, best=True)
    before = contents(tmp_path)
    monkeypatch.setattr(function, fail)
    with pytest.raises(
        OSError, match=rf"^checkpoint .*update-0000{updates}\.safetensors can't be written: No space left"
    ):
        save(tmp_path, Counters(updates), seed=8, best=True)
    assert contents(tmp_path) == before
    monkeypatch.undo()
    assert checkpoint.load(path).counters == COUNTERS


# --- files of something else ------------------------------------------------------------------------------------------


def test_load_pickle_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Bomb(), "update-000001.safetensors")
    assert "can't be read" in refusal("update-000001.safetensors")
    assert not Path("crater").exists()


def header(**changes):
    return json.dumps({"format": FORMAT, "config": {}, "counters": {"updates": 1}, **changes})


def signed(text, tensor="policy.W1"):
    """A header with the checksum that goes with it and two zeros."""
    digest = hashlib.sha256(f"{text}{tensor} torch.float32 (2,)".encode() + bytes(8))
    return {"pong": text, "sha256": digest.hexdigest()}


def foreign(path, metadata, tensor="policy.W1"):
    save_file({tensor: torch.zeros(2)}, path, metadata)
    return path


FOREIGN = {
    "no header": None,
    "another header": {"format": "pt"},
    "no checksum": {"pong": header()},
    "not JSON": signed("{"),
    "JSON of another kind": signed("[]"),
    "no config": signed(json.dumps({"format": FORMAT, "counters": {}})),
    "a config of another kind": signed(header(config=[1])),
    "counters of another kind": signed(header(counters={"updates": "many"})),
    "a negative counter": signed(header(counters={"updates": -1})),
    "a large counter": signed(header(counters={"steps": 10**400})),
    "a score that is not finite": signed(header(counters={"last100": [math.nan]})),
    "deep nesting": signed(100_000 * "["),
    "too many digits": signed(5_000 * "1"),
}


@pytest.mark.parametrize("metadata", FOREIGN.values(), ids=FOREIGN)
def test_load_refuses_foreign_headers(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    assert "was not written by pong" in refusal(foreign(path, metadata))
    assert checkpoint.load(foreign(path, signed(header()))).counters == Counters(1)  # which is valid


def test_load_refuses_foreign_content(tmp_path):
    path, tensor = tmp_path / "model.safetensors", "optimizer.first.step"
    assert "was not written by pong" in refusal(foreign(path, signed(header(), tensor), tensor))
    assert "gamma = 7" in refusal(foreign(path, signed(header(config={"gamma": 7}))))


def test_load_refuses_hostile_weights(tmp_path):
    path, weights = tmp_path / "model.safetensors", make_policy(CONFIG).state_dict()
    for value in (torch.nan, 1e300):  # which is infinite in 32 bits
        checkpoint.save_policy(path, CONFIG, COUNTERS, {**weights, "W2": torch.full((4,), value, dtype=torch.float64)})
        assert "policy.W2 is not finite" in refusal(path)
    checkpoint.save_policy(path, CONFIG.replace(hidden=10**9), COUNTERS, weights)
    with pytest.raises(InputError, match=r"^the checkpoint does not fit its config .*W1"):
        load_policy(path)
    path.write_bytes((2**23 + 1).to_bytes(8, "little") + bytes(2**23))
    assert "its header is too long" in refusal(path)


@pytest.mark.parametrize("number", [FORMAT - 1, FORMAT + 1])
def test_load_refuses_other_formats(tmp_path, number):
    path = foreign(tmp_path / "model.safetensors", signed(json.dumps({"format": number, "other": "things"})))
    expected = f"has format {number}, this version of pong reads {FORMAT}; use the version that wrote it"
    assert refusal(path).startswith(f"checkpoint {path} {expected}")


# --- games that no run has played -------------------------------------------------------------------------------------

GAME = GAME_DTYPE.names
HOSTILE = [  # an array, one of its places, a number that does not belong there
    *(("machine.pixels", place, value) for place in (0, 1) for value in (-1, 6400, 32767)),
    ("machine.pixels", 0, 36),
    *(("machine.game", GAME.index(name), value) for name in ("gym_drawn", "ale_drawn", "y") for value in (-99, 2**62)),
    ("machine.game", GAME.index("ale_drawn"), 623),
    *(("rows.columns", 0, value) for value in (-1, 6400)),
    *(("rows.counts", 0, value) for value in (-1, 72, 2**31 - 1)),
    *(("waiting.actions", 0, value) for value in (-1, 2)),
    ("rows.signs", 0, 2),
    *(("ale.executed", 0, value) for value in (-1, 6)),
    *(("ale.chance", -1, value) for value in (-1, 625)),
    ("ale.frames", 0, 2),
]
GENERATORS = {"inc": 2}, {"state": -1}, {"more": 1}  # each instead of PCG64's


@pytest.fixture(scope="module")
def rollouts():
    """Games of either emulator, with what they continue from."""
    with contextlib.ExitStack() as stack:
        pairs = []
        for emulator in ("machine", "ale"):
            config = CONFIG.replace(num_envs=1, horizon=20, players=1, emulator=emulator)
            rollout = stack.enter_context(contextlib.closing(Rollout(config, make_policy(config))))
            rollout.collect(0)
            pairs.append((rollout, rollout.state()[0]))
        yield pairs


def assert_foreign(rollout, state):
    with pytest.raises(InputError, match=r"^the checkpoint's games do not fit its config \(.+\)$"):
        rollout.restore([state])


@pytest.mark.parametrize(("name", "place", "value"), HOSTILE)
def test_restore_refuses_a_number_out_of_range(rollouts, name, place, value):
    for rollout, state in rollouts:
        if name in state:
            array = state[name].copy()
            array.reshape(-1)[place] = value
            assert_foreign(rollout, {**state, name: array})


def test_restore_refuses_other_types_shapes_and_generators(rollouts):
    for rollout, state in rollouts:
        for name, array in state.items():
            if "generator" in name:
                generator = json.loads(array.tobytes())
                texts = [json.dumps({**generator, "state": generator["state"] | change}) for change in GENERATORS]
                others = [np.frombuffer(text.encode(), np.uint8) for text in (*texts, 100_000 * "[")]
            elif name == "ale.console":
                others = [array[:-1000]]
            else:
                others = [array.astype(np.complex128), array[None], array.reshape(-1)[:-1], np.zeros((), array.dtype)]
            for other in others:
                assert_foreign(rollout, {**state, name: other})
            assert_foreign(rollout, {key: state[key] for key in state if key != name})
        rollout.restore([state])  # which is valid
        assert rollout.collect(1).steps >= 20


# --- damage -----------------------------------------------------------------------------------------------------------

TRIALS = 1_000  # bits


@pytest.fixture(scope="module")
def damageable(tmp_path_factory):
    """A run's newest checkpoint, its bytes, the length of its header, and the end of a refusal."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    older, path = (save(folder, Counters(n), hidden=1, play=GAMES, best=n == 2) for n in (2, 4))
    whole = path.read_bytes()
    return path, whole, 8 + int.from_bytes(whole[:8], "little"), f"; there is {older}, {folder / 'best.safetensors'}"


def refused_kind(damageable, content):
    """How the newest checkpoint is refused with that content: it is not passed over for an older one."""
    path, whole, _, ending = damageable
    path.write_bytes(content)
    message = refusal(path.parents[1], path)
    path.write_bytes(whole)
    assert message.startswith(f"checkpoint {path} ")
    assert message.endswith(ending)
    return message.removeprefix(f"checkpoint {path} ").split(":")[0].split(";")[0]


def test_load_any_bit_flipped(damageable):
    """1,000 bits at random, half of them in the header."""
    path, whole, header_length, _ = damageable
    assert checkpoint.load(path).counters.updates == 4
    rng = np.random.default_rng(0)
    kinds = set()
    for start, end in ((0, header_length), (header_length, len(whole))):
        for place in rng.integers(start, end, size=TRIALS // 2):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.integers(8)
            kinds.add(refused_kind(damageable, damaged))
    # by the bit: the file's own structure, the checksum, or the names in the header
    assert kinds == {"can't be read", "is damaged", "is damaged or was not written by pong"}


def test_load_cut_off_overwritten_or_longer(damageable):
    """Zeros as some file systems leave them after a power cut, and bytes appended to the file."""
    _, whole, header_length, _ = damageable
    ends = [0, 1, 7, 8, 9, header_length - 1, header_length, header_length + 1, len(whole) - 1]
    for length in (*ends, *np.random.default_rng(1).integers(len(whole), size=200)):
        assert refused_kind(damageable, whole[:length]) == "can't be read"
    for start in (0, header_length // 2, header_length, len(whole) // 2, len(whole) - 512):
        refused_kind(damageable, whole[:start] + bytes(512) + whole[start + 512 :])
    refused_kind(damageable, whole + b"\0")


# --- on the command line ----------------------------------------------------------------------------------------------

LAST = Path("run/checkpoints/update-000006.safetensors")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, compiled):
    """A finished run on dice in run/: 6 updates of 20 decisions, with checkpoints of updates 4 and 6."""
    monkeypatch.chdir(tmp_path)
    play(monkeypatch, Dice)
    flags = ["--horizon", "10", "--checkpoint-every", "2", "--total-steps", "120", "--run-dir", "run"]
    assert main(["train", RECIPE, *TINY, *flags]) == 0
    capsys.readouterr()


def assert_refused(capsys, words, *command):
    """The command is refused in one line with those words, and nothing is changed."""
    before = contents(".")
    assert main([*command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: ")
    assert words in line
    assert contents(".") == before
    assert Dice.open == 0


@pytest.mark.parametrize("command", ["train --resume run", "eval run --episodes 1"])
def test_load_commands_refuse_a_damaged_checkpoint(run, capsys, command):
    content = bytearray(LAST.read_bytes())
    content[-100] ^= 1
    LAST.write_bytes(content)
    words = "does not match its content; there is run/checkpoints/update-000004.safetensors"
    assert_refused(capsys, f"checkpoint {LAST} is damaged: its checksum {words}", *command.split())


@pytest.mark.parametrize(("old", "new"), [("gamma = 0.99", "gamma = 0.5"), ("hold = 4", 'hold = "2-4"')])
def test_resume_names_what_differs(run, capsys, old, new):
    config = Path("run/config.toml")
    config.write_text(config.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    words = f"run: {new.replace(chr(34), chr(39))}, but the run was started with {old.split()[-1]}; set it back, or "
    assert_refused(capsys, words, "train", "--resume", "run")


@pytest.mark.parametrize("source", ["no\x1b[2Jwhere", "agent"])
def test_eval_escapes_names(tmp_path, monkeypatch, capsys, source):
    """Of a path, and of a tensor."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save_policy(Path("agent/policy.safetensors"), CONFIG, COUNTERS, {"W\x1b[2J": torch.zeros(2)})
    assert_refused(capsys, r"\x1b[2J", "eval", source)
