"""What is approximated from checkpoints, against closed forms, dense matrices and real retraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.checkpoints_only import segments
from aa_core.checkpoints_only.segment_effects import APPROXIMATION, embed_segments
from aa_core.checkpoints_only.segments import SAMPLED_BATCHES, Flow, flow_between, pieces
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import (
    ConvergenceError,
    MissingDataError,
    MissingStepsError,
    ProblemError,
    RequestError,
    UnknownStageError,
)
from tests import zoo
from tests.core.cases import memory_cache, squares
from tests.core.checkpoint_case import build, data, effects, gamma, problem, vector


@pytest.fixture(autouse=True)
def to_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows as exact as Lanczos can make them, so that the formulas are seen, not the tolerance."""
    monkeypatch.setattr(segments, "TOLERANCE", 1e-12)


def embedded(run: aa.CheckpointRun, asked: aa.Problem | None = None, curvature: Any = "ggn") -> dict[str, Tensor]:
    found = embed_segments(run, asked or problem(), None, curvature, EmbeddingCache(None))
    return {name: vector(e.params) for name, e in found.items()}


def moved(run: aa.CheckpointRun, name: str) -> Tensor:
    stage = next(s for s in run.stages if s.name == name)
    return vector(run.load(stage.stop).state.params) - vector(run.load(stage.start).state.params)


def hessian(stage: int) -> Tensor:
    """Of the squares of a linear model over a stage's examples: the same everywhere, and its own Gauss-Newton."""
    x, y = data(stage)
    like = dict(zoo.linear().double().named_parameters())
    shapes = [t.shape for t in like.values()]

    def loss(flat: Tensor) -> Tensor:
        weight, bias = (p.reshape(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True))
        return squares(x @ weight.T + bias, y)

    return torch.autograd.functional.hessian(loss, torch.zeros(sum(s.numel() for s in shapes), dtype=torch.float64))


def preconditioner(run: aa.CheckpointRun, steps: tuple[int, ...]) -> Tensor:
    hyper = run.header.stages[0].hyper
    squares_ = [
        vector(run.load(k).state.slots["exp_avg_sq"]) / (1 - hyper["beta2"] ** float(run.load(k).state.count))
        for k in steps
    ]
    return 1 / (torch.stack(squares_).mean(0).sqrt() + hyper["eps"])


# ---- the formula -----------------------------------------------------------------------------------------------------


def test_gradient_descent_on_squares_has_the_closed_form(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1, weight_decay=0.02)
    decay = 0.02 * torch.eye(len(hessian(0)))
    b, c = (torch.linalg.matrix_exp(-0.1 * k * (hessian(i) + decay)) for i, k in ((1, 8), (2, 10)))
    found = embedded(run)
    torch.testing.assert_close(found["a"], c @ b @ moved(run, "a"))
    torch.testing.assert_close(found["b"], c @ moved(run, "b"))
    torch.testing.assert_close(found["c"], moved(run, "c"))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.6}, {"momentum": 0.6, "nesterov": True}])
def test_small_steps_bring_it_to_the_exact_propagation(tmp_path: Path, options: dict[str, Any]) -> None:
    errors = []
    for finer in (1, 4, 16):
        lr, lengths = 0.2 / finer, {"a": 4 * finer, "b": 6 * finer, "c": 8 * finer}
        run = build(tmp_path / str(finer), lr=lr, lengths=lengths, **options)
        truth = trained_without(lr, lengths, "a", **options)
        errors.append(float((embedded(run)["a"] - truth).norm() / truth.norm()))
    assert errors[2] < errors[1] / 3 < errors[0] / 9 and errors[2] < 0.02, errors


def trained_without(lr: float, lengths: dict[str, int], skipped: str, **options: Any) -> Tensor:
    """theta_K as trained minus theta_K really trained without a stage; the optimizer stands still meanwhile."""
    ends = []
    for names in (lengths, [n for n in lengths if n != skipped]):
        torch.manual_seed(0)
        model = zoo.linear().double()
        made = torch.optim.SGD(model.parameters(), lr=lr, **options)
        for name in names:
            x, y = data(list(lengths).index(name))
            for _ in range(lengths[name]):
                made.zero_grad()
                squares(model(x), y).backward()
                made.step()
        ends.append(vector({n: p.detach() for n, p in model.named_parameters()}))
    return ends[0] - ends[1]


@pytest.mark.parametrize(("optimizer", "coupled"), [("Adam", 0.05), ("AdamW", 0.0)])
def test_adam_is_the_dense_exponential_with_its_second_moment(tmp_path: Path, optimizer: str, coupled: float) -> None:
    run = build(tmp_path / "run", optimizer, lr=0.01, weight_decay=0.05, betas=(0.0, 0.9), eps=1e-4)
    p, h = preconditioner(run, (14, 24)), hessian(2)
    dense = torch.linalg.matrix_exp(-0.1 * torch.diag(p) @ (h + coupled * torch.eye(len(h))))
    shrink = 1.0 if coupled else torch.exp(torch.tensor(-0.01 * 0.05 * 10))
    torch.testing.assert_close(embedded(run)["b"], shrink * dense @ moved(run, "b"))


def test_momentum_left_behind_acts_in_the_next_stage_where_it_is_known(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
    kept, lost = (build(tmp_path / str(s), slots=s, **options) for s in (True, False))
    fresh = build(tmp_path / "fresh", **options, resumes=False)
    m = [vector(kept.load(k).state.slots["momentum_buffer"]) for k in (6, 14)]
    flow = torch.linalg.matrix_exp(-0.1 * 10 * hessian(2))
    torch.testing.assert_close(embedded(kept)["b"], flow @ (moved(kept, "b") - 0.09 * (m[1] - m[0])))
    for run in (lost, fresh):
        torch.testing.assert_close(embedded(run)["b"], flow @ moved(kept, "b"))
    first = torch.linalg.matrix_exp(-0.1 * 8 * hessian(1)) @ (moved(kept, "a") - 0.09 * m[0])  # from no momentum at all
    torch.testing.assert_close(embedded(kept)["a"], flow @ first)
    told = [any("momentum carried" in a for a in effects(run).reliability.assumptions) for run in (kept, lost, fresh)]
    assert told == [False, True, False]


def test_each_piece_between_checkpoints_has_its_own_curvature(tmp_path: Path) -> None:
    model, loss_fn = zoo.mlp, zoo.cross_entropy
    run = build(tmp_path / "run", lr=0.3, every=5, model=model, loss_fn=loss_fn)
    asked = problem(model, loss_fn)
    assert pieces(run, 2) == [(14, 19), (19, 24)]
    expected = moved(run, "b")
    for piece in pieces(run, 2):
        mean = sum(gauss_newton(run, k) for k in piece) / 2
        expected = torch.linalg.matrix_exp(-0.3 * 5 * mean) @ expected
    torch.testing.assert_close(embedded(run, asked)["b"], expected)
    coarse = build(tmp_path / "coarse", lr=0.3, model=model, loss_fn=loss_fn)
    assert not torch.allclose(embedded(coarse, asked)["b"], expected, rtol=1e-3)


def gauss_newton(run: aa.CheckpointRun, step: int) -> Tensor:
    """J^T (d2 loss / d outputs2) J over the last stage's examples, dense."""
    at, (x, y), model = run.load(step).state.params, data(2), zoo.mlp().double()

    def outputs(params: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, params, (x,)).flatten()

    jacobian = torch.cat([j.flatten(1) for j in torch.func.jacrev(outputs)(at).values()], 1)
    shape = (len(x), zoo.CLASSES)
    bend = torch.func.hessian(lambda f: zoo.cross_entropy(f.reshape(shape), y))(outputs(at))
    return jacobian.T @ bend @ jacobian


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_pushing_and_pulling_are_transposed(tmp_path: Path, optimizer: str) -> None:
    run = build(tmp_path / "run", optimizer, lr=0.05, weight_decay=0.1)
    flow = flow_between(run, problem(), 2, (14, 24), "ggn")
    a, d = torch.randn(2, 3, len(moved(run, "a")), dtype=torch.float64)
    torch.testing.assert_close(a @ flow.push(d).vectors.T, flow.pull(a).vectors @ d.T)


def test_a_flow_that_does_not_settle_is_refused() -> None:
    spectrum = torch.logspace(-3, 9, 3000, dtype=torch.float64)
    flow = Flow(lambda v: v * spectrum, torch.ones(1, dtype=torch.float64), 0.0, 1.0)
    with pytest.raises(ConvergenceError, match="Keep more checkpoints"):
        flow.push(torch.ones(1, 3000, dtype=torch.float64))


def test_without_curvature_and_decay_a_change_arrives_as_it_is(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    for name, found in embedded(run, curvature="none").items():
        torch.testing.assert_close(found, moved(run, name), rtol=0, atol=1e-15)


def test_gauss_newton_lets_no_change_grow(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.5, model=zoo.mlp, loss_fn=zoo.cross_entropy)
    assert effects(run, problem(zoo.mlp, zoo.cross_entropy)).reliability.growth <= 1 + 1e-9


# ---- effects ---------------------------------------------------------------------------------------------------------


def test_the_last_stage_is_exact(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    asked, final, before = problem(), run.load(24), run.load(14)
    values = [gamma()(asked, at.state.params, at.buffers) for at in (final, before)]
    torch.testing.assert_close(effects(run).readings["displaced"][2], values[0] - values[1])


def test_a_recorded_run_without_its_steps_agrees_with_its_exact_effects(tmp_path: Path) -> None:
    """In slow training; what to expect elsewhere was measured: docs/checkpoints-only.md."""
    torch.manual_seed(0)
    model = zoo.mlp().double()
    made = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    evaluation = aa.Evaluation(*data(9, 5))
    with aa.Recorder(tmp_path / "run", model, made, zoo.cross_entropy, evaluation=evaluation) as recorder:
        for index, name in enumerate("abc"):
            with recorder.stage(name, note=f"stage {name}"):
                x, y = data(index)
                for _ in range(20):
                    recorder.batch(x, y)
                    made.zero_grad()
                    zoo.cross_entropy(model(x), y).backward()
                    made.step()
    recorded, known = aa.open_run(tmp_path / "run"), aa.forget_steps(aa.open_run(tmp_path / "run"), tmp_path / "known")
    asked = problem(zoo.mlp, zoo.cross_entropy)
    exact = aa.stage_effects(recorded, asked, gamma(), curvature="ggn", readout="displaced", cache=memory_cache())
    found = effects(known, asked)
    assert aa.agreement(found.effects.numpy(), exact.effects.numpy()).relative_error < 0.05
    assert [s.note for s in known.stages] == ["stage a", "stage b", "stage c"]
    assert known.title == recorded.title and known.checkpoints == (0, 20, 40, 60)


def test_results_say_everywhere_what_they_are(tmp_path: Path) -> None:
    found = effects(build(tmp_path / "run", lr=0.1))
    assert found.provenance["method"] == "segments" and found.provenance["approximation"] == APPROXIMATION
    assert found.reliability.assumptions[0] == APPROXIMATION
    assert found.reliability.words.startswith("Approximated from checkpoints only. ")
    assert found.reliability.to_dict()["words"] == found.reliability.words
    assert list(found.to_frame().columns) == ["stage", "example", "effect", "unit"]


@pytest.mark.parametrize("resumes", [True, False])
def test_the_second_moment_is_estimated_where_it_was_not_kept_and_said_to_be(tmp_path: Path, resumes: bool) -> None:
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "slots": False}
    run = build(tmp_path / "run", "Adam", **options, stage={"batch_size": 3}, resumes=resumes)
    squared = {
        (i, k): mean_square(run, i, k) for i, low, high in ((0, 0, 6), (1, 6, 14), (2, 14, 24)) for k in (low, high)
    }
    known = []
    for step in (14, 24) if resumes else (24,):
        spans = [(i, low, high) for i, low, high in ((0, 0, 6), (1, 6, 14), (2, 14, 24)) if high <= step]
        weighted = torch.zeros(step, len(squared[0, 0]), dtype=torch.float64)
        for i, low, high in spans if resumes else spans[2:]:
            weighted[low:high] = (squared[i, low] + squared[i, high]) / 2
        first = 0 if resumes else 14
        moment = torch.zeros_like(weighted[0])
        for g2 in weighted[first:]:  # Adam's own recursion
            moment = 0.95 * moment + 0.05 * g2
        known.append(moment / (1 - 0.95 ** (step - first)))
    p = 1 / (torch.stack(known).mean(0).sqrt() + 1e-8)
    torch.testing.assert_close(flow_between(run, problem(), 2, (14, 24), "ggn").root, p.sqrt())
    assert any("second moment was not kept" in a and "a, b, c" in a for a in effects(run).reliability.assumptions)


def mean_square(run: aa.CheckpointRun, stage: int, step: int) -> Tensor:
    """Of the gradients of eight batches of three, spread over a stage's twelve examples."""
    (x, y), model, squared = data(stage), zoo.linear().double(), []
    for j in range(SAMPLED_BATCHES):
        rows = (torch.arange(3) * 4 + j) % 12
        params = {n: p.requires_grad_() for n, p in run.load(step).state.params.items()}
        loss = squares(torch.func.functional_call(model, params, (x[rows],)), y[rows])
        squared.append(vector(dict(enumerate(torch.autograd.grad(loss, list(params.values()))))) ** 2)
    return torch.stack(squared).mean(0)


def test_only_some_stages_can_be_asked_for_and_answers_are_cached(tmp_path: Path) -> None:
    run, cache = build(tmp_path / "run", lr=0.1), EmbeddingCache(tmp_path / "cache")
    every = aa.segment_effects(run, problem(), gamma(), cache=cache)
    some = aa.segment_effects(run, problem(), gamma(), stages=["b"], cache=EmbeddingCache(tmp_path / "cache"))
    assert torch.equal(some.effects[0], every.effects[1]) and list(some.units["stage"]) == ["b"]
    assert torch.allclose(effects(run, stages=["b"]).effects, some.effects)
    with pytest.raises(UnknownStageError, match="unknown stage 'z'"):
        effects(run, stages=["z"])


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_what_needs_steps_is_refused_in_words(tmp_path: Path) -> None:
    run, asked = build(tmp_path / "run", lr=0.1), problem()
    for ask in (
        lambda: aa.step_effects(run, asked, gamma().mean()),
        lambda: aa.stage_effects(run, asked, gamma(), cache=memory_cache()),
        lambda: aa.retrain(run, asked, aa.Counterfactual.skip("a")),
        lambda: aa.predict(run, asked, aa.Counterfactual.skip("a"), gamma(), cache=memory_cache()),
        lambda: aa.example_effects(run, asked, gamma().mean()),
        lambda: aa.replay_drift(run, asked),
        lambda: run.record(0),
    ):
        with pytest.raises(MissingStepsError, match=r"only checkpoints of this training are known.*segment_effects"):
            ask()


def test_what_needs_no_steps_is_as_for_any_run(tmp_path: Path) -> None:
    run, asked = build(tmp_path / "run", lr=0.1), problem()
    shares = aa.path_shares(run, asked, gamma())
    torch.testing.assert_close(shares.start + shares.shares.sum(0), shares.end)
    torch.testing.assert_close(aa.final_model(run, asked).performance(gamma()), shares.end)


def test_a_hessian_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="curvature='exact'; where only checkpoints are known, expected one of ggn"):
        effects(build(tmp_path / "run", lr=0.1), curvature="exact")


def test_a_loss_that_is_no_mean_is_refused(tmp_path: Path) -> None:
    def total(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")

    run = build(tmp_path / "run", lr=0.01, loss_fn=total)
    with pytest.raises(ProblemError, match="a mean over examples"):
        effects(run, problem(loss_fn=total))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="does not fit the run"):
        effects(build(tmp_path / "run", lr=0.1), problem(zoo.mlp))


def test_a_performance_without_derivative_is_refused(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    with pytest.raises(RequestError, match="changes in steps"):
        aa.segment_effects(run, problem(), aa.accuracy(*data(9, 5)))


def test_a_referenced_dataset_must_be_at_hand(tmp_path: Path) -> None:
    x, y = data(0)
    reference = aa.DatasetReference("pairs", list(zip(x, y, strict=True)))
    run = build(tmp_path / "run", lr=0.1, stage={"data": reference})
    with pytest.raises(MissingDataError, match=r"datasets=\{'pairs'"):
        effects(aa.open_checkpoints(tmp_path / "run"))
    again = aa.open_checkpoints(tmp_path / "run", {"pairs": reference.dataset})
    assert torch.equal(effects(again).effects, effects(run).effects)
    stored = build(tmp_path / "stored", lr=0.1, stage={"data": (x, y)})
    assert torch.equal(effects(stored).effects, effects(run).effects)
