"""Reliability: what the numbers of this run may be trusted for, and why."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import charts, feedback, session, tables
from dashboard.light import figures, glossary
from dashboard.service import Calibration, acts, checking
from dashboard.shell import Context
from dashboard.words import OPTIONS, chart_text, judged, literal, performance_words, plural, subject

MEANING = (
    ("sign", "Signs", "Did a stage help or hurt, on average?"),
    ("rank", "Ranks", "Which stage, and which example, more than another?"),
    ("size", "Sizes", "By how much?"),
)
LADDER = ("nothing", "sign", "rank", "size")
COLUMNS = ("Estimator", "r", "Rank r", "Same sign", "Sign of means", "Error of means")


def render(ctx: Context) -> None:
    """The verdict, then what it rests on."""
    st.title("Reliability", anchor=False)
    if ctx.desk.run.evaluation is None:
        feedback.no_evaluation("there are no effects to judge.")
    elif not len(ctx.desk.rows(ctx.selection)):
        feedback.empty("No example passes the filters", "Change the filters in Explore, then come back.")
    else:
        with feedback.refusals():
            _verdict(ctx)
            _calibration(ctx)
    with feedback.refusals():
        _replay(ctx)


def _verdict(ctx: Context) -> None:
    s = ctx.selection
    estimator = ", ".join(OPTIONS[v] for v in (s.method, s.curvature, s.readout))
    about = literal(subject(ctx.desk, s))
    st.caption(f"Effects of the stages on the {literal(judged(s))} of {about}, estimated by: {estimator}.")
    with feedback.working("Replaying the training to embed its stages") as progress:
        found = checking.known(ctx.desk, s, progress)
    verdict = found.verdict
    trusted = LADDER.index(verdict.trust)
    rungs = [(word, help_, trusted >= LADDER.index(kind)) for kind, word, help_ in MEANING]
    st.html(tables.rungs(rungs))
    st.markdown(literal(verdict.words))
    spread, signs = found.readout_spread, found.signs_agree
    stiff = glossary.fmt_percent(found.stiff_share)
    st.html(
        tables.facts(
            [
                ("Growth of a change on its way", glossary.fmt_number(found.growth)),
                ("Effective learning rate", glossary.fmt_number(found.effective_lr)),
                ("Readouts lie apart", glossary.fmt_percent(spread)),
                ("Stages of one sign in all readouts", glossary.fmt_percent(signs)),
                ("Largest move of a stage", glossary.fmt_percent(found.moved)),
                *([("Coordinates without second moment", stiff)] if found.stiff_share else []),
            ]
        )
    )
    with st.expander("What these figures mean, and what is assumed", icon=":material/help:"):
        st.markdown(FIGURES)
        st.markdown("\n".join(["Assumed throughout:", "", *(f"- {literal(a)}" for a in found.assumptions)]))


FIGURES = """
- **Growth**: how much a small change of the weights grew until the end of training. Near or below 1 the training is
  smooth; far above, first-order estimates fail.
- **Effective learning rate**: the largest lr / (1 − momentum) of any step (Adam: lr).
- **Readouts lie apart**: three ways to read one and the same effect, as a share of its size. They agree where first
  order suffices.
- **Largest move**: how far a stage moved the weights, over their norm at the end.
- **Coordinates without second moment** (Adam): they react to a gradient without bound.
"""


def _calibration(ctx: Context) -> None:
    st.subheader("Checked by retraining", anchor=False)
    found = checking.calibration(ctx.desk, ctx.selection)
    if found is None or not found.here:
        _calibrate(ctx, found)
    if found is None:
        return
    left, right = st.columns([6, 5], gap="large")
    with left:
        _table(ctx, found)
    with right:
        _means(ctx, found)
    within = f"{found.below_noise:,} pairs within it are left out." if found.below_noise else "No pair is within it."
    st.caption(
        f"Noise floor: from a start moved by a millionth of itself, a mean effect moves by "
        f"{glossary.fmt_small(found.noise_of_mean)} {found.unit}, and the effect on an example by at most "
        f"{glossary.fmt_small(found.noise_of_value)}. {within}"
    )


def _calibrate(ctx: Context, brought: Calibration | None) -> None:
    known = (
        "Nothing is known yet about this performance."
        if brought is None
        else f"What follows was {brought.source} (on {literal(brought.where)}). Measure it to know."
    )
    st.caption(
        f"{known} Every stage is left out once and the model really trained "
        f"again: {plural(len(ctx.desk.run.stages), 'retraining')}, in a process of its own."
    )
    spec = checking.calibration_job(ctx.desk, ctx.selection)
    job = acts.job_of(spec)
    if job is None or job.status == "done":
        feedback.start("Verify all stages", spec, type="primary")
    else:
        feedback.follow(job)


def _means(ctx: Context, found: Calibration) -> None:
    """Estimate beside truth for the estimator in use, and the way to a better one."""
    s = ctx.selection
    mine, best = found.find(s.method, s.curvature, s.readout), found.default
    if mine is not None and None not in mine.means:
        frame = checking.against_truth(found, mine)
        figure = figures.compare_bars(frame, found.unit, performance=chart_text(performance_words(found.performance)))
        words = [f"{r.stage}: estimated {r.estimate:+.3g}, retrained {r.truth:+.3g}" for r in frame.itertuples()]
        charts.show(figure, "calibration", f"Estimated and retrained effect of each stage. {'; '.join(words)}")
        st.caption(
            f"The estimator in use: pale estimated, full retrained; effects in {found.unit}, mean over "
            f"{plural(found.values, 'example')}; {glossary.sign()}."
        )
    if best is not None and best is not mine:
        chosen = checking.chosen_by(found)
        st.button(f"Use {literal(best.name)}", icon=":material/check:", on_click=session.update, kwargs=chosen)


def _table(ctx: Context, found: Calibration) -> None:
    s, best = ctx.selection, found.default
    rows = []
    order = sorted(found.estimators, key=lambda e: e is not best)
    for e in (*order, found.path_share):
        mine = (e.method, e.curvature, e.readout) == (s.method, s.curvature, s.readout)
        marks = [word for word, on in (("best here", e is best), ("in use", mine)) if on]
        pairs, stages = e.pairs, e.stages
        cells = [
            glossary.fmt_correlation(pairs.pearson),
            glossary.fmt_correlation(pairs.spearman),
            glossary.fmt_percent(pairs.sign),
            glossary.fmt_percent(stages.sign),
            glossary.fmt_percent(stages.relative_error),
        ]
        rows.append((e.name, marks, cells))
    caption = (
        f"Each estimator against really training without each stage: {plural(len(found.stages), 'stage')} × "
        f"{plural(found.values, 'example')}."
    )
    shown = 7
    st.html(tables.scores(COLUMNS, rows[:shown], caption))
    with st.expander(f"All {len(rows)} estimators"):
        st.html(tables.scores(COLUMNS, rows, "The path share answers another question, and is here to show it."))


def _replay(ctx: Context) -> None:
    st.subheader("Does the recorded training replay?", anchor=False)
    spec = checking.replay_job(ctx.desk)
    job = acts.job_of(spec)
    if job is None:
        st.caption("Every step is taken again and the result compared with the recorded checkpoints.")
        feedback.start("Replay the whole run", spec, ":material/replay:")
    elif job.status != "done":
        feedback.follow(job)
    else:
        found = job.result()
        icon = ":material/check_circle:" if found["sound"] else ":material/error:"
        st.markdown(f"{icon} {literal(found['words'])}")
        frame = job.table("drifts")
        if found["sound"] and not frame["relative"].any():
            return
        head = ("Checkpoint", "Largest difference", "Relative", "Allowed")
        rows = [(f"step {r.step:,}", (), _drift(r)) for r in frame.itertuples()]
        with st.expander("Every checkpoint"):
            st.html(tables.scores(head, rows, "How far the replay is from each recorded checkpoint."))


def _drift(row: Any) -> list[str]:
    return [f"{row.absolute:.1e}", f"{row.relative:.1e}", f"{row.allowed:.0e}"]
