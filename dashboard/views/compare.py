"""Compare: two runs, two groups of examples, or two stages, side by side; or the experiments that ship."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard import charts, experiments, feedback, plots, session, shell
from dashboard.light import figures
from dashboard.selection import MODES
from dashboard.service import Desk, compare, groups, list_runs
from dashboard.service.compare import Pair
from dashboard.shell import Context
from dashboard.words import chart_text, judged, literal, plural, subject

WORDS = {"runs": "Two runs", "groups": "Two groups", "stages": "Two stages", "experiments": "Experiments"}
WIDTH = 300
OTHERWISE = " (judged on other examples)"


def render(ctx: Context) -> None:
    """What is compared, then both and their difference."""
    st.title("Compare", anchor=False)
    _compared(ctx)


@shell.alone
def _compared(ctx: Context) -> None:
    st.segmented_control(
        "Compare",
        MODES,
        format_func=WORDS.__getitem__,
        required=True,
        label_visibility="collapsed",
        **session.mirror("mode"),
    )
    if ctx.selection.mode == "experiments":
        experiments.render(ctx)
        return
    if ctx.desk.run.evaluation is None:
        feedback.no_evaluation("there are no effects to compare.")
        return
    if not len(ctx.desk.rows(ctx.selection)):
        feedback.empty("No example passes the filters", "Change the filters in Explore, then come back.")
        return
    with feedback.refusals():
        {"runs": _runs, "groups": _groups, "stages": _stages}[ctx.selection.mode](ctx)


def _runs(ctx: Context) -> None:
    entries = {e.id: e for e in list_runs().values() if not e.error and e.id != ctx.desk.entry.id}
    if not entries:
        feedback.empty("There is no other run", "Record one, or make a what-if a run: it can be compared here.")
        return
    asked = compare.other_run(ctx.desk, ctx.selection)
    other, mine = None if asked is None else asked.id, ctx.desk.evaluation_digest
    st.selectbox(
        "This run against",
        sorted(entries, key=lambda name: entries[name].evaluation != mine),
        format_func=lambda name: entries[name].title + ("" if entries[name].evaluation == mine else OTHERWISE),
        placeholder="Pick a run",
        width=WIDTH,
        **session.mirror("other", read=lambda v: v or "", show=other),
    )
    if other is None:
        feedback.empty("Pick a second run", "Another learning rate, another order of stages, or a what-if made a run.")
        return
    desk = Desk(entries[other])
    if not compare.same_evaluation(ctx.desk, desk):
        feedback.empty(
            "These two runs were judged on different examples",
            "Effects can be compared only on the same evaluation set. Record both with the same Evaluation(...).",
        )
        return
    with feedback.working("Replaying both trainings") as progress:
        pair = compare.runs(ctx.desk, desk, ctx.selection, progress)
    if pair.frame.empty:
        feedback.empty("No stage has the same name in both", "Stages are compared by their names.")
        return
    about = literal(subject(ctx.desk, ctx.selection))
    _show(ctx, pair, (ctx.desk.run.title or ctx.desk.entry.id, entries[other].title), f"Mean over {about}")
    if pair.unmatched:
        st.caption(f"Only in one of them, so not compared: {literal(', '.join(pair.unmatched))}.")


def _groups(ctx: Context) -> None:
    options = groups.columns(ctx.desk)
    by = groups.chosen(ctx.desk, ctx.selection, 2)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name_of: Callable[[str], str] = lambda c: c or "saved subgroups"  # noqa: E731
        st.selectbox("Groups by", options, format_func=name_of, width=WIDTH, **session.mirror("by", show=by))
        found = groups.groups_by(ctx.desk, by)
        chosen = _two(ctx, [g.name for g in found])
    if chosen is None:
        feedback.empty("Fewer than two groups", "Group by another column, or save subgroups first.")
        return
    one, two = (next(g for g in found if g.name == name) for name in chosen)
    with feedback.working("Replaying the training to embed its stages") as progress:
        pair = compare.groups(ctx.desk, ctx.selection, one, two, progress)
    about = f"Means over {one.size:,} and {two.size:,} examples"
    _show(ctx, pair, chosen, f"{about}; whiskers of the difference: 95 % bootstrap interval")


def _stages(ctx: Context) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = _two(ctx, list(ctx.desk.facts().stages))
    if chosen is None:
        feedback.empty("Only one stage", "This run has a single stage: there is none to compare it with.")
        return
    by = groups.groups_by(ctx.desk, groups.LABEL)
    with feedback.working("Replaying the training to embed its stages") as progress:
        pair = compare.stages(ctx.desk, ctx.selection, chosen, by, progress)
        cosines = compare.cosines(ctx.desk, ctx.selection, progress)
    _show(ctx, pair, chosen, f"Mean over the examples of each true label, {plural(pair.n, 'example')} in all")
    st.subheader("Did the stages pull the same way?", anchor=False)
    words = "; ".join(f"{a} and {b} {cosines.loc[a, b]:+z.2f}" for a in cosines for b in cosines if a < b)
    charts.show(plots.cosine_map(cosines), "cosines", f"Cosine between the embeddings of two stages: {words}")
    st.caption(
        "Cosine between what two stages did to the final weights, to first order: 1 = the same direction, "
        "0 = unrelated, −1 = one undid the other. No unit; all weights count alike."
    )


def _two(ctx: Context, names: list[str]) -> tuple[str, str] | None:
    """Two different names, chosen by the selection where it can be."""
    chosen = groups.two(ctx.selection, names)
    if chosen is None:
        return None
    first, second = chosen
    st.selectbox("First", names, width=WIDTH, **session.mirror("first", show=first))
    st.selectbox("Second", [n for n in names if n != first], width=WIDTH, **session.mirror("second", show=second))
    return chosen


def _show(ctx: Context, pair: Pair, names: tuple[str, str], about: str) -> None:
    first, second = (literal(n) for n in names)
    performance = chart_text(judged(ctx.selection))
    left, right = st.columns(2, gap="large")
    both = pair.frame.rename(columns={"first": "estimate", "second": "truth"})
    words = "; ".join(f"{r.stage}: {r.first:+.3g} and {r.second:+.3g}" for r in pair.frame.itertuples())
    with left:
        st.markdown("**Side by side**")
        figure = figures.compare_bars(both, pair.unit, performance=performance)
        charts.show(figure.update_traces(hoverinfo="skip"), "both", f"{names[0]} and {names[1]}. {words}")
        st.caption(f"Upper, pale: {first}. Lower, full: {second}.")
    with right:
        st.markdown("**Difference, first minus second**")
        figure = figures.stage_bars(pair.frame, pair.unit, performance=f"{performance}, difference")
        words = "; ".join(f"{r.stage} {r.effect:+.3g}" for r in pair.frame.itertuples())
        charts.show(figure, "difference", f"Difference: {words}")
        st.caption("Positive = it helped the first more, or hurt it less.")
    st.caption(f"Effect on the {literal(judged(ctx.selection))}, {literal(pair.unit)}. {about}. Positive = helped.")
    for who, belief in zip(("First: ", "Second: ") if len(pair.beliefs) > 1 else ("",), pair.beliefs, strict=True):
        feedback.believe(belief._replace(words=f"{who}{belief.words}"))
