"""What a step was trained on, ranked by what each example did."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import feedback, session, shell
from dashboard.gallery import gallery
from dashboard.light import glossary
from dashboard.service import estimates
from dashboard.shell import Context
from dashboard.words import literal, plural, subject

SHOWN = 96
HEIGHT = 350
ORDERS = {"helped": "Helped most", "hurt": "Hurt most", "batch": "As in the batch"}


def batch(ctx: Context, step: int, effect: float, unit: str) -> None:
    """The training examples of a step, each with its effect on the examples that are picked."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Step {step:,}: {glossary.fmt_effect(effect)} {literal(unit)}**", width="stretch")
        st.button("Close", icon=":material/close:", type="tertiary", on_click=session.update, kwargs={"steps": None})
    if examples := len(ctx.desk.batch(step)):
        st.caption(f"It trained on these {plural(examples, 'example')}; the labels are those of the training.")
    with feedback.refusals():
        with feedback.working("Walking back to these training examples") as progress:
            found = estimates.batch(ctx.desk, ctx.selection, step, progress)
        _ranked(ctx, step, effect, found.frame, found.unit)
        feedback.believe(found.belief)


def _ranked(ctx: Context, step: int, effect: float, frame: pd.DataFrame, unit: str) -> None:
    first = "hurt" if effect < 0 else "helped"  # what one wants to know of a step is why it did that
    order = st.segmented_control(
        "Order", ORDERS, format_func=ORDERS.__getitem__, default=first, required=True, key=f"batch:order:{first}",
        label_visibility="collapsed",
    )  # fmt: skip
    if order != "batch":
        frame = frame.sort_values("effect", ascending=order == "hurt", kind="stable")
    shown, power = frame.head(SHOWN), _power(frame["effect"])
    looks = ctx.desk.training_shown(tuple(shown["row"].tolist()))
    items = [_item(ctx, r, look, power) for r, look in zip(shown.to_dict("records"), looks, strict=True)]
    with st.container(height=HEIGHT, border=False):
        gallery(items, f"Training examples of step {step}", "batch", _pick, "adds")
    more = "" if len(shown) == len(frame) else f" The first {len(shown)} are shown."
    total, judges = glossary.fmt_effect(float(frame["effect"].sum())), literal(subject(ctx.desk, ctx.selection))
    unit, small = literal(unit), f"{glossary.power_of_ten(power)} " if power else ""
    st.caption(
        f"Below each, in {small}{unit}: what it did to {judges}; positive = learning from it here helped. They add up "
        f"to {total} {unit}: what the data of this step did, without the momentum that was carried into it.{more} "
        "Click one to leave it out in What-if."
    )
    _chosen(ctx)


def _item(ctx: Context, row: dict[str, Any], look: dict[str, str], power: int) -> dict[str, Any]:
    shown, effect = glossary.fmt_effect(row["effect"] / 10**power, 1), glossary.fmt_effect(row["effect"])
    word = "helped" if row["effect"] > 0 else "hurt" if row["effect"] < 0 else "did nothing"
    return look | {
        "id": row["row"],
        "lines": [["as", row["label"], ""], ["▲" if row["effect"] > 0 else "▼", shown, ""]],
        "tone": "helped" if row["effect"] > 0 else "hurt",
        "picked": row["row"] in ctx.selection.without,
        "title": f"Training example {row['id']}, trained as {row['label']}: {word}, {effect}",
    }


def _power(effects: pd.Series) -> int:
    """The power of ten that tiles leave out: effects of single examples are small."""
    scale = glossary.scale_of(effects)
    return math.floor(math.log10(scale)) if 0 < scale < 0.01 else 0


def _pick(ids: tuple[int, ...], add: bool, on: bool) -> None:
    """Put these training examples among those that a what-if leaves out; or take them back."""
    before = set(session.current().without)
    session.update(without=tuple(sorted(before | set(ids) if on else before - set(ids))))


def _chosen(ctx: Context) -> None:
    """The picked training examples, by number: the keyboard's way, and the way on."""
    s = ctx.selection
    if not s.without:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        asked = replace(s, skip=(), leave=None, change=(), scale=0)
        these = "this one" if len(s.without) == 1 else f"these {len(s.without)}"
        shell.link("What-if", f"What if without {these}?", asked, icon=":material/alt_route:")
        st.button("Forget them", type="tertiary", on_click=session.update, kwargs={"without": ()})
