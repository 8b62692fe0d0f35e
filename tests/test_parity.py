"""On real games ``pong`` and the hand-derived NumPy agent have the same inputs, gradients and weights.

The games are one update of configs/karpathy.toml, played by the project's trainer (three games instead of ten).
gymnasium's unmodified Pong-v0 replays them from the same seeds; NumPy learns from its colour screens and rewards.
Differences are relative: ‖ours − NumPy's‖ / ‖NumPy's‖. NumPy always computes in float64.
"""

import karpathy_numpy
import numpy as np
import pytest
import torch

from pong.losses import surrogate_loss
from pong.observations import SparseFrames
from pong.optimizers import make_optimizer
from pong.policies import KarpathyPolicy
from pong.returns import discounted_returns, standardize
from pong.rollout import ActionNoise


def relative(ours, numpys):
    ours = ours.detach().double().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours, float)
    return np.linalg.norm(ours - numpys) / np.linalg.norm(numpys)


def float64(weights):
    return [w.astype(float) for w in weights]


def policy_with(weights, dtype):
    policy = KarpathyPolicy(len(weights[1])).to(dtype)
    with torch.no_grad():
        policy.W1.copy_(torch.from_numpy(weights[0].T))
        policy.W2.copy_(torch.from_numpy(weights[1]))
    return policy


def numpy_advantages(game, gamma):
    return karpathy_numpy.standardize(karpathy_numpy.discount(game.rewards, gamma))


def numpy_gradient(W1, W2, x, y, advantages):
    x = x.astype(float)
    h, p = karpathy_numpy.forward(W1, W2, x)
    return karpathy_numpy.backward(W1, W2, x, h, p, y, advantages)


def numpy_gradient_of_games(weights, recorded):
    """Summed over all steps of all games: (dW1, dW2), ascent."""
    gradients = [
        numpy_gradient(*weights, game.x, game.y, numpy_advantages(game, recorded.config.gamma))
        for game in recorded.games
    ]
    return [sum(parts) for parts in zip(*gradients, strict=True)]


@pytest.fixture(scope="module")
def gradient(recorded):
    """NumPy's gradient of the recorded update, (dW1, dW2) float64."""
    return numpy_gradient_of_games(float64(recorded.before), recorded)


def test_batch_holds_whole_games(recorded):
    batch = recorded.update.batch
    assert sorted(episode.emulator for episode in batch.episodes) == [0, 1, 2]  # one game per emulator
    assert all(game.over for game in recorded.games)
    for episode in batch.episodes:
        rewards = recorded.games[episode.emulator].rewards
        assert episode.length == len(rewards)
        assert episode.score == rewards.sum()
        assert max((rewards > 0).sum(), (rewards < 0).sum()) == 21
    lengths = [episode.length for episode in batch.episodes]
    assert len(set(lengths)) == 3  # so two emulators waited for the last
    assert batch.steps == sum(lengths) == len(batch.observations) == len(batch.actions) == len(batch.returns)
    assert batch.points == sum(np.count_nonzero(game.rewards) for game in recorded.games)
    assert batch.frames == sum(game.holds.sum() for game in recorded.games)  # none while an emulator waited


def test_observations_equal_pong_v0s(recorded):
    # NumPy's are from colour screens, ours from luminance screens.
    observations = recorded.update.batch.observations
    for game in recorded.games:
        ours = observations[torch.from_numpy(game.rows)].dense(torch.int8).numpy()
        np.testing.assert_array_equal(ours, game.x)
        assert not game.x[0].any()  # a game's first input is empty
        assert game.x.any(axis=1).mean() > 0.9  # most others are not


def test_actions_and_rewards_equal_pong_v0s(recorded):
    for i, game in enumerate(recorded.games):
        np.testing.assert_array_equal(recorded.update.batch.actions.numpy()[game.rows], game.y)
        np.testing.assert_array_equal(recorded.rewards[recorded.active[:, i], i], game.rewards)


def draw(noise):
    block = noise.ahead()
    noise.use(len(block))
    return block


def test_actions_follow_the_weights_before_the_update(recorded):
    # UP where u < p, with p from NumPy and the weights before the update. The two could only disagree where u and p
    # differ by less than float32's rounding, 1e-6 at most: 0.004 of these 4,180 decisions are expected there.
    noise = ActionNoise(recorded.config.seed, 0, range(recorded.config.num_envs))
    u = np.concatenate([draw(noise) for _ in range(0, len(recorded.active), noise.BLOCK)])  # (T or more, N)
    for i, game in enumerate(recorded.games):
        _, p = karpathy_numpy.forward(*float64(recorded.before), game.x.astype(float))
        np.testing.assert_array_equal(game.y, u[: len(recorded.active)][recorded.active[:, i], i] < p)
        assert 0.3 < game.y.mean() < 0.7  # an untrained policy does both


def test_returns_equal_numpys(recorded):
    for game in recorded.games:
        ours = recorded.update.batch.returns.numpy()[game.rows]
        # float32 has 24 bits; |returns| of standardised points are below 10
        np.testing.assert_allclose(ours, numpy_advantages(game, recorded.config.gamma), rtol=0, atol=1e-5)


def test_gradient_equals_numpys_in_float64(recorded, gradient):
    policy = policy_with(recorded.before, torch.float64)
    for game in recorded.games:
        observations = recorded.update.batch.observations[torch.from_numpy(game.rows)]
        actions = recorded.update.batch.actions[torch.from_numpy(game.rows)]
        rewards = torch.from_numpy(game.rewards)
        returns = standardize(discounted_returns(rewards, recorded.config.gamma, reset_on_reward=True))
        surrogate_loss(policy.log_prob(observations, actions), returns).backward()  # adds to the games before
    assert relative(-policy.W1.grad.T, gradient[0]) < 1e-12
    assert relative(-policy.W2.grad, gradient[1]) < 1e-12


def test_gradient_of_the_batch_equals_numpys_in_float32(recorded, gradient):
    batch, policy = recorded.update.batch, policy_with(recorded.before, torch.float32)
    surrogate_loss(policy.log_prob(batch.observations, batch.actions), batch.returns).backward()
    assert relative(-policy.W1.grad.T, gradient[0]) < 1e-5
    assert relative(-policy.W2.grad, gradient[1]) < 1e-5
    norm = np.sqrt(sum((g**2).sum() for g in gradient))
    # the trainer took the same; a float32 sum of 1.3 million squares loses some digits
    assert recorded.update.stats.grad_norm == pytest.approx(norm, rel=1e-4)


# --- the weights ------------------------------------------------------------------------------------------------------

UPDATES = 30


def rows_of(k):
    """The steps of update k: every 30th of all games, starting with k."""
    return slice(k, None, UPDATES)


@pytest.fixture(scope="module")
def steps(recorded):
    """All games one after the other: x (B, 6400) int8, y (B,) int64."""
    return np.concatenate([game.x for game in recorded.games]), np.concatenate([game.y for game in recorded.games])


@pytest.fixture(scope="module")
def trained_by_numpy(recorded, steps):
    """(W1, W2) float64 after 30 updates."""
    advantages = np.concatenate([numpy_advantages(game, recorded.config.gamma) for game in recorded.games])
    weights = float64(recorded.before)
    optimizer = karpathy_numpy.RMSProp(weights, lr=1e-4, decay=0.99, eps=1e-5)
    for k in range(UPDATES):
        rows = rows_of(k)
        optimizer.step(numpy_gradient(*weights, steps[0][rows], steps[1][rows], advantages[rows]))
    return weights


# Distances from NumPy's weights, relative to their size and to the distance that they moved. RMSProp's first step is
# lr·g/(√0.01·|g| + eps), nearly a sign: where rounding decides the sign of a gradient, a float32 weight moves either
# way. Hence the looser second number in float32.
@pytest.mark.parametrize(
    ("dtype", "of_weights", "of_distance"), [(torch.float64, 1e-12, 1e-12), (torch.float32, 1e-6, 1e-4)]
)
def test_weights_equal_numpys_after_thirty_updates(recorded, steps, trained_by_numpy, dtype, of_weights, of_distance):
    rewards = [torch.from_numpy(game.rewards).to(dtype) for game in recorded.games]
    gamma = recorded.config.gamma
    returns = torch.cat([standardize(discounted_returns(r, gamma, reset_on_reward=True)) for r in rewards])  # (B,)
    policy = policy_with(recorded.before, dtype)
    optimizer = make_optimizer(recorded.config, policy)
    for k in range(UPDATES):
        x, y = (values[rows_of(k)] for values in steps)
        log_probs = policy.log_prob(SparseFrames.from_dense(x), torch.from_numpy(y))
        optimizer.zero_grad()
        surrogate_loss(log_probs, returns[rows_of(k)]).backward()
        optimizer.step()

    for ours, numpys, start in zip((policy.W1.T, policy.W2), trained_by_numpy, recorded.before, strict=True):
        assert ours.dtype == dtype
        assert relative(ours, numpys) < of_weights
        assert relative(ours.detach().double().numpy() - start, numpys - start) < of_distance
        assert np.linalg.norm(numpys - start) > 0.01 * np.linalg.norm(start)  # they did move


def test_trainer_update_equals_numpys(recorded, gradient):
    weights = float64(recorded.before)
    karpathy_numpy.RMSProp(weights, lr=1e-4, decay=0.99, eps=1e-5).step(gradient)
    for trained, theta, start in zip(recorded.after, weights, recorded.before, strict=True):
        assert relative(trained, theta) < 1e-6
        # the step by itself is 1/30 of the weights' size and has all of their float32 rounding
        assert relative(trained - start.astype(float), theta - start) < 1e-4
