"""On a GPU: the same logits, gradients and steps as on the CPU. Elsewhere these tests are skipped."""

import copy

import pytest
import torch

from pong.cli import main
from pong.config import Config, load_config, recipes
from pong.losses import surrogate_loss
from pong.policies import KarpathyPolicy, make_policy
from pong.returns import standardize
from pong.rollout import Rollout
from pong.train import Trainer, choose_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]

PONG = Config(device="cuda", num_envs=4, horizon=300, players=1, total_steps=10**6)
KARPATHY = PONG.replace(
    **{"until": "episodes", "max_frames": 1500, "hold": "2-4", "standardize": "episode", "reduction": "sum"},
    **{"optimizer": "rmsprop", "learning_rate": 1e-4, "entropy_bonus": 0.0},
)

CONV = PONG.replace(policy="conv", channels=[4, 8], hidden=32)
CARTPOLE = load_config(recipes()["cartpole"]).replace(device="cuda")


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
    for policy, x in zip(policies, (batch.observations, batch.observations.dense(torch.float64)), strict=True):
        like = policy.W2
        log_probs = policy.log_prob(x.to(like.device), batch.actions.to(like.device))
        surrogate_loss(log_probs, standardize(batch.returns.to(like)), reduction="sum").backward()
    gpu, cpu = policies
    for name in ("W1", "W2"):
        assert relative_error(getattr(gpu, name).grad, getattr(cpu, name).grad) < 1e-5


def test_policy_act(batch, policies):
    gpu, cpu = policies
    noise = torch.rand(len(batch.observations), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        p = torch.sigmoid(cpu(batch.observations.dense(torch.float64)))
    clear = (p - noise).abs() > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(gpu.act(batch.observations, noise)[clear], (noise < p).long()[clear])


def test_conv_gradients(batch):
    """The error is about 1e-7; with factors rounded to TF32, cuDNN's default, it would be 1e-4 to 1e-2."""
    gpu = make_policy(CONV).to(choose_device("cuda"))
    torch.nn.init.constant_(gpu.network.outputs.weight, 0.1)
    cpu = copy.deepcopy(gpu).to("cpu", torch.float64)
    for policy in (gpu, cpu):
        policy.logits(batch.observations.dense().to(policy.network.outputs.weight)).sum().backward()
    for actual, expected in zip(gpu.parameters(), cpu.parameters(), strict=True):
        assert relative_error(actual.grad, expected.grad) < 1e-5


def test_train_names_the_gpu(tmp_path, capsys):
    flags = ["--num-envs", "4", "--horizon", "64", "--total-steps", "300", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "pong", "--device", "cuda", *flags]) == 0
    assert f"learning on {torch.cuda.get_device_name()}, playing on the CPU; starting" in capsys.readouterr().out


@pytest.mark.parametrize("config", [PONG, PONG.model_copy(update={"baseline": "network"}), KARPATHY, CONV, CARTPOLE])
def test_trainer_updates_equal_the_cpus(config):
    moved = []
    for device in ("cuda", "cpu"):
        trainer = Trainer(config.model_copy(update={"device": device}))
        before = copy.deepcopy(trainer.policy.state_dict())
        updates = trainer.run()
        stats = [next(updates).stats for _ in range(2)]
        moved.append({name: (after - before[name]).cpu() for name, after in trainer.policy.state_dict().items()})
        for name, weights in trainer.actor.state_dict().items():
            assert torch.equal(weights.cpu(), trainer.policy.state_dict()[name].cpu())
        moved[-1]["stats"] = torch.tensor([[s.policy_loss, s.entropy, s.grad_norm] for s in stats])
        trainer.close()
    gpu, cpu = moved
    for name, expected in cpu.items():
        assert (gpu[name] - expected).norm() < 1e-3 * expected.norm(), name
