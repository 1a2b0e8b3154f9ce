"""The writing half of a run of checkpoints."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from aa_core.checkpoints_only.checkpoints import (
    EVALUATION,
    SEGMENTED,
    CheckpointHeader,
    CheckpointRun,
    SegmentEntry,
    StateEntry,
    open_checkpoints,
)
from aa_core.errors import NonFiniteError, RequestError, RunExistsError, UnsupportedError
from aa_core.files import sync_folder, write_atomic
from aa_core.recording.contents import state_tensors
from aa_core.recording.live import tensor_specs
from aa_core.runs.evaluation import Evaluation, encode_evaluation
from aa_core.runs.examples import Examples, Fields, Ids, digest_rows, encode_examples
from aa_core.runs.header import FileEntry, Model, ProblemEntry, Role, listed, parse
from aa_core.runs.store import encode
from aa_core.runs.verified import sha256
from aa_core.state import Snapshot, is_finite

M = TypeVar("M", bound=Model)


class Contents(NamedTuple):
    """What goes into a run of checkpoints."""

    title: str
    problem: ProblemEntry
    model_class: str
    loss: str
    stages: tuple[SegmentEntry, ...]
    states: tuple[Snapshot, ...]
    examples: dict[str, Examples]
    """By the file that their stage names."""
    evaluation: Evaluation | None


def write_checkpoints(path: Path, contents: Contents, datasets: Mapping[str, Any]) -> CheckpointRun:
    """All files in another folder, which then gets its name: the run is there in full, or not at all.

    Raises RunExistsError if the path is taken, NonFiniteError for a state with NaN or infinity.
    """
    if path.exists():
        raise RunExistsError(f"{path}: exists already and is not overwritten; write to another path")
    _check_finite(contents.states)
    folder = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        for name in ("states", "data"):
            (folder / name).mkdir(parents=True)
        files = [_write(folder, *content) for content in _files(contents)]
        text = _header(contents, files).to_bytes()
        parse(CheckpointHeader, text, "run.json")
        write_atomic(folder / "run.json", text)
        os.rename(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(path.parent)
    return open_checkpoints(path, datasets)


def described(fields: Fields, ids: Ids | None, dataset: str | None) -> Examples:
    """Examples with their digests; without their fields where they are only referenced."""
    digests = torch.frombuffer(bytearray(b"".join(digest_rows(fields))), dtype=torch.uint8).reshape(-1, 32)
    return Examples({} if dataset else {n: copied(t) for n, t in fields.items()}, digests, ids, dataset)


def copied(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def checked(model: type[M], what: str, **fields: Any) -> M:
    """A part of the header; RequestError says which of the caller's values cannot be written."""
    try:
        return model(**fields)
    except ValidationError as error:
        found = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors())
        raise RequestError(f"{what}: {listed(found)}") from None


def check_segmented(where: str, optimizer: str, hyper: Mapping[str, float] | None = None) -> None:
    """Raise UnsupportedError for an optimizer, or a setting of one, that no segment-wise form is known of."""
    if optimizer not in SEGMENTED:
        raise UnsupportedError(
            f"{where}: no segment-wise form for optimizer {optimizer!r}; there is one for {', '.join(SEGMENTED)}"
        )
    asked = hyper or {}
    refused = ["maximize"] if asked.get("maximize") else []
    refused += ["momentum of 1 or more"] if asked.get("momentum", 0.0) >= 1 else []
    if refused:
        raise UnsupportedError(f"{where}: no segment-wise form for {optimizer} with {', '.join(refused)}")


def _check_finite(states: Sequence[Snapshot]) -> None:
    for at in states:
        if not is_finite(at.state):
            raise NonFiniteError(
                f"the state before step {at.step} holds NaN or infinity: nothing can be attributed across it"
            )


def _files(contents: Contents) -> Iterator[tuple[str, bytes, Role]]:
    for at in contents.states:
        yield f"states/{at.step}.safetensors", encode(state_tensors(at)), "state"
    for name, examples in contents.examples.items():
        yield name, encode_examples(examples), "examples"
    if contents.evaluation is not None:
        for name, data in zip(EVALUATION, encode_evaluation(contents.evaluation), strict=True):
            yield name, data, "evaluation"


def _write(folder: Path, name: str, data: bytes, role: Role) -> FileEntry:
    write_atomic(folder / name, data)
    return FileEntry(name=name, sha256=sha256(data), size=len(data), role=role)


def _header(contents: Contents, files: Sequence[FileEntry]) -> CheckpointHeader:
    first = contents.states[0]
    return checked(
        CheckpointHeader,
        "the run",
        format="aa-checkpoints",
        version=1,
        title=str(contents.title),
        problem=contents.problem,
        model_class=contents.model_class,
        parameters=tensor_specs(first.state.params),
        buffers=tensor_specs(first.buffers),
        loss=contents.loss,
        stages=contents.stages,
        states=tuple(StateEntry(step=s.step, slots=tuple(s.state.slots)) for s in contents.states),
        files=tuple(files),
    )
