"""The recorded run and the request, as the sections of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor

from aa_core.check import check_files
from aa_core.confidence.reliability import Reliability
from aa_core.records import RunLike
from aa_core.reporting import glossary
from aa_core.reporting.bins import binned
from aa_core.reporting.model import MethodSection, ReliabilitySection
from aa_core.reporting.recorded import DataSection, Log, Replay, RunSection, RunStage, StoredFile
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.header import FileEntry
from aa_core.runs.trajectory import Trajectory
from aa_core.stages import Stage

UNWRITTEN = "in memory only: there are no files to check"


class ReportedRun(RunLike, Protocol):
    """What a report says of a run, beyond what the engine asks of it."""

    @property
    def path(self) -> Path: ...
    @property
    def title(self) -> str: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def sealed(self) -> bool: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def environment(self) -> Any: ...
    @property
    def evaluation(self) -> Evaluation | None: ...
    def log_frame(self) -> pd.DataFrame: ...


def run_section(run: ReportedRun, replay: Mapping[str, Any] | None = None) -> RunSection:
    """The training as it was recorded; of a run that was never written, as far as it is known.

    replay: what a replay job found, as `aa_core.jobs.replayed` says it.
    """
    environment = run.environment
    return RunSection(
        digest=run.digest,
        title=run.title,
        optimizer=run.optimizer,
        steps=run.steps,
        sealed=run.sealed,
        warnings=tuple(run.warnings),
        environment=environment.model_dump(mode="json") if hasattr(environment, "model_dump") else dict(environment),
        stages=tuple(stage_section(run, s) for s in run.stages),
        log=_log(run.log_frame()),
        replay=None if replay is None else Replay(**replay),
        **(_written(run) if isinstance(run, Trajectory) else _UNKNOWN),
    )


_UNKNOWN: dict[str, Any] = {
    "created": "",
    "model": "",
    "loss": "",
    "parameters": None,
    "integrity": UNWRITTEN,
    "checkpoints": (),
}


def _written(run: Trajectory) -> dict[str, Any]:
    header = run.header
    return {
        "created": header.created,
        "model": header.model_class,
        "loss": header.loss,
        "parameters": sum(math.prod(t.shape) for t in header.parameters),
        "integrity": check_files(run).integrity,
        "checkpoints": _files(run.chain.files("state")),
    }


def data_section(run: ReportedRun) -> DataSection:
    """Counts of the examples, and the digests of the files that hold them."""
    rows, evaluation = _rows(run, run.stages), run.evaluation
    kept = ("examples", "evaluation") if isinstance(run, Trajectory) else ()
    return DataSection(
        examples=len(rows.unique()),
        uses=len(rows),
        evaluation=0 if evaluation is None else len(evaluation),
        classes=() if evaluation is None else evaluation.class_names or (),
        columns=() if evaluation is None or evaluation.metadata is None else tuple(evaluation.metadata.columns),
        files=tuple(f for role in kept for f in _files(run.chain.files(role))),  # type: ignore[attr-defined]
    )


def stage_section(run: RunLike, stage: Stage) -> RunStage:
    """One stage: what it was, what it was trained on, and by which optimizer."""
    rows = _rows(run, (stage,))
    return RunStage(
        name=stage.name,
        blocks=stage.blocks,
        note=stage.note,
        metadata=dict(stage.metadata),
        examples=len(rows.unique()),
        uses=len(rows),
        optimizer=", then ".join(_optimizers(run, stage)),
    )


def _optimizers(run: RunLike, stage: Stage) -> Iterator[str]:
    """The update rule of each phase that has steps of this stage."""
    stops = [*(phase.start for phase in run.phases[1:]), run.steps]
    for phase, stop in zip(run.phases, stops, strict=True):
        if any(a < stop and phase.start < b for a, b in stage.blocks):
            yield phase.optimizer


def _rows(run: RunLike, stages: tuple[Stage, ...]) -> Tensor:
    """The training examples of all steps of these stages, as often as they were used."""
    used = [m.rows for s in stages for a, b in s.blocks for k in range(a, b) for m in run.record(k).micro_batches]
    return torch.cat(used) if used else torch.zeros(0, dtype=torch.int64)


def _files(entries: tuple[FileEntry, ...]) -> tuple[StoredFile, ...]:
    return tuple(StoredFile(name=f.name, sha256=f.sha256, size=f.size) for f in entries)


def _log(frame: pd.DataFrame) -> Log | None:
    if not {"step", "stage", "loss", "lr"} <= set(frame) or frame.empty:
        return None
    known = [c for c in ("step", "stage", "loss", "lr", "grad_norm") if c in frame]
    rows, width = binned(frame[known], "mean")
    return Log(**{c: tuple(rows[c].tolist()) for c in known}, steps_per_row=width)


def method_section(asked: Mapping[str, Any], reliability: Reliability) -> MethodSection:
    """The estimator in words and formulas, with its assumptions."""
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
    """The figures behind the verdict, and the verdict."""
    return ReliabilitySection(
        growth=found.growth,
        effective_lr=found.effective_lr,
        stiff_share=found.stiff_share,
        trust=found.verdict.trust,
        words=found.words,
        readout_spread=found.readout_spread,
        signs_agree=found.signs_agree,
        noise_of_mean=found.noise_of_mean,
        moved=found.moved,
    )
