"""Training: steps recomputed in NumPy, schedules, reproducibility, resuming, interrupts, and learning."""

import contextlib
import copy
import dataclasses
import itertools
import signal
import subprocess
import sys
import threading
import time
import warnings
from math import log, sqrt
from unittest.mock import Mock

import karpathy_numpy
import numpy as np
import pytest
import torch
from conftest import weights_of
from small_runs import environment
from torch.utils._python_dispatch import TorchDispatchMode

from pong import checkpoint
from pong.config import Config, InputError, load_config, recipes
from pong.distributed import Ranks
from pong.envs import task_spec
from pong.envs.base import Fleet, StepResult
from pong.evaluate import evaluate
from pong.observations import PIXELS, SparseFrames
from pong.optimizers import make_optimizer
from pong.policies import make_policy, make_value_network, slice_rows
from pong.train import Trainer, choose_device, gpu_problem

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
PIXELS_A, PIXELS_B = range(25), range(1000, 1025)  # two situations without common pixels


class Choice(Fleet):
    """N emulators whose every step is a point: UP wins in situation A and loses in B, DOWN the other way round.

    The situations alternate; half of the emulators start with B.
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

    def _observe(self):
        x = np.zeros((self.num_envs, PIXELS), np.int8)
        x[np.ix_(self._in_a, PIXELS_A)] = 1
        x[np.ix_(~self._in_a, PIXELS_B)] = 1
        return SparseFrames.from_dense(x)


@pytest.fixture
def choice(monkeypatch):
    """Trainers play ``Choice`` instead of Pong."""
    monkeypatch.setattr("pong.rollout.make_fleet", Choice)


def make_trainer(ranks=None, **changes):
    return Trainer(TINY.model_copy(update={"num_envs": 4, "horizon": 5, **changes}), ranks)


def weights(policy):
    """W1 (H, D), as in 2016, and W2 (H,), float64."""
    return [w.astype(float) for w in weights_of(policy)]


# --- one step, by hand ------------------------------------------------------------------------------------------------


def in_numpy(weights, batch):
    """x (B, 6400), h (B, hidden), p (B,), y (B,) and standardised returns (B,) under these weights, in float64."""
    x, returns = batch.observations.dense(torch.float64).numpy(), batch.returns.double().numpy()
    returns = (returns - returns.mean()) / returns.std()
    return x, *karpathy_numpy.forward(*weights, x), batch.actions.numpy(), returns


def log_prob(p, y):
    return np.log(np.where(y == 1, p, 1 - p))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_step_equals_numpys(choice, reduction):
    trainer = make_trainer(reduction=reduction, entropy_bonus=0.0)
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
    for after, theta, g in zip(weights(trainer.policy), before, gradients, strict=True):
        np.testing.assert_allclose(after - theta, 1e-3 * g * scale / (abs(g * scale) + 1e-5), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("recipe", ["adam", "rmsprop", "conv", "lqr"])
def test_step_of_slices_equals_that_of_the_batch(monkeypatch, recipe):
    """Gradients of slices of seven rows add up, in policy and baseline, to the batch's, up to the order of the sums."""
    lqr = {"env": "pong/LQR-v0", "policy": "mlp", "until": "episodes", "baseline": "network"}
    config = TINY.model_copy(update={"baseline_passes": 2, **(RECIPES | {"lqr": lqr})[recipe]})
    updates, weights = [], []
    for rows in (10**6, 7):
        for module in ("train", "baseline"):
            monkeypatch.setattr(f"pong.{module}.slice_rows", lambda network, rows=rows: rows)
        with contextlib.closing(Trainer(config)) as trainer:
            updates.append(next(trainer.run()))
            networks = [trainer.policy, *([trainer.baseline.network] if trainer.baseline else [])]
            weights.append([parameter.detach() for network in networks for parameter in network.parameters()])
    assert len(updates[1].batch.returns) > 14
    stats, expected = (dataclasses.astuple(update.stats) for update in updates[::-1])
    assert [x for x in stats if x is not None] == pytest.approx(
        [x for x in expected if x is not None], rel=1e-4, abs=1e-6
    )
    for actual, expected in zip(*weights[::-1], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


def test_learn_scales_returns_for_the_baseline(choice):
    """Its predictions and targets are returns divided by ``baseline_unit``."""
    trainer = make_trainer(baseline="network", baseline_unit=3.0, baseline_learning_rate=0.03)
    updates, fitted = trainer.run(), []
    next(updates)
    trainer.baseline.fit = lambda batch, predicted: fitted.extend([batch.returns, predicted.detach()])
    update = next(updates)
    returns, predicted = update.batch.returns, fitted[1]
    assert torch.equal(fitted[0], returns / 3)
    explained = 1 - (returns - 3 * predicted).var() / returns.var()
    assert update.stats.explained_variance == pytest.approx(explained.item(), abs=1e-5)


def test_learn_takes_few_operators(choice):
    """On a GPU most of them start a kernel, and kernels take most of the time."""

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            operators.append(operator)
            return operator(*args, **(kwargs or {}))

    updates, operators = make_trainer(baseline="network", baseline_passes=2).run(), []
    next(updates)
    with Counter():
        next(updates)
    assert len(operators) < 200


def test_trainer_imports_no_compiler():
    """Torch's takes half a second or more; it comes with SymPy."""
    program = """if True:
        import sys; from pong.config import Config; from pong.train import Trainer
        trainer = Trainer(Config(device="cpu", num_envs=2, horizon=40, baseline="network", players=1))
        next(trainer.run()); trainer.close(); sys.exit("sympy" in sys.modules)"""
    assert not subprocess.run([sys.executable, "-c", program], env=environment()).returncode


@pytest.mark.parametrize("recipe", ["pong", "pong_expert", "karpathy", "pong_conv_plain"])
def test_slice_rows_bounds_the_memory_of_a_pass(recipe):
    """A slice has 10,368 rows of 200 hidden units, or 640 of two frames: whole parts of 128 rows."""
    config = load_config(f"configs/{recipe}.toml")
    assert slice_rows(make_policy(config)) == (640 if recipe == "pong_conv_plain" else 10_368)
    assert slice_rows(make_value_network(config)) == 10_368


def test_run_approx_kl_by_hand(choice):
    trainer = make_trainer(learning_rate=0.01)
    before = weights(trainer.policy)
    update = next(trainer.run())
    *_, p, y, _ = in_numpy(before, update.batch)
    *_, p_after, _, _ = in_numpy(weights(trainer.policy), update.batch)
    log_ratio = log_prob(p_after, y) - log_prob(p, y)
    assert update.stats.approx_kl > 1e-4  # before the step it would be 0
    assert update.stats.approx_kl == pytest.approx((np.exp(log_ratio) - 1 - log_ratio).mean(), rel=1e-3)


def test_step_entropy_bonus_by_hand(choice):
    """∂H/∂z of a Bernoulli with logit z: H = log(1 + e^z) − z·p, so ∂H/∂z = p − p − z·p(1 − p) = −z·p(1 − p)."""
    bonus = 0.7
    plain, bonused = make_trainer(entropy_bonus=0.0), make_trainer(entropy_bonus=bonus)
    before = weights(plain.policy)
    update, other = next(plain.run()), next(bonused.run())
    assert other.batch.actions.equal(update.batch.actions)  # the same weights and noise
    assert other.stats.policy_loss == update.stats.policy_loss  # reported without the bonus

    x, h, p, *_ = in_numpy(before, update.batch)
    slope = -np.log(p / (1 - p)) * p * (1 - p) / len(p)  # of the mean entropy, (B,)
    dW2 = h.T @ slope
    dW1 = x.T @ (np.outer(slope, before[1]) * (h > 0))  # (D, H)
    for name, expected in (("W1", dW1), ("W2", dW2)):
        added = (getattr(bonused.policy, name).grad - getattr(plain.policy, name).grad).double().numpy()
        np.testing.assert_allclose(added, -bonus * expected, atol=1e-6)  # a bonus is a negative loss
        assert abs(expected).max() > 1e-4


def test_step_entropy_bonus_schedule(choice):
    """Half-way from 0.6 to 0.2 the bonus is 0.4; without an end it stays 0.6."""
    steps = []
    for bonus in ((0.6, 0.2), (0.4, None), (0.6, None)):
        trainer = make_trainer(entropy_bonus=bonus[0], entropy_bonus_end=bonus[1], total_steps=40)
        trainer.steps = 20
        next(trainer.run())
        steps.append(trainer.policy.W1.grad.clone())
    torch.testing.assert_close(steps[0], steps[1], rtol=0, atol=1e-7)
    assert (steps[0] - steps[2]).abs().max() > 1e-4


# --- the run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "expected"), [(0.2, [0.4, 0.35, 0.3, 0.25]), (None, [0.4] * 4)])
def test_run_learning_rate_schedule(choice, end, expected):
    """20 decisions an update: steps are taken at 0, ¼, ½ and ¾ of the run."""
    trainer = make_trainer(total_steps=80, learning_rate=0.4, learning_rate_end=end)
    rates, applied = [], []
    for update in trainer.run():
        rates.append(update.stats.learning_rate)
        applied.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == applied == pytest.approx(expected)


def test_run_ignores_torchs_random_stream(choice):
    state = torch.get_rng_state()
    list(make_trainer(total_steps=40).run())
    assert torch.equal(torch.get_rng_state(), state)


def test_run_ends_after_total_steps(choice):
    trainer = make_trainer(total_steps=41)
    counts = [(update.number, trainer.updates, trainer.steps) for update in trainer.run()]
    assert counts == [(1, 1, 20), (2, 2, 40), (3, 3, 60)]
    assert list(trainer.run()) == []


def test_run_starts_the_next_rollout_before_it_yields(choice, monkeypatch):
    """Players play while the caller handles an update; after the last one no rollout starts."""
    trainer = make_trainer(total_steps=60)
    start, started = trainer.rollout.start, []
    monkeypatch.setattr(trainer.rollout, "start", lambda *args: (started.append(args), start(*args)))
    first, second, third = (0, 0), (1, 1 / 3), (2, 2 / 3)  # the update's number, and the run's progress
    assert [list(started) for _ in trainer.run()] == [[first, second], [first, second, third], [first, second, third]]


@pytest.mark.parametrize(("policy", "learns"), [("karpathy", 1), ("conv", 3)])
def test_trainer_threads_of_torch(monkeypatch, policy, learns):
    monkeypatch.setattr("pong.distributed.cores", lambda: 3)
    threads = {"act": [], "distribution": []}
    with contextlib.closing(Trainer(TINY.model_copy(update={"policy": policy, "channels": [2]}))) as trainer:
        for name, used in threads.items():
            method = getattr(trainer.policy, name)
            monkeypatch.setattr(
                trainer.policy,
                name,
                lambda *x, method=method, used=used: used.append(torch.get_num_threads()) or method(*x),
            )
        next(trainer.run())
    assert set(threads["act"]) == ({1} if policy == "conv" else set())  # compiled code instead
    assert threads["distribution"] == [learns, 1]  # the step, and the statistics while others play


# --- resuming and interrupts ------------------------------------------------------------------------------------------

RECIPES = {
    "adam": {"learning_rate_end": 1e-4, "entropy_bonus_end": 1e-3, "baseline": "network"},
    "rmsprop": {"optimizer": "rmsprop", "reduction": "sum", "until": "episodes", "hold": "2-4", "max_frames": 400},
    "conv": {
        **{"policy": "conv", "channels": [4], "hidden": 8, "actions": 3, "frames": "both", "last_action": True},
        **{"baseline": "network", "baseline_channels": [], "horizon_end": 80, "total_steps": 1_600},
    },
}


def save_and_load(trainer, folder):
    counters = checkpoint.Counters(trainer.updates, trainer.steps)
    return checkpoint.load(checkpoint.save(folder, trainer.checkpoint(counters, trainer.rollout.state())))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, recipe):
    """On real Pong, bit for bit."""
    config = TINY.model_copy(update={"total_steps": 10**6, **recipe})
    with contextlib.closing(Trainer(config)) as trainer:
        run = trainer.run()
        next(run), next(run)
        half = save_and_load(trainer, tmp_path)
        later = [next(run), next(run)]
        expected = save_and_load(trainer, tmp_path)
    with contextlib.closing(Trainer(config)) as resumed:
        resumed.restore(copy.deepcopy(half))  # the optimizer continues in the tensors that it is given
        run = resumed.run()
        for update in later:
            other = next(run)
            assert (other.number, other.stats) == (update.number, update.stats)
            assert torch.equal(other.batch.actions, update.batch.actions)
        actual = save_and_load(resumed, tmp_path)
    assert (actual.counters, expected.counters.updates) == (expected.counters, 4)
    assert len(expected.optimizer) == len(expected.policy)
    for part in ("policy", "optimizer", "baseline", "baseline_optimizer"):
        tensors, actual_tensors, half_tensors = (flat(getattr(state, part)) for state in (expected, actual, half))
        assert actual_tensors.keys() == tensors.keys()
        assert all(torch.equal(actual_tensors[name], tensor) for name, tensor in tensors.items())
        assert not any(torch.equal(half_tensors[name], tensor) for name, tensor in tensors.items())  # all changed


PIECES = {**RECIPES, "cartpole": {"env": "CartPole-v1", "policy": "mlp", "until": "episodes"}}


@pytest.mark.parametrize("players", [1, 2])
@pytest.mark.parametrize("recipe", PIECES.values(), ids=PIECES)
def test_run_in_pieces_equals_one_run(recipe, players):
    """As in a notebook: a break, a dropped generator, an exception, an evaluation; for any number of players."""
    config = TINY.model_copy(update={"num_envs": 4, "players": players, "total_steps": 10**6, **recipe})
    with contextlib.closing(Trainer(config.model_copy(update={"players": 1}))) as uninterrupted:
        expected = [update.stats for update in itertools.islice(uninterrupted.run(), 7)]
    with contextlib.closing(Trainer(config)) as trainer:
        stats = [next(trainer.run()).stats]
        for update in trainer.run():
            stats.append(update.stats)
            break
        evaluate(trainer.policy, config if "env" in recipe else config.replace(max_frames=100), 1)
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
def test_run_continues_after_ctrl_c_anywhere(recipe, players):
    """As a notebook's stop button, at random moments: the weights equal those of an uninterrupted run."""
    config = TINY.model_copy(update={"num_envs": 4, "players": players, "total_steps": 10**6, **recipe})
    with contextlib.closing(Trainer(config)) as uninterrupted:
        for _ in itertools.islice(uninterrupted.run(), 6):
            pass
        expected = {name: weights.clone() for name, weights in uninterrupted.policy.state_dict().items()}
    random, stops, numbers = np.random.default_rng(players), 0, []
    with contextlib.closing(Trainer(config)) as trainer:
        while trainer.updates < 6:
            button = threading.Timer(random.uniform(0, 0.05), signal.raise_signal, [signal.SIGINT])
            try:
                button.start()
                for update in trainer.run():
                    numbers.append(update.number)
                    if trainer.updates == 6:
                        break
                button.join()
            except KeyboardInterrupt:
                stops += 1
        with contextlib.suppress(KeyboardInterrupt):
            button.join()
            time.sleep(0.1)  # the signal arrives a little later
        for name, weights in trainer.policy.state_dict().items():
            assert torch.equal(weights, expected[name])
    assert stops
    assert [*numbers, 6][:6] == [1, 2, 3, 4, 5, 6]  # the last one may still wait to be yielded


@pytest.mark.parametrize("players", [1, 2])
@pytest.mark.usefixtures("ctrl_c")
def test_run_continues_after_ctrl_c_at_each_line(players):
    """At the n-th call, line or return of the first updates' own code, and of the modules with which they wait."""
    config = TINY.model_copy(update={"num_envs": 4, "players": players, "total_steps": 10**5})

    def trace(frame, event, arg):
        is_traced = frame.f_globals.get("__name__", "").startswith(("pong.", "concurrent.", "threading", "contextlib"))
        if is_traced and next(events) == 0:
            signal.raise_signal(signal.SIGINT)
        return trace if is_traced else None

    with contextlib.closing(Trainer(config)) as trainer:
        for n in range(1, 350):
            events = itertools.count(-n)
            sys.settrace(trace)
            try:
                with pytest.raises(KeyboardInterrupt):
                    list(trainer.run())
            finally:
                sys.settrace(None)
    assert trainer.updates > 50
    with contextlib.closing(Trainer(config)) as uninterrupted:
        list(itertools.islice(uninterrupted.run(), trainer.updates))
    assert all(map(torch.equal, trainer.policy.parameters(), uninterrupted.policy.parameters()))


@pytest.mark.parametrize("make", [Trainer, lambda config: evaluate(make_policy(config), config, 1)])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_a_trainer_or_rollout_is_made(monkeypatch, make):
    """What is under way is finished: an interrupted import, such as Numba's, can't be repeated in the same process."""
    finished, before = [], (threading.active_count(), torch.get_num_threads(), signal.getsignal(signal.SIGINT))
    monkeypatch.setattr("pong.rollout.prepare", lambda _: finished.append(signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        make(TINY)
    assert finished == [None]
    assert (threading.active_count(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)) == before


def test_trainer_keeps_the_callers_number_of_threads():
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


def test_restore_rejects_games_that_do_not_fit():
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


ADAM = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}


@pytest.mark.parametrize(
    ("changes", "parts", "message"),
    [
        ({"hidden": 7}, {}, r"(?s)^the checkpoint does not fit its config [^\n]*W1[^\n]*$"),
        ({}, {"optimizer": {0: ADAM, 1: ADAM}}, "does not fit"),
        ({"optimizer": "rmsprop"}, {}, "does not fit"),
    ],
    ids=["shape of weights", "shape of optimizer", "kind of optimizer"],
)
def test_restore_rejects_a_checkpoint_that_does_not_fit(choice, changes, parts, message):
    trainer = make_trainer()
    next(trainer.run())
    state = {number: dict(values) for number, values in trainer.optimizer.state_dict()["state"].items()}
    parts = {"policy": dict(trainer.policy.state_dict()), "optimizer": state, **parts}
    saved = checkpoint.Checkpoint(trainer.config, checkpoint.Counters(1, 20), **parts)
    with pytest.raises(InputError, match=message):
        make_trainer(**changes).restore(saved)


# --- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", range(3))
def test_trainer_rejects_too_few_emulators_for_its_ranks(choice, rank):
    with pytest.raises(InputError, match=r"^num_envs = 2 is too few for 3 ranks[^\n]*$"):
        make_trainer(num_envs=2, ranks=Ranks(rank, 3))


# --- learning ---------------------------------------------------------------------------------------------------------


def probs_up(policy):
    x = np.zeros((2, PIXELS), np.int8)
    x[0, PIXELS_A], x[1, PIXELS_B] = 1, 1
    return policy.distribution(SparseFrames.from_dense(x)).probs.tolist()


WINNING = {
    "adam, batch, mean": {"learning_rate": 3e-3},
    "rmsprop, none, sum": {"optimizer": "rmsprop", "standardize": "none", "reduction": "sum"},
}


@pytest.mark.parametrize("recipe", WINNING.values(), ids=WINNING)
def test_run_learns_to_win(choice, recipe):
    trainer = make_trainer(num_envs=16, hidden=32, total_steps=16 * 5 * 40, **recipe)
    up_a, up_b = probs_up(trainer.policy)
    assert 0.3 < up_a < 0.7
    assert 0.3 < up_b < 0.7
    entropies = [update.stats.entropy for update in trainer.run()]
    assert len(entropies) == 40
    up_a, up_b = probs_up(trainer.policy)
    assert up_a > 0.9
    assert up_b < 0.1
    assert entropies[0] == pytest.approx(log(2), abs=0.03)  # a coin toss at first
    assert entropies[-1] < 0.4


# --- devices, policies, optimisers ------------------------------------------------------------------------------------


DEVICES = [  # name, GPUs, rank on this machine, expected device
    ("cpu", 0, 0, "cpu"),
    ("cpu", 2, 1, "cpu"),
    ("auto", 0, 1, "cpu"),
    ("auto", 1, 0, "cuda:0"),
    ("cuda", 2, 1, "cuda:1"),
    ("auto", 2, 3, "cuda:1"),
]


@pytest.mark.parametrize(("name", "gpus", "number", "device"), DEVICES)
def test_choose_device(monkeypatch, name, gpus, number, device):
    monkeypatch.setattr("pong.train.gpu_problem", lambda number: "" if gpus else "there is none")
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert choose_device(name, number) == torch.device(device)


NO_KERNEL = RuntimeError("CUDA error: no kernel image is available\nFor debugging consider passing …")
PROBLEMS = [  # torch.cuda.is_available, CUDA of this torch, what is said
    (lambda: False, "13.0", "PyTorch sees no CUDA device"),
    (lambda: False, None, "this PyTorch is for CPUs only; install one for CUDA (pytorch.org)"),
    (lambda: warnings.warn("too old. Update (Triggered internally at c10)", stacklevel=1), "13.0", "too old. Update"),
    (Mock(side_effect=NO_KERNEL), "13.0", "the GPU fails with 'CUDA error: no kernel image is available'; free it, or"),
]


@pytest.mark.parametrize(("is_available", "cuda", "expected"), PROBLEMS)
def test_gpu_problem_with_a_driver(monkeypatch, is_available, cuda, expected):
    monkeypatch.setattr("torch.cuda.is_available", is_available)
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("pong.train.shutil.which", lambda name: "/usr/bin/nvidia-smi")
    assert gpu_problem.__wrapped__(0).startswith(expected)


@pytest.mark.parametrize("name", recipes())
def test_gradients_are_contiguous(name):
    """NCCL refuses others. The rows are dense, as a GPU multiplies them."""
    if "doom" in name:
        pytest.importorskip("vizdoom")
    config = load_config(recipes()[name])
    policy, value = make_policy(config), make_value_network(config)
    x = torch.rand(3, task_spec(config).inputs)
    distribution = policy.distribution(x)
    (distribution.log_prob(distribution.sample()).sum() + value(x).sum()).backward()
    assert all(p.grad.is_contiguous() for p in (*policy.parameters(), *value.parameters()))


def test_run_times_the_work_that_a_device_still_does(monkeypatch):
    monkeypatch.setattr("torch.cpu.synchronize", lambda device: time.sleep(0.2))
    with contextlib.closing(Trainer(TINY.replace(baseline="network"))) as trainer:
        assert next(trainer.run()).learn_seconds > 0.2


def steps(gradients, **changes):
    """θ after each of those scalar gradients, from θ = 0 in float64."""
    theta = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    module = torch.nn.Module()
    module.theta = theta
    optimizer = make_optimizer(TINY.model_copy(update=changes), module)
    values = []
    for gradient in gradients:
        theta.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        values.append(theta.item())
    return optimizer, values


def test_make_optimizer_rmsprop_by_hand():
    optimizer, (first, second) = steps([1e-4, 1e-4], optimizer="rmsprop", learning_rate=1e-4)
    assert isinstance(optimizer, torch.optim.RMSprop)
    # cache = 0.01·1e-8, its root 1e-5: the step is 1e-4·1e-4/(1e-5 + 1e-5); eps inside the root would give 3e-6
    assert first == pytest.approx(-5e-4, rel=1e-12)
    # cache = 0.99·1e-10 + 1e-10
    assert second - first == pytest.approx(-1e-8 / (1e-5 * sqrt(1.99) + 1e-5), rel=1e-12)


def test_make_optimizer_rmsprop_decay():
    # cache = ½·g²: the step is lr·g/(g·√½ + eps)
    _, (first,) = steps([1.0], optimizer="rmsprop", learning_rate=1.0, rmsprop_decay=0.5, epsilon=1e-3)
    assert first == pytest.approx(-1 / (sqrt(0.5) + 1e-3), rel=1e-12)


def test_make_optimizer_adam_by_hand():
    settings = {"optimizer": "adam", "learning_rate": 1.0, "adam_beta1": 0.5, "adam_beta2": 0.75, "epsilon": 0.1}
    optimizer, (first, second) = steps([1.0, 3.0], **settings)
    assert isinstance(optimizer, torch.optim.Adam)
    # m = ½, v = ¼, each over 1 − β: 1 and 1
    assert first == pytest.approx(-1 / 1.1, rel=1e-12)
    # m = ¼ + 3/2 over 1 − ¼ = 7/3; v = 3/16 + 9/4 over 1 − 9/16 = 39/7
    assert second - first == pytest.approx(-(7 / 3) / (sqrt(39 / 7) + 0.1), rel=1e-12)
