"""docs/performance.md from the stored figures."""

from __future__ import annotations

from typing import Any


def page(figures: dict[str, Any]) -> str:
    """docs/performance.md."""
    models, setting = figures["models"], figures["setting"]
    steps, stages, rounds = setting["steps"], setting["stages"], setting["rounds"]
    rows = [
        f"| {task} | " + " | ".join(cell(models[name][kind][task]) for name in models) + " |"
        for kind in ("training", "forward passes")
        for task in next(iter(models.values()))[kind]
    ]
    recorder = [
        f"| {name} | {m['recorder']['overhead']:.0%} | {m['recorder']['bytes_per_step']:,.0f} |"
        for name, m in models.items()
    ]
    columns = " | ".join(f"{name}, {m['parameters']:,} parameters" for name, m in models.items())
    return "\n".join(
        [
            "# What the engine costs",
            "",
            f"Measured on {figures['date']}; {figures['machine']}. Written by `python -m benchmarks.performance` from",
            "[the stored figures](../benchmarks/results/performance.json); nothing here is typed by hand.",
            "",
            f"{steps} steps of AdamW in {stages} stages, batches of {setting['batch']}, float32. CPU time as a ratio to plain training of",
            "the same steps (the loop without recorder and engine), measured in turn in one process; median of",
            f"{rounds} rounds, in brackets the lowest and the highest. The last row is a ratio to one forward pass of the 200",
            f"evaluation examples for each of the {stages} stages.",
            "",
            f"| task | {columns} |",
            f"|---|{'---|' * len(models)}",
            *rows,
            "",
            "The floor is what an exact adjoint cannot do without, measured alone: at each step one gradient with its graph",
            "kept and one product with the curvature.",
            "",
            "## The recorder",
            "",
            "Wall time that recording adds to the loop, and what a step takes on disk beside the examples, each stored once,",
            "and the checkpoints. The gradient is computed again at the first step of each stage, which weighs here, where a",
            f"stage has {steps // stages} steps.",
            "",
            "| model | added to the loop | bytes a step |",
            "|---|---|---|",
            *recorder,
            "",
        ]
    )


def cell(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"
