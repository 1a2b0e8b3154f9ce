"""What is on screen becomes a finding: one button for every screen that shows effects of stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import feedback
from dashboard.light import glossary
from dashboard.service import Counterfactual, ledger, people, retraining
from dashboard.shell import Context
from dashboard.words import literal, subject

SEVERITIES: tuple[ledger.Severity, ...] = ("low", "medium", "high", "critical")
EXTENTS: dict[ledger.Extent, str] = {"sign": "It helped or hurt", "size": "By how much"}
NAME = "auditor:name"
SIGNATURE = ("name", "role", "date", "statement")
_KEPT = "auditor:kept"
_ENTERED = "pin:entered"
_OPEN = "pin:open"
Effects = Mapping[Counterfactual, float]
"""{what is left out, scaled or changed: its mean effect}."""


def pin(ctx: Context, effects: Effects, unit: str, reliability: str) -> None:
    """A button that enters a claim about one of these effects into the ledger of findings.

    `effects` are means over the selected examples, `reliability` is the verdict on them, in words.
    """
    if not effects or not ledger.possible(ctx.desk) or not people.may_work():
        return
    if entered := st.session_state.pop(_ENTERED, None):
        st.session_state[_OPEN] = False
    with st.popover("Pin as finding", icon=":material/push_pin:", key=_OPEN, on_change="rerun"):
        _form(ctx, effects, unit, reliability)
    if entered:
        st.toast(f"{entered} is in the ledger; see Findings.", icon=":material/push_pin:")


def _form(ctx: Context, effects: Effects, unit: str, reliability: str) -> None:
    largest = max(effects, key=lambda what: abs(effects[what]))
    options = [largest, *(what for what in effects if what != largest)]
    with st.form("pin", border=False):
        what = st.selectbox(
            "About", options, format_func=lambda w: f"{_named(w)}: {glossary.fmt_effect(effects[w])} {unit}"
        )
        claim = st.text_area("Claim", placeholder=_example(ctx, largest, effects[largest]), max_chars=1_000, height=80)
        left, middle, right = st.columns([3, 4, 4])  # in one row: the button below must be seen at once
        severity = left.selectbox("Severity", SEVERITIES, index=1)
        extent = middle.selectbox("The claim is about", list(EXTENTS), format_func=EXTENTS.__getitem__)
        with right:
            name = your_name("Your name")
        advice = st.text_area("Recommendation", max_chars=5_000, height=68)
        st.caption(f":material/info: {literal(reliability)} It is entered as an estimate; a retraining can confirm it.")
        if st.form_submit_button("Enter into the ledger", type="primary") and _complete(claim, name):
            with feedback.refusals():
                evidence = ledger.pinned(ctx.desk, ctx.selection, what, effects[what], unit, reliability)
                st.session_state[_ENTERED] = ledger.enter(
                    ctx.desk, evidence, claim.strip(), severity, extent, advice.strip(), name.strip()
                ).id
                st.rerun()


def your_name(label: str, **look: Any) -> str:
    """Who enters something: typed, unless people sign in."""
    if (person := people.who()) and people.signs_in():
        st.session_state[NAME] = person.name
    st.session_state.setdefault(NAME, st.session_state.get(_KEPT, ""))  # Streamlit forgets it with the page it was on
    name = st.text_input(label, key=NAME, max_chars=200, disabled=people.signs_in(), **look)
    st.session_state[_KEPT] = name
    return name


def signature_fields(key: str = "") -> dict[str, str]:
    """Name, role, date and statement of whoever signs off, as typed; with a key they stay while this tab is open."""
    keys = {name: f"{key}:{name}" if key else None for name in SIGNATURE}
    said = {name: st.text_input(name.capitalize(), key=keys[name], max_chars=200) for name in SIGNATURE[:3]}
    statement = st.text_area("Statement", key=keys["statement"], max_chars=5_000, height=68)
    st.caption("A typed name is a statement, not a proof: the report can be signed with a key.")
    return {name: text.strip() for name, text in {**said, "statement": statement}.items()}


def signed(said: Mapping[str, str]) -> ledger.Signature | None:
    """What was typed as a signature; None, with a box that says so, where name, role or date is missing."""
    if all(said[name] for name in SIGNATURE[:3]):
        return ledger.Signature(**said)
    feedback.refusal("Write name, role and date.", "Not signed yet")
    return None


def _named(what: Counterfactual) -> str:
    """Whole stages by their names, which is what helped or hurt; anything else by what was changed."""
    return glossary.listed(what.stages) if what.skips_stages else retraining.words(what)


def _example(ctx: Context, what: Counterfactual, effect: float) -> str:
    s = ctx.selection
    on = subject(ctx.desk, s)
    if what.skips_stages:
        mean = "on average over" if len(ctx.desk.rows(s)) > 1 else "on"
        return f"{_named(what)} {'helped' if effect > 0 else 'hurt'} {mean} {on}."
    return f"{_named(what)}: the model would be {'worse' if effect > 0 else 'better'} on {on}."


def _complete(claim: str, name: str) -> bool:
    missing = [what for what, text in (("a claim", claim), ("your name", name)) if not text.strip()]
    if missing:
        feedback.refusal(f"Write {glossary.listed(missing)}.", "Not entered yet")
    return not missing
