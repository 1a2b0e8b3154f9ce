"""Gradient clipping as torch.nn.utils does it: what happens to the gradient before the optimizer sees it."""

from __future__ import annotations

import torch

from aa_core.records import Clip
from aa_core.state import Params


def clip(grads: Params, how: Clip | None) -> Params:
    """The clipped gradients of all parameters together; as they are where nothing was clipped.

    norm    g * min(1, c / (||g|| + 1e-6)), the norm taken over all parameters (clip_grad_norm_)
    value   every coordinate moved into [-c, c] (clip_grad_value_)
    """
    if how is None:
        return grads
    if how.kind == "value":
        return {n: g.clamp(-how.limit, how.limit) for n, g in grads.items()}
    norms = [torch.linalg.vector_norm(g) for g in grads.values()]
    factor = (how.limit / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
    return {n: g * factor for n, g in grads.items()}
