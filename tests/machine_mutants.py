"""The machine with one constant changed, and the comparison with ALE that has to notice."""

import ast
import itertools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from verify_machine import Trace, replay

from pong.envs.pong import fleet, machine

SOURCE = Path(machine.__file__).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Constant:
    """An integer in the source of the machine."""

    line: int
    column: int

    @property
    def marked(self) -> str:
        """The source from its line on, with » before it."""
        first, *lines = SOURCE.splitlines(keepends=True)[self.line - 1 :]
        return f"{first[: self.column].lstrip()}»{first[self.column :]}{''.join(lines)}"

    def __str__(self) -> str:
        return self.marked.splitlines()[0]


def constants() -> list[Constant]:
    """All there are; in the order of the source."""
    places = [(node.lineno, node.col_offset) for node in ast.walk(ast.parse(SOURCE)) if is_integer(node)]
    return [Constant(*place) for place in sorted(places)]


def is_integer(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def uncompiled(changed: Constant | None = None) -> SimpleNamespace:
    """The machine as plain Python; with one constant 2 % larger, at least 1."""
    tree = ast.parse(SOURCE)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
        if changed and is_integer(node) and (node.lineno, node.col_offset) == (changed.line, changed.column):
            node.value += max(1, node.value // 50)
    module = {"__name__": "mutant"}
    exec(compile(tree, machine.__file__, "exec"), module)
    return SimpleNamespace(**module)


class PlainFleet(fleet.MachineFleet):
    """A fleet for a trace on plain Python objects: twenty times as fast as on records, without Numba."""

    def __init__(self, trace: Trace):
        super().__init__(len(trace.seeds), trace.task)
        for i, seed in enumerate(trace.seeds.tolist()):
            super().seed(i, seed)
        state = dict.fromkeys(machine.GAME.names, 0) | {"ale_drawn": machine.WORDS}
        self.games = [SimpleNamespace(**state) for _ in trace.seeds]
        raw = [generator.random_raw(len(trace.decisions) + 100) for generator in self.generators]
        numbers = [numbers.astype("<u8").view("<u4").tolist() for numbers in raw]
        words = self.emulators.words.tolist()
        self.emulators = self.emulators._replace(games=self.games, words=words, numbers=numbers)

    def seed(self, i: int, seed: int | None) -> None:
        """Once, when it is made."""

    def _draw_ahead(self) -> None:
        """All numbers are drawn when it is made."""


def notices(changed: Constant | None, traces: list[Trace]) -> str | None:
    """What the comparison first finds wrong with such a machine, if anything; one that fails is noticed, too.

    The traces take turns: most of what is wrong shows early in one of them.
    """
    replays = [replay(trace, PlainFleet(trace)) for trace in traces]
    try:
        with patch.object(fleet, "machine", uncompiled(changed)):
            for t, turn in enumerate(itertools.zip_longest(*replays, fillvalue=())):
                for trace, names in zip(traces, turn, strict=True):
                    if names:
                        return f"{trace.task}, decision {t}: {', '.join(names)}"
    except Exception as error:  # a mutant may do anything
        return type(error).__name__
    return None
