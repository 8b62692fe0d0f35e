"""Training on several ranks equals a single process; dead ranks and resuming.

The ranks are threads on scripted play, or forked processes that run the command line on real Pong, connected by gloo.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import ROOT, environment, rows

import pong.run  # noqa: F401  # before the fork
from pong import checkpoint
from pong.cli import main
from pong.config import Config, InputError
from pong.distributed import Ranks, shard
from pong.envs.base import Fleet, StepResult
from pong.observations import PIXELS, SparseFrames
from pong.rollout import emulator_seeds
from pong.train import Trainer

TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}


@given(n=st.integers(0, 200), parts=st.integers(1, 40), first=st.integers(0, 50))
def test_shard_is_even(n, parts, first):
    shards = [shard(range(first, first + n), part, parts) for part in range(parts)]
    assert [i for part in shards for i in part] == list(range(first, first + n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_ranks_from_environment_follow_torchrun(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    assert Ranks.from_environment() == Ranks(0, 1, 0, 1)
    for name, value in TORCHRUN.items():  # clusters set some of them for other programs
        assert Ranks.from_environment() == Ranks(0, 1, 0, 1)
        monkeypatch.setenv(name, value)
    ranks = Ranks.from_environment()
    assert ranks == Ranks(5, 8, 1, 4)


NOT_LOST = [  # errors of a collective, and what they become
    (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    (RuntimeError("can't allocate memory"), RuntimeError),
    (torch.distributed.DistBackendError("NCCL error in …\nDuplicate GPU detected : rank 1 and rank 0 …"), InputError),
]


@pytest.mark.parametrize(("error", "expected"), NOT_LOST)
def test_all_reduce_error_is_no_lost_rank(monkeypatch, error, expected):
    monkeypatch.setattr("torch.distributed.all_reduce", Mock(side_effect=error))
    with pytest.raises(expected):
        Ranks(0, 2).all_reduce([torch.zeros(1)])


class Exchange:
    """Shares objects between ranks that run as threads."""

    def __init__(self, size):
        self.objects = [None] * size
        self.barrier = threading.Barrier(size, timeout=30)

    def gather(self, rank, mine):
        self.objects[rank] = mine
        self.barrier.wait()
        gathered = list(self.objects)
        self.barrier.wait()
        return gathered


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """A rank that runs as a thread."""

    exchange: Exchange | None = None

    def all_gather(self, mine):
        return self.exchange.gather(self.rank, mine)

    def all_reduce(self, tensors):
        tensors = list(tensors)
        gathered = self.all_gather([tensor.clone() for tensor in tensors])
        for tensor, *parts in zip(tensors, *gathered, strict=True):
            tensor.copy_(sum(parts))


class Points(Fleet):
    """Emulators that end a point every 6, 7, 21 decisions (emulators 0, 1, 2): UP wins it and DOWN loses it.

    Each emulator and step has its own observation.
    """

    def __init__(self, config, num_envs):
        self.config = config
        self.num_envs = num_envs
        self.step_number = 0

    def reset(self, seeds=None):
        all_seeds = emulator_seeds(self.config.seed, 0, range(self.config.num_envs)).tolist()
        self.emulators = np.array([all_seeds.index(seed) for seed in seeds])
        return self._observe()

    def step(self, actions, active):
        self.step_number += 1
        ended = self.step_number % np.array([6, 7, 21])[self.emulators] == 0
        rewards = np.where(actions == 1, 1, -1).astype(np.float32) * ended
        return StepResult(self._observe(), rewards, ended & (self.step_number % 7 == 0), np.full(self.num_envs, 4))

    def close(self):
        pass

    def _observe(self):
        rows = [np.random.default_rng((self.step_number, i)).integers(-1, 2, PIXELS) for i in self.emulators]
        return SparseFrames.from_dense(np.stack(rows).astype(np.int8))


RECIPES = {
    "mean": {"standardize": "batch", "reduction": "mean", "entropy_bonus": 0.1},
    "sum": {"standardize": "none", "reduction": "sum", "optimizer": "rmsprop", "learning_rate": 1e-4},
    "baseline": {"standardize": "batch", "baseline": "network", "entropy_bonus": 0.0},
}


def train(ranks, config, updates=6):
    """The updates of a trainer and the weights after them."""
    with contextlib.closing(Trainer(config, ranks)) as trainer:
        run = trainer.run()
        return [next(run) for _ in range(updates)], trainer.policy.state_dict()


def statistics(update):
    """Of the step over all rows; without the explained variance, whose sums are too inexact to compare."""
    values = {name: value for name, value in vars(update.stats).items() if value is not None}
    return {name: value for name, value in values.items() if name != "explained_variance"}


def train_in_threads(size, config):
    """The updates and weights of each rank."""
    exchange, results = Exchange(size), [None] * size

    def run_rank(rank):
        results[rank] = train(ThreadRanks(rank, size, exchange=exchange), config)

    threads = [threading.Thread(target=run_rank, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(results), "a rank failed"
    return results


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("size", [2, 3])
def test_trainer_ranks_equal_a_single_process(monkeypatch, size, recipe):
    """Horizon 4: the first rollout continues until a point after 6 steps; emulator 2's first row comes after 21."""
    monkeypatch.setattr("pong.rollout.make_fleet", Points)
    config = Config(device="cpu", num_envs=3, horizon=4, hidden=8, players=1, total_steps=10**6, **recipe)
    single, weights = train(None, config)
    results = train_in_threads(size, config)
    empty = 0
    for number, update in enumerate(single):
        of_ranks = [updates[number] for updates, _ in results]
        batches = [other.batch for other in of_ranks]
        learning = [batch for batch in batches if batch.weight]
        empty += len(batches) - len(learning)
        assert sum(batch.weight for batch in batches) == pytest.approx(1)
        assert torch.cat([batch.actions for batch in learning]).equal(update.batch.actions)
        assert torch.cat([batch.returns for batch in learning]).equal(update.batch.returns)
        for other, batch in zip(of_ranks, batches, strict=True):
            for name in ("points", "steps", "frames", "episodes"):
                assert getattr(batch, name) == getattr(update.batch, name)
            assert statistics(other) == pytest.approx(statistics(update), rel=1e-4, abs=1e-6)
            assert statistics(other) == statistics(of_ranks[0])
    assert empty >= 4  # ranks without a row took part
    for _, others in results:
        for name, tensor in weights.items():
            torch.testing.assert_close(others[name], tensor, rtol=0, atol=1e-6)
            assert torch.equal(others[name], results[0][1][name])


# --- processes connected by gloo --------------------------------------------------------------------------------------

TINY = ["--device", "cpu", "--hidden", "8", "--players", "1", "--max-frames", "300", "--eval-episodes", "0"]
RUNS = {  # ranks, config, its flags; about five updates
    "pong": (2, "pong", ["--num-envs", "2", "--horizon", "40", "--total-steps", "900"]),
    "karpathy": (3, "karpathy", ["--num-envs", "4", "--total-steps", "1900"]),
}


def command(config, *flags):
    return ["train", str(ROOT / f"configs/{config}.toml"), *TINY, *flags, "--run-dir", "run"]


def run_rank_process(rank, size, port, folder, arguments):
    """Run the command in its own folder, with its output in the files ``out`` and ``err``."""
    os.chdir(folder)
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    with open("err", "w", buffering=1) as sys.stderr, open("out", "w", buffering=1) as sys.stdout:  # noqa: PTH123
        status = main(arguments)
    os._exit(status)


def start(size, folder, arguments):
    """The processes of a training, each in a folder by its number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        (folder / str(rank)).mkdir(parents=True)
        args = (rank, size, port, folder / str(rank), arguments)
        processes.append(multiprocessing.get_context("fork").Process(target=run_rank_process, args=args))
        processes[-1].start()
    return processes


def wait(processes, seconds=60):
    """Their exit statuses; those that take longer are killed."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return statuses


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_run(run, other):
    """The same updates, games and points, and the same weights up to the order of sums."""
    expected, actual = checkpoint.load(other), checkpoint.load(run)
    for name in ("updates", "steps", "games", "points"):
        assert getattr(actual.counters, name) == getattr(expected.counters, name)
    assert sorted(actual.counters.last100) == sorted(expected.counters.last100)
    assert actual.counters.updates >= 5
    for name, tensor in expected.policy.items():
        torch.testing.assert_close(actual.policy[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "config", "flags"), RUNS.values(), ids=RUNS)
def test_train_ranks_equal_a_single_process(tmp_path, size, config, flags):
    assert wait(start(1, tmp_path / "single", command(config, *flags))) == [0]
    assert wait(start(size, tmp_path / "ranks", command(config, *flags))) == [0] * size
    assert_same_run(tmp_path / "ranks/0/run", tmp_path / "single/0/run")
    # only rank 0 writes and prints
    assert files(tmp_path / "ranks/0") == ["err", "out", "run"]
    assert "saved" in (tmp_path / "ranks/0/out").read_text()
    for rank in range(1, size):
        assert files(tmp_path / f"ranks/{rank}") == ["err", "out"]
        assert (tmp_path / f"ranks/{rank}/out").read_text() == ""


SIX = ["--num-envs", "6", "--horizon", "40", "--checkpoint-every", "2", "--total-steps", "14000"]


@pytest.fixture(scope="module")
def single_run(tmp_path_factory):
    """A run of a single process."""
    folder = tmp_path_factory.mktemp("single")
    assert wait(start(1, folder, command("pong", *SIX))) == [0]
    return folder / "0/run"


@pytest.mark.parametrize("sizes", [(1, 3), (2, 1, 2)])
def test_train_resumes_with_another_number_of_ranks(tmp_path, single_run, sizes):
    """39 updates; their weights differ by at most 1e-6 from a single process's, by the order of sums."""
    run, arguments = tmp_path / "0/0/run", command("pong", *SIX)
    for part, size in enumerate(sizes[:-1]):
        processes = start(size, tmp_path / str(part), arguments)
        wait_for(run, 4 + 8 * part)
        os.kill(processes[0].pid, signal.SIGTERM)  # all ranks stop together
        assert wait(processes) == [130, 0][:size]
        arguments = ["train", "--resume", str(run)]
    assert wait(start(sizes[-1], tmp_path / "last", arguments)) == [0] * sizes[-1]
    assert_same_run(run, single_run)


LONG = command("pong", "--num-envs", "2", "--horizon", "40", "--checkpoint-every", "3", "--total-steps", "2400")


def wait_for(run, update, seconds=60):
    end, folder = time.monotonic() + seconds, run / "checkpoints"
    while checkpoint.checkpoints(folder)[-1:] < [folder / checkpoint.file_name(update)]:
        assert time.monotonic() < end, f"update {update} was not saved"
        time.sleep(0.02)


@pytest.mark.parametrize("victim", [0, 1])
def test_train_ends_when_another_rank_dies(tmp_path, victim):
    processes = start(2, tmp_path, LONG)
    wait_for(tmp_path / "0/run", 3)
    processes[victim].kill()
    assert wait(processes)[1 - victim] == 1
    (line,) = (tmp_path / f"{1 - victim}/err").read_text().splitlines()
    assert line.startswith("pong: another rank is gone (")
    assert "--resume" in line
    assert checkpoint.load(tmp_path / "0/run").counters.updates >= 3


def test_train_refused_by_rank_0_ends_all_ranks(tmp_path):
    """Only rank 0 looks at the files, and only it says what is wrong."""
    assert wait(start(2, tmp_path, [*LONG, "--init", "nowhere"])) == [2, 2]
    assert (tmp_path / "0/err").read_text().startswith("pong: nowhere does not exist")
    assert (tmp_path / "1/err").read_text() == ""


def children(pid):
    """Process numbers of the children of a process."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [int(stat.split()[0]) for stat in stats if int(stat.rpartition(")")[2].split()[1]) == pid]


@contextlib.contextmanager
def torchrun(folder, arguments):
    """A training by torchrun and its two ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    settings = {"env": environment(), "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([sys.executable, *launcher, "-m", "pong", *arguments], cwd=folder, **settings) as process:
        try:
            wait_for(folder / "run", 3)
            yield process
        finally:
            process.terminate()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds torchrun's children in /proc")
def test_torchrun_restarts_from_the_checkpoint(tmp_path):
    """After a worker was killed the run continues and equals an uninterrupted run."""
    with torchrun(tmp_path, LONG) as process:
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "resuming after update" in output
    assert wait(start(1, tmp_path / "single", LONG)) == [0]
    assert_same_run(tmp_path / "run", tmp_path / "single/0/run")


def test_ranks_save_and_end_after_kill_9_of_torchrun(tmp_path):
    with torchrun(tmp_path, [*LONG, "--total-steps", "400000"]) as process:
        process.kill()
        output, _ = process.communicate(timeout=60)  # until the ranks have closed it
    assert output.endswith("the process that started this one is gone; resume with: pong train --resume run\n"), output
    assert checkpoint.load(tmp_path / "run").counters.updates == len(rows(tmp_path / "run"))
