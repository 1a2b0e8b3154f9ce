"""Making a run of checkpoints: from what is left of a training, or from a recorded run whose steps are forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from aa_core.checkpoints_only.checkpoint_writer import (
    Contents,
    check_segmented,
    checked,
    copied,
    described,
    write_checkpoints,
)
from aa_core.checkpoints_only.checkpoints import CheckpointRun, SegmentEntry
from aa_core.errors import ProblemError, RequestError, RunFormatError
from aa_core.recording.live import LossFunction
from aa_core.records import Inputs
from aa_core.rules import UpdateRule, rule_for
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.examples import DatasetReference, Examples, check_ids, fetch, to_fields
from aa_core.runs.header import ProblemEntry
from aa_core.runs.store import layout
from aa_core.state import Params, Snapshot, State

StateDict = Mapping[str, Tensor]


class Checkpoint(NamedTuple):
    """A state of the training: of the model, and of the optimizer where that was kept too."""

    model: StateDict | str | Path
    """`model.state_dict()`, or a .safetensors file of it."""
    optimizer: Mapping[str, Any] | None = None
    """`optimizer.state_dict()` of an optimizer that was built from `model.parameters()`."""


@dataclass(frozen=True)
class SegmentStage:
    """One stage of a training of which the single steps are not known."""

    name: str
    checkpoints: Mapping[int, Checkpoint | StateDict | str | Path]
    """{steps of the stage that were done: state}; the largest number is the length of the stage."""
    optimizer: str
    """SGD, Adam or AdamW, as torch.optim calls it."""
    hyper: Mapping[str, Any]
    """The optimizer's arguments, such as {"lr": 0.01, "momentum": 0.9}; of a schedule, the mean over the stage."""
    data: tuple[Inputs, Tensor] | DatasetReference
    """The training examples (x, y), each once; or a dataset that the run names instead of storing it."""
    ids: Sequence[int] | Sequence[str] | None = None
    """One an example; of a referenced dataset the ids that were trained on, 0 to len(dataset) - 1 by default."""
    batch_size: int | None = None
    """Needed for Adam and AdamW where the optimizer's state was not kept."""
    resumes: bool = False
    """Whether the optimizer went on with the state that it had at the end of the stage before."""
    note: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def from_checkpoints(
    path: str | Path,
    model: nn.Module,
    loss_fn: LossFunction,
    initial: Checkpoint | StateDict | str | Path,
    stages: Sequence[SegmentStage],
    *,
    evaluation: Evaluation | None = None,
    title: str = "",
    problem: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> CheckpointRun:
    """Write what is known of a training as a run of checkpoints at `path`, and open it.

    Nothing is unpickled: states are tensors in memory, or safetensors files. The same arguments give the same digest.

    Args:
        model: architecture; its parameters that require a gradient are those that were trained.
        initial: the state before the first stage.
        stages: in the order of training, each with the states that were kept of it.
        problem, config: as for `Recorder`.

    Raises:
        RunExistsError: the path is taken.
        ProblemError: a state does not fit the model.
        RequestError, UnsupportedError: a stage's description makes no sense, or its optimizer is not supported.
        NonFiniteError: a state holds NaN or infinity.
    """
    if not stages or stages[0].resumes:
        raise RequestError("a run needs at least one stage, and there is nothing that the first could resume")
    rules, entries = [_rule(stage) for stage in stages], list[SegmentEntry]()
    for index, (stage, (_, hyper)) in enumerate(zip(stages, rules, strict=True)):
        start = entries[-1].checkpoints[-1] if entries else 0
        entries.append(_entry(stage, hyper, start, f"data/{index}.safetensors"))
    states = [_snapshot(model, 0, initial, rules[0][0], "the initial state")]
    for stage, (rule, _), entry in zip(stages, rules, entries, strict=True):
        for step, (done, given) in zip(entry.checkpoints, sorted(stage.checkpoints.items()), strict=True):
            states.append(_snapshot(model, step, given, rule, f"stage {stage.name!r}, step {done}"))
        _check_second_moment(stage, states[-1])
    contents = Contents(
        title,
        checked(ProblemEntry, "config", name=problem, config=dict(config or {})),
        f"{type(model).__module__}.{type(model).__qualname__}",
        str(getattr(loss_fn, "__qualname__", repr(loss_fn))),
        tuple(entries),
        tuple(states),
        {entry.data: _examples(stage) for stage, entry in zip(stages, entries, strict=True)},
        evaluation,
    )
    datasets = {s.data.name: s.data.dataset for s in stages if isinstance(s.data, DatasetReference)}
    return write_checkpoints(Path(path), contents, datasets)


def _rule(stage: SegmentStage) -> tuple[UpdateRule, dict[str, float]]:
    """The rule of a stage's optimizer and all its hyperparameters, as torch.optim itself completes and checks them."""
    check_segmented(f"stage {stage.name!r}", stage.optimizer)
    try:
        optimizer = getattr(torch.optim, stage.optimizer)([nn.Parameter(torch.zeros(1))], **stage.hyper)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"stage {stage.name!r}: torch.optim.{stage.optimizer} refuses {stage.hyper}: {error}"
        ) from None
    rule = rule_for(optimizer)
    hyper = rule.read_hyper(optimizer.param_groups[0])
    check_segmented(f"stage {stage.name!r}", rule.name, hyper)
    return rule, hyper


def _entry(stage: SegmentStage, hyper: dict[str, float], start: int, data: str) -> SegmentEntry:
    steps = sorted(stage.checkpoints)
    if not steps or steps[0] < 1:
        raise RequestError(
            f"stage {stage.name!r}: checkpoints after {steps} steps; expected at least the state at the end of the "
            "stage, as {number of steps of the stage: state}"
        )
    return checked(
        SegmentEntry,
        f"stage {stage.name!r}",
        name=stage.name,
        note=stage.note,
        metadata=dict(stage.metadata),
        optimizer=stage.optimizer,
        hyper=hyper,
        resumes=stage.resumes,
        batch_size=stage.batch_size,
        checkpoints=tuple(start + k for k in steps),
        data=data,
    )


def _check_second_moment(stage: SegmentStage, end: Snapshot) -> None:
    """Adam's preconditioner must be known, or possible to estimate."""
    if stage.optimizer.startswith("Adam") and "exp_avg_sq" not in end.state.slots and stage.batch_size is None:
        raise RequestError(
            f"stage {stage.name!r}: {stage.optimizer} divides by its second moment, which is not known. Give "
            "Checkpoint(model.state_dict(), optimizer.state_dict()) at the end of the stage, or batch_size to have it "
            "estimated from gradients"
        )


def _snapshot(model: nn.Module, step: int, given: Any, rule: UpdateRule, where: str) -> Snapshot:
    found = given if isinstance(given, Checkpoint) else Checkpoint(given)
    tensors = _tensors(found.model, where)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    carried = {**dict(model.named_buffers()), **{n: p for n, p in model.named_parameters() if n not in trained}}
    stored = model.state_dict()
    wrong = [f"{n} is not in the model" for n in tensors if n not in stored]
    for n, p in {**trained, **carried}.items():
        if n in stored and (n not in tensors or _kind(tensors[n]) != _kind(p)):
            wrong.append(f"{n}: found {_kind(tensors[n]) if n in tensors else 'nothing'}, the model has {_kind(p)}")
    if wrong:
        raise ProblemError(f"{where} does not fit the model:\n  " + "\n  ".join(wrong))
    slots, count = ({}, 0.0) if found.optimizer is None else _slots(rule, found.optimizer, trained, where)
    params = {n: copied(tensors[n]) for n in trained}
    buffers = {n: copied(tensors.get(n, t)) for n, t in carried.items()}
    return Snapshot(step, State(params, slots, torch.tensor([count], dtype=torch.float64)), buffers)


def _tensors(given: StateDict | str | Path, where: str) -> dict[str, Tensor]:
    if isinstance(given, Mapping):
        return dict(given)
    data = Path(given).read_bytes()
    try:
        layout(data, str(given))
        return safetensors.torch.load(data)
    except RunFormatError as error:
        raise RequestError(f"{where}: {error}; load other formats yourself, and give the tensors") from None


def _slots(
    rule: UpdateRule, given: Mapping[str, Any], trained: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Params], float]:
    """The slots that an optimizer's state dict holds for all parameters, and the number of updates that it made."""
    order = [i for group in given["param_groups"] for i in group["params"]]
    of_each = [given["state"].get(i, {}) for i in order]
    if len(order) != len(trained):
        raise ProblemError(
            f"{where}: the optimizer has {len(order)} parameters, the model trains {len(trained)}; give the state of "
            "one optimizer that was built from model.parameters()"
        )
    slots = {}
    for slot in rule.slots:
        found = {n: state.get(slot) for n, state in zip(trained, of_each, strict=True)}
        if all(t is not None for t in found.values()):
            slots[slot] = {n: copied(t) for n, t in found.items()}
            if bad := [n for n, t in slots[slot].items() if t.shape != trained[n].shape]:
                raise ProblemError(f"{where}: slot {slot} of {bad[0]} has another shape than the parameter")
    return slots, max((rule.read_count(state) for state in of_each), default=0.0)


def _examples(stage: SegmentStage) -> Examples:
    name = stage.data.name if isinstance(stage.data, DatasetReference) else None
    if isinstance(stage.data, DatasetReference):
        ids: Any = range(len(stage.data.dataset)) if stage.ids is None else stage.ids
        fields = fetch(stage.data.dataset, ids)
    else:
        ids, fields = stage.ids, to_fields(*stage.data)
    return described(fields, check_ids(ids, len(fields["y"])), name)


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
