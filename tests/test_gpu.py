"""On a GPU: the same logits, gradients and steps as on the CPU. Elsewhere these tests are skipped."""

import copy

import pytest
import torch

from pong.config import Config
from pong.losses import surrogate_loss
from pong.policies import KarpathyPolicy, make_policy
from pong.returns import standardize
from pong.rollout import Rollout
from pong.train import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]

PONG = Config(device="cuda", num_envs=4, horizon=300, players=1, total_steps=10**6)
KARPATHY = PONG.model_copy(
    update={
        **{"until": "episodes", "max_frames": 1500, "hold": "2-4", "standardize": "episode", "reduction": "sum"},
        **{"optimizer": "rmsprop", "learning_rate": 1e-4, "entropy_bonus": 0.0},
    }
)


@pytest.fixture(scope="module")
def batch():
    """Real frames, about 1,200 rows."""
    rollout = Rollout(PONG, make_policy(PONG))
    yield rollout.collect(0)
    rollout.close()


@pytest.fixture
def policies():
    """The same weights in float32 on the GPU and in float64 on the CPU."""
    policy = KarpathyPolicy(generator=torch.Generator().manual_seed(3))
    return copy.deepcopy(policy).cuda(), policy.double()


def relative_error(actual, expected):
    """Largest error over the largest value."""
    return ((actual.double().cpu() - expected).abs().max() / expected.abs().max()).item()


def test_batch_to_gpu_and_back(batch):
    moved = batch.to(torch.device("cuda"))
    batches = batch, moved, moved.to(torch.device("cpu"))
    here, there, back = ([b.actions, b.returns, *b.observations.tensors] for b in batches)
    assert [tensor.is_cuda for tensor in there] == [True] * 8  # with the transposed matrix
    torch.testing.assert_close(back, here, rtol=0, atol=0)


def test_policy_logits(batch, policies):
    gpu, cpu = policies
    with torch.no_grad():
        assert relative_error(gpu(batch.observations.to("cuda")), cpu(batch.observations.dense(torch.float64))) < 1e-5


def test_policy_gradients(batch, policies):
    for policy in policies:
        like = policy.W2
        x = batch.observations.dense(like.dtype).to(like.device)
        log_probs = policy.log_prob(x, batch.actions.to(like.device))
        surrogate_loss(log_probs, standardize(batch.returns.to(like)), reduction="sum").backward()
    gpu, cpu = policies
    for name in ("W1", "W2"):
        assert relative_error(getattr(gpu, name).grad, getattr(cpu, name).grad) < 1e-5


def test_policy_gradients_of_sparse_rows(batch, policies):
    gpu, cpu = policies
    gpu(batch.observations.to("cuda")).sum().backward()
    cpu(batch.observations.dense(torch.float64)).sum().backward()
    assert relative_error(gpu.W1.grad, cpu.W1.grad) < 1e-5


def test_policy_act(batch, policies):
    gpu, cpu = policies
    noise = torch.rand(len(batch.observations), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        p = torch.sigmoid(cpu(batch.observations.dense(torch.float64)))
    clear = (p - noise).abs() > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(gpu.act(batch.observations, noise)[clear], (noise < p).long()[clear])


@pytest.mark.parametrize("config", [PONG, PONG.model_copy(update={"baseline": "network"}), KARPATHY])
def test_trainer_updates_equal_the_cpus(config):
    moved = []
    for device in ("cuda", "cpu"):
        trainer = Trainer(config.model_copy(update={"device": device}))
        before = copy.deepcopy(trainer.policy.state_dict())
        updates = trainer.run()
        stats = [next(updates).stats for _ in range(2)]
        moved.append({name: (after - before[name]).cpu() for name, after in trainer.policy.state_dict().items()})
        assert all(torch.equal(trainer.actor.state_dict()[k], v.cpu()) for k, v in trainer.policy.state_dict().items())
        moved[-1]["stats"] = torch.tensor([[s.policy_loss, s.entropy, s.grad_norm] for s in stats])
        trainer.close()
    gpu, cpu = moved
    for name, expected in cpu.items():
        assert (gpu[name] - expected).norm() < 1e-3 * expected.norm(), name


def test_trainer_step_raises_the_objective():
    """A step on a batch makes its won points likelier."""
    trainer = Trainer(PONG.model_copy(update={"learning_rate": 3e-3}))
    updates = trainer.run()
    batch = next(updates).batch
    batch = batch.to(trainer.device)
    advantages = standardize(batch.returns)

    def objective():
        with torch.no_grad():
            return (trainer.policy.log_prob(batch.observations, batch.actions) * advantages).mean().item()

    before = objective()
    trainer._step(batch, advantages)
    trainer.close()
    assert objective() > before
