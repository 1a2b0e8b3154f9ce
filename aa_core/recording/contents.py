"""What a commit adds to a run: its files, and how they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from aa_core.files import write_pieces
from aa_core.records import StepRecord
from aa_core.runs.columns import encode_columns
from aa_core.runs.evaluation import Evaluation, encode_evaluation
from aa_core.runs.examples import Examples, concat, example_tensors
from aa_core.runs.header import Commit, FileEntry, Role, parse
from aa_core.runs.store import pieces
from aa_core.state import Snapshot

Content = Iterable[bytes | memoryview]


def state_tensors(snapshot: Snapshot) -> dict[str, Tensor]:
    """The names under which states/*.safetensors keeps a snapshot."""
    state = snapshot.state
    return {
        **{f"params/{n}": t for n, t in state.params.items()},
        **{f"buffers/{n}": t for n, t in snapshot.buffers.items()},
        **{f"slots/{slot}/{n}": t for slot, tensors in state.slots.items() for n, t in tensors.items()},
        "count": state.count,
    }


class Contents(NamedTuple):
    """What a commit adds, as it was when it was asked for: nothing of it changes afterwards."""

    commit: Commit
    """Without its files."""
    records: list[StepRecord]
    groups: tuple[tuple[str, ...], ...]
    examples: list[Examples]
    first_row: int
    snapshot: Snapshot | None
    evaluation: Evaluation | None
    journal: BinaryIO | None
    """The steps' own; closed when they are committed."""

    def files(self) -> Iterator[tuple[str, Content, Role]]:
        commit = self.commit
        if self.records:
            columns = encode_columns(self.records, self.groups)
            yield f"steps/{commit.start}-{commit.stop}.safetensors", pieces(columns), "steps"
        if self.examples:
            told, metadata = example_tensors(concat([e._replace(fields={}) for e in self.examples]))
            fields = {n: [e.fields[n] for e in self.examples] for n in self.examples[0].fields}
            yield f"data/{self.first_row}.safetensors", pieces({**fields, **told}, metadata), "examples"
        if self.snapshot is not None:
            yield f"states/{self.snapshot.step}.safetensors", pieces(state_tensors(self.snapshot)), "state"
        if self.evaluation is not None:
            tensors, described = encode_evaluation(self.evaluation)
            yield "data/evaluation.safetensors", [tensors], "evaluation"
            yield "data/evaluation.json", [described], "evaluation"


def files_of(commit: bytes, name: str) -> list[str]:
    """The files that a commit names."""
    return [file.name for file in parse(Commit, commit, f"log/{name}").files]


def write_file(folder: Path, name: str, content: Content, role: Role) -> FileEntry:
    """Hashed as it is written."""
    digest, size = hashlib.sha256(), 0

    def seen() -> Content:
        nonlocal size
        for piece in content:
            digest.update(piece)
            size += len(piece)
            yield piece

    write_pieces(folder / name, seen())
    return FileEntry(name=name, sha256=digest.hexdigest(), size=size, role=role)
