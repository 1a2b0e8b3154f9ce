"""Tensors of a run as bytes: safetensors, written in pieces, and checked before they are used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from aa_core.errors import RunFormatError, UnsupportedError
from aa_core.runs.header import listed, read_json

MAX_TENSOR_HEADER = 16 * 2**20
MAX_DIMENSIONS = 64
_CODES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""In the order in which safetensors writes them."""

Spec = tuple[torch.dtype, tuple[int | None, ...]]
"""Dtype and shape that a tensor must have; None for any length."""


class Layout(NamedTuple):
    """What the header of a safetensors file announces."""

    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    metadata: dict[str, str]


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32; UnsupportedError for a dtype that runs cannot hold."""
    if dtype not in _CODES.values():
        raise UnsupportedError(
            f"tensors of {dtype} cannot be recorded; convert them to one of {', '.join(map(str, _CODES.values()))}"
        )
    return str(dtype).removeprefix("torch.")


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    return b"".join(pieces(tensors, metadata))


def pieces(
    tensors: Mapping[str, Tensor | Sequence[Tensor]], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview[Any]]:
    """The bytes of a safetensors file: its header, then the memory of one tensor after another.

    Several tensors under one name are one, along the first dimension. A tensor on a device is copied to the CPU when it
    is its turn, and forgotten after it. The bytes are those that safetensors.torch.save makes of them, which holds all
    of them three times.
    """
    codes, ranks = (
        {dtype: code for code, dtype in _CODES.items()},
        {dtype: i for i, dtype in enumerate(_CODES.values())},
    )
    parts = {n: (t,) if isinstance(t, Tensor) else t for n, t in tensors.items()}
    names = sorted(parts, key=lambda n: (ranks[parts[n][0].dtype], n))
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in names:
        first, *more = parts[name]
        shape = [len(first) + sum(map(len, more)), *first.shape[1:]] if more else list(first.shape)
        end = at + sum(t.numel() * t.element_size() for t in parts[name])
        table[name] = {"dtype": codes[first.dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    header = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name in names:
        for t in parts[name]:
            if t.numel():
                yield t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def decode(data: bytes, where: str, expected: Mapping[str, Spec], found: Layout | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file that must hold exactly those of `expected`; checked before they are read.

    `found` is the file's layout, where it is known already.
    """
    require(found or layout(data, where), expected, where)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # the library raises several types of its own
        raise RunFormatError(f"{where}: not a safetensors file: {error}") from None
    return {name: tensors[name] for name in expected}


def layout(data: bytes, where: str) -> Layout:
    """Names, dtypes and shapes of a safetensors file, from its header; RunFormatError if the header is not sound."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, MAX_TENSOR_HEADER):
        raise RunFormatError(
            f"{where}: not a safetensors file: {len(data)} bytes that announce a header of {size} "
            f"(at most {MAX_TENSOR_HEADER})"
        )
    table = read_json(data[8 : 8 + size], where)
    if not isinstance(table, dict):
        raise RunFormatError(f"{where}: the safetensors header is not a JSON object")
    metadata = table.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise RunFormatError(f"{where}: the safetensors metadata is not an object of strings")
    problems = [p for name, entry in table.items() if (p := _entry_problem(name, entry))]
    if not problems:
        problems = _cover_problems(table, len(data) - 8 - size)
    if problems:
        raise RunFormatError(f"{where}: " + listed(problems))
    return Layout({n: (_CODES[e["dtype"]], tuple(e["shape"])) for n, e in table.items()}, metadata)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _entry_problem(name: str, entry: object) -> str | None:
    shown = repr(name[:100])
    if not name.isprintable():
        return f"tensor {shown}: the name is not printable, expected printable characters on one line"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return f"tensor {shown}: expected dtype, shape and data_offsets"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _CODES:
        return f"tensor {shown}: dtype {str(entry['dtype'])[:40]!r}, expected one of {', '.join(_CODES)}"
    for field in ("shape", "data_offsets"):
        if not (isinstance(entry[field], list) and all(map(_is_count, entry[field]))):
            return f"tensor {shown}: {field} {str(entry[field])[:40]}, expected a list of counts"
    if len(entry["shape"]) > MAX_DIMENSIONS:
        return f"tensor {shown}: {len(entry['shape'])} dimensions, expected at most {MAX_DIMENSIONS}"
    if len(entry["data_offsets"]) != 2:
        return f"tensor {shown}: data_offsets must be two numbers"
    return None


def _cover_problems(table: dict[str, dict[str, Any]], size: int) -> list[str]:
    """The tensors must fill the data without gap or overlap, each with the bytes that its shape needs."""
    problems, at = [], 0
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        needed = _CODES[entry["dtype"]].itemsize * _product(entry["shape"])
        if begin != at or end - begin != needed:
            problems.append(f"tensor {name[:100]!r}: bytes {begin} to {end}, expected {at} to {at + needed}")
        at = end
    if at != size:
        problems.append(f"{size} bytes of data, the tensors announce {at}; expected as many")
    return problems


def _product(shape: Iterable[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def require(found: Layout, expected: Mapping[str, Spec], where: str) -> None:
    """RunFormatError, with all differences, unless the layout has exactly these tensors."""
    problems = [f"tensor {n!r} is missing" for n in expected if n not in found.tensors]
    problems += [f"tensor {n!r} is not expected here" for n in found.tensors if n not in expected]
    problems += [
        f"tensor {n!r} is {_describe(found.tensors[n])}, expected {_describe(spec)}"
        for n, spec in expected.items()
        if n in found.tensors and not _fits(found.tensors[n], spec)
    ]
    if problems:
        raise RunFormatError(f"{where}: " + listed(problems))


def _fits(found: Spec, expected: Spec) -> bool:
    lengths = zip(found[1], expected[1], strict=False)
    return found[0] == expected[0] and len(found[1]) == len(expected[1]) and all(b in (None, a) for a, b in lengths)


def _describe(spec: Spec) -> str:
    return f"{str(spec[0]).removeprefix('torch.')}[{', '.join('any' if d is None else str(d) for d in spec[1])}]"
