"""A tiny run whose names want to break a report, and what the engine says of it. In memory: nothing is recorded."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from aa_core.problem import Problem
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
from aa_core.runs.evaluation import Evaluation
from aa_core.stages import stage_of_steps
from tests.zoo import OPTIMIZERS, MemoryRun, examples, mlp, record

SCRIPT, TITLE, TURNED, FORMULA = "<script>alert(1)</script>", "</title>", "a\u202eb", "=1+1"
HOSTILE = (SCRIPT, TITLE, TURNED, FORMULA)
STEPS, N = 3, 12


@dataclass
class ToldRun(MemoryRun):
    """A run with all that a report says of it."""

    path: Path = Path("/somewhere/a run")
    title: str = f"{TITLE}<img src=x onerror=alert(1)>"
    sealed: bool = True
    warnings: tuple[str, ...] = ("a torn <b>line</b>",)
    environment: dict[str, Any] = field(default_factory=lambda: {"python": "3.x", "threads": 1})
    evaluation: Evaluation | None = None

    def log_frame(self) -> pd.DataFrame:
        owner = stage_of_steps(self.stages, self.steps)
        loss = [float("nan"), *(1.0 / k for k in range(1, self.steps))]
        norm = [10.0**-k for k in range(self.steps - 1)] + [float("inf")]
        return pd.DataFrame({"step": range(self.steps), "stage": owner, "loss": loss, "lr": 0.05, "grad_norm": norm})


def make(stages: tuple[str, ...] = HOSTILE, n: int = N) -> tuple[ToldRun, Problem]:
    """(run of three steps a stage, problem)."""
    torch.manual_seed(0)
    count = STEPS * len(stages)
    run, problem, _ = record(
        mlp(), OPTIMIZERS["momentum"], stages=tuple((s, STEPS) for s in stages), steps=count, every=count
    )
    noted = tuple(dataclasses.replace(s, note="@note") for s in run.stages)
    digest = hashlib.sha256(repr(stages).encode()).hexdigest()
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)} | {"stages": noted, "digest": digest}
    return ToldRun(**fields, evaluation=Evaluation(*examples(n, seed=7))), problem


def shown() -> Shown:
    """Every section that screens can add; each of its strings wants to break a report."""
    groups, row = tuple(Group(column="", value=name, n=3) for name in HOSTILE), (0.1, -0.2, 0.3, None)
    table = GroupTable(groups=groups, stage=HOSTILE, effect=(row,) * 4, low=(row,) * 4, high=(row,) * 4)
    ends = dict.fromkeys(("first", "second", "effect", "low", "high"), row)
    gap = Gap(groups=groups[:2], stage=HOSTILE, **ends)
    return Shown(
        parts=Parts(by="layer", stage=HOSTILE, part=HOSTILE, effect=(row,) * 4, words=TITLE),
        shares=Shares(stage=HOSTILE, share=row, start=-2.0),
        batch=StepExamples(step=2, stage=SCRIPT, row=(5, 1, 2, 3), id=HOSTILE, label=HOSTILE, effect=row, words=TITLE),
        grouping=Grouping(
            by=SCRIPT, table=table, counted=16, apart=9, apart_corrected=2, gap=gap, evaluation="e" * 64, words=TITLE
        ),
        stages=Stages(
            first=SCRIPT,
            second=TITLE,
            groups=groups,
            effect_first=row,
            effect_second=row,
            stage=HOSTILE,
            cosine=(row,) * 4,
            evaluation="e" * 64,
            words=TITLE,
        ),
        prediction=Prediction(
            what=FORMULA,
            recorded=-1.0,
            predicted=-1.1,
            effect=0.1,
            n=N,
            within_noise=True,
            estimator="boundary/exact/linear",
            query={"skip": (SCRIPT,)},
            words=TITLE,
        ),
    )


def whatif(stage: str, truth: float, **changes: Any) -> dict[str, Any]:
    """A stored result of a "whatif" job."""
    return {
        "counterfactual": f"skip {stage}",
        "skip": [stage],
        "scale": 0.0,
        "semantics": "freeze",
        "performance": "log-likelihood",
        "unit": "nats",
        "n": N,
        "mean_recorded": -1.0,
        "mean_retrained": -1.0 - truth,
        "mean_estimate": 0.1,
        "mean_truth": truth,
        "agreement": {"n": N, "pearson": 0.9, "sign": 1.0, "slope": float("nan")},
        "seconds": 1.5,
        **changes,
    }
