"""docs/gpu.md from the stored figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from aa_core.confidence.reliability import disagreement
from aa_core.confidence.verdict import judge_readouts

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "gpu.json", ROOT / "docs" / "gpu.md"
TRUE = "retraining without the stage"


def page(figures: dict[str, Any]) -> str:
    """docs/gpu.md."""
    head = """# On a GPU

Written by `python -m benchmarks.gpu` from [the stored figures](../benchmarks/results/gpu.json); nothing here is typed by hand.

`Problem(..., device="auto")`, the default, computes on the GPU where there is one. The engine changes none of torch's settings:
it computes as the recorded training did if the process that replays has the settings of the one that recorded. For
replays to the bit, both should ask for deterministic kernels: `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment,
`torch.use_deterministic_algorithms(True)`, and, since that also makes torch fill every new tensor to find faults in operators,
`torch.utils.deterministic.fill_uninitialized_memory = False`. Matrix products are float32 unless you ask torch for TF32;
convolutions use TF32 by torch's own default (`torch.backends.cudnn.allow_tf32`).
"""
    return "\n".join([head, *(_measured(name, found) for name, found in figures.items() if found["machine"] != "CPU")])


def _measured(name: str, found: dict[str, Any]) -> str:
    size, tasks = found["size"], found["tasks"]
    plain = tasks["plain training"]["seconds"]
    rows = [f"| {n} | {t['seconds']:.1f} | {t['seconds'] / plain:.2f} | {_gib(t['peak'])} |" for n, t in tasks.items()]
    return f"""## A model of the size of {name}

{found["machine"]}, torch {found["torch"]}, {found["date"]}. {found["parameters"]:,} parameters ({size["layers"]} layers, width {size["width"]}, {size["vocabulary"]:,}
tokens, of which the bytes of the texts use 256), float32, AdamW, {size["steps"]} steps of {size["batch"]} passages of {size["length"]} bytes in three stages: Python's
documentation, its library's source, documentation again. {found["checkpoints"]} checkpoints, {found["bytes"] / 1e9:.1f} GB on disk.

| task | seconds | in plain trainings | GPU memory at most, GiB |
| --- | ---: | ---: | ---: |
{chr(10).join(rows)}

A replay ends {_drift(found["drift"])} the record. Wall-clock times of one run each, after one training that only warmed up. Reading and
checking a checkpoint, {found["bytes"] / found["checkpoints"] / 1e9:.1f} GB, is part of every row below the recording.

{_effects(found)}
{_tf32(found.get("TF32"))}"""


def _gib(peak: float) -> str:
    return f"{peak / 2**30:.1f}"


def _drift(drift: float) -> str:
    return "bit for bit on" if drift == 0 else f"within {drift:.0e} of a segment's change from"


def _effects(found: dict[str, Any]) -> str:
    truth, estimates = found["truth"], found["estimates"]
    rows = [f"| boundary, {n} | {e['r']:.3f} | {_cells(e['effects'])} |" for n, e in estimates.items()]
    means = {n: torch.tensor([list(e["effects"].values())]) for n, e in estimates.items()}
    verdict = judge_readouts(("boundary", "exact", "linear"), *disagreement(means), None)
    return f"""What the stage of source code did, in nats a byte on held-out passages (positive: it helped), and r over all passages:

| way | r | documentation | source |
| --- | ---: | ---: | ---: |
{chr(10).join(rows)}
| {TRUE} | 1 | {_cells(truth)} |

The engine's verdict on the estimate, before anything is retrained: trust {verdict.trust}. {verdict.reason}.
"""


def _cells(effects: dict[str, float]) -> str:
    return " | ".join(f"{effects[text]:+.3f}" for text in ("prose", "code"))


def _tf32(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if "refused" in found:
        return f"""With matrix products in TF32, which the training was not recorded with, the replay is refused: "{found["refused"].split(":")[0]}".
"""
    return f"""With matrix products in TF32, which the training was not recorded with, the effects of the last stage's single steps
correlate with those in float32 at r {found["r"]:.4f} and are off by {found["error"]:.1%} of their mean size.
"""
