"""The machine with one constant changed, and the comparison with ALE that has to notice."""

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numba
import numpy as np
import torch
from numpy.random import PCG64, RandomState, SeedSequence
from verify_machine import Trace, differences, other_memory, same_rows

from pong.envs.base import StepResult
from pong.envs.pong import machine
from pong.envs.pong.fleet import ALE, PICTURES
from pong.observations import SparseFrames

SOURCE = Path(machine.__file__).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Constant:
    """An integer in the source of the machine."""

    line: int
    column: int
    value: int

    def __str__(self) -> str:
        text = SOURCE.splitlines()[self.line - 1]
        return f"{text[: self.column].lstrip()}»{text[self.column :]}"


def constants() -> list[Constant]:
    """All there are; in the order of the source."""
    return sorted(
        (Constant(node.lineno, node.col_offset, node.value) for node in _integers(ast.parse(SOURCE))),
        key=lambda constant: (constant.line, constant.column),
    )


def _integers(tree: ast.AST) -> Iterator[ast.Constant]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) is int)


def uncompiled(changed: Constant | None = None) -> ModuleType:
    """The machine as plain Python; with one constant 2 % larger, at least 1."""
    tree = ast.parse(SOURCE)
    for node in _integers(tree):
        if changed and (node.lineno, node.col_offset) == (changed.line, changed.column):
            node.value += max(1, node.value // 50)
    module = ModuleType("mutant")
    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 1
    try:
        exec(compile(tree, machine.__file__, "exec"), module.__dict__)
    finally:
        numba.config.DISABLE_JIT = before
    return module


def notices(changed: Constant | None, traces: list[Trace]) -> str | None:
    """What the comparison first finds wrong with such a machine, if anything; one that fails is noticed, too.

    The traces take turns: most of what is wrong shows early in one of them.
    """
    try:
        module = uncompiled(changed)
        replays = [(trace, _replay(module, trace)) for trace in traces]
        turns = itertools.zip_longest(*(replay for _, replay in replays), fillvalue=(0, None))
        found = ((one.task, *differs) for turn in turns for (one, _), differs in zip(replays, turn, strict=True))
        return next((f"{task}, decision {t}: {what}" for task, t, what in found if what), None)
    except Exception as error:  # a mutant may do anything
        return type(error).__name__


def _replay(module: ModuleType, trace: Trace) -> Iterator[tuple[int, str | None]]:
    """``verify_machine.replay`` on plain Python objects: twenty times as fast as on records, without Numba.

    Each decision, and what differs, or None after those in which nothing did.
    """
    task, builder, n = trace.task, trace.task.builder, len(trace.seeds)
    games = [SimpleNamespace(**dict.fromkeys(module.GAME.names, 0)) for _ in range(n)]
    words, numbers = [], []
    for game, seed in zip(games, trace.seeds.tolist(), strict=True):
        for_gymnasium, for_ale = SeedSequence(seed).generate_state(2).tolist()
        words.append(RandomState(for_ale).get_state()[1].tolist())
        raw = PCG64(SeedSequence(for_gymnasium)).random_raw(len(trace.actions) + 100)
        numbers.append(raw.astype("<u8").view("<u4").tolist())
        game.ale_drawn = 624
    pictures = np.zeros((len(PICTURES), n, 36), np.int16)
    parts = np.array([[PICTURES[new], PICTURES[old]] for new, old in builder.frames])
    settings = float(np.float32(task.sticky)) * 2**32, task.noop_max, task.max_frames
    hold = (2, 4) if task.hold == "2-4" else (task.hold, task.hold)

    def rows(fresh: np.ndarray, decisions: np.ndarray) -> SparseFrames:
        columns, signs = np.zeros(n * 300, np.int32), np.zeros(n * 300, np.float32)
        offsets = np.zeros(n, np.int32)
        shown = np.where(fresh, -1, decisions) if builder.actions else np.full(n, -1)
        k = module.rows(games, fresh, pictures, parts, shown, columns, signs, offsets)
        return SparseFrames(*(torch.from_numpy(part) for part in (columns[:k], signs[:k], offsets)), builder.width)

    module.begin_all(games, words, numbers, *settings)
    if not same_rows(rows(np.ones(n, bool), np.zeros(n, int)), trace.first):
        yield -1, "first rows"
    decisions = zip(trace.pokes, trace.actions, trace.active, trace.outcomes, strict=True)
    for t, (pokes, actions, active, (expected, memory)) in enumerate(decisions):
        for i, poke in pokes.items():
            vars(games[i]).update(poke)
        rewards, dones, frames = np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, np.int64)
        module.step(games, words, numbers, *settings, *hold, ALE[actions], active.tolist(), rewards, dones, frames)
        played = StepResult(rows(dones, actions), rewards, dones, frames)
        yield from ((t, what) for what in differences(played, expected, rows=not memory["stopped"].any()))
        ours = {name: np.array([getattr(game, name) for game in games]) for name in memory}
        yield from ((t, name) for name in other_memory(ours, memory))
        yield t, None
