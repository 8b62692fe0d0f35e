"""What a rollout plays in: N environments stepped together, each with random streams of its own."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pong.observations import Observations


@dataclass(frozen=True)
class StepResult:
    """What a decision led to, in each of N environments.

    Attributes:
        observations: N rows, what the policy sees next.
        rewards: (N,) float32.
        dones: (N,) bool, the episode ended; the observation is already the next one's first.
        frames: (N,) int64, emulated for this decision.
    """

    observations: Observations
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    frames: NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """What N environments played in T time steps, one after the other.

    Attributes:
        observations: T·N rows, what was seen before each decision; time step by time step.
        actions: (T, N, …), 0 where nothing was decided.
        rewards: (T, N) float32.
        dones: (T, N) bool, the episode ended.
        frames: (T, N) int64, emulated for the decision.
        active: (T, N) bool, where there was a decision.
        seen: N rows, after the last one.
    """

    observations: Observations
    actions: Tensor
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    frames: NDArray[np.int64]
    active: NDArray[np.bool_]
    seen: Observations

    def __len__(self) -> int:
        return len(self.rewards)


Network = tuple[Tensor, Tensor]  # the weights of two layers: (hidden, inputs) and (outputs, hidden)
EmulatorState = dict[str, NDArray[Any]]  # what one environment's play continues from: arrays by name


class Fleet(Protocol):
    """N environments."""

    def reset(self, seeds: NDArray[np.int64] | None = None) -> Observations:
        """New episodes: N observations; ``seeds`` (N,) of each one's random streams, or None to let them run on."""
        ...

    def step(self, actions: NDArray[Any], active: NDArray[np.bool_]) -> StepResult:
        """One decision of each active environment: actions (N,) or (N, d). What the others do is of no interest."""
        ...

    def play_segment(
        self, network: Network, seen: Observations, noise: NDArray[np.float32], active: NDArray[np.bool_], whole: bool
    ) -> Segment | None:
        """Several decisions at once, in compiled code; None where there is none for it.

        Args:
            network: decides.
            seen: N rows, what the environments show now.
            noise: (T, N) numbers that decide the actions of at most T time steps.
            active: (N,) of the first time step.
            whole: an environment whose episode has ended stands still.
        """
        return None

    def state(self) -> list[EmulatorState] | None:
        """All that the episodes to come depend on, of each environment; None where that can't be kept."""
        return None

    def restore(self, state: list[EmulatorState]) -> None:
        """Continue from what ``state`` gave; N environments of the same task."""
        return

    def close(self) -> None:
        """End the environments."""
        ...


class RenderedEnv(Fleet, Protocol):
    """One environment whose screens can be shown to people.

    Attributes:
        rate: frames a second at natural speed.
    """

    rate: int

    @property
    def actions(self) -> tuple[str, ...]:
        """What each action is called."""
        ...

    def seen(self, observations: Observations) -> NDArray[np.int8 | np.uint8]:
        """The pictures in an observation, (C, h, w): uint8, or int8 in {−1, 0, 1}, a screen minus another."""
        ...

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The screen now: (H, W, 3) uint8, RGB."""
        ...

    @property
    def last(self) -> NDArray[np.uint8]:
        """The last screen of the game before this one, the same."""
        ...

    @property
    def finished(self) -> bool:
        """That game ended as games do, and was not truncated."""
        ...


def generator_state(generator: np.random.BitGenerator) -> NDArray[np.int64]:
    """The state of gymnasium's PCG64: two 128-bit numbers by halves, and the half of a number that waits."""
    state: Any = generator.state
    numbers = (*divmod(state["state"]["state"], 2**64), *divmod(state["state"]["inc"], 2**64))
    return np.array([*numbers, state["has_uint32"], state["uinteger"]], np.uint64).view(np.int64)


def restore_generator(generator: np.random.BitGenerator, numbers: NDArray[np.int64]) -> None:
    """Let a generator continue from what ``generator_state`` gave."""
    high, low, inc_high, inc_low, waits, half = numbers.view(np.uint64).tolist()
    state: Any = generator.state
    state["state"] = {"state": high << 64 | low, "inc": inc_high << 64 | inc_low}
    state["has_uint32"], state["uinteger"] = waits, half
    generator.state = state
