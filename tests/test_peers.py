"""What other libraries are handed, and how they are judged; the libraries themselves are not needed here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.peers.__main__ import RESULTS, ask, judged
from benchmarks.peers.job import Job, few, read_job, summed, train
from benchmarks.peers.page import PAGE, page


@pytest.fixture(scope="module")
def job() -> Job:
    return read_job("digits-shift")


def test_what_is_handed_over_is_the_recorded_training(job: Job) -> None:
    trained = train(job).state_dict()
    for name, parameter in job.states[-1].items():
        torch.testing.assert_close(trained[name], parameter, rtol=1e-9, atol=1e-12)
    assert torch.equal(job.model_at(0).state_dict()["layers.0.weight"], job.run.load(0).state.params["layers.0.weight"])


def test_scores_are_summed_over_appearances_stage_by_stage(job: Job) -> None:
    ones = torch.ones(len(job.x), 2)
    seen = [sum(len(job.batches[k]) for k in steps) for steps in job.stages]
    assert summed(job, lambda _: ones).tolist() == [[n, n] for n in seen]
    last = summed(job, lambda stage: ones * (stage == len(job.stages) - 1))
    assert last[:-1].abs().sum() == 0 and last[-1].tolist() == [seen[-1]] * 2


def test_a_method_with_another_scale_is_right_up_to_it() -> None:
    truth, columns = np.random.default_rng(0).normal(size=(3, 60)), few(60)
    found = {"name": "m", "scaled": False, "lacks": "", "cost": 2.0, "columns": columns}
    figures = judged(found | {"effects": (5 * truth[:, columns]).tolist()}, truth)
    assert figures["pairs"]["pearson"] == pytest.approx(1.0) and figures["pairs"]["relative_error"] == pytest.approx(4)
    assert figures["error_at_best_scale"] == pytest.approx(0.0, abs=1e-12) and figures["few"]["n"] == 24
    assert judged({"name": "m", "error": "no"}, truth) == {"name": "m", "error": "no"}


def test_what_does_not_import_is_kept_as_what_it_said() -> None:
    (only,) = ask("no such run", "ours")
    assert "no such run" in only["error"] or "run.json" in only["error"]
    figures = {
        "runs": {
            "r": {
                "date": "d",
                "machine": "m",
                "load": "1 on 2 processors",
                "versions": {"lib": "1"},
                "found": {"lib": [only]},
            }
        }
    }
    assert "did not run: " in page(figures)


def test_the_page_is_that_of_the_stored_figures() -> None:
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))
