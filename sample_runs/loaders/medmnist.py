"""MedMNIST: one .npz a data set."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sample_runs.loaders.sources import DataError, Pictures, data_set, find

SOURCE = "MedMNIST v2 (Yang et al. 2023) is one NAME.npz a set, to be had at https://zenodo.org/records/10519652"


def load_medmnist(data: Path, name: str, split: Literal["train", "val", "test"]) -> Pictures:
    """Pictures of one MedMNIST set, uint8 [n, height, width(, 3)]; table: label, row."""
    path = find(data_set(data, (name, "medmnist"), SOURCE), (f"{name}.npz",), SOURCE)
    pixels, labels = (_array(path, f"{split}_{what}") for what in ("images", "labels"))
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or labels.shape != (len(pixels), 1):
        raise DataError(
            f"{path}: found {split} images {pixels.dtype} {list(pixels.shape)} and labels {list(labels.shape)}; "
            f"expected uint8 [n, height, width(, 3)] and [n, 1]. {SOURCE}"
        )
    return Pictures(pixels, pd.DataFrame({"label": labels[:, 0].astype(np.int64), "row": np.arange(len(labels))}))


def _array(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except KeyError:
        raise DataError(f"{path}: has no array {key!r}. {SOURCE}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read: {error}. {SOURCE}") from None
