"""This engine's own stage effects."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from benchmarks.peers.job import Job, Method, Scores


def _performance(job: Job) -> aa.Performance:
    return aa.log_likelihood(job.test_x, job.test_y)


def _effects(job: Job, method: Any, curvature: Any, readout: Any) -> Scores:
    options: dict[str, Any] = {"method": method, "curvature": curvature, "readout": readout}
    found = aa.stage_effects(job.run, job.problem, _performance(job), cache=EmbeddingCache(None), **options)
    return Scores(found.effects, range(len(job.judged)))


def retrained(job: Job) -> Scores:
    """The truth: trained again without each stage."""
    gamma, run, problem = _performance(job), job.run, job.problem
    recorded = aa.final_model(run, problem).performance(gamma)
    without = [aa.retrain(run, problem, aa.Counterfactual.skip(s.name)).performance(gamma) for s in run.stages]
    return Scores(torch.stack([recorded - w for w in without]), range(len(job.judged)))


METHODS = (
    Method("real retraining without each stage", retrained, True, ""),
    *(
        Method(f"{', '.join(e)}", partial(_effects, method=e[0], curvature=e[1], readout=e[2]), True, "")
        for e in (
            ("boundary", "exact", "linear"),
            ("boundary", "exact", "displaced"),
            ("boundary", "exact", "link"),
            ("boundary", "ggn", "displaced"),
            ("additive", "exact", "linear"),
        )
    ),
)
