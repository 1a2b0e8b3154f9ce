"""Tables as HTML with every string escaped: real table markup, aligned figures, a signed bar in the row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pandas as pd

from dashboard.light import glossary
from dashboard.words import escaped


def facts(pairs: Sequence[tuple[str, str]], kind: Literal["strip", "list"] = "strip") -> str:
    """Label over value, side by side; or label beside value, one a line."""
    cells = "".join(f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="aa-facts {kind}">{cells}</dl>'


def stage_table(frame: pd.DataFrame, unit: str, caption: str) -> str:
    """frame: stage, steps, note, effect [, optimizer, examples, uses, low, high, truth]. One row a stage, its effect as
    figure and bar; truth is what retraining measured, NaN where it was not done."""
    scale = glossary.scale_of(frame["effect"])
    intervals, truths = "low" in frame, "truth" in frame
    head = [
        "<th>Stage</th>",
        "<th>What it was</th>",
        *(['<th class="more">Optimizer</th>'] if "optimizer" in frame else []),
        '<th class="n more">Steps</th>',
        *(['<th class="n more">Examples</th>'] if "examples" in frame else []),
        f'<th class="n">Effect, {escaped(unit)}</th>',
        '<th class="b"></th>',
    ]
    head += ['<th class="n">95 % interval</th>'] if intervals else []
    head += ['<th class="n">Retrained</th>'] if truths else []
    rows = "".join(_stage_row(row, scale) for row in frame.to_dict("records"))
    return (
        f'<div class="aa-scroll"><table class="aa-table"><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def rungs(items: Sequence[tuple[str, str, bool]]) -> str:
    """What may be trusted: (word, question, trusted) side by side, each said by sign and word."""
    cells = "".join(
        f'<div class="{"yes" if ok else "no"}"><dt>{escaped(word)}</dt>'
        f"<dd>{'✓ trust' if ok else '✕ do not trust'}</dd><dd class='muted'>{escaped(question)}</dd></div>"
        for word, question, ok in items
    )
    return f'<dl class="aa-rungs">{cells}</dl>'


def scores(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str], Sequence[str]]], caption: str) -> str:
    """Rows of (name, marks, figures) under their headings."""
    marked = [
        (escaped(name) + "".join(f" <span class=aa-mark>{escaped(m)}</span>" for m in marks), cells)
        for name, marks, cells in rows
    ]
    return _figures(head, marked, caption)


def linked(head: Sequence[str], rows: Sequence[tuple[str, str, Sequence[str]]], caption: str) -> str:
    """Rows of (name, address or "", figures) under their headings; a name with an address is a link."""
    named = [
        (f'<a href="{escaped(address)}">{escaped(name)}</a>' if address else escaped(name), cells)
        for name, address, cells in rows
    ]
    return _figures(head, named, caption)


def _figures(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], caption: str) -> str:
    """Rows of (name as HTML, figures)."""
    first, *others = head
    titles = f"<th>{escaped(first)}</th>" + "".join(f'<th class="n">{escaped(h)}</th>' for h in others)
    body = "".join(
        f"<tr><th scope='row'>{name}</th>" + "".join(f"<td class='n'>{escaped(cell)}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    return (
        f'<div class="aa-scroll"><table class="aa-table"><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _stage_row(row: dict[str, object], scale: float) -> str:
    effect = float(row["effect"])  # type: ignore[arg-type]
    unsure = "<span class='aa-unsure'>sign unsure</span>" if row.get("unsure") else ""
    cells = [
        f"<th scope='row'>{escaped(row['stage'])}</th>",
        f"<td class='muted'>{escaped(row['note'])}</td>",
        *([f"<td class='muted more'>{escaped(row['optimizer'])}</td>"] if "optimizer" in row else []),
        f"<td class='n more'>{glossary.fmt_count(row['steps'])}</td>",  # type: ignore[arg-type]
        *([_examples(row)] if "examples" in row else []),
        f"<td class='n'>{unsure}{glossary.fmt_effect(effect, scale)}</td>",
        f"<td class='b'>{bar(effect, scale)}</td>",
    ]
    if "low" in row:
        cells.append(f"<td class='n muted'>{glossary.fmt_interval(row['low'], row['high'], scale)}</td>")  # type: ignore[arg-type]
    if "truth" in row:
        truth = float(row["truth"])  # type: ignore[arg-type]
        cells.append(f"<td class='n'>{'–' if math.isnan(truth) else glossary.fmt_effect(truth, scale)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _examples(row: dict[str, object]) -> str:
    """How many different ones, and how often one was used."""
    distinct, uses = (glossary.fmt_count(row[name]) for name in ("examples", "uses"))  # type: ignore[arg-type]
    return f"<td class='n more'>{distinct} distinct<br>{uses} uses</td>"


def bar(effect: float, scale: float) -> str:
    """A bar from the middle: to the right and plain if positive, to the left and hatched if negative."""
    share = 50 * abs(effect) / scale if scale else 0.0
    start = 50 - share if effect < 0 else 50
    kind = "hurt" if effect < 0 else "helped"
    style = f"left:{start:.1f}%;width:{share:.1f}%"
    return f'<span class="aa-bar" aria-hidden="true"><span class="{kind}" style="{style}"></span></span>'
