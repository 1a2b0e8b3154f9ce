"""Cached embeddings: computed once, never wrong, whatever happens to the files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import ReplayDriftError
from tests import zoo
from tests.core.cases import STAGES, Case, assert_same_params, embeddings, make_case, memory_cache, queries, recorded


@dataclasses.dataclass
class CountingRun(zoo.MemoryRun):
    """Notes which steps are asked for: nothing can be computed without."""

    asked: set[int] = dataclasses.field(default_factory=set)

    def step_input(self, step: int, device: torch.device) -> Any:
        self.asked.add(step)
        return super().step_input(step, device)


def counting(case: Case, **changes: Any) -> CountingRun:
    return CountingRun(**{**{f.name: getattr(case.run, f.name) for f in dataclasses.fields(case.run)}, **changes})


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_second_call_computes_nothing_and_returns_the_same(tmp_path: Path, on_disk: bool) -> None:
    case, memory = recorded("mlp", "adam"), memory_cache()
    run = counting(case)
    new_cache = (lambda: EmbeddingCache(tmp_path)) if on_disk else (lambda: memory)
    first = aa.stage_effects(run, case.problem, queries(), cache=new_cache())
    assert run.asked == set(range(4, 12))
    run.asked.clear()
    second = aa.stage_effects(run, case.problem, queries(), cache=new_cache())
    assert not run.asked
    assert torch.equal(first.effects, second.effects) and first.reliability == second.reliability
    aa.stage_effects(run, case.problem, queries(7).mean(), cache=new_cache(), stages=["b"], readout="link")
    assert not run.asked, "other questions read the same embeddings"


def test_only_what_is_missing_is_computed() -> None:
    case, cache = recorded("mlp", "adam"), memory_cache()
    run = counting(case)
    aa.embed_stages(run, case.problem, ("a",), cache=cache)
    run.asked.clear()
    found = {e.stage: e.params for e in aa.embed_stages(run, case.problem, cache=cache)}
    assert run.asked == {9, 10, 11}, "b is the difference of two checkpoints, and only the steps after it carry it on"
    for stage, expected in embeddings(case.run, case.problem).items():
        assert_same_params(found[stage], expected, 1e-12)


@pytest.mark.parametrize(
    "change",
    [{"method": "additive"}, {"curvature": "ggn"}, {"semantics": "zero_gradient"}, {"digest": "other"}, "problem"],
)
def test_another_question_is_computed_anew(change: Any) -> None:
    case, cache = recorded("mlp", "momentum"), memory_cache()
    run = counting(case, every=3)
    aa.embed_stages(run, case.problem, cache=cache)
    run.asked.clear()
    if change == "problem":
        wrong = aa.Problem(zoo.mlp(nn.Tanh).double(), zoo.cross_entropy, device="cpu")
        with pytest.raises(ReplayDriftError):
            aa.embed_stages(run, wrong, cache=cache)
        return
    request = {} if "digest" in change else change
    if "digest" in change:
        run.digest = change["digest"]
    found = {e.stage: e.params for e in aa.embed_stages(run, case.problem, cache=cache, **request)}
    assert run.asked
    for stage, expected in embeddings(case.run, case.problem, **request).items():
        assert_same_params(found[stage], expected, 1e-12)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_growth(data: bytes) -> bytes:
    return data.replace(b'"growth"', b'"grow!!"')


DAMAGE = {
    "truncated": truncated,
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "absurd header": lambda data: b"\xff" * 8 + data[8:],
    "no growth": without_growth,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_computed_again_and_repaired(tmp_path: Path, damage: str) -> None:
    case = recorded("mlp", "adam")
    first = embeddings(case.run, case.problem, cache=EmbeddingCache(tmp_path))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    good = {f: f.read_bytes() for f in files}
    for file in files:
        file.write_bytes(DAMAGE[damage](good[file]))
    run = counting(case)
    second = embeddings(run, case.problem, cache=EmbeddingCache(tmp_path))
    assert run.asked
    for stage in STAGES:
        assert_same_params(second[stage], first[stage], 1e-15)
    assert {f: f.read_bytes() for f in sorted(tmp_path.iterdir())} == good


def test_a_flipped_bit_in_a_cache_file_is_noticed(tmp_path: Path) -> None:
    case, cpu = recorded("mlp", "adam"), torch.device("cpu")
    (expected,) = aa.embed_stages(case.run, case.problem, ("a",), cache=EmbeddingCache(tmp_path))
    (file,) = tmp_path.iterdir()
    good, generator = file.read_bytes(), torch.Generator().manual_seed(0)
    assert EmbeddingCache(tmp_path).get(expected.digest, cpu) is not None
    for bit in torch.randint(len(good) * 8, (200,), generator=generator).tolist():
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bytes(bad))
        assert EmbeddingCache(tmp_path).get(expected.digest, cpu) is None, f"bit {bit} of {file.name}"


def test_a_cache_whose_folder_vanishes_goes_on(tmp_path: Path) -> None:
    case, folder = recorded("mlp", "adam"), tmp_path / "cache"
    expected = embeddings(case.run, case.problem, cache=EmbeddingCache(folder))
    shutil.rmtree(folder)
    found = embeddings(case.run, case.problem, cache=EmbeddingCache(folder))
    assert_same_params(found["a"], expected["a"], 1e-15)


def test_a_small_cache_forgets_the_oldest_and_stays_right() -> None:
    case = recorded("mlp", "adam")
    expected = embeddings(case.run, case.problem)
    one = sum(t.numel() * t.element_size() for t in expected["a"].values())
    cache = EmbeddingCache(None, budget=2 * one)
    run = counting(case)
    for _ in range(2):
        found = embeddings(run, case.problem, cache=cache)
        assert cache.nbytes <= 2 * one
        for stage in STAGES:
            assert_same_params(found[stage], expected[stage], 1e-12)


def test_the_cache_hits_however_the_device_is_spelled() -> None:
    case, cache = recorded("mlp", "adam"), memory_cache()
    problem, run = aa.Problem(case.model, zoo.cross_entropy, device="cpu:0"), counting(case)
    embeddings(run, problem, cache=cache)
    run.asked.clear()
    embeddings(run, problem, cache=cache)
    assert not run.asked


class Hidden(nn.Module):
    """Prints the same whatever its activation is."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.first, self.last, self.activation = nn.Linear(zoo.FEATURES, 7), nn.Linear(7, zoo.CLASSES), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.first(x)))


def test_the_cache_does_not_hide_a_wrong_model() -> None:
    case, cache = make_case(lambda: Hidden(torch.tanh), zoo.OPTIMIZERS["adam"]), memory_cache()
    aa.stage_effects(case.run, case.problem, queries(), cache=cache)
    wrong = aa.Problem(Hidden(torch.relu).double(), zoo.cross_entropy, device="cpu")
    with pytest.raises(ReplayDriftError):
        aa.stage_effects(case.run, wrong, queries(), cache=cache)
