"""N environments stepped together, each with its own random streams."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pong.config import RunError
from pong.observations import Observations

EmulatorState = dict[str, NDArray[Any]]  # what one environment's play continues from: arrays by name


class Actor(Protocol):
    """The part of a policy that plays, see ``policies.Policy``."""

    noise_shape: tuple[int, ...]

    @property
    def two_layers(self) -> tuple[Tensor, Tensor] | None:
        """W1 (inputs, hidden) and W2 (outputs, hidden), if compiled code may sample in the policy's place."""

    def act(self, x: Any, noise: Tensor) -> Tensor:
        """Actions (N, …) from N observations and noise (N, *noise_shape), uniform on [0, 1)."""


class StepResult(NamedTuple):
    """One decision of each of N environments."""

    observations: Observations  # N rows, after the decision; those of a new episode where one ended
    rewards: NDArray[np.float32]  # (N,)
    dones: NDArray[np.bool_]  # (N,), the episode ended
    frames: NDArray[np.int64]  # (N,), emulated for the decision


@dataclass(frozen=True)
class Segment:
    """T decisions of each of N environments."""

    observations: Observations  # T·N rows, before each decision; time step by time step
    actions: Tensor  # (T, N, …), 0 where nothing was decided
    rewards: NDArray[np.float32]  # (T, N)
    dones: NDArray[np.bool_]  # (T, N), the episode ended
    frames: NDArray[np.int64]  # (T, N), emulated for the decision
    active: NDArray[np.bool_]  # (T, N), where there was a decision
    next_observations: Observations  # N rows, after the last one

    def __len__(self) -> int:
        return len(self.rewards)


class Fleet:
    """N environments."""

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Observations:
        """Start new episodes: N observations; ``seeds`` (N,) of the random streams, or None to let them run on."""
        raise NotImplementedError

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active environment: actions (N,) or (N, d). The results of the others are ignored."""
        raise NotImplementedError

    def play(
        self,
        actor: Actor,
        observations: Observations,  # N rows, the current ones
        noise: NDArray[np.float32],  # (T, N, …), decides the actions of at most T time steps
        active: NDArray[np.bool_],  # (N,), in the first time step
        whole_episodes: bool,  # an environment whose episode has ended waits
    ) -> Segment:
        """At least one decision of each active environment; here exactly one."""
        rows = torch.from_numpy(np.flatnonzero(active))
        decided = actor.act(observations[rows], torch.from_numpy(noise[0])[rows])
        actions = decided.new_zeros(len(active), *decided.shape[1:])  # (N, …)
        actions[rows] = decided
        result = self.step(actions.numpy(), active)
        arrays = result.rewards[None], result.dones[None], result.frames[None], active[None]
        return Segment(observations, actions[None], *arrays, result.observations)

    def state(self) -> list[EmulatorState] | None:
        """Everything that later episodes depend on, of each environment; None where that can't be saved."""
        return None

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from the result of ``state``; N environments of the same task."""
        raise ValueError("these environments can't be saved")

    @staticmethod
    def checked(state: EmulatorState, name: str, like: Any, low: Any = -np.inf, high: Any = np.inf) -> NDArray[Any]:
        """An array of a foreign checkpoint; ValueError if its type, shape or range would mislead compiled code."""
        array = state[name]
        if array.dtype != like.dtype or array.shape != like.shape or (array < low).any() or (array > high).any():
            raise ValueError(f"{name} has another type or shape, or is out of range")
        return array

    def close(self) -> None:
        """Close the environments."""


def generator_state(generator: np.random.BitGenerator) -> NDArray[np.uint8]:
    """The state of gymnasium's PCG64, whose numbers have 128 bits: JSON."""
    return np.frombuffer(json.dumps(generator.state).encode(), np.uint8).copy()


def restore_generator(generator: np.random.BitGenerator, state: NDArray[np.uint8]) -> None:
    """Let a generator continue from the result of ``generator_state``."""
    generator.state = saved = json.loads(state.tobytes())
    if generator.state != saved or saved["state"]["inc"] % 2 == 0:  # of an even one, all numbers may be 0
        raise ValueError("the state of gymnasium's generator is wrong")


@contextlib.contextmanager
def one_line_errors(problem: str) -> Iterator[None]:
    """Raise an emulator's errors as a RunError."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, gymnasium.error.Error | RuntimeError | OSError)
        if not known and not type(error).__module__.startswith("vizdoom"):  # its errors have no base class of their own
            raise
        raise RunError(f"{problem} ({type(error).__name__}: {' '.join(str(error).split())})") from error
