"""Estimators tried beside those of the engine, in one sweep: what was not worth its place is measured here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

import aa_core as aa
from aa_core.curvature import gradient_and_curvature
from aa_core.propagator import Propagator, Training
from aa_core.replay import advance
from aa_core.state import Params, Snapshot, State, add, map_state, ray, stack_rays, subtract, zeros_like

PRODUCTS = {
    "exact": "1 HVP",
    "ggn": "1 GGN",
    "none": "none",
    "mixed embeddings": "1 HVP, 1 GGN",
    "mixed curvature": "1 HVP, 1 GGN",
    "trust region": "1 HVP, 1 GGN",
    "relinearised after 5": "1 HVP; 5 gradients once",
    "relinearised after 20": "1 HVP; 20 gradients once",
    "second order": "2 HVP, 2 gradients",
}
"""What each costs per stage and later step. Real retraining: 1 gradient."""
EXACT = ("exact", "mixed curvature", "trust region", "relinearised after 5", "relinearised after 20")
GAUSS_NEWTON = ("ggn", "mixed curvature", "trust region")
STEP = 1e-3
"""Of the finite difference in the second-order term."""

Fronts = dict[str, dict[str, State]]


def embed(
    run: aa.Trajectory, training: Training, states: list[Snapshot], branches: dict[tuple[str, int], State]
) -> dict[str, dict[str, Params]]:
    """{candidate: {stage: embedding}}; `states` are all recorded ones, `branches` those m real steps past a skip.

    exact, ggn             the boundary method of the engine
    mixed embeddings       the mean of the two
    mixed curvature        both curvatures averaged in every step
    trust region           in every step, whichever of the two makes the tangent smaller
    relinearised after m   the change is propagated from where m steps were really trained without the stage
    """
    fronts: Fronts = {name: {} for name in {*EXACT, *GAUSS_NEWTON}}
    for k in range(run.steps):
        if any(fronts.values()):
            data = run.step_input(k, training.problem.device)
            by = {c: training.linearize(states[k], data, c)[1] for c in ("exact", "ggn")}
            fronts = _pushed(fronts, by)
        for stage in run.stages:
            if k + 1 == stage.stop:
                change = subtract(states[k + 1].state, states[stage.start].state)
                for name in ("exact", "ggn", "mixed curvature", "trust region"):
                    fronts[name][stage.name] = change
            for m in (5, 20):
                if k + 1 == min(stage.stop + m, run.steps):
                    branch = branches[stage.name, m]
                    fronts[f"relinearised after {m}"][stage.name] = subtract(states[k + 1].state, branch)
    found = {name: {stage: at.params for stage, at in by.items()} for name, by in fronts.items()}
    found["mixed embeddings"] = {
        stage: {n: (p + found["ggn"][stage][n]) / 2 for n, p in params.items()}
        for stage, params in found["exact"].items()
    }
    return found


def embed_second_order(run: aa.Trajectory, training: Training, states: list[Snapshot]) -> dict[str, Params]:
    """E - F / 2 with F = d^2 theta_K / dT^2 propagated as F' = M F + Phi''[d, d], Phi'' by finite differences."""
    found = {}
    for stage in run.stages:
        change = subtract(states[stage.stop].state, states[stage.start].state)
        second = zeros_like(change)
        for k in range(stage.stop, run.steps):
            data = run.step_input(k, training.problem.device)
            ahead, behind = (
                training.step(states[k]._replace(state=_moved(states[k].state, change, h)), data).state
                for h in (STEP, -STEP)
            )
            bend = map_state(lambda a, b, at: (a + b - 2 * at) / STEP**2, ahead, behind, states[k + 1].state)
            pushed = training.linearize(states[k], data, "exact")[1] @ stack_rays([change, second])
            change, second = ray(pushed, 0), add(ray(pushed, 1), bend)
        found[stage.name] = {n: p - second.params[n] / 2 for n, p in change.params.items()}
    return found


def branches_past(
    run: aa.Trajectory, training: Training, states: list[Snapshot]
) -> tuple[dict[tuple[str, int], State], dict[str, Snapshot]]:
    """({(stage, m): state m real steps past the skipped stage}, {stage: the model really trained without it})."""
    early: dict[tuple[str, int], State] = {}
    ends: dict[str, Snapshot] = {}
    for stage in run.stages:
        at = states[stage.start]._replace(step=stage.stop)
        wanted = {m: min(stage.stop + m, run.steps) for m in (5, 20)}
        for now in _with_start(at, advance(run, training, at, run.steps)):
            early.update({(stage.name, m): now.state for m, step in wanted.items() if step == now.step})
            ends[stage.name] = now
    return early, ends


def _pushed(fronts: Fronts, by: dict[str, Propagator]) -> Fronts:
    """Every tangent one step on."""
    exact, ggn = _apply(by["exact"], fronts, EXACT), _apply(by["ggn"], fronts, GAUSS_NEWTON)
    mixed = {
        s: map_state(lambda a, b: (a + b) / 2, t, ggn["mixed curvature"][s])
        for s, t in exact["mixed curvature"].items()
    }
    smaller = {s: min(t, ggn["trust region"][s], key=_size) for s, t in exact["trust region"].items()}
    return {**exact, "ggn": ggn["ggn"], "mixed curvature": mixed, "trust region": smaller}


def _apply(propagator: Propagator, fronts: Fronts, names: Iterable[str]) -> Fronts:
    keys = [(name, stage) for name in names for stage in fronts[name]]
    pushed: Fronts = {name: {} for name in names}
    if keys:
        together = propagator @ stack_rays([fronts[name][stage] for name, stage in keys])
        for i, (name, stage) in enumerate(keys):
            pushed[name][stage] = ray(together, i)
    return pushed


def _size(tangent: State) -> float:
    return float(sum(p.square().sum() for p in tangent.params.values()))


def _moved(at: State, along: State, by: float) -> State:
    return map_state(lambda a, d: a + by * d, at, along)


def _with_start(first: Snapshot, rest: Iterable[Snapshot]) -> Iterable[Snapshot]:
    yield first
    yield from rest


def sharpness(
    run: aa.Trajectory, training: Training, states: list[Snapshot], samples: int = 4, rounds: int = 12
) -> float:
    """Lambda: the largest |eigenvalue| of the Hessian by power iteration, the largest over some recorded steps."""
    found = [
        _power_iteration(training, states[k], run.step_input(k, training.problem.device), rounds)
        for k in torch.linspace(0, run.steps - 1, samples).long().tolist()
    ]
    return max(found)


def _power_iteration(training: Training, at: Snapshot, data: Any, rounds: int) -> float:
    product = gradient_and_curvature(training.problem, at, data, "exact")[2]
    generator = torch.Generator().manual_seed(0)
    vector = [
        torch.randn(1, *p.shape, generator=generator, dtype=torch.float64).to(p) for p in at.state.params.values()
    ]
    size = 0.0
    for _ in range(rounds):
        length = torch.cat([v.flatten() for v in vector]).norm()
        vector = product([v / length for v in vector])
        size = float(torch.cat([v.flatten() for v in vector]).norm())
    return size
