"""From a figure of a report back to the dashboard's view. A link names the run's digest: a stale one is refused."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

from aa_core.reporting.model import Report

SHORT = 12
MOST_CHARACTERS = 1_800
"""Longer addresses are cut by some programs; such a link leads to all examples, and says so by naming none."""


def view(report: Report, screen: str, **picked: str) -> str:
    """The address of a screen, below that of the dashboard, with the request of this report."""
    chosen = report.selection.examples
    rows = "" if chosen == "all" else ranges(int(i) for i in chosen)
    method = report.method
    query = {
        "digest": report.run.digest[:SHORT],
        "examples": rows if len(rows) < MOST_CHARACTERS else "",
        "performance": report.selection.performance,
        "method": method.method,
        "curvature": method.curvature,
        "readout": method.readout,
        "semantics": method.semantics,
        **picked,
    }
    return f"{screen}?{urlencode({k: v for k, v in query.items() if v})}"


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 -> "1-3,7"."""
    spans: list[list[int]] = []
    for n in sorted(set(numbers)):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
