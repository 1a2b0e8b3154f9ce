"""What a what-if changes: stages, a range of steps or training examples; left out, scaled, or trained otherwise."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from dashboard import session
from dashboard.selection import CODECS, compress
from dashboard.shell import Context
from dashboard.words import literal, plural

Way = Literal["leave", "scale", "change"]
WAYS: dict[Way, str] = {"leave": "Leave out", "scale": "Scale", "change": "Train otherwise"}
HYPERS = {"lr": "Learning rate", "momentum": "Momentum", "weight_decay": "Weight decay"}
HALF = 50
SHOWN = 12
"""Training examples that are looked at beside their numbers."""


def changes(ctx: Context) -> None:
    """Which part of the training, and what is done to it."""
    way = _way(ctx)
    st.segmented_control(
        "What to do",
        WAYS,
        format_func=WAYS.__getitem__,
        required=True,
        label_visibility="collapsed",
        key="way",
        default=way,
        on_change=_turn,
    )
    with st.container(border=True, gap="xsmall"):
        for place, row in enumerate(ctx.desk.stage_notes().to_dict("records")):
            key = f"skip:{place}"
            st.session_state[key] = row["stage"] in ctx.selection.skip
            label = f"{literal(row['stage'])} · {plural(row['steps'], 'step')}"  # read out as it is written
            st.checkbox(label, key=key, on_change=_tick, args=(row["stage"], key))
    if way == "scale":
        _scale()
    elif way == "change":
        _hypers(ctx)
    _steps(ctx)
    if way != "change":
        _examples(ctx)


def _way(ctx: Context) -> Way:
    """What the selection says; an empty change is one that is only begun."""
    s = ctx.selection
    begun = st.session_state.get("way")
    return "change" if s.change else "scale" if s.scale else begun if begun == "change" else "leave"


def _turn() -> None:
    way = st.session_state["way"]
    session.update(scale=HALF if way == "scale" else 0, change=(), **({"without": ()} if way == "change" else {}))


def _tick(stage: str, key: str) -> None:
    kept = [s for s in session.current().skip if s != stage]
    session.update(skip=tuple([*kept, stage] if st.session_state[key] else kept))


def _scale() -> None:
    st.slider(
        "How much of it is left, %", 0, 200, step=5, **session.mirror("scale", read=lambda v: v + (v == 100)),
        help="0: as if left out; 50: half of each update; 200: twice. 100 would be the training as recorded.",
    )  # fmt: skip


def _hypers(ctx: Context) -> None:
    known = dict(ctx.selection.change)
    for place, hyper in enumerate(ctx.desk.facts().hypers):
        key = f"hyper:{place}"
        st.session_state[key] = known.get(hyper, "")
        st.text_input(
            HYPERS[hyper],
            placeholder="as recorded",
            key=key,
            max_chars=80,
            on_change=_changed,
            args=(hyper, key),
            help="`0.5x`: half of what was recorded; `0.01`: this value; `0.1 to 0` or `cosine 0.1 to 0`: a schedule.",
        )


def _changed(hyper: str, key: str) -> None:
    others = [c for c in session.current().change if c[0] != hyper]
    text = st.session_state[key].strip()
    session.update(change=tuple(sorted([*others, (hyper, text)] if text else others)))


def _steps(ctx: Context) -> None:
    last = ctx.desk.facts().steps - 1
    chosen = ctx.selection.leave
    with st.expander("A range of steps", icon=":material/linear_scale:", expanded=chosen is not None):
        st.session_state["leave:on"] = chosen is not None
        st.checkbox("Also these steps", key="leave:on", on_change=_range_on, args=(last,))
        if chosen is not None and last > 0:
            st.slider("First and last step", 0, last, **session.mirror("leave", read=tuple))


def _range_on(last: int) -> None:
    session.update(leave=(0, min(9, last)) if st.session_state["leave:on"] else None)


def _examples(ctx: Context) -> None:
    chosen = ctx.selection.without
    with st.expander("Training examples", icon=":material/image_search:", expanded=bool(chosen)):
        st.session_state["without:text"] = compress(chosen)
        st.text_input(
            "Training examples to leave out",
            key="without:text",
            placeholder="numbers, like 3,7,10-14",
            on_change=_typed,
            help="By their number in the run, from 0 on. Easier: open a step in Explore and click its examples.",
        )
        if chosen:
            looks = ctx.desk.training_shown(chosen[:SHOWN])
            pictures = [look["src"] for look in looks if "src" in look]
            if pictures:
                st.image(pictures, width=44)
            for look in looks if ctx.desk.has_words else ():
                st.caption(literal(look["text"]))
            st.caption(f"{plural(len(chosen), 'example')}, each time they were used.")


def _typed() -> None:
    text = st.session_state["without:text"].replace(" ", "")
    try:
        session.update(without=CODECS["without"].parse([text]) if text else ())
    except ValueError as error:
        session.note(f"training examples: expected {error}")
