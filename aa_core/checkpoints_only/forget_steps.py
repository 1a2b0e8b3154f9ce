"""What would be left of a recorded run had its steps not been recorded."""

from __future__ import annotations

from pathlib import Path

import torch

from aa_core.checkpoints_only.checkpoint_writer import Contents, check_segmented, checked, described, write_checkpoints
from aa_core.checkpoints_only.checkpoints import CheckpointRun, SegmentEntry
from aa_core.errors import RequestError, UnsupportedError
from aa_core.runs.examples import Examples, to_fields
from aa_core.runs.trajectory import Trajectory
from aa_core.state import AVERAGE


def forget_steps(run: Trajectory, path: str | Path) -> CheckpointRun:
    """Write at `path` what would be left of a recorded run had only the ends of its stages been kept, and open it.

    So the approximation from checkpoints can be compared with the exact answer. Hyperparameters become their means over
    a stage; optimizer slots are kept; examples are stored, each once a stage.

    Raises:
        RequestError: a stage was trained in several blocks, or the state at its end is not stored.
        UnsupportedError: the run has several parameter groups or phases, averaged weights, or an optimizer without a
            segment-wise form.
    """
    if len(run.phases) != 1:
        raise UnsupportedError("the run changes its optimizer or its parameters; a run of checkpoints does not")
    if (groups := len(run.phases[0].groups)) != 1:
        raise UnsupportedError(f"the run has {groups} parameter groups; a run of checkpoints has one")
    if AVERAGE in run.load(0).state.slots:
        raise UnsupportedError("the run is judged by averaged weights; a run of checkpoints knows no averages")
    edges = [0, *(s.stop for s in run.stages)]
    for stage in run.stages:
        if len(stage.blocks) != 1 or stage.stop not in run.checkpoints:
            raise RequestError(
                f"stage {stage.name!r} has the blocks {stage.blocks}; a run of checkpoints needs stages of one block "
                f"each, with a state at its end (there are states at {list(run.checkpoints)})"
            )
    entries = tuple(_forgotten(run, i) for i in range(len(run.stages)))
    header = run.header
    contents = Contents(
        run.title,
        header.problem,
        header.model_class,
        header.loss,
        entries,
        tuple(run.load(k) for k in edges),
        {e.data: _recorded_examples(run, i) for i, e in enumerate(entries)},
        run.evaluation,
    )
    return write_checkpoints(Path(path), contents, {})


def _forgotten(run: Trajectory, index: int) -> SegmentEntry:
    stage, of_each = run.stages[index], [run.record(k).hyper[0] for k in run.stages[index].steps]
    hyper = {n: sum(h[n] for h in of_each) / len(of_each) for n in of_each[0]}
    check_segmented(f"stage {stage.name!r}", run.optimizer, hyper)
    return checked(
        SegmentEntry,
        f"stage {stage.name!r}",
        name=stage.name,
        note=stage.note,
        metadata=stage.metadata,
        optimizer=run.optimizer,
        hyper=hyper,
        resumes=index > 0,
        batch_size=next(n for n in (len(run.record(k).rows) for k in stage.steps) if n),
        checkpoints=(stage.stop,),
        data=f"data/{index}.safetensors",
    )


def _recorded_examples(run: Trajectory, index: int) -> Examples:
    rows = torch.cat([run.record(k).rows for k in run.stages[index].steps]).unique()
    batch = run.examples(rows)
    return described(to_fields(batch.inputs, batch.targets), run.example_ids(rows), None)
