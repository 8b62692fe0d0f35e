"""Compare the compiled Pong with ale-py: the same seeds and decisions in both.

    python scripts/verify_machine.py --frames 20000

A trace is play in ALE: decisions and their outcomes. The compiled Pong must give the same rewards, ends of games,
numbers of frames and observations, and the same game state as the console's memory, after every decision.
"""

import functools
import json
import multiprocessing
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import ale_py
import common
import numba
import numpy as np
import torch
import tyro
from common import ROOT
from numpy.typing import NDArray

from pong.config import PONG_FRAMES
from pong.distributed import cores
from pong.envs.base import StepResult
from pong.envs.pong.ale import Pong, PongFleet
from pong.envs.pong.task import ALE_ACTIONS, DOWN, DOWN_FIRE, NOOP, UP, UP_FIRE
from pong.observations import FrameKind, ObservationBuilder, Observations, SparseFrames
from pong.train import load_policy

RAM = {  # addresses of the game state; all but the clock and "stopped" by the compiled Pong's names
    **{"pause": 0x8B, "cpu_points": 0x8D, "own_points": 0x8E, "last": 0x92},
    **{"own_y": 0xB3, "cpu_y": 0xB2, "x": 0xB1, "y": 0xB6, "down": 0xB8, "left": 0xBA, "next_y": 0xBC},
    "stopped": 0x90,  # 255 while the clock runs
}
SIGNED = ("left", "down")
CLOCK_HIGH, CLOCK_LOW, CPU_Y_AGAIN = 0x89, 0x88, 0x95
LAST = 450  # frame in which the clock runs out where it is put forward
FRAMES_A_TRACE = 20_000
Ints = NDArray[np.int64]
Memory = dict[str, Ints]  # the console's numbers, (N,) each
Poke = dict[str, int]  # numbers to put into the console's memory


@dataclass(frozen=True)
class Task:
    """A setting of the game and of the observations."""

    hold: int | Literal["2-4"] = 4
    sticky: float = 0.25
    noop_max: int = 0
    max_frames: int = PONG_FRAMES
    frames: FrameKind = "difference"
    last_action: bool = False

    @property
    def game(self) -> dict[str, Any]:
        """The arguments that both fleets take."""
        return {"sticky": self.sticky, "noop_max": self.noop_max, "max_frames": self.max_frames}

    @property
    def builder(self) -> ObservationBuilder:
        """Of as many actions as there are."""
        return ObservationBuilder(self.frames, len(ALE_ACTIONS) if self.last_action else 0)


class Scene(NamedTuple):
    """What a player decides by."""

    rng: np.random.Generator
    memory: Memory
    observations: Observations
    notes: Ints  # (N,), the player's own, 0 at first


@dataclass(frozen=True)
class Kind:
    """A kind of play."""

    task: Task
    player: Callable[[Scene], Ints]  # ALE's actions (N,)
    pokes: float = 0.0  # probability that a game is put into another state, each decision
    last_frames: bool = False  # put the console's clock forward, so that it runs out when the game is cut
    idle: float = 0.05  # probability that a game has no decision


@dataclass
class Trace:
    """Play in ALE: decisions and their outcomes."""

    task: Task
    seeds: Ints
    first: SparseFrames
    actions: list[Ints] = field(default_factory=list)
    active: list[NDArray[np.bool_]] = field(default_factory=list)
    pokes: list[dict[int, Poke]] = field(default_factory=list)
    outcomes: list[tuple[StepResult, Memory]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """How many were compared."""
        return sum(int(result.frames.sum()) for result, _ in self.outcomes)


# --- players ----------------------------------------------------------------------------------------------------------


def random_player(*actions: int) -> Callable[[Scene], Ints]:
    """Any of these actions at any time."""
    return lambda scene: scene.rng.choice(actions, len(scene.notes))


def stubborn(*actions: int) -> Callable[[Scene], Ints]:
    """Repeats an action for a while, to the ends of the paddle's way."""

    def decide(scene: Scene) -> Ints:
        again = scene.rng.random(len(scene.notes)) < 0.05
        scene.notes[again] = scene.rng.choice(actions, int(again.sum()))
        return scene.notes.copy()

    return decide


def follower(up: int = UP, down: int = DOWN) -> Callable[[Scene], Ints]:
    """Meets the ball with every part of the paddle: each game has an offset of −4 to 17 lines, redrawn at times."""

    def decide(scene: Scene) -> Ints:
        again = (scene.memory["x"] < 90) | (scene.memory["y"] == 0)  # the ball is far away
        scene.notes[again] = scene.rng.integers(-4, 18, int(again.sum()))
        ahead = scene.memory["y"] - scene.notes - scene.memory["next_y"]
        return np.where(ahead < -2, up, np.where(ahead > 2, down, up if up == UP_FIRE else NOOP))

    return decide


def agent(name: str) -> Callable[[Scene], Ints]:
    """A policy of pretrained/, sampled."""
    load = functools.cache(lambda: load_policy(ROOT / "pretrained" / name)[0])

    def decide(scene: Scene) -> Ints:
        noise = torch.from_numpy(scene.rng.random((len(scene.notes), *load().noise_shape), np.float32))
        return np.array(ALE_ACTIONS)[load().act(scene.observations, noise).numpy()]

    return decide


PLAIN, ALL = (NOOP, UP, DOWN), ALE_ACTIONS
KINDS = {  # those that find most faults come first
    "random": Kind(Task(), random_player(*PLAIN)),
    "random with FIRE": Kind(Task(3, 0.1, 1, frames="both"), random_player(*ALL)),
    "pokes": Kind(Task(4, 0.25, frames="both"), random_player(*PLAIN), pokes=0.1),
    "random with FIRE, hold 1": Kind(Task(1, 0.0, 7, max_frames=500, frames="both"), random_player(*ALL)),
    "to the end of the clock": Kind(Task(4, 0.5, max_frames=LAST), random_player(*ALL), last_frames=True),
    "and beyond": Kind(Task(3, 0.0, max_frames=100_000), random_player(*ALL), last_frames=True),
    "follower": Kind(Task(1, 0.0), follower(), idle=0.0),
    "follower, sticky": Kind(Task(3, 0.25), follower()),
    "follower with FIRE": Kind(Task(1, 0.0), follower(UP_FIRE, DOWN_FIRE), idle=0.0),
    "pokes with FIRE": Kind(Task(1, 0.1, frames="both"), follower(UP_FIRE, DOWN_FIRE), pokes=0.2),
    "random, hold 2-4, NOOP starts": Kind(
        Task("2-4", 0.5, 30, frames="three", last_action=True), random_player(*PLAIN)
    ),
    "cut off": Kind(Task("2-4", 0.25, 30, max_frames=331), random_player(*PLAIN)),
    "long holds": Kind(Task(4, 0.25, frames="both", last_action=True), stubborn(*PLAIN)),
    "long holds with FIRE": Kind(Task("2-4", 0.0), stubborn(*ALL)),
    "agent pong": Kind(Task(), agent("pong")),
    "agent karpathy": Kind(Task("2-4"), agent("karpathy")),
    "agent pong_plain": Kind(Task(4, 0.0, 30), agent("pong_plain")),
    "agent pong_expert": Kind(Task(frames="both", last_action=True), agent("pong_expert")),
}


# --- play in ALE, and again in the compiled Pong ----------------------------------------------------------------------


def record(kind: Kind, seed: int, frames: int, num_envs: int = 4) -> Trace:
    """Play in ALE until so many frames are emulated."""
    task, rng = kind.task, np.random.default_rng(seed)
    seeds = rng.integers(1, 2**31, num_envs)
    fleet = PongFleet(Pong(num_envs, task.hold, actions=len(ALE_ACTIONS), **task.game), task.builder)
    emulators = [emulator.ale for emulator in fleet.envs.emulators]
    index = np.argsort(ALE_ACTIONS)  # of each of ALE's actions among ours
    observations = fleet.reset(seeds)
    trace, notes = Trace(task, seeds, observations), np.zeros(num_envs, np.int64)
    fresh, emulated = np.ones(num_envs, bool), 0
    while emulated < frames:
        active = rng.random(num_envs) >= kind.idle
        poked = active & (rng.random(num_envs) < kind.pokes) & far_from_paddles(read(emulators))
        pokes = {i: any_state(rng, emulators[i]) for i in np.flatnonzero(poked).tolist()}
        if kind.last_frames:
            pokes |= {i: last_frames(emulators[i]) for i in np.flatnonzero(fresh).tolist()}
        for i, poke in pokes.items():
            write(emulators[i], poke)
        actions = index[kind.player(Scene(rng, read(emulators), observations, notes))]
        result = fleet.step(actions, active)
        observations, fresh = result.observations, result.dones
        emulated += int(result.frames.sum())
        trace.actions.append(actions)
        trace.active.append(active)
        trace.pokes.append(pokes)
        trace.outcomes.append((result, read(emulators)))
    return trace


def far_from_paddles(memory: Memory) -> NDArray[np.bool_]:
    """Where the ball touches no paddle: the console remembers a touch, and would apply it to the new place."""
    return (memory["pause"] > 0) | (np.abs(memory["x"] - 128) < 56)


def last_frames(ale: ale_py.ALEInterface) -> Poke:
    """The clock put forward, to run out with the game's frame LAST."""
    return {"clock": 2**16 - LAST + ale.getEpisodeFrameNumber()}


def any_state(rng: np.random.Generator, ale: ale_py.ALEInterface) -> Poke:
    """The ball in flight at any speed and anywhere, often near a paddle; and more points for both."""
    cpu_points, own_points = (int(read([ale])[name][0]) for name in ("cpu_points", "own_points"))
    y = int(rng.integers(0x2E, 0xCE))
    near = rng.random(2) < 0.5
    cpu_y, own_y = np.where(near, np.clip(y - rng.integers(-6, 18, 2), 0x26, 0xCB), rng.integers((0, 0x26), 0xCC))
    x = rng.choice([rng.integers(53, 205), rng.integers(62, 72), rng.integers(184, 205)])
    more = int(rng.integers(0, 21 - max(cpu_points, own_points)))  # the same for both: a reward is a difference
    ball = {
        "x": int(x),
        "y": y,
        "left": int(rng.choice([-4, -3, -2, -1, 1, 2, 3, 4])),
        "down": int(rng.integers(-3, 4)),
    }
    paddles = {"cpu_y": int(cpu_y) // 2 * 2, "own_y": int(own_y), "next_y": int(own_y)}
    points = {"cpu_points": cpu_points + more, "own_points": own_points + more}
    clock = int(rng.integers(0x147, 0x10000 - PONG_FRAMES // 2))
    return {"pause": 0, **ball, **paddles, **points, "clock": clock}


def write(ale: ale_py.ALEInterface, poke: Poke) -> None:
    """Put a state into the console's memory."""
    values = {RAM[name]: value % 256 for name, value in poke.items() if name in RAM}
    if "cpu_y" in poke:
        values[CPU_Y_AGAIN] = poke["cpu_y"]
    if "clock" in poke:
        values |= {CLOCK_HIGH: poke["clock"] >> 8, CLOCK_LOW: poke["clock"] & 255}
    for address, value in values.items():
        ale.setRAM(address - 0x80, value)


def read(emulators: list[ale_py.ALEInterface]) -> Memory:
    """The game state in the console's memory."""
    ram = np.stack([ale.getRAM() for ale in emulators]).astype(np.int64)
    memory = {name: ram[:, address - 0x80] for name, address in RAM.items()}
    for name in SIGNED:
        memory[name] = (memory[name] + 128) % 256 - 128
    memory["stopped"] = (memory["stopped"] != 255).astype(np.int64)
    return memory | {"clock": 256 * ram[:, CLOCK_HIGH - 0x80] + ram[:, CLOCK_LOW - 0x80]}


def replay(trace: Trace) -> Iterator[tuple[int, str]]:
    """Play a trace again in the compiled Pong; yields every difference: the decision and what is different."""
    from pong.envs.pong.fleet import MachineFleet

    task = trace.task
    fleet = MachineFleet(len(trace.seeds), task.hold, task.builder, **task.game)
    if not same_rows(fleet.reset(trace.seeds), trace.first):
        yield -1, "first rows"
    for t, (expected, memory) in enumerate(trace.outcomes):
        for i, poke in trace.pokes[t].items():
            for name, value in poke.items():
                fleet.games[name][i] = value
        result = fleet.step(trace.actions[t], trace.active[t])
        yield from ((t, name) for name in differences(result, expected, rows=not memory["stopped"].any()))
        yield from ((t, name) for name in other_memory({name: fleet.games[name] for name in memory}, memory))


def differences(result: StepResult, expected: StepResult, rows: bool) -> Iterator[str]:
    """What differs in a decision's outcome; rows only count before the clock runs out."""
    for name in ("rewards", "dones", "frames"):
        if not np.array_equal(getattr(result, name), getattr(expected, name)):
            yield name
    if rows and not same_rows(result.observations, expected.observations):
        yield "rows"


def same_rows(ours: Observations, theirs: Observations) -> bool:
    """Whether all columns, signs and offsets are the same, and of the same type."""
    assert isinstance(ours, SparseFrames)
    assert isinstance(theirs, SparseFrames)
    pairs = [(getattr(ours, part), getattr(theirs, part)) for part in ("columns", "signs", "offsets")]
    return ours.width == theirs.width and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def other_memory(games: dict[str, Any], memory: Memory) -> list[str]:
    """The console's numbers that differ; the ball's place only counts while there is a ball."""
    flying = memory["pause"] == 0
    different = {name: games[name] != values for name, values in memory.items()}
    return [name for name, games in different.items() if (games & flying if name in ("x", "y") else games).any()]


# --- the report -------------------------------------------------------------------------------------------------------


def main(
    frames: Annotated[int, tyro.conf.arg(help="to compare, in thousands")] = 20_000,
    out: Annotated[Path, tyro.conf.arg(help="folder of the report")] = ROOT / "results/machine",
) -> int:
    """Play millions of frames in ALE and in the compiled Pong, and compare; status 1 if anything differs."""
    seed, start = secrets.randbits(32), time.monotonic()
    traces = frames * 1000 // (FRAMES_A_TRACE * len(KINDS)) + 1
    jobs = [(name, seed + k) for k in range(traces) for name in KINDS]
    counts, faults = Counter[str](), list[str]()
    with multiprocessing.get_context("spawn").Pool(cores(), torch.set_num_threads, (1,)) as pool:
        for done, (name, compared, fault) in enumerate(pool.imap_unordered(compare, jobs), 1):
            counts[name] += compared
            faults += fault
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
    out.mkdir(parents=True, exist_ok=True)
    (out / "verify.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "verify.md").write_text(markdown(report), encoding="utf-8")
    print(f"\n{markdown(report)}")
    return 1 if faults else 0


def compare(job: tuple[str, int]) -> tuple[str, int, list[str]]:
    """Record a trace and replay it: its kind, its frames, and the first difference."""
    name, seed = job
    trace = record(KINDS[name], seed, FRAMES_A_TRACE)
    fault = next(replay(trace), None)
    return name, trace.frames, [f"{name}, seed {seed}, decision {fault[0]}: {fault[1]}"] if fault else []


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    counts = {name: f"{frames:,}" for name, frames in report["frames by kind"].items()}
    counts["**all**"] = f"**{report['frames']:,}**"
    table = common.markdown([{"kind of play": name, "frames": count} for name, count in counts.items()])
    faults = "\n".join(f"- {fault}" for fault in report["differences"]) or "No difference."
    about = f"`make verify-machine`, {report['date']}, {versions}; seeds from {report['root seed']} on."
    return f"{about}\n\n{table}\n{faults}\n"


if __name__ == "__main__":
    common.run(main)
