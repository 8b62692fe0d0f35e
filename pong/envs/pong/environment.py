"""The compiled Pong for gymnasium: ``pong/Pong-v5``, the same as ``ALE/Pong-v5``. See docs/environment.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.error import ClosedEnvironmentError, Error, InvalidAction, ResetNeeded
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from pong.envs.pong.compiled import kernel
from pong.envs.pong.fleet import MachineFleet, announced
from pong.envs.pong.machine import GAME, WINNING_POINTS, act, is_over, reset, take
from pong.envs.pong.screen import KINDS, PLAY, START, WAIT, Step
from pong.envs.pong.task import NOOP, PongTask

MINIMAL = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")  # ALE's names; RIGHT moves the paddle up
MOVES = ("UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "DOWNRIGHT", "DOWNLEFT")
FULL = ("NOOP", "FIRE", *MOVES, *(f"{move}FIRE" for move in MOVES))
KEYS = {"UP": "w", "DOWN": "s", "LEFT": "a", "RIGHT": "d", "FIRE": " ", "NOOP": "e"}
INFOS = ("lives", "episode_frame_number", "frame_number", "_lives", "_episode_frame_number", "_frame_number")
Array = NDArray[Any]
Results = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]  # see ``advance``
State = tuple[list[Array], list[Any]]  # a copy of N games and their observations; of their random numbers, or empty


@dataclass(frozen=True)
class Settings:
    """The arguments of ``ALE/Pong-v5``, ``noop_max`` and ``two_players``."""

    obs_type: str = "rgb"  # see ``screen.KINDS``
    frameskip: int | tuple[int, int] = 4  # frames of a decision, or from the first to below the second
    repeat_action_probability: float = 0.25
    full_action_space: bool = False
    max_num_frames_per_episode: int | None = None
    render_mode: str | None = None
    noop_max: int = 0  # a game starts with 1 to so many NOOPs, as AtariPreprocessing's; 0 leaves them out
    mode: int | None = None
    difficulty: int | None = None
    two_players: bool = False  # the left paddle belongs to a second player: actions (2,), the right player's first

    def __post_init__(self) -> None:
        skip, stacked = self.frameskip, self.obs_type == "atari"
        low, high = skip if isinstance(skip, tuple) and len(skip) == 2 else (skip, None)
        allowed = {
            "obs_type": (self.obs_type in KINDS, f"one of {', '.join(KINDS)}"),
            "frameskip": (
                type(low) is int and low > 0 and (high is None or (type(high) is int and low < high and not stacked)),
                "a positive int" + (" for atari" if stacked else ", or a tuple (low, high) with 0 < low < high"),
            ),
            "repeat_action_probability": (0 <= self.repeat_action_probability <= 1, "from 0 to 1"),
            "max_num_frames_per_episode": ((self.max_num_frames_per_episode or 0) >= 0, "0 or more"),
            "noop_max": (self.noop_max >= 0, "0 or more"),
            "render_mode": (self.render_mode in (None, "rgb_array"), "None or rgb_array"),
            "mode": (not self.mode, "0"),
            "difficulty": (not self.difficulty, "0"),
        }
        for name, (good, what) in allowed.items():
            if not good:
                raise Error(f"pong/Pong-v5: {name} = {getattr(self, name)!r} must be {what}")


class Rest(NamedTuple):
    """The rest of the state of N games, and their settings."""

    done: NDArray[np.bool_]  # (N,), the game has ended
    frames_before: NDArray[np.int64]  # (N,), of earlier games since the last seed
    words: NDArray[np.uint32]  # (N, 624), the state of ALE's generators
    threshold: float  # probability of a sticky frame, times 2³²
    meanings: NDArray[np.int64]  # (actions,), which of ALE's minimal actions each is
    stops: bool  # a decision ends with the game, as AtariPreprocessing's; ALE draws random numbers till its end


@kernel
def advance(
    step: Step,  # to write, but for its plan
    rest: Rest,  # likewise, but for its settings
    lefts: NDArray[Any] | None,  # (N,) of GAME, the left players', see ``machine.move_left``
    actions: NDArray[np.int64],  # (N,), or of two players (N, 2)
    frames: NDArray[np.int64],  # (N,), of the decision, or of NOOP at the start of a new game
    rewards: NDArray[np.float64],  # (N,) to write
    numbers: NDArray[np.int64],  # (3, N) to write: lives, frames of this game, and of all games since the last seed
    flags: NDArray[np.bool_],  # (3, N) to write: terminations, truncations, and True
) -> int:
    """Play a decision of each game, or start a new one; returns how many have ended, or −1 for a wrong action."""
    flat, players, ended = actions.reshape(-1), actions.size // len(step.games), 0
    for action in flat:
        if not 0 <= action < len(rest.meanings):
            return -1
    for i in range(len(step.games)):
        game, left = step.games[i], None if lefts is None else lefts[i]
        action, other = rest.meanings[flat[players * i]], rest.meanings[flat[players * (i + 1) - 1]]
        rewards[i] = 0
        if step.plan[i] == START:
            rest.frames_before[i] += game.frames
            reset(game)
            if left is not None:
                reset(left)
                game.cpu_y = left.own_y
            for _ in range(frames[i]):
                take(game, NOOP, rest.words[i], rest.threshold, left)
                act(game, step.max_frames, left)
            step.before[i] = game
        elif step.plan[i] == PLAY:
            for t in range(frames[i]):
                if rest.stops and t == frames[i] - 1 > 0:
                    step.before[i] = game
                take(game, action, rest.words[i], rest.threshold, left, other)
                rewards[i] += act(game, step.max_frames, left)
                if rest.stops and is_over(game, step.max_frames):
                    break
            if rest.stops and frames[i] == 1:  # then AtariPreprocessing shows one screen
                step.before[i] = game
        plays = step.plan[i] == PLAY
        flags[0, i] = plays and (game.own_points == WINNING_POINTS or game.cpu_points == WINNING_POINTS)
        flags[1, i] = plays and game.frames >= step.max_frames
        flags[2, i] = True
        if step.plan[i] != WAIT:
            rest.done[i] = flags[0, i] or flags[1, i]
        numbers[0, i], numbers[1, i], numbers[2, i] = 0, game.frames, game.frames + rest.frames_before[i]
        ended += rest.done[i]
    return ended


def infos_of(numbers: Array, mask: Array) -> dict[str, Any]:
    """Some games' infos as a SyncVectorEnv has them."""
    return dict(zip(INFOS, (*numbers, mask, mask, mask), strict=True))


class PongVectorEnv(VectorEnv[Array, Array, Array]):
    """N games, the same as a ``SyncVectorEnv`` of ``ALE/Pong-v5``; with two players rewards are the right one's."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,  # when a new game follows one that has ended
        copy: bool = True,  # of the observations; otherwise the next step overwrites them
        **settings: Any,  # see ``Settings``
    ):
        self.settings = Settings(**settings)
        max_frames = min(self.settings.max_num_frames_per_episode or PongTask.max_frames, PongTask.max_frames)
        names = self.action_names = FULL if self.settings.full_action_space else MINIMAL
        self.num_envs, self.copy, self.autoreset_mode = num_envs, copy, AutoresetMode(autoreset_mode)
        self.render_mode = self.settings.render_mode
        self.metadata = PongEnv.metadata | {"autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self._draw = KINDS[self.settings.obs_type]
        two, n = self.settings.two_players, len(names)
        self.single_action_space: Space[Any] = MultiDiscrete([n, n]) if two else Discrete(n)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        without_up = [name.replace("UP", "").replace("DOWN", "") or "NOOP" for name in names]  # which do nothing
        meanings = np.array([MINIMAL.index(name) for name in without_up])
        task = PongTask(sticky=self.settings.repeat_action_probability, max_frames=max_frames)
        self._fleet, N = MachineFleet(num_envs, task), num_envs
        before, shown, plan = np.zeros(N, GAME), np.zeros((N, 3), GAME), np.zeros(N, np.int8)
        self._step = Step(self._fleet.games, before, shown, plan, max_frames)
        words, threshold = self._fleet.emulators.words, self._fleet.emulators.threshold
        done, frames_before, stops = np.zeros(N, np.bool_), np.zeros(N, np.int64), self.settings.obs_type == "atari"
        self._rest = Rest(done, frames_before, words, threshold, meanings, stops)
        self._lefts = np.zeros(N, GAME) if two else None
        self._observations = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        skip = self.settings.frameskip
        self._frames = np.full(num_envs, skip if isinstance(skip, int) else 0)  # of decisions
        self._noops = np.zeros(self.action_space.shape or (), np.int64)
        self._ended, self._started = 0, False

    def generator(self, i: int) -> np.random.Generator:
        """Game i's, of its decisions' frames and its NOOPs."""
        return np.random.Generator(self._fleet.generators[i])

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start new games, all or those of ``options["reset_mask"]``, (N,) bool; an int seeds game i with seed + i."""
        N, infos = self.num_envs, dict[str, Any]()
        mask = np.array((options or {}).get("reset_mask", np.ones(N, np.bool_)))
        if mask.shape != (N,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"reset_mask must have {N} bools, one of them True")
        seeds = [seed + i for i in range(N)] if isinstance(seed, int) else [None] * N if seed is None else seed
        if len(seeds) != N:
            raise ValueError(f"seed has {len(seeds)} numbers, but there are {N} games")
        self._check_ready(self._started or bool(mask.all()))
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                infos = self._add_info(infos, {"seeds": self._fleet.seed(i, seeds[i])}, i)
                self._rest.frames_before[i] = -self._step.games["frames"][i]
        with announced():
            _, numbers, _ = self._play(np.where(mask, START, WAIT))
        self._started = True
        return self._observe(), infos | infos_of(numbers * mask, mask)

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Play a decision of each game: actions (N,), or of two players (N, 2)."""
        if not self._ended:
            return self.decide(actions)
        if self.autoreset_mode == AutoresetMode.DISABLED:
            raise ResetNeeded("a game has ended; reset it with options={'reset_mask': …}")
        return self.decide(actions, np.where(self._rest.done, START, PLAY))

    def decide(self, actions: Any, plan: Any = PLAY) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """``step`` for games that have ended, too: a decision changes them no more."""
        self._check_ready(self._started)
        actions = np.asarray(actions)
        if actions.shape != self._noops.shape or actions.dtype.kind not in "iu":
            raise InvalidAction(f"actions must be {self._noops.shape} ints, not {actions.shape} {actions.dtype}")
        rewards, numbers, flags = self._play(plan, np.ascontiguousarray(actions, np.int64))
        terminations, truncations, mask = flags
        final = dict[str, Any]()
        if self._ended and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = self._final_infos(numbers, self._rest.done.copy())
            _, numbers, _ = self._play(np.where(self._rest.done, START, WAIT))
        return self._observe(), rewards, terminations, truncations, infos_of(numbers, mask) | final

    def _play(self, plan: Any, actions: Any = None) -> Results:
        """Do what is planned for each game, one of WAIT, PLAY and START, and draw its observation."""
        step, N, frames = self._step, self.num_envs, self._frames
        step.plan[:] = plan
        if plan is not PLAY or not isinstance(self.settings.frameskip, int):
            frames = self._choose_frames()
        results = np.empty(N), np.empty((3, N), np.int64), np.empty((3, N), np.bool_)
        actions = self._noops if actions is None else actions
        ended = advance(step, self._rest, self._lefts, actions, frames, *results)
        if ended < 0:
            last = len(self.action_names) - 1
            raise InvalidAction(f"an action of {actions.min()} to {actions.max()}, not 0 to {last}")
        self._ended = ended
        self._observations = self._draw(step, self._observations)
        return results

    def _choose_frames(self) -> NDArray[np.int64]:
        """The frames of the decisions, and the NOOPs of new games, (N,)."""
        frames, skip, noop_max = self._frames.copy(), self.settings.frameskip, self.settings.noop_max
        for i, plan in enumerate(self._step.plan.tolist()):
            if plan == START:
                frames[i] = self.generator(i).integers(1, noop_max + 1) if noop_max else 0
            elif plan == PLAY and not isinstance(skip, int):
                frames[i] = self.generator(i).integers(*skip)
        return frames

    def _observe(self) -> Array:
        return self._observations.copy() if self.copy else self._observations

    def _final_infos(self, numbers: Array, done: NDArray[np.bool_]) -> dict[str, Any]:
        """Of games that have ended."""
        observations = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(done):
            observations[i] = self._observations[i].copy()
        infos = {"final_obs": observations, "final_info": infos_of(numbers * done, done)}
        return infos | {f"_{name}": done.copy() for name in infos}

    def _check_ready(self, started: bool) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this environment is closed; make a new one")
        if not started:
            raise ResetNeeded("call reset() first")

    def render(self) -> tuple[Array, ...]:
        """Each game's screen, (210, 160, 3)."""
        if self.render_mode is None:
            raise Error("to render, make the environment with render_mode='rgb_array'")
        return tuple(self.screens("rgb"))

    def screens(self, obs_type: str, out: Array | None = None) -> Array:
        """The current screens, rgb or grayscale, into an array or a new one: (N, 210, 160[, 3])."""
        space, draw = KINDS[obs_type]
        shape = (self.num_envs, *(space.shape or ()))
        screens = np.empty(shape, np.uint8) if out is None else out.reshape(shape)
        return draw(self._step._replace(plan=np.full(self.num_envs, PLAY, np.int8)), screens)

    def clone_state(self, include_rng: bool = False) -> State:
        """A copy of all games, with the last actions and observations, and perhaps with the random numbers."""
        words, generators = self._fleet.emulators.words, self._fleet.generators
        random = [words.copy(), *(generator.state for generator in generators)] if include_rng else []
        return [array.copy() for array in self._arrays], random

    def restore_state(self, state: State) -> None:
        """Continue from the result of ``clone_state``."""
        (arrays, random), drawn = state, self._step.games["ale_drawn"].copy()
        for array, saved in zip(self._arrays, arrays, strict=True):
            array[:] = saved
        self._ended = int(self._rest.done.sum())
        if not random:
            self._step.games["ale_drawn"] = drawn
            return
        self._fleet.emulators.words[:], *generators = random
        for generator, saved in zip(self._fleet.generators, generators, strict=True):
            generator.state = saved

    @property
    def _arrays(self) -> list[Array]:
        arrays = [*self._step[:3], *self._rest[:2], self._lefts, self._observations]
        return [array for array in arrays if array is not None]


class PongEnv(gymnasium.Env[Array, Any]):
    """One game, the same as ``ALE/Pong-v5``, with ``Settings``; as its own ``ale`` it has what wrappers ask ALE for."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, **settings: Any):
        self._games = PongVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, **settings)
        self.observation_space = self._games.single_observation_space
        self.action_space = self._games.single_action_space
        self.render_mode, self._frameskip = self._games.render_mode, self._games.settings.frameskip
        self._np_random = self._games.generator(0)
        self.clone_state, self.restore_state = self._games.clone_state, self._games.restore_state
        self.ale = self

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start a new game."""
        super().reset(seed=seed)
        observations, infos = self._games.reset(seed=[seed])
        self._np_random = self._games.generator(0)
        seeds = {"seeds": infos["seeds"][0]} if seed is not None else {}
        return observations[0], self._info(infos) | seeds

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Play a decision; nothing moves after the game's end."""
        observations, *results, infos = self._games.decide(np.asarray(action).reshape(self._games.action_space.shape))
        reward, terminated, truncated = (values[0].item() for values in results)
        return observations[0], reward, terminated, truncated, self._info(infos)

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {name: int(infos[name][0]) for name in ("lives", "episode_frame_number", "frame_number")}

    def render(self) -> Any:
        """The screen, (210, 160, 3)."""
        return self._games.render()[0]

    def close(self) -> None:
        """Close the environment."""
        self._games.close()

    def get_action_meanings(self) -> list[str]:
        """The names of the actions."""
        return list(self._games.action_names)

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys for ``gymnasium.utils.play``."""
        names = enumerate(self._games.action_names)
        return {tuple(key for part, key in KEYS.items() if part in name): action for action, name in names}

    def lives(self) -> int:
        """There are none in Pong."""
        return 0

    def getScreenRGB(self, out: Array | None = None) -> Any:  # noqa: N802
        """The screen, (210, 160, 3), also written to ``out``."""
        return self._games.screens("rgb", out)[0]

    def getScreenGrayscale(self, out: Array | None = None) -> Any:  # noqa: N802
        """The screen, (210, 160), also written to ``out``."""
        return self._games.screens("grayscale", out)[0]
