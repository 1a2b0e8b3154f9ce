"""Long work is a job, short work is done in the page: the same function either way, and the same answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from aa_core.jobs import EffectsRequest, Job, Outcome, effects, spec_of
from aa_core.state import to_device
from dashboard.selection import Selection
from dashboard.service import acts
from dashboard.service.desk import Desk
from dashboard.service.engine import CHOSEN, Progress, memo

LIGHT = 1_000
"""Steps that a page replays itself, with a bar that moves; a second or two for small models."""
FLOPS_OF_A_STEP = 2e7
"""Below this a step costs its calls, not its arithmetic: more arithmetic counts as more steps."""


class Waiting(Exception):  # no error: the page shows how far the job is
    """The answer is being computed by a job, which may also have failed."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.id)
        self.job = job


class Answer(NamedTuple):
    """The result of an effects job and its table."""

    result: dict[str, Any]
    table: pd.DataFrame


def is_light(desk: Desk) -> bool:
    """Can a page go through the whole training itself? Counted, not timed, so that the answer is always the same."""
    return desk.remember("weight", lambda: _weight(desk)) <= LIGHT


def ask(desk: Desk, request: EffectsRequest, progress: Progress) -> Answer:
    """The effects that are asked for; raises Waiting while a job computes them."""
    key = _key(request)
    if is_light(desk):
        return desk.ask(
            key, lambda: _answer(effects(desk.recorded, desk.problem, request.model_dump(), _told(progress)))
        )
    job = acts.start(spec_of("effects", desk.recorded, request, CHOSEN))
    if job.status != "done":
        raise Waiting(job)
    return desk.remember(key, lambda: Answer(job.result(), job.table("effects")))


def is_known(desk: Desk, request: EffectsRequest) -> bool:
    """Is the answer at hand?"""
    return desk.key(_key(request)) in memo()


def wait_for(desk: Desk, request: EffectsRequest) -> None:
    """Have a job fill the cache that the page reads; raises Waiting until it has."""
    if not is_light(desk) and (job := acts.start(spec_of("effects", desk.recorded, request, CHOSEN))).status != "done":
        raise Waiting(job)


def request_for(s: Selection, **changes: Any) -> EffectsRequest:
    """A request in the terms of the selection."""
    asked = {"examples": None, "stages": None, "method": s.method, "curvature": s.curvature, "semantics": s.semantics}
    return EffectsRequest(**{"performance": s.performance, **asked, **changes})


def _key(request: EffectsRequest) -> tuple[str, str]:
    return "effects", request.model_dump_json()


def _answer(found: Outcome) -> Answer:
    return Answer(found.result, found.tables["effects"])


def _told(progress: Progress) -> Any:
    return lambda phase, done, total: progress(done, total)


def _weight(desk: Desk) -> float:
    """Steps, each counted as often as its arithmetic asks for."""
    run, problem = desk.recorded, desk.problem
    first = next((k for k in range(run.steps) if run.record(k).micro_batches), None)
    if first is None:
        return 0.0
    start = to_device(run.load(0), problem.device)
    inputs = run.step_input(first, problem.device).batches[0][0].inputs
    with torch.no_grad(), Arithmetic() as counted:
        problem.outputs(start.state.params, dict(start.buffers), inputs)
    return run.steps * (1 + counted.flops / FLOPS_OF_A_STEP)


class Arithmetic(TorchDispatchMode):
    """Floating point operations of what runs in it, by torch's formulas; torch's own counter imports the compiler."""

    flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the import takes two seconds, on the way to the first chart

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operator(*args, **(kwargs or {}))
        if count := flop_registry.get(operator.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=found)
        return found
