"""Report -> one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import chain, product
from typing import Any, NamedTuple

import pandas as pd
import plotly
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from aa_core.reporting import breakdown, figures, glossary, tables
from aa_core.reporting.blocks import Figure, Heading, numbered
from aa_core.reporting.escape import chart_text, visible
from aa_core.reporting.heat import heat_map, least_width
from aa_core.reporting.model import Report, to_json
from aa_core.reporting.pages import pages
from aa_core.reporting.seal import SCHEMA, canonical
from aa_core.stages import Stage
from aa_core.version import __version__

GENERATOR = f"accountability-audit {__version__}, {SCHEMA}, plotly {plotly.__version__}"
BLANK = "0" * 64
DRAW = """
for (const source of document.querySelectorAll('script.chart')) {
  const chart = JSON.parse(source.textContent);
  Plotly.newPlot(source.previousElementSibling, chart.data, chart.layout, chart.config);
}
"""


class Chart(NamedTuple):
    """A figure as plotly's own JSON, its height, and the least width in pixels: in less, it is scrolled."""

    json: Markup
    height: int
    least_width: int


def to_html(report: Report) -> str:
    """The report as one offline page; the canonical JSON is embedded, and the page carries its own digest."""
    blocks = numbered(pages(report, sorted(tables.to_csv(report))))
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            r=report,
            blocks=blocks,
            charts={number: _chart(b) for _, number, b in blocks if isinstance(b, Figure)},
            contents=[(b.text, f"section-{n}") for _, n, b in blocks if isinstance(b, Heading) and b.level == 2],
            css=Markup(_source("report.css")),
            data=Markup(to_json(report)),
            plotly=Markup(get_plotlyjs()),
            draw=Markup(DRAW),
            policy=_policy(),
            generator=GENERATOR,
            blank=BLANK,
        )
    )
    return page.replace(BLANK, html_digest(page), 1)


def html_digest(page: str) -> str:
    """sha256 of the page as it was before its digest was written into it."""
    return hashlib.sha256(page.encode()).hexdigest()


def _chart(block: Figure) -> Chart:
    words = {n: chart_text(block.data[n]) for n in ("performance",) if n in block.data}
    figure = DRAWN[block.kind]({**block.data, **words}, block.title)
    layout: dict[str, Any] = {**json.loads(figure.to_json()), "config": figures.CONFIG}
    narrow = least_width(len(block.data["stage"])) if block.kind == "heat" else 0
    return Chart(Markup(canonical(layout)), figure.layout.height, narrow)


def _timeline(data: Mapping[str, Any], title: str) -> go.Figure:
    blocks: dict[str, tuple[tuple[int, int], ...]] = {}
    for name, start, stop in data["blocks"]:
        blocks[name] = (*blocks.get(name, ()), (start, stop))
    curves = {c: pd.Series(data[c], dtype=float) for c in glossary.CURVES if data[c]}
    frame = pd.DataFrame({"step": data["step"], "stage": data["stage"], **curves})
    return figures.stage_timeline([Stage(n, b) for n, b in blocks.items()], frame)


def _stages(data: Mapping[str, Any], title: str) -> go.Figure:
    columns = pd.DataFrame({c: data[c] for c in ("stage", "effect", "low", "high", "truth")})
    how = {"performance": data["performance"], "title": title, "meaning": data.get("meaning")}
    return figures.stage_bars(_floats(columns), data["unit"], **how)


def _steps(data: Mapping[str, Any], title: str) -> go.Figure:
    columns = pd.DataFrame({c: data[c] for c in ("step", "stage", "effect")})
    return figures.step_bars(columns.astype({"effect": float}), data["unit"], performance=data["performance"])


def _pairs(data: Mapping[str, Any], title: str) -> go.Figure:
    columns = pd.DataFrame({"stage": data["name"], "estimate": data["first"], "truth": data["second"]})
    frame = columns.astype({"estimate": float, "truth": float})
    return figures.compare_bars(frame, data["unit"], performance=data["performance"], words=data["words"], title=title)


def _scatter(data: Mapping[str, Any], title: str) -> go.Figure:
    columns = pd.DataFrame({c: data[c] for c in ("example", "estimate", "truth")})
    frame = columns.astype({"estimate": float, "truth": float})
    return figures.agreement_scatter(frame, data["unit"], performance=data["performance"])


def _split(data: Mapping[str, Any], title: str) -> go.Figure:
    cells = pd.DataFrame(product(data["stage"], data["part"]), columns=["stage", data["by"]])
    frame = cells.assign(effect=list(chain(*data["effect"]))).astype({"effect": float})
    return breakdown.split_bars(frame, data["by"], data["unit"], data["performance"], title)


def _path(data: Mapping[str, Any], title: str) -> go.Figure:
    shares = pd.DataFrame({c: data[c] for c in ("stage", "share")}).astype({"share": float})
    return breakdown.waterfall(shares, data["start"], data["unit"], data["performance"], title)


def _floats(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(dict.fromkeys(("effect", "low", "high", "truth"), float))


DRAWN: dict[str, Callable[[Mapping[str, Any], str], go.Figure]] = {
    "timeline": _timeline,
    "stages": _stages,
    "steps": _steps,
    "heat": lambda data, title: heat_map(**data, title=title),
    "pairs": _pairs,
    "scatter": _scatter,
    "split": _split,
    "path": _path,
}


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
    environment.filters |= {"formula": _formula, "command": _command}
    environment.tests["digest"] = lambda v: bool(re.fullmatch(r"[0-9a-f]{64}", str(v)))
    return environment


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _formula(text: str) -> Markup:
    """ "ξ_e" and "M_{K−1}" with real subscripts."""
    return Markup("").join(Markup("<sub>{}</sub>").format(t) if sub else escape(t) for t, sub in subscripts(text))


def subscripts(text: str) -> list[tuple[str, bool]]:
    """[(text, is it a subscript)]: "ξ_e" -> ξ, e."""
    parts = re.split(r"_(?:\{([^}]*)\}|(\w))", text)
    found: list[tuple[str, bool]] = []
    for i in range(0, len(parts), 3):
        found.append((parts[i], False))
        if i + 1 < len(parts):
            found.append((parts[i + 1] or parts[i + 2], True))
    return [(t, sub) for t, sub in found if t]


def _command(line: str) -> Markup:
    """A command that breaks between its options only, unless one is very long."""
    parts = visible(line).split(" --")
    shown = [
        Markup("<span>{}</span>").format(p) if len(p) < 60 else escape(p)
        for p in [parts[0], *(f"--{p}" for p in parts[1:])]
    ]
    return Markup(" ").join(shown)
