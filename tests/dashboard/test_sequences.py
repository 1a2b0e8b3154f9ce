"""A run of a language model, whose targets are sequences of characters, on the screens."""

from __future__ import annotations

import torch

import aa_core as aa
from aa_core.registry import load_problem
from tests.dashboard.conftest import SAMPLES, Open, said


def test_accuracy_is_over_all_places_and_says_of_how_many(calibrated: Open) -> None:
    run = aa.open_run(SAMPLES / "language" / "run")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    final = aa.final_model(run, problem)
    assert run.evaluation is not None
    x, y = run.evaluation.x, run.evaluation.y.long()
    with torch.no_grad():
        predicted = problem.outputs(final.params, dict(final.buffers), x).argmax(2)
    share = (predicted == y).double().mean().item()
    words = said(calibrated("overview", run="language", curvature="none"))
    assert f"{share:.0%}".replace("%", " %") + f" of {y.numel():,} places" in words
