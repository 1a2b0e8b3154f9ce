"""What two threads share is done once each, in torch's settings, and neither outlives the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch

from aa_core import curvature, threads
from aa_core.problem import twice_differentiable_kernels
from aa_core.state import leaves
from tests import zoo
from tests.core.cases import random_rays, recorded

pytestmark = pytest.mark.usefixtures("one_thread_an_operation")
CPU = torch.device("cpu")


def here() -> bool:
    return threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize(("processors", "beside"), [(1, False), (2, True), (3, True)])
def test_two_threads_take_every_item_once_where_a_processor_is_free(
    processors: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "processors", lambda: processors)
    taken: list[tuple[int, bool]] = []
    before = threading.active_count()

    def task(item: int) -> None:
        time.sleep(0.01)
        taken.append((item, here()))

    threads.share(task, range(8), CPU)
    assert sorted(item for item, _ in taken) == list(range(8))
    assert {where for _, where in taken} == ({True, False} if beside else {True})
    assert threading.active_count() == before


@pytest.mark.parametrize(("torch_takes", "device"), [(2, "cpu"), (1, "cuda")])
def test_nothing_is_shared_where_torch_takes_more_than_half_or_a_gpu_does_the_work(
    torch_takes: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "processors", lambda: 3)
    torch.set_num_threads(torch_takes)
    assert not threads.spare(torch.device(device))
    seen: list[bool] = []
    threads.share(lambda _: seen.append(here()), range(4), torch.device(device))
    assert seen == [True] * 4


def test_the_other_thread_has_the_settings_of_this_one() -> None:
    def matrix_product() -> tuple[bool, float]:
        a, began, worked = torch.randn(900, 900), time.perf_counter(), time.process_time()
        for _ in range(10):
            a @ a
        return torch.is_grad_enabled(), (time.process_time() - worked) / (time.perf_counter() - began)

    with torch.no_grad(), threads.beside() as pool:
        grad, busy = pool.submit(matrix_product).result()
    assert not grad
    assert busy < 1.5, f"its first matrix products kept {busy:.1f} processors busy, with torch on one"


@pytest.mark.parametrize("fails_here", [True, False])
def test_an_error_in_either_is_raised_and_nothing_more_is_begun(
    fails_here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "processors", lambda: 2)
    begun, before, both = [], threading.active_count(), threading.Barrier(2)

    def task(item: int) -> None:
        begun.append(item)
        both.wait(10)
        if here() == fails_here:
            raise ValueError("of one")
        time.sleep(0.1)

    with pytest.raises(ValueError, match="of one"):
        threads.share(task, range(50), CPU)
    assert len(begun) == 2 and threading.active_count() == before


@pytest.mark.parametrize("model", zoo.MODELS)
@pytest.mark.parametrize("kind", ["exact", "ggn"])
def test_products_are_the_same_to_the_bit_in_one_thread_and_in_two(
    model: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = recorded(model, "adamw", dtype=torch.float32)
    monkeypatch.setattr(curvature, "ALONE", 1)
    seen: list[bool] = []
    grad = curvature._grad

    def watched(*asked: object, **options: object) -> list[torch.Tensor]:
        seen.append(here())
        time.sleep(0.01)  # the other thread begins
        return grad(*asked, **options)  # type: ignore[arg-type]

    found = []
    for count in (1, 2):
        monkeypatch.setattr(threads, "processors", lambda count=count: count)
        propagator, rays = case.propagator(case.run.load(0), 0, kind), random_rays(case.run.load(0).state, 5)
        with monkeypatch.context() as watching:
            watching.setattr(curvature, "_grad", watched)
            seen.clear()
            found.append([*leaves(propagator @ rays), *leaves(propagator.T @ rays)])
        assert set(seen) == ({True} if count == 1 else {True, False})
    assert all(torch.equal(a, b) for one, two in pairwise(found) for a, b in zip(one, two, strict=True))


def test_what_is_made_one_by_one_lets_other_work_come_between() -> None:
    order: list[str] = []
    begun = threading.Event()

    def items() -> Iterator[int]:
        for k in range(3):
            order.append(f"made {k} {here()}")
            begun.set()
            time.sleep(0.05)
            yield k

    with threads.beside() as aside:
        found = threads.one_by_one(aside, items())
        assert begun.wait(10)
        aside.submit(order.append, "between")
        assert found.result() == [0, 1, 2]
    assert order == ["made 0 False", "between", "made 1 False", "made 2 False"]


def test_an_item_that_cannot_be_made_is_told_to_whoever_waits() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("of the second")

    with threads.beside() as aside, pytest.raises(ValueError, match="of the second"):
        threads.one_by_one(aside, items()).result()


def test_what_nobody_waits_for_any_more_is_not_made() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(100):
            time.sleep(0.01)
            made.append(k)
            yield k

    with threads.beside() as aside:
        found = threads.one_by_one(aside, items())
    assert len(made) <= 2 and found.exception() is not None


@pytest.mark.parametrize("beside", [False, True])
def test_items_are_looked_at_in_their_order_and_never_far_behind(beside: bool) -> None:
    made, looked = list[int](), list[tuple[int, bool]]()

    def items() -> Iterator[int]:
        for k in range(20):
            assert k - len(looked) <= threads.LAG + 1
            made.append(k)
            yield k

    def look(k: int) -> int:
        time.sleep(0.005)
        looked.append((k, here()))
        return 10 * k

    with threads.beside() if beside else nullcontext() as aside:
        assert list(threads.looked_at(look, items(), aside)) == [10 * k for k in range(20)]
    assert looked == [(k, not beside) for k in range(20)]


@pytest.mark.parametrize(("processors", "spared"), [(1, False), (2, True)])
def test_a_thread_is_there_where_a_processor_is_free(
    processors: int, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "processors", lambda: processors)
    with threads.spared(CPU) as aside:
        assert (aside is not None) == spared


def test_the_plain_kernels_last_as_long_as_a_thread_needs_them_and_no_longer() -> None:
    def kernels() -> tuple[bool, bool]:
        return torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()

    before, first, second = kernels(), twice_differentiable_kernels(), twice_differentiable_kernels()
    with threads.beside() as other:
        other.submit(first.__enter__).result()
        with second:
            assert kernels() == (False, False)
            other.submit(first.__exit__, None, None, None).result()
            assert kernels() == (False, False), "the other thread has left, this one has not"
    assert kernels() == before == (True, True)
