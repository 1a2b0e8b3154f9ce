"""The page on accuracy and cost is that of the stored figures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aa_core as aa
from benchmarks import accuracy_zoo
from benchmarks.accuracy_architectures import ARCHITECTURES, SETTINGS, train
from benchmarks.accuracy_candidates import DROPPED, KEPT, damped, embed, mixed, relinearised, switched
from tests.core.cases import assert_same_params, embeddings, recorded


def test_the_page_is_that_of_the_figures() -> None:
    assert accuracy_zoo.PAGE.read_text() == accuracy_zoo.page(*accuracy_zoo.stored())


def test_every_candidate_was_measured_on_every_run_of_the_zoo() -> None:
    runs, architectures, elsewhere = (
        accuracy_zoo.stored()[0][p]["runs"] for p in ("runs", "architectures", "elsewhere")
    )
    assert [_config(run) for run in runs] == list(accuracy_zoo.ZOO)
    assert [(run["architecture"], _config(run)) for run in architectures] == [
        (name, config) for name in ARCHITECTURES for config in SETTINGS
    ]
    every = [*runs, *architectures, *elsewhere]
    assert all({row["candidate"] for row in run["rows"]} == {*KEPT, *DROPPED} for run in every)


def _config(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[n] for n in accuracy_zoo.Config._fields)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_learns_something_that_replays(name: str, tmp_path: Path) -> None:
    run, problem = train(name, SETTINGS[0], tmp_path / "run")
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem))
    assert run.log_frame()["loss"].iloc[-20:].mean() < run.log_frame()["loss"].iloc[:20].mean()


def test_candidates_are_the_engines_own_at_the_ends_of_what_they_vary() -> None:
    case = recorded("mlp", "momentum")
    run, training, states = case.run, case.training(), case.run.states
    exact, ggn = (embeddings(run, case.problem, curvature=kind) for kind in ("exact", "ggn"))
    for found, expected in (
        (embed(run, training, states, partial(mixed, exact=1.0)), exact),
        (embed(run, training, states, partial(mixed, exact=0.0)), ggn),
        (embed(run, training, states, partial(damped, by=0.0)), exact),
        (embed(run, training, states, partial(switched, after=100, first="ggn", then="exact")), ggn),
        (relinearised(run, training, states, after=0), exact),
    ):
        for stage, params in expected.items():
            assert_same_params(found[stage], params, 1e-9)


def test_bent_is_displaced_where_the_readouts_agree_and_linear_where_curvature_is_the_slope() -> None:
    readings = {"linear": np.array([[1.0, 3.0], [1.0, 1.0]]), "displaced": np.array([[2.0, 2.0], [3.0, -3.0]])}
    assert accuracy_zoo.bent(readings).tolist() == [[2.0, 2.0], [1.0, 1.0]]
