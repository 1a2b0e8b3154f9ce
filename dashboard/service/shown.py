"""What a selection shows on the screens beside the effects themselves, as sections of a report.

Each is made by the call that its screen makes, and only where the selection says that somebody chose to see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import pandas as pd

from aa_core.errors import RequestError
from aa_core.reporting.model import Comparison
from aa_core.reporting.shown import (
    Gap,
    Group,
    Grouping,
    GroupTable,
    Parts,
    Prediction,
    Shares,
    Shown,
    Stages,
    StepExamples,
)
from aa_core.run_performance import run_performance
from dashboard.selection import CHANGES, Selection, to_query
from dashboard.service import acts, checking, compare, estimates, groups, retraining
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress

COMPARED = "comparison"
"""Where the other run stands: in the report itself, as from the command line."""


class Part(NamedTuple):
    """One section."""

    name: str
    """Of the field of `Shown`, or COMPARED."""
    screen: str
    words: str
    make: Callable[[Progress], Any]


def parts(desk: Desk, s: Selection) -> list[Part]:
    """What was chosen, each with what computes it; where only checkpoints are known there is no more than groups."""
    if not desk.has_steps:
        return [*_subgroups(desk, s)]
    return [*_explore(desk, s), *_subgroups(desk, s), *_compare(desk, s), *_what_if(desk, s)]


def shown(chosen: Sequence[Part], progress: Progress) -> tuple[Shown, Comparison | None]:
    """All of it, computed; raises Waiting where a job computes it first."""
    made = {part.name: part.make(progress) for part in chosen}
    other = made.pop(COMPARED, None)
    return Shown(**made), other


# ---- Explore ---------------------------------------------------------------------------------------------------------


def _explore(desk: Desk, s: Selection) -> Iterator[Part]:
    part: Literal["layer", "cause"] = "layer" if s.chart == "layers" else "cause"
    if s.chart in ("layers", "causes"):
        yield Part("parts", "Explore", f"effects by {part}", lambda progress: _parts(desk, s, part, progress))
    if s.chart == "shares":
        yield Part("shares", "Explore", "path shares", lambda progress: _shares(desk, s, progress))
    stage = next((stage for stage in desk.run.stages if stage.name == s.stage), None)
    if stage is not None and s.steps is not None and s.steps[0] == s.steps[1] and s.steps[0] in stage.steps:
        step = s.steps[0]
        yield Part(
            "batch",
            "Explore",
            f"the training examples of step {step:,}",
            lambda progress: _batch(desk, s, step, progress),
        )


def _parts(desk: Desk, s: Selection, part: Literal["layer", "cause"], progress: Progress) -> Parts:
    found = estimates.parts(desk, s, "layers" if part == "layer" else "causes", progress)
    grid = found.frame.pivot_table("effect", "stage", part, "sum", fill_value=0.0)
    names = list(dict.fromkeys(found.frame.loc[found.frame["effect"] != 0, part]))
    grid = grid.reindex(index=list(dict.fromkeys(found.frame["stage"])), columns=names)
    return Parts(
        by=part,
        stage=tuple(grid.index),
        part=tuple(names),
        effect=tuple(map(tuple, grid.to_numpy().tolist())),
        words=found.belief.words,
    )


def _shares(desk: Desk, s: Selection, progress: Progress) -> Shares:
    table, start, _ = estimates.shares(desk, s, progress)
    return Shares(stage=_column(table, "stage"), share=_column(table, "share"), start=start)


def _batch(desk: Desk, s: Selection, step: int, progress: Progress) -> StepExamples:
    found = estimates.batch(desk, s, step, progress)
    ranked = found.frame.sort_values("effect", ascending=False, kind="stable")
    columns = {name: _column(ranked, name) for name in ("row", "id", "label", "effect")}
    return StepExamples(step=step, stage=s.stage, **columns, words=found.belief.words)


# ---- Subgroups, Compare ----------------------------------------------------------------------------------------------


def _subgroups(desk: Desk, s: Selection) -> Iterator[Part]:
    """The groups of both screens: those of Subgroups, or the two that Compare has side by side."""
    if s.by or s.mode == "groups" or desk.facts().slices:
        by = groups.chosen(desk, s, 2 if s.mode == "groups" else 1)
        if found := groups.groups_by(desk, by):
            yield Part(
                "grouping",
                "Subgroups",
                f"groups by {by or 'saved subgroups'}, and the gap between two",
                lambda progress: _grouping(desk, s, by, found, progress),
            )


def _grouping(desk: Desk, s: Selection, by: str, found: Sequence[groups.Group], progress: Progress) -> Grouping:
    cells = groups.cells(desk, s, found, progress)
    by_group = {  # all stages of the first group, then of the second: two groups may have one name
        column: cells.frame[column].to_numpy().reshape(len(found), -1)
        for column in ("stage", "effect", "low", "high", "unsure")
    }
    stages = by_group.pop("stage")[0]
    return Grouping(
        by=by,
        table=GroupTable(
            groups=tuple(_group(desk, g) for g in found),
            stage=tuple(stages),
            **{column: tuple(map(tuple, grid.T.tolist())) for column, grid in by_group.items()},
        ),
        counted=cells.counted,
        apart=cells.apart,
        apart_corrected=cells.apart_corrected,
        gap=_gap(desk, s, found, progress),
        evaluation=checking.digest_of_all(desk, s),
        words=cells.belief.words,
    )


def _gap(desk: Desk, s: Selection, found: Sequence[groups.Group], progress: Progress) -> Gap | None:
    names = groups.two(s, [g.name for g in found])
    if names is None:
        return None
    one, two = (next(g for g in found if g.name == name) for name in names)
    frame = groups.gap(desk, s, one, two, progress).frame
    columns = {name: _column(frame, name) for name in ("stage", "first", "second", "effect", "low", "high")}
    return Gap(groups=(_group(desk, one), _group(desk, two)), **columns)


def _compare(desk: Desk, s: Selection) -> Iterator[Part]:
    if s.mode == "stages" and (names := groups.two(s, desk.facts().stages)):
        yield Part(
            "stages", "Compare", f"{names[0]} beside {names[1]}", lambda progress: _stages(desk, s, names, progress)
        )
    entry = compare.other_run(desk, s) if s.mode == "runs" and s.other else None
    if entry is not None:
        other = Desk(entry)
        if compare.same_evaluation(desk, other):
            yield Part(
                COMPARED, "Compare", f"beside {entry.title}", lambda progress: _comparison(desk, other, s, progress)
            )


def _stages(desk: Desk, s: Selection, names: tuple[str, str], progress: Progress) -> Stages:
    by = groups.groups_by(desk, groups.LABEL)
    pair = compare.stages(desk, s, names, by, progress)
    cosines = compare.cosines(desk, s, progress)
    return Stages(
        first=names[0],
        second=names[1],
        groups=tuple(_group(desk, g) for g in by),
        effect_first=_column(pair.frame, "first"),
        effect_second=_column(pair.frame, "second"),
        stage=tuple(cosines.index),
        cosine=tuple(map(tuple, cosines.to_numpy().tolist())),
        evaluation=checking.digest_of_all(desk, s),
        words=pair.beliefs[0].words,
    )


def _comparison(desk: Desk, other: Desk, s: Selection, progress: Progress) -> Comparison | None:
    """The stages that both have; None where there is none."""
    pair = compare.runs(desk, other, s, progress)
    if pair.frame.empty:
        return None
    alone = f" Only in one of them, so not compared: {', '.join(pair.unmatched)}." if pair.unmatched else ""
    return Comparison(
        digest=other.run.digest,
        title=other.run.title or other.entry.id,
        n=pair.n,
        evaluation=run_performance(other.run, s.performance, estimates.picked(desk, s)).digest,
        stage=_column(pair.frame, "stage"),
        here=_column(pair.frame, "first"),
        there=_column(pair.frame, "second"),
        words=f"{pair.beliefs[1].words}{alone}",
    )


# ---- What-if ---------------------------------------------------------------------------------------------------------


def _what_if(desk: Desk, s: Selection) -> Iterator[Part]:
    """The prediction of a change of which no retraining is done: one that is done is a check of the report."""
    if s.skip or s.leave or s.without:
        with suppress(RequestError):  # no change that could be asked for: the screen says why
            spec, what = retraining.question(desk, s), retraining.counterfactual(s)
            job = acts.job_of(spec)
            if job is None or job.status != "done":
                words = retraining.words(what)
                yield Part(
                    "prediction",
                    "What-if",
                    f"predicted: {words[:1].lower()}{words[1:]}",
                    lambda progress: _prediction(desk, s, progress),
                )


def _prediction(desk: Desk, s: Selection, progress: Progress) -> Prediction:
    what = retraining.counterfactual(s)
    found = estimates.predicted(desk, s, what, progress)
    noise, asked = checking.noise(desk, s), to_query(s)
    return Prediction(
        what=retraining.words(what),
        recorded=found.recorded,
        predicted=found.without,
        effect=found.effect,
        n=found.n,
        within_noise=None if noise is None else abs(found.effect) <= noise,
        estimator=f"{what.method_like(s.method)}/{s.curvature}/{s.readout}",
        query={name: tuple(asked[name]) for name in CHANGES if name in asked},
        words=found.belief.words,
    )


def _group(desk: Desk, found: groups.Group) -> Group:
    return Group(column="", value=found.name, n=found.size, definition=groups.defined(desk, found))


def _column(frame: pd.DataFrame, name: str) -> tuple[Any, ...]:
    return tuple(frame[name].tolist())
