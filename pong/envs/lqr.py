"""A linear system with quadratic cost, whose optimal policy is known in closed form."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

# The cost to go from s = 1 under the optimal policy solves P = Q + P − P²/(R + P) with A = B = Q = R = 1, that is
# P² = P + 1: the golden ratio, 1.618. Source: the discrete algebraic Riccati equation, for example in Anderson and
# Moore, "Optimal Control", 1990, ch. 2.
COST_TO_GO = (1 + 5**0.5) / 2
OPTIMAL_GAIN = -COST_TO_GO / (1 + COST_TO_GO)  # the k of the optimal policy a = k·s: −P/(R + P), here −0.618


class LQR(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The action moves the state, s' = s + a; the policy should bring it to 0 with small actions.

    The reward is −(s² + a²). The last step is also charged the infinite-horizon cost P·s'², so that a = k·s with
    k = ``OPTIMAL_GAIN`` is optimal at each step. An episode starts at s ~ N(0, 1).
    """

    observation_space = action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    steps = 10  # in an episode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._step = self.np_random.standard_normal(), 0
        return np.array([self._state], np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = -(self._state**2 + float(action[0]) ** 2)
        self._state += float(action[0])
        self._step += 1
        done = self._step == self.steps
        if done:
            reward -= COST_TO_GO * self._state**2
        return np.array([self._state], np.float32), reward, done, False, {}
