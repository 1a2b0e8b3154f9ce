"""The results that were chosen on the dashboard's screens, beside those that every report has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aa_core.reporting import glossary
from aa_core.reporting.blocks import Block, Cell, Figure, Heading, Link, Paragraph, Table
from aa_core.reporting.links import view
from aa_core.reporting.model import Report
from aa_core.reporting.pages.basis import NOISE, SHORT, basis, effect, evidence
from aa_core.reporting.pages.effects import MARKED, grids, group_tables, parts
from aa_core.reporting.recorded import Number
from aa_core.reporting.shown import Gap, Group, Grouping, Parts, Prediction, Shares, Stages, StepExamples

MOST = 12
"""Training examples of a step that a page lists at either end of their ranking."""


def screens(report: Report) -> Iterator[Block]:
    """All that was chosen."""
    shown = report.shown
    if shown.parts is not None:
        yield from _parts(report, shown.parts)
    if shown.shares is not None:
        yield from _shares(report, shown.shares)
    if shown.batch is not None:
        yield from _batch(report, shown.batch)
    if shown.grouping is not None:
        yield from _grouping(_on_all(report, shown.grouping.evaluation), shown.grouping)
    if shown.stages is not None:
        yield from _stages(_on_all(report, shown.stages.evaluation), shown.stages)
    if shown.prediction is not None:
        yield from _prediction(report, shown.prediction)


def _on_all(report: Report, evaluation: str) -> Report:
    """The same on all examples of the evaluation set: groups are whole, whichever examples are picked."""
    everything = {"n": report.data.evaluation, "examples": "all", "picks": None, "evaluation": evaluation}
    return report.model_copy(update={"selection": report.selection.model_copy(update=everything)})


def _parts(report: Report, found: Parts) -> Iterator[Block]:
    words = f"{basis(report, 'stage')} {glossary.ADDS_UP[found.by]} {found.words}"
    source = evidence(report, estimator=f"split by {found.by}/{report.method.curvature}/linear")
    link = view(report, "explore", chart=f"{found.by}s")
    yield Heading(f"By {found.by}", 3)
    yield Figure(
        "split",
        f"Effect of each stage by {found.by}",
        {
            "by": found.by,
            "stage": list(found.stage),
            "part": list(found.part),
            "effect": [list(row) for row in found.effect],
            "performance": report.selection.performance,
            "unit": report.selection.unit,
        },
        f"Estimated effect of each stage on the mean {report.selection.performance}, made of its parts: what helped to "
        f"the right of zero, what hurt to the left. {words}",
        "The table below has the values.",
        source,
        link,
    )
    yield from _matrix(
        f"Estimated {_axis(report)}, split by {found.by}.",
        found.by.capitalize(),
        found.stage,
        found.part,
        [list(column) for column in zip(*found.effect, strict=True)],
        words,
        source,
        link,
    )


def _matrix(
    title: str,
    corner: str,
    across: Sequence[str],
    down: Sequence[str],
    rows: Sequence[Sequence[Number]],
    words: str,
    source: str,
    link: Link,
) -> Iterator[Table]:
    """Signed numbers as shaded cells, as many columns beside each other as a page has room for."""
    scale = glossary.scale_of(v for row in rows for v in row)
    for part in parts(len(across)):
        cells = [[effect(v, scale)._replace(shade=(v or 0.0) / (scale or 1.0)) for v in row[part]] for row in rows]
        yield Table(
            title,
            (corner, *across[part]),
            tuple((Cell(name), *row) for name, row in zip(down, cells, strict=True)),
            words,
            source,
            link=link,
        )


def _shares(report: Report, found: Shares) -> Iterator[Block]:
    total = (found.start or 0.0) + sum(share or 0.0 for share in found.share)
    scale = glossary.scale_of(found.share)
    title = f"How the mean {report.selection.performance} rose or fell while each stage was trained."
    words = f"{_unit(report)}; n = {report.selection.n:,}. {glossary.PATH_SHARES}"
    source, link = (
        evidence(report, estimator="measured along the recorded states"),
        view(report, "explore", chart="shares"),
    )
    yield Heading("Path shares", 3)
    yield Figure(
        "path",
        "From the first weights to the last",
        {
            "stage": list(found.stage),
            "share": list(found.share),
            "start": found.start,
            "performance": report.selection.performance,
            "unit": report.selection.unit,
        },
        f"{title} {words}",
        "The table below has the values.",
        source,
        link,
    )
    yield Table(
        title,
        ("Stage", "Gained meanwhile"),
        (
            (Cell("At the start"), Cell(glossary.fmt_number(found.start))),
            *((Cell(s), Cell(glossary.fmt_effect(v, scale))) for s, v in zip(found.stage, found.share, strict=True)),
            (Cell("At the end"), Cell(glossary.fmt_number(total))),
        ),
        words,
        source,
        link=link,
    )


def _batch(report: Report, found: StepExamples) -> Iterator[Block]:
    count = len(found.row)
    first = range(min(MOST, count))
    shown = [*first, *range(max(len(first), count - MOST), count)]
    scale = glossary.scale_of(found.effect)
    which = "all" if len(shown) == count else f"the first {MOST} and the last {MOST}"
    total = sum(e or 0.0 for e in found.effect)
    yield Heading(f"Training examples of step {found.step:,}", 3)
    yield Table(
        f"What each training example of step {found.step:,} ({found.stage}) did, best first: {which} of {count:,}.",
        ("Rank", "Example", "Trained as", _axis(report).capitalize()),
        tuple(
            (Cell(f"{i + 1:,}"), Cell(str(found.id[i])), Cell(found.label[i]), effect(found.effect[i], scale))
            for i in shown
        ),
        f"{basis(report, 'example')} They add up to {glossary.fmt_effect(total)}: what the data of this step did, "
        f"without the momentum that was carried into it. {found.words}",
        evidence(report, estimator=f"weight of each loss/{report.method.curvature}/linear"),
        texts=frozenset({1, 2}),
        link=view(report, "explore", stage=found.stage, steps=f"{found.step}-{found.step}"),
    )


def _grouping(report: Report, found: Grouping) -> Iterator[Block]:
    name, unit = report.selection.performance, report.selection.unit
    by = found.by or "saved subgroups"
    words = f"{_unit(report)}; n of each group stands beside it; {glossary.sign()}."
    yield Heading(f"Groups by {by}", 3)
    yield Paragraph(_counted(found))
    yield Figure(
        "heat",
        f"Effect of each stage on each group by {by}",
        {
            "stage": list(found.table.stage),
            "group": [g.value for g in found.table.groups],
            "n": [g.n for g in found.table.groups],
            **grids(found.table),
            "performance": name,
            "unit": unit,
        },
        f"Estimated effect of each stage on the mean {name} of each group, all of its examples in the evaluation set. "
        f"{words} {MARKED} {found.words}",
        "The table below has the values, chosen_groups.csv the intervals.",
        evidence(report, part=f"groups by {by}"),
        view(report, "subgroups", by=found.by),
    )
    yield from group_tables(found.table, f"Estimated {_axis(report)}, mean over each group.", words)
    if found.gap is not None:
        yield from _gap(report, found.by, found.gap, found.words)


def _counted(found: Grouping) -> str:
    if found.counted < 2:
        return "At most one interval is shown, so none had to be corrected for the number of comparisons."
    return (
        f"{found.counted:,} intervals are compared here. {found.apart:,} leave out zero one by one, where about "
        f"{glossary.by_chance(found.counted)} would by chance if no stage did anything; {found.apart_corrected:,} "
        "still do when all have to hold together (Bonferroni)."
    )


def _gap(report: Report, by: str, found: Gap, words: str) -> Iterator[Block]:
    one, two = found.groups
    performance = f"{report.selection.performance}, first minus second"
    meaning = "positive = the stage helped the first more, or hurt it less"
    said = (
        f"Mean effect on “{one.value}” (n = {one.n:,}) minus that on “{two.value}” (n = {two.n:,}). {_unit(report)}; "
        f"{meaning}. Intervals: 95 %, bootstrap, both groups drawn independently. {words}"
    )
    source = evidence(report, part=f"“{one.value}” and “{two.value}”")
    yield Figure(
        "stages",
        f"Gap: {one.value} minus {two.value}",
        {
            "stage": list(found.stage),
            "effect": list(found.effect),
            "low": list(found.low),
            "high": list(found.high),
            "truth": [None] * len(found.stage),
            "performance": performance,
            "unit": report.selection.unit,
            "meaning": meaning,
        },
        said,
        "The table below has the values.",
        source,
        view(report, "subgroups", by=by, first=one.value, second=two.value),
    )
    scale = glossary.scale_of([*found.first, *found.second, *found.low, *found.high])
    rows = zip(found.stage, found.first, found.second, found.effect, found.low, found.high, strict=True)
    yield Table(
        f"Estimated effect on {performance}, by stage.",
        ("Stage", one.value, two.value, "Gap", "95 % interval"),
        tuple(
            (
                Cell(s),
                effect(a, scale),
                effect(b, scale),
                effect(d, scale),
                Cell(glossary.fmt_interval(low, high, scale)),
            )
            for s, a, b, d, low, high in rows
        ),
        said,
        source,
    )


def _stages(report: Report, found: Stages) -> Iterator[Block]:
    name, unit = report.selection.performance, report.selection.unit
    words = f"{_unit(report)}; n of each label stands beside it; {glossary.sign()}."
    link = view(report, "compare", mode="stages", first=found.first, second=found.second)
    yield Heading(f"{found.first} beside {found.second}", 3)
    yield Figure(
        "pairs",
        f"{found.first} and {found.second}",
        {
            "name": [_sized(g) for g in found.groups],
            "first": list(found.effect_first),
            "second": list(found.effect_second),
            "words": [found.first, found.second],
            "performance": name,
            "unit": unit,
        },
        f"Estimated effect of “{found.first}” (pale) and of “{found.second}” (full) on the mean {name} of each true "
        f"label. {words} {found.words}",
        "The table below has the values.",
        evidence(report, part="by true label"),
        link,
    )
    scale = glossary.scale_of([*found.effect_first, *found.effect_second])
    rows = zip(found.groups, found.effect_first, found.effect_second, strict=True)
    yield Table(
        f"Estimated {_axis(report)}, mean over the examples of each true label.",
        ("Group", "n", found.first, found.second, "Difference"),
        tuple(
            (
                Cell(g.value),
                Cell(f"{g.n:,}"),
                effect(a, scale),
                effect(b, scale),
                effect((a or 0.0) - (b or 0.0), scale),
            )
            for g, a, b in rows
        ),
        words,
    )
    yield from _matrix(
        "Did the stages pull the same way? Cosine between what two stages did to the final weights, to first order.",
        "Stage",
        found.stage,
        found.stage,
        found.cosine,
        "1 = the same direction, 0 = unrelated, −1 = one undid the other. No unit; all weights count alike.",
        f"run {report.run.digest[:SHORT]}; {report.method.method}/{report.method.curvature}, {report.method.semantics}",
        link,
    )


def _sized(group: Group) -> str:
    return f"{group.value} (n = {group.n:,})"


def _prediction(report: Report, found: Prediction) -> Iterator[Block]:
    scale = found.effect
    noise = "" if found.within_noise is not None else " No noise floor was measured for this question."
    yield Heading("Predicted, not retrained", 3)
    yield Table(
        f"What a change of the training would do to the mean {report.selection.performance}, as estimated.",
        ("What if", "n", "As recorded", "Predicted", "Effect of the change"),
        (
            (
                Cell(found.what, f"{found.estimator}, not retrained"),
                Cell(f"{found.n:,}"),
                Cell(glossary.fmt_effect(found.recorded, scale)),
                Cell(glossary.fmt_effect(found.predicted, scale)),
                effect(found.effect, scale, NOISE if found.within_noise else ""),
            ),
        ),
        f"{_unit(report)}; n = {found.n:,}; positive = training as recorded did better. No retraining of this change "
        f"is stored in this workspace.{noise} {found.words}",
        evidence(report, estimator=found.estimator),
        link=view(report, "what-if", **found.query),
    )


def _unit(report: Report) -> str:
    unit = glossary.unit_words(report.selection.unit)
    return f"{unit[0].upper()}{unit[1:]}"


def _axis(report: Report) -> str:
    return glossary.axis_title(report.selection.performance, report.selection.unit)
