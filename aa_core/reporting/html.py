"""Report -> one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pandas as pd
import plotly
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from aa_core.reporting import figures, glossary, tables
from aa_core.reporting.answer import check_of
from aa_core.reporting.escape import visible
from aa_core.reporting.model import Check, Report, StageRow, canonical, to_json
from aa_core.stages import Stage
from aa_core.version import __version__

GENERATOR = f"accountability-audit {__version__}, plotly {plotly.__version__}"
BLANK = "0" * 64
TOP_STEPS = 10
DRAW = """
for (const source of document.querySelectorAll('script.chart')) {
  const chart = JSON.parse(source.textContent);
  Plotly.newPlot(source.previousElementSibling, chart.data, chart.layout, chart.config);
}
"""


class Chart(NamedTuple):
    """A numbered figure: its plotly JSON, its caption, and where a screen reader finds its values."""

    number: int
    json: Markup
    caption: str
    alternative: str
    height: int


def to_html(report: Report) -> str:
    """The report as one offline page; the canonical JSON is embedded, and the page carries its own digest."""
    charts = dict(_charts(report))
    page = (
        _environment()
        .get_template("template.html.j2")
        .render(
            r=report,
            g=glossary,
            charts=charts,
            rows=[(row, _retrained(report, row)) for row in report.stages],
            scale=_scale(report),
            top_steps=_top_steps(report),
            data=Markup(to_json(report)),
            plotly=Markup(get_plotlyjs()),
            draw=Markup(DRAW),
            policy=_policy(),
            generator=GENERATOR,
            blank=BLANK,
            digest=report.digest,
            files=sorted(tables.to_csv(report)),
        )
    )
    return page.replace(BLANK, html_digest(page), 1)


def html_digest(page: str) -> str:
    """sha256 of the page as it was before its digest was written into it."""
    return hashlib.sha256(page.encode()).hexdigest()


def _charts(report: Report) -> Iterator[tuple[str, Chart]]:
    for number, (name, figure, caption, alternative) in enumerate(_figures(report), 1):
        layout: dict[str, Any] = {**json.loads(figure.to_json()), "config": figures.CONFIG}
        yield name, Chart(number, Markup(canonical(layout)), caption, alternative, figure.layout.height)


def _figures(report: Report) -> Iterator[tuple[str, go.Figure, str, str]]:
    """(name, figure, caption, alternative text) in the order of the page."""
    unit, name = report.selection.unit, report.selection.performance
    if report.run.log is not None:
        figure = figures.stage_timeline([Stage(s.name, s.blocks) for s in report.run.stages], tables.log_frame(report))
        caption = f"Stages, loss and learning rate of the training, {report.run.steps:,} steps."
        yield "timeline", figure, caption, "Table 1 lists the stages."
    figure = figures.stage_bars(tables.stage_frame(report), unit, performance=name)
    caption = f"Estimated effect of each stage on the mean {name}. {_basis(report, 'stage', report.reliability.words)}"
    whiskers = f" Whiskers: {glossary.INTERVAL}" if report.stages[0].low is not None else ""
    yield "stages", figure, caption + whiskers, "Table 2 has the values."
    if report.steps is not None:
        figure = figures.step_bars(tables.step_frame(report), unit, performance=name)
        caption = f"Estimated effect of each step on the mean {name}, read off linearly. "
        caption += _basis(report, "step", report.steps.reliability.words)
        yield "steps", figure, caption, "Table 3 has the largest values, steps.csv all."
    pairs = [(r, c) for r in report.stages if (c := _retrained(report, r)) is not None]
    if pairs:
        frame = pd.DataFrame([{"stage": r.stage, "estimate": r.mean, "truth": c.mean_truth} for r, c in pairs])
        figure = figures.compare_bars(frame, unit, performance=name)
        caption = f"Estimated effects (pale) beside those of a real retraining without the stage, on the mean {name}. "
        yield "compare", figure, caption + _basis(report, "stage"), "Table 4 has the values."


def _basis(report: Report, thing: str, words: str = "") -> str:
    """Unit, number of examples, sign convention and reliability: what no figure goes without."""
    unit = glossary.unit_words(report.selection.unit)
    return f"{unit[0].upper()}{unit[1:]}; n = {report.selection.n:,}; {glossary.sign(thing)}. {words}".rstrip()


def _retrained(report: Report, row: StageRow) -> Check | None:
    return check_of(row, report.selection, report.method.semantics, report.checks)


def _scale(report: Report) -> float:
    return glossary.scale_of(v for r in report.stages for v in (r.mean, r.low, r.high))


def _top_steps(report: Report) -> list[dict[str, Any]]:
    frame = tables.step_frame(report)
    if frame.empty:
        return []
    largest = frame["effect"].abs().sort_values(ascending=False, kind="stable").index[:TOP_STEPS]
    return frame.loc[largest].to_dict("records")


@lru_cache(maxsize=1)
def _policy() -> str:
    """Nothing from anywhere; only these two scripts run. Plotly adds styles as it draws, hence 'unsafe-inline'."""
    scripts = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (get_plotlyjs(), DRAW)
    )
    rules = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("aa_core.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda v: v if isinstance(v, Markup) else visible(v),
    )
    environment.filters |= {
        "effect": glossary.fmt_effect,
        "percent": glossary.fmt_percent,
        "number": glossary.fmt_number,
        "count": glossary.fmt_count,
        "seconds": glossary.fmt_seconds,
        "formula": _formula,
        "correlation": glossary.fmt_correlation,
        "command": _command,
        "short": lambda digest: str(digest)[:12],
    }
    return environment


def _formula(text: str) -> Markup:
    """ "ξ_e" and "M_{K−1}" with real subscripts."""
    return Markup(re.sub(r"_(?:\{([^}]*)\}|(\w))", lambda m: f"<sub>{m[1] or m[2]}</sub>", str(escape(text))))


def _command(line: str) -> Markup:
    """A command that breaks between its options only, unless one is very long."""
    parts = visible(line).split(" --")
    shown = [
        Markup("<span>{}</span>").format(p) if len(p) < 60 else escape(p)
        for p in [parts[0], *(f"--{p}" for p in parts[1:])]
    ]
    return Markup(" ").join(shown)
