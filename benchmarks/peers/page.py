"""docs/peers.md from the stored figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aa_core.reporting.glossary import fmt_correlation, fmt_percent

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
WIDTH = 160
"""Characters of an error."""
HEAD = "| method | r | Spearman | sign | error | best scale | r, stages | r, few | n | cost |"
INTRO = """# Other libraries on the same runs

Written by `make bench-peers` from the stored figures (benchmarks/results/peers.json); it can be asked for one run at a time, and
each says when it was measured.

Each library is called as its documentation says, in an environment of its own, on runs that ship: it is handed the recorded
parameters and batches, and its scores of training examples are summed over their appearances in each stage. Truth is really
training again without the stage. r, Spearman, sign and error (mean of |score - truth| over mean of |truth|) are over all pairs
of stage and evaluation example, n in all, on the log-likelihood of the label in nats, positive = helped. "Best scale" is the error
after scaling by the factor that fits the truth best in least squares; where the scale of a method means nothing else, only that is
given. "r, stages" is over the means of the stages; "r, few" over the eight examples that methods of one backward pass an example
were asked about: compare those by it. Cost is CPU time for the question asked (all stages, those examples), in plain
trainings (torch's own loop and optimizer) timed in the same process; where the load is above the number of processors it is rough: the same method has been seen to take
three times as long. One run each: small differences say nothing. bergson has Adam with its own default, eps_root 1e-17; with 0
its derivative is not a number on digits-adamw. In bold: this engine.

A library that answers another question is not wrong to differ from this truth. What each cannot express of it:

{lacks}
"""


def page(figures: dict[str, Any]) -> str:
    """The whole page."""
    said = {
        f"{library}, {m['name']}": m["lacks"]
        for of in figures["runs"].values()
        for library, methods in of["found"].items()
        for m in methods
        if m["lacks"]
    }
    lacks = "\n".join(f"- {name}: {what}." for name, what in said.items())
    return INTRO.format(lacks=lacks) + "".join(_run(run, of) for run, of in figures["runs"].items())


def _run(name: str, of: dict[str, Any]) -> str:
    versions = ", ".join(f"{library} {v}" for library, v in of["versions"].items())
    rows = [_row(library, method) for library, methods in of["found"].items() for method in methods]
    made = f"Measured on {of['date']}; {of['machine']}; load {of['load']}; {versions}."
    return "\n".join([f"\n## {name}\n", f"{made}\n", HEAD, f"|{'|'.join(['---', *['---:'] * 9])}|", *rows]) + "\n"


def _row(library: str, row: dict[str, Any]) -> str:
    name = f"{library}: {row['name']}" if library else f"**{row['name']}**"
    if "error" in row:
        said = (row["error"].splitlines() or [""])[0].replace("|", "/")[:WIDTH]
        return f"| {name} | did not run: {said} {'| ' * 9}|"
    pairs = row["pairs"]
    cells = [
        *(fmt_correlation(pairs[k]) for k in ("pearson", "spearman", "sign")),
        fmt_percent(pairs["relative_error"] if row["scaled"] else None),
        fmt_percent(row["error_at_best_scale"]),
        fmt_correlation(row["stages"]["pearson"]),
        fmt_correlation(row["few"]["pearson"]),
        str(pairs["n"]),
        f"{row['cost']:.1f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"
