"""Gymnasium's environments and the linear system."""

import contextlib
import itertools
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env

from pong.checkpoint import Counters, save_policy
from pong.cli import main
from pong.config import Config, InputError, RunError, to_toml
from pong.envs import check_task, make_fleet, task_spec
from pong.envs.lqr import COST_TO_GO, LQR, OPTIMAL_GAIN
from pong.policies import make_policy
from pong.rollout import Rollout
from pong.train import Trainer

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


class Images(gymnasium.Env):
    """Shows (H, W, C) images; the green of the second row's third pixel counts the actions 1."""

    action_space = Discrete(2)

    def __init__(self, height=40):
        self.observation_space = Box(0, 255, (height, 50, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.image, self.steps = np.zeros(self.observation_space.shape, np.uint8), 0
        return self.image.copy(), {}

    def step(self, action):
        self.image[1, 2, 1] += int(action)
        self.steps += 1
        return self.image.copy(), float(action), self.steps == 5, False, {}


def register(name, env, **kwargs):
    gymnasium.register(f"tests/{name}-v0", env, kwargs=kwargs)


register("Counting", Counting)
register("Endless", Endless)
register("Images", Images)
register("Small", Images, height=10)
COUNTING = Config(env="tests/Counting-v0", policy="mlp", hidden=[], num_envs=2, horizon=20, gamma=0.5, players=1)
LENGTHS = [2, 3, 4, 2, 3, 4, 2]  # of the episodes in 20 steps
IMAGES = Config(env="tests/Images-v0", policy="conv", channels=[2], hidden=4, num_envs=2, horizon=20, device="cpu")


class OutsideTheBox:
    """Chooses different actions, most of them far outside the box."""

    noise_shape = (2,)
    two_layers = None

    def act(self, x, noise):
        return 10 * (noise - 0.5)


# --- fleets -----------------------------------------------------------------------------------------------------------


def test_fleet_plays_every_decision_with_box_actions_clipped():
    """A restart must not ignore an action; a truncated episode's last return (γ = ½) is 1, as in other episodes."""
    task_spec(COUNTING)  # also makes an instance
    Counting.instances.clear()
    with contextlib.closing(Rollout(COUNTING, OutsideTheBox())) as rollout:
        batch = rollout.collect(0)
    taken = [env.taken for env in Counting.instances]
    assert batch.steps == 2 * 20
    assert [(episode.length, episode.score) for episode in batch.episodes] == [(n, n) for n in LENGTHS] * 2
    assert batch.observations.tolist() == [[k, t] for k, n in enumerate(LENGTHS) for t in range(n)] * 2
    to_go = {2: [1.5, 1], 3: [1.75, 1.5, 1], 4: [1.875, 1.75, 1.5, 1]}
    assert batch.returns.tolist() == [x for n in LENGTHS * 2 for x in to_go[n]]
    for actions, episodes in zip(batch.actions.split(20), taken, strict=True):
        applied = np.array([action for episode in episodes for action in episode])
        np.testing.assert_array_equal(applied[:20], actions.clamp(-1, 1).numpy())
    assert (batch.actions.abs() > 1).float().mean() > 0.5  # batches hold the unclipped actions


def test_fleet_images_have_channels_first():
    assert task_spec(IMAGES).shape == (3, 40, 50)
    with contextlib.closing(make_fleet(IMAGES, 2)) as fleet:
        first = fleet.reset(np.array([1, 2]))
        assert first.shape == (2, 3, 40, 50)
        fleet.step(np.array([1, 0]), BOTH)
        assert not first.any()  # observations are copies
        observations = fleet.step(np.array([1, 1]), BOTH).observations
    assert observations[:, 1, 1, 2].tolist() == [2, 1]
    assert int(observations.sum()) == 3
    with pytest.raises(InputError, match=r"Small-v0': hidden or channels are too large .*[Kk]ernel"):
        Trainer(IMAGES.replace(env="tests/Small-v0", channels=[2, 2]))


@pytest.mark.parametrize(("kind", "shape"), [("rgb", (3, 210, 160)), ("ram", (128,))])
def test_trainer_takes_ataris_own_environments(kind, shape):
    kwargs = {"game": "pong", "obs_type": kind, "max_num_frames_per_episode": 40}
    gymnasium.register(f"tests/Pong-{kind}", "ale_py.env:AtariEnv", kwargs=kwargs)
    policy = "mlp" if kind == "ram" else "conv"
    config = IMAGES.replace(env=f"tests/Pong-{kind}", policy=policy, num_envs=1, horizon=150, gamma=0.9)
    with contextlib.closing(Trainer(config)) as trainer:
        assert tuple(next(trainer.run()).batch.observations.shape[1:]) == shape


# --- bad environments -------------------------------------------------------------------------------------------------

UNPLAYABLE = [
    ({"observations": Box(0, 1, (4, 4))}, "has Box"),
    ({"observations": Discrete(3)}, "has Discrete"),
    ({"actions": MultiDiscrete([2, 2])}, "takes MultiDiscrete"),
    ({"actions": Discrete(3, start=1)}, "takes Discrete"),
]


@pytest.mark.parametrize(("spaces", "words"), UNPLAYABLE)
def test_check_task_rejects_spaces(spaces, words):
    name = words.replace(" ", "-")
    register(name, Counting, **spaces)
    with pytest.raises(InputError, match=f"env = 'tests/{name}-v0' {words}"):
        check_task(COUNTING.replace(env=f"tests/{name}-v0"))


@pytest.mark.parametrize("env", ["CartPol-v1", "CartPole-v99", "unknown/Task-v0", "no such task"])
def test_check_task_rejects_an_unknown_environment(env):
    with pytest.raises(InputError, match=f"env = '{env}': "):
        check_task(COUNTING.replace(env=env))


@pytest.mark.parametrize(("name", "number"), [("error", "nan"), ("reward_error", "-inf")])
def test_fleet_rejects_values_that_are_not_finite(name, number):
    register(name, Counting, **{name: float(number)})
    message = f"^env = 'tests/{name}-v0': a reward or an observation is not finite; fix the environment"
    trainer = Trainer(COUNTING.replace(env=f"tests/{name}-v0"))
    with contextlib.closing(trainer), pytest.raises(RunError, match=message):
        next(trainer.run())


@pytest.mark.parametrize("until", ["steps", "episodes"])
def test_rollout_rejects_an_endless_episode(monkeypatch, until):
    monkeypatch.setattr("pong.rollout.MOST_TIME_STEPS", 2_000)
    trainer = Trainer(COUNTING.replace(env="tests/Endless-v0", until=until))
    with contextlib.closing(trainer), pytest.raises(RunError, match=r"an episode has not ended in .*max_episode_steps"):
        next(trainer.run())


@pytest.mark.parametrize("config", [COUNTING, IMAGES, Config(num_envs=2, horizon=40, hidden=8, baseline="network")])
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


# --- modules that a file names ---------------------------------------------------------------------------------------

PAYLOAD = """import gymnasium, pathlib
pathlib.Path("ran").touch()
gymnasium.register("Payload-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A config, a run and a policy whose environment is that of payload.py, which can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("payload.py").write_text(PAYLOAD, encoding="utf-8")
    config = Config(env="CartPole-v1", policy="mlp", hidden=[], num_envs=2, horizon=9, total_steps=18, device="cpu")
    weights = make_policy(config).state_dict()
    config = config.replace(env="payload:Payload-v0")
    save_policy(Path("agent/policy.safetensors"), config, Counters(), weights)
    save_policy(Path("run/checkpoints/update-000000.safetensors"), config, Counters(), weights)
    for path in (Path("my.toml"), Path("run/config.toml")):
        path.write_text(to_toml(config), encoding="utf-8")
    yield
    sys.modules.pop("payload", None)
    gymnasium.registry.pop("Payload-v0", None)


def pong(command):
    return main(command.split())


COMMANDS = ["train my.toml", "train --resume run", "train --resume agent/policy.safetensors"]


@pytest.mark.parametrize("command", [*COMMANDS, "eval agent", "play agent --file game.gif", "export agent new"])
def test_commands_import_no_module_that_a_file_names(stranger, capsys, command):
    assert pong(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "env = 'payload:Payload-v0' runs a module's code; if you trust it, add --trust" in line
    assert not Path("ran").exists()


def test_commands_import_a_module_that_the_user_names_or_trusts(stranger, capsys):
    assert pong("train my.toml --env CartPole-v1 --init agent --run-dir new") == 0
    assert not Path("ran").exists()  # the file's is not used
    assert pong("eval agent --episodes 1 --sampled --trust") == 0
    assert Path("ran").exists()
    assert pong("export agent exported --episodes 1 --trust") == 0
    assert pong("train new/config.toml --env payload:Payload-v0 --eval-episodes 1 --run-dir own") == 0
    assert pong("train --resume own --total-steps 36") == 2
    assert pong("train --resume own --total-steps 36 --trust") == 0


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
    assert cost(OPTIMAL_GAIN) == pytest.approx(COST_TO_GO, rel=1e-12)
    assert cost(OPTIMAL_GAIN, start=2) == pytest.approx(4 * COST_TO_GO, rel=1e-12)
    for other in (-0.7, -0.6, -0.5, -1, 0):
        assert cost(other) > cost(OPTIMAL_GAIN) + 1e-4


@pytest.mark.filterwarnings("ignore:.*Box (action|observation) space")
def test_lqr_passes_gymnasiums_checks():
    check_env(gymnasium.make("pong/LQR-v0").unwrapped, skip_render_check=True)
