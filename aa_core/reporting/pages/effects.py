"""The results: by stage, by step, by subgroup, beside another run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from aa_core.reporting import glossary
from aa_core.reporting.answer import Truth
from aa_core.reporting.blocks import Block, Cell, Figure, Heading, Link, Paragraph, Table
from aa_core.reporting.links import view, views
from aa_core.reporting.model import Comparison, Report, StageRow
from aa_core.reporting.pages.basis import DISAGREE, NOISE, SHORT, UNSURE, basis, effect, evidence, scale_of_stages
from aa_core.reporting.results import LABEL
from aa_core.reporting.shown import GroupTable

TOP_STEPS = 10
WIDEST = 6
"""Stages beside each other in a table that must fit on a page."""
MARKED = "In brackets: the interval includes zero. Question mark: the readouts disagree in its sign."


def results(report: Report, truths: dict[str, Truth]) -> Iterator[Block]:
    """Everything that was estimated."""
    yield Heading("Results")
    yield from _stages(report, truths)
    yield from _steps(report)
    yield from _groups(report)
    yield from _comparison(report)


def _stages(report: Report, truths: dict[str, Truth]) -> Iterator[Block]:
    unit, name = report.selection.unit, report.selection.performance
    words = basis(report, "stage", report.reliability)
    interval = report.stages[0].low is not None
    yield Figure(
        "stages",
        "Effect of each stage",
        {
            "stage": [r.stage for r in report.stages],
            "effect": [r.mean for r in report.stages],
            "low": [r.low for r in report.stages],
            "high": [r.high for r in report.stages],
            "truth": [truths[r.stage].effect if r.stage in truths else None for r in report.stages],
            "performance": name,
            "unit": unit,
        },
        f"Estimated effect of each stage on the mean {name}. {words}"
        + (f" Whiskers: {glossary.INTERVAL}" if interval else "")
        + (" Diamonds: the effect that training again without the stage really had." if truths else ""),
        "The table below has the values.",
        evidence(report),
        view(report, "explore"),
    )
    said = [glossary.INTERVAL] if interval else []
    said += [glossary.READOUT_RANGE] if report.stages[0].readouts else []
    said += [DISAGREE] if any(r.unsure for r in report.stages) else []
    said += [_noise(report)]
    yield Table(
        f"Estimated {glossary.axis_title(name, unit)}.",
        tuple(title for title, _ in _columns(report, report.stages[0], truths)),
        tuple(tuple(cell for _, cell in _columns(report, row, truths)) for row in report.stages),
        " ".join([words, *said]),
    )


def _columns(report: Report, row: StageRow, truths: dict[str, Truth]) -> Iterator[tuple[str, Cell]]:
    """(title, cell) of a row; a column that no row has a value for is left out."""
    scale, first = scale_of_stages(report), report.stages[0]
    yield "Stage", Cell(row.stage, row.note)
    yield "Mean effect", effect(row.mean, scale, NOISE if row.within_noise else UNSURE if row.unsure else "")
    if first.low is not None:
        yield "95 % interval", Cell(glossary.fmt_interval(row.low, row.high, scale))
    if first.readouts:
        ends = [v for v in row.readouts.values() if v is not None]
        yield "Range of readouts", Cell(glossary.fmt_interval(min(ends, default=None), max(ends, default=None), scale))
    if first.share_helped is not None:
        yield "Helped", Cell(glossary.fmt_percent(row.share_helped))
    if truths:
        truth = truths.get(row.stage)
        yield "Retrained", effect(truth.effect, scale, truth.source) if truth else Cell("–")
    yield "n", Cell(f"{row.n:,}")


def _noise(report: Report) -> str:
    known = report.reliability.noise_of_mean
    if known is None:
        return "No noise floor was measured for this question."
    floor = f"{glossary.fmt_small(known)} {report.selection.unit}"
    return f"Effects of at most {floor} are marked “{NOISE}”: so far the truth itself moves with a start moved by 1e-6."


def _steps(report: Report) -> Iterator[Block]:
    steps = report.steps
    if steps is None:
        return
    unit, name, width = report.selection.unit, report.selection.performance, steps.steps_per_row
    words = basis(report, "step", steps.reliability)
    how = f"step effects/{report.method.curvature}/linear"
    yield Heading("Step by step", 3)
    columns = steps.model_dump(include={"step", "stage", "effect"})
    yield Figure(
        "steps",
        "Effect of each step",
        {**columns, "performance": name, "unit": unit, "steps_per_row": width},
        f"Estimated effect of each step on the mean {name}, read off linearly. {words}",
        "The table below has the largest values, steps.csv all.",
        evidence(report, estimator=how),
        views(
            report, "explore", {s.stage if len(report.stages) > 1 else "": {"stage": s.stage} for s in report.stages}
        ),
    )
    largest = sorted(range(len(steps.step)), key=lambda i: -abs(steps.effect[i] or 0.0))[:TOP_STEPS]
    scale = steps.effect[largest[0]] if largest else None
    of = "single steps" if width == 1 else f"{width} neighbouring steps"
    yield Table(
        f"The {len(largest)} largest effects of {of}. All are in steps.csv.",
        ("Step", "Stage", "Mean effect"),
        tuple((Cell(f"{steps.step[i]:,}"), Cell(steps.stage[i]), effect(steps.effect[i], scale)) for i in largest),
        words,
        texts=frozenset({1}),
    )


def _groups(report: Report) -> Iterator[Block]:
    found = report.groups
    if found is None:
        return
    name, unit = report.selection.performance, report.selection.unit
    words = f"{basis(report, 'stage', report.reliability)} n of each group stands beside it."
    many = f"{len(found.stage) * len(found.groups):,} effects are compared here, and no interval is corrected for that."
    yield Heading("By subgroup", 3)
    yield Paragraph(f"Subgroups are the classes, and the values of metadata that have at most twelve. {many}")
    yield Figure(
        "heat",
        "Effect of each stage on each subgroup",
        {
            "stage": list(found.stage),
            "group": [f"{g.column} {g.value}" for g in found.groups],
            "n": [g.n for g in found.groups],
            **grids(found),
            "performance": name,
            "unit": unit,
        },
        f"Estimated effect of each stage on the mean {name} of each subgroup. {words} {MARKED}",
        "The table below has the values, groups.csv the intervals.",
        evidence(report, part="by subgroup"),
        _columns_of(report, found),
    )
    yield from group_tables(found, f"Estimated {glossary.axis_title(name, unit)}, mean over each subgroup.", words)


def _columns_of(report: Report, found: GroupTable) -> Link:
    """The dashboard shows the groups of one column at a time, each as a whole."""
    if report.selection.examples != "all":
        return Link(instead="the dashboard shows groups of all examples, not of the picked ones")
    columns = dict.fromkeys(g.column for g in found.groups)
    return views(report, "subgroups", {c: {"by": "true label" if c == LABEL else c} for c in columns})


def group_tables(found: GroupTable, title: str, words: str) -> Iterator[Table]:
    """The effects of a heat map with their intervals."""
    said = [words, "Below each effect: its 95 % interval over the examples of the group, from eight examples on."]
    said += [DISAGREE] if any(map(any, found.unsure)) else []
    for part in parts(len(found.stage)):
        yield Table(
            title,
            ("Subgroup", "n", *found.stage[part]),
            tuple(_group_row(found, j, part) for j in range(len(found.groups))),
            " ".join(said),
        )


def parts(columns: int) -> Iterator[slice]:
    """As many columns as a page has room for, in tables of much the same width."""
    tables = math.ceil(columns / WIDEST)
    for i in range(tables):
        yield slice(i * columns // tables, (i + 1) * columns // tables)


def _group_row(found: GroupTable, j: int, part: slice) -> tuple[Cell, ...]:
    """A group, its size, and what these stages did to it."""
    group, scale = found.groups[j], glossary.scale_of(v for row in found.effect for v in row)
    cells = []
    for i in range(*part.indices(len(found.stage))):
        mean, low, high = (by_stage[i][j] for by_stage in (found.effect, found.low, found.high))
        said = [] if low is None else [glossary.fmt_interval(low, high, scale)]
        said += [UNSURE] if found.is_unsure(i, j) else []
        cells.append(effect(mean, scale, "; ".join(said))._replace(shade=(mean or 0.0) / scale if scale else 0.0))
    return (Cell(group.value, group.definition or group.column), Cell(f"{group.n:,}"), *cells)


def grids(found: GroupTable) -> dict[str, list[list[Any]]]:
    """What a heat map shows of it, [stage][group]."""
    return {name: [list(row) for row in getattr(found, name)] for name in ("effect", "low", "high", "unsure")}


def _comparison(report: Report) -> Iterator[Block]:
    found = report.comparison
    if found is None:
        return
    name, unit = report.selection.performance, report.selection.unit
    words = f"{basis(report, 'stage', report.reliability)} The other run, n = {found.n:,}: {found.words}"
    source = f"{evidence(report)}; other run {found.digest[:12]}"
    yield Heading("Beside another run", 3)
    same = found.evaluation == report.selection.evaluation
    examples = "on the same examples" if same else "on its own evaluation set"
    yield Paragraph(f"The same question was put to “{found.title}”, {examples}.")
    yield Figure(
        "pairs",
        "This run and the other",
        {
            "name": list(found.stage),
            "first": list(found.here),
            "second": list(found.there),
            "words": ["this run", "the other run"],
            "performance": name,
            "unit": unit,
        },
        f"Estimated effect of each stage in this run (pale) and in the other (full), on the mean {name}. {words}",
        "The table below has the values.",
        source,
        _beside(report, found),
    )
    scale = glossary.scale_of([*found.here, *found.there])
    rows = zip(found.stage, found.here, found.there, strict=True)
    yield Table(
        f"Estimated {glossary.axis_title(name, unit)}, in this run and in the other.",
        ("Stage", "This run", "The other run", "Difference"),
        tuple((Cell(s), effect(a, scale), effect(b, scale), _difference(a, b, scale)) for s, a, b in rows),
        words,
    )


def _beside(report: Report, found: Comparison) -> Link:
    """The dashboard compares two runs on the same examples."""
    if found.evaluation != report.selection.evaluation:
        return Link(instead="the dashboard compares runs that were judged on the same examples only")
    return view(report, "compare", mode="runs", other=found.digest[:SHORT])


def _difference(here: float | None, there: float | None, scale: float) -> Cell:
    return Cell("–") if here is None or there is None else effect(here - there, scale)
