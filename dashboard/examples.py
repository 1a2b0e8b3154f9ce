"""The evaluation examples as a table: what they are filtered by, and which pass."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dashboard.selection import Selection

MAX_VALUES = 60
"""A metadata column with more different values is searched by text, not offered as a filter."""
SEARCHED = ["example", "label_name", "prediction_name"]


def filter_columns(metadata: pd.DataFrame) -> dict[str, list[str]]:
    """Metadata columns to filter by, and their values."""
    values = {str(c): sorted(metadata[c].dropna().unique().tolist(), key=_natural) for c in metadata.columns}
    return {c: [str(v) for v in found] for c, found in values.items() if 1 < len(found) <= MAX_VALUES}


def described(predictions: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """Predictions and metadata side by side; a column of the metadata never hides one of ours."""
    clash = {c: f"{c} (metadata)" for c in metadata.columns if c in predictions.columns}
    return predictions.join(metadata.rename(columns=clash))


def passing(s: Selection, predictions: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
    """The predictions that pass the filters of a selection."""
    low, high = s.confidence
    keep = predictions["confidence"].between(low / 100, high / 100)
    if s.labels:
        keep &= predictions["label"].isin(s.labels)
    if s.predictions:
        keep &= predictions["prediction"].isin(s.predictions)
    if s.wrong:
        keep &= ~predictions["correct"]
    for column in {c for c, _ in s.where}:
        keep &= metadata[column].astype(str).isin([v for c, v in s.where if c == column])
    if s.text:
        keep &= _mentions(s.text, described(predictions[SEARCHED], metadata))
    return predictions[keep]


def _mentions(text: str, table: pd.DataFrame) -> pd.Series[bool]:
    found = [table[c].astype(str).str.contains(text, case=False, regex=False) for c in table.columns]
    return pd.concat(found, axis=1).any(axis=1)


def _natural(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value
