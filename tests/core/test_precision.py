"""Mixed precision: autocast and loss scaling are recorded, replayed to the bit and differentiated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import RecordingError, RequestError
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
    clip_norm: float | None = None,
    make: Callable[[], nn.Module] = model,
) -> tuple[Trajectory, nn.Module]:
    """Ten steps; those of `spoil` overflow, so that the scaler skips them."""
    trained = make()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.02)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)
    announced: dict[str, Any] = {"scaler": scaler if announce else None, "clip_norm": clip_norm}
    with aa.Recorder(path, trained, optimizer, zoo.cross_entropy, checkpoint_every=3, **announced) as recorder:
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
                    if clip_norm:
                        scaler.unscale_(optimizer)
                        nn.utils.clip_grad_norm_(trained.parameters(), clip_norm)
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
    "float16, scaled, clipped": {"dtype": FP16, "scale": 2.0**8, "clip_norm": 0.3},
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


@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_the_effect_of_a_stage_is_that_of_training_without_it(tmp_path: Path, scale: float | None) -> None:
    dtype = BF16 if scale is None else FP16
    run, _ = train(tmp_path / "run", dtype, scale=scale)
    problem = aa.Problem(model(), zoo.cross_entropy, device="cpu")
    without = plain_torch(range(5, 10), dtype, scale)
    found = aa.retrain(run, problem, aa.Counterfactual.skip("a"))
    assert all(torch.equal(found.params[n], p) for n, p in without.named_parameters())

    x, y = zoo.examples(40, 99, torch.float32)
    gamma = aa.log_likelihood(x, y)
    truth = aa.final_model(run, problem).performance(gamma) - found.performance(gamma)
    effects = aa.stage_effects(run, problem, gamma, cache=EmbeddingCache(None)).effects[0]
    both = torch.stack([effects, truth.double()])
    assert torch.corrcoef(both)[0, 1] > 0.95 and both.sign().prod(0).mean() > 0.8


def plain_torch(
    steps: range,
    dtype: torch.dtype | None,
    scale: float | None,
    spoil: frozenset[int] = frozenset(),
    make: Callable[[], nn.Module] = model,
) -> nn.Module:
    """These steps of `train`, in torch alone."""
    trained = make()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0)
    for k in steps:
        x, y = zoo.examples(8, seed=10 * k, dtype=torch.float32)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = zoo.cross_entropy(trained(x), y)
        scaler.scale(loss).backward()
        if k in spoil:
            next(trained.parameters()).grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
    return trained


def test_a_scaler_that_skips_and_was_not_announced_is_noticed(tmp_path: Path) -> None:
    """Step 2 is skipped; no checkpoint falls on what follows it."""
    with pytest.raises(RecordingError, match="pass scaler="):
        train(tmp_path / "run", FP16, scale=2.0**12, spoil=frozenset({1}), announce=False)


def test_skipped_steps_never_were(tmp_path: Path) -> None:
    """The first step of a stage, one in its middle, and the last."""
    run, trained = train(tmp_path / "run", FP16, scale=2.0**12, spoil=frozenset({0, 2, 6, 9}))
    assert run.steps == 6 and [len(s) for s in run.stages] == [3, 3]
    assert all(len(run.record(k).micro_batches) == 1 for k in range(run.steps))
    assert [run.record(k).precision.scale for k in range(run.steps)] == [2.0**11, *[2.0**10] * 3, 2.0**9, 2.0**9]
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, aa.Problem(model(), zoo.cross_entropy, device="cpu")))
    final = run.load(run.steps).state.params
    assert all(torch.equal(final[n], p) for n, p in trained.named_parameters())


def normalised() -> nn.Module:
    torch.manual_seed(1)
    first = nn.Linear(zoo.FEATURES, 9, bias=False)  # whose gradient would be rounding alone, which Adam makes large
    return nn.Sequential(first, nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, zoo.CLASSES))


def test_batches_of_skipped_steps_move_running_statistics(tmp_path: Path) -> None:
    run, trained = train(
        tmp_path / "run", FP16, scale=2.0**6, spoil=frozenset({0, 2, 3}), micro_batches=2, make=normalised
    )
    assert [len(run.record(k).passed) for k in range(run.steps)] == [2, 4, 0, 0, 0, 0, 0]
    problem = aa.Problem(normalised(), zoo.cross_entropy, device="cpu")
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem))
    final = run.load(run.steps)
    assert all(torch.equal(final.buffers[n], b) for n, b in trained.named_buffers())

    without = aa.Counterfactual.skip("b")
    one, together = aa.retrain(run, problem, without), aa.retrain_all(run, problem, [without])[0]
    torch.testing.assert_close(one.params, together.params)
    parts = aa.example_effects(run, problem, aa.log_likelihood(*zoo.examples(6, 99, torch.float32)).mean(), steps=[1])
    assert len(parts.units) == 2 * 8, "those of the batches that had a say in the step"


def test_derivatives_of_a_scaled_loss_stay_in_range(tmp_path: Path) -> None:
    """With batch norm they leave that of float16; the effects are those of the same training without the scale."""
    gamma = aa.log_likelihood(*zoo.examples(12, 99, torch.float32))
    found = []
    for name, dtype, scale in (("half", FP16, 2.0**12), ("full", None, None)):
        run, _ = train(tmp_path / name, dtype, scale=scale, make=normalised)
        problem = aa.Problem(normalised(), zoo.cross_entropy, device="cpu")
        stages = aa.stage_effects(run, problem, gamma, cache=EmbeddingCache(None)).effects
        steps = aa.step_effects(run, problem, gamma).effects
        examples = aa.example_effects(run, problem, gamma).effects
        found.append((stages, steps, examples))
    for half, full in zip(*found, strict=True):
        assert half.isfinite().all()
        assert torch.corrcoef(torch.stack([half.flatten(), full.flatten()]))[0, 1] > 0.99


LAST = frozenset({3, 4, 9})
"""The last two batches of the first stage, and the last of all."""


@pytest.fixture
def rested(tmp_path: Path) -> tuple[Trajectory, nn.Module, aa.Problem]:
    run, trained = train(tmp_path / "run", None, scale=2.0**6, spoil=LAST, make=normalised)
    return run, trained, aa.Problem(normalised(), zoo.cross_entropy, device="cpu")


@pytest.mark.parametrize("dtype", [None, FP16, BF16])
def test_batches_skipped_at_the_end_of_a_stage_are_a_step_in_which_all_parameters_rest(
    tmp_path: Path, dtype: torch.dtype | None
) -> None:
    run, trained = train(tmp_path / "run", dtype, scale=2.0**6, spoil=LAST, make=normalised)
    records = [run.record(k) for k in range(run.steps)]
    assert [len(s) for s in run.stages] == [4, 5]
    assert [(len(r.micro_batches), len(r.passed)) for r in records] == [*[(1, 0)] * 3, (0, 2), *[(1, 0)] * 4, (0, 1)]
    assert set(records[3].idle) == set(run.phases[0].trained) and records[3].precision.dtype == dtype
    problem = aa.Problem(normalised(), zoo.cross_entropy, device="cpu")
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem))
    final = run.load(run.steps)
    assert all(torch.equal(final.buffers[n], b) for n, b in trained.named_buffers())
    assert all(torch.equal(final.state.params[n], p) for n, p in trained.named_parameters())

    for stage, steps, scale in (("b", range(5), 2.0**6), ("a", range(5, 10), records[4].precision.scale)):
        plain = plain_torch(steps, dtype, scale, LAST, normalised)
        for without in (
            aa.retrain(run, problem, aa.Counterfactual.skip(stage)),
            aa.retrain_all(run, problem, [aa.Counterfactual.skip(stage)])[0],
        ):
            assert all(torch.equal(without.params[n], p) for n, p in plain.named_parameters())
            assert all(torch.equal(without.buffers[n], b) for n, b in plain.named_buffers())


def test_a_resting_step_is_worth_what_it_did_to_running_statistics(
    rested: tuple[Trajectory, nn.Module, aa.Problem],
) -> None:
    run, _, problem = rested
    gamma = aa.log_likelihood(*zoo.examples(6, 99, torch.float32))
    last = run.steps - 1
    truth = aa.final_model(run, problem).performance(gamma) - aa.retrain(
        run, problem, aa.Counterfactual.skip_steps(last)
    ).performance(gamma)
    found = aa.step_effects(run, problem, gamma).effects[last]
    both = torch.stack([found, truth.double()])
    assert torch.corrcoef(both)[0, 1] > 0.98 and torch.equal(*both.sign())
    causes = aa.step_effects_by_cause(run, problem, gamma)
    own = causes.effects[(causes.units["step"] == last).tolist()]
    torch.testing.assert_close(own.sum(0), found)
    assert (own.abs().sum(1) > 0).sum() == 1, "running statistics, and no other cause"
    split = aa.step_effects_by_parameter(run, problem, gamma)
    torch.testing.assert_close(split.effects[(split.units["step"] == last).tolist()].sum(0), found)


def test_no_question_stumbles_over_a_resting_step(
    rested: tuple[Trajectory, nn.Module, aa.Problem], tmp_path: Path
) -> None:
    run, _, problem = rested
    gamma = aa.log_likelihood(*zoo.examples(6, 99, torch.float32))
    resting = [k for k in range(run.steps) if not run.record(k).micro_batches]
    of_examples = aa.example_effects_by_step(run, problem, gamma)
    assert sorted(set(of_examples.units["step"])) == [k for k in range(run.steps) if k not in resting]
    with pytest.raises(RequestError, match="step 3 updates no parameter"):
        aa.example_effects(run, problem, gamma, steps=resting[:1])
    assert len(aa.remainders(run, problem, gamma.mean())) == 2
    assert aa.noise_floor(run, problem, gamma, orders=2).effects_by_order is not None
    assert aa.path_shares(run, problem, gamma).shares.isfinite().all()
    assert aa.stage_effects_by_parameter(run, problem, gamma).effects.isfinite().all()
    for method in ("additive", "boundary"):
        assert aa.stage_effects(run, problem, gamma, method=method, cache=EmbeddingCache(None)).effects.isfinite().all()
    for what in (
        aa.Counterfactual(("a",), scale=0.5),
        aa.Counterfactual.skip("a", semantics="zero_gradient"),
        aa.Counterfactual.without_examples(0),
    ):
        assert aa.predict(run, problem, what, gamma).isfinite().all()
        assert aa.retrain(run, problem, what).performance(gamma).isfinite().all()
    again = aa.record_counterfactual(run, problem, aa.Counterfactual.change("a", lr="0.5x"), tmp_path / "again")
    assert again.record(3).micro_batches == () and all(d.absolute == 0 for d in aa.replay_drift(again, problem))
    assert aa.check_integrity(again) == ()


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


class Halves(nn.Module):
    """Cannot do without autocast: a part of it is float16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.base = nn.Linear(zoo.FEATURES, 6).half().requires_grad_(False)
        self.head = nn.Linear(6, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base(x).tanh())


class Noisy(nn.Module):
    """Draws other numbers in float16 than in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(zoo.FEATURES, 9), nn.Linear(9, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last((h + torch.randn_like(h) if self.training else h).tanh())


@pytest.mark.parametrize("make", [Halves, Noisy])
def test_models_that_need_their_half_precision_are_differentiated_in_it(
    tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    """The effects of a step's examples add up to what its data did, to first order, in plain SGD: the same numbers."""
    model = make()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with aa.Recorder(tmp_path / "run", model, optimizer, zoo.cross_entropy) as recorder, recorder.stage("a"):
        for k in range(4):
            x, y = zoo.examples(8, seed=k, dtype=torch.float32)
            recorder.batch(x, y)
            optimizer.zero_grad()
            with torch.autocast("cpu", FP16):
                zoo.cross_entropy(model(x), y).backward()
            optimizer.step()
    run, problem = aa.open_run(tmp_path / "run"), aa.Problem(make(), zoo.cross_entropy, device="cpu")
    if make is Noisy:
        assert run.record(0).micro_batches[0].rng is not None
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem))
    if make is Halves:
        training = prepare(run, problem)
        at, step = run.load(0), run.step_input(0, torch.device("cpu"))
        rays = as_rays(map_state(torch.ones_like, at.state))
        assert all(t.isfinite().all() for t in (training.linearize(at, step, "exact")[1] @ rays).params.values())
        assert problem.needs_autocast
        return
    gamma = aa.log_likelihood(*zoo.examples(6, 99, torch.float32))
    steps = aa.step_effects(run, problem, gamma, semantics="zero_gradient").effects
    examples = aa.example_effects_by_step(run, problem, gamma)
    added = torch.stack([examples.effects[(examples.units["step"] == k).tolist()].sum(0) for k in range(4)])
    torch.testing.assert_close(added, steps, rtol=0.02, atol=1e-4)
