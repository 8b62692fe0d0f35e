"""Gymnasium's environments, the linear system, and the policies for them."""

import contextlib
import itertools
from math import log, pi

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from small_runs import alone_and_shared
from torch import nn

from pong.config import Config, InputError, RunError
from pong.distributed import Ranks
from pong.envs import check_task, make_fleet, task_spec
from pong.envs.lqr import COST_TO_GO, LQR, optimal_gain
from pong.losses import surrogate_loss
from pong.policies import CategoricalPolicy, GaussianPolicy, make_policy, make_value_network, mlp
from pong.rollout import Rollout
from pong.train import Trainer, make_baseline

BOTH = np.ones(2, bool)


class Counting(gymnasium.Env):
    """Observes (episode, step) and is rewarded with 1 a step, or with NaN or infinity in its fourth step.

    Episode k of an environment ends after 2 + k % 3 steps; every second one is truncated.
    """

    instances = []  # noqa: RUF012

    def __init__(self, observations=None, actions=None, error=0.0, reward_error=0.0):
        self.observation_space = observations or Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = actions or Box(-1, 1, (2,), np.float32)
        self.errors = {4: (error, reward_error)}
        self.episode, self.taken = -1, []
        self.instances.append(self)

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.taken.append([])
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action):
        self.taken[-1].append(action.copy())
        steps = len(self.taken[-1])
        error, reward_error = self.errors.get(sum(map(len, self.taken)), (0, 0))
        ended, truncates = steps == 2 + self.episode % 3, self.episode % 2 == 1
        observation = np.array([self.episode, steps + error], np.float32)
        return observation, 1.0 + reward_error, ended and not truncates, ended and truncates, {}


class Endless(Counting):
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


class Pictures(gymnasium.Env):
    """Shows (H, W, C) pictures; the green of the second row's third pixel counts the actions 1."""

    action_space = Discrete(2)

    def __init__(self, height=40):
        self.observation_space = Box(0, 255, (height, 50, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.picture, self.steps = np.zeros(self.observation_space.shape, np.uint8), 0
        return self.picture.copy(), {}

    def step(self, action):
        self.picture[1, 2, 1] += int(action)
        self.steps += 1
        return self.picture.copy(), float(action), self.steps == 5, False, {}


def register(name, env, **kwargs):
    gymnasium.register(f"tests/{name}-v0", env, kwargs=kwargs)


register("Counting", Counting)
register("Endless", Endless)
register("Pictures", Pictures)
register("Small", Pictures, height=10)
COUNTING = Config(env="tests/Counting-v0", policy="mlp", hidden=[], num_envs=2, horizon=20, gamma=0.5, players=1)
LENGTHS = [2, 3, 4, 2, 3, 4, 2]  # of the episodes in 20 steps
PICTURES = Config(env="tests/Pictures-v0", policy="conv", channels=[2], hidden=4, num_envs=2, horizon=20, device="cpu")
CARTPOLE = Config(
    env="CartPole-v1", policy="mlp", hidden=8, num_envs=4, until="episodes", players=1, baseline="network"
)


class OutsideTheBox:
    """Chooses different actions, most of them far outside the box."""

    noise_shape = (2,)
    two_layers = None

    def act(self, x, noise):
        return 10 * (noise - 0.5)


# --- fleets -----------------------------------------------------------------------------------------------------------


def counted(config):
    """Two batches, and the actions that each environment took."""
    task_spec(config)  # makes an instance of its own
    Counting.instances.clear()
    with contextlib.closing(Rollout(config, OutsideTheBox())) as rollout:
        batches = [rollout.collect(0), rollout.collect(1)]
    return *batches, [env.taken for env in Counting.instances]


def test_fleet_plays_every_decision_with_box_actions_clipped():
    """A restart that ignores an action would leave a gap; a truncated episode's last return (γ = ½) is 1, as others."""
    batch, _, taken = counted(COUNTING)
    assert batch.steps == 2 * 20
    assert [(episode.length, episode.score) for episode in batch.episodes] == [(n, n) for n in LENGTHS] * 2
    assert batch.observations.tolist() == [[k, t] for k, n in enumerate(LENGTHS) for t in range(n)] * 2
    to_go = {2: [1.5, 1], 3: [1.75, 1.5, 1], 4: [1.875, 1.75, 1.5, 1]}
    assert batch.returns.tolist() == [x for n in LENGTHS * 2 for x in to_go[n]]
    for actions, episodes in zip(batch.actions.split(20), taken, strict=True):
        applied = np.array([action for episode in episodes for action in episode])
        np.testing.assert_array_equal(applied[:20], actions.clamp(-1, 1).numpy())
    # learned from as they were chosen, by a standard Gaussian at first: log π = Σ −a²/2 − ½ log 2π over both numbers
    assert (batch.actions.abs() > 1).float().mean() > 0.5
    by_hand = (-batch.actions.square() / 2 - log(2 * pi) / 2).sum(1)
    log_probs = make_policy(COUNTING).log_prob(batch.observations, batch.actions)
    torch.testing.assert_close(log_probs, by_hand, rtol=1e-5, atol=1e-5)


def test_fleet_whole_episodes_end_with_the_first():
    first, second, _ = counted(COUNTING.replace(until="episodes"))
    assert [(episode.length, episode.score) for episode in first.episodes] == [(2, 2), (2, 2)]
    assert first.steps == len(first.returns) == 4
    assert len({episode.length for episode in second.episodes}) == 1


def test_fleet_observations_are_copies():
    with contextlib.closing(make_fleet(COUNTING, 2)) as fleet:
        first = fleet.reset(np.array([1, 2]))
        saved = first.clone()
        fleet.step(np.zeros((2, 2), np.float32), BOTH)
    assert torch.equal(first, saved)


def test_fleet_pictures_have_channels_first():
    assert task_spec(PICTURES).shape == (3, 40, 50)
    with contextlib.closing(make_fleet(PICTURES, 2)) as fleet:
        assert fleet.reset(np.array([1, 2])).shape == (2, 3, 40, 50)
        fleet.step(np.array([1, 0]), BOTH)
        observations = fleet.step(np.array([1, 1]), BOTH).observations
    assert observations[:, 1, 1, 2].tolist() == [2, 1]
    assert int(observations.sum()) == 3
    with pytest.raises(InputError, match=r"Small-v0': images of 10 × 50 are too small for channels = \[2, 2\]"):
        Trainer(PICTURES.replace(env="tests/Small-v0", channels=[2, 2]))


@pytest.mark.parametrize(("kind", "shape"), [("rgb", (3, 210, 160)), ("ram", (128,))])
def test_fleet_trains_ataris_own_environments(kind, shape):
    kwargs = {"game": "pong", "obs_type": kind, "max_num_frames_per_episode": 40}
    gymnasium.register(f"tests/Pong-{kind}", "ale_py.env:AtariEnv", kwargs=kwargs)
    policy = "mlp" if kind == "ram" else "conv"
    config = PICTURES.replace(env=f"tests/Pong-{kind}", policy=policy, num_envs=1, horizon=150, gamma=0.9)
    with contextlib.closing(Trainer(config)) as trainer:
        assert tuple(next(trainer.run()).batch.observations.shape[1:]) == shape


def test_cartpole_rewards_each_decision_whatever_the_number_of_players():
    for batch, _ in alone_and_shared(CARTPOLE):
        lengths = [episode.length for episode in batch.episodes]
        assert [episode.score for episode in batch.episodes] == lengths
        assert batch.steps == sum(lengths) == len(batch.returns)


# --- bad environments -------------------------------------------------------------------------------------------------

UNPLAYABLE = {
    "Image": ({"observations": Box(0, 1, (4, 4))}, "has Box"),
    "Number": ({"observations": Discrete(3)}, "has Discrete"),
    "Many": ({"actions": MultiDiscrete([2, 2])}, "takes MultiDiscrete"),
    "FromOne": ({"actions": Discrete(3, start=1)}, "takes Discrete"),
}
for name, (kwargs, _) in UNPLAYABLE.items():
    register(name, Counting, **kwargs)
UNKNOWN = ["CartPol-v1", "CartPole-v99", "nobody/Knows-v0", "no such thing"]


@pytest.mark.parametrize(
    ("env", "words"), [(f"tests/{n}-v0", words) for n, (_, words) in UNPLAYABLE.items()] + [(n, "") for n in UNKNOWN]
)
def test_spaces_rejects_an_environment(env, words):
    with pytest.raises(InputError, match=f"env = '{env}':? {words}"):
        check_task(COUNTING.replace(env=env))


BROKEN = {"nan": {"error": np.nan}, "inf": {"error": np.inf}, "-inf": {"reward_error": -np.inf}}
for name, kwargs in BROKEN.items():
    register(f"Broken{name}", Counting, **kwargs)


@pytest.mark.parametrize(
    ("number", "label"), [("nan", "an observation"), ("inf", "an observation"), ("-inf", "a reward")]
)
def test_fleet_reports_a_value_that_is_not_finite(number, label):
    env = f"tests/Broken{number}-v0"
    message = f"^env = '{env}': {label} is {number}; fix the environment"
    with contextlib.closing(Trainer(COUNTING.replace(env=env))) as trainer, pytest.raises(RunError, match=message):
        next(trainer.run())


@pytest.mark.parametrize("until", ["steps", "episodes"])
def test_rollout_gives_up_on_an_endless_episode(monkeypatch, until):
    monkeypatch.setattr("pong.rollout.MOST_TIME_STEPS", 2_000)
    trainer = Trainer(COUNTING.replace(env="tests/Endless-v0", until=until))
    with contextlib.closing(trainer), pytest.raises(RunError, match=r"an episode has not ended in .*max_episode_steps"):
        next(trainer.run())


@pytest.mark.parametrize("config", [COUNTING, PICTURES, Config(num_envs=2, horizon=40, hidden=8, baseline="network")])
def test_trainer_ignores_torchs_default_dtype(config):
    stats, weights = [], []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            with contextlib.closing(Trainer(config.replace(device="cpu"))) as trainer:
                stats.append([update.stats for update in itertools.islice(trainer.run(), 2)])
            weights.append(list(trainer.policy.state_dict().values()))
        finally:
            torch.set_default_dtype(torch.float32)
    assert stats[0] == stats[1]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    assert {weight.dtype for weight in weights[1]} == {torch.float32}


# --- policies ---------------------------------------------------------------------------------------------------------


def fixed(*values):
    """A network whose outputs are these numbers for every row."""
    network = nn.Linear(1, len(values), dtype=torch.float64)
    nn.init.zeros_(network.weight)
    network.bias.data = torch.tensor(values, dtype=torch.float64)
    return network


X = torch.zeros(3, 1, dtype=torch.float64)
RETURN = torch.tensor([3.0], dtype=torch.float64)


def test_categorical_policy_by_hand():
    """π = (1/6, 1/3, 1/2): noise below 1/6 is action 0, below 1/2 action 1, the rest action 2."""
    policy = CategoricalPolicy(fixed(0.0, log(2), log(3)))
    noise = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.999])
    assert policy.act(torch.zeros(6, 1, dtype=torch.float64), noise).tolist() == [0, 0, 1, 1, 2, 2]
    assert policy.act_greedily(X).tolist() == [2, 2, 2]
    assert policy.log_prob(X, torch.tensor([0, 1, 2])).tolist() == pytest.approx([log(1 / 6), log(1 / 3), log(1 / 2)])
    # action 1, return 3: the score (−1/6, 2/3, −1/2) times 3, negated in .grad
    surrogate_loss(policy.log_prob(X[:1], torch.tensor([1])), RETURN).backward()
    assert policy.network.bias.grad.tolist() == pytest.approx([0.5, -2, 1.5], abs=1e-12)


def test_gaussian_policy_samples_quantiles():
    """Φ(1) = .8413447: one σ above the mean."""
    policy = GaussianPolicy(fixed(1.0, -2.0), 2).double()
    policy.log_std.data = torch.tensor([0.0, log(3)], dtype=torch.float64)
    noise = torch.tensor([[0.5, 0.5], [0.8413447, 0.5], [0.5, 0.8413447]], dtype=torch.float64)
    expected = torch.tensor([[1, -2], [2, -2], [1, 1]], dtype=torch.float64)
    torch.testing.assert_close(policy.act(X, noise), expected, rtol=0, atol=2e-6)  # noise is moved by half a bit
    assert policy.act_greedily(X).tolist() == [[1, -2]] * 3
    extremes = policy.act(X[:2], torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]]))
    assert extremes.isfinite().all()


def test_gaussian_policy_gradient_by_hand():
    """σ = (½, 1), a − μ = (1, −2), R = 3: ∂μ = (a−μ)/σ²·R = (12, −6), ∂log σ = ((a−μ)²/σ² − 1)·R = (9, 9)."""
    policy = GaussianPolicy(fixed(0.25, 1.0), 2).double()
    policy.log_std.data = torch.tensor([log(0.5), 0.0], dtype=torch.float64)
    log_probs = policy.log_prob(X[:1], torch.tensor([[1.25, -1.0]], dtype=torch.float64))
    # −½·4 − log ½ − ½·4 − log 1 − log 2π
    assert log_probs.tolist() == pytest.approx([-2 + log(2) - 2 - log(2 * pi)], abs=1e-12)
    surrogate_loss(log_probs, RETURN).backward()
    assert policy.network.bias.grad.tolist() == pytest.approx([-12, 6], abs=1e-12)
    assert policy.log_std.grad.tolist() == pytest.approx([-9, -9], abs=1e-12)
    assert policy.diagnostics(policy.distribution(X))["std"].item() == pytest.approx(0.75, abs=1e-12)


def test_mlp_layers():
    network, again = (mlp((4, 10, 2, 3), torch.Generator().manual_seed(1)) for _ in range(2))
    assert [tuple(p.shape) for p in network.parameters()] == [(10, 4), (10,), (2, 10), (2,), (3, 2), (3,)]
    assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert 0 < network[0].weight.abs().max() <= 1 / 2  # 1/√4
    assert torch.equal(network(torch.randn(5, 4)), torch.zeros(5, 3))  # uniform at first
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    linear = GaussianPolicy(mlp((3, 2)), 2)
    shapes = {name: tuple(p.shape) for name, p in linear.named_parameters()}
    assert shapes == {"log_std": (2,), "network.0.weight": (2, 3), "network.0.bias": (2,)}


def test_baseline_has_its_own_layers_and_unit():
    network = make_value_network(CARTPOLE.replace(baseline_hidden=[5, 3]))
    assert [tuple(p.shape) for p in network.parameters()] == [(5, 4), (5,), (3, 5), (3,), (1, 3), (1,)]
    assert torch.equal(network(torch.randn(7, 4)), torch.zeros(7))
    observations, returns = torch.randn(50, 4), torch.randn(50)
    predictions = []
    for unit in (1.0, 128.0):  # returns 128 times as large in a unit of 128 are learned as well
        baseline = make_baseline(CARTPOLE.replace(baseline_unit=unit), torch.device("cpu"), Ranks())
        for _ in range(5):
            baseline.fit(observations, baseline.predict(observations), unit * returns, 1.0)
        predictions.append(baseline.predict(observations))
    assert predictions[0].std() > 0
    assert torch.equal(predictions[1], 128 * predictions[0])


# --- the linear system ------------------------------------------------------------------------------------------------


def cost(gain, start=1.0):
    """An episode's cost under a = gain·s."""
    env = LQR()
    env.reset(seed=1)
    env._state, done, total = start, False, 0.0
    while not done:
        _, reward, done, _, _ = env.step(np.array([gain * env._state]))
        total -= reward
    return total


def test_lqr_optimal_gain_has_the_least_cost():
    """The cost is P·s², and a gain that differs costs more."""
    assert cost(optimal_gain()) == pytest.approx(COST_TO_GO, rel=1e-12)
    assert cost(optimal_gain(), start=2) == pytest.approx(4 * COST_TO_GO, rel=1e-12)
    for other in (-0.7, -0.6, -0.5, -1, 0):
        assert cost(other) > cost(optimal_gain()) + 1e-4


@pytest.mark.filterwarnings("ignore:.*Box (action|observation) space")
def test_lqr_passes_gymnasiums_checks():
    check_env(gymnasium.make("pong/LQR-v0").unwrapped, skip_render_check=True)
