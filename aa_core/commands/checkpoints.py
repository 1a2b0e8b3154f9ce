"""What the commands say and do where only checkpoints of a training are known."""

from __future__ import annotations

from typing import Any

import typer

from aa_core.checkpoints_only.checkpoints import CheckpointRun, check_checkpoints
from aa_core.checkpoints_only.segment_effects import APPROXIMATION, check_segment_request, segment_effects
from aa_core.commands.console import note
from aa_core.effects.attribution import Attribution
from aa_core.performance import Performance
from aa_core.problem import Problem


def facts(run: CheckpointRun) -> dict[str, Any]:
    """What `aa info` says of it."""
    header, evaluation = run.header, run.evaluation
    stages = [f"{s.optimizer}, lr {s.hyper['lr']:.4g}" for s in header.stages]
    return {
        "title": run.title or "(none)",
        "digest": run.digest,
        "known": "checkpoints only: no step was recorded. Effects of stages are approximated from them; steps,",
        "": "replay and retraining are not to be had",
        "problem": header.problem.name or "(none: name one with --problem)",
        "model": f"{header.model_class}, {len(header.parameters)} parameter tensors, loss {header.loss}",
        "optimizer": "; ".join(dict.fromkeys(stages)),
        "steps": run.steps,
        "checkpoints": f"{len(run.checkpoints)}, before steps {', '.join(map(str, run.checkpoints))}",
        "evaluation": f"{len(evaluation)} examples" if evaluation else "(none)",
    }


def check(run: CheckpointRun) -> None:
    """`aa check`: the files against their digests; there is nothing to replay."""
    findings = check_checkpoints(run)
    for finding in findings:
        note(f"finding: {finding}")
    intact = f"NOT INTACT: {len(findings)} finding{'s' * (len(findings) > 1)}" if findings else "files intact"
    typer.echo(f"{intact}; not replayed: only checkpoints of this training are known")
    raise typer.Exit(1 if findings else 0)


def effects(run: CheckpointRun, problem: Problem, judged: Performance, **asked: Any) -> Attribution:
    """`aa effects`: of the stages, approximated; RequestError for what needs steps."""
    if asked["by"] == "step":
        run.refuse("the effects of steps were asked for")
    check_segment_request(asked["method"], asked["semantics"])
    note(f"{APPROXIMATION}; how good that is: docs/checkpoints-only.md")
    return segment_effects(
        run,
        problem,
        judged,
        curvature=asked["curvature"] or "ggn",
        readout=asked["readout"] or "displaced",
        progress=asked["progress"],
    )
