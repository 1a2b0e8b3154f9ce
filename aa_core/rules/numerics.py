"""Elementary functions whose derivatives stay finite where the training's own values do."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_sqrt(x: Tensor) -> Tensor:
    """sqrt(x), bit for bit, with derivative 0 at x = 0.

    Adam's second moment is exactly zero for dead inputs and unseen embedding rows; there the plain
    derivative is 0 * infinity = NaN.
    """
    zero = x == 0
    return torch.where(zero, torch.zeros_like(x), torch.where(zero, torch.ones_like(x), x).sqrt())
