"""The commands that give a report again, to be typed in the folder that holds the run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

from aa_core.confidence.verdict import SEGMENTS
from aa_core.reporting.about import About
from aa_core.reporting.asked import Request
from aa_core.reporting.links import ranges
from aa_core.reporting.model import Check, MethodSection, Selection

DASHBOARD = "http://127.0.0.1:8501"
"""Where `aa dashboard` answers."""
COVER = "cover.toml"
Options = list[tuple[str, str]]


def commands(
    path: Path,
    selection: Selection,
    method: MethodSection,
    *,
    stages: Sequence[str],
    with_steps: bool,
    against: Path | None,
    dashboard: str,
    checks: Sequence[Check],
) -> tuple[str, ...]:
    """The check of the run, every retraining, the report without its auditor's statements; of a performance of the
    caller's own there is no command.

    Args:
        stages: those that were asked for; empty for all.
    """
    folder = shlex.quote(path.name)
    again = dict.fromkeys(line for c in checks if (line := _again(folder, c)))
    report: Options = [("stage", name) for name in stages]
    report += [("performance", selection.performance), *_examples(selection)]
    parts = ("curvature", "readout") if method.method == SEGMENTS else ("method", "curvature", "readout", "semantics")
    report += [(name, getattr(method, name)) for name in parts]
    report += [] if with_steps or method.method == SEGMENTS else [("no-steps", "")]
    report += [] if against is None else [("against", against.name)]
    report += [] if dashboard == DASHBOARD else [("dashboard", dashboard)]
    last = [f"aa report {folder} {options([*report, ('output', 'report.html')])}"] if selection.named else []
    return (f"aa check {folder}", *again, *last, "aa report verify report.html")


def with_statements(lines: Sequence[str], about: About, date: str | None) -> tuple[str, ...]:
    """The commands, that of the report with the auditor's statements and the date that it prints."""
    said: Options = [] if about == About() else [("about", COVER)]
    said += [] if date is None else [("date", date)]
    end = "--output report.html"
    return tuple(f"{line} {options(said)}" if said and line.endswith(end) else line for line in lines)


def cover_sheet(about: About) -> tuple[str, ...]:
    """The lines of a TOML file that says what the auditor said."""
    said = about.model_dump(exclude={"sign_off"}, exclude_defaults=True)
    signed = [line for s in about.sign_off for line in ("[[sign_off]]", *_toml(s.model_dump()))]
    return (*_toml(said), *signed)


def _toml(values: dict[str, str]) -> Iterator[str]:
    """TOML's strings are JSON's, but for DEL."""
    return (
        f"{name} = {json.dumps(text, ensure_ascii=False)}".replace("\x7f", "\\u007f") for name, text in values.items()
    )


def options(pairs: Iterable[tuple[str, str]]) -> str:
    """What follows a command; a flag has an empty value."""
    return " ".join(f"--{name} {shlex.quote(value)}" if value else f"--{name}" for name, value in pairs)


def _examples(selection: Selection) -> Options:
    picks = [] if selection.picks is None else [("picked-by", urlencode(selection.picks.query, doseq=True))]
    if selection.examples == "all":
        return picks
    rows = [int(i) for i in selection.examples]
    ascending = rows == sorted(set(rows))
    return [("examples", ranges(rows) if ascending else ",".join(map(str, rows))), *picks]


def _again(folder: str, check: Check) -> str | None:
    """The command that trains again; None where the command line cannot ask that."""
    asked = check.request
    if asked is None or check.kind == "run" or (asked.changes and len(asked.skip) > 1):
        return None
    judged: Options = [("performance", asked.performance)]
    if check.kind == "calibration":
        return f"aa calibrate {folder} {options([*judged, ('semantics', asked.semantics)])}"
    judged += [("examples", asked.examples)] if asked.examples else []
    how = [(name, getattr(asked, name)) for name in ("method", "curvature", "readout")]
    return f"aa whatif {folder} {options([*_change(asked), *judged, *how])}"


def _change(asked: Request) -> Options:
    steps = [("steps", _span(part)) for part in asked.steps.split(",") if part]
    if asked.changes:
        stage = f"{asked.skip[0]}:" if asked.skip else ""
        return [*(("change", f"{stage}{hyper}={how}") for hyper, how in sorted(asked.changes.items())), *steps]
    found = [*(("skip", name) for name in asked.skip), *steps]
    found += [("without-example", asked.without)] if asked.without else [("semantics", asked.semantics)]
    return [*found, *([("scale", f"{asked.scale:g}")] if asked.scale else [])]


def _span(part: str) -> str:
    """ "40-59" -> "40:60", as the command line counts."""
    first, dash, last = part.partition("-")
    return f"{first}:{int(last) + 1}" if dash else first
