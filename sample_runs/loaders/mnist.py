"""MNIST: four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sample_runs.loaders.sources import DataError, Pictures, data_set, find

SOURCE = (
    "MNIST (LeCun, Cortes, Burges) is {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz], to be had at "
    "https://ossci-datasets.s3.amazonaws.com/mnist/"
)


def load_mnist(data: Path, split: Literal["train", "t10k"]) -> Pictures:
    """Handwritten digits, uint8 [n, 28, 28]; table: digit, row (its place in the file)."""
    folder = data_set(data, ("mnist", "MNIST/raw"), SOURCE)
    pixels = read_idx(_file(folder, f"{split}-images-idx3-ubyte"), 3)
    digits = read_idx(_file(folder, f"{split}-labels-idx1-ubyte"), 1)
    if len(pixels) != len(digits) or digits.max(initial=0) > 9:
        raise DataError(
            f"{folder}: found {len(pixels)} {split} pictures and {len(digits)} labels up to {digits.max(initial=0)}; "
            f"expected a digit for each picture. {SOURCE}"
        )
    return Pictures(pixels, pd.DataFrame({"digit": digits.astype(np.int64), "row": np.arange(len(digits))}))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: magic 0, 0, 8, dimensions; their sizes, big-endian; the bytes."""
    content = _bytes(path)
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic or len(content) < header:
        raise DataError(f"{path}: starts with {content[:4].hex(' ')}, expected {magic.hex(' ')} of IDX. {SOURCE}")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(np.int64)
    if int(shape.prod()) != len(content) - header:
        raise DataError(
            f"{path}: holds {len(content) - header} values, expected {'x'.join(map(str, shape))}: it was cut short or "
            f"changed. {SOURCE}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _file(folder: Path, name: str) -> Path:
    return find(folder, (f"{name}.gz", name), SOURCE)


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}. {SOURCE}") from None
