"""Examples as a grid of pictures to pick from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import streamlit as st

ASSETS = Path(__file__).parent / "assets"
PAGE = 48

_grid = st.components.v2.component(
    "examples",
    html='<div class="grid" role="group"></div>',
    css=(ASSETS / "gallery.css").read_text("utf-8"),
    js=(ASSETS / "gallery.js").read_text("utf-8"),
)


def gallery(
    items: list[dict[str, Any]],
    label: str,
    key: str,
    picked: Callable[[tuple[int, ...], bool, bool], None],
    click: Literal["replaces", "adds"] = "replaces",
) -> None:
    """A grid; `picked(ids, add, on)` is called with what was clicked: add to the selection or replace it, on or off.

    A plain click replaces what is picked, unless it `adds`; Ctrl, Cmd, Shift and the corner always add.
    """

    def clicked() -> None:
        value = _clean(st.session_state[key].get("picked"), {item["id"] for item in items})
        if value:
            picked(*value)

    count = sum(item["picked"] for item in items)
    _grid(
        key=key,
        data={"items": items, "label": label, "picked": count, "adding": click == "adds"},
        on_picked_change=clicked,
    )


def _clean(value: Any, known: set[int]) -> tuple[tuple[int, ...], bool, bool] | None:
    """What the browser sent, if it is what our grid sends."""
    if not isinstance(value, dict) or not isinstance(value.get("ids"), list):
        return None
    return tuple(i for i in value["ids"] if i in known), bool(value.get("add")), bool(value.get("on"))
