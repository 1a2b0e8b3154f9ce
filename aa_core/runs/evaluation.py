"""The evaluation set of a run, with the metadata columns that define subgroups."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from aa_core.errors import RecordingError, RequestError, RunFormatError
from aa_core.records import Batch, Inputs
from aa_core.runs.examples import to_batch, to_fields
from aa_core.runs.header import read_json
from aa_core.runs.store import decode, encode, layout

DISPLAYS = ("image", "text", "table")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """n examples that the model is judged on; `metadata` has one row an example, of JSON scalars."""

    x: Inputs
    y: Tensor
    metadata: pd.DataFrame | None = None
    class_names: tuple[str, ...] | None = None
    display: dict[str, Any] | None = None
    """How to show an input: {"kind": "image" | "text" | "table", "shape": [height, width]}."""

    def __post_init__(self) -> None:
        try:
            to_fields(self.x, self.y)
        except RecordingError as error:
            raise RequestError(f"evaluation: {error}") from None
        if self.metadata is not None:
            object.__setattr__(self, "metadata", _scalars(self.metadata, len(self.y)))
        if self.class_names is not None:
            object.__setattr__(self, "class_names", _names(self.class_names))
        _check_display(self.display)

    @property
    def batch(self) -> Batch:
        return Batch(self.x, self.y)

    def __len__(self) -> int:
        return len(self.y)


def _scalars(frame: pd.DataFrame, length: int) -> pd.DataFrame:
    """The frame with a fresh index and plain values; RequestError for what JSON cannot hold."""
    if len(frame) != length:
        raise RequestError(f"evaluation metadata has {len(frame)} rows for {length} examples; pass one row an example")
    names = list(frame.columns)
    if not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
        raise RequestError(f"evaluation metadata: column names must be distinct non-empty strings, found {names}")
    return pd.DataFrame(
        {n: pd.Series([_scalar(v, n) for v in frame[n].tolist()], dtype=_dtype(frame[n])) for n in names}
    )


def _dtype(column: pd.Series) -> Any:
    return column.dtype if column.dtype.kind in "biuf" else object


def _scalar(value: Any, column: str) -> Any:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise RequestError(
        f"evaluation metadata: column {column!r} holds {str(value)[:40]!r} of type {type(value).__name__}; "
        "use text, whole numbers, finite numbers, True, False or None"
    )


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(n, str) for n in names):
        raise RequestError("evaluation: class_names must be a sequence of strings, one a class")
    return tuple(names)


def _check_display(display: Any) -> None:
    if display is None:
        return
    if not isinstance(display, dict) or not set(display) <= {"kind", "shape"} or display.get("kind") not in DISPLAYS:
        raise RequestError(
            f"evaluation: display is {str(display)[:80]}, expected {{'kind': one of {', '.join(DISPLAYS)}, ...}}"
        )
    if not all(type(n) is int and n > 0 for n in display.get("shape", [])):
        raise RequestError(
            f"evaluation: display shape is {display['shape']}, expected a list of positive whole numbers"
        )


def encode_evaluation(evaluation: Evaluation) -> tuple[bytes, bytes]:
    """(safetensors of the examples, JSON of all else)."""
    table = evaluation.metadata
    columns = {} if table is None else {n: [_scalar(v, n) for v in table[n].tolist()] for n in table.columns}
    described = {
        "metadata": None if table is None else columns,
        "class_names": evaluation.class_names,
        "display": evaluation.display,
    }
    text = json.dumps({k: v for k, v in described.items() if v is not None}, allow_nan=False, ensure_ascii=False)
    return encode(to_fields(evaluation.x, evaluation.y)), text.encode()


def decode_evaluation(tensors: bytes, text: bytes, where: str) -> Evaluation:
    """The inverse of `encode_evaluation`; RunFormatError for what `Evaluation` would refuse."""
    found = layout(tensors, f"{where}.safetensors")
    fields = decode(tensors, f"{where}.safetensors", found.tensors, found)
    described = read_json(text, f"{where}.json")
    if "y" not in fields or len(fields) < 2 or not isinstance(described, dict):
        raise RunFormatError(f"{where}: expected inputs x, targets y and a JSON object of metadata")
    if unknown := set(described) - {"metadata", "class_names", "display"}:
        raise RunFormatError(f"{where}.json: unknown fields {', '.join(sorted(unknown))[:200]}")
    batch = to_batch(fields)
    try:
        return Evaluation(batch.inputs, batch.targets, _frame(described.get("metadata")), **_rest(described))
    except (RequestError, TypeError, ValueError) as error:
        raise RunFormatError(f"{where}: {error}") from None


def _rest(described: dict[str, Any]) -> dict[str, Any]:
    return {k: described[k] for k in ("class_names", "display") if k in described}


def _frame(columns: Any) -> pd.DataFrame | None:
    if columns is None:
        return None
    if not isinstance(columns, dict) or not all(isinstance(c, list) for c in columns.values()):
        raise RequestError("metadata must map each column to a list")
    for name, values in columns.items():
        for value in values:
            _scalar(value, name)
    return pd.DataFrame(columns)
