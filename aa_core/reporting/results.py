"""Effects, as the tables of a report: by stage, by step, by subgroup, by example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from aa_core.confidence.reliability import signs_differ
from aa_core.effects.attribution import Attribution
from aa_core.records import RunLike
from aa_core.reporting.bins import binned
from aa_core.reporting.bootstrap import bootstrap_interval
from aa_core.reporting.model import ExampleTable, ReliabilitySection, StageRow, StepTable
from aa_core.reporting.sections import reliability_section
from aa_core.reporting.shown import Group, GroupTable
from aa_core.runs.evaluation import Evaluation
from aa_core.stages import find

MOST_STEPS, MOST_VALUES = 10_000, 20_000
"""Rows of the step table, and cells of the example table, that a report of a few megabytes can hold."""
MOST_KINDS = 12
"""Values up to which a column makes subgroups."""
LABEL, OTHER_LABEL = "label", "label (metadata)"
"""What groups are told by: the classes, and a column of that very name which says something else."""


def stage_rows(run: RunLike, effects: Attribution) -> tuple[StageRow, ...]:
    """Mean, share helped and interval of each stage; positive = the stage helped."""
    lows, highs = bootstrap_interval(effects.effects)
    values, noise = effects.effects.numpy(), effects.reliability.noise_of_mean
    rows = []
    for i, (name, own, low, high) in enumerate(zip(effects.units["stage"], values, lows, highs, strict=True)):
        stage = find(run.stages, name)
        rows.append(
            StageRow(
                stage=name,
                steps=len(stage),
                note=stage.note,
                mean=float(own.mean()),
                low=low,
                high=high,
                n=effects.provenance["n"],
                within_noise=None if noise is None else bool(abs(own.mean()) <= noise),
                readouts={readout: float(by[i].mean()) for readout, by in effects.readings.items()},
                share_helped=float((own > 0).mean()) if len(own) > 1 else None,
            )
        )
    return tuple(rows)


def step_table(steps: Attribution) -> StepTable:
    """The effect of each step on one value."""
    return step_rows(steps.units.assign(effect=steps.effects[:, 0].numpy()), reliability_section(steps.reliability))


def step_rows(frame: pd.DataFrame, reliability: ReliabilitySection) -> StepTable:
    """The same of a table of step, stage, effect; neighbours are summed above 10,000."""
    rows, width = binned(frame, "sum", MOST_STEPS)
    columns = {c: tuple(rows[c].tolist()) for c in ("step", "stage", "effect")}
    return StepTable(**columns, steps_per_row=width, reliability=reliability)


def example_table(effects: Attribution) -> ExampleTable | None:
    """None for a single value, and for more than a report can hold."""
    if len(effects.labels) < 2 or effects.effects.numel() > MOST_VALUES:
        return None
    return ExampleTable(
        example=effects.labels,
        stage=tuple(effects.units["stage"]),
        effect=tuple(tuple(row) for row in effects.effects.tolist()),
    )


def group_table(evaluation: Evaluation | None, effects: Attribution) -> GroupTable | None:
    """Mean effect and interval of each stage on each class, and on each value of a column that has few; None if none.

    The examples are those of the effects, whose labels are rows of the evaluation set.
    """
    if evaluation is None or len(effects.labels) < 2 or len(effects.labels) != effects.provenance["n"]:
        return None
    found = list(_groups(evaluation, [int(i) for i in effects.labels]))
    if not found:
        return None
    cells = [effects.effects[:, members] for _, members in found]
    ends = [bootstrap_interval(cell) for cell in cells]
    unsure = [signs_differ({k: v[:, members] for k, v in effects.readings.items()}) for _, members in found]
    return GroupTable(
        groups=tuple(group for group, _ in found),
        stage=tuple(effects.units["stage"]),
        effect=_by_stage([cell.mean(1).tolist() for cell in cells]),
        low=_by_stage([low for low, _ in ends]),
        high=_by_stage([high for _, high in ends]),
        unsure=_by_stage(unsure),
    )


def _groups(evaluation: Evaluation, rows: Sequence[int]) -> Iterator[tuple[Group, Tensor]]:
    """Each subgroup, and the places of its examples among `rows`."""
    for column, values in grouping_columns(evaluation).items():
        chosen = values.iloc[list(rows)].reset_index(drop=True)
        kinds = sorted(chosen.dropna().unique().tolist(), key=lambda v: (str(type(v)), v))
        if 2 <= len(kinds) <= MOST_KINDS:
            for kind in kinds:
                places = torch.from_numpy((chosen == kind).to_numpy().nonzero()[0].copy())
                yield Group(column=column, value=str(kind), n=len(places)), places


def grouping_columns(evaluation: Evaluation) -> dict[str, pd.Series]:
    """The label by its name, then the metadata that are not the label again."""
    metadata = pd.DataFrame() if evaluation.metadata is None else evaluation.metadata
    found = {str(c): metadata[c] for c in metadata}
    if evaluation.y.dim() != 1 or evaluation.y.is_floating_point():
        return found
    y = pd.Series(evaluation.y.tolist())
    names = evaluation.class_names
    label = y if names is None else y.map(lambda i: names[i] if 0 <= i < len(names) else str(i))
    same = [
        c for c, v in found.items() if v.astype(str).tolist() in (y.astype(str).tolist(), label.astype(str).tolist())
    ]
    others = {OTHER_LABEL if c == LABEL else c: v for c, v in found.items() if c not in same}
    return {LABEL: label, **others}


def _by_stage(by_group: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(zip(*by_group, strict=True))
