"""Embeddings are read in pieces that a CPU keeps near: the same effects, and less on the way at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core.effects import embedding
from aa_core.effects.cache import EmbeddingCache
from benchmarks.performance_cases import MODELS as CASES
from benchmarks.performance_cases import Encoder, batch, recorded


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[aa.Trajectory, aa.Problem, aa.Performance, EmbeddingCache]:
    torch.manual_seed(0)
    model, draw = Encoder(), CASES["transformer"][1]
    run = recorded(tmp_path_factory.mktemp("runs") / "r", model, [batch(draw, k, 8) for k in range(4)])
    problem = aa.Problem(Encoder(), nn.functional.cross_entropy, device="cpu")
    return run, problem, aa.log_likelihood(*batch(draw, 9, 150)), EmbeddingCache(None)


def widest(run: aa.Trajectory, problem: aa.Problem, gamma: aa.Performance) -> int:
    """Bytes of the largest tensor on the way to the outputs of one example."""
    assert isinstance(gamma.inputs, torch.Tensor)
    return embedding._widest(problem, run.load(run.steps).state.params, {}, gamma.inputs[:1])


def test_the_widest_tensor_is_what_the_model_makes_and_not_what_it_is(
    read: tuple[aa.Trajectory, aa.Problem, aa.Performance, EmbeddingCache],
) -> None:
    run, problem, gamma, _ = read
    assert widest(run, problem, gamma) == 16 * 256 * 4, "the layer between: 16 tokens, 256 numbers of 4 bytes"
    assert max(p.nbytes for p in run.load(run.steps).state.params.values()) > 16 * 256 * 4


def test_pieces_change_nothing_but_the_last_digits(
    read: tuple[aa.Trajectory, aa.Problem, aa.Performance, EmbeddingCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, problem, gamma, cache = read
    seen: list[int] = []
    push = embedding.push_outputs

    def counted(problem: aa.Problem, params: object, buffers: object, inputs: torch.Tensor, *more: object) -> object:
        seen.append(len(inputs))
        return push(problem, params, buffers, inputs, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "push_outputs", counted)
    monkeypatch.setattr(embedding, "NEAR", 1 << 30)
    whole = aa.stage_effects(run, problem, gamma, cache=cache).effects
    assert seen == [150]
    monkeypatch.setattr(embedding, "NEAR", 100 * 4 * widest(run, problem, gamma))  # 100 examples, four embeddings
    parts = aa.stage_effects(run, problem, gamma, cache=cache).effects
    assert sum(seen[1:]) == 150 and max(seen[1:]) <= 100 and len(seen) == 3
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr(embedding, "NEAR", 1)
    aa.stage_effects(run, problem, gamma, cache=cache)
    assert max(seen[3:]) == embedding.FEW, "smaller pieces would not pay"


def test_few_examples_are_read_at_once(
    read: tuple[aa.Trajectory, aa.Problem, aa.Performance, EmbeddingCache],
) -> None:
    run, problem, gamma, _ = read
    few = gamma[list(range(embedding.FEW))]
    assert embedding._pieces(few, problem, run.load(run.steps).state.params, {}, 4) == 1
