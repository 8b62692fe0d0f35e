"""KarpathyPolicy: logits by hand, two forms of one input, the initial weights, and how noise becomes actions."""

from math import e, exp, log, log1p, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pong import policies
from pong.observations import PIXELS, SparseFrames
from pong.policies import (
    Bernoulli,
    CategoricalPolicy,
    ConvNet,
    KarpathyPolicy,
    SparseProduct,
    TwoLayers,
    contrast,
    make_policy,
)

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}  # dense and sparse add up in different orders


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
    """A float64 policy and inputs whose logits are ``values``: one unit per sign, one pixel per value."""
    values = torch.tensor(values, dtype=torch.float64)
    policy = KarpathyPolicy(2).double()
    with torch.no_grad():
        policy.W1.zero_()
        policy.W1[: len(values), 0] = values.clamp_min(0)
        policy.W1[: len(values), 1] = (-values).clamp_min(0)
        policy.W2.copy_(torch.tensor([1, -1]))
    return policy, torch.eye(len(values), PIXELS, dtype=torch.float64)


# --- forward ----------------------------------------------------------------------------------------------------------


def test_logits_by_hand():
    policy, x = by_hand()
    assert_near(policy(x), LOGITS)
    assert_near(policy(SparseFrames.from_dense(x.numpy().astype(np.int8))), LOGITS)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_sparse_and_dense_give_the_same_logits_and_gradients(frames, dtype):
    policy = KarpathyPolicy(generator=generator()).to(dtype)
    weights = torch.linspace(-1, 1, len(frames), dtype=dtype)  # what each row's logit counts for
    results = []
    for x in (torch.from_numpy(frames).to(dtype), SparseFrames.from_dense(frames)):
        logits = policy(x)
        assert logits.dtype == dtype
        assert logits.shape == (50,)
        gradients = torch.autograd.grad((logits * weights).sum(), list(policy.parameters()))
        results.append((logits.detach(), *gradients))
    for dense, sparse in zip(*results, strict=True):
        assert dense.abs().max() > 0.01  # not the agreement of zeros
        assert_near(sparse, dense, TOLERANCES[dtype])


@st.composite
def narrow_frames(draw):
    """Rows of 6 numbers, some without any, among which no row may have some column; B may be 0."""
    rows = draw(st.lists(st.lists(st.sampled_from([0, 0, 0, 1, -1]), min_size=6, max_size=6), max_size=5))
    x = np.array(rows, np.int8).reshape(-1, 6)
    offsets = np.count_nonzero(x, 1).cumsum() - np.count_nonzero(x, 1)
    columns, signs = np.nonzero(x)[1].astype(np.int32), x[x != 0].astype(np.float32)
    return x, SparseFrames(*map(torch.from_numpy, (columns, signs, offsets.astype(np.int32))), width=6)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(narrow_frames())
def test_a_sparse_product_and_its_gradient_are_the_dense_ones(frames):
    """Also of a row without a pixel, and in the columns of pixels that are in no row."""
    x, sparse = frames
    dense = torch.from_numpy(x).double()
    W1 = torch.randn(6, 4, dtype=torch.float64, generator=generator()).requires_grad_()
    of_product = torch.randn(len(x), 4, dtype=torch.float64, generator=generator(1))
    product = SparseProduct.apply(sparse, W1)
    assert product.shape == (len(x), 4)
    assert_near(product.detach(), (dense @ W1).detach(), 1e-14)
    (gradient,) = torch.autograd.grad(product, W1, of_product)
    assert gradient.shape == W1.shape
    assert_near(gradient, dense.T @ of_product, 1e-14)
    assert not gradient[~x.any(0)].any()
    assert torch.autograd.gradcheck(lambda W1: SparseProduct.apply(sparse, W1), W1)
    (gradient,) = torch.autograd.grad(SparseProduct.apply(sparse, W1).sum(), W1)  # of a gradient with stride 0
    assert_near(gradient, dense.sum(0)[:, None].expand(6, 4), 1e-14)


def test_rows_without_a_change_and_no_rows_at_all():
    policy = KarpathyPolicy(generator=generator())
    for rows in (3, 0):
        frames = np.zeros((rows, PIXELS), np.int8)
        for x in (torch.from_numpy(frames).float(), SparseFrames.from_dense(frames)):
            assert torch.equal(policy(x), torch.zeros(rows))  # no biases: nothing in, nothing out, p = ½
            assert policy.act(x, torch.full((rows,), 0.4)).tolist() == [1] * rows


def test_an_all_zero_input_teaches_nothing():
    # The ReLU's slope at 0 is taken as 0, as NumPy's h > 0 does: ∂/∂W1 = 0 and ∂/∂W2 = h = 0.
    policy = KarpathyPolicy(generator=generator())
    policy.log_prob(SparseFrames.from_dense(np.zeros((2, PIXELS), np.int8)), torch.tensor([1, 0])).sum().backward()
    assert not policy.W1.grad.any()
    assert not policy.W2.grad.any()


# --- parameters -------------------------------------------------------------------------------------------------------


def test_two_matrices_and_no_biases():
    shapes = {name: tuple(parameter.shape) for name, parameter in KarpathyPolicy().named_parameters()}
    assert shapes == {"W1": (6400, 200), "W2": (200,)}
    assert list(KarpathyPolicy().buffers()) == []
    assert {name: tuple(p.shape) for name, p in KarpathyPolicy(7).named_parameters()} == {"W1": (6400, 7), "W2": (7,)}


def test_initial_weights_are_normal_with_variance_one_over_fan_in():
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


def test_initial_weights_come_from_the_generator_alone(recorded):
    torch.manual_seed(1)
    first = KarpathyPolicy(generator=generator(5))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second, other = KarpathyPolicy(generator=generator(5)), KarpathyPolicy(generator=generator(6))
    assert torch.equal(first.W1, second.W1)
    assert torch.equal(first.W2, second.W2)
    assert not torch.equal(first.W1, other.W1)
    assert not torch.equal(first.W2, other.W2)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # the global stream was not touched
    made = make_policy(recorded.config)  # the config's seed decides
    np.testing.assert_array_equal(made.W1.detach().numpy().T, recorded.before[0])
    np.testing.assert_array_equal(made.W2.detach().numpy(), recorded.before[1])


# --- log π(a|x) -------------------------------------------------------------------------------------------------------


def test_log_prob_is_the_log_sigmoid_of_the_signed_logit():
    # log σ(z) = −log(1 + e^−z) for UP, log σ(−z) = −log(1 + e^z) for DOWN
    policy, x = by_hand()
    up, down = (policy.log_prob(x, torch.full((4,), action)) for action in (1, 0))
    assert_near(up, [-log1p(exp(-z)) for z in LOGITS])
    assert_near(down, [-log1p(exp(z)) for z in LOGITS])
    assert_near(up[0], log(e / (1 + e)))
    assert_near(up[3], log(0.5))
    assert_near(up.exp() + down.exp(), [1] * 4)


def test_log_prob_stays_finite_where_the_probability_rounds_to_0_or_1():
    # log σ(±800) is −e^−800 = 0 and −800: σ(−800) is no float64 other than 0, its logarithm is one
    policy, x = with_logits([800, -800, 40, -40])
    assert_near(policy.log_prob(x, torch.tensor([1, 1, 1, 1])), [0, -800, -exp(-40), -40])
    assert_near(policy.log_prob(x, torch.tensor([0, 0, 0, 0])), [-800, 0, -40, -exp(-40)])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64])
def test_actions_may_be_integers(dtype):
    policy, x = by_hand()
    actions = torch.tensor([1, 0, 0, 1])
    log_probs = policy.log_prob(x, actions.to(dtype))
    assert log_probs.dtype == torch.float64
    assert_near(log_probs, [-log1p(exp(-1)), -log1p(exp(1)), -log1p(exp(2)), log(0.5)])


def test_score_is_y_minus_p():
    # ∂/∂z log π(y|x) = y − σ(z), Karpathy's "y - aprob"
    logits = torch.tensor([1.0, 1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1, 0, 0, 1])
    (score,) = torch.autograd.grad(Bernoulli(logits=logits).log_prob(y).sum(), logits)
    assert_near(score, [value - 1 / (1 + exp(-z)) for value, z in zip([1, 0, 0, 1], LOGITS, strict=True)])


def test_distribution_is_a_bernoulli_over_up():
    policy, x = by_hand()
    distribution = policy.distribution(x)
    p = [1 / (1 + exp(-z)) for z in LOGITS]
    assert isinstance(distribution, torch.distributions.Bernoulli)
    assert_near(distribution.probs, p)
    assert_near(distribution.entropy(), [-q * log(q) - (1 - q) * log(1 - q) for q in p])


# --- actions ----------------------------------------------------------------------------------------------------------


def test_up_where_the_noise_lies_below_p():
    policy, x = by_hand()
    p = torch.sigmoid(policy(x)).detach()
    above, below = torch.nextafter(p, torch.tensor(1.0)), torch.nextafter(p, torch.tensor(0.0))
    one, zero = [1] * 4, [0] * 4
    assert policy.act(x, below).tolist() == one
    assert policy.act(x, p).tolist() == zero  # strictly below: u on [0, 1) lies below p with probability p exactly
    assert policy.act(x, above).tolist() == zero
    assert policy.act(x, torch.tensor([0.7, 0.8, 0.8, 0.4])).tolist() == [1, 0, 1, 1]  # p = 0.73, 0.73, 0.88, 0.5


def test_noise_at_the_edges():
    policy, x = with_logits([800, -800, 0])  # p = 1, 0, ½
    last = 1 - 2**-24  # the largest float32 below 1
    assert policy.act(x, torch.zeros(3)).tolist() == [1, 0, 1]
    assert policy.act(x, torch.full((3,), last)).tolist() == [1, 0, 0]
    assert policy.act(x, torch.full((3,), 0.5)).tolist() == [1, 0, 0]


def test_act_greedily_takes_the_likelier_action_and_down_on_a_tie():
    policy, x = with_logits([1e-9, -1e-9, 0, 5, -5])
    assert policy.act_greedily(x).tolist() == [1, 0, 0, 1, 0]


def test_actions_are_integers_without_a_gradient(frames):
    policy = KarpathyPolicy(generator=generator())
    x = SparseFrames.from_dense(frames)
    for actions in (policy.act(x, torch.rand(50, generator=generator())), policy.act_greedily(x)):
        assert actions.dtype == torch.int64
        assert actions.shape == (50,)
        assert not actions.requires_grad
        assert set(actions.tolist()) == {0, 1}


def test_actions_follow_p():
    # 20,000 uniform numbers on p = σ(1) = 0.7311: the share of UP is within 4·√(p(1 − p)/n) = 0.0125
    policy = KarpathyPolicy(1, inputs=1)
    with torch.no_grad():
        policy.W1.fill_(1)
        policy.W2.fill_(1)
    actions = policy.act(torch.ones(20_000, 1), torch.rand(20_000, generator=generator()))
    assert actions.double().mean().item() == pytest.approx(1 / (1 + exp(-1)), abs=0.0125)


# --- several outputs, and convolutions --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_two_layers_are_karpathys_network_for_each_output(frames, dtype):
    network = TwoLayers(PIXELS, 7, 3, generator(1)).to(dtype)
    assert not network.W2.any()  # indifferent at first
    nn.init.normal_(network.W2, generator=generator(2))
    for k in range(3):
        one = KarpathyPolicy(7).to(dtype)
        one.load_state_dict({"W1": network.W1.detach(), "W2": network.W2[k].detach()})
        for x in (SparseFrames.from_dense(frames), torch.from_numpy(frames).to(dtype)):
            torch.testing.assert_close(network(x)[:, k], one(x), rtol=0, atol=TOLERANCES[dtype])


def test_a_convolution_by_hand():
    """16 × 16 pixels, a filter of ones: at every fourth pixel the sum of 8 × 8, 3 × 3 places; sparse ones count 10."""
    network = ConvNet((1, 16, 16), [1], hidden=1, outputs=2, extra=1)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    nn.init.constant_(network.convolutions[0].bias, -639.0)
    nn.init.zeros_(network.hidden.bias)
    nn.init.zeros_(network.outputs.bias)
    picture = torch.full((1, 1, 16, 16), 10.0)
    assert network.hidden.in_features == 9 + 1
    # each place sees 640 − 639 = 1: nine of them; and one more number, of which a picture alone has none
    row = SparseFrames.from_dense(np.ones((1, 256 + 1), np.int8))
    assert network(row).tolist() == [[9.0 + 10.0] * 2]
    picture[0, 0, 0, 0] = 0  # seen by the first place alone, which is now 0
    bare = ConvNet((1, 16, 16), [1], hidden=1, outputs=2)
    bare.load_state_dict(network.state_dict() | {"hidden.weight": torch.ones(1, 9)})
    assert bare(picture).tolist() == [[8.0, 8.0]]
    grey = picture.byte()
    assert torch.equal(bare(grey), bare(contrast(grey)))


def test_bytes_are_seen_in_contrast():
    """A bright line and a dark one that differ by as much are the same; a picture of even lines shows nothing."""
    bright, dark = [51, 51, 51, 55, 55, 55], [1, 1, 1, 5, 5, 5]
    pictures = torch.tensor([[bright, dark], [[10 * p for p in dark]] * 2, [[7] * 6, [9] * 6]], dtype=torch.uint8)
    ones = [[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]] * 2
    assert contrast(pictures).tolist() == [ones, ones, [[0.0] * 6] * 2]
    assert contrast(pictures[:, None]).tolist() == [[ones], [ones], [[[0.0] * 6] * 2]]


def test_a_convolutional_policy_begins_indifferent_whatever_it_sees(frames):
    network = ConvNet((1, 80, 80), [4, 8], 16, 3, generator=generator(1))
    policy = CategoricalPolicy(network)
    sparse, dense = SparseFrames.from_dense(frames), torch.from_numpy(frames).float().view(-1, 1, 80, 80)
    torch.testing.assert_close(policy.distribution(sparse).probs, torch.full((50, 3), 1 / 3))
    nn.init.normal_(network.outputs.weight, generator=generator(2))
    moved = policy.distribution(sparse).probs
    assert moved.std(0).min() > 0.01  # and then sees
    torch.testing.assert_close(policy.distribution(10 * dense).probs, moved)


def test_convolutions_of_many_rows_at_a_time_are_those_of_each(frames, monkeypatch):
    network = ConvNet((1, 80, 80), [4, 8], 16, 3, generator=generator(1))
    nn.init.normal_(network.outputs.weight, generator=generator(2))
    x = SparseFrames.from_dense(frames)
    at_once = network(x)
    monkeypatch.setattr(policies, "CPU_ROWS", 7)
    torch.testing.assert_close(network(x), at_once)
    assert at_once.shape == (50, 3)


def test_initial_convolutions_come_from_the_generator_alone():
    def made(seed):
        return ConvNet((2, 80, 80), [4, 8, 8], 16, 3, generator=generator(seed)).state_dict()

    torch.manual_seed(5)
    first = made(1)
    torch.manual_seed(6)
    again, other = made(1), made(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["convolutions.0.weight"], other["convolutions.0.weight"])
    # ReLU halves the variance, so the weights have twice one over the inputs: He et al. 2015, equation 10
    weights = made(3)["hidden.weight"]
    assert weights.var().item() == pytest.approx(2 / weights.shape[1], rel=0.05)
