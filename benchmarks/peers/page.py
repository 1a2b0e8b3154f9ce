"""docs/peers.md from the stored figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
WIDTH = 160
"""Characters of an error."""
HEAD = "| method | r | Spearman | sign | error | best scale | r, stages | r, few | n | cost |"
INTRO = """# Other libraries on the same runs

Written by `make bench-peers` from the stored figures (benchmarks/results/peers.json), which came from its programs run one by one,
a library at a time; the command as a whole was not run.

Each library is called as its documentation says, in an environment of its own, on runs that ship: it is handed the recorded
parameters and batches, and its scores of training examples are summed over their appearances in each stage. Truth is really
training again without the stage. r, Spearman, sign and error (mean of |score - truth| over mean of |truth|) are over all pairs
of stage and evaluation example, n in all, on the log-likelihood of the label in nats, positive = helped. "Best scale" is the error
after scaling by the factor that fits the truth best in least squares; where the scale of a method means nothing else, only that is
given. "r, stages" is over the means of the stages; "r, few" over the eight examples that methods of one backward pass an example
were asked about: compare those by it. Cost is CPU time for the question asked (all stages, those examples), in plain
trainings (torch's own loop and optimizer) timed in the same process; where the load is above the number of processors it is rough: the same method has been seen to take
three times as long. One run each: small differences say nothing. In bold: this engine.

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
        *(f"{pairs[k]:.2f}" for k in ("pearson", "spearman", "sign")),
        f"{pairs['relative_error']:.0%}" if row["scaled"] else "-",
        f"{row['error_at_best_scale']:.0%}",
        f"{row['stages']['pearson']:.2f}",
        f"{row['few']['pearson']:.2f}",
        str(pairs["n"]),
        f"{row['cost']:.1f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"
