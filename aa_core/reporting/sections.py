"""What the engine found, as the sections of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from aa_core.attribution import Attribution
from aa_core.errors import RequestError
from aa_core.evaluation import Evaluation
from aa_core.records import RunLike
from aa_core.reliability import Reliability
from aa_core.reporting import glossary
from aa_core.reporting.bins import binned
from aa_core.reporting.bootstrap import bootstrap_interval
from aa_core.reporting.model import (
    Check,
    ExampleTable,
    Log,
    MethodSection,
    ReliabilitySection,
    RunSection,
    RunStage,
    StageRow,
    StepTable,
)
from aa_core.stages import find

MOST_STEPS, MOST_VALUES = 10_000, 20_000
"""Rows of the step table, and cells of the example table, that a report of a few megabytes can hold."""


class ReportedRun(RunLike, Protocol):
    """What a report says of a run, beyond what the engine asks of it."""

    @property
    def path(self) -> Path: ...
    @property
    def title(self) -> str: ...
    @property
    def sealed(self) -> bool: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def environment(self) -> Any: ...
    @property
    def evaluation(self) -> Evaluation | None: ...
    def log_frame(self) -> pd.DataFrame: ...


def stage_rows(run: RunLike, effects: Attribution) -> tuple[StageRow, ...]:
    """Mean, share helped and interval of each stage; positive = the stage helped."""
    lows, highs = bootstrap_interval(effects.effects)
    values = effects.effects.numpy()
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
                readouts={readout: float(by[i].mean()) for readout, by in effects.readings.items()},
                share_helped=float((own > 0).mean()) if len(own) > 1 else None,
            )
        )
    return tuple(rows)


def run_section(run: ReportedRun) -> RunSection:
    environment = run.environment
    return RunSection(
        digest=run.digest,
        title=run.title,
        optimizer=run.optimizer,
        steps=run.steps,
        sealed=run.sealed,
        warnings=tuple(run.warnings),
        environment=environment.model_dump(mode="json") if hasattr(environment, "model_dump") else dict(environment),
        stages=tuple(
            RunStage(name=s.name, blocks=s.blocks, note=s.note, metadata=dict(s.metadata)) for s in run.stages
        ),
        log=_log(run.log_frame()),
    )


def _log(frame: pd.DataFrame) -> Log | None:
    if not {"step", "stage", "loss", "lr"} <= set(frame) or frame.empty:
        return None
    rows, width = binned(frame[["step", "stage", "loss", "lr"]], "mean")
    return Log(**{c: tuple(rows[c].tolist()) for c in ("step", "stage", "loss", "lr")}, steps_per_row=width)


def method_section(asked: Mapping[str, Any], reliability: Reliability) -> MethodSection:
    method, curvature, readout, semantics = (asked[k] for k in ("method", "curvature", "readout", "semantics"))
    return MethodSection(
        method=method,
        curvature=curvature,
        readout=readout,
        semantics=semantics,
        formula=(glossary.EMBEDDINGS[method], glossary.FORMULAS[readout]),
        words=(
            glossary.SEMANTICS[semantics],
            glossary.LATER_STEPS,
            glossary.METHODS[method],
            glossary.CURVATURES[curvature],
            glossary.READOUTS[readout],
        ),
        assumptions=reliability.assumptions,
    )


def reliability_section(found: Reliability) -> ReliabilitySection:
    return ReliabilitySection(
        growth=found.growth,
        effective_lr=found.effective_lr,
        stiff_share=found.stiff_share,
        words=found.words,
        readout_spread=found.readout_spread,
        signs_agree=found.signs_agree,
    )


def step_table(steps: Attribution) -> StepTable:
    rows, width = binned(steps.units.assign(effect=steps.effects[:, 0].numpy()), "sum", MOST_STEPS)
    columns = {c: tuple(rows[c].tolist()) for c in ("step", "stage", "effect")}
    return StepTable(**columns, steps_per_row=width, reliability=reliability_section(steps.reliability))


def example_table(effects: Attribution) -> ExampleTable | None:
    """None for a single value, and for more than a report can hold."""
    if len(effects.labels) < 2 or effects.effects.numel() > MOST_VALUES:
        return None
    return ExampleTable(
        example=effects.labels,
        stage=tuple(effects.units["stage"]),
        effect=tuple(tuple(row) for row in effects.effects.tolist()),
    )


def check_section(found: Mapping[str, Any], digest: str) -> Check:
    """A stored "whatif" result; without a result, its `status` or `error` says why."""
    source = found.get("provenance") or {}
    if source.get("run", digest) != digest:
        raise RequestError(
            f"the what-if {found['counterfactual']!r} is of run {source['run']}, the report is about run {digest}"
        )
    status = str(found.get("status") or (f"failed: {found['error']}" if found.get("error") else "done"))
    means: dict[str, Any] = {
        k: found.get(k) for k in ("mean_recorded", "mean_retrained", "mean_estimate", "mean_truth")
    }
    agreement = found.get("agreement") or {}
    skipped = found.get("skip") or () if not found.get("scale") else ()
    return Check(
        counterfactual=str(found["counterfactual"]),
        skip=tuple(str(name) for name in skipped),
        semantics=str(found.get("semantics", "freeze")),
        status=status,
        performance=found.get("performance", source.get("performance")),
        evaluation=source.get("evaluation"),
        unit=str(found.get("unit", "")),
        n=found.get("n"),
        agreement={str(k): v for k, v in dict(agreement).items()},
        seconds=found.get("seconds"),
        **means,
    )
