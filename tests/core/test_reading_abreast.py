"""Moved parameters are tried beside the derivative, where a processor is free: the same readings, to the bit."""

from __future__ import annotations

import threading

import pytest
import torch

import aa_core as aa
from aa_core import threads
from aa_core.effects.cache import EmbeddingCache
from aa_core.records import Inputs, RunLike
from aa_core.state import Buffers, Params
from tests import zoo
from tests.core.cases import queries, recorded

pytestmark = pytest.mark.usefixtures("one_thread_an_operation")


def read(
    run: RunLike, problem: aa.Problem, gamma: aa.Performance, processors: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[aa.Attribution, list[bool]]:
    """The readings, and whether each pass through the model was made here."""
    here, outputs = list[bool](), aa.Problem.outputs
    cache = EmbeddingCache(None)
    aa.embed_stages(run, problem, cache=cache)

    def watched(
        problem: aa.Problem, params: Params, buffers: Buffers, inputs: Inputs, *, training: bool = False
    ) -> torch.Tensor:
        here.append(threading.current_thread() is threading.main_thread())
        return outputs(problem, params, buffers, inputs, training=training)

    with monkeypatch.context() as patched:
        patched.setattr(aa.Problem, "outputs", watched)
        patched.setattr(threads, "processors", lambda: processors)
        return aa.stage_effects(run, problem, gamma, cache=cache), here


@pytest.mark.parametrize("model", zoo.MODELS)
def test_readings_are_the_same_in_one_thread_and_in_two(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, gamma = recorded(model, "adamw", dtype=torch.float32), queries(dtype=torch.float32)
    (one, alone), (two, abreast) = (read(case.run, case.problem, gamma, n, monkeypatch) for n in (1, 2))
    assert all(alone) and len(abreast) == len(alone)
    assert abreast.count(False) == len(one.units), "one pass a stage"
    assert one.readings.keys() == two.readings.keys() == {"linear", "displaced", "link"}
    for readout, values in one.readings.items():
        assert torch.equal(values, two.readings[readout]), readout


def test_an_error_in_the_other_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    case, outputs, before = recorded("mlp", "adamw", dtype=torch.float32), aa.Problem.outputs, threading.active_count()
    aa.embed_stages(case.run, case.problem, cache=(cache := EmbeddingCache(None)))

    def fails(*asked: object, **how: object) -> torch.Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise ArithmeticError("beside")
        return outputs(*asked, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(aa.Problem, "outputs", fails)
    monkeypatch.setattr(threads, "processors", lambda: 2)
    with pytest.raises(ArithmeticError, match="beside"):
        aa.stage_effects(case.run, case.problem, queries(dtype=torch.float32), cache=cache)
    assert threading.active_count() == before


def test_a_model_of_its_own_shares_tensors_and_no_module() -> None:
    problem = recorded("mlp", "adamw").problem
    other = problem.with_own_model()
    assert not set(map(id, problem.model.modules())) & set(map(id, other.model.modules()))
    assert [id(p) for p in problem.model.parameters()] == [id(p) for p in other.model.parameters()]
    assert other.loss_fn is problem.loss_fn and other.fingerprint == problem.fingerprint
