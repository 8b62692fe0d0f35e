"""Policies: logits and log-probabilities by hand, sparse and dense inputs, initial weights, and sampled actions."""

import contextlib
import copy
import itertools
from math import e, exp, log, log1p, pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pong import checkpoint, policies
from pong.config import Config
from pong.losses import surrogate_loss
from pong.observations import PIXELS, SparseFrames
from pong.policies import (
    CategoricalPolicy,
    ConvNet,
    GaussianPolicy,
    KarpathyPolicy,
    TwoLayers,
    contrast,
    make_policy,
    make_value_network,
    mlp,
)
from pong.train import Trainer, load_policy

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}  # dense and sparse sums have different orders


def assert_near(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def frames():
    """50 difference frames, (50, 6400) int8: 0 to 60 changed pixels a row, among them rows with none."""
    rng = np.random.default_rng(0)
    rows = np.zeros((50, PIXELS), np.int8)
    for row in rows:
        columns = rng.choice(PIXELS, rng.integers(61), replace=False)
        row[columns] = rng.choice(np.array([-1, 1], np.int8), len(columns))
    rows[[0, 7, 8, 49]] = 0
    return rows


def by_hand():
    """Three units on the first two pixels.

    x·W1 for x = (1, −1), (−1, 0), (1, 0), 0: (1, 0, −6), (−2, 1, 2), (2, −1, −2), 0. After the ReLU: (1, 0, 0),
    (0, 1, 2), (2, 0, 0), 0. Times W2 = (1, −3, 2): the logits 1, 1, 2, 0.
    """
    policy = KarpathyPolicy(3).double()
    with torch.no_grad():
        policy.W1.zero_()
        policy.W1[:2] = torch.tensor([[2, -1, -2], [1, -1, 4]])
        policy.W2.copy_(torch.tensor([1, -3, 2]))
    x = torch.zeros(4, PIXELS, dtype=torch.float64)
    x[:3, :2] = torch.tensor([[1, -1], [-1, 0], [1, 0]])
    return policy, x


LOGITS = [1, 1, 2, 0]


def with_logits(values):
    """A float64 policy and inputs with these logits: one unit per sign, one pixel per value."""
    values = torch.tensor(values, dtype=torch.float64)
    policy = KarpathyPolicy(2).double()
    with torch.no_grad():
        policy.W1.zero_()
        policy.W1[: len(values), 0] = values.clamp_min(0)
        policy.W1[: len(values), 1] = (-values).clamp_min(0)
        policy.W2.copy_(torch.tensor([1, -1]))
    return policy, torch.eye(len(values), PIXELS, dtype=torch.float64)


# --- forward ----------------------------------------------------------------------------------------------------------


def test_karpathy_policy_logits_by_hand():
    policy, x = by_hand()
    assert_near(policy(x), LOGITS)
    assert_near(policy(SparseFrames.from_dense(x.numpy().astype(np.int8))), LOGITS)


@st.composite
def narrow_frames(draw):
    """(B, 6) int8 and the same rows as ``SparseFrames``; rows and columns may be empty, and B may be 0."""
    rows = draw(st.lists(st.lists(st.sampled_from([0, 0, 0, 1, -1]), min_size=6, max_size=6), max_size=5))
    x = np.array(rows, np.int8).reshape(-1, 6)
    offsets = np.count_nonzero(x, 1).cumsum() - np.count_nonzero(x, 1)
    columns, signs = np.nonzero(x)[1].astype(np.int32), x[x != 0].astype(np.float32)
    return x, SparseFrames(*map(torch.from_numpy, (columns, signs, offsets.astype(np.int32))), width=6)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(narrow_frames())
def test_sparse_product_equals_the_dense_product(frames):
    x, sparse = frames
    dense = torch.from_numpy(x).double()
    W1 = torch.randn(6, 4, dtype=torch.float64, generator=generator()).requires_grad_()
    of_product = torch.randn(len(x), 4, dtype=torch.float64, generator=generator(1))
    product = sparse @ W1
    assert product.shape == (len(x), 4)
    assert_near(product.detach(), (dense @ W1).detach(), 1e-14)
    (gradient,) = torch.autograd.grad(product, W1, of_product)
    assert gradient.shape == W1.shape
    assert_near(gradient, dense.T @ of_product, 1e-14)
    assert not gradient[~x.any(0)].any()
    assert torch.autograd.gradcheck(lambda W1: sparse @ W1, W1)
    (gradient,) = torch.autograd.grad((sparse @ W1).sum(), W1)  # of a gradient with stride 0
    assert_near(gradient, dense.sum(0)[:, None].expand(6, 4), 1e-14)


def test_karpathy_policy_empty_rows_and_no_rows():
    policy = KarpathyPolicy(generator=generator())
    for rows in (3, 0):
        frames = np.zeros((rows, PIXELS), np.int8)
        for x in (torch.from_numpy(frames).float(), SparseFrames.from_dense(frames)):
            assert torch.equal(policy(x), torch.zeros(rows))  # no biases, so p = ½
            assert policy.act(x, torch.full((rows,), 0.4)).tolist() == [1] * rows


# --- parameters -------------------------------------------------------------------------------------------------------


def test_karpathy_policy_parameters():
    shapes = {name: tuple(parameter.shape) for name, parameter in KarpathyPolicy().named_parameters()}
    assert shapes == {"W1": (6400, 200), "W2": (200,)}
    assert list(KarpathyPolicy().buffers()) == []
    assert {name: tuple(p.shape) for name, p in KarpathyPolicy(7).named_parameters()} == {"W1": (6400, 7), "W2": (7,)}


def test_karpathy_policy_initial_variance():
    # The deviation of n draws is within 4/√(2n) of the true one, relatively; their mean within 4/√n deviations of 0;
    # and 68.27 % of them lie within one deviation, ± 4·√(0.68·0.32/n).
    policy = KarpathyPolicy(generator=generator())
    wide = KarpathyPolicy(20_000, inputs=16, generator=generator(1))
    for weights, fan_in in ((policy.W1, 6400), (policy.W2, 200), (wide.W1, 16), (wide.W2, 20_000)):
        n = weights.numel()
        unit = weights.detach().double() * sqrt(fan_in)
        assert unit.std().item() == pytest.approx(1, abs=4 / sqrt(2 * n))
        assert unit.mean().item() == pytest.approx(0, abs=4 / sqrt(n))
        assert (unit.abs() < 1).double().mean().item() == pytest.approx(0.6827, abs=4 * sqrt(0.68 * 0.32 / n))


@pytest.mark.parametrize("changes", [{}, {"policy": "conv"}, {"env": "CartPole-v1", "policy": "mlp"}], ids=str)
def test_make_policy_depends_only_on_the_seed(changes):
    torch.manual_seed(1)
    policy = make_policy(Config(**changes))
    torch.manual_seed(2)
    again, other = make_policy(Config(**changes)), make_policy(Config(**changes, seed=2))
    assert all(torch.equal(*pair) for pair in zip(policy.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(policy.parameters()), next(other.parameters()))


# --- log π(a|x) -------------------------------------------------------------------------------------------------------


def test_log_prob_by_hand():
    # log σ(z) = −log(1 + e^−z) for UP, log σ(−z) = −log(1 + e^z) for DOWN
    policy, x = by_hand()
    up, down = (policy.log_prob(x, torch.full((4,), action)) for action in (1, 0))
    assert_near(up, [-log1p(exp(-z)) for z in LOGITS])
    assert_near(down, [-log1p(exp(z)) for z in LOGITS])
    assert_near(up[0], log(e / (1 + e)))
    assert_near(up[3], log(0.5))
    assert_near(up.exp() + down.exp(), [1] * 4)


def test_log_prob_of_extreme_logits():
    # log σ(±800) is −e^−800 = 0 and −800: σ(−800) underflows in float64, but its logarithm does not
    policy, x = with_logits([800, -800, 40, -40])
    assert_near(policy.log_prob(x, torch.tensor([1, 1, 1, 1])), [0, -800, -exp(-40), -40])
    assert_near(policy.log_prob(x, torch.tensor([0, 0, 0, 0])), [-800, 0, -40, -exp(-40)])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64])
def test_log_prob_takes_integer_actions(dtype):
    policy, x = by_hand()
    actions = torch.tensor([1, 0, 0, 1])
    log_probs = policy.log_prob(x, actions.to(dtype))
    assert log_probs.dtype == torch.float64
    assert_near(log_probs, [-log1p(exp(-1)), -log1p(exp(1)), -log1p(exp(2)), log(0.5)])


# --- actions ----------------------------------------------------------------------------------------------------------


def test_act_is_up_where_the_noise_is_below_p():
    policy, x = by_hand()
    p = torch.sigmoid(policy(x)).detach()
    above, below = torch.nextafter(p, torch.tensor(1.0)), torch.nextafter(p, torch.tensor(0.0))
    assert policy.act(x, below).tolist() == [1] * 4
    assert policy.act(x, p).tolist() == [0] * 4  # strictly below: u on [0, 1) lies below p with probability p exactly
    assert policy.act(x, above).tolist() == [0] * 4
    assert policy.act(x, torch.tensor([0.7, 0.8, 0.8, 0.4])).tolist() == [1, 0, 1, 1]  # p = 0.73, 0.73, 0.88, 0.5


def test_act_with_extreme_noise():
    policy, x = with_logits([800, -800, 0])  # p = 1, 0, ½
    last = 1 - 2**-24  # the largest float32 below 1
    assert policy.act(x, torch.zeros(3)).tolist() == [1, 0, 1]
    assert policy.act(x, torch.full((3,), last)).tolist() == [1, 0, 0]
    assert policy.act(x, torch.full((3,), 0.5)).tolist() == [1, 0, 0]


def test_act_greedily_is_the_likelier_action():
    policy, x = with_logits([1e-9, -1e-9, 0, 5, -5])
    assert policy.act_greedily(x).tolist() == [1, 0, 0, 1, 0]


# --- several outputs and convolutions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_two_layers_equal_karpathys_network(frames, dtype):
    network = TwoLayers(PIXELS, 7, 3, generator(1)).to(dtype)
    assert not network.W2.any()  # uniform at first
    nn.init.normal_(network.W2, generator=generator(2))
    for k in range(3):
        single = KarpathyPolicy(7).to(dtype)
        single.load_state_dict({"W1": network.W1.detach(), "W2": network.W2[k].detach()})
        for x in (SparseFrames.from_dense(frames), torch.from_numpy(frames).to(dtype)):
            torch.testing.assert_close(network(x)[:, k], single(x), rtol=0, atol=TOLERANCES[dtype])


def test_conv_net_by_hand():
    """16 × 16 pixels and a filter of ones: sums of 8 × 8 pixels at 3 × 3 places; sparse ones are scaled by 10."""
    network = ConvNet((1, 16, 16), [1], hidden=1, outputs=2, extra=1)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    nn.init.constant_(network.convolutions[0].bias, -639.0)
    nn.init.zeros_(network.hidden.bias)
    nn.init.zeros_(network.outputs.bias)
    picture = torch.full((1, 1, 16, 16), 10.0)
    assert network.hidden.in_features == 9 + 1
    # each of nine places gives 640 − 639 = 1; the extra number is scaled by 10, too
    row = SparseFrames.from_dense(np.ones((1, 256 + 1), np.int8))
    assert network(row).tolist() == [[9.0 + 10.0] * 2]
    picture[0, 0, 0, 0] = 0  # only covered by the first place, which is now 0
    bare = ConvNet((1, 16, 16), [1], hidden=1, outputs=2)
    bare.load_state_dict(network.state_dict() | {"hidden.weight": torch.ones(1, 9)})
    assert bare(picture).tolist() == [[8.0, 8.0]]
    grey = picture.byte()
    assert torch.equal(bare(grey), bare(contrast(grey)))


def test_contrast_by_hand():
    """Each line's mean is subtracted; an image of uniform lines becomes 0."""
    bright, dark = [51, 51, 51, 55, 55, 55], [1, 1, 1, 5, 5, 5]
    pictures = torch.tensor([[bright, dark], [[10 * p for p in dark]] * 2, [[7] * 6, [9] * 6]], dtype=torch.uint8)
    ones = [[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]] * 2
    assert contrast(pictures).tolist() == [ones, ones, [[0.0] * 6] * 2]
    assert contrast(pictures[:, None]).tolist() == [[ones], [ones], [[[0.0] * 6] * 2]]


def test_conv_policy_starts_uniform(frames):
    network = ConvNet((1, 80, 80), [4, 8], 16, 3, generator=generator(1))
    policy = CategoricalPolicy(network)
    sparse, dense = SparseFrames.from_dense(frames), torch.from_numpy(frames).float().view(-1, 1, 80, 80)
    torch.testing.assert_close(policy.distribution(sparse).probs, torch.full((50, 3), 1 / 3))
    nn.init.normal_(network.outputs.weight, generator=generator(2))
    moved = policy.distribution(sparse).probs
    assert moved.std(0).min() > 0.01
    torch.testing.assert_close(policy.distribution(10 * dense).probs, moved)


def test_conv_net_ignores_the_size_of_parts(frames, monkeypatch):
    network = ConvNet((1, 80, 80), [4, 8], 16, 3, generator=generator(1))
    nn.init.normal_(network.outputs.weight, generator=generator(2))
    x = SparseFrames.from_dense(frames)
    at_once = network(x)
    monkeypatch.setattr(policies, "CPU_ROWS", 7)
    torch.testing.assert_close(network(x), at_once)
    assert at_once.shape == (50, 3)


def test_conv_net_initial_weights():
    """ReLU halves the variance, so the weights have twice one over the inputs: He et al. 2015, equation 10."""
    weights = ConvNet((2, 80, 80), [4, 8, 8], 16, 3, generator=generator(1)).hidden.weight
    assert weights.var().item() == pytest.approx(2 / weights.shape[1], rel=0.05)


# --- policies of other environments -----------------------------------------------------------------------------------


def constant_network(*values):
    """A network with these outputs for every row."""
    network = nn.Linear(1, len(values), dtype=torch.float64)
    nn.init.zeros_(network.weight)
    network.bias.data = torch.tensor(values, dtype=torch.float64)
    return network


X = torch.zeros(3, 1, dtype=torch.float64)


def test_categorical_policy_by_hand():
    """π = (1/6, 1/3, 1/2): noise below 1/6 is action 0, below 1/2 action 1, the rest action 2."""
    policy = CategoricalPolicy(constant_network(0.0, log(2), log(3)))
    noise = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.999])
    assert policy.act(torch.zeros(6, 1, dtype=torch.float64), noise).tolist() == [0, 0, 1, 1, 2, 2]
    assert policy.act_greedily(X).tolist() == [2, 2, 2]
    assert policy.log_prob(X, torch.tensor([0, 1, 2])).tolist() == pytest.approx([log(1 / 6), log(1 / 3), log(1 / 2)])


def test_gaussian_policy_act_samples_quantiles():
    """Φ(1) = .8413447: one σ above the mean."""
    policy = GaussianPolicy(constant_network(1.0, -2.0), 2).double()
    policy.log_std.data = torch.tensor([0.0, log(3)], dtype=torch.float64)
    noise = torch.tensor([[0.5, 0.5], [0.8413447, 0.5], [0.5, 0.8413447]], dtype=torch.float64)
    expected = torch.tensor([[1, -2], [2, -2], [1, 1]], dtype=torch.float64)
    torch.testing.assert_close(policy.act(X, noise), expected, rtol=0, atol=2e-6)  # act shifts the noise by half a bit
    assert policy.act_greedily(X).tolist() == [[1, -2]] * 3
    extremes = policy.act(X[:2], torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]]))
    assert extremes.isfinite().all()


def test_gaussian_policy_gradient_by_hand():
    """σ = (½, 1), a − μ = (1, −2), R = 3: ∂μ = (a−μ)/σ²·R = (12, −6), ∂log σ = ((a−μ)²/σ² − 1)·R = (9, 9)."""
    policy = GaussianPolicy(constant_network(0.25, 1.0), 2).double()
    policy.log_std.data = torch.tensor([log(0.5), 0.0], dtype=torch.float64)
    log_probs = policy.log_prob(X[:1], torch.tensor([[1.25, -1.0]], dtype=torch.float64))
    # −½·4 − log ½ − ½·4 − log 1 − log 2π
    assert log_probs.tolist() == pytest.approx([-2 + log(2) - 2 - log(2 * pi)], abs=1e-12)
    surrogate_loss(log_probs, torch.tensor([3.0], dtype=torch.float64)).backward()
    assert policy.network.bias.grad.tolist() == pytest.approx([-12, 6], abs=1e-12)
    assert policy.log_std.grad.tolist() == pytest.approx([-9, -9], abs=1e-12)
    assert policies.diagnostics(policy.distribution(X))["std"].mean().item() == pytest.approx(0.75, abs=1e-12)


def test_mlp_layers():
    network, again = (mlp((4, 10, 2, 3), generator(1)) for _ in range(2))
    assert [tuple(p.shape) for p in network.parameters()] == [(10, 4), (10,), (2, 10), (2,), (3, 2), (3,)]
    assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert 0 < network[0].weight.abs().max() <= 1 / 2  # 1/√4
    assert torch.equal(network(torch.randn(5, 4)), torch.zeros(5, 3))  # uniform at first
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), again.parameters(), strict=True))


def test_make_value_network_layers():
    config = Config(env="CartPole-v1", policy="mlp", hidden=8, baseline="network", baseline_hidden=[5, 3])
    network = make_value_network(config)
    assert [tuple(p.shape) for p in network.parameters()] == [(5, 4), (5,), (3, 5), (3,), (1, 3), (1,)]
    assert torch.equal(network(torch.randn(7, 4)), torch.zeros(7))


# --- torch.compile and autocast ---------------------------------------------------------------------------------------

CARTPOLE = Config(env="CartPole-v1", policy="mlp", hidden=8, baseline="network", num_envs=2, horizon=40, device="cpu")


def test_compiled_policy_is_saved_like_a_plain_one(tmp_path):
    policy = make_policy(CARTPOLE)
    weights = copy.deepcopy(policy.state_dict())
    policy.network = torch.compile(policy.network)  # nothing is compiled before it is called
    path = tmp_path / "policy.safetensors"
    checkpoint.save_policy(path, CARTPOLE, checkpoint.Counters(), torch.compile(policy).state_dict())
    torch.testing.assert_close(load_policy(path)[0].state_dict(), weights, rtol=0, atol=0)


def test_run_ignores_autocast():
    def trained(context):
        with contextlib.closing(Trainer(CARTPOLE)) as trainer, context:
            stats = [update.stats for update in itertools.islice(trainer.run(), 3)]
            return stats, [p.tolist() for p in (*trainer.policy.parameters(), *trainer.baseline.network.parameters())]

    assert trained(torch.autocast("cpu", torch.bfloat16)) == trained(contextlib.nullcontext())
