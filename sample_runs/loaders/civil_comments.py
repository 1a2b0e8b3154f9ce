"""CivilComments in the layout of WILDS: one table of comments with toxicity and identities."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from sample_runs.loaders.sources import DataError, Texts, data_set, read_table

SOURCE = (
    "CivilComments (Borkan et al. 2019; WILDS, Koh et al. 2021) is civilcomments_v1.0/all_data_with_identities.csv, to "
    "be had by the wilds package or at https://worksheets.codalab.org (civilcomments_v1.0)"
)
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
OFFICIAL = "all_data_with_identities.csv"


def load_civil_comments(data: Path, split: Literal["train", "val", "test"], name: str = "civilcomments_v1.0") -> Texts:
    """Comments of one split; table: toxic and every identity as 0 or 1 (>= 0.5; not rated: 0).

    name: the folder; another table with the same columns, the only .csv[.gz] in its folder, is read alike.
    """
    path = _table(data_set(data, (name,), SOURCE))
    table = read_table(path, ("comment_text", "toxicity", "split", *IDENTITIES), SOURCE)
    chosen = table[(table["split"] == split) & table["comment_text"].notna()]
    if chosen.empty:
        raise DataError(f"{path}: no comment has split {split!r}, found {sorted(set(table['split']))[:5]}. {SOURCE}")
    rated = (chosen[["toxicity", *IDENTITIES]] >= 0.5).astype(np.int64).rename(columns={"toxicity": "toxic"})
    return Texts(chosen["comment_text"].astype(str).tolist(), rated.reset_index(drop=True))


def _table(folder: Path) -> Path:
    tables = [p for p in sorted(folder.iterdir()) if p.name.endswith((".csv", ".csv.gz"))]
    official = [p for p in tables if p.name.removesuffix(".gz") == OFFICIAL]
    if official or len(tables) == 1:
        return (official or tables)[0]
    there = ", ".join(p.name for p in tables[:8]) or "no table"
    raise DataError(f"{folder}: found {there}; expected {OFFICIAL}[.gz]. {SOURCE}")
