"""examples/karpathy.py in two columns: its code, and why each line is there, from examples/karpathy_notes.toml.

    python scripts/annotate.py

writes docs/karpathy-annotated.md, for GitHub, and docs/karpathy-annotated.html, a page that needs no other file.
"""

import ast
import html
import re
import tomllib
from collections.abc import Iterator

import common

from pong.config import InputError

SOURCE, NOTES = common.ROOT / "examples/karpathy.py", common.ROOT / "examples/karpathy_notes.toml"
PAGE = common.ROOT / "docs/karpathy-annotated.md"
TITLE = "Karpathy's program, annotated"
INTRO = (
    "For readers of the post; fifteen minutes. Left: examples/karpathy.py, the 2016 program in today's PyTorch. "
    "Right: why each line is as it is and, where it differs, the line of 2016."
)
STYLE = """body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; }
td { vertical-align: top; padding: 0.6rem; border-top: 1px solid #8886; }
td:first-child { width: 60%; } pre { margin: 0; white-space: pre-wrap; font-size: 13px; }
:root { color-scheme: light dark; }"""


def main() -> None:
    """Write both pages."""
    rows = list(blocks())
    PAGE.write_text(markdown(rows), encoding="utf-8")
    PAGE.with_suffix(".html").write_text(webpage(rows), encoding="utf-8")


def blocks() -> Iterator[tuple[str, list[str]]]:
    """The code of each part of the program and its notes."""
    source = SOURCE.read_text(encoding="utf-8")
    lines, notes = source.splitlines(), tomllib.loads(NOTES.read_text(encoding="utf-8"))["notes"]
    for note in notes:
        if source.count(note["line"]) != 1:
            raise InputError(f"{NOTES.name}: {note['line']!r} is in {source.count(note['line'])} lines, not one")
    for first, last in parts(ast.parse(source)):
        code = "\n".join(lines[first:last]).strip("\n")
        yield code, [text(note) for note in notes if note["line"] in code]


def parts(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """The first line of each part and the line after it: imports, constants and every definition."""
    starts = [0]
    for before, node in zip(tree.body, tree.body[1:], strict=False):
        is_definition = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.If))
        if is_definition or (isinstance(before, ast.ImportFrom) and isinstance(node, ast.Assign)):
            decorators = getattr(node, "decorator_list", [])
            starts.append(min(item.lineno for item in (node, *decorators)) - 1)
    yield from zip(starts, [*starts[1:], None], strict=True)


def text(note: dict[str, str]) -> str:
    """A note in HTML."""
    why = re.sub("`(.*?)`", r"<code>\1</code>", html.escape(note["why"], quote=False))
    was = f"<br>2016: <code>{html.escape(note['was'], quote=False)}</code>" if "was" in note else ""
    return f"<p><code>{html.escape(note['line'], quote=False)}</code> {why}{was}</p>"


def markdown(rows: list[tuple[str, list[str]]]) -> str:
    """For GitHub: a table whose left column is highlighted code."""
    cells = (f"<tr><td>\n\n```python\n{code}\n```\n\n</td><td>\n{''.join(notes)}\n</td></tr>" for code, notes in rows)
    return f"# {TITLE}\n\n{INTRO}\n\n<table>\n{chr(10).join(cells)}\n</table>\n"


def webpage(rows: list[tuple[str, list[str]]]) -> str:
    """A page of its own."""
    cells = (f"<tr><td><pre>{html.escape(code)}</pre></td><td>{''.join(notes)}</td></tr>" for code, notes in rows)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
    return f"{head}<h1>{TITLE}</h1><p>{INTRO}</p><table>{chr(10).join(cells)}</table></html>\n"


if __name__ == "__main__":
    common.run(main)
