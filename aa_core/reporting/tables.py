"""Report -> DataFrames and CSV: one table a question, every column named with what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import pandas as pd

from aa_core.reporting.escape import safe_cell
from aa_core.reporting.glossary import CURVES
from aa_core.reporting.model import Report
from aa_core.reporting.recorded import Number
from aa_core.reporting.shown import GroupTable


def to_frames(report: Report) -> dict[str, pd.DataFrame]:
    """{name: table} of all that the report holds as numbers; a table without rows is left out."""
    found = {
        "stages": stage_frame(report),
        "steps": step_frame(report),
        "groups": group_frame(report),
        "examples": example_frame(report),
        "checks": check_frame(report),
        "calibration": calibration_frame(report),
        "comparison": comparison_frame(report),
        **shown_frames(report),
        "findings": finding_frame(report),
        "training": log_frame(report),
    }
    return {name: frame for name, frame in found.items() if len(frame)}


def to_csv(report: Report) -> dict[str, str]:
    """{file name: CSV}; cells that a spreadsheet would run as a formula are prefixed with an apostrophe."""
    return {f"{name}.csv": _csv(frame) for name, frame in to_frames(report).items()}


def stage_frame(report: Report) -> pd.DataFrame:
    """stage, steps, note, effect, low, high, share_helped, n, effect by readout, unit; positive = helped."""
    rows = [
        {**r.model_dump(exclude={"readouts"}), **{f"effect_{k}": v for k, v in r.readouts.items()}}
        for r in report.stages
    ]
    frame = pd.DataFrame(rows).rename(columns={"mean": "effect"}).assign(unit=report.selection.unit)
    return frame.astype({"effect": float, "low": float, "high": float, "share_helped": float})


def step_frame(report: Report) -> pd.DataFrame:
    """step, stage, effect, steps_per_row, unit; positive = the step helped."""
    if report.steps is None:
        return pd.DataFrame()
    columns = report.steps.model_dump(include={"step", "stage", "effect", "steps_per_row"})
    return pd.DataFrame(columns).astype({"effect": float}).assign(unit=report.selection.unit)


def example_frame(report: Report) -> pd.DataFrame:
    """example, then one column of effects a stage."""
    if report.examples is None:
        return pd.DataFrame()
    columns = [
        pd.Series(e, name=s, dtype=float) for s, e in zip(report.examples.stage, report.examples.effect, strict=True)
    ]
    return pd.concat([pd.Series(report.examples.example, name="example"), *columns], axis=1)


def group_frame(report: Report) -> pd.DataFrame:
    """One row a stage and subgroup: stage, column, value, n, effect, low, high, unit."""
    return pd.DataFrame() if report.groups is None else _grouped(report.groups).assign(unit=report.selection.unit)


def _grouped(found: GroupTable) -> pd.DataFrame:
    empty = set() if any(g.definition for g in found.groups) else {"definition"}
    rows = [
        {"stage": stage, **group.model_dump(exclude=empty), "effect": e, "low": low, "high": high}
        for stage, *columns in zip(found.stage, found.effect, found.low, found.high, strict=True)
        for group, e, low, high in zip(found.groups, *columns, strict=True)
    ]
    frame = pd.DataFrame(rows).astype({"effect": float, "low": float, "high": float})
    return frame.assign(unsure=list(chain(*found.unsure))) if found.unsure else frame


def calibration_frame(report: Report) -> pd.DataFrame:
    """One row an estimator: its agreement with really leaving each stage out."""
    found = report.calibration
    return pd.DataFrame() if found is None else pd.DataFrame([e.model_dump() for e in found.estimators])


def comparison_frame(report: Report) -> pd.DataFrame:
    """stage, effect in this run and in the other, unit."""
    found = report.comparison
    if found is None:
        return pd.DataFrame()
    columns = {"stage": found.stage, "effect_here": found.here, "effect_there": found.there}
    frame = pd.DataFrame(columns).astype({"effect_here": float, "effect_there": float})
    return frame.assign(unit=report.selection.unit)


def shown_frames(report: Report) -> dict[str, pd.DataFrame]:
    """What was chosen on the screens, a table a section; what is None is left out."""
    shown, found = report.shown, dict[str, pd.DataFrame]()
    if (parts := shown.parts) is not None:
        cells = _cells(parts.stage, parts.part, parts.effect)
        found["parts"] = pd.DataFrame(cells, columns=["stage", parts.by, "effect"])
    if (shares := shown.shares) is not None:
        gained = zip(("at the start", *shares.stage), (shares.start, *shares.share), strict=True)
        found["shares"] = pd.DataFrame(gained, columns=["stage", "share"])
    if (batch := shown.batch) is not None:
        found["training_examples"] = pd.DataFrame(batch.model_dump(exclude={"words"}))
    if (grouping := shown.grouping) is not None:
        found["chosen_groups"] = _grouped(grouping.table).assign(column=grouping.by or "saved subgroups")
        if (gap := grouping.gap) is not None:
            one, two = (g.value for g in gap.groups)
            frame = pd.DataFrame(gap.model_dump(exclude={"groups"}))
            found["gap"] = frame.assign(first_group=one, second_group=two)
    if (stages := shown.stages) is not None:
        frame = pd.DataFrame(stages.model_dump(include={"effect_first", "effect_second"}))
        sizes = {"group": [g.value for g in stages.groups], "n": [g.n for g in stages.groups]}
        found["two_stages"] = frame.assign(first_stage=stages.first, second_stage=stages.second, **sizes)
    if (prediction := shown.prediction) is not None:
        found["prediction"] = pd.DataFrame([prediction.model_dump(exclude={"query", "words"})])
    found = {name: frame.assign(unit=report.selection.unit) for name, frame in found.items()}
    if stages is not None:
        cosines = _cells(stages.stage, stages.stage, stages.cosine)
        found["cosines"] = pd.DataFrame(cosines, columns=["stage", "other_stage", "cosine"])
    return found


def _cells(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[Number]]) -> list[tuple[Any, ...]]:
    return [(r, c, v) for r, row in zip(rows, values, strict=True) for c, v in zip(columns, row, strict=True)]


def finding_frame(report: Report) -> pd.DataFrame:
    """One row a finding of the ledger."""
    left_out = {"evidence", "changed", "sign_off"}
    return pd.DataFrame([{**f.model_dump(exclude=left_out), "reopens": not f.changed} for f in report.ledger.findings])


def check_frame(report: Report) -> pd.DataFrame:
    """One row a retraining: counterfactual, status, means, agreement, seconds, and what made its estimate."""
    nested = {"agreement", "points", "request", "provenance", "earlier", "kind", "reliability"}
    rows = [
        {
            **c.model_dump(exclude=nested),
            **{f"agreement_{k}": v for k, v in c.agreement.items()},
            **{k: c.provenance[k] for k in ("method", "curvature", "readout", "code") if k in c.provenance},
        }
        for c in report.checks
    ]
    return pd.DataFrame(rows)


def log_frame(report: Report) -> pd.DataFrame:
    """step, stage, loss, lr, grad_norm (where it is known), steps_per_row of the training itself."""
    if report.run.log is None:
        return pd.DataFrame()
    known = {c: values for c, values in report.run.log.model_dump().items() if values}
    return pd.DataFrame(known).astype({c: float for c in CURVES if c in known})


def _csv(frame: pd.DataFrame) -> str:
    safe = frame.map(safe_cell)
    safe.columns = [safe_cell(c) for c in frame.columns]
    return safe.to_csv(index=False, lineterminator="\n")
