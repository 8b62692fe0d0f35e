"""Compiled decisions: the probabilities are torch's, the thresholds where they should be, and nobody else matters."""

import ast
import importlib.util
import shutil

import numpy as np
import pytest
import torch
from pong.two_layers import decide_all, decide_rows, logits_of_rows

from pong.envs.pong import compiled, machine
from pong.envs.pong import kernels as machine_play
from pong.observations import PIXELS, SparseFrames
from pong.policies import CategoricalPolicy, ConvNet, KarpathyPolicy, TwoLayers, mlp

LAST = 1 - 2**-24  # noise is k/2²⁴, for k below 2²⁴


@pytest.fixture(scope="module")
def frames():
    """96 rows of 25 pixels or so, and one that shows nothing."""
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array([0, 1, -1], np.int8), (97, PIXELS), p=[0.996, 0.002, 0.002])
    rows[50] = 0
    return SparseFrames.from_dense(rows)


def network(hidden, outputs, spread=1.0):
    """Random weights; logits differ by about so much."""
    generator = torch.Generator().manual_seed(hidden)
    W1 = torch.randn(PIXELS, hidden, generator=generator).T / 5
    return W1, torch.randn(outputs, hidden, generator=generator) * spread / (hidden / 2) ** 0.5


def policy_of(W1, W2):
    """The policy with these weights."""
    hidden, inputs = W1.shape
    if len(W2) == 1:
        policy, W2 = KarpathyPolicy(hidden, inputs), W2[0]
    else:
        policy = CategoricalPolicy(TwoLayers(inputs, hidden, len(W2)))
    for parameter, values in zip(policy.parameters(), (W1, W2), strict=True):
        parameter.detach().copy_(values)
    return policy


def growing(actions, outputs):
    """Actions as they grow with the noise: of a single output, UP comes first."""
    return 1 - actions if outputs == 1 else actions


def thresholds(act, rows, action):
    """For each of B rows how many of the 2²⁴ numbers that noise can be give at most that action: (B,).

    ``act`` makes actions (B,) of noise (B,), and must grow with it.
    """
    low, high = torch.full((rows,), -1), torch.full((rows,), 2**24)
    while (high - low).max() > 1:
        middle = (low + high) // 2
        below = act(middle / 2**24) <= action
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


# --- probabilities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.1, 1, 5])
@pytest.mark.parametrize("hidden", [1, 7, 200])
def test_up_is_as_likely_as_torch_says(frames, hidden, spread):
    weights = network(hidden, 1, spread)
    up = thresholds(lambda u: growing(decide_rows(weights, frames, u), 1), len(frames), 0) / 2**24
    W1, W2 = (w.double() for w in weights)
    expected = torch.sigmoid(torch.relu(frames.dense(torch.float64) @ W1.T) @ W2[0])
    torch.testing.assert_close(up.double(), expected, rtol=0, atol=1e-6)
    assert up[50] == 0.5  # nothing in, nothing out
    assert up.std() > spread / 200


@pytest.mark.parametrize("spread", [0.1, 1, 5])
@pytest.mark.parametrize(("hidden", "outputs"), [(1, 3), (7, 2), (7, 3), (200, 3), (200, 6)])
def test_each_of_several_actions_is_as_likely_as_torch_says(frames, hidden, outputs, spread):
    weights = network(hidden, outputs, spread)
    W1, W2 = (w.double() for w in weights)
    probs = torch.softmax(torch.relu(frames.dense(torch.float64) @ W1.T) @ W2.T, -1)
    for action in range(outputs - 1):
        reached = thresholds(lambda u: decide_rows(weights, frames, u), len(frames), action) / 2**24
        torch.testing.assert_close(reached.double(), probs[:, : action + 1].sum(1), rtol=0, atol=1e-6)
    assert decide_rows(weights, frames, torch.full((97,), LAST)).max() == outputs - 1


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_thresholds_by_hand(outputs):
    """Rows that show nothing: action 1 is as likely as any other, and begins at ½, or where action 0 ends."""
    weights = network(4, outputs)
    noise = torch.tensor([0, 1 / 3 - 1e-6, 1 / 3 + 1e-6, 0.5 - 2**-24, 0.5, 2 / 3 - 1e-6, 2 / 3 + 1e-6, LAST])
    x = SparseFrames.from_dense(np.zeros((8, PIXELS), np.int8))
    expected = {1: [1, 1, 1, 1, 0, 0, 0, 0], 2: [0, 0, 0, 0, 1, 1, 1, 1], 3: [0, 0, 1, 1, 1, 1, 2, 2]}
    assert decide_rows(weights, x, noise).tolist() == expected[outputs]


def test_what_is_certain_is_certain():
    """Logits of ±800, whose exponentials are no float32."""
    x = SparseFrames.from_dense(np.eye(2, PIXELS, dtype=np.int8))
    W1 = torch.zeros(2, PIXELS)
    W1[0, 0] = W1[1, 1] = 800.0
    for u in (0.0, 0.5, LAST):
        noise = torch.full((2,), u)
        assert decide_rows((W1, torch.tensor([[1.0, -1.0]])), x, noise).tolist() == [1, 0]
        assert decide_rows((W1, torch.tensor([[1.0, -1.0], [-1.0, 1.0]])), x, noise).tolist() == [0, 1]
        assert decide_rows((W1, torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])), x, noise)[1] == 2


def test_signs_count():
    """A pixel that vanished is less one that appeared, and units below 0 are silent."""
    x = SparseFrames.from_dense(np.array([[1], [-1]], np.int8) * np.eye(1, PIXELS, dtype=np.int8))
    W1 = torch.zeros(2, PIXELS)
    W1[:, 0] = torch.tensor([1.0, -1.0])
    up = thresholds(lambda u: growing(decide_rows((W1, torch.tensor([[2.0, 0.0]])), x, u), 1), 2, 0) / 2**24
    torch.testing.assert_close(up, torch.sigmoid(torch.tensor([2.0, 0.0])), rtol=0, atol=1e-6)


# --- what decides -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_decision_does_not_depend_on_who_else_is_decided_for(frames, outputs):
    """A player of three emulators must find the same thresholds as one of all 97, to the last bit."""
    policy, rows = policy_of(*network(200, outputs, 2.0)), torch.arange(len(frames))
    together, likeliest = logits_of_rows(policy.two_layers, frames), policy.act_greedily(frames)
    assert torch.equal(likeliest, together.argmax(-1) if outputs > 1 else (together[:, 0] > 0).long())
    edges = thresholds(lambda u: growing(policy.act(frames, u), outputs), len(frames), 0)
    noise = torch.stack([edges - 1, edges]) / 2**24  # the last number for an action, and the first for another
    expected = [policy.act(frames, u) for u in noise]
    assert (expected[0] != expected[1]).all()
    for n in (1, 2, 3, 5, 8, 11, 32):
        parts = rows.split(n)
        assert torch.equal(torch.cat([logits_of_rows(policy.two_layers, frames[some]) for some in parts]), together)
        assert torch.equal(torch.cat([policy.act_greedily(frames[some]) for some in parts]), likeliest)
        for u, actions in zip(noise, expected, strict=True):
            assert torch.equal(torch.cat([policy.act(frames[some], u[some]) for some in parts]), actions)


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_policy_decides_by_its_two_layers(frames, outputs):
    """In compiled code, on sparse rows; on any others torch does, with the same probabilities."""
    weights = network(7, outputs, 3.0)
    policy = policy_of(*weights)
    assert policy.two_layers is not None
    for tensor, expected in zip(policy.two_layers, weights, strict=True):
        assert not tensor.requires_grad
        assert torch.equal(tensor, expected)
    noise = torch.rand(len(frames), generator=torch.Generator().manual_seed(1))
    actions = policy.act(frames, noise)
    assert torch.equal(actions, decide_rows(weights, frames, noise))
    assert actions.dtype == torch.int64
    assert torch.equal(actions, policy.act(frames.dense(), noise))  # none of these lies within 1e-6 of a threshold
    # the weights that are now, not those that were
    with torch.no_grad():
        list(policy.parameters())[1].zero_()
    assert policy.act(frames, torch.full((97,), LAST)).tolist() == [max(outputs - 1, 0)] * 97


def test_others_have_no_two_layers():
    for policy in (CategoricalPolicy(ConvNet((1, 80, 80), [2], 4, 3)), CategoricalPolicy(mlp((4, 8, 2)))):
        assert policy.two_layers is None


def test_double_weights_and_no_rows(frames):
    W1, W2 = network(7, 3)
    noise = torch.linspace(0, LAST, 97)
    assert torch.equal(decide_rows((W1.double(), W2.double()), frames, noise), decide_rows((W1, W2), frames, noise))
    assert decide_rows((W1, W2), frames[torch.arange(0)], noise[:0]).tolist() == []


# --- what is kept of a compilation ------------------------------------------------------------------------------------

PONG = compiled.HERE


def kernels_name(folder):
    """What the copy of ``pong.envs.pong.compiled`` in that folder calls a kernel."""
    spec = importlib.util.spec_from_file_location("copy_of_compiled", folder / "compiled.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def play():
        pass

    return module.kernel(play).py_func.__qualname__


@pytest.mark.parametrize("source", compiled.SOURCES)
def test_a_kernel_is_compiled_anew_when_any_source_changes(tmp_path, source):
    for name in ("compiled.py", *compiled.SOURCES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PONG / name, tmp_path / name)
    before = kernels_name(tmp_path)
    assert before.endswith(f"play-{compiled.DIGEST}")
    with (tmp_path / source).open("a") as file:
        file.write("#")
    after = kernels_name(tmp_path)
    assert after != before
    assert len(after) == len(before)


def test_every_file_with_compiled_functions_is_a_source():
    def marked(path):
        functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
        names = {d.id for node in functions for d in node.decorator_list if isinstance(d, ast.Name)}
        return names & {"rule", "kernel"}

    assert {path.relative_to(PONG).as_posix() for path in PONG.rglob("*.py") if marked(path)} == {*compiled.SOURCES}


@pytest.mark.parametrize("kernel", [machine.step, machine.begin_all, machine.rows, machine_play.play, decide_all])
def test_kernels_are_named_by_all_sources(kernel):
    assert kernel.py_func.__qualname__ == f"{kernel.py_func.__name__}-{compiled.DIGEST}"
