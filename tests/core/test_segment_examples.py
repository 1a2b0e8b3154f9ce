"""Effects of training examples from checkpoints: the closed form, real training with other weights, and the labels."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import aa_core as aa
from aa_core.checkpoints_only import segments
from aa_core.checkpoints_only.segment_effects import APPROXIMATION
from aa_core.errors import RequestError, UnknownStageError
from tests import zoo
from tests.core.checkpoint_case import LENGTHS, build, data, gamma, problem, vector
from tests.core.test_segments import hessian


@pytest.fixture(autouse=True)
def to_the_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows as exact as Lanczos can make them, so that the formulas are seen, not the tolerance."""
    monkeypatch.setattr(segments, "TOLERANCE", 1e-12)


def found(run: aa.CheckpointRun, stage: str = "b", **options: str) -> aa.Attribution:
    return aa.segment_example_effects(run, problem(), gamma(), stage, **options)  # type: ignore[arg-type]


def example_gradients(run: aa.CheckpointRun, stage: int, step: int) -> Tensor:
    """Of each example's part of the mean loss, [examples, n]."""
    (x, y), model = data(stage), zoo.linear().double()
    at = {n: p.requires_grad_() for n, p in run.load(step).state.params.items()}
    outputs = torch.func.functional_call(model, at, (x,))
    losses = (outputs - torch.nn.functional.one_hot(y, zoo.CLASSES)).square().mean(1) / len(y)
    grads = [torch.autograd.grad(part, list(at.values()), retain_graph=True) for part in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])


def slopes(run: aa.CheckpointRun) -> Tensor:
    """d gamma / d theta at the end, [values, n]."""
    asked, at = problem(), run.load(run.steps)
    jacobian = torch.func.jacrev(lambda p: gamma()(asked, p, at.buffers))(at.state.params)
    return torch.cat([j.flatten(1) for j in jacobian.values()], 1)


def test_they_are_the_closed_form_of_a_stationary_flow(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1, every=4)
    h = hessian(1)
    later = torch.linalg.matrix_exp(-0.1 * 10 * hessian(2))
    values, basis = torch.linalg.eigh(h)
    expected = torch.zeros(12, 5, dtype=torch.float64)
    for low, high in ((6, 10), (10, 14)):
        x = 0.1 * 4 * values
        mean_flow = basis @ torch.diag(torch.where(x.abs() < 1e-9, 1.0, -torch.expm1(-x) / x)) @ basis.T
        carried = later @ torch.linalg.matrix_exp(-0.1 * (14 - high) * h)
        mean_gradient = (example_gradients(run, 1, low) + example_gradients(run, 1, high)) / 2
        expected -= 0.1 * 4 * mean_gradient @ mean_flow @ carried.T @ slopes(run).T
    torch.testing.assert_close(found(run).effects, expected)


def test_many_checkpoints_and_small_steps_bring_them_to_real_training_with_other_weights(tmp_path: Path) -> None:
    errors = []
    for finer in (1, 4):
        lengths = {name: finer * length for name, length in LENGTHS.items()}
        run = build(tmp_path / str(finer), lr=0.1 / finer, every=1, lengths=lengths)
        truth = torch.stack([weighted_derivative(0.1 / finer, lengths, "b", i) for i in range(3)])
        errors.append(float((found(run).effects[:3] - truth).norm() / truth.norm()))
    assert errors[1] < errors[0] / 2 and errors[1] < 0.02, errors


def weighted_derivative(lr: float, lengths: dict[str, int], stage: str, example: int, step: float = 1e-4) -> Tensor:
    """d gamma / d weight of one example's loss in one stage, by central differences of whole trainings, [values]."""
    values = []
    for change in (step, -step):
        torch.manual_seed(0)
        model = zoo.linear().double()
        made = torch.optim.SGD(model.parameters(), lr=lr)
        for index, (name, length) in enumerate(lengths.items()):
            x, y = data(index)
            weights = torch.ones(len(y), dtype=torch.float64)
            weights[example] += change * (name == stage)
            for _ in range(length):
                made.zero_grad()
                errors = (model(x) - torch.nn.functional.one_hot(y, zoo.CLASSES)).square().mean(1)
                (weights * errors).mean().backward()
                made.step()
        params = {n: p.detach() for n, p in model.named_parameters()}
        values.append(gamma()(problem(), params, {}))
    return (values[0] - values[1]) / (2 * step)


def test_they_sum_to_what_the_mean_gradient_did(tmp_path: Path) -> None:
    """Without curvature: the slope along what full-batch gradient descent did, up to the mean of a piece's ends."""
    run = build(tmp_path / "run", lr=0.001, every=1)
    states = [vector(run.load(k).state.params) for k in (6, 14)]
    expected = slopes(run) @ (states[1] - states[0])
    torch.testing.assert_close(found(run, curvature="none").effects.sum(0), expected, rtol=0.01, atol=1e-6)


def test_they_say_what_they_are(tmp_path: Path) -> None:
    effects = found(build(tmp_path / "run", "AdamW", lr=0.01, stage={"ids": [f"e{i}" for i in range(12)]}))
    assert effects.provenance["approximation"] == APPROXIMATION == effects.reliability.assumptions[0]
    assert effects.reliability.words.startswith("Approximated from checkpoints only. Do not trust")
    assert list(effects.units.columns) == ["stage", "row", "id"] and effects.units["id"][11] == "e11"
    ranks = aa.ranked(effects)
    assert all(a >= b for a, b in pairwise(ranks[ranks["example"] == 0]["effect"]))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    run = build(tmp_path / "run", lr=0.1)
    with pytest.raises(UnknownStageError, match="unknown stage 'z'"):
        found(run, "z")
    with pytest.raises(RequestError, match="expected one of ggn"):
        found(run, curvature="exact")
