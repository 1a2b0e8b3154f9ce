"""Subgroups: which stage helped or hurt which group of examples, and by how much more than another."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard import charts, feedback, filters, plots, session, shell, tables
from dashboard.browser import picked_examples
from dashboard.light import figures, glossary
from dashboard.selection import FILTERS, NOTHING
from dashboard.service import groups, slices
from dashboard.service.groups import Group
from dashboard.shell import Context
from dashboard.words import chart_text, judged, literal, plural

NAME = "subgroup:name"
LONGEST = 60
"""Characters of a subgroup's name."""


def render(ctx: Context) -> None:
    """Build and save, then compare."""
    st.title("Subgroups", anchor=False)
    if ctx.desk.run.evaluation is None:
        feedback.no_evaluation("there are no examples to group.")
        return
    with feedback.refusals():
        _builder(ctx)
    with feedback.refusals():
        _compared(ctx)


# ---- building --------------------------------------------------------------------------------------------------------


def _builder(ctx: Context) -> None:
    filters.filters(ctx)
    picked_examples(ctx, "Pick single examples by number, in Explore or here")
    s, desk = ctx.selection, ctx.desk
    total = desk.facts().examples
    rows = desk.members(slices.picks_of(s)) if s.examples or s.filtered else desk.rows(s)
    table = desk.predictions().iloc[rows]
    st.html(
        tables.facts(
            [
                ("In this group", f"{len(rows):,} of {total:,} ({glossary.fmt_percent(len(rows) / max(total, 1))})"),
                ("Accuracy of the final model", desk.accuracy(rows)),
                ("True labels", f"{table['label'].nunique()} of {desk.facts().classes}"),
            ]
        )
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.text_input(
            "Name",
            placeholder="Name of the subgroup",
            key=NAME,
            max_chars=LONGEST,
            label_visibility="collapsed",
            width=260,
        )
        feedback.for_analysts(
            "Save subgroup",
            _save,
            ctx,
            icon=":material/bookmark_add:",
            disabled=not (len(rows) and (s.examples or s.filtered)),
            help="Keeps what picks the examples, not the examples: the link to it is a digest of that.",
        )
    _saved(ctx)


def _save(ctx: Context) -> None:
    s = session.current()
    name = st.session_state[NAME].strip() or "Unnamed subgroup"
    digest = slices.save(ctx.desk.evaluation_digest, s, name, ctx.desk.run.digest)
    cleared = {f: getattr(NOTHING, f) for f in ("examples", *FILTERS)}
    session.update(**{**cleared, "slice": digest, "by": groups.SAVED})


def _saved(ctx: Context) -> None:
    for digest, name in ctx.desk.facts().slices.items():
        size = len(groups.rows_of(ctx.desk, {"slice": digest}))
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"**{literal(name)}** :small[:gray[{plural(size, 'example')}]] `{digest}`", width="stretch")
            used = ctx.selection.slice == digest
            st.button(
                "In use" if used else "Use",
                key=f"use:{digest}",
                disabled=used,
                on_click=session.update,
                kwargs={"slice": digest, "examples": ()},
            )
            shell.link(
                "Explore", "Explore", replace(ctx.selection.everything, slice=digest), icon=":material/grid_view:"
            )
            feedback.for_analysts(
                "Forget", _forget, digest, ctx.desk.run.digest, key=f"forget:{digest}", type="tertiary"
            )


def _forget(digest: str, run: str) -> None:
    slices.forget(digest, run)
    if session.current().slice == digest:
        session.update(slice="")


# ---- comparing -------------------------------------------------------------------------------------------------------


def _compared(ctx: Context) -> None:
    st.subheader("What each stage did to each group", anchor=False)
    options = groups.columns(ctx.desk)
    by = groups.chosen(ctx.desk, ctx.selection)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Groups by",
            options,
            format_func=lambda c: c or "saved subgroups",
            width=260,
            **session.mirror("by", show=by),
        )
    found = groups.groups_by(ctx.desk, by)
    if not found:
        feedback.empty(
            "No subgroup is saved yet", "Set filters or pick examples above and save them, or group by a column."
        )
        return
    with feedback.working("Replaying the training to embed its stages") as progress:
        cells = groups.cells(ctx.desk, ctx.selection, found, progress)
    figure = plots.effect_map(cells.frame, cells.unit)
    words = "; ".join(f"{r.group}, {r.stage} {r.effect:+.3g}" for r in cells.frame.head(60).itertuples())
    charts.show(figure, "map", f"Mean effect of each stage on each group. {words}")
    few = any(g.size < groups.FEWEST for g in found)
    st.caption(
        f"Mean effect on the {literal(judged(ctx.selection))}, {literal(cells.unit)}; {glossary.sign()}. "
        "In brackets: the 95 % bootstrap interval over the group’s examples includes zero. Question mark: the readouts "
        "disagree in its sign." + (f" Groups of fewer than {groups.FEWEST} have no interval." if few else "")
    )
    if cells.counted > 1:
        st.caption(
            f":material/info: {plural(cells.counted, 'interval')} are compared here. {cells.apart} leave out zero one "
            f"by one, where about {glossary.by_chance(cells.counted)} would by chance if no stage did anything; "
            f"{cells.apart_corrected} still do when all have to hold together (Bonferroni)."
        )
    if by == groups.SAVED:
        meant = (f"**{literal(g.name)}**: {literal(groups.defined(ctx.desk, g))}" for g in found)
        st.caption(f":material/filter_alt: {', '.join(meant)}")
    feedback.believe(cells.belief)
    with st.expander("As a table"):
        unit = glossary.unit_words(cells.unit)
        st.dataframe(
            cells.frame[["group", "n", "stage", "effect", "low", "high", "unsure"]],
            hide_index=True,
            column_config={
                "group": "Group",
                "n": "Examples, n",
                "stage": "Stage",
                "effect": f"Mean effect, {unit}",
                "low": f"95 % from, {unit}",
                "high": f"95 % to, {unit}",
                "unsure": "Sign unsure",
            },
        )
    _gap(ctx, found)


def _gap(ctx: Context, found: list[Group]) -> None:
    s, names = ctx.selection, [g.name for g in found]
    chosen = groups.two(s, names)
    if chosen is None:
        return
    first, second = chosen
    st.subheader("Gap between two groups", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Group", names, width=260, **session.mirror("first", show=first))
        st.selectbox("against", [n for n in names if n != first], width=260, **session.mirror("second", show=second))
    one, two = (next(g for g in found if g.name == n) for n in (first, second))
    with feedback.working("Comparing") as progress:
        gap = groups.gap(ctx.desk, s, one, two, progress)
    figure = figures.stage_bars(gap.frame, gap.unit, performance=f"{chart_text(judged(s))}, first minus second")
    words = "; ".join(f"{r.stage} {r.effect:+.3g}" for r in gap.frame.itertuples())
    charts.show(figure, "gap", f"Effect on {first} minus effect on {second}, by stage: {words}")
    st.caption(
        f"Mean effect on “{literal(first)}” ({one.size:,}) minus that on “{literal(second)}” ({two.size:,}), "
        f"{literal(gap.unit)}. **Positive = the stage helped the first more (or hurt it less).** Whiskers: 95 % "
        "bootstrap interval, both groups drawn independently."
    )
