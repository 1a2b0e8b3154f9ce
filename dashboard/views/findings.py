"""Findings: what was claimed of this run, what each claim rests on, and who answers for it."""

from __future__ import annotations

import streamlit as st

from dashboard import feedback, shell, tables
from dashboard.activity import SIGN
from dashboard.light import glossary
from dashboard.pin import EXTENTS, NAME, signature_fields, signed, your_name
from dashboard.service import acts, ledger, people
from dashboard.shell import Context
from dashboard.words import literal, when

STANDINGS = {
    "estimate only": (":gray-badge[:material/help: Estimate only]"),
    "confirmed by retraining": (":green-badge[:material/check: Confirmed by retraining]"),
    "refuted by retraining": (":red-badge[:material/close: Refuted by retraining]"),
}
COLOURS = {"low": "gray", "medium": "blue", "high": "orange", "critical": "red"}


def render(ctx: Context) -> None:
    """Newest first."""
    st.title("Findings", anchor=False)
    found = ledger.listed(ctx.desk)
    if not found:
        feedback.empty("No findings yet", "Pin one in Explore or What-if: it is entered with all that it rests on.")
        return
    if people.may_work():
        your_name("Your name, as it is entered beside what you do here", width=420)
    for finding in found:
        with st.container(border=True):
            _finding(ctx, finding)


def _finding(ctx: Context, f: ledger.Finding) -> None:
    added, evidence = f.added, f.added.evidence
    with st.container(horizontal=True, vertical_alignment="top"):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"**{f.id} · {literal(added.claim)}**")
            severity = f":{COLOURS[added.severity]}-badge[{added.severity.capitalize()}]"
            st.markdown(f"{STANDINGS[f.standing]} {severity}")
        screen = "Explore" if ledger.in_explore(evidence) else "What-if"
        view = ledger.reopened(ctx.desk, f)
        if view is not None:
            shell.link(screen, "Open", view)
    if view is None:
        st.caption(
            f"It opens no more: its subgroup is not saved here, and {evidence.n:,} examples are too many for a link."
        )
    changed = ledger.changed(ctx.desk, f)
    if changed:
        feedback.refusal("\n".join(changed), "The inputs have changed since it was entered")
    st.html(tables.facts(_facts(f), "list"))
    with st.container(horizontal=True), feedback.refusals():
        if people.may_work():
            if f.checked is None and not changed:
                _check(ctx, f)
            _sign(ctx, f)


def _facts(f: ledger.Finding) -> list[tuple[str, str]]:
    evidence = f.added.evidence
    means = glossary.sign() if evidence.counterfactual.skips_stages else SIGN
    size = f"{glossary.fmt_effect(evidence.effect)} {evidence.unit}, mean over n = {evidence.n:,}; {means}"
    rows = [
        ("Question", ledger.question(evidence)),
        ("Estimated effect", size),
        ("Estimator", f"{evidence.method}, {evidence.curvature}, {evidence.readout}"),
        ("Reliability", evidence.reliability),
        ("Claim is about", EXTENTS[f.added.extent]),
    ]
    if f.checked:
        rows.append(("Retrained", f"{glossary.fmt_effect(f.checked.effect)} {evidence.unit} (job {f.checked.job})"))
        rows.append((f.checked.kind.capitalize(), f"{when(f.checked_at)}, {f.checked_by}"))
    if f.added.recommendation:
        rows.append(("Recommendation", f.added.recommendation))
    rows += [("Signed off", s.words) for s in f.signatures]
    return [*rows, ("Entered", f"{when(f.at)}, {f.by}")]


def _check(ctx: Context, f: ledger.Finding) -> None:
    """Retrain the very question; then enter what the retraining says."""
    found = ledger.says(ctx.desk, f)
    if found is None:
        spec = ledger.retraining_of(ctx.desk, f)
        job = acts.job_of(spec)
        if job is None:
            feedback.start("Retrain to check", spec, key=f"retrain:{f.id}", type="primary")
        else:
            feedback.follow(job)
        return
    says, _, truth = found
    measured = f"{glossary.fmt_effect(truth)} {f.added.evidence.unit}"
    if says == "neither":
        st.caption(f"The retraining measured {measured}: it neither confirms nor refutes the claim.")
        return
    label = f"Enter as {says} (retrained {measured})"
    if st.button(label, key=f"settle:{f.id}", icon=":material/gavel:", type="primary"):
        ledger.settle(ctx.desk, f, says, _name())
        st.rerun()


def _sign(ctx: Context, f: ledger.Finding) -> None:
    with st.popover("Sign off", icon=":material/draw:"), st.form(f"sign:{f.id}", border=False):
        said = signature_fields()
        if st.form_submit_button("Sign off", type="primary") and (signature := signed(said)):
            ledger.sign_off(ctx.desk, f, signature, _name())
            st.rerun()


def _name() -> str:
    return str(st.session_state.get(NAME, "")).strip() or "dashboard"
