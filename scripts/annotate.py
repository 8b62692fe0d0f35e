"""Write docs/karpathy-annotated.md and .html: examples/karpathy.py beside its notes, examples/karpathy_notes.toml."""

import html
import re
import tomllib
from collections.abc import Iterator

import common
import markdown

from pong.config import InputError

SOURCE, NOTES = common.ROOT / "examples/karpathy.py", common.ROOT / "examples/karpathy_notes.toml"
PAGE = common.ROOT / "docs/karpathy-annotated.md"
PARTS = r"\n\n\n|\n\n(?=D, H = )"  # between definitions, and before the constants
HEAD = """# Karpathy's program, annotated

For readers of the post; fifteen minutes. Left: examples/karpathy.py, the 2016 program in today's PyTorch. \
Right: why each line is as it is and, where it differs, the line of 2016.
"""
STYLE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Karpathy's program, annotated</title><style>
body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; }
td { width: 60%; vertical-align: top; padding: 0.6rem; border-top: 1px solid #8886; }
pre { margin: 0; white-space: pre-wrap; font-size: 13px; }
:root { color-scheme: light dark; }</style>
"""


def main() -> None:
    """Write the page for GitHub, and one that needs no other file."""
    text = page(list(blocks()))
    PAGE.write_text(text, encoding="utf-8")
    PAGE.with_suffix(".html").write_text(webpage(text), encoding="utf-8")


def webpage(text: str) -> str:
    """HTML of the page in Markdown."""
    return STYLE + markdown.markdown(text, extensions=["fenced_code"]) + "\n"


def blocks() -> Iterator[tuple[str, list[str]]]:
    """The code of each part of the program and its notes."""
    source = SOURCE.read_text(encoding="utf-8")
    notes = tomllib.loads(NOTES.read_text(encoding="utf-8"))["notes"]
    for note in notes:
        if source.count(note["line"]) != 1:
            raise InputError(f"{NOTES.name}: {note['line']!r} is in {source.count(note['line'])} lines, not one")
    for code in re.split(PARTS, source):
        yield code.strip("\n"), [annotation(note) for note in notes if note["line"] in code]


def annotation(note: dict[str, str]) -> str:
    """A note in HTML."""
    line, why, was = (html.escape(note.get(key, ""), quote=False) for key in ("line", "why", "was"))
    why = re.sub("`(.*?)`", r"<code>\1</code>", why)
    then = f"<br>2016: <code>{was}</code>" if was else ""
    return f"<p><code>{line}</code> {why}{then}</p>"


def page(rows: list[tuple[str, list[str]]]) -> str:
    """The page: a table whose left column is highlighted code."""
    cells = (f"<tr><td>\n\n```python\n{code}\n```\n\n</td><td>\n{''.join(notes)}\n</td></tr>" for code, notes in rows)
    return f"{HEAD}\n<table>\n{chr(10).join(cells)}\n</table>\n"


if __name__ == "__main__":
    common.run(main)
