"""What a report page is made of. Every format renders these few blocks; what they say is decided once, before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Tone = Literal["plain", "lead", "note", "warning"]
Mark = Literal["", "up", "down"]


class Heading(NamedTuple):
    """The title of a section; `page`: it begins a new page in print."""

    text: str
    level: Literal[2, 3] = 2
    page: bool = False


class Paragraph(NamedTuple):
    """A piece of running text."""

    text: str
    tone: Tone = "plain"


class Bullets(NamedTuple):
    """A list of sentences."""

    items: tuple[str, ...]


class Facts(NamedTuple):
    """Labels and their values; a value that is a digest is set in monospace."""

    items: tuple[tuple[str, str], ...]


class Formula(NamedTuple):
    """Lines with subscripts, written a_b or a_{bc}."""

    lines: tuple[str, ...]


class Commands(NamedTuple):
    """What to type, one command a line."""

    lines: tuple[str, ...]


class Cell(NamedTuple):
    """One cell: its text, a smaller second line, and what is said of its sign."""

    text: str
    note: str = ""
    mark: Mark = ""
    shade: float | None = None
    """-1 (hurt most) to 1 (helped most): the tint of a cell of a heat map; None for no tint."""


class Link(NamedTuple):
    """The dashboard's views of the same numbers, or why there is none."""

    places: tuple[tuple[str, str], ...] = ()
    """(what is shown, where several are linked; the address below that of the dashboard)."""
    instead: str = ""


NOWHERE = Link()


class Table(NamedTuple):
    """The first column names the row. `words` say unit, sign, n and reliability; `evidence` where it comes from."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: str = ""
    evidence: str = ""
    texts: frozenset[int] = frozenset()
    """Columns beside the first that hold words, not numbers."""
    link: Link = NOWHERE


class Figure(NamedTuple):
    """A chart. `kind` names how it is drawn, `data` is all that is drawn: plain values."""

    kind: Literal["timeline", "stages", "steps", "heat", "pairs", "scatter", "split", "path"]
    title: str
    data: Mapping[str, Any]
    words: str
    alternative: str
    """Where a reader who cannot see the chart finds its values."""
    evidence: str
    link: Link


class Cover(NamedTuple):
    """What stands at the top: kind of document, title, question, answer, and the facts at a glance."""

    kicker: str
    title: str
    question: str
    status: str
    """What the answer rests on, in a few words."""
    tone: str
    lines: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


Block = Heading | Paragraph | Bullets | Facts | Formula | Commands | Table | Figure | Cover


def numbered(blocks: Iterable[Block]) -> tuple[tuple[str, int, Block], ...]:
    """(kind, number among its kind, block); only sections of the first rank are counted among headings."""
    counts: Counter[str] = Counter()
    found = []
    for block in blocks:
        kind = type(block).__name__
        counts[kind] += not (isinstance(block, Heading) and block.level > 2)
        found.append((kind, counts[kind], block))
    return tuple(found)
