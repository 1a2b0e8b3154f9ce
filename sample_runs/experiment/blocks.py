"""A page as a list of blocks, written as Markdown or as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; color: #22262b; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #d9dce1; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


class Heading(NamedTuple):
    """A heading of a level, 1 the highest."""

    level: int
    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Table(NamedTuple):
    """Columns and rows, the first column left-aligned."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """An SVG, and what it shows in words."""

    name: str
    svg: str
    words: str


Block = Heading | Text | Table | Picture


def markdown(blocks: Sequence[Block], pictures: str) -> str:
    """pictures: where the pictures lie, as seen from the page."""
    return "\n\n".join(_markdown(block, pictures) for block in blocks) + "\n"


def _markdown(block: Block, pictures: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Table(head, rows):
            rule = ["---", *["---:"] * (len(head) - 1)]
            return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [head, rule, *rows])
        case Picture(name, _, words):
            return f"![{words}]({pictures}{name})"
        case Text(text):
            return text


def html(blocks: Sequence[Block], title: str) -> str:
    """One file, pictures inside."""
    body = "\n".join(map(_html, blocks))
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>\n{body}\n</body></html>\n"


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Table(head, rows):
            return f"<table>{_row(head, 'th')}{''.join(_row(row, 'td') for row in rows)}</table>"
        case Picture(_, svg, _):
            return svg
        case Text(text):
            return f"<p>{escape(text)}</p>"


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def write_pictures(blocks: Sequence[Block], folder: Path) -> None:
    """Every picture of the page as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Picture):
            (folder / block.name).write_text(block.svg, "utf-8")
