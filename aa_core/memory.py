"""How much memory a computation may take where nobody says: a share of what is free."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import torch

SHARE = 4
"""One part in so many: other programs want some, too, and activations come on top."""
LEAST = 1 << 30
"""Bytes that are taken to be there in any case."""
CONTAINER = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where Linux tells what a container may take and has taken, by the second and the first version of its groups."""


def spare_memory(device: torch.device) -> int:
    """Bytes: a quarter of what is free, on a GPU or on the machine and in the container that it is; at least 1 GiB."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max((torch.cuda.mem_get_info(device)[0] + kept) // SHARE, LEAST)
    return max(min([psutil.virtual_memory().available, *_left_in_containers()]) // SHARE, LEAST)


def _left_in_containers() -> list[int]:
    """Of the limits that there are, "max" being none."""
    left = list[int]()
    for limit, taken in CONTAINER:
        with suppress(OSError, ValueError):
            left.append(int(Path(limit).read_text()) - int(Path(taken).read_text()))
    return left
