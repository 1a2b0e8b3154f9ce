"""From a figure of a report back to the dashboard's view. A link names the run's digest: a stale one is refused.

What is linked is the very view: the same numbers, of the same question. Where no address names it, the reason is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from aa_core.confidence.verdict import SEGMENTS
from aa_core.performance import PERFORMANCES
from aa_core.reporting.blocks import Link
from aa_core.reporting.model import Check, Report
from aa_core.run_performance import CONFOUNDER

SHORT = 12
MOST_CHARACTERS = 1_800
"""Longer addresses are cut by some programs."""
MOST_ROWS = 5_000
"""What the dashboard takes of single examples."""
Query = Mapping[str, Any]


def view(report: Report, screen: str, **picked: Any) -> Link:
    """A screen with the request of this report."""
    return views(report, screen, {"": picked})


def views(report: Report, screen: str, by: Mapping[str, Query]) -> Link:
    """Several views of a screen, each with what it adds to the request of this report, by what they show."""
    selection, method = report.selection, report.method
    if selection.picks is not None:
        picked: Query = selection.picks.query
    else:
        picked = {} if selection.examples == "all" else {"examples": ranges(int(i) for i in selection.examples)}
    asked = {
        "performance": selection.performance if selection.named else None,
        "method": "boundary" if method.method == SEGMENTS else method.method,
        "curvature": method.curvature,
        "readout": method.readout,
        "semantics": method.semantics,
    }
    return _link(screen, {name: {**_run(report), **picked, **asked, **more} for name, more in by.items()})


def overview(report: Report) -> Link:
    """The training as it was recorded: the same whatever was asked."""
    return _link("", {"": _run(report)})


def view_of(report: Report, check: Check) -> Link:
    """The what-if of a retraining."""
    asked = check.request
    if asked is None or check.kind != "what-if":
        return Link(instead="what was asked is not recorded in the terms of the dashboard")
    steps, percent = asked.steps or None, round(100 * asked.scale)
    if steps and not re.fullmatch(r"\d+(-\d+)?", steps):
        return Link(instead="the dashboard leaves out one range of steps at a time")
    if not asked.changes and (percent != 100 * asked.scale or percent > 999):
        return Link(instead="the dashboard scales by whole percents only")
    query = {
        "performance": asked.performance,
        "examples": asked.examples,
        "method": asked.method,
        "curvature": asked.curvature,
        "readout": asked.readout,
        "semantics": "" if asked.changes or asked.without else asked.semantics,
        "skip": asked.skip,
        "leave": steps and (steps if "-" in steps else f"{steps}-{steps}"),
        "without": asked.without,
        "scale": "" if asked.changes or not percent else percent,
        "change": [f"{hyper}:{how}" for hyper, how in sorted(asked.changes.items())],
    }
    return _link("what-if", {"": {**_run(report), **query}})


def _run(report: Report) -> Query:
    return {"digest": report.run.digest[:SHORT]}


def _link(screen: str, by: Mapping[str, Query]) -> Link:
    places = []
    for name, query in by.items():
        performance = query.get("performance", "")
        if performance is None or not (performance in ("", *PERFORMANCES) or performance.startswith(CONFOUNDER)):
            return Link(instead="the dashboard does not know this performance")
        address = f"{screen}?{urlencode({k: v for k, v in query.items() if v}, doseq=True)}"
        numbers = (query.get(k) for k in ("examples", "without"))
        if len(address) > MOST_CHARACTERS or any(count(n) > MOST_ROWS for n in numbers if isinstance(n, str)):
            return Link(instead="so many numbers do not fit into an address; of a saved subgroup, its digest does")
        places.append((name, address))
    return Link(tuple(places))


def count(numbers: str) -> int:
    """ "1-3,7" -> 4."""
    ends = [part.partition("-") for part in numbers.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 -> "1-3,7"."""
    spans: list[list[int]] = []
    for n in sorted(set(numbers)):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
