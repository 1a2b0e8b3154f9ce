"""How much a mean over examples depends on which examples were drawn."""

from __future__ import annotations

import numpy as np
from torch import Tensor

DRAWS, SEED, FLOOR = 2_000, 0, 8
"""Resamples, their seed, and the fewest examples for which an interval is given."""


def bootstrap_interval(effects: Tensor) -> tuple[list[float | None], list[float | None]]:
    """Ends of the 95 % interval of the mean of each row of [stages, examples]; None below 8 examples.

    Percentile bootstrap over examples (Efron 1979), the same resamples for all stages, a fixed seed.
    """
    stages, n = effects.shape
    if n < FLOOR:
        return [None] * stages, [None] * stages
    generator = np.random.default_rng(SEED)
    values = effects.double().numpy().T
    means = np.stack([np.bincount(generator.integers(n, size=n), minlength=n) @ values for _ in range(DRAWS)]) / n
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low.tolist(), high.tolist()
