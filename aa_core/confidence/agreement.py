"""How well an estimate agrees with the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class Agreement(NamedTuple):
    """Estimate against truth over n pairs; NaN where a figure is not defined (fewer than 3 pairs, no spread).

    All are NaN if one of the values is not finite: what holds for the rest would pass for the whole.
    """

    n: int
    pearson: float
    spearman: float
    sign: float
    """Share of pairs of the same sign, 0..1."""
    slope: float
    """Least-squares slope of truth on estimate: 1 = right size, < 1 = estimate too large."""
    relative_error: float
    """Mean |estimate - truth| over mean |truth|."""


NO_AGREEMENT = Agreement(0, *[float("nan")] * 5)
"""Of an estimate that there is not."""


def agreement(estimate: np.ndarray, truth: np.ndarray) -> Agreement:
    """Compare two arrays of effects of the same shape."""
    frame = pd.DataFrame({"estimate": np.ravel(estimate), "truth": np.ravel(truth)}).astype(float)
    if not np.isfinite(frame).all(axis=None):
        return NO_AGREEMENT._replace(n=len(frame))
    e, t = frame["estimate"], frame["truth"]
    enough = len(frame) >= 3 and all(x.std() > 1e-12 * x.abs().max() for x in (e, t))
    ranks = frame.rank()
    size = t.abs().mean()
    return Agreement(
        n=len(frame),
        pearson=float(e.corr(t)) if enough else float("nan"),
        spearman=float(ranks["estimate"].corr(ranks["truth"])) if enough else float("nan"),
        sign=float((np.sign(e) == np.sign(t)).mean()) if len(frame) else float("nan"),
        slope=float(np.cov(e, t)[0, 1] / e.var()) if enough else float("nan"),
        relative_error=float((e - t).abs().mean() / size) if size > 0 else float("nan"),
    )


def relative_error_of_means(estimate: np.ndarray, truth: np.ndarray) -> float:
    """[stages, examples]: mean over stages of |mean estimate - mean truth| / |mean truth|."""
    e, t = estimate.mean(1), truth.mean(1)
    return float((np.abs(e - t) / np.abs(t)).mean())
