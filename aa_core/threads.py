"""A second thread beside the one that asks, where torch leaves a processor free: the same operations, the same bits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import torch

from aa_core.processes import processors

S = TypeVar("S")
T = TypeVar("T")
LAG = 2
"""How many items may wait to be looked at, while the next one is made."""


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


def spared(device: torch.device) -> AbstractContextManager[Executor | None]:
    """A thread beside this one where a processor is free."""
    return beside() if spare(device) else nullcontext()


def begun(aside: Executor | None, task: Callable[..., T], *given: object) -> Callable[[], T]:
    """What gives the task's result: `aside` begins with it at once, or, without one, this thread when it is asked."""
    return partial(task, *given) if aside is None else aside.submit(task, *given).result


def one_by_one(aside: Executor, items: Iterable[T]) -> Future[list[T]]:
    """All items, each made in a turn of its own, so that what else `aside` is given comes between two of them."""
    made, todo, found = list[T](), iter(items), Future[list[T]]()

    def make() -> None:
        try:
            for item in todo:
                made.append(item)
                aside.submit(make)  # raises once nobody waits any more
                return
            found.set_result(made)
        except BaseException as error:
            found.set_exception(error)

    aside.submit(make)
    return found


def looked_at(look: Callable[[S], T], items: Iterable[S], aside: Executor | None) -> Iterator[T]:
    """`look` of every item, in order; `aside` if there is one, while the next items are made here."""
    if aside is None:
        yield from map(look, items)
        return
    waiting = deque[Future[T]]()
    for item in items:
        waiting.append(aside.submit(look, item))
        if len(waiting) > LAG:
            yield waiting.popleft().result()
    yield from (each.result() for each in waiting)
