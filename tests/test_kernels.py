"""Compiled play: decisions have torch's probabilities, and segments equal single steps bit for bit."""

import ast
import contextlib
import importlib
import runpy
import subprocess
import sys
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numba.core.caching import CompileResultCacheImpl
from small_runs import ROOT

from pong.config import Config
from pong.envs import task_spec
from pong.envs.pong import compiled, kernels, machine
from pong.envs.pong import fleet as machine_fleet
from pong.envs.pong.kernels import decide_rows
from pong.observations import PIXELS, SparseFrames
from pong.policies import CategoricalPolicy, KarpathyPolicy, TwoLayers
from pong.rollout import TRAINING, ActionNoise, Player

LAST = 1 - 2**-24  # noise is k/2²⁴, for k below 2²⁴


@pytest.fixture(scope="module")
def frames():
    """97 rows of about 25 pixels; row 50 has none."""
    rows = np.random.default_rng(0).choice(np.array([0, 1, -1], np.int8), (97, PIXELS), p=[0.996, 0.002, 0.002])
    rows[50] = 0
    return SparseFrames.from_dense(rows)


def make_network(hidden, outputs, spread=1.0, inputs=PIXELS):
    """Random weights; logits differ by about ``spread``."""
    generator = torch.Generator().manual_seed(hidden)
    W1 = torch.randn(inputs, hidden, generator=generator) / 5
    return W1, torch.randn(outputs, hidden, generator=generator) * spread / (hidden / 2) ** 0.5


def make_policy(W1, W2):
    """The policy with these weights."""
    (inputs, hidden), outputs = W1.shape, len(W2)
    policy = KarpathyPolicy(hidden) if outputs == 1 else CategoricalPolicy(TwoLayers(inputs, hidden, outputs))
    for parameter, values in zip(policy.parameters(), (W1, W2), strict=True):
        parameter.detach().copy_(values.view_as(parameter))
    return policy


def edges(act, rows, outputs, action=0):
    """How many of the 2²⁴ possible noise values give this action or one before it, for each of B rows: (B,).

    ``act`` makes actions (B,) of noise (B,). They grow with the noise; of a single output UP (1) comes before DOWN (0).
    """
    low, high = torch.full((rows,), -1), torch.full((rows,), 2**24)
    while (high - low).max() > 1:
        middle = (low + high) // 2
        actions = act(middle / 2**24)
        below = (1 - actions if outputs == 1 else actions) <= action
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


@pytest.mark.parametrize("spread", [0.1, 1, 5])
@pytest.mark.parametrize(("hidden", "outputs"), [(1, 1), (7, 1), (200, 1), (1, 3), (7, 2), (7, 3), (200, 3), (200, 6)])
def test_decide_rows_has_torchs_probabilities(frames, hidden, outputs, spread):
    network = make_network(hidden, outputs, spread)
    W1, W2 = (weights.double() for weights in network)
    logits = torch.relu(frames.dense(torch.float64) @ W1) @ W2.T
    sums = torch.sigmoid(logits) if outputs == 1 else torch.softmax(logits, -1).cumsum(-1)[:, :-1]
    assert sums.std() > spread / 200
    for action, expected in enumerate(sums.T):
        limits = edges(lambda noise: decide_rows(network, frames, noise)[1], len(frames), outputs, action) / 2**24
        torch.testing.assert_close(limits.double(), expected, rtol=0, atol=1e-6)
    assert decide_rows(network, frames, torch.full((97,), LAST))[1].max() == outputs - 1


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_decide_rows_by_hand(outputs):
    """All actions of empty rows are equally likely: the limits are ½, or ⅓ and ⅔."""
    noise = torch.tensor([0, 1 / 3 - 1e-6, 1 / 3 + 1e-6, 0.5 - 2**-24, 0.5, 2 / 3 - 1e-6, 2 / 3 + 1e-6, LAST])
    x = SparseFrames.from_dense(np.zeros((8, PIXELS), np.int8))
    expected = {1: [1, 1, 1, 1, 0, 0, 0, 0], 2: [0, 0, 0, 0, 1, 1, 1, 1], 3: [0, 0, 1, 1, 1, 1, 2, 2]}
    assert decide_rows(make_network(4, outputs), x, noise)[1].tolist() == expected[outputs]


def test_decide_rows_with_extreme_logits():
    """Logits of ±800, whose exponentials overflow float32."""
    x = SparseFrames.from_dense(np.eye(2, PIXELS, dtype=np.int8))
    W1 = torch.zeros(PIXELS, 2)
    W1[0, 0] = W1[1, 1] = 800.0
    for u in (0.0, 0.5, LAST):
        noise = torch.full((2,), u)
        assert decide_rows((W1, torch.tensor([[1.0, -1.0]])), x, noise)[1].tolist() == [1, 0]
        assert decide_rows((W1, torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), x, noise)[1].tolist() == [0, 1]
        assert decide_rows((W1, torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])), x, noise)[1][1] == 2


@pytest.mark.parametrize("outputs", [1, 3])
def test_decisions_ignore_other_rows(frames, outputs):
    """Batches of any size have the same limits, bit for bit."""
    policy, rows, zeros = make_policy(*make_network(200, outputs, 2.0)), torch.arange(97), torch.zeros(97)
    logits, likeliest = decide_rows(policy.two_layers, frames, zeros)[0], policy.act_greedily(frames)
    assert torch.equal(likeliest, logits.argmax(-1) if outputs > 1 else (logits[:, 0] > 0).long())
    edge = edges(lambda noise: policy.act(frames, noise), len(frames), outputs)
    before, after = (edge - 1) / 2**24, edge / 2**24  # the last number for one action, the first for another
    assert (policy.act(frames, before) != policy.act(frames, after)).all()
    for n in (1, 2, 3, 5, 8, 11, 32):
        parts = rows.split(n)
        assert torch.equal(torch.cat([decide_rows(policy.two_layers, frames[p], zeros[p])[0] for p in parts]), logits)
        assert torch.equal(torch.cat([policy.act_greedily(frames[part]) for part in parts]), likeliest)
        for noise in (before, after):
            actions = torch.cat([policy.act(frames[part], noise[part]) for part in parts])
            assert torch.equal(actions, policy.act(frames, noise))


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_policy_acts_by_its_two_layers(frames, outputs):
    """In compiled code on sparse rows, in torch on others, with the same probabilities."""
    W1, W2 = make_network(7, outputs, 3.0)
    policy = make_policy(W1, W2)
    for tensor, expected in zip(policy.two_layers, (W1, W2), strict=True):
        assert torch.equal(tensor, expected)
        assert not tensor.requires_grad
    noise = torch.rand(len(frames), generator=torch.Generator().manual_seed(1))
    actions = policy.act(frames, noise)
    assert actions.dtype == torch.int64
    assert torch.equal(actions, decide_rows((W1, W2), frames, noise)[1])
    assert torch.equal(actions, decide_rows((W1.double(), W2.double()), frames, noise)[1])
    assert torch.equal(actions, policy.act(frames.dense(), noise))  # none of these lies within 1e-6 of a limit
    assert policy.act(frames[torch.arange(0)], noise[:0]).tolist() == []
    torch.nn.init.zeros_(list(policy.parameters())[1])  # the current weights decide
    assert policy.act(frames, torch.full((97,), LAST)).tolist() == [outputs - 1] * 97


# --- segments ---------------------------------------------------------------------------------------------------------

BASE = Config(device="cpu", num_envs=3, horizon=70, hidden=8)
SHORT = {"max_frames": 100, "noop_max": 30, "hold": "2-4"}
EVERYTHING = {"actions": 3, "frames": "both", "last_action": True}
PLAYS = {  # changes of the config, and the least number of games that end
    "two actions and a difference": ({}, 0),
    "all six actions": ({**EVERYTHING, "actions": 6, "horizon": 300}, 0),
    "three frames": ({"frames": "three", **SHORT}, 25),
    "random holds and starts": ({"hold": "2-4", "noop_max": 30, "horizon": 250}, 0),
    "more than a block of noise": ({"horizon": 2 * ActionNoise.BLOCK + 90, "max_frames": 1000}, 6),
    "games that end often": ({**SHORT, **EVERYTHING}, 25),
    "games that end with every decision": ({"max_frames": 4}, 500),
    "whole games": ({"until": "episodes", "hold": "2-4", "max_frames": 400}, 12),
    "whole games and the last action": ({"until": "episodes", **SHORT, **EVERYTHING}, 12),
    "one emulator": ({**SHORT, "num_envs": 1}, 10),
    "forty emulators": ({**SHORT, "num_envs": 40, "hidden": 7}, 350),
}


@pytest.fixture
def make_players():
    """Makes two players of a config: the first plays in compiled code, the second one decision at a time.

    Their random weights give logits about as large as a trained policy's.
    """
    with contextlib.ExitStack() as stack:

        def make(config):
            outputs = 1 if config.actions == 2 else config.actions
            network = make_network(config.hidden, outputs, 2.0, task_spec(config).inputs)
            single = SimpleNamespace(two_layers=None, noise_shape=(), act=lambda *x: decide_rows(network, *x)[1])
            compiled = SimpleNamespace(two_layers=network, noise_shape=(), act=None)  # must not be called
            players = [Player(config, range(config.num_envs), TRAINING, actor) for actor in (compiled, single)]
            for player in players:
                stack.enter_context(contextlib.closing(player))
            return players

        yield make


def bits(x):
    """Sparse rows or arrays, to compare bit for bit."""
    if isinstance(x, SparseFrames):
        return [*map(bits, (x.columns, x.signs, x.offsets)), x.width]
    x = x.numpy() if isinstance(x, torch.Tensor) else x
    return x.dtype, x.shape, x.tobytes()


def content(player):
    """Everything in a player's batch, and in its state after it."""
    batch = player.batch.result()
    state = [{name: bits(array) for name, array in emulator.items()} for emulator in player.state(False)]
    episodes, counts = list(map(astuple, batch.episodes)), (batch.points, batch.steps, batch.frames)
    return bits(batch.observations), bits(batch.actions), bits(batch.returns), episodes, counts, state


def play_both(players, updates):
    """Play the same rollouts, compare them, and return their contents and batches."""
    contents, batches = [], []
    for update in updates:
        for player in players:
            player.start(update)
        contents.append(content(players[0]))
        assert contents[-1] == content(players[1])
        batches.append(players[0].batch.result())
    return contents, batches


@pytest.mark.parametrize(("changes", "episodes"), PLAYS.values(), ids=PLAYS)
def test_play_equals_single_steps(make_players, changes, episodes):
    config = BASE.model_copy(update=changes)
    _, batches = play_both(make_players(config), range(4))
    assert sum(len(batch.episodes) for batch in batches) >= episodes
    actions = torch.cat([batch.actions for batch in batches])
    assert actions.bincount(minlength=config.actions).min() > (0.05 if config.actions < 6 else 0.015) * len(actions)


@pytest.mark.parametrize("changes", [{}, {"until": "episodes", "max_frames": 300, "hold": "2-4"}], ids=str)
@pytest.mark.parametrize("most", [1, 7, 31])
def test_play_short_segments_equal_single_steps(monkeypatch, make_players, changes, most):
    """Of one time step, two, or ten of three emulators."""
    monkeypatch.setattr(machine_fleet, "MOST_ROWS", most)
    play_both(make_players(BASE.model_copy(update=changes)), range(3))


def test_play_continued_rollout_equals_single_steps(make_players):
    """The noise continues in the middle of a block."""
    players = make_players(BASE.model_copy(update={**SHORT, "horizon": 100}))
    play_both(players, [0])
    for _ in range(4):
        for player in players:
            player.resume()
        assert content(players[0]) == content(players[1])


@pytest.mark.parametrize("changes", [{}, {**SHORT, **EVERYTHING}], ids=str)
def test_play_and_single_steps_resume_each_other(make_players, changes):
    config = BASE.model_copy(update=changes)
    first, second = make_players(config), make_players(config)
    play_both(first, range(2))
    for player, other in zip(second, reversed(first), strict=True):
        player.restore(other.state(False))
    assert play_both(second, range(2, 4))[0] == play_both(first, range(2, 4))[0]


def test_kernel_names_change_with_their_sources(tmp_path):
    digests = set()
    for changed in (None, *compiled.SOURCES):
        for source in compiled.SOURCES:
            copy = tmp_path / source.relative_to(compiled.PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text() + "#" * (source == changed))
        digests.add(runpy.run_path(str(tmp_path / "envs/pong/compiled.py"))["DIGEST"])
    assert compiled.DIGEST in digests
    assert len(digests) == 1 + len(compiled.SOURCES)
    for kernel in (machine.step, machine.start_games, machine.observe, kernels.play, kernels.decide):
        assert kernel.py_func.__qualname__ == f"{kernel.py_func.__name__}-{compiled.DIGEST}"


def test_kernel_sources_are_complete():
    """Each module with compiled functions, and what it imports from: its constants are compiled in."""

    def has_compiled(tree):
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        return {"rule", "kernel"} & {d.id for node in functions for d in node.decorator_list if isinstance(d, ast.Name)}

    trees = {path: ast.parse(path.read_text()) for path in compiled.PACKAGE.rglob("*.py")}
    needed = {path: tree for path, tree in trees.items() if has_compiled(tree)}
    imports = [node for tree in needed.values() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {f"{node.module.replace('.', '/')}.py" for node in imports if node.module.startswith("pong")}
    assert {*needed, *(compiled.PACKAGE.parent / module for module in modules)} <= {*compiled.SOURCES}
    assert len(needed) > 1


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])  # Numba's index, and the code
@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"?" * len(data), None])
def test_kernel_does_without_a_damaged_cache(tmp_path, monkeypatch, capsys, suffix, damage):
    (tmp_path / "small.py").write_text(f"from {compiled.__name__} import kernel\n@kernel\ndef twice(x): return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)

    def play():
        """In a new process, as it were: whether the kernel was loaded, and what was printed."""
        monkeypatch.setattr(compiled, "FAILURES", [])
        monkeypatch.delitem(sys.modules, "small", raising=False)
        twice = importlib.import_module("small").twice
        assert twice(21) == 42
        return twice.stats.cache_hits.total() == 1, capsys.readouterr().err.splitlines()

    assert [play(), play()] == [(False, []), (True, [])]
    (file,) = tmp_path.rglob(f"*.{suffix}")
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:  # it can be neither read nor written nor removed
        file.unlink()
        file.mkdir()
    loaded, (line,) = play()
    assert not loaded
    assert line.startswith(f"pong: Numba's cache fails ({file.parent}: ")
    assert line.endswith("NUMBA_CACHE_DIR can name another folder")
    assert play() == ((True, []) if damage else (False, [line]))


def test_kernel_without_a_cache_folder_is_compiled_by_each_process(monkeypatch, capsys):
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])  # none of its folders can be written
    monkeypatch.setattr(compiled, "FAILURES", [])
    assert [compiled.kernel(lambda x, k=k: k * x)(21) for k in (2, 3)] == [42, 63]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pong: Numba's cache fails (cannot cache function ")


def test_make_clean_removes_the_cache(tmp_path):
    (cache := tmp_path / "pong/envs/__pycache__").mkdir(parents=True)
    for name in ("play.py311.1.nbc", "play.py311.nbi.tmp.5", "play.cpython-311.pyc"):
        (cache / name).touch()
    subprocess.run(["make", "-C", tmp_path, "-f", ROOT / "Makefile", "clean"], check=True)
    assert [file.suffix for file in cache.iterdir()] == [".pyc"]
