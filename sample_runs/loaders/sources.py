"""What all loaders share: the values they return, finding files, reading tables, and the one error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from aa_core.errors import AuditError


class DataError(AuditError):
    """A data set is not there, or not in its official layout."""


class Pictures(NamedTuple):
    """n pictures and what is known of each."""

    pixels: np.ndarray
    """uint8 [n, height, width], or [n, height, width, 3] in colour."""
    table: pd.DataFrame
    """One row a picture."""


class Texts(NamedTuple):
    """n texts and what is known of each."""

    texts: list[str]
    table: pd.DataFrame
    """One row a text."""


def data_set(data: Path, names: Sequence[str], source: str) -> Path:
    """The folder of a data set: data/name for the first name that is there, else `data` itself."""
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; give the folder that holds the data. {source}")
    return next((data / name for name in names if (data / name).is_dir()), data)


def find(folder: Path, names: Sequence[str], source: str) -> Path:
    """The first of these files that is there."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise DataError(f"{folder}: found {there}; expected {' or '.join(names)}. {source}")


def read_table(path: Path, columns: Iterable[str], source: str, **options: Any) -> pd.DataFrame:
    """A csv, gzipped or not, that has at least these columns."""
    try:
        table = pd.read_csv(path, **options)
    except (OSError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}. {source}") from None
    require_columns(table, columns, path, source)
    return table


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path, source: str) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns[:12]))
        raise DataError(f"{path}: found columns {found}; expected also {', '.join(missing)}. {source}")
    if table.empty:
        raise DataError(f"{path}: has no rows. {source}")


def read_pictures(paths: Sequence[Path], size: int, mode: str, source: str) -> np.ndarray:
    """uint8 [n, size, size(, 3)]: the middle square of each picture, made smaller; mode "L" or "RGB"."""
    return np.stack([_read_picture(path, size, mode, source) for path in paths])


def _read_picture(path: Path, size: int, mode: str, source: str) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            picture = opened.convert(mode)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read as a picture ({error})"
        raise DataError(f"{path}: {reason}, though the table names it. {source}") from None
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BOX), dtype=np.uint8)
