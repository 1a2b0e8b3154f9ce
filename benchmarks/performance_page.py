"""docs/performance.md from the stored figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aa_core.effects.embedding import FEW, NEAR
from aa_core.reporting.glossary import listed
from benchmarks.growth_picture import WORDS

FLOOR = "floor: gradient and one curvature product a step"
ADJOINT = "adjoint of one query: effects of all steps and stages"


def page(figures: dict[str, Any]) -> str:
    """docs/performance.md."""
    head = """# What the engine costs

Written by `python -m benchmarks.performance` from
[the stored figures](../benchmarks/results/performance.json); nothing here is typed by hand. Times are CPU times, with torch on one thread.
*Load* is the number of processes that wanted each processor when a part began: above 1 the machine was shared with other work.
Ratios are of things measured in turn in one process, and still spread widely then; on a free machine they are steadier.
"""
    parts = {
        "batches": _batches,
        "convolutions": _convolutions,
        "reading": _reading,
        "recorder": _recorder,
        "memory": _memory,
        "growth": _growth,
    }
    rest = [section(figures[name], figures["setting"]) for name, section in parts.items()]
    return "\n".join([head, _attribution(figures), *rest])


def _attribution(figures: dict[str, Any]) -> str:
    setting, before = figures["setting"], figures["before"]
    models = {name: figures[name]["figures"] for name in setting["steps"] if name in figures}
    columns = [f"{name}, {m['parameters']:,} parameters" for name, m in models.items()]
    steps = ", ".join(
        f"{name} {n} (load {figures[name]['load']:g})" for name, n in setting["steps"].items() if name in figures
    )
    return f"""## Attribution and retraining

Measured on {figures["transformer"]["date"]}, {figures["transformer"]["machine"]}. Steps of AdamW in {setting["stages"]} stages, batches of {setting["batch"]}, float32: {steps}.
Ratios to plain training of the same steps (the loop without recorder and engine); median of {setting["rounds"]} rounds, in brackets the lowest and the
highest.

{_table(["task", *columns], _costs(models))}

The floor is what an exact adjoint cannot do without, measured alone: at each step one gradient with its graph kept and
one product with the curvature. Where matrix products are all the work, it is 3: a training step has three of them a layer, its
second derivative six more. Each of several queries needs a product of its own, of which 2 is then the floor, however many are
taken at once. What the adjoint spends beyond the floor is the optimizer's update and its
transpose, inner products of states, and reading and verifying checkpoints, of which there is one a stage here.

What was made faster: the derivative of Adam and AdamW is written down instead of left to autograd, with few passes over
memory, of all parameters at once as their updates are; large ones are not copied for it; inner products are taken in
the precision of the leaves, of small ones together; a checkpoint that a sweep meets from both sides is read once; several vectors go
through a graph together only as far as they stay in a CPU's caches; and second derivatives of convolutions are computed
by the kernels of first ones. Before that was done: {before["note"]}.

{_table(["adjoint of one query", *models], _before(before["adjoint"], models))}
{_clock(models)}{_together(models)}{_double(models)}{_compiled(figures.get("compile"))}"""


def _clock(models: dict[str, Any]) -> str:
    found = {name: m["clock"] for name, m in models.items() if "clock" in m}
    if not found:
        return ""
    first = next(iter(found.values()))
    rows = [
        [f"{task}: {way}", *(_cell(m[task].get(way)) for m in found.values())]
        for task, ways in first.items()
        for way in ways
    ]
    return f"""
By the clock, with torch on one of two processors, as a ratio to plain training by the clock. Where torch leaves as many processors
free as it takes, a second thread does part of the work: the same operations, so the same effects to the bit, for somewhat more CPU
time in all. While the sweep goes back through the steps between two checkpoints, it replays those before them, if two stretches
between checkpoints fit into memory, differentiates the optimizer's update of the next step, and takes the inner products of the
last one. What both threads wait for is Python's own lock, which each call into torch passes on; so many small tensors are packed
and differentiated by one call. With both processors taken by torch MLP and CNN took 43 and 34 % longer by the replay ahead when
tried once. Of several queries, which each need a product of their own, each thread takes the next one. `retrain_all` has each thread
train the model with most steps left, with a trial first where steps are short; not models that draw random numbers, which have
one generator. It begins each model where it first differs, as `aa.retrain` does; the user's own loop, without a recording, cannot.
The CPU times above are of all threads: with a second one for {listed(n for n, m in models.items() if m.get("ahead")) or "none"}.

{_table(["by the clock", *found], rows)}
"""


def _together(models: dict[str, Any]) -> str:
    """What batching models that take the same step can gain at most."""
    found = {name: m["together"] for name, m in models.items() if "together" in m}
    if not found:
        return ""
    lanes = list(next(iter(found.values())))
    rows = [[f"{n} models", *(_cell(m[n]) for m in found.values())] for n in lanes]
    return f"""
What `retrain_all` can gain by batching: one step of several models in one batched pass, as a ratio to the step of each by itself.
Below 1, batching pays. It saves calls and not arithmetic, so it gains little where matrix products are all the work: then models
are trained in two threads, or one by one. Stages that are left out one at a time train fewer models at once than there are stages.

{_table(["a step, batched", *found], rows)}
"""


def _double(models: dict[str, Any]) -> str:
    found = {name: m["double"] for name, m in models.items() if "double" in m}
    if not found:
        return ""
    rows = [
        ["time in float64, against float32", *(f"{m['time']:.2f}" for m in found.values())],
        ["effects in float32, relative distance from those in float64", *(f"{m['apart']:.1e}" for m in found.values())],
    ]
    return f"""
The same steps trained and differentiated in float64: what precision costs, and what float32 loses of the effects of all steps.

{_table(["adjoint of one query", *found], rows)}
"""


def _compiled(part: dict[str, Any] | None) -> str:
    if part is None:
        return ""
    said = part["figures"]["says"]
    if not said:
        return "\nA model compiled by torch.compile can be differentiated twice.\n"
    return f"""
A model compiled by torch.compile cannot be differentiated twice (tried on {part["date"]}); in torch's words: {said}.
"""


def _batches(part: dict[str, Any], _: dict[str, Any]) -> str:
    found = part["figures"]
    ways = list(found[0]["ratios"])
    rows = [
        [
            f"{m['model']}, {m['parameters']:,} parameters",
            str(m["examples"]),
            f"{m['plain_ms']:.1f} ms",
            *(_cell(m["ratios"][way]) for way in ways),
        ]
        for m in found
    ]
    return f"""## Larger batches, and more parameters

The optimizer's update, its transpose and the inner products cost the same whatever the batch, and so do the calls: the
more examples a step has, the nearer one thread comes to the products' own 3. A second thread replays ahead as long as two
stretches between checkpoints, with all that their graphs hold, fit into the budget; where they do not, it only reckons
beside the sweep, and where not even one fits, each step is replayed twice. The budget is a quarter of what is free
unless another one is given, here {found[0]["budget"] / 2**30:.1f} GiB, and at least 1. The adjoint of one query by the clock ({_when(part)}).

{_table(["model", "examples a step", "plain step", *ways], rows)}
"""


def _convolutions(part: dict[str, Any], setting: dict[str, Any]) -> str:
    rows = [
        [name, f"{m['plain_ms']:.0f} ms", _cell(m["adjoint"]), _cell(m["to plain"])]
        for name, m in part["figures"].items()
    ]
    return f"""## Convolutions

torch differentiates the backward pass of a convolution in the pictures, too, and in the weights by kernels that are slow on CPUs;
here, the kernels of first derivatives do both, and nothing is computed that nobody asked for. The adjoint of one query by
the clock, over {setting["convolution_steps"]} steps in {setting["stages"]} stages ({_when(part)}).

{_table(["network", "plain step", "against the same with torch's own", "against plain training"], rows)}
"""


def _when(part: dict[str, Any]) -> str:
    return f"measured on {part['date']}, {part['machine']}, load {part['load']:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _costs(models: dict[str, Any]) -> list[list[str]]:
    first = next(iter(models.values()))
    rows = [[task, *(_cell(m["training"].get(task)) for m in models.values())] for task in first["training"]]
    beyond = [f"{m['training'][ADJOINT]['median'] - m['training'][FLOOR]['median']:.2f}" for m in models.values()]
    at = [row[0] for row in rows].index(ADJOINT) + 1
    return [*rows[:at], ["... of it beyond the floor", *beyond], *rows[at:]]


def _before(before: dict[str, Any], models: dict[str, Any]) -> list[list[str]]:
    now = {name: m["training"][ADJOINT] for name, m in models.items()}
    return [[when, *(_cell(found.get(name)) for name in models)] for when, found in (("before", before), ("now", now))]


def _reading(part: dict[str, Any], setting: dict[str, Any]) -> str:
    found = part["figures"]
    rows = [[how, *(_cell(m[how]) for m in found.values())] for how in next(iter(found.values()))]
    return f"""## Reading

Effects of {setting["stages"]} stages on every evaluation example from cached embeddings, all three readouts, by the clock, as a ratio to
one forward pass of all examples a stage ({_when(part)}).
In matrix products a readout by the derivative costs two passes, one at moved parameters a third, and all stages share one more:
3 and a share is the floor of one thread, less where the first layer is much of the model, since inputs do not change. Where torch leaves a
processor free, moved parameters are tried there meanwhile: 2 and a share. A few examples cost the calls.
Many are read in pieces whose widest tensor, of all stages, has at most {NEAR >> 20} MiB (of {FEW} examples at least): more at once leaves a
processor's caches.

{_table(["all examples", *found], rows)}
"""


def _recorder(part: dict[str, Any], setting: dict[str, Any]) -> str:
    head = ["model", "examples a step", "plain step", "all new", "all known", "bytes a step", "bytes an example"]
    rows = [
        [
            name,
            str(m["batch"]),
            f"{m['plain_ms']:.0f} ms",
            f"{m['new']:.0%} ({m['new_cpu']:.0%})",
            f"{m['known']:.0%} ({m['known_cpu']:.0%})",
            f"{m['bytes']:,.0f}",
            f"{m['bytes_of_an_example']:,}",
        ]
        for name, m in part["figures"].items()
    ]
    return f"""## The recorder

What recording adds to a step of AdamW ({_when(part)}):
how much longer the loop takes while every example is new and must be stored, and in later passes, when all are known; in
brackets the CPU time of all threads. Examples are hashed, encoded and written to the journal by another thread while the model
runs, which also computes the loss once more if it is one of torch's own (any other is computed again within the loop). Bytes
a step are those of the step table, beside the examples, each stored once, and the checkpoints. A pass has {setting["recorder_steps"]} steps, as many as there are between two checkpoints by default; what a checkpoint costs, and the check of
its gradient, are in it, and the examples of the first pass are committed within the second. A disk that takes
what is written more slowly than it is made is waited for.

{_table(head, rows)}
"""


def _memory(part: dict[str, Any], _: dict[str, Any]) -> str:
    found = part["figures"]
    base = found["budgets"]["unlimited"]
    rows = [
        [
            name,
            _mib(b["peak"] - b["before"]),
            _mib(b["before"]),
            *(f"{b[how] / base[how]:.2f}" for how in ("seconds", "clock")),
        ]
        for name, b in found["budgets"].items()
    ]
    return f"""## Memory

Effects of all steps of a run with {found["parameters"]:,} parameters and {found["steps"]:,} steps of AdamW, a checkpoint every
100, each budget in a process of its own ({_when(part)}).
Peaks are the operating system's. What the process had before the sweep, Python and torch among it, stands beside what came on top,
which is to stay within the budget: the states that are kept, the step at hand, two checkpoints, and what the allocator holds
on to. Batches are small here: activations of large ones come on top. Segments between checkpoints are swept one after another, so more of them cost time and no memory.
By the clock unlimited memory gains more, since a second thread replays ahead then.

{_table(["budget", "on top, at most", "before the sweep", "CPU time, against unlimited", "by the clock"], rows)}
"""


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _growth(part: dict[str, Any], setting: dict[str, Any]) -> str:
    rows = [
        [
            name,
            ", ".join(f"{n:,}" for n in curve["sizes"]),
            ", ".join(f"{s:.2f}" for s in curve["seconds"]),
            f"{curve['exponent']:.2f}",
        ]
        for name, curve in part["figures"].items()
    ]
    return f"""## Growth

A small model, see benchmarks/growth.py ({_when(part)}); the least of {setting["growth_rounds"]} rounds, and the exponent p of
time ~ size^p fitted to all sizes: 1 is linear; below 1, a fixed cost still weighs.

{_table(["what grows", "sizes", "CPU seconds", "p"], rows)}

![{WORDS}](images/growth.svg)
"""


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "not measured"
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"
