"""Training: one step recomputed in NumPy, its settings, that a run is a function of its config, and that it learns."""

import contextlib
from math import log, sqrt

import karpathy_numpy
import numpy as np
import pytest
import torch

from pong.config import Config, InputError
from pong.frames import PIXELS, SparseFrames
from pong.train import Trainer, choose_device, make_optimizer, make_policy

TINY = Config(
    name="tiny",
    device="cpu",
    emulator_threads=1,
    num_envs=2,
    horizon=40,
    hidden=8,
    learning_rate=1e-3,
    learning_rate_end=None,
    entropy_bonus=0.003,
    total_steps=240,
)
PIXELS_A, PIXELS_B = range(25), range(1000, 1025)  # two situations that share no pixel


class Choice:
    """N emulators whose every step is a point: UP wins in situation A and loses in B, DOWN the other way round.

    The situations take turns, and half of the emulators begin with B.
    """

    def __init__(self, config):
        self.num_envs = config.num_envs
        self._in_a = np.arange(self.num_envs) % 2 == 0

    def reset(self, *, seed=None, options=None):
        return self._observe(), {}

    def step(self, actions):
        rewards = np.where((actions == 1) == self._in_a, 1, -1).astype(np.float32)
        self._in_a = ~self._in_a
        never = np.zeros(self.num_envs, bool)
        return self._observe(), rewards, never, never, {"hold": np.full(self.num_envs, 4)}

    def close(self):
        self.closed = True

    def _observe(self):
        x = np.zeros((self.num_envs, PIXELS), np.int8)
        x[np.ix_(self._in_a, PIXELS_A)] = 1
        x[np.ix_(~self._in_a, PIXELS_B)] = 1
        return x


@pytest.fixture
def choice(monkeypatch):
    """Trainers play ``Choice`` instead of Pong."""
    monkeypatch.setattr("pong.train.make_envs", Choice)


def choosing(**changes):
    return Trainer(TINY.model_copy(update={"num_envs": 4, "horizon": 5, **changes}))


def weights(policy):
    return [parameter.detach().double().numpy().copy() for parameter in (policy.W1, policy.W2)]


# --- one step, by hand ------------------------------------------------------------------------------------------------


def in_numpy(before, batch):
    """x (B, 6400), h (B, hidden), p (B,), y (B,), returns (B,) of a batch under some weights, in float64."""
    x = batch.observations.dense(torch.float64).numpy()
    return x, *karpathy_numpy.forward(*before, x), batch.actions.numpy(), batch.returns.double().numpy()


def log_prob(p, y):
    return np.log(np.where(y == 1, p, 1 - p))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_step_is_what_numpy_makes_of_it(choice, reduction):
    trainer = choosing(reduction=reduction, entropy_bonus=0.0)
    before = weights(trainer.policy)
    update = next(trainer.run())
    batch, learned = update.batch, update.learned
    x, h, p, y, returns = in_numpy(before, batch)
    rows = len(y)
    assert rows == 20
    scale = 1 if reduction == "sum" else 1 / rows

    assert learned.policy_loss == pytest.approx(-(log_prob(p, y) * returns).sum() * scale, abs=1e-5)
    assert learned.entropy == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(), rel=1e-5)
    assert learned.prob_up == pytest.approx(p.mean(), rel=1e-5)
    gradients = karpathy_numpy.backward(*before, x, h, p, y, returns)
    norm = sqrt(sum((g**2).sum() for g in gradients)) * scale
    assert learned.grad_norm == pytest.approx(norm, rel=1e-5)
    # Adam's first step is lr·g/(|g| + eps), whatever its betas
    for moved, theta, g in zip(weights(trainer.policy), before, gradients, strict=True):
        np.testing.assert_allclose(moved - theta, 1e-3 * g * scale / (abs(g * scale) + 1e-5), rtol=1e-2, atol=1e-7)


def test_approx_kl_compares_before_the_step_with_after(choice):
    trainer = choosing(learning_rate=0.01)
    before = weights(trainer.policy)
    update = next(trainer.run())
    *_, p, y, _ = in_numpy(before, update.batch)
    *_, p_after, _, _ = in_numpy(weights(trainer.policy), update.batch)
    log_ratio = log_prob(p_after, y) - log_prob(p, y)
    assert update.learned.approx_kl > 1e-4  # before the step it would be 0
    assert update.learned.approx_kl == pytest.approx((np.exp(log_ratio) - 1 - log_ratio).mean(), rel=1e-3)


def test_the_entropy_bonus_adds_its_gradient(choice):
    """∂H/∂z of a Bernoulli with logit z: H = log(1 + e^z) − z·p, so ∂H/∂z = p − p − z·p(1 − p) = −z·p(1 − p)."""
    bonus = 0.7
    plain, bonused = choosing(entropy_bonus=0.0), choosing(entropy_bonus=bonus)
    before = weights(plain.policy)
    update, other = next(plain.run()), next(bonused.run())
    assert other.batch.actions.equal(update.batch.actions)  # the same weights met the same noise
    assert other.learned.policy_loss == update.learned.policy_loss  # it is reported without the bonus

    x, h, p, *_ = in_numpy(before, update.batch)
    slope = -np.log(p / (1 - p)) * p * (1 - p) / len(p)  # of the mean entropy, (B,)
    dW2 = h.T @ slope
    dW1 = (np.outer(slope, before[1]) * (h > 0)).T @ x
    for name, expected in (("W1", dW1), ("W2", dW2)):
        added = (getattr(bonused.policy, name).grad - getattr(plain.policy, name).grad).double().numpy()
        np.testing.assert_allclose(added, -bonus * expected, atol=1e-6)  # a bonus is a negative loss
        assert abs(expected).max() > 1e-4


def test_every_step_starts_from_a_zero_gradient(choice):
    """The second update's gradient is its own, not the sum of both."""
    trainer = choosing(entropy_bonus=0.0, reduction="sum")
    run = trainer.run()
    next(run)
    before = weights(trainer.policy)
    update = next(run)
    expected = karpathy_numpy.backward(*before, *in_numpy(before, update.batch))
    np.testing.assert_allclose(trainer.policy.W2.grad.numpy(), -expected[1], atol=1e-5)


# --- the run ----------------------------------------------------------------------------------------------------------


def test_the_learning_rate_falls_in_a_line(choice):
    # 20 decisions an update: 0, 20, 40 and 60 of 80 are behind it
    trainer = choosing(total_steps=80, learning_rate=0.4, learning_rate_end=0.2)
    rates, used = [], []
    for update in trainer.run():
        rates.append(update.learned.learning_rate)
        used.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == used == pytest.approx([0.4, 0.35, 0.3, 0.25])


def test_the_learning_rate_stays_where_no_end_is_set(choice):
    trainer = choosing(total_steps=60, learning_rate=0.4)
    assert [update.learned.learning_rate for update in trainer.run()] == [0.4] * 3


def test_a_run_ends_with_the_first_update_past_total_steps(choice):
    trainer = choosing(total_steps=41)
    assert [(update.number, trainer.updates, trainer.steps) for update in trainer.run()] == [
        (1, 1, 20),
        (2, 2, 40),
        (3, 3, 60),
    ]
    assert list(trainer.run()) == []


def test_a_gradient_that_is_not_finite_is_said_aloud(choice):
    trainer = choosing()
    with torch.no_grad():
        trainer.policy.W2[0] = torch.nan  # as a far too large step leaves it
    with pytest.raises((FloatingPointError, InputError), match=r"(?i)nan|finite"):
        next(trainer.run())


def test_closing_a_trainer_closes_its_emulators(choice):
    trainer = choosing()
    trainer.close()
    assert trainer.rollout.envs.closed


@pytest.fixture(scope="module")
def trained():
    """Two runs of one config and one of another seed, on real Pong: (batches, weights) of each."""

    def train(seed):
        with contextlib.closing(Trainer(TINY.model_copy(update={"seed": seed}))) as trainer:
            return [update.batch for update in trainer.run()], trainer.policy.state_dict()

    return train(1), train(1), train(2)


def test_a_run_is_a_function_of_its_config(trained):
    (batches, policy), (batches_again, policy_again), _ = trained
    assert len(batches) == len(batches_again) >= 2
    for batch, again in zip(batches, batches_again, strict=True):
        assert torch.equal(batch.actions, again.actions)
        assert torch.equal(batch.returns, again.returns)
        assert torch.equal(batch.observations.columns, again.observations.columns)
    assert all(torch.equal(policy[name], policy_again[name]) for name in ("W1", "W2"))


def test_another_seed_is_another_run(trained):
    (batches, policy), _, (others, other) = trained
    assert not torch.equal(policy["W1"], other["W1"])
    n = min(len(batches[0].actions), len(others[0].actions))
    assert not torch.equal(batches[0].actions[:n], others[0].actions[:n])


def test_the_run_moved_the_weights(trained):
    (_, policy), *_ = trained
    assert not torch.equal(policy["W1"], make_policy(TINY).W1)


# --- learning ---------------------------------------------------------------------------------------------------------


def probs_up(policy):
    x = np.zeros((2, PIXELS), np.int8)
    x[0, PIXELS_A], x[1, PIXELS_B] = 1, 1
    return policy.distribution(SparseFrames.from_dense(x)).probs.tolist()


RECIPES = {
    "adam, batch, mean": {"learning_rate": 3e-3},
    "rmsprop, none, sum": {"optimizer": "rmsprop", "standardize": "none", "reduction": "sum"},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_what_pays_becomes_likely(choice, recipe):
    trainer = choosing(num_envs=16, hidden=32, total_steps=16 * 5 * 40, **recipe)
    up_a, up_b = probs_up(trainer.policy)
    assert 0.3 < up_a < 0.7
    assert 0.3 < up_b < 0.7
    entropies = [update.learned.entropy for update in trainer.run()]
    assert len(entropies) == 40
    up_a, up_b = probs_up(trainer.policy)
    assert up_a > 0.9
    assert up_b < 0.1
    assert entropies[0] == pytest.approx(log(2), abs=0.03)  # it began with a coin toss
    assert entropies[-1] < 0.4


# --- devices, policies, optimisers ------------------------------------------------------------------------------------


DEVICES = [  # name, is there a GPU, what is chosen
    ("cpu", False, "cpu"),
    ("cpu", True, "cpu"),
    ("auto", False, "cpu"),
    ("auto", True, "cuda"),
    ("cuda", True, "cuda"),
]


@pytest.mark.parametrize(("name", "there", "device"), DEVICES)
def test_devices(monkeypatch, name, there, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert choose_device(name) == torch.device(device)


def test_a_missing_gpu_is_an_error_not_a_fallback(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"device = 'cuda'.*--device auto or cpu"):
        choose_device("cuda")


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(0)
    first = make_policy(TINY)
    torch.manual_seed(1)
    assert torch.equal(make_policy(TINY).W1, first.W1)
    assert torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(1)))  # and take nothing from it
    assert not torch.equal(make_policy(TINY.model_copy(update={"seed": 2})).W1, first.W1)


def steps(gradients, **changes):
    """θ after each of those scalar gradients, from θ = 0 in float64."""
    theta = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    module = torch.nn.Module()
    module.theta = theta
    optimizer = make_optimizer(TINY.model_copy(update=changes), module)
    seen = []
    for gradient in gradients:
        theta.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        seen.append(theta.item())
    return optimizer, seen


def test_rmsprop_is_that_of_2016():
    optimizer, (first, second) = steps([1e-4, 1e-4], optimizer="rmsprop", learning_rate=1e-4)
    assert isinstance(optimizer, torch.optim.RMSprop)
    # cache = 0.01·1e-8, its root 1e-5: the step is 1e-4·1e-4/(1e-5 + 1e-5). With eps inside the root it were 3e-6
    assert first == pytest.approx(-5e-4, rel=1e-12)
    # cache = 0.99·1e-10 + 1e-10
    assert second - first == pytest.approx(-1e-8 / (1e-5 * sqrt(1.99) + 1e-5), rel=1e-12)
    # and so says the reference
    theta = np.zeros(())
    reference = karpathy_numpy.RMSProp([theta], lr=1e-4, decay=0.99, eps=1e-5)
    reference.step([np.array(-1e-4)])
    reference.step([np.array(-1e-4)])
    assert second == pytest.approx(float(theta), rel=1e-12)


def test_rmsprop_takes_its_decay_from_the_config():
    # cache = ½·g²: the step is lr·g/(g·√½ + eps)
    _, (first,) = steps([1.0], optimizer="rmsprop", learning_rate=1.0, rmsprop_decay=0.5, epsilon=1e-3)
    assert first == pytest.approx(-1 / (sqrt(0.5) + 1e-3), rel=1e-12)


def test_adam_takes_its_betas_and_eps_from_the_config():
    settings = {"optimizer": "adam", "learning_rate": 1.0, "adam_beta1": 0.5, "adam_beta2": 0.75, "epsilon": 0.1}
    optimizer, (first, second) = steps([1.0, 3.0], **settings)
    assert isinstance(optimizer, torch.optim.Adam)
    # m = ½, v = ¼, each over 1 − β: 1 and 1
    assert first == pytest.approx(-1 / 1.1, rel=1e-12)
    # m = ¼ + 3/2 over 1 − ¼ = 7/3; v = 3/16 + 9/4 over 1 − 9/16 = 39/7
    assert second - first == pytest.approx(-(7 / 3) / (sqrt(39 / 7) + 0.1), rel=1e-12)


def test_training_leaves_the_callers_random_stream_alone(choice):
    state = torch.get_rng_state()
    list(choosing(total_steps=40).run())
    assert torch.equal(torch.get_rng_state(), state)
