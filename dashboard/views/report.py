"""Report: what goes into it, what it says, and the files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial

import streamlit as st

from dashboard import feedback, tables
from dashboard.activity import describe
from dashboard.service import Report, glossary, report_of, retraining, to_html, to_json, to_zip
from dashboard.shell import Context
from dashboard.words import OPTIONS, performance_words, subject

FORMATS: tuple[tuple[str, str, str, str, Callable[[Report], str | bytes]], ...] = (
    ("HTML report", "html", "text/html", "One page, opens offline in any browser.", to_html),
    ("JSON", "json", "application/json", "The canonical record, with digests of its parts.", to_json),
    ("Everything as ZIP", "zip", "application/zip", "Page, record and CSV tables, with checksums.", to_zip),
)


def render(ctx: Context) -> None:
    """Contents, summary, downloads."""
    st.title("Report", anchor=False)
    if ctx.desk.run.evaluation is None:
        feedback.empty("No evaluation set", "This run was recorded without one: there is nothing to report on.")
        return
    if not len(ctx.desk.rows(ctx.selection)):
        feedback.empty("No example passes the filters", "Change the filters in Explore, then come back.")
        return
    left, right = st.columns([2, 3], gap="large")
    with left:
        with_steps = _contents(ctx)
    with right, feedback.refusals():
        with feedback.working("Computing the effects for the report") as progress:
            report = report_of(ctx.desk, ctx.selection, with_steps, date.today().isoformat(), progress)
        _summary(report)
        _downloads(ctx, report)


def _contents(ctx: Context) -> bool:
    """What the report is about; returns whether steps are part of it."""
    s, desk = ctx.selection, ctx.desk
    st.markdown("**What goes into it**")
    rows = [
        ("Run", desk.run.title or desk.entry.id),
        ("Examples", subject(s, len(desk.rows(s)), desk.facts().examples)),
        ("Performance", performance_words(s.performance)),
        ("Estimator", ", ".join(OPTIONS[v] for v in (s.method, s.curvature, s.readout, s.semantics))),
        *[("Retraining", "; ".join(describe(job))) for job in retraining.past(desk) if not job.living],
    ]
    st.html(tables.facts(rows, "list"))
    if not retraining.past(desk):
        st.caption(
            ":material/info: No stage was retrained yet, so the report says “estimate only”. Verify stages in What-if."
        )
    return st.toggle("Include the effect of every step", value=True)


def _summary(report: Report) -> None:
    status = glossary.STATUS[report.answer.status]
    st.markdown(f"**What it says** :gray-badge[{status}]")
    with st.container(border=True):
        st.text(report.question)
        for line in report.answer.lines:
            st.text(line)
    st.caption(f"Digest of this report `{report.digest[:12]}`: `aa report verify` checks that no digit was changed.")


def _downloads(ctx: Context, report: Report) -> None:
    name = ctx.desk.entry.id.replace("/", "-")
    for label, suffix, mime, words, write in FORMATS:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.download_button(
                label,
                partial(write, report),
                f"{name}-report.{suffix}",
                mime,
                key=f"download:{suffix}",
                icon=":material/download:",
                on_click="ignore",
                type="primary" if suffix == "html" else "secondary",
                width=190,
            )
            st.caption(words)
