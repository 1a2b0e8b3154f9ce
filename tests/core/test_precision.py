"""Mixed precision: autocast and loss scaling are recorded, replayed to the bit and differentiated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import RecordingError
from aa_core.replay import prepare
from aa_core.runs.trajectory import Trajectory
from aa_core.state import as_rays, map_state, pair
from tests import zoo

BF16, FP16 = torch.bfloat16, torch.float16


def model() -> nn.Module:
    torch.manual_seed(1)
    return zoo.mlp().float()


def train(
    path: Path,
    dtype: torch.dtype | None,
    *,
    scale: float | None = None,
    spoil: frozenset[int] = frozenset(),
    announce: bool = True,
    loss_inside: bool = True,
    micro_batches: int = 1,
) -> tuple[Trajectory, nn.Module]:
    """Ten steps; those of `spoil` overflow, so that the scaler skips them."""
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.02)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)
    with aa.Recorder(
        path, trained, optimizer, zoo.cross_entropy, checkpoint_every=3, scaler=scaler if announce else None
    ) as recorder:
        for name, first in (("a", 0), ("b", 5)):
            with recorder.stage(name):
                for k in range(first, first + 5):
                    optimizer.zero_grad()
                    for j in range(micro_batches):
                        x, y = zoo.examples(8, seed=10 * k + j, dtype=torch.float32)
                        recorder.batch(x, y, weight=1 / micro_batches)
                        with torch.autocast("cpu", dtype, enabled=dtype is not None):
                            outputs = trained(x)
                            loss = zoo.cross_entropy(outputs, y) if loss_inside else None
                        loss = outputs.square().mean() if loss is None else loss / micro_batches
                        (scaler.scale(loss) if scaler else loss).backward()
                    if k in spoil:
                        next(trained.parameters()).grad.fill_(torch.inf)
                    if scaler:
                        scaler.step(optimizer)
                        scaler.update()
                    else:
                        optimizer.step()
    return aa.open_run(path), trained


CASES = {
    "bfloat16": {"dtype": BF16},
    "bfloat16, accumulated": {"dtype": BF16, "micro_batches": 3},
    "float16, scaled": {"dtype": FP16, "scale": 2.0**12},
    "float16, scaled, accumulated": {"dtype": FP16, "scale": 2.0**8, "micro_batches": 2},
    "scaled alone": {"dtype": None, "scale": 2.0**10},
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Trajectory, nn.Module]:
    return train(tmp_path / "run", **CASES[request.param])


def test_the_replay_is_the_recording_to_the_bit(case: tuple[Trajectory, nn.Module]) -> None:
    run, trained = case
    drifts = aa.replay_drift(run, aa.Problem(model(), zoo.cross_entropy, device="cpu"))
    assert len(drifts) >= 4 and all(d.absolute == 0.0 for d in drifts)
    final = run.load(run.steps).state.params
    assert all(torch.equal(final[n], p) for n, p in trained.named_parameters())


def test_the_propagator_is_that_of_the_same_step_in_full_precision(case: tuple[Trajectory, nn.Module]) -> None:
    """Derivatives look past the rounding, so they are those without it, up to its size."""
    run, _ = case
    training = prepare(run, aa.Problem(model(), zoo.cross_entropy, device="cpu"))
    at, step = run.load(5), run.step_input(5, torch.device("cpu"))
    full = step._replace(scale=1.0, batches=tuple((b._replace(autocast=None), w) for b, w in step.batches))
    generator = torch.Generator().manual_seed(0)
    direction = map_state(lambda t: torch.randn(t.shape, generator=generator).to(t) * t.abs(), at.state)
    rays = as_rays(direction._replace(count=torch.zeros_like(direction.count)))
    pushed, expected = (training.linearize(at, s, "exact")[1] @ rays for s in (step, full))
    error = map_state(torch.sub, pushed, expected)
    assert float(pair(error, error)) < 2e-3 * float(pair(expected, expected))
    pulled = training.linearize(at, step, "exact")[1].T @ pushed
    torch.testing.assert_close(pair(pushed, pushed), pair(pulled, rays), rtol=2e-2, atol=0)


def test_the_last_stage_is_exact_by_the_displaced_readout(case: tuple[Trajectory, nn.Module]) -> None:
    run, _ = case
    problem = aa.Problem(model(), zoo.cross_entropy, device="cpu")
    gamma = aa.log_likelihood(*zoo.examples(6, 99, torch.float32))
    found = aa.stage_effects(run, problem, gamma, readout="displaced", cache=EmbeddingCache(None))
    truth = aa.final_model(run, problem).performance(gamma) - aa.retrain(
        run, problem, aa.Counterfactual.skip("b")
    ).performance(gamma)
    torch.testing.assert_close(found.effects[-1], truth.double(), rtol=1e-4, atol=1e-6)
    words = " ".join(found.reliability.assumptions)
    assert ("autocast" in words) == (run.record(0).precision.autocast is not None)


def test_skipped_steps_never_were(tmp_path: Path) -> None:
    """The first step of a stage, one in its middle, and the last."""
    run, trained = train(tmp_path / "run", FP16, scale=2.0**12, spoil=frozenset({0, 2, 6, 9}))
    assert run.steps == 6 and [len(s) for s in run.stages] == [3, 3]
    assert all(len(run.record(k).micro_batches) == 1 for k in range(run.steps))
    assert [run.record(k).precision.scale for k in range(run.steps)] == [2.0**11, *[2.0**10] * 3, 2.0**9, 2.0**9]
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, aa.Problem(model(), zoo.cross_entropy, device="cpu")))
    final = run.load(run.steps).state.params
    assert all(torch.equal(final[n], p) for n, p in trained.named_parameters())


def test_precision_is_journaled(tmp_path: Path) -> None:
    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    x, y = zoo.examples(8, seed=0, dtype=torch.float32)
    with aa.Recorder(tmp_path / "run", trained, optimizer, zoo.cross_entropy) as recorder, recorder.stage("a"):
        for _ in range(2):
            recorder.batch(x, y)
            optimizer.zero_grad()
            with torch.autocast("cpu", BF16):
                loss = zoo.cross_entropy(trained(x), y)
            loss.backward()
            optimizer.step()
        assert aa.open_run(tmp_path / "run").record(1).precision.autocast == "bfloat16"


def test_a_loss_outside_of_autocast_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="outside the autocast"):
        train(tmp_path / "run", BF16, loss_inside=False)
