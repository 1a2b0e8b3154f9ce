"""CelebA: aligned pictures, forty attributes, the official partition."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sample_runs.loaders.sources import DataError, Pictures, data_set, find, read_pictures, read_table, require_columns

SOURCE = (
    "CelebA (Liu et al. 2015) is img_align_celeba/*.jpg, list_attr_celeba.txt (or .csv) and list_eval_partition.txt "
    "(or .csv), to be had at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
)
SPLITS = {"train": 0, "val": 1, "test": 2}


def load_celeba(
    data: Path,
    split: Literal["train", "val", "test"],
    *,
    attributes: tuple[str, ...] = ("Blond_Hair", "Male"),
    size: int = 32,
    limit: int | None = None,
) -> Pictures:
    """Faces, uint8 [n, size, size, 3]; table: file and each attribute as 0 or 1.

    limit: only the first so many of the split; pictures are read one by one, so a few are had quickly.
    """
    folder = data_set(data, ("celeba", "CelebA"), SOURCE)
    table = _attributes(folder, attributes)
    parts = _partition(folder)
    chosen = table[table.index.map(parts) == SPLITS[split]].head(limit)
    if chosen.empty:
        raise DataError(f"{folder}: no picture is in partition {SPLITS[split]} ({split}). {SOURCE}")
    pixels = read_pictures([folder / "img_align_celeba" / name for name in chosen.index], size, "RGB", SOURCE)
    return Pictures(pixels, (chosen > 0).astype(np.int64).rename_axis("file").reset_index())


def _attributes(folder: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """-1 or 1 by file."""
    path = find(folder, ("list_attr_celeba.txt", "list_attr_celeba.csv"), SOURCE)
    if path.suffix == ".csv":
        table = read_table(path, ("image_id", *names), SOURCE).set_index("image_id")
    else:
        table = read_table(path, (), SOURCE, sep=r"\s+", skiprows=1, index_col=0)
        require_columns(table, names, path, SOURCE)
    values = table[list(names)]
    if not values.isin([-1, 1]).all(axis=None):
        raise DataError(f"{path}: attributes must be -1 or 1. {SOURCE}")
    return values


def _partition(folder: Path) -> dict[str, int]:
    path = find(folder, ("list_eval_partition.txt", "list_eval_partition.csv"), SOURCE)
    if path.suffix == ".csv":
        table = read_table(path, ("image_id", "partition"), SOURCE)
    else:
        table = read_table(path, (), SOURCE, sep=r"\s+", header=None, names=["image_id", "partition"])
    return dict(zip(table["image_id"], table["partition"], strict=True))
