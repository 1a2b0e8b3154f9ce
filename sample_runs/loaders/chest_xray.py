"""Chest X-rays: the layouts of NIH ChestX-ray14 and of CheXpert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from sample_runs.loaders.sources import DataError, Pictures, data_set, find, read_pictures, read_table

NIH = (
    "NIH ChestX-ray14 (Wang et al. 2017) is Data_Entry_2017.csv and images*/**/*.png, to be had at "
    "https://nihcc.app.box.com/v/ChestXray-NIHCC"
)
CHEXPERT = (
    "CheXpert (Irvin et al. 2019) is train.csv, valid.csv and the pictures that they name, to be had at "
    "https://stanfordmlgroup.github.io/competitions/chexpert/"
)
UNCERTAIN = -1.0


def load_nih(data: Path, *, finding: str = "Pneumonia", size: int = 32, limit: int | None = None) -> Pictures:
    """NIH pictures, uint8 [n, size, size]; table: file, label (has the finding), patient, age, sex, view."""
    folder = data_set(data, ("nih", "ChestXray-NIHCC"), NIH)
    path = find(folder, ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"), NIH)
    table = read_table(path, ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"), NIH)
    sex = next((c for c in ("Patient Gender", "Patient Sex") if c in table.columns), None)
    if sex is None:
        raise DataError(f"{path}: expected a column Patient Gender or Patient Sex. {NIH}")
    chosen = table.head(limit)
    places = {p.name: p for p in folder.rglob("*.png")}
    files = [places.get(name, folder / "images" / name) for name in chosen["Image Index"]]
    facts = pd.DataFrame(
        {
            "file": chosen["Image Index"],
            "label": [int(finding in found.split("|")) for found in chosen["Finding Labels"]],
            "patient": chosen["Patient ID"],
            "age": chosen["Patient Age"],
            "sex": chosen[sex],
            "view": chosen["View Position"],
        }
    )
    return Pictures(read_pictures(files, size, "L", NIH), facts.reset_index(drop=True))


def load_chexpert(
    data: Path, split: str = "train", *, finding: str = "Pneumonia", size: int = 32, limit: int | None = None
) -> Pictures:
    """CheXpert pictures, uint8 [n, size, size]; table: file, label, sex, age, view.

    A finding that is uncertain (-1) makes the picture be left out; one that is not mentioned is absent.
    """
    folder = data_set(data, ("chexpert", "CheXpert-v1.0-small", "CheXpert-v1.0"), CHEXPERT)
    path = find(folder, (f"{split}.csv",), CHEXPERT)
    table = read_table(path, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", finding), CHEXPERT)
    chosen = table[table[finding] != UNCERTAIN].head(limit)
    if chosen.empty:
        raise DataError(f"{path}: {finding} is uncertain in all pictures. {CHEXPERT}")
    facts = pd.DataFrame(
        {
            "file": chosen["Path"],
            "label": (chosen[finding] == 1).astype(np.int64),
            "sex": chosen["Sex"],
            "age": chosen["Age"],
            "view": chosen["AP/PA"].fillna(chosen["Frontal/Lateral"]),
        }
    )
    files = [_picture(folder, name) for name in chosen["Path"]]
    return Pictures(read_pictures(files, size, "L", CHEXPERT), facts.reset_index(drop=True))


def _picture(folder: Path, name: str) -> Path:
    """Paths in the table start with the data set's own folder."""
    inner = Path(*Path(name).parts[1:])
    return folder / inner if (folder / inner).is_file() else folder.parent / name
