"""What is taken where nobody says is a share of what is free: on the machine, in the container, on the GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import aa_core as aa
from aa_core import memory
from aa_core.effects import adjoint
from tests.core.cases import queries, recorded

GIB = 1 << 30
CPU = torch.device("cpu")


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A machine with 40 GiB free; and where it would tell the limit of a container, and what that has taken."""
    limit, taken = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40 * GIB))
    monkeypatch.setattr(memory, "CONTAINER", ((str(limit), str(taken)),))
    return limit, taken


@pytest.mark.parametrize(
    ("limit", "taken", "expected"),
    [
        (None, None, 10),
        ("max", 3 * GIB, 10),
        (11 * GIB, 3 * GIB, 2),
        (400 * GIB, 3 * GIB, 10),
        (4 * GIB, 3 * GIB, 1),
        (4 * GIB, None, 10),
        (2 * GIB, 3 * GIB, 1),
    ],
)
def test_a_quarter_of_what_is_free_and_no_less_than_a_gibibyte(
    limit: object, taken: object, expected: int, groups: tuple[Path, Path]
) -> None:
    for path, found in zip(groups, (limit, taken), strict=True):
        if found is not None:
            path.write_text(f"{found}\n")
    assert memory.spare_memory(CPU) == expected * GIB


def test_on_a_gpu_what_torch_keeps_for_itself_is_free_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * GIB)
    assert memory.spare_memory(torch.device("cuda")) == 10 * GIB


@pytest.mark.parametrize(("given", "expected"), [(None, 10 * GIB), (5_000, 5_000)])
def test_a_sweep_takes_what_it_is_given_or_that(
    given: int | None, expected: int, groups: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, own, asked = recorded("mlp", "adam"), adjoint._for_states, list[int]()
    monkeypatch.setattr(adjoint, "_for_states", lambda budget, a: asked.append(budget) or own(budget, a))
    aa.step_effects(case.run, case.problem, queries(), memory=given)
    aa.step_effects_by_cause(case.run, case.problem, queries(), memory=given)
    assert asked == [expected, expected]
