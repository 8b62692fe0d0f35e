"""The machine beside ale-py: the same seeds and decisions in both, and everything that comes of them compared.

A trace is play in ALE: what was done, and what came of it. Whoever plays it again must get the same rewards, ends of
games, counts of frames, rows for the policy, and the same game in the console's memory, after every decision.
"""

import json
import multiprocessing
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import ale_py
import numba
import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from pong.config import PONG_FRAMES
from pong.distributed import cores
from pong.envs.base import StepResult
from pong.envs.pong.ale import Pong, PongFleet
from pong.envs.pong.task import ALE_ACTIONS, DOWN, DOWN_FIRE, NOOP, UP, UP_FIRE
from pong.observations import FrameKind, ObservationBuilder, Observations, SparseFrames
from pong.train import load_policy

ROOT = Path(__file__).resolve().parent.parent
SIGNED = ("left", "down")
RAM = {  # where the console keeps what the machine calls so
    "pause": 0x8B,
    "cpu_points": 0x8D,
    "own_points": 0x8E,
    "last": 0x92,
    "own_y": 0xB3,
    "cpu_y": 0xB2,
    "x": 0xB1,
    "y": 0xB6,
    "down": 0xB8,
    "left": 0xBA,
    "next_y": 0xBC,
    "stopped": 0x90,  # 255 while the clock runs
}
CLOCK_HIGH, CLOCK_LOW, CPU_Y_AGAIN = 0x89, 0x88, 0x95
LAST = 450  # frame in which the clock runs out where it is put forward


@dataclass(frozen=True)
class Task:
    """What is played, and what is seen of it."""

    hold: int | Literal["2-4"] = 4
    sticky: float = 0.25
    noop_max: int = 0
    max_frames: int = PONG_FRAMES
    shown: FrameKind = "difference"
    last_action: bool = False

    @property
    def game(self) -> dict[str, Any]:
        """The arguments that both fleets take."""
        return {"sticky": self.sticky, "noop_max": self.noop_max, "max_frames": self.max_frames}

    @property
    def builder(self) -> ObservationBuilder:
        """Of as many actions as there are."""
        return ObservationBuilder(self.shown, len(ALE_ACTIONS) if self.last_action else 0)


@dataclass
class Scene:
    """What a player decides by."""

    rng: np.random.Generator
    memory: dict[str, NDArray[np.int64]]  # (N,) each
    seen: Observations


Player = Callable[[Scene], NDArray[np.int64]]  # ALE's actions (N,)
Poke = dict[str, int]


@dataclass(frozen=True)
class Kind:
    """A kind of play.

    Attributes:
        task: what is played.
        player: makes a player of so many games.
        pokes: how often a game is put into another state, by decision.
        last_frames: whether the console's clock is put forward so that it runs out when the game is cut.
        idle: how often a game has no decision.
    """

    task: Task
    player: Callable[[int], Player]
    pokes: float = 0.0
    last_frames: bool = False
    idle: float = 0.05


@dataclass
class Trace:
    """Play in ALE: decisions and their outcomes, an entry each."""

    task: Task
    seeds: NDArray[np.int64]
    first: SparseFrames
    actions: list[NDArray[np.int64]] = field(default_factory=list)
    active: list[NDArray[np.bool_]] = field(default_factory=list)
    pokes: list[dict[int, Poke]] = field(default_factory=list)
    outcomes: list[tuple[StepResult, dict[str, NDArray[np.int64]]]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """How many were compared."""
        return sum(int(played.frames.sum()) for played, _ in self.outcomes)


# --- players ----------------------------------------------------------------------------------------------------------


def random_player(*actions: int) -> Callable[[int], Player]:
    """Any of these at any time."""
    return lambda n: lambda scene: scene.rng.choice(actions, n)


def stubborn(*actions: int) -> Callable[[int], Player]:
    """Does one thing for a while: to the ends of the knob's way."""

    def make(n: int) -> Player:
        doing = np.zeros(n, np.int64)

        def decide(scene: Scene) -> NDArray[np.int64]:
            again = scene.rng.random(n) < 0.05
            doing[again] = scene.rng.choice(actions, int(again.sum()))
            return doing.copy()

        return decide

    return make


def follower(up: int = UP, down: int = DOWN) -> Callable[[int], Player]:
    """Meets the ball with every place of the paddle: each game has an offset of −4 to 17 lines, drawn anew at times."""

    def make(n: int) -> Player:
        offsets = np.zeros(n, np.int64)

        def decide(scene: Scene) -> NDArray[np.int64]:
            again = (scene.memory["x"] < 90) | (scene.memory["y"] == 0)  # the ball is far away
            offsets[again] = scene.rng.integers(-4, 18, int(again.sum()))
            ahead = scene.memory["y"] - offsets - scene.memory["next_y"]
            return np.where(ahead < -2, up, np.where(ahead > 2, down, up if up == UP_FIRE else NOOP))

        return decide

    return make


def agent(name: str) -> Callable[[int], Player]:
    """One of pretrained/, sampled."""

    def make(n: int) -> Player:
        policy, _ = load_policy(ROOT / "pretrained" / name)

        def decide(scene: Scene) -> NDArray[np.int64]:
            noise = torch.from_numpy(scene.rng.random((n, *policy.noise_shape), np.float32))
            chosen: NDArray[np.int64] = np.array(ALE_ACTIONS)[policy.act(scene.seen, noise).numpy()]
            return chosen

        return decide

    return make


PLAIN, ALL = (NOOP, UP, DOWN), ALE_ACTIONS
KINDS = {  # those that notice most come first
    "random": Kind(Task(), random_player(*PLAIN)),
    "random with FIRE": Kind(Task(3, 0.1, 1, shown="stack"), random_player(*ALL)),
    "pokes": Kind(Task(4, 0.25, shown="stack"), random_player(*PLAIN), pokes=0.1),
    "random with FIRE, hold 1": Kind(Task(1, 0.0, 7, max_frames=500, shown="both"), random_player(*ALL)),
    "to the end of the clock": Kind(Task(4, 0.5, max_frames=LAST), random_player(*ALL), last_frames=True),
    "and beyond": Kind(Task(3, 0.0, max_frames=100_000), random_player(*ALL), last_frames=True),
    "follower": Kind(Task(1, 0.0), follower(), idle=0.0),
    "follower, sticky": Kind(Task(3, 0.25), follower()),
    "follower with FIRE": Kind(Task(1, 0.0), follower(UP_FIRE, DOWN_FIRE), idle=0.0),
    "pokes with FIRE": Kind(Task(1, 0.1, shown="stack"), follower(UP_FIRE, DOWN_FIRE), pokes=0.2),
    "random, hold 2-4, NOOP starts": Kind(Task("2-4", 0.5, 30, shown="three", last_action=True), random_player(*PLAIN)),
    "cut off": Kind(Task("2-4", 0.25, 30, max_frames=331), random_player(*PLAIN)),
    "long holds": Kind(Task(4, 0.25, shown="stack", last_action=True), stubborn(*PLAIN)),
    "long holds with FIRE": Kind(Task("2-4", 0.0), stubborn(*ALL)),
    "agent pong": Kind(Task(), agent("pong")),
    "agent karpathy": Kind(Task("2-4"), agent("karpathy")),
    "agent pong_plain": Kind(Task(4, 0.0, 30), agent("pong_plain")),
    "agent pong_expert": Kind(Task(shown="both", last_action=True), agent("pong_expert")),
}


# --- play in ALE, and once more elsewhere -----------------------------------------------------------------------------


def record(kind: Kind, seed: int, frames: int, num_envs: int = 4) -> Trace:
    """Play in ALE until so many frames are emulated."""
    task, rng = kind.task, np.random.default_rng(seed)
    seeds = rng.integers(1, 2**31, num_envs)
    fleet = PongFleet(Pong(num_envs, task.hold, actions=len(ALE_ACTIONS), **task.game), task.builder)
    emulators = [emulator.ale for emulator in fleet.envs.emulators]
    decide, ours = kind.player(num_envs), np.argsort(ALE_ACTIONS)
    seen = fleet.reset(seeds)
    trace = Trace(task, seeds, seen)
    fresh, emulated = np.ones(num_envs, bool), 0
    while emulated < frames:
        active = rng.random(num_envs) >= kind.idle
        poked = active & (rng.random(num_envs) < kind.pokes) & away(read(emulators))
        pokes = {i: any_state(rng, emulators[i]) for i in np.flatnonzero(poked).tolist()}
        if kind.last_frames:
            pokes |= {i: last_frames(emulators[i]) for i in np.flatnonzero(fresh).tolist()}
        for i, poke in pokes.items():
            write(emulators[i], poke)
        actions = ours[decide(Scene(rng, read(emulators), seen))]
        outcome = fleet.step(actions, active)
        seen, fresh = outcome.observations, outcome.dones
        emulated += int(outcome.frames.sum())
        trace.actions.append(actions)
        trace.active.append(active)
        trace.pokes.append(pokes)
        trace.outcomes.append((outcome, read(emulators)))
    return trace


def away(memory: dict[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Where the ball touches no paddle: the console remembers a touch, and would take it for one of the new place."""
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
    return {
        "pause": 0,
        "x": int(x),
        "y": y,
        "left": int(rng.choice([-4, -3, -2, -1, 1, 2, 3, 4])),
        "down": int(rng.integers(-3, 4)),
        "cpu_y": int(cpu_y) // 2 * 2,
        "own_y": int(own_y),
        "next_y": int(own_y),
        "cpu_points": cpu_points + more,
        "own_points": own_points + more,
        "clock": int(rng.integers(0x147, 0x10000 - PONG_FRAMES // 2)),
    }


def write(ale: ale_py.ALEInterface, poke: Poke) -> None:
    """Put a state into the console's memory."""
    bytes_ = {RAM[name]: value % 256 for name, value in poke.items() if name in RAM}
    if "cpu_y" in poke:
        bytes_[CPU_Y_AGAIN] = poke["cpu_y"]
    if "clock" in poke:
        bytes_ |= {CLOCK_HIGH: poke["clock"] >> 8, CLOCK_LOW: poke["clock"] & 255}
    for address, value in bytes_.items():
        ale.setRAM(address - 0x80, value)


def read(emulators: list[ale_py.ALEInterface]) -> dict[str, NDArray[np.int64]]:
    """The game as the console's memory has it."""
    ram = np.stack([ale.getRAM() for ale in emulators]).astype(np.int64)
    memory = {name: ram[:, address - 0x80] for name, address in RAM.items()}
    for name in SIGNED:
        memory[name] = (memory[name] + 128) % 256 - 128
    memory["stopped"] = (memory["stopped"] != 255).astype(np.int64)
    return memory | {"clock": 256 * ram[:, CLOCK_HIGH - 0x80] + ram[:, CLOCK_LOW - 0x80]}


def replay(trace: Trace) -> Iterator[tuple[int, str]]:
    """Play a trace again in the machine; yields where something else came of it, by decision, and what."""
    from pong.envs.pong.fleet import MachineFleet

    task = trace.task
    fleet = MachineFleet(len(trace.seeds), task.hold, task.builder, **task.game)
    if not same_rows(fleet.reset(trace.seeds), trace.first):
        yield -1, "first rows"
    for t, (expected, memory) in enumerate(trace.outcomes):
        for i, poke in trace.pokes[t].items():
            for name, value in poke.items():
                fleet.games[name][i] = value
        played = fleet.step(trace.actions[t], trace.active[t])
        yield from ((t, what) for what in differences(played, expected, rows=not memory["stopped"].any()))
        yield from ((t, name) for name in other_memory({name: fleet.games[name] for name in memory}, memory))


def differences(played: StepResult, expected: StepResult, rows: bool) -> Iterator[str]:
    """What of a decision's outcome is not as expected; rows only count before the clock runs out."""
    for what in ("rewards", "dones", "frames"):
        if not np.array_equal(getattr(played, what), getattr(expected, what)):
            yield what
    if rows and not same_rows(played.observations, expected.observations):
        yield "rows"


def same_rows(ours: Observations, theirs: Observations) -> bool:
    """Whether all columns, signs and offsets are the same, and of the same type."""
    assert isinstance(ours, SparseFrames)
    assert isinstance(theirs, SparseFrames)
    pairs = [(getattr(ours, part), getattr(theirs, part)) for part in ("columns", "signs", "offsets")]
    return ours.width == theirs.width and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def other_memory(games: dict[str, Any], memory: dict[str, NDArray[np.int64]]) -> list[str]:
    """Which of the console's numbers are other ones; where the ball is only counts while there is one."""
    flying = memory["pause"] == 0
    return [
        name
        for name, values in memory.items()
        if ((games[name] != values) & (flying if name in ("x", "y") else True)).any()
    ]


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flags:
    """Play millions of frames in ALE and in the machine, over all cores, and compare."""

    frames: Annotated[int, tyro.conf.arg(help="to compare, in thousands")] = 20_000
    out: Annotated[Path, tyro.conf.arg(help="folder of the report")] = ROOT / "results/machine"


FRAMES_A_TRACE = 20_000


def main() -> int:
    """Compare, print, write; 1 if anything differs."""
    flags = tyro.cli(Flags, prog="scripts/verify_machine.py")
    seed, began = secrets.randbits(32), time.monotonic()
    jobs = [(name, seed + k) for k in range(flags.frames * 1000 // (FRAMES_A_TRACE * len(KINDS)) + 1) for name in KINDS]
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        for done, (name, frames, found) in enumerate(pool.imap_unordered(compare, jobs), 1):
            counts[name] += frames
            wrong += found
            print(f"\r{done} of {len(jobs)}: {counts.total():,} frames, {len(wrong)} differences", end="", flush=True)
    print()
    report = {
        "frames": counts.total(),
        "differences": wrong,
        "frames by kind": dict(counts),
        "root seed": seed,
        "traces": len(jobs),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": {"ale-py": ale_py.__version__, "numba": numba.__version__, "numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "verify.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (flags.out / "verify.md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))
    return 1 if wrong else 0


def compare(job: tuple[str, int]) -> tuple[str, int, list[str]]:
    """Record a trace and replay it: its kind, how many frames it has, and what differs first."""
    torch.set_num_threads(1)
    name, seed = job
    trace = record(KINDS[name], seed, FRAMES_A_TRACE)
    found = next(replay(trace), None)
    return name, trace.frames, [f"{name}, seed {seed}, decision {found[0]}: {found[1]}"] if found else []


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    rows = "".join(f"| {name} | {frames:,} |\n" for name, frames in report["frames by kind"].items())
    found = "\n".join(f"- {line}" for line in report["differences"]) or "No difference."
    return (
        f"`make verify-machine`, {report['date']}, {versions}; seeds from {report['root seed']} on.\n\n"
        f"| kind of play | frames |\n| --- | --- |\n{rows}| **all** | **{report['frames']:,}** |\n\n{found}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
