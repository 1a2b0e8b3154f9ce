"""Overview: what this run is, what its stages were, and what each did to the model."""

from __future__ import annotations

import math
from dataclasses import replace

import streamlit as st

from dashboard import charts, feedback, shell, tables
from dashboard.effects import within_noise
from dashboard.light import glossary
from dashboard.service import Effects, checking, estimates, ledger
from dashboard.shell import Context
from dashboard.words import answer_words, literal, measure, plural, retrained_words

NOT_REPLAYED = "not replayed"


def render(ctx: Context) -> None:
    """Title, figures, timeline, stages."""
    run = ctx.desk.run
    st.title(literal(run.title or ctx.desk.entry.id), anchor=False)
    what, answer = f"{ctx.desk.what} in {plural(len(run.stages), 'stage')}.", st.empty()
    answer.markdown(f"{what} Which of them made the model better, and which made it worse?")
    facts, problems, replay = st.empty(), st.container(), _replay(ctx)
    facts.html(tables.facts([*ctx.desk.summary(), *replay]))
    if run.first_nonfinite is not None:
        feedback.refusal(
            f"Loss or gradient are not finite from step {run.first_nonfinite} on: nothing can be attributed across it.",
            "The training did not stay finite",
        )
    if ("Replay", NOT_REPLAYED) in replay:
        shell.link("Reliability", "Replay it: do the recorded steps lead to this model?", ctx.selection)
    charts.training(run.stages, ctx.desk.log())
    with problems:
        _files(ctx)
    facts.html(tables.facts([*ctx.desk.summary(), *replay]))
    if run.evaluation is None:
        feedback.no_evaluation("its stages cannot be judged.")
        return
    if run.first_nonfinite is not None:
        return  # it was said above
    with feedback.refusals():
        facts.html(tables.facts([*ctx.desk.summary(), *replay, ("Accuracy", ctx.desk.accuracy())]))
        answer.markdown(f"{what} {answer_words(_stages(ctx))}")


def _replay(ctx: Context) -> list[tuple[str, str]]:
    """Whether the steps lead to the states that were recorded, as far as a job here has found out."""
    if not ledger.possible(ctx.desk):
        return []
    return [("Replay", checking.replay_words(ctx.desk) or NOT_REPLAYED)]


def _files(ctx: Context) -> None:
    """Are the files what the run's log says? The first time on, all of them are read again."""
    with feedback.working("Reading the files of the run again", "file") as progress:
        wrong = ctx.desk.integrity(progress)
    if wrong:
        feedback.refusal("\n".join(wrong), "The files of this run do not match what its log says")


def _stages(ctx: Context) -> Effects:
    everything = ctx.selection.everything
    with feedback.working("Replaying the training to embed its stages") as progress:
        effects = estimates.stages(ctx.desk, everything, progress)
    table = ctx.desk.stage_notes().merge(effects.frame, on="stage")
    truths = checking.retrained(ctx.desk, everything)
    if truths:
        table["truth"] = [truths[stage].effect if stage in truths else math.nan for stage in table["stage"]]
    st.subheader("What each stage did", anchor=False)
    words = f"{measure(everything, effects.unit, effects.n)} {glossary.sign().capitalize()}."
    words += f" Retrained: {retrained_words(truths)}." if truths else ""
    st.html(tables.stage_table(table, effects.unit, words))
    within_noise(ctx, everything, effects)
    feedback.reliability(effects)
    worst = min(effects.frame.itertuples(), key=lambda row: row.effect)
    if worst.effect < 0 and ledger.possible(ctx.desk):
        asked = replace(everything, skip=(worst.stage,))
        shell.link("What-if", f"What if without {literal(worst.stage)}?", asked, icon=":material/alt_route:")
    return effects
