"""The recorded run and the request, as the sections of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from aa_core.check import check_files
from aa_core.checkpoints_only.checkpoints import CheckpointRun, check_checkpoints
from aa_core.confidence.reliability import Reliability
from aa_core.confidence.verdict import SEGMENTS
from aa_core.records import RunLike
from aa_core.reporting import glossary
from aa_core.reporting.bins import binned
from aa_core.reporting.model import MethodSection, ReliabilitySection
from aa_core.reporting.recorded import DataSection, Log, Replay, RunSection, RunStage, StoredFile
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.header import Role
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
        **_written(run),
    )


_UNKNOWN: dict[str, Any] = {
    "created": "",
    "model": "",
    "loss": "",
    "parameters": None,
    "integrity": UNWRITTEN,
    "checkpoints": (),
}


def _written(run: ReportedRun) -> dict[str, Any]:
    """What the header and the files say."""
    if isinstance(run, CheckpointRun):
        known = {"created": "", "known": "checkpoints"}
        integrity = "; ".join(check_checkpoints(run)) or "intact; all match their digests"
    elif isinstance(run, Trajectory):
        known, integrity = {"created": run.header.created}, check_files(run).integrity
    else:
        return _UNKNOWN
    return {
        **known,
        "model": run.header.model_class,
        "loss": run.header.loss,
        "parameters": sum(math.prod(t.shape) for t in run.header.parameters),
        "integrity": integrity,
        "checkpoints": _files(run, "state"),
    }


def data_section(run: ReportedRun) -> DataSection:
    """Counts of the examples, and the digests of the files that hold them."""
    (examples, uses), evaluation = _used(run, run.stages), run.evaluation
    return DataSection(
        examples=examples,
        uses=uses,
        evaluation=0 if evaluation is None else len(evaluation),
        classes=() if evaluation is None else evaluation.class_names or (),
        columns=() if evaluation is None or evaluation.metadata is None else tuple(evaluation.metadata.columns),
        files=(*_files(run, "examples"), *_files(run, "evaluation")),
    )


def stage_section(run: RunLike, stage: Stage) -> RunStage:
    """One stage: what it was, what it was trained on, and by which optimizer."""
    examples, uses = _used(run, (stage,))
    return RunStage(
        name=stage.name,
        blocks=stage.blocks,
        note=stage.note,
        metadata=dict(stage.metadata),
        examples=examples,
        uses=uses,
        optimizer=", then ".join(_optimizers(run, stage)),
    )


def _optimizers(run: RunLike, stage: Stage) -> Iterator[str]:
    """The update rule of each phase that has steps of this stage."""
    if isinstance(run, CheckpointRun):
        yield next(s.optimizer for s in run.header.stages if s.name == stage.name)
        return
    stops = [*(phase.start for phase in run.phases[1:]), run.steps]
    for phase, stop in zip(run.phases, stops, strict=True):
        if any(a < stop and phase.start < b for a, b in stage.blocks):
            yield phase.optimizer


def _used(run: RunLike, stages: tuple[Stage, ...]) -> tuple[int, int | None]:
    """How many distinct training examples these stages have, and how often one was used, where steps are known."""
    if isinstance(run, CheckpointRun):
        return len({bytes(d) for s in stages for d in run.stage_examples(s.name).digests.numpy()}), None
    rows = torch.cat([torch.zeros(0, dtype=torch.int64), *(run.record(k).rows for s in stages for k in s.steps)])
    return len(rows.unique()), len(rows)


def _files(run: ReportedRun, role: Role) -> tuple[StoredFile, ...]:
    entries = run.files(role) if isinstance(run, Trajectory | CheckpointRun) else ()
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
            *([] if method == SEGMENTS else [glossary.LATER_STEPS]),
            {**glossary.METHODS, **glossary.APPROXIMATED}[method],
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
