"""Compare the compiled Pong with ale-py: the same seeds and decisions in both.

A trace records play in ALE: decisions and their results. The compiled Pong must repeat the rewards, ends of games,
numbers of frames and observations, and have the same game state as the console's memory, after every decision. Whole
screens in grey, of which each colour has its own, are compared until the console's clock ends.
"""

import functools
import json
import multiprocessing
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import ale_py
import common
import numba
import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from pong.distributed import cores
from pong.envs.base import StepResult
from pong.envs.pong.ale import AleFleet
from pong.envs.pong.fleet import MachineFleet
from pong.envs.pong.screen import KINDS as OBSERVATIONS
from pong.envs.pong.screen import PLAY, Step
from pong.envs.pong.task import ACTION_NAMES, PongTask
from pong.observations import RowLayout, SparseFrames
from pong.train import load_policy

RAM = {  # bytes of the console's memory, by the compiled Pong's names
    **{"pause": 0x0B, "cpu_points": 0x0D, "own_points": 0x0E, "stopped": 0x10, "last": 0x12, "x": 0x31, "cpu_y": 0x32},
    **{"own_y": 0x33, "y": 0x36, "down": 0x38, "left": 0x3A, "next_y": 0x3C},
}
CLOCK_LOW, CLOCK_HIGH, CPU_Y_COPY = 0x08, 0x09, 0x15
LAST = 450  # frame in which the clock runs out if it is put forward
TRACE_FRAMES = 20_000
DOWN, UP, NOOP, UP_FIRE, DOWN_FIRE = map(ACTION_NAMES.index, ("DOWN", "UP", "NOOP", "UP+FIRE", "DOWN+FIRE"))
Ints = NDArray[np.int64]
Memory = dict[str, Ints]  # the game state of N consoles, (N,) each
Poke = dict[str, int]  # numbers to write into a console's memory
# Of N games in ALE: pokes by game, the actions and which games are active, then the result and the memory after it.
Decision = tuple[dict[int, Poke], Ints, NDArray[np.bool_], StepResult, Memory]
# Chooses actions (N,) from random numbers, the game state, the observations and its own notes (N,), which start as 0.
Player = Callable[[np.random.Generator, Memory, SparseFrames, Ints], Ints]


@dataclass(frozen=True)
class Kind:  # of play
    task: PongTask
    player: Player
    pokes: float = 0.0  # probability that a decision starts from another state
    last_frames: bool = False  # put the console's clock forward, so that it runs out in each game's frame LAST
    idle: float = 0.05  # probability that a game has no decision


@dataclass
class Trace:  # play in ALE
    task: PongTask
    seeds: Ints
    first: SparseFrames
    decisions: list[Decision] = field(default_factory=list)
    screens: list[int] = field(default_factory=list)  # checksums, at first and after each decision
    top: int = 0  # row of the screen from which they are compared
    frames: int = 0


def random_player(actions: int, change: float = 1.0) -> Player:
    """Draws its actions uniformly; with a small probability of ``change`` the paddle reaches the ends of its way."""

    def decide(rng: np.random.Generator, memory: Memory, observations: SparseFrames, notes: Ints) -> Ints:
        changed = rng.random(len(notes)) < change
        notes[changed] = rng.integers(0, actions, int(changed.sum()))
        return notes.copy()

    return decide


def follower(up: int = UP, down: int = DOWN, stay: int = NOOP) -> Player:
    """Meets the ball with every part of the paddle: at −4 to 17 lines from its top, drawn for each rally."""

    def decide(rng: np.random.Generator, memory: Memory, observations: SparseFrames, notes: Ints) -> Ints:
        changed = (memory["x"] < 90) | (memory["y"] == 0)  # the ball is far away
        notes[changed] = rng.integers(-4, 18, int(changed.sum()))
        ahead = memory["y"] - notes - memory["next_y"]
        return np.select([ahead < -2, ahead > 2], [up, down], stay)

    return decide


def agent(name: str) -> Player:
    """Samples from a policy of pretrained/."""
    load = functools.cache(lambda: load_policy(common.ROOT / "pretrained" / name)[0])

    def decide(rng: np.random.Generator, memory: Memory, observations: SparseFrames, notes: Ints) -> Ints:
        noise = rng.random((len(notes), *load().noise_shape), np.float32)
        return load().act(observations, torch.from_numpy(noise)).numpy()

    return decide


BOTH, BOTH_AND_ACTION, THREE = RowLayout("both"), RowLayout("both", 6), RowLayout("three", 6)
FIRING = follower(UP_FIRE, DOWN_FIRE, UP_FIRE)
Task = functools.partial(PongTask, actions=len(ACTION_NAMES))
KINDS = {  # those that find most faults come first
    "random": Kind(Task(), random_player(3)),
    "random with FIRE": Kind(Task(3, 0.1, 1, layout=BOTH), random_player(6)),
    "pokes": Kind(Task(layout=BOTH), random_player(3), pokes=0.1),
    "random with FIRE, hold 1": Kind(Task(1, 0.0, 7, max_frames=500, layout=BOTH), random_player(6)),
    "to the end of the clock": Kind(Task(4, 0.5, max_frames=LAST), random_player(6), last_frames=True),
    "and beyond": Kind(Task(3, 0.0, max_frames=100_000), random_player(6), last_frames=True),
    "follower": Kind(Task(1, 0.0), follower(), idle=0.0),
    "follower, sticky": Kind(Task(3, 0.25), follower()),
    "follower with FIRE": Kind(Task(1, 0.0), FIRING, idle=0.0),
    "pokes with FIRE": Kind(Task(1, 0.1, layout=BOTH), FIRING, pokes=0.2),
    "random, hold 2-4, NOOP starts": Kind(Task("2-4", 0.5, 30, layout=THREE), random_player(3)),
    "cut off": Kind(Task("2-4", 0.25, 30, max_frames=331), random_player(3)),
    "long holds": Kind(Task(layout=BOTH_AND_ACTION), random_player(3, change=0.05)),
    "long holds with FIRE": Kind(Task("2-4", 0.0), random_player(6, change=0.05)),
    "agent pong": Kind(Task(), agent("pong")),
    "agent karpathy": Kind(Task("2-4"), agent("karpathy")),
    "agent pong_plain": Kind(Task(4, 0.0, 30), agent("pong_plain")),
    "agent pong_expert": Kind(Task(layout=BOTH_AND_ACTION), agent("pong_expert")),
}


def record(kind: Kind, seed: int, frames: int, num_envs: int = 4) -> Trace:
    """Play in ALE until this many frames have been emulated."""
    rng = np.random.default_rng(seed)
    seeds = rng.integers(1, 2**31, num_envs)
    fleet = AleFleet(num_envs, kind.task)
    consoles = [emulator.ale for emulator in fleet.emulators]
    observations, memory, fresh = fleet.reset(seeds), read(consoles), np.ones(num_envs, bool)
    trace, notes = Trace(kind.task, seeds, observations), np.zeros(num_envs, np.int64)
    if kind.pokes and kind.task.hold == 1:  # the console shows points a frame later than its memory has them
        trace.top = 24
    trace.screens.append(checksum([console.getScreenGrayscale() for console in consoles], trace.top))
    while trace.frames < frames:
        active = rng.random(num_envs) >= kind.idle
        # where the ball touches no paddle: the console remembers a touch, and would apply it to the new place
        poked = active & (rng.random(num_envs) < kind.pokes) & ((memory["pause"] > 0) | (abs(memory["x"] - 128) < 56))
        pokes = {i: any_state(rng, memory, i) for i in np.flatnonzero(poked).tolist()}
        for i in np.flatnonzero(fresh & kind.last_frames).tolist():
            pokes[i] = {"clock": 2**16 - LAST + consoles[i].getEpisodeFrameNumber()}
        for i, poke in pokes.items():
            write(consoles[i], poke)
        actions = kind.player(rng, read(consoles), observations, notes)
        result = fleet.step(actions, active)
        observations, memory, fresh = result.observations, read(consoles), result.dones
        trace.decisions.append((pokes, actions, active, result, memory))
        trace.screens.append(checksum([console.getScreenGrayscale() for console in consoles], trace.top))
        trace.frames += int(result.frames.sum())
    return trace


def any_state(rng: np.random.Generator, memory: Memory, i: int) -> Poke:
    """A state for game i: the ball flies anywhere at any speed, often near a paddle; both sides have more points."""
    points = {name: memory[name][i] for name in ("cpu_points", "own_points")}
    more = rng.integers(0, 21 - max(points.values()))  # the same for both: a reward is a difference
    y = rng.integers(0x2E, 0xCE)
    near = rng.random(2) < 0.5
    cpu_y, own_y = np.where(near, np.clip(y - rng.integers(-6, 18, 2), 0x26, 0xCB), rng.integers((0, 0x26), 0xCC))
    x = rng.choice([rng.integers(53, 205), rng.integers(62, 72), rng.integers(184, 205)])
    state = {"pause": 0, "x": x, "y": y, "left": rng.choice([-4, -3, -2, -1, 1, 2, 3, 4]), "down": rng.integers(-3, 4)}
    state |= {"cpu_y": cpu_y // 2 * 2, "own_y": own_y, "next_y": own_y, "clock": rng.integers(0x147, 0x8000)}
    state |= {name: value + more for name, value in points.items()}
    return {name: int(value) for name, value in state.items()}


def write(ale: ale_py.ALEInterface, poke: Poke) -> None:
    """Change the state in a console's memory."""
    values = {RAM[name]: value for name, value in poke.items() if name in RAM}
    if "cpu_y" in poke:
        values[CPU_Y_COPY] = poke["cpu_y"]
    if "clock" in poke:
        values |= {CLOCK_HIGH: poke["clock"] >> 8, CLOCK_LOW: poke["clock"]}
    for byte, value in values.items():
        ale.setRAM(byte, value % 256)


def read(consoles: list[ale_py.ALEInterface]) -> Memory:
    """The game state in the consoles' memory."""
    ram = np.stack([ale.getRAM() for ale in consoles]).astype(np.int64)  # (N, 128)
    memory = {name: ram[:, byte] for name, byte in RAM.items()}
    memory |= {name: (memory[name] + 128) % 256 - 128 for name in ("left", "down")}  # signed
    memory["stopped"] = (memory["stopped"] != 255).astype(np.int64)
    return memory | {"clock": 256 * ram[:, CLOCK_HIGH] + ram[:, CLOCK_LOW]}


def replay(trace: Trace, fleet: Any) -> Iterator[list[str]]:
    """Repeat a trace in a ``MachineFleet``; yields the differences in the first observations and in each decision."""
    yield [] if same_rows(fleet.reset(trace.seeds), trace.first) else ["first rows"]
    for pokes, actions, active, expected, memory in trace.decisions:
        for i, poke in pokes.items():
            for name, value in poke.items():
                setattr(fleet.games[i], name, value)
        result = fleet.step(actions, active)
        if memory["stopped"].any():  # then the console changes its colours
            result = result._replace(observations=expected.observations)
        yield differences(result, expected) + state_differences(fleet.games, memory)


def checksum(screens: Sequence[NDArray[np.uint8]], top: int) -> int:
    """One number for the screens of all games, from a row on."""
    return zlib.crc32(np.stack(screens)[:, top:].tobytes())


def replayed(trace: Trace) -> dict[int, list[str]]:
    """Repeat a trace in the compiled Pong: what differs, whole screens included, by decision."""
    fleet, N, different = MachineFleet(len(trace.seeds), trace.task), len(trace.seeds), {}
    step = Step(fleet.games, fleet.games, np.empty((N, 3), fleet.games.dtype), np.full(N, PLAY, np.int8), 0)
    for t, names in enumerate(replay(trace, fleet)):
        screens = OBSERVATIONS["grayscale"].draw(step, np.empty((N, 210, 160), np.uint8))
        same = checksum(screens, trace.top) == trace.screens[t] or fleet.games["stopped"].any()
        if names or not same:
            different[t] = names if same else [*names, "screen"]
    return different


def differences(result: StepResult, expected: StepResult) -> list[str]:
    """What differs in a decision's result."""
    arrays = ("rewards", "dones", "frames")
    names = [name for name in arrays if not np.array_equal(getattr(result, name), getattr(expected, name))]
    return names if same_rows(result.observations, expected.observations) else [*names, "rows"]


def same_rows(a: SparseFrames, b: SparseFrames) -> bool:
    """Whether all columns, signs and offsets are the same, and of the same type."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("columns", "signs", "offsets")]
    return a.width == b.width and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


def state_differences(games: Sequence[Any], memory: Memory) -> list[str]:
    """The numbers of the state that differ; the ball's place only counts while there is a ball."""
    flying = memory["pause"] == 0
    different = {name: np.array([getattr(game, name) for game in games]) != memory[name] for name in memory}
    return [name for name, where in different.items() if (where & flying if name in ("x", "y") else where).any()]


def main(
    frames: Annotated[int, tyro.conf.arg(help="thousands of frames to compare")] = 20_000,
    out: Annotated[Path, tyro.conf.arg(help="file of the report")] = common.ROOT / "results/machine/verify.json",
) -> int:
    """Play millions of frames in ALE and in the compiled Pong, and compare; status 1 if anything differs."""
    seed, start = secrets.randbits(32), time.monotonic()
    traces = frames * 1000 // (TRACE_FRAMES * len(KINDS)) + 1
    jobs = [(name, seed + k) for k in range(traces) for name in KINDS]
    counts, faults = Counter[str](), list[str]()
    with multiprocessing.get_context("spawn").Pool(cores(), torch.set_num_threads, (1,)) as pool:
        for done, (name, compared, found) in enumerate(pool.imap_unordered(compare, jobs), 1):
            counts[name] += compared
            faults += found
            print(f"\r{done} of {len(jobs)}: {counts.total():,} frames, {len(faults)} differences", end="", flush=True)
    report = {
        "frames": counts.total(),
        "differences": faults,
        "frames by kind": dict(counts),
        "root seed": seed,
        "traces": len(jobs),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "versions": {"ale-py": ale_py.__version__, "numba": numba.__version__, "numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("", *faults, f"report: {out}", sep="\n")
    return 1 if faults else 0


def compare(job: tuple[str, int]) -> tuple[str, int, list[str]]:
    """Record a trace and replay it: its kind, its frames, and the first difference."""
    name, seed = job
    trace = record(KINDS[name], seed, TRACE_FRAMES)
    faults = [f"{name}, seed {seed}, decision {t}: {', '.join(names)}" for t, names in replayed(trace).items()]
    return name, trace.frames, faults[:1]


if __name__ == "__main__":
    common.run(main)
