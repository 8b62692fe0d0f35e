"""Training: one step recomputed in NumPy, its settings, that a run is a function of its config, and that it learns."""

import contextlib
import copy
import itertools
import signal
import threading
import time
from math import log, sqrt

import karpathy_numpy
import numpy as np
import pytest
import torch
from conftest import weights_of

from pong import checkpoint
from pong.config import Config, InputError
from pong.distributed import Ranks
from pong.envs.base import Fleet, StepResult
from pong.evaluate import evaluate
from pong.observations import PIXELS, SparseFrames
from pong.optimizers import make_optimizer
from pong.policies import make_policy
from pong.train import Trainer, choose_device

TINY = Config(
    name="tiny",
    device="cpu",
    players=1,
    num_envs=2,
    horizon=40,
    hidden=8,
    learning_rate=1e-3,
    learning_rate_end=None,
    entropy_bonus=0.003,
    total_steps=240,
)
PIXELS_A, PIXELS_B = range(25), range(1000, 1025)  # two situations that share no pixel


class Choice(Fleet):
    """N emulators whose every step is a point: UP wins in situation A and loses in B, DOWN the other way round.

    The situations take turns, and half of the emulators begin with B.
    """

    def __init__(self, config, num_envs):
        self.num_envs = num_envs
        self._in_a = np.arange(num_envs) % 2 == 0

    def reset(self, seeds=None):
        return self._observe()

    def step(self, actions, active):
        rewards = np.where((actions == 1) == self._in_a, 1, -1).astype(np.float32)
        self._in_a = ~self._in_a
        return StepResult(self._observe(), rewards, np.zeros(self.num_envs, bool), np.full(self.num_envs, 4))

    def close(self):
        self.closed = True

    def _observe(self):
        x = np.zeros((self.num_envs, PIXELS), np.int8)
        x[np.ix_(self._in_a, PIXELS_A)] = 1
        x[np.ix_(~self._in_a, PIXELS_B)] = 1
        return SparseFrames.from_dense(x)


@pytest.fixture
def choice(monkeypatch):
    """Trainers play ``Choice`` instead of Pong."""
    monkeypatch.setattr("pong.rollout.make_fleet", Choice)


def choosing(ranks=None, **changes):
    return Trainer(TINY.model_copy(update={"num_envs": 4, "horizon": 5, **changes}), ranks)


def weights(policy):
    """W1 (H, D), as in 2016, and W2 (H,), float64."""
    return [w.astype(float) for w in weights_of(policy)]


# --- one step, by hand ------------------------------------------------------------------------------------------------


def in_numpy(before, batch):
    """x (B, 6400), h (B, hidden), p (B,), y (B,), standardised returns (B,) under some weights, in float64."""
    x, returns = batch.observations.dense(torch.float64).numpy(), batch.returns.double().numpy()
    returns = (returns - returns.mean()) / returns.std()
    return x, *karpathy_numpy.forward(*before, x), batch.actions.numpy(), returns


def log_prob(p, y):
    return np.log(np.where(y == 1, p, 1 - p))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_step_is_what_numpy_makes_of_it(choice, reduction):
    trainer = choosing(reduction=reduction, entropy_bonus=0.0)
    before = weights(trainer.policy)
    update = next(trainer.run())
    batch, stats = update.batch, update.stats
    x, h, p, y, returns = in_numpy(before, batch)
    rows = len(y)
    assert rows == 20
    scale = 1 if reduction == "sum" else 1 / rows

    assert stats.policy_loss == pytest.approx(-(log_prob(p, y) * returns).sum() * scale, abs=1e-5)
    assert stats.entropy == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(), rel=1e-5)
    assert stats.prob_up == pytest.approx(p.mean(), rel=1e-5)
    gradients = karpathy_numpy.backward(*before, x, h, p, y, returns)
    norm = sqrt(sum((g**2).sum() for g in gradients)) * scale
    assert stats.grad_norm == pytest.approx(norm, rel=1e-5)
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
    assert update.stats.approx_kl > 1e-4  # before the step it would be 0
    assert update.stats.approx_kl == pytest.approx((np.exp(log_ratio) - 1 - log_ratio).mean(), rel=1e-3)


def test_the_entropy_bonus_adds_its_gradient(choice):
    """∂H/∂z of a Bernoulli with logit z: H = log(1 + e^z) − z·p, so ∂H/∂z = p − p − z·p(1 − p) = −z·p(1 − p)."""
    bonus = 0.7
    plain, bonused = choosing(entropy_bonus=0.0), choosing(entropy_bonus=bonus)
    before = weights(plain.policy)
    update, other = next(plain.run()), next(bonused.run())
    assert other.batch.actions.equal(update.batch.actions)  # the same weights met the same noise
    assert other.stats.policy_loss == update.stats.policy_loss  # it is reported without the bonus

    x, h, p, *_ = in_numpy(before, update.batch)
    slope = -np.log(p / (1 - p)) * p * (1 - p) / len(p)  # of the mean entropy, (B,)
    dW2 = h.T @ slope
    dW1 = x.T @ (np.outer(slope, before[1]) * (h > 0))  # (D, H)
    for name, expected in (("W1", dW1), ("W2", dW2)):
        added = (getattr(bonused.policy, name).grad - getattr(plain.policy, name).grad).double().numpy()
        np.testing.assert_allclose(added, -bonus * expected, atol=1e-6)  # a bonus is a negative loss
        assert abs(expected).max() > 1e-4


def test_the_entropy_bonus_falls_in_a_line(choice):
    """Half-way from 0.6 to 0.2 a step is that of 0.4, and half-way from 0.6 to nowhere it's still that of 0.6."""
    steps = []
    for bonus in ((0.6, 0.2), (0.4, None), (0.6, None)):
        trainer = choosing(entropy_bonus=bonus[0], entropy_bonus_end=bonus[1], total_steps=40)
        trainer.steps = 20
        next(trainer.run())
        steps.append(trainer.policy.W1.grad.clone())
    torch.testing.assert_close(steps[0], steps[1], rtol=0, atol=1e-7)
    assert (steps[0] - steps[2]).abs().max() > 1e-4


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
        rates.append(update.stats.learning_rate)
        used.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == used == pytest.approx([0.4, 0.35, 0.3, 0.25])


def test_the_learning_rate_stays_where_no_end_is_set(choice):
    trainer = choosing(total_steps=60, learning_rate=0.4)
    assert [update.stats.learning_rate for update in trainer.run()] == [0.4] * 3


def test_a_run_ends_with_the_first_update_past_total_steps(choice):
    trainer = choosing(total_steps=41)
    assert [(update.number, trainer.updates, trainer.steps) for update in trainer.run()] == [
        (1, 1, 20),
        (2, 2, 40),
        (3, 3, 60),
    ]
    assert list(trainer.run()) == []


def test_run_starts_the_next_rollout_before_it_yields_an_update(choice, monkeypatch):
    """So that players in other threads play while the caller looks at it; after the last one nothing is begun."""
    trainer = choosing(total_steps=60)
    start, started = trainer.rollout.start, []
    monkeypatch.setattr(trainer.rollout, "start", lambda *args: (started.append(args), start(*args)))
    first, second, third = (0, 0), (1, 1 / 3), (2, 2 / 3)  # the update's number, and the run's progress
    assert [list(started) for _ in trainer.run()] == [[first, second], [first, second, third], [first, second, third]]


def test_a_gradient_that_is_not_finite_is_said_aloud(choice):
    trainer = choosing()
    with torch.no_grad():
        trainer.policy.W2[0] = torch.nan  # as a far too large step leaves it
    with pytest.raises((FloatingPointError, InputError), match=r"(?i)nan|finite"):
        next(trainer.run())


@pytest.mark.parametrize(("policy", "learns"), [("karpathy", 1), ("conv", 3)])
def test_convolutions_learn_on_every_core_and_play_on_one(monkeypatch, policy, learns):
    monkeypatch.setattr("pong.distributed.cores", lambda: 3)
    threads = {"act": [], "distribution": []}
    with contextlib.closing(Trainer(TINY.model_copy(update={"policy": policy, "channels": [2]}))) as trainer:
        for name, used in threads.items():
            whole = getattr(trainer.policy, name)
            monkeypatch.setattr(
                trainer.policy,
                name,
                lambda *x, whole=whole, used=used: used.append(torch.get_num_threads()) or whole(*x),
            )
        next(trainer.run())
    assert set(threads["act"]) == ({1} if policy == "conv" else set())  # compiled code does not ask
    assert threads["distribution"] == [learns, 1]  # the step, and what it changed, while others play


def test_closing_a_trainer_closes_its_emulators(choice):
    trainer = choosing()
    trainer.close()
    (player,) = trainer.rollout.players
    assert player.fleet.closed


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


# --- taking a run up again --------------------------------------------------------------------------------------------

RECIPES = {
    "adam": {"learning_rate_end": 1e-4, "entropy_bonus_end": 1e-3, "baseline": "network"},
    "rmsprop": {"optimizer": "rmsprop", "reduction": "sum", "until": "episodes", "hold": "2-4", "max_frames": 400},
    "conv": {
        **{"policy": "conv", "channels": [4], "hidden": 8, "actions": 3, "frames": "both", "last_action": True},
        **{"baseline": "network", "baseline_channels": [], "horizon_end": 400, "total_steps": 4_000},
    },
}


def saved(trainer, folder):
    counters = checkpoint.Counters(trainer.updates, trainer.steps)
    parts = trainer.policy, trainer.optimizer, trainer.baseline
    return checkpoint.load(checkpoint.save(folder, trainer.config, counters, *parts, trainer.rollout.state()))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_taken_up_is_the_run_never_interrupted(tmp_path, recipe):
    """On real Pong, bit for bit, after any update."""
    config = TINY.model_copy(update={"total_steps": 10**6, **recipe})
    with contextlib.closing(Trainer(config)) as trainer:
        run = trainer.run()
        next(run), next(run)
        half = saved(trainer, tmp_path)
        whole = [next(run), next(run)]
        expected = saved(trainer, tmp_path)
    with contextlib.closing(Trainer(config)) as again:
        again.restore(copy.deepcopy(half))  # the optimizer goes on in the tensors it is given
        run = again.run()
        for update in whole:
            other = next(run)
            assert (other.number, other.stats) == (update.number, update.stats)
            assert torch.equal(other.batch.actions, update.batch.actions)
        found = saved(again, tmp_path)
    assert (found.counters, expected.counters.updates) == (expected.counters, 4)
    assert len(expected.optimizer) == len(expected.policy)
    for part in ("policy", "optimizer", "baseline", "baseline_optimizer"):
        expected_, found_, half_ = (flat(getattr(one, part)) for one in (expected, found, half))
        assert found_.keys() == expected_.keys()
        assert all(torch.equal(found_[name], tensor) for name, tensor in expected_.items())
        assert [name for name, tensor in expected_.items() if torch.equal(half_[name], tensor)] == []  # all went on


PIECES = {**RECIPES, "cartpole": {"env": "CartPole-v1", "policy": "mlp", "until": "episodes"}}


@pytest.mark.parametrize("players", [1, 2])
@pytest.mark.parametrize("recipe", PIECES.values(), ids=PIECES)
def test_run_in_pieces_is_run_in_one(recipe, players):
    """A notebook's cells: a break, a generator thrown away, an exception, an evaluation in between."""
    config = TINY.model_copy(update={"num_envs": 4, "players": players, "total_steps": 10**6, **recipe})
    with contextlib.closing(Trainer(config)) as whole:
        expected = [update.stats for update in itertools.islice(whole.run(), 7)]
    with contextlib.closing(Trainer(config)) as trainer:
        stats = [next(trainer.run()).stats]
        for update in trainer.run():
            stats.append(update.stats)
            break
        evaluate(trainer.policy, config, 1)
        with contextlib.suppress(ZeroDivisionError):
            for update in trainer.run():
                stats.append(update.stats)
                raise ZeroDivisionError
        stats += [update.stats for update in itertools.islice(trainer.run(), 2)]
        stats += [update.stats for update in itertools.islice(trainer.run(), 2)]
    assert stats == expected


@pytest.mark.parametrize("players", [1, 2])
@pytest.mark.parametrize("recipe", PIECES.values(), ids=PIECES)
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_anywhere_changes_nothing(recipe, players):
    """A notebook's stop button, at a random moment of each of some calls: the updates are those of a run in one."""
    config = TINY.model_copy(update={"num_envs": 4, "players": players, "total_steps": 10**6, **recipe})
    with contextlib.closing(Trainer(config)) as whole:
        for _ in itertools.islice(whole.run(), 6):
            pass
        expected = {name: weights.clone() for name, weights in whole.policy.state_dict().items()}
    random, stops = np.random.default_rng(players), 0
    with contextlib.closing(Trainer(config)) as trainer:
        while trainer.updates < 6:
            button = threading.Timer(random.uniform(0, 0.05), signal.raise_signal, [signal.SIGINT])
            try:
                button.start()
                for _ in trainer.run():
                    if trainer.updates == 6:
                        break
                button.join()
            except KeyboardInterrupt:
                stops += 1
        with contextlib.suppress(KeyboardInterrupt):
            button.join()
            time.sleep(0.1)  # the button is heard a little after it was pressed
        for name, weights in trainer.policy.state_dict().items():
            assert torch.equal(weights, expected[name])
    assert stops


def test_nothing_is_left_of_how_many_threads_torch_had():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with contextlib.closing(Trainer(TINY)) as trainer:
            for _ in itertools.islice(trainer.run(), 2):
                assert torch.get_num_threads() == 2
            evaluate(trainer.policy, TINY.replace(max_frames=200), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_games_of_other_emulators_do_not_fit():
    with contextlib.closing(Trainer(TINY.model_copy(update={"num_envs": 3}))) as three:
        next(three.run())
        state = three.rollout.state()
    with contextlib.closing(Trainer(TINY.model_copy(update={"num_envs": 2}))) as two:
        with pytest.raises(InputError, match="holds 3 emulators, its config has 2"):
            two.rollout.restore(state)
        with pytest.raises(InputError, match=r"games do not fit its config .*machine\.game"):
            two.rollout.restore([{} for _ in range(2)])


def flat(states):
    """{(parameter, name): tensor} of {parameter: tensor or {name: tensor}}."""
    named = {key: state if isinstance(state, dict) else {"": state} for key, state in states.items()}
    return {(key, name): tensor for key, state in named.items() for name, tensor in state.items()}


def first(**parts):
    """A checkpoint after one update, with those parts as given."""
    trainer = choosing()
    next(trainer.run())
    state = {number: dict(values) for number, values in trainer.optimizer.state_dict()["state"].items()}
    whole = {"policy": dict(trainer.policy.state_dict()), "optimizer": state}
    return checkpoint.Checkpoint(trainer.config, checkpoint.Counters(1, 20), **{**whole, **parts})


def test_weights_of_another_shape_are_refused(choice):
    trainer = choosing(hidden=7)
    with pytest.raises(InputError, match=r"(?s)^the checkpoint does not fit its config: [^\n]*W1[^\n]*$"):
        trainer.restore(first())


def test_an_optimizer_state_of_another_shape_is_refused(choice):
    state = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    trainer = choosing()
    with pytest.raises(InputError, match="does not fit"):
        trainer.restore(first(optimizer={0: state, 1: state}))


def test_the_state_of_another_optimizer_is_refused(choice):
    trainer = choosing(optimizer="rmsprop")
    with pytest.raises(InputError, match="does not fit"):
        trainer.restore(first())


# --- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", range(3))
def test_too_few_emulators_for_the_ranks_are_refused_by_all_of_them(choice, rank):
    with pytest.raises(InputError, match=r"^num_envs = 2 is too few for 3 ranks[^\n]*$"):
        choosing(num_envs=2, ranks=Ranks(rank, 3))


# --- learning ---------------------------------------------------------------------------------------------------------


def probs_up(policy):
    x = np.zeros((2, PIXELS), np.int8)
    x[0, PIXELS_A], x[1, PIXELS_B] = 1, 1
    return policy.distribution(SparseFrames.from_dense(x)).probs.tolist()


PAYING = {
    "adam, batch, mean": {"learning_rate": 3e-3},
    "rmsprop, none, sum": {"optimizer": "rmsprop", "standardize": "none", "reduction": "sum"},
}


@pytest.mark.parametrize("recipe", PAYING.values(), ids=PAYING)
def test_what_pays_becomes_likely(choice, recipe):
    trainer = choosing(num_envs=16, hidden=32, total_steps=16 * 5 * 40, **recipe)
    up_a, up_b = probs_up(trainer.policy)
    assert 0.3 < up_a < 0.7
    assert 0.3 < up_b < 0.7
    entropies = [update.stats.entropy for update in trainer.run()]
    assert len(entropies) == 40
    up_a, up_b = probs_up(trainer.policy)
    assert up_a > 0.9
    assert up_b < 0.1
    assert entropies[0] == pytest.approx(log(2), abs=0.03)  # it began with a coin toss
    assert entropies[-1] < 0.4


# --- devices, policies, optimisers ------------------------------------------------------------------------------------


DEVICES = [  # name, GPUs, rank on this machine, what is chosen
    ("cpu", 0, 0, "cpu"),
    ("cpu", 2, 1, "cpu"),
    ("auto", 0, 1, "cpu"),
    ("auto", 1, 0, "cuda:0"),
    ("cuda", 2, 1, "cuda:1"),
    ("auto", 2, 3, "cuda:1"),
]


@pytest.mark.parametrize(("name", "gpus", "number", "device"), DEVICES)
def test_devices(monkeypatch, name, gpus, number, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert choose_device(name, number) == torch.device(device)


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
