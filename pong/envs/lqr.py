"""A linear system with quadratic cost, whose best policy is known: a test of learning with a continuous action."""

import functools
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

STATE_COST, ACTION_COST = 1.0, 1.0  # per square


@functools.cache
def riccati(iterations: int = 200) -> float:
    """What one squared unit of state costs under the best policy from there on: P = Q + P − P²/(R + P).

    With A = B = Q = R = 1 this is the golden ratio, 1.618.

    Source: the discrete algebraic Riccati equation, such as in Anderson and Moore, "Optimal Control", 1990, ch. 2.
    """
    P = STATE_COST
    for _ in range(iterations):
        P = STATE_COST + P - P**2 / (ACTION_COST + P)
    return P


def optimal_gain() -> float:
    """The k of the best policy a = k·s: −P/(R + P), here −0.618."""
    return -riccati() / (ACTION_COST + riccati())


class LQR(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The state moves by the action, s' = s + a, and should be brought to 0 with little action.

    The reward of a step is −(s² + a²). The last one also pays −P·s'², what the state would cost for ever after, so
    that the best policy of an episode is the same at each of its steps: a = k·s with k = ``optimal_gain()``.

    Args:
        steps: decisions in an episode, which begins at s ~ N(0, 1).
    """

    def __init__(self, steps: int = 10):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.steps = steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new episode."""
        super().reset(seed=seed)
        self._state, self._taken = self.np_random.standard_normal(), 0
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move by an action (1,)."""
        a = float(action[0])
        reward = -(STATE_COST * self._state**2 + ACTION_COST * a**2)
        self._state += a
        self._taken += 1
        last = self._taken == self.steps
        if last:
            reward -= riccati() * self._state**2
        return self._observation(), reward, last, False, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.array([self._state], np.float32)
