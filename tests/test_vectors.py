"""Environments that show vectors, and the policies for them: the same rollout, loss and trainer as for Pong."""

import contextlib
import itertools
from math import exp, log, pi

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from small_runs import alone_and_shared
from torch import nn

from pong.config import Config, InputError, RunError
from pong.distributed import Ranks
from pong.envs import LQR, VectorFleet, make_fleet, spaces
from pong.envs.lqr import optimal_gain, riccati
from pong.losses import surrogate_loss
from pong.policies import CategoricalPolicy, GaussianPolicy, make_policy, make_value_network, mlp, mlp_policy
from pong.rollout import Rollout
from pong.train import Trainer, make_baseline

CPU = torch.device("cpu")


class Counting(gymnasium.Env):
    """Shows how many of its actions it has taken in this episode, pays 1 for each; ends by itself or is cut off.

    Episode k of an environment ends after 2 + k % 3 steps; every second one is truncated.
    """

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self):
        self.episode, self.taken = -1, []

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.taken.append([])
        return self._see(), {}

    def step(self, action):
        self.taken[-1].append(action.copy())
        ended = len(self.taken[-1]) == 2 + self.episode % 3
        return self._see(), 1.0, ended and self.episode % 2 == 0, ended and self.episode % 2 == 1, {}

    def _see(self):
        return np.array([self.episode, len(self.taken[-1])], np.float32)


gymnasium.register("tests/Counting-v0", Counting)
COUNTING = Config(env="tests/Counting-v0", policy="mlp", hidden=[], num_envs=2, horizon=20, gamma=0.5, players=1)


LENGTHS = [2, 3, 4, 2, 3, 4, 2]  # in 20 steps


class Wild:
    """Chooses actions far outside the box, each another one."""

    noise_shape = (2,)
    two_layers = None

    def act(self, x, noise):
        return 10 * (noise - 0.5)


# --- fleets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted():
    """A rollout in two environments that count: its batch, and what each environment was told to do."""
    with contextlib.closing(Rollout(COUNTING, Wild())) as rollout:
        batch = rollout.collect(0)
        yield batch, [env.unwrapped.taken for env in rollout.players[0]._player.fleet.envs.envs]


def test_every_decision_is_played_and_none_is_lost_at_a_restart(counted):
    """Rows of an episode show 0, 1, 2, … taken actions; a restart that swallowed an action would leave a gap."""
    batch, taken = counted
    assert batch.steps == 2 * 20
    assert [episode.length for episode in batch.episodes] == LENGTHS * 2
    assert [episode.score for episode in batch.episodes] == LENGTHS * 2
    one = [[k, t] for k, length in enumerate(LENGTHS) for t in range(length)]
    assert batch.observations.tolist() == one * 2
    for actions, done in zip(batch.actions.split(20), taken, strict=True):
        told = np.concatenate([np.stack(episode) for episode in done if episode])
        np.testing.assert_array_equal(told, actions.clamp(-1, 1).numpy())


def test_being_cut_off_ends_an_episode(counted):
    """Every second episode is truncated; with γ = ½ its last return is 1, not 1 + ½ of the next one's."""
    batch, _ = counted
    to_go = {2: [1.5, 1], 3: [1.75, 1.5, 1], 4: [1.875, 1.75, 1.5, 1]}
    assert batch.returns.tolist() == [x for length in LENGTHS * 2 for x in to_go[length]]


def test_a_box_action_is_clipped_on_its_way_out_and_learned_from_as_it_was_chosen(counted):
    batch, _ = counted
    assert (batch.actions.abs() > 1).float().mean() > 0.5
    policy = make_policy(COUNTING)
    log_probs = policy.log_prob(batch.observations, batch.actions)
    # a standard Gaussian at first: log π = Σ −a²/2 − ½ log 2π over both numbers
    by_hand = (-batch.actions.square() / 2 - log(2 * pi) / 2).sum(1)
    torch.testing.assert_close(log_probs, by_hand, rtol=1e-5, atol=1e-5)


def test_whole_episodes_leave_out_what_is_played_on_after_them():
    config = COUNTING.model_copy(update={"until": "episodes"})
    with contextlib.closing(Rollout(config, Wild())) as rollout:
        first, second = rollout.collect(0), rollout.collect(1)
    assert [(episode.length, episode.score) for episode in first.episodes] == [(2, 2), (2, 2)]
    assert first.steps == len(first.returns) == 4
    assert len({episode.length for episode in second.episodes}) == 1


def test_a_fleet_refuses_environments_that_restart_a_step_later():
    envs = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(ValueError, match="SAME_STEP"):
        VectorFleet(envs)
    VectorFleet(
        gymnasium.make_vec(
            "CartPole-v1", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
        )
    ).close()


def test_observations_stay_what_they_were():
    fleet = make_fleet(COUNTING)
    first = fleet.reset(np.array([1, 2]))
    kept = first.clone()
    fleet.step(np.zeros((2, 2), np.float32), np.ones(2, bool))
    assert torch.equal(first, kept)
    fleet.close()


CARTPOLE = Config(
    env="CartPole-v1", policy="mlp", hidden=8, num_envs=4, until="episodes", players=1, baseline="network"
)


def test_cartpole_pays_one_for_each_decision_that_counts():
    with contextlib.closing(Rollout(CARTPOLE, make_policy(CARTPOLE))) as rollout:
        batch = rollout.collect(0)
    lengths = [episode.length for episode in batch.episodes]
    assert [episode.score for episode in batch.episodes] == lengths
    assert batch.steps == sum(lengths) == len(batch.returns)
    assert batch.points == 0


def test_the_number_of_players_changes_nothing():
    alone_and_shared(CARTPOLE)


# --- what can't be played ---------------------------------------------------------------------------------------------


class Odd(Counting):
    """With other spaces."""

    def __init__(self, observations=Counting.observation_space, actions=Counting.action_space):
        super().__init__()
        self.observation_space, self.action_space = observations, actions


ODD = {
    "tests/Image-v0": ({"observations": Box(0, 1, (4, 4))}, "shows Box"),
    "tests/Word-v0": ({"observations": Discrete(3)}, "shows Discrete"),
    "tests/Many-v0": ({"actions": gymnasium.spaces.MultiDiscrete([2, 2])}, "takes MultiDiscrete"),
    "tests/FromOne-v0": ({"actions": Discrete(3, start=1)}, "takes Discrete"),
}
for name, (kwargs, _) in ODD.items():
    gymnasium.register(name, Odd, kwargs=kwargs)


@pytest.mark.parametrize(("env", "what"), [(name, what) for name, (_, what) in ODD.items()], ids=ODD)
def test_an_environment_no_policy_can_play(env, what):
    with pytest.raises(InputError, match=f"env = '{env}' {what}"):
        spaces(env)


@pytest.mark.parametrize("env", ["CartPol-v1", "CartPole-v99", "nobody/Knows-v0", "no such thing"])
def test_an_environment_that_is_not_there(env):
    with pytest.raises(InputError, match=f"env = '{env}': "):
        spaces(env)


# --- pictures, numbers that are none, games without an end ------------------------------------------------------------


class Pictures(gymnasium.Env):
    """Shows, (H, W, C), how often it was told 1: in the second row and third column's green."""

    observation_space = Box(0, 255, (40, 50, 3), np.uint8)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.told, self.taken = 0, 0
        return self._see(), {}

    def step(self, action):
        self.told, self.taken = self.told + int(action), self.taken + 1
        return self._see(), float(action), self.taken == 5, False, {}

    def _see(self):
        picture = np.zeros((40, 50, 3), np.uint8)
        picture[1, 2, 1] = self.told
        return picture


class Small(Pictures):
    observation_space = Box(0, 255, (10, 50, 3), np.uint8)


gymnasium.register("tests/Pictures-v0", Pictures)
gymnasium.register("tests/Small-v0", Small)
SEEN = Config(env="tests/Pictures-v0", policy="conv", channels=[2], hidden=4, num_envs=2, horizon=20, device="cpu")


def test_pictures_with_their_colours_last_are_seen_with_them_first():
    assert spaces(SEEN.env)[0].shape == (3, 40, 50)
    with contextlib.closing(make_fleet(SEEN)) as fleet:
        assert fleet.reset(np.array([1, 2])).shape == (2, 3, 40, 50)
        fleet.step(np.array([1, 0]), np.ones(2, bool))
        seen = fleet.step(np.array([1, 1]), np.ones(2, bool)).observations
    assert seen[:, 1, 1, 2].tolist() == [2, 1]
    assert int(seen.sum()) == 3
    with contextlib.closing(Trainer(SEEN)) as trainer:
        assert next(trainer.run()).batch.observations.shape == (40, 3, 40, 50)


@pytest.mark.parametrize("kind", ["rgb", "ram"])
def test_ataris_own_environments_train_or_say_why_not(kind):
    """Pong's screens (210, 160, 3), by gymnasium's name of it; and its memory, 128 bytes."""
    gymnasium.register(f"tests/Pong-{kind}", "ale_py.env:AtariEnv", kwargs={"game": "pong", "obs_type": kind})
    config = SEEN.replace(env=f"tests/Pong-{kind}", policy="conv" if kind == "rgb" else "mlp", num_envs=1, horizon=150)
    with contextlib.closing(Trainer(config.replace(gamma=0.9))) as trainer:
        trainer.rollout.players[0]._player.fleet.envs.envs[0].unwrapped.ale.setInt("max_num_frames_per_episode", 40)
        update = next(trainer.run())
    shape = (3, 210, 160) if kind == "rgb" else (128,)
    assert tuple(update.batch.observations.shape[1:]) == shape


def test_pictures_that_are_too_small_for_the_convolutions_are_refused():
    with pytest.raises(InputError, match=r"Small-v0', channels = \[2, 2\]: pictures of 10 × 50 are too small for 2"):
        Trainer(SEEN.replace(env="tests/Small-v0", channels=[2, 2]))


class Broken(Counting):
    """Shows, or pays, something that is no number, at its fourth step, which ends no episode."""

    def __init__(self, shows, pays):
        super().__init__()
        self.shows, self.pays, self.number = shows, pays, 0

    def step(self, action):
        self.number += 1
        seen, reward, *rest = super().step(action)
        if self.number == 4:
            seen, reward = seen + np.float32(self.shows), reward + self.pays
        return seen, reward, *rest


@pytest.mark.parametrize(
    ("shows", "pays", "words"),
    [(np.nan, 0, "a number that it shows is nan"), (0, -np.inf, "a reward is -inf"), (np.inf, 0, "it shows is inf")],
)
def test_what_is_no_number_is_blamed_on_who_gave_it(shows, pays, words):
    gymnasium.register("tests/Broken-v0", Broken, kwargs={"shows": shows, "pays": pays})
    try:
        trainer = Trainer(COUNTING.replace(env="tests/Broken-v0"))
        found = rf"^env = 'tests/Broken-v0': .*{words}; mend the environment"
        with contextlib.closing(trainer), pytest.raises(RunError, match=found):
            next(trainer.run())
    finally:
        del gymnasium.registry["tests/Broken-v0"]


class Endless(Counting):
    """Its episodes do not end."""

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


gymnasium.register("tests/Endless-v0", Endless)


@pytest.mark.parametrize("until", ["steps", "episodes"])
@pytest.mark.parametrize("limit", ["MOST_MOMENTS", "MOST_BYTES"])
def test_nobody_waits_for_ever_for_an_episodes_end(monkeypatch, until, limit):
    monkeypatch.setattr(f"pong.rollout.{limit}", 2_000)
    trainer = Trainer(COUNTING.replace(env="tests/Endless-v0", until=until))
    with contextlib.closing(trainer), pytest.raises(RunError, match=r"an episode has not ended in .*max_episode_steps"):
        next(trainer.run())


def test_whoever_waits_hears_of_it_and_may_leave():
    """Such as the command line, which shows a line every so often, and hears Ctrl-C."""
    with contextlib.closing(Trainer(COUNTING.replace(env="tests/Endless-v0"))) as trainer:
        heard = []

        def leave():
            heard.append(len(heard))
            if len(heard) == 3:
                raise ZeroDivisionError

        trainer.rollout.while_playing = leave
        with pytest.raises(ZeroDivisionError):
            next(trainer.run())
        assert trainer.updates == 0


@pytest.mark.parametrize("config", [COUNTING, SEEN, Config(num_envs=2, horizon=40, hidden=8, baseline="network")])
def test_torchs_default_dtype_changes_nothing(config):
    """Numbers are float32 whatever a script has made torch's default."""
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
    """A network that answers every row with these numbers."""
    network = nn.Linear(1, len(values), dtype=torch.float64)
    nn.init.zeros_(network.weight)
    network.bias.data = torch.tensor(values, dtype=torch.float64)
    return network


X = torch.zeros(3, 1, dtype=torch.float64)


def test_a_categorical_policy_chooses_where_the_noise_falls():
    """π = (1/6, 1/3, 1/2): noise below 1/6 is action 0, below 1/2 action 1, the rest action 2."""
    policy = CategoricalPolicy(fixed(0.0, log(2), log(3)))
    noise = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.999])
    assert policy.act(torch.zeros(6, 1, dtype=torch.float64), noise).tolist() == [0, 0, 1, 1, 2, 2]
    assert policy.act_greedily(X).tolist() == [2, 2, 2]
    assert policy.log_prob(X, torch.tensor([0, 1, 2])).tolist() == pytest.approx([log(1 / 6), log(1 / 3), log(1 / 2)])


def test_a_categorical_policys_gradient_is_the_score_times_the_return():
    """Middle arm, return 3: score (−1/6, 2/3, −1/2), times 3, negated in .grad."""
    policy = CategoricalPolicy(fixed(0.0, log(2), log(3)))
    loss = surrogate_loss(policy.log_prob(X[:1], torch.tensor([1])), torch.tensor([3.0], dtype=torch.float64))
    loss.backward()
    assert policy.network.bias.grad.tolist() == pytest.approx([0.5, -2, 1.5], abs=1e-12)


def test_a_gaussian_policy_takes_quantiles():
    """Φ(1) = .8413447: one σ above the mean."""
    policy = GaussianPolicy(fixed(1.0, -2.0), 2).double()
    policy.log_std.data = torch.tensor([0.0, log(3)], dtype=torch.float64)
    noise = torch.tensor([[0.5, 0.5], [0.8413447, 0.5], [0.5, 0.8413447]], dtype=torch.float64)
    expected = torch.tensor([[1, -2], [2, -2], [1, 1]], dtype=torch.float64)
    torch.testing.assert_close(policy.act(X, noise), expected, rtol=0, atol=2e-6)  # noise is moved by half a bit
    assert policy.act_greedily(X).tolist() == [[1, -2]] * 3
    extremes = policy.act(X[:2], torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]]))
    assert extremes.isfinite().all()


def test_a_gaussian_policys_gradient_is_the_one_by_hand():
    """σ = (½, 1), a − μ = (1, −2), R = 3: ∂μ = (a−μ)/σ²·R = (12, −6), ∂log σ = ((a−μ)²/σ² − 1)·R = (9, 9)."""
    policy = GaussianPolicy(fixed(0.25, 1.0), 2).double()
    policy.log_std.data = torch.tensor([log(0.5), 0.0], dtype=torch.float64)
    log_probs = policy.log_prob(X[:1], torch.tensor([[1.25, -1.0]], dtype=torch.float64))
    # −½·4 − log ½ − ½·4 − log 1 − log 2π
    assert log_probs.tolist() == pytest.approx([-2 + log(2) - 2 - log(2 * pi)], abs=1e-12)
    surrogate_loss(log_probs, torch.tensor([3.0], dtype=torch.float64)).backward()
    assert policy.network.bias.grad.tolist() == pytest.approx([-12, 6], abs=1e-12)
    assert policy.log_std.grad.tolist() == pytest.approx([-9, -9], abs=1e-12)
    assert policy.diagnostics(policy.distribution(X))["std"].item() == pytest.approx(0.75, abs=1e-12)


def test_layers():
    network = mlp((4, 10, 2, 3), torch.Generator().manual_seed(1))
    assert [tuple(p.shape) for p in network.parameters()] == [(10, 4), (10,), (2, 10), (2,), (3, 2), (3,)]
    assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert 0 < network[0].weight.abs().max() <= 1 / 2
    assert torch.equal(network(torch.randn(5, 4)), torch.zeros(5, 3))  # it begins indifferent
    again = mlp((4, 10, 2, 3), torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_no_hidden_layer_is_a_linear_policy():
    policy = mlp_policy([], Box(-1, 1, (3,)), Box(-1, 1, (2,)))
    assert {name: tuple(p.shape) for name, p in policy.named_parameters()} == {
        "log_std": (2,),
        "network.0.weight": (2, 3),
        "network.0.bias": (2,),
    }


def test_a_baseline_begins_at_zero_and_has_its_own_layers():
    network = make_value_network(CARTPOLE.model_copy(update={"baseline_hidden": [5, 3]}))
    assert [tuple(p.shape) for p in network.parameters()] == [(5, 4), (5,), (3, 5), (3,), (1, 3), (1,)]
    assert torch.equal(network(torch.randn(7, 4)), torch.zeros(7))


def test_a_baseline_with_a_unit_learns_hundreds_as_another_learns_ones():
    observations, returns = torch.randn(50, 4), torch.randn(50)
    baselines = [make_baseline(CARTPOLE.model_copy(update={"baseline_unit": u}), CPU, Ranks()) for u in (1.0, 128.0)]
    for baseline in baselines:
        for _ in range(5):
            baseline.fit(observations, baseline.predict(observations), baseline.unit * returns, 1.0)
    ones, hundreds = (baseline.predict(observations) for baseline in baselines)
    assert ones.std() > 0
    assert torch.equal(hundreds, 128 * ones)


# --- the linear system ------------------------------------------------------------------------------------------------


def test_the_riccati_equation():
    """A = B = Q = R = 1: P² = P + 1, so P is the golden ratio, and the gain −P/(1 + P) = −1/P."""
    golden = (1 + 5**0.5) / 2
    assert riccati() == pytest.approx(golden, abs=1e-14)
    assert optimal_gain() == pytest.approx(-1 / golden, abs=1e-14)


def cost(gain, start=1.0):
    """What an episode costs under a = gain·s."""
    env = LQR()
    env.reset(seed=1)
    env._state, done, total = start, False, 0.0
    while not done:
        _, reward, done, _, _ = env.step(np.array([gain * env._state]))
        total -= reward
    return total


def test_the_optimal_gain_costs_least_and_p_is_its_cost():
    assert cost(optimal_gain()) == pytest.approx(riccati(), rel=1e-12)
    assert cost(optimal_gain(), start=2) == pytest.approx(4 * riccati(), rel=1e-12)
    for other in (-0.7, -0.6, -0.5, -1, 0):
        assert cost(other) > cost(optimal_gain()) + 1e-4


@pytest.mark.filterwarnings("ignore:.*Box (action|observation) space")
def test_lqr_passes_gymnasiums_checks():
    check_env(gymnasium.make("pong/LQR-v0").unwrapped, skip_render_check=True)


def test_one_update_of_lqr_takes_the_step_by_hand():
    """w and b move by −learning_rate·(−mean (a−μ)s/σ²·A, …): plain gradient, checked against the batch."""
    config = Config(env="pong/LQR-v0", policy="mlp", hidden=[], num_envs=8, until="episodes", players=1, gamma=1.0,
                    entropy_bonus=0.0, total_steps=1, device="cpu")  # fmt: skip
    with contextlib.closing(Trainer(config)) as trainer:
        (update,) = trainer.run()
        gradient = {name: p.grad.clone() for name, p in trainer.policy.named_parameters()}
    batch = update.batch
    s, a = batch.observations.double(), batch.actions.double()  # (B, 1); μ = 0 and σ = 1 at first
    advantages = (batch.returns.double() - batch.returns.double().mean()) / batch.returns.double().std(correction=0)
    by_hand = {
        "network.0.weight": -(a * s * advantages[:, None]).mean(0, keepdim=True),
        "network.0.bias": -(a * advantages[:, None]).mean(0),
        "log_std": -((a.square() - 1) * advantages[:, None]).mean(0),
    }
    assert len(batch.returns) == 8 * LQR().steps
    for name, expected in by_hand.items():
        torch.testing.assert_close(gradient[name].double(), expected, rtol=1e-4, atol=1e-5)
    assert update.stats.std == pytest.approx(1)
    assert update.stats.prob_up is None
    assert update.stats.entropy == pytest.approx(log(2 * pi * exp(1)) / 2, rel=1e-6)
