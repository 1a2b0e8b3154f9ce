"""Training examples as the run stores them: named fields, one digest an example, each distinct example once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aa_core.errors import MissingDataError, RecordingError, RunFormatError
from aa_core.records import Batch, Inputs
from aa_core.runs.header import read_json
from aa_core.runs.store import Spec, decode, dtype_name, encode, layout, pieces

Fields = dict[str, Tensor]
"""Inputs "x" (or "x.<key>" for each tensor of a dict) and targets "y"; the first dimension counts the examples."""
Ids = list[int] | list[str]
TURN, LOOKED_UP, PAUSE = 2**16, 256, 2e-5
"""Bytes that are hashed, and examples looked up, at once beside a training loop, and for how many seconds it then has
Python to itself."""


@dataclass(frozen=True)
class DatasetReference:
    """A dataset that the run names instead of storing: `dataset[id]` must be the pair (x, y) of that example."""

    name: str
    dataset: Any


class Examples(NamedTuple):
    """Distinct examples in the order of their first use."""

    fields: Fields
    """Empty where the examples are only referenced."""
    digests: Tensor
    """uint8 [n, 32]: sha256 of each example."""
    ids: Ids | None
    dataset: str | None
    """Name of the dataset that a referenced example belongs to."""


def to_fields(inputs: Inputs, targets: Tensor) -> Fields:
    """Inputs and targets as named fields; RecordingError unless all are tensors with the same number of examples."""
    named = {f"x.{k}": v for k, v in inputs.items()} if isinstance(inputs, Mapping) else {"x": inputs}
    fields = {**named, "y": targets}
    for name, tensor in fields.items():
        if not isinstance(tensor, Tensor) or tensor.dim() == 0:
            raise RecordingError(
                f"field {name!r} is a {type(tensor).__name__}, expected a tensor with the examples as first dimension"
            )
        if tensor.is_sparse or not name.isprintable():
            raise RecordingError(f"field {name!r}: expected a dense tensor under a printable name")
    lengths = {name: len(tensor) for name, tensor in fields.items()}
    if len(set(lengths.values())) > 1 or not len(targets):
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise RecordingError(f"all fields of a batch need the same number of examples, at least one; found {found}")
    return fields


def to_batch(fields: Fields) -> Batch:
    """The inverse of `to_fields`."""
    if "x" in fields:
        return Batch(fields["x"], fields["y"])
    return Batch({n.removeprefix("x."): t for n, t in fields.items() if n != "y"}, fields["y"])


def specs(fields: Fields) -> dict[str, Spec]:
    """Dtype and shape of one example of each field."""
    return {name: (t.dtype, tuple(t.shape[1:])) for name, t in fields.items()}


def digest_rows(fields: Fields, pause: float = 0.0) -> list[bytes]:
    """sha256 of each example over the names, dtypes, shapes and bytes of its fields.

    With a pause, seconds, after each TURN of bytes: for whoever waits for Python's lock meanwhile."""
    names = sorted(fields)
    layout_json = json.dumps([[n, dtype_name(fields[n].dtype), list(fields[n].shape[1:])] for n in names])
    prefix = np.frombuffer(layout_json.encode(), dtype=np.uint8)
    rows = [_bytes_of_rows(fields[n]) for n in names]
    table = np.concatenate([np.broadcast_to(prefix, (len(rows[0]), len(prefix))), *rows], axis=1)
    flat, width, new = memoryview(table).cast("B"), table.shape[1], hashlib.sha256  # type: ignore[arg-type]
    found = list[bytes]()
    for turn in _turns(len(table), max(TURN // width, 1), pause):
        found += [new(flat[at * width : (at + 1) * width]).digest() for at in turn]
    return found


def _turns(count: int, most: int, pause: float) -> Iterator[range]:
    """range(count) in parts of at most so many, with a pause between them."""
    for first in range(0, count, most):
        if first and pause:
            time.sleep(pause)
        yield range(first, min(first + most, count))


def _bytes_of_rows(tensor: Tensor) -> np.ndarray:
    flat = tensor.detach().cpu().reshape(len(tensor), -1).contiguous()
    return flat.view(torch.uint8).numpy()


def check_ids(ids: Any, length: int) -> Ids | None:
    """The ids of a batch as plain integers or strings; RecordingError for anything else or another number of them."""
    if ids is None:
        return None
    plain = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else [getattr(i, "item", lambda i=i: i)() for i in ids]
    if len(plain) != length:
        raise RecordingError(f"{len(plain)} ids for {length} examples; pass one id an example")
    if all(type(i) is int and abs(i) < 2**63 for i in plain) or all(type(i) is str for i in plain):
        return plain
    raise RecordingError(f"ids must be all integers or all strings, found {str(plain[:3])[:80]}")


class New(NamedTuple):
    """Examples at their first use."""

    examples: Examples
    data: tuple[bytes | memoryview[Any], ...]
    """As safetensors, in pieces that are the examples' own memory."""
    sha256: str

    @classmethod
    def of(cls, examples: Examples) -> New:
        data, hasher = tuple(pieces(*example_tensors(examples))), hashlib.sha256()
        for piece in data:
            hasher.update(piece)
        return cls(examples, data, hasher.hexdigest())

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return sum(map(len, self.data))


class ExampleLog:
    """Gives each distinct example (its content and id) a row, in the order of first use."""

    def __init__(self, dataset: str | None = None) -> None:
        self._dataset = dataset
        self._rows: dict[tuple[bytes, int | str | None], int] = {}
        self._specs: dict[str, Spec] | None = None
        self._id_type: type | None = None
        self._new: list[New] = []

    def check(self, fields: Fields, ids: Ids | None) -> None:
        """RecordingError unless these examples are of the kind of all earlier ones."""
        found, id_type = specs(fields), type(ids[0]) if ids else None
        for dtype, _ in found.values():
            dtype_name(dtype)
        if self._specs is None:
            self._specs, self._id_type = found, id_type
        if found != self._specs:
            raise RecordingError(
                f"the examples of this batch are {_describe(found)}, those of earlier ones {_describe(self._specs)}; "
                "one run holds examples of one shape and dtype (pad or convert them)"
            )
        if id_type != self._id_type:
            raise RecordingError("ids must be given for every batch or for none, and always of the same type")

    def add(self, fields: Fields, ids: Ids | None, keep: Callable[[Sequence[New]], None] | None = None) -> Tensor:
        """The rows of a checked batch, int64 [n]; examples not seen before are kept until `take`, and told at once."""
        digests, rows, known = digest_rows(fields, PAUSE), self._rows, len(self._rows)
        try:
            keys, looked_up = zip(digests, ids or repeat(None), strict=False), list[int]()
            for turn in _turns(len(digests), LOOKED_UP, PAUSE):
                looked_up += [rows.setdefault(key, len(rows)) for key in islice(keys, len(turn))]
            found = np.array(looked_up, dtype=np.int64)
            if len(rows) > known:
                row, first_use = np.unique(found, return_index=True)
                self._new.append(New.of(self._pick(fields, digests, ids, first_use[row >= known])))
        except BaseException:
            while len(rows) > known:
                rows.popitem()
            raise
        if keep is not None:
            keep(self._new)
        return torch.from_numpy(found)

    def remember(self, known: Examples) -> None:
        """The rows of a recording that goes on, in their order."""
        digests = [digest.tobytes() for digest in known.digests.numpy()]
        keys = zip(digests, known.ids or [None] * len(digests), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}
        self._specs = specs(known.fields) or None
        self._id_type = type(known.ids[0]) if known.ids else None

    def take(self) -> Sequence[New]:
        """The examples first seen since the last call."""
        new, self._new = self._new, []
        return new

    def _pick(self, fields: Fields, digests: list[bytes], ids: Ids | None, fresh: np.ndarray) -> Examples:
        index = torch.from_numpy(fresh)
        stored = {} if self._dataset else {n: t.detach().cpu().index_select(0, index) for n, t in fields.items()}
        packed = torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).reshape(-1, 32)
        some = None if ids is None else [ids[i] for i in fresh]
        return Examples(stored, packed.index_select(0, index), some, self._dataset)


def _describe(found: Mapping[str, Spec]) -> str:
    return ", ".join(f"{n}: {str(d).removeprefix('torch.')}{list(shape)}" for n, (d, shape) in found.items())


def concat(parts: Sequence[Examples]) -> Examples:
    first = parts[0]
    ids: list[Any] | None = None if first.ids is None else [i for p in parts for i in p.ids or ()]
    fields = {n: torch.cat([p.fields[n] for p in parts]) for n in first.fields}
    return Examples(fields, torch.cat([p.digests for p in parts]), ids, first.dataset)


def encode_examples(examples: Examples) -> bytes:
    """As safetensors."""
    return encode(*example_tensors(examples))


def example_tensors(examples: Examples) -> tuple[Fields, dict[str, str]]:
    """(the fields, "digest", "ids" as int64 or the bytes of a JSON list of strings; metadata)."""
    tensors = {**examples.fields, "digest": examples.digests}
    if examples.ids is not None:
        as_strings = isinstance(examples.ids[0], str)
        tensors["ids"] = _json_tensor(examples.ids) if as_strings else torch.tensor(examples.ids, dtype=torch.int64)
    return tensors, {"dataset": examples.dataset} if examples.dataset is not None else {}


def _json_tensor(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def decode_examples(data: bytes, where: str) -> Examples:
    """The inverse of `encode_examples`; RunFormatError unless every part counts the same examples."""
    whole = layout(data, where)
    found, metadata = whole
    n = (*found.get("digest", (None, ()))[1], 0)[0]
    dataset = metadata.get("dataset")
    names = [] if dataset is not None else _field_names(found, where)
    expected: dict[str, Spec] = {"digest": (torch.uint8, (n, 32))}
    expected |= {name: (found[name][0], (n, *found[name][1][1:])) for name in names}
    if "ids" in found or dataset is not None:
        as_strings = found.get("ids", (None,))[0] == torch.uint8
        expected["ids"] = (torch.uint8, (None,)) if as_strings else (torch.int64, (n,))
    tensors = decode(data, where, expected, whole)
    return Examples(
        {k: tensors[k] for k in names}, tensors["digest"], _decode_ids(tensors.get("ids"), n, where), dataset
    )


def _field_names(found: Mapping[str, Spec], where: str) -> list[str]:
    names = [n for n in found if n in ("x", "y") or n.startswith("x.")]
    if "y" not in names or len(names) < 2 or ("x" in names and len(names) != 2):
        raise RunFormatError(
            f"{where}: expected the fields y and either x or x.<key>, found {', '.join(sorted(found))[:200]}"
        )
    return names


def _decode_ids(ids: Tensor | None, n: int, where: str) -> Ids | None:
    if ids is None or ids.dtype == torch.int64:
        return None if ids is None else ids.tolist()
    names = read_json(ids.numpy().tobytes(), where)
    if not (isinstance(names, list) and len(names) == n and all(isinstance(i, str) for i in names)):
        raise RunFormatError(f"{where}: ids must be a list of {n} strings")
    return names


def fetch(dataset: Any, ids: Sequence[int | str]) -> Fields:
    """dataset[id] of each id, as one batch."""
    pairs = [dataset[i] for i in ids]
    inputs, targets = [p[0] for p in pairs], torch.stack([torch.as_tensor(p[1]) for p in pairs])
    if isinstance(inputs[0], Mapping):
        return to_fields({k: torch.stack([torch.as_tensor(x[k]) for x in inputs]) for k in inputs[0]}, targets)
    return to_fields(torch.stack([torch.as_tensor(x) for x in inputs]), targets)


def check_reference(reference: DatasetReference, fields: Fields, ids: Ids | None) -> None:
    """RecordingError unless dataset[id] is what is trained on."""
    name = reference.name
    if not ids or isinstance(ids[0], str):
        raise RecordingError(
            f"examples of {name!r} are only referenced: pass their integer ids to recorder.batch(x, y, ids=ids)"
        )
    try:
        found = digest_rows(fetch(reference.dataset, ids))
    except (LookupError, RecordingError, TypeError, ValueError, RuntimeError) as error:
        raise RecordingError(f"{name!r}: dataset[id] does not give pairs of (x, y): {error}") from error
    different = [i for i, a, b in zip(ids, found, digest_rows(fields), strict=True) if a != b]
    if different:
        raise RecordingError(
            f"{name!r}: dataset[{different[0]}] is not the example that recorder.batch received under this id "
            f"({len(different)} of {len(ids)} differ in values, shape or dtype); pass ids that index the dataset, "
            "or drop dataset= to store the examples (needed when they are augmented at random)"
        )


def fetch_verified(examples: Examples, rows: Tensor, datasets: Mapping[str, Any]) -> Fields:
    """Referenced examples from the caller's dataset; MissingDataError unless it holds exactly what was trained on."""
    name = examples.dataset
    if name is None or name not in datasets:
        raise MissingDataError(
            f"the run references the dataset {name!r} instead of storing its examples; "
            f"pass open_run(path, datasets={{{name!r}: dataset}}) where dataset[id] is the pair (x, y)"
        )
    ids = [(examples.ids or [])[row] for row in rows.tolist()]
    try:
        fields = fetch(datasets[name], ids)
    except (LookupError, RecordingError, TypeError, ValueError, RuntimeError) as error:
        raise MissingDataError(
            f"dataset {name!r} does not give the recorded examples {str(ids[:3])[:60]}...: {error}"
        ) from error
    for i, found, recorded in zip(ids, digest_rows(fields), examples.digests[rows], strict=True):
        if found != recorded.numpy().tobytes():
            raise MissingDataError(
                f"dataset {name!r}: example {i!r} is not the one that was trained on (its digest differs); "
                "pass the same version of the dataset, in the same order and with the same preprocessing"
            )
    return fields
