"""Strings of other people, made harmless for the program that will show them."""

from __future__ import annotations

import html
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A CSV cell that no spreadsheet runs: text that starts like a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def visible(text: Any) -> str:
    """Text in which control and direction characters (U+202E and the like) are spelled out, not obeyed."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else f"\\u{ord(c):04x}" for c in str(text))


def chart_text(text: Any) -> str:
    """Text for a plotly label, which reads a little HTML: shown literally, no link, no markup."""
    return html.escape(visible(text), quote=False)


def shorten(text: Any, length: int) -> str:
    """At most `length` characters, the middle left out: names often differ at their end."""
    text = visible(text)
    keep = length - 1
    return (
        text if len(text) <= length else f"{text[: keep - keep // 3].rstrip()}…{text[len(text) - keep // 3 :].lstrip()}"
    )
