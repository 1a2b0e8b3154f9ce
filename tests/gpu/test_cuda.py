"""On a GPU: record there, replay there to the bit, and get the CPU's effects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from tests import zoo
from tests.core.cases import scheduled, two_groups, warm_and_cosine
from tests.core.test_rules import compare

pytestmark = pytest.mark.gpu


@pytest.fixture(params=[torch.float32, torch.float64])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[aa.Trajectory, nn.Module, torch.dtype]:
    torch.manual_seed(0)
    model = zoo.mlp().to("cuda", request.param)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy) as recorder:
        for name in ("a", "b"):
            with recorder.stage(name):
                for k in range(5):
                    x, y = (t.cuda() for t in zoo.examples(16, seed=k, dtype=request.param))
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    zoo.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return aa.open_run(tmp_path / "run"), model, request.param


def test_auto_means_the_gpu(recorded: tuple[aa.Trajectory, nn.Module, torch.dtype]) -> None:
    _, model, _ = recorded
    assert aa.Problem(model, zoo.cross_entropy).device.type == "cuda"


def test_replay_on_the_gpu_is_the_recording_bit_for_bit(recorded: tuple[aa.Trajectory, nn.Module, torch.dtype]) -> None:
    run, model, _ = recorded
    drifts = aa.replay_drift(run, aa.Problem(model, zoo.cross_entropy))
    assert max(d.relative for d in drifts) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_step_is_bit_for_bit_that_of_torch_on_the_gpu(kind: type, dtype: torch.dtype) -> None:
    groups = two_groups(kind, lr=0.05, weight_decay=0.1, maximize=True)
    compare(scheduled(groups, warm_and_cosine), dtype, foreach=True, device="cuda")
    compare(lambda p: kind(p, lr=0.05), dtype, {"weight": (300, 70), "bias": (7,)}, foreach=True, device="cuda")


def test_effects_on_the_gpu_are_those_on_the_cpu(recorded: tuple[aa.Trajectory, nn.Module, torch.dtype]) -> None:
    run, model, dtype = recorded
    x, y = zoo.examples(20, seed=9, dtype=dtype)
    gamma, tolerance = aa.log_likelihood(x, y), 1e-8 if dtype == torch.float64 else 1e-3
    found = {}
    for device in ("cpu", "cuda"):
        problem = aa.Problem(model, zoo.cross_entropy, device=device)
        stages = aa.stage_effects(run, problem, gamma, cache=EmbeddingCache(None)).effects
        found[device] = stages, aa.step_effects(run, problem, gamma[:3]).effects
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=tolerance, atol=tolerance)


def test_embeddings_stay_on_the_gpu_within_their_budget(recorded: tuple[aa.Trajectory, nn.Module, torch.dtype]) -> None:
    run, model, _ = recorded
    cache = EmbeddingCache(None, budget=1)
    embeddings = aa.embed_stages(run, aa.Problem(model, zoo.cross_entropy), cache=cache)
    assert all(p.is_cuda for e in embeddings for p in e.params.values())
    assert len(cache._entries) == 1  # the least recently used ones were let go
