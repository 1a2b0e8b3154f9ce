"""Report: what goes into it, what it says, and the files."""

from __future__ import annotations

from datetime import date

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import feedback, tables
from dashboard.activity import describe
from dashboard.light import glossary
from dashboard.pin import NAME, signature_fields, signed
from dashboard.service import About, Report, estimates, exporting, formats, ledger, parts, report_of, retraining
from dashboard.shell import Context
from dashboard.words import OPTIONS, performance_words, plural, subject

FORMATS = {
    "html": ("HTML report", "text/html", "One page, opens offline in any browser."),
    "pdf": ("PDF", "application/pdf", "For print and screen readers; the data are attached."),
    "json": ("JSON", "application/json", "The canonical record, with a digest of every field."),
    "zip": ("Everything as ZIP", "application/zip", "Page, record, CSV tables and (if installed) PDF; checksums."),
}
STATEMENTS = {
    "auditor": "Auditor",
    "role": "Role",
    "organisation": "Organisation",
    "independence": "Independence: what ties you to whoever trained the model",
    "access": "Access: what you could see and run",
    "purpose": "Purpose: which decision this serves",
    "intended_use": "Intended use of the system",
    "out_of_scope": "Out of scope",
    "review": "Review: who challenged it",
}
"""What only the auditor can say: fields of the report's `About`."""


def render(ctx: Context) -> None:
    """Contents, summary, downloads."""
    st.title("Report", anchor=False)
    if ctx.desk.run.evaluation is None:
        feedback.no_evaluation("there is nothing to report on.")
        return
    if not len(ctx.desk.rows(ctx.selection)):
        feedback.empty("No example passes the filters", "Change the filters in Explore, then come back.")
        return
    left, right = st.columns([2, 3], gap="large")
    with feedback.refusals(), left:
        with_steps = _contents(ctx)
        about = _about()
        _made(ctx, right, with_steps, about)


def _made(ctx: Context, place: DeltaGenerator, with_steps: bool, about: About) -> None:
    """The report of all that, and its downloads; nothing where the left half was refused."""
    with place, feedback.refusals():
        with feedback.working("Computing the effects for the report") as progress:
            report = report_of(ctx.desk, ctx.selection, with_steps, about, date.today().isoformat(), progress)
        _summary(report)
        _downloads(ctx, report)


def _contents(ctx: Context) -> bool:
    """What the report is about; returns whether steps are part of it."""
    s, desk = ctx.selection, ctx.desk
    st.markdown("**What goes into it**")
    rows = [
        ("Run", desk.run.title or desk.entry.id),
        ("Examples", subject(desk, s)),
        ("Performance", performance_words(s.performance)),
        ("Estimator", _estimator(ctx)),
        *[("Retraining", "; ".join(describe(job))) for job in retraining.past(desk) if not job.living],
        *[(f"From {part.screen}", part.words) for part in parts(desk, s)],
    ]
    if desk.has_steps:
        found = ledger.listed(desk)
        rows.append(("Findings", plural(len(found), "finding") if found else "none entered"))
    st.html(tables.facts(rows, "list"))
    return desk.has_steps and st.toggle("Include the effect of every step", value=True)


def _estimator(ctx: Context) -> str:
    s = ctx.selection
    if ctx.desk.has_steps:
        return ", ".join(OPTIONS[v] for v in (s.method, s.curvature, s.readout, s.semantics))
    known = ", ".join(OPTIONS[v] for v in (estimates.segment_curvature(s), s.readout, s.semantics))
    return f"Approximated from checkpoints: {known}"


def _about() -> About:
    """The auditor's own statements; they stay while this tab is open."""
    with st.expander("What only you can say", icon=":material/draw:"):
        st.caption("Printed as it is. What is left out is printed as “Not stated”.")
        st.session_state.setdefault("about:auditor", st.session_state.get(NAME, ""))
        said = {name: st.text_input(label, key=f"about:{name}", max_chars=2_000) for name, label in STATEMENTS.items()}
        st.markdown("**Sign-off**")
        typed = signature_fields("about:sign_off")
        signature = signed(typed) if any(typed.values()) else None
    about = About.model_validate({name: text.strip() for name, text in said.items()})
    return about.model_copy(update={"sign_off": () if signature is None else (signature,)})


def _summary(report: Report) -> None:
    status = glossary.STATUS[report.answer.status]
    st.markdown(f"**What it says** :gray-badge[{status}]")
    with st.container(border=True):
        st.text(report.question)
        for line in (*report.answer.lines, report.answer.confidence):
            st.text(line)
    if report.run.known == "checkpoints":
        st.caption(":material/info: Nothing of this can be checked by retraining: the steps are not known.")
    elif report.answer.status == "estimate":
        st.caption(":material/info: Nothing of this was checked by retraining yet. Verify stages in What-if.")
    st.caption(
        f"Digest of this report `{report.digest[:12]}`: `aa report verify` finds a changed digit and names the field, "
        "`aa report sign` signs it with your key."
    )


def _downloads(ctx: Context, report: Report) -> None:
    name = ctx.desk.entry.id.replace("/", "-")
    for suffix in formats():
        label, mime, words = FORMATS[suffix]
        with st.container(horizontal=True, vertical_alignment="center"):
            st.download_button(
                label,
                exporting(ctx.desk, report, suffix),
                f"{name}-report.{suffix}",
                mime,
                key=f"download:{suffix}",
                icon=":material/download:",
                on_click="ignore",
                type="primary" if suffix == "html" else "secondary",
                width=190,
            )
            st.caption(words)
    if "pdf" not in formats():
        st.caption(":material/info: For PDF, in the project's folder: `pip install -e '.[pdf]'`")
