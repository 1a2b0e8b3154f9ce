"""A second thread beside the one that asks, where torch leaves a processor free: the same operations, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from aa_core.processes import processors

T = TypeVar("T")


def spare(device: torch.device) -> bool:
    """Whether torch takes at most half of the processors here, so that a second thread has as many."""
    return device.type == "cpu" and 2 * torch.get_num_threads() <= processors()


def beside() -> ThreadPoolExecutor:
    """One more thread, with torch's settings in this one.

    A thread's own are others until then: its first matrix products would take all processors.
    """
    return ThreadPoolExecutor(1, initializer=partial(_set, torch.is_grad_enabled()))


def _set(grad: bool) -> None:
    torch.get_num_threads()  # torch passes the process's number on to its libraries, in each thread when first asked
    torch.set_grad_enabled(grad)


def share(task: Callable[[T], object], items: Sequence[T], device: torch.device) -> None:
    """The task of every item, each next one in this thread or, where a processor is free, in one beside it."""
    todo = iter(items)

    def take() -> None:
        try:
            for item in todo:
                task(item)
        finally:
            list(todo)  # where one fails, the other begins nothing more

    if len(items) < 2 or not spare(device):
        return take()
    with beside() as pool:
        other = pool.submit(take)
        take()
        other.result()
