"""Options that say what is changed, as one counterfactual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from aa_core.commands.console import rows
from aa_core.counterfactuals.counterfactual import Counterfactual, Semantics

StepsOption = Annotated[
    list[str] | None,
    typer.Option("--steps", metavar="A:B", help="Steps A to B - 1 to train without, or one step; repeatable."),
]
WithoutOption = Annotated[
    str | None,
    typer.Option(
        "--without-example",
        metavar="ROWS",
        help="Training examples to leave out wherever they were used: 3,7-9.",
    ),
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--change",
        metavar="STAGE:NAME=HOW",
        help="Other hyperparameters in a stage (or NAME=HOW in --steps): lr=0.5x, momentum=0.8, "
        "'lr=0.1 to 0', 'lr=cosine 0.1 to 0'.",
    ),
]
ScaleOption = Annotated[
    float | None, typer.Option("--scale", help="Scale what is named by this factor instead of leaving it out.")
]


def counterfactual(
    skip: Sequence[str],
    steps: Sequence[str],
    without: str | None,
    change: Sequence[str],
    scale: float | None,
    semantics: Semantics,
    named: str = "--skip",
) -> Counterfactual:
    """What the options ask; BadParameter where they do not go together, RequestError where the question makes no sense.

    Args:
        skip: stages, by the option `named`. steps: "40:60" for 40 to 59, or "7".
        without: rows of training examples, "3,7-9".
        change: "STAGE:lr=0.5x"; "lr=0.5x" for the steps.
    """
    chosen = tuple(k for text in steps for k in _steps(text))
    examples = tuple(rows(without, "--without-example") or ())
    if change:
        if skip or examples or scale is not None:
            raise typer.BadParameter("goes with --steps only; ask one by one", param_hint="--change")
        parts = [_change(text) for text in change]
        stages = {stage for stage, _, _ in parts}
        if len(stages) > 1:
            raise typer.BadParameter(
                "all of one question are about the same stage; ask one by one", param_hint="--change"
            )
        return Counterfactual.change(*filter(None, stages), steps=chosen, **{hyper: how for _, hyper, how in parts})
    if not (skip or chosen or examples):
        raise typer.BadParameter(
            "needed: what to change", param_hint=f"{named}, --steps, --without-example or --change"
        )
    share = 0.0 if scale is None else scale
    return Counterfactual(tuple(skip), share, "zero_gradient" if examples else semantics, chosen, examples)


def _steps(text: str) -> range:
    """ "40:60" -> 40 .. 59; "7" -> 7."""
    first, colon, stop = text.partition(":")
    if not (first.isdecimal() and (stop.isdecimal() or not colon)):
        raise typer.BadParameter(f"{text!r}: expected steps such as 7 or 40:60 (40 to 59)", param_hint="--steps")
    found = range(int(first), int(stop) if colon else int(first) + 1)
    if not len(found):
        raise typer.BadParameter(
            f"{text!r}: no steps; expected the first, and the one after the last", param_hint="--steps"
        )
    return found


def _change(text: str) -> tuple[str, str, str]:
    """ "STAGE:lr=0.5x" -> (STAGE, lr, 0.5x)."""
    left, equals, how = text.rpartition("=")
    stage, _, hyper = left.rpartition(":")
    if not equals:
        raise typer.BadParameter(f"{text!r}: expected STAGE:lr=0.5x", param_hint="--change")
    return stage, hyper, how
