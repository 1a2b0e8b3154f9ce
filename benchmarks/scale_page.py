"""`python -m benchmarks.scale_page`: docs/scale.md, what a 7B model would cost, by arithmetic from stated assumptions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
FLOPS = 4e14
"""Floating point operations a second of one GPU: 40 % of the 989 TFLOP/s (bf16, dense) on an H100's data sheet."""
BYTES = 12
"""Of one trained parameter in a state: float32, with AdamW's two moments."""
MEASURED = json.loads((Path(__file__).parent / "results" / "performance.json").read_text())["transformer"]["figures"]
GRADIENT = 1.0
PRODUCT = MEASURED["training"]["floor: gradient and one curvature product a step"]["median"] - GRADIENT
"""Plain trainings: gradients and Hessian-vector products of all steps, as measured for a small transformer."""
ADJOINT = MEASURED["training"]["adjoint of one query: effects of all steps and stages"]["median"]
"""What the engine needed there."""


class Plan(NamedTuple):
    """A training to be audited."""

    name: str
    trained: float
    flops_per_token: float
    """Forward and backward."""
    tokens: int
    """A step."""
    steps: int
    frozen_bytes: float = 0.0


FULL = Plan("all 7e9 parameters", 7e9, 6 * 7e9, 2**19, 1000)
ADAPTER = Plan("an adapter of 4e7 parameters", 4e7, 4 * 7e9, 2**14, 1000, frozen_bytes=14e9)
STAGES = 10


def row(plan: Plan, gpus: int) -> str:
    """All 7e9: one training on all GPUs. The adapter: trainings side by side, one a GPU."""
    together = gpus if plan is FULL else 1
    once = plan.flops_per_token * plan.tokens * plan.steps / FLOPS / together / 3600
    adjoint, embeddings = (GRADIENT + PRODUCT) * once, (GRADIENT + PRODUCT * STAGES / 2) * once
    retrained = STAGES * once / 2 * together / gpus
    state = plan.trained * BYTES
    memory = plan.frozen_bytes + 3 * state / together
    cells = (
        *(f"{hours:.2g}" for hours in (once, adjoint, embeddings, retrained)),
        *(f"{size:,.3g}" for size in (state / 1e9, math.isqrt(plan.steps) * state / 1e9, memory / 1e9)),
    )
    return f"| {plan.name} | {gpus} | {' | '.join(cells)} |"


def page() -> str:
    rows = "\n".join([*(row(FULL, n) for n in (16, 64, 256)), *(row(ADAPTER, n) for n in (1, 8))])
    return f"""# Past one machine

## A fleet of retrainings, today

```sh
pip install 'accountability-audit[ray]'
aa whatif RUN --each --executor ray                  # every stage left out by itself, on this machine's processors
aa whatif RUN --each --executor ray --address auto   # on a cluster; it must ask a token (RAY_AUTH_MODE=token)
```

Ray places the work and nothing else: a job is the same question, done by the same worker, its answer in the same
folder, equal to a local one to the bit where processor and number of threads are of one class. Runs and problem files
lie at the same path on every node, or in object storage. A lost worker or node costs its own jobs, which are begun
again twice; one job can be cancelled (`Job.cancel`), an interrupt stops all. From Python, for any kind of job:
`aa_core.jobs.cluster.run_fleet(specs)`.

Ray is off unless asked for. One that is started for a fleet listens on the loopback address, asks a token made for it,
has no dashboard, sends no usage statistics and ends with the fleet. Ray carries messages between its own processes by
pickle: who has the token can run code on the cluster. What we send is plain: a question as JSON, the answer as files.

## A 7B model, by arithmetic

**Not measured.** Assumed: {FLOPS:.0e} operations a second and GPU (40 % of an H100's data sheet in bf16), 6 operations
a parameter and token where all are trained and 4 where the base is frozen, {BYTES} bytes a trained parameter in a state
(float32, AdamW); a gradient costs {GRADIENT:g} and a Hessian-vector product {PRODUCT:.1f} plain trainings, as measured for a
small transformer ([performance.md](performance.md)). All 7e9: {FULL.steps:,} steps of {FULL.tokens:,} tokens, one training
on all GPUs; adapter: {ADAPTER.steps:,} of {ADAPTER.tokens:,}, one training a GPU.

| trained | GPUs | training, h | adjoint, h | embeddings, h | retraining, h | state, GB | sqrt(steps) states, GB | a GPU, GB |
|---|---|---|---|---|---|---|---|---|
{rows}

*Adjoint*: all step effects on one mean, at that floor; today's engine needs {ADJOINT:.1f} trainings of the small transformer,
not {GRADIENT + PRODUCT:.1f}. *Embeddings*: of {STAGES} stages, one product each and step after it.
*Retraining*: without each of {STAGES} stages in turn, half a training each since what came before is shared. *A GPU*:
state, cotangent and work space, and the frozen base, without activations.

An adapter's training can be audited on the GPU that trained it, since its states are small; a fleet divides its
retrainings. For all 7e9 parameters a state does not fit one GPU: recording, replay and propagation would need states
divided over GPUs (the optimizer's maps and the dot products act on each part by itself; only gradient and product
communicate, as in training). **The engine does not do that yet**: a run must fit one device, and a fleet divides work
between trainings, never within one.
"""


def main() -> None:
    PAGE.write_text(page())
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
