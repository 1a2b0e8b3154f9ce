"""Report -> PDF by typst: no browser, no system library, no network, no system font; the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from aa_core.errors import IntegrityError, MissingExtraError, RunFormatError
from aa_core.reporting import tables
from aa_core.reporting.bins import binned, spans_decades
from aa_core.reporting.blocks import Block, Figure, Formula, Table, numbered
from aa_core.reporting.breakdown import ENDS, FELL, PARTS, ROSE, path_labels, told_apart
from aa_core.reporting.escape import visible
from aa_core.reporting.glossary import CURVES, fmt_effect, fmt_number, scale_of
from aa_core.reporting.html import subscripts
from aa_core.reporting.marks import NEUTRAL, grid_words
from aa_core.reporting.model import Report, read_report, to_json
from aa_core.reporting.pages import pages
from aa_core.reporting.seal import SCHEMA, first_difference
from aa_core.version import __version__

TEMPLATE = Path(__file__).with_name("report.typ")
STANDARDS: list[Any] = ["ua-1"]
"""For screen readers: tagged, with alternative text. (PDF/A would need a date, and a report reads no clock.)"""
SEAL, BLANK = "aa-pdf-sha256:", "0" * 64
MOST_BARS = 400
TALL = {"loss": 30, "lr": 14, "grad_norm": 18}
"""Height of each curve of the training, mm."""
MOST_DATA = 64 * 2**20


def to_pdf(report: Report) -> bytes:
    """The report as PDF with its canonical JSON attached; it carries its own digest.

    Raises MissingExtraError if typst is not installed.
    """
    typst = _typst()
    given = json.dumps(_given(report), allow_nan=False, ensure_ascii=False)
    data = typst.compile(
        TEMPLATE.read_bytes(),
        format="pdf",
        sys_inputs={"pages": given, "report": to_json(report)},
        ignore_system_fonts=True,
        pdf_standards=STANDARDS,
        timestamp=0,
    )
    return data.replace(_seal(BLANK), _seal(pdf_digest(data)))


def pdf_digest(data: bytes) -> str:
    """sha256 of the file as it was before its digest was written into it."""
    return hashlib.sha256(data).hexdigest()


def verify_pdf(data: bytes, where: str) -> None:
    """Check the attached data, the file's own digest and, with the versions that wrote it, that both say the same."""
    report = read_report(_attached(data, where), f"{where}, report.json attached to it")
    own = re.search(rb"aa-pdf-sha256:([0-9a-f]{64})", data)
    if not own:
        raise RunFormatError(f"{where}: not a report of this package: its digest is missing")
    place = _difference(data, report)
    said = "" if place is None else f", first at byte {place:,} of {len(data):,}"
    if pdf_digest(data.replace(own[0], _seal(BLANK))).encode() != own[1]:
        raise IntegrityError(f"{where}: its data are intact, but its pages were changed after it was written{said}")
    if place is not None:
        raise IntegrityError(f"{where}: the pages do not show what the attached data say{said}")


def _difference(data: bytes, report: Report) -> int | None:
    """Where a file is not the one that its data make; None if it is, or if other versions wrote it."""
    try:
        same_version = _maker().encode() in data
    except metadata.PackageNotFoundError:
        return None
    return first_difference(data, to_pdf(report)) if same_version else None


def _maker() -> str:
    return f"accountability-audit {__version__}, {SCHEMA}, typst {metadata.version('typst')}"


def _seal(digest: str) -> bytes:
    return f"{SEAL}{digest}".encode()


def _typst() -> Any:
    try:
        import typst
    except ImportError:
        raise MissingExtraError("writing a PDF", "pdf") from None
    return typst


def _attached(data: bytes, where: str) -> bytes:
    """The embedded report.json: the one stream of the type EmbeddedFile."""
    found = re.search(rb"/Type\s*/EmbeddedFile\b.*?stream\r?\n", data, re.DOTALL)
    if not found:
        raise RunFormatError(f"{where}: not a report of this package: no report.json is attached")
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data[found.end() :], MOST_DATA)
    except zlib.error as error:
        raise IntegrityError(f"{where}: the attached report.json was changed: {error}") from None
    if not unpacker.eof:
        raise IntegrityError(f"{where}: the attached report.json is not whole, or larger than {MOST_DATA} bytes")
    return text


# ---- blocks as plain values ------------------------------------------------------------------------------------------


def _given(report: Report) -> Any:
    blocks = numbered(pages(report, sorted(tables.to_csv(report))))
    return _shown(
        {
            "title": report.title,
            "author": report.about.auditor or "not stated",
            "maker": _maker(),
            "footer": f"{_maker()}. Run {report.run.digest[:12]}, report {report.digest[:12]}",
            "seal": f"{SEAL}{BLANK}",
            "dashboard": report.dashboard,
            "blocks": [{"kind": kind, "number": number, "block": _plain(b)} for kind, number, b in blocks],
        }
    )


def _plain(block: Block) -> dict[str, Any]:
    if isinstance(block, Formula):
        return {"lines": [subscripts(visible(line)) for line in block.lines]}
    if isinstance(block, Figure):
        return {**block._asdict(), "link": block.link._asdict(), "data": DRAWN[block.kind](block.data)}
    if isinstance(block, Table):
        rows = [[c._asdict() for c in row] for row in block.rows]
        plain = {"rows": rows, "texts": sorted(block.texts), "widths": _widths(block), "link": block.link._asdict()}
        return {**block._asdict(), **plain}
    return block._asdict()


def _widths(table: Table) -> list[int]:
    """How the columns share the page: by their longest text, within bounds."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    longest = [
        max([len(title), *(max(len(c.text), len(c.note) // 2) for c in cells)])
        for title, cells in zip(table.columns, columns, strict=True)
    ]
    return [min(max(length, 6), 34) for length in longest]


def _shown(value: Any) -> Any:
    """Control and direction characters spelled out, all through; characters without a glyph too."""
    if isinstance(value, str):
        return "".join(c if ord(c) < NO_GLYPH or c in GLYPHS else f"\\u{ord(c):04x}" for c in visible(value))
    if isinstance(value, Mapping):
        return {k: _shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value]
    return value


NO_GLYPH, GLYPHS = (
    0x590,
    "".join(map(chr, [*range(0x2010, 0x2028), *range(0x2030, 0x205F), *range(0x2070, 0x208F), *range(0x2190, 0x22FF)]))
    + "▲▼⟨⟩",
)
"""The fonts that come with typst know Latin, Greek and Cyrillic, and these."""


def _labels(values: Any, scale: float) -> list[str]:
    return [fmt_effect(v, scale) for v in values]


def _ends(values: Any) -> dict[str, str]:
    known = [v for v in values if v is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    return {"low": fmt_effect(low, scale_of([low, high])), "high": fmt_effect(high, scale_of([low, high]))}


def _timeline(data: Mapping[str, Any]) -> dict[str, Any]:
    known = [c for c in CURVES if data[c]]
    shown, _ = binned(pd.DataFrame({c: data[c] for c in ("step", "stage", *known)}), "mean", MOST_BARS)
    rows = [_curve(c, _numbers(shown[c])) for c in known]
    return {"blocks": data["blocks"], "step": shown["step"].tolist(), "rows": rows}


def _curve(name: str, values: list[float | None]) -> dict[str, Any]:
    """A curve by its heights, 0 at the bottom of its row and 1 at the top, and the ends of its axis."""
    known, wide = [v for v in values if v is not None], name == "grad_norm" and spans_decades(values)
    low, high = (min(known), max(known)) if wide else (min([0.0, *known]), max([0.0, *known]))
    place: Callable[[float], float] = math.log if wide else float
    room = place(high) - place(low) or 1.0
    at = [None if v is None else (place(v) - place(low)) / room for v in values]
    ends = {"low": fmt_number(low), "high": fmt_number(high)}
    return {"words": CURVES[name] + (", logarithmic" if wide else ""), "tall": TALL[name], "at": at, "ends": ends}


def _numbers(column: pd.Series) -> list[Any]:
    return [None if pd.isna(v) else v for v in column.tolist()]


def _stages(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "label": _labels(data["effect"], scale_of([*data["effect"], *data["low"], *data["high"]]))}


def _steps(data: Mapping[str, Any]) -> dict[str, Any]:
    frame = pd.DataFrame({c: data[c] for c in ("step", "stage", "effect")}).astype({"effect": float})
    shown, width = binned(frame, "sum", MOST_BARS)
    effect = _numbers(shown["effect"])
    return {
        "step": shown["step"].tolist(),
        "effect": effect,
        "steps_per_row": width * data["steps_per_row"],
        "ends": _ends(effect),
    }


def _heat(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "label": grid_words(*(data[name] for name in ("effect", "low", "high", "unsure")))}


def _pairs(data: Mapping[str, Any]) -> dict[str, Any]:
    scale = scale_of([*data["first"], *data["second"]])
    return {**data, "labels": {c: _labels(data[c], scale) for c in ("first", "second")}}


def _scatter(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "ends": _ends([*data["estimate"], *data["truth"]])}


def _split(data: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of coloured pieces side by side: what helped to the right of zero, what hurt to the left."""
    parts, effects = told_apart(data["part"], data["effect"])
    looks = [{"colour": PARTS[i % len(PARTS)], "pale": i >= len(PARTS)} for i in range(len(parts))]
    totals = [sum(v or 0.0 for v in own) for own in data["effect"]]
    bars = [
        {"name": name, "pieces": list(_beside(own, looks)), "label": label}
        for name, own, label in zip(data["stage"], effects, _labels(totals, scale_of(totals)), strict=True)
    ]
    return {"bars": bars, "key": [{"name": name, **look} for name, look in zip(parts, looks, strict=True)]}


def _beside(values: Sequence[float], looks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    ends = {True: 0.0, False: 0.0}
    for value, look in zip(values, looks, strict=True):
        start = ends[value > 0]
        ends[value > 0] = start + value
        yield {"start": start, "stop": start + value, **look}


def _path(data: Mapping[str, Any]) -> dict[str, Any]:
    """One piece a bar, each from where the one before ended."""
    at = list(accumulate(v or 0.0 for v in (data["start"], *data["share"])))
    between = ((a, b, ROSE if b >= a else FELL) for a, b in pairwise(at))
    spans = [(0.0, at[0], NEUTRAL), *between, (0.0, at[-1], NEUTRAL)]
    names, labels = (ENDS[0], *data["stage"], ENDS[1]), path_labels(data["start"], data["share"])
    bars = [
        {"name": n, "pieces": [{"start": a, "stop": b, "colour": colour, "pale": False}], "label": label}
        for n, (a, b, colour), label in zip(names, spans, labels, strict=True)
    ]
    return {"bars": bars, "key": []}


DRAWN: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "timeline": _timeline,
    "stages": _stages,
    "steps": _steps,
    "heat": _heat,
    "pairs": _pairs,
    "scatter": _scatter,
    "split": _split,
    "path": _path,
}
