"""What the auditor has picked, as a value and as the URL's query string: a view is a link.

Nothing here knows Streamlit. A link is untrusted: every value is validated, and a bad one is left out with a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

MAX_EXAMPLES = 5_000
MAX_TEXT = 200
MAX_VALUE = 20_000
Method = Literal["boundary", "additive", "midpoint"]
Curvature = Literal["exact", "ggn", "none"]
Readout = Literal["linear", "displaced", "link"]
Semantics = Literal["freeze", "zero_gradient"]
OPTIONS: dict[str, tuple[str, ...]] = {
    "performance": ("log-likelihood", "probability", "margin"),
    "method": get_args(Method),
    "curvature": get_args(Curvature),
    "readout": get_args(Readout),
    "semantics": get_args(Semantics),
}
FILTERS = ("labels", "predictions", "wrong", "confidence", "where", "text", "slice")
CHARTS = ("effects", "layers", "causes", "shares")
CHANGES = ("skip", "leave", "without", "scale", "change")
"""What a what-if changes."""
MODES = ("runs", "groups", "stages", "experiments")
CONFOUNDER = "confounder:"
"""A performance of this name judges by a metadata column: the likelihood of what it says, taken as the label."""


@dataclass(frozen=True)
class Selection:
    """One view: of which run, which examples, which stage, estimated how."""

    run: str = ""
    digest: str = ""
    """The first 12 hex digits of the run's digest: a link pins what it was made from."""
    examples: tuple[int, ...] = ()
    """Hand-picked evaluation examples; none means all that pass the filters."""
    labels: tuple[int, ...] = ()
    predictions: tuple[int, ...] = ()
    wrong: bool = False
    confidence: tuple[int, int] = (0, 100)
    """Lowest and highest confidence of the prediction, percent."""
    where: tuple[tuple[str, str], ...] = ()
    """(metadata column, value): the values of one column are alternatives."""
    text: str = ""
    slice: str = ""
    """A saved subgroup, by the digest of what defines it."""
    page: int = 1
    stage: str = ""
    """The stage that is zoomed into."""
    steps: tuple[int, int] | None = None
    """First and last step shown of it."""
    chart: str = "effects"
    """Explore: the effects themselves, split by layer or cause, or path shares."""
    by: str = ""
    """Subgroups: the column whose values are compared; empty for the saved subgroups."""
    mode: str = "runs"
    """Compare: two runs, two groups, two stages, or the experiments with one another."""
    other: str = ""
    """Compare: the second run, by its name or, as in reports, the first 12 hex digits of its digest."""
    first: str = ""
    second: str = ""
    """Compare: two groups or two stages, by name; `first` may be an experiment."""
    skip: tuple[str, ...] = ()
    """Stages that the what-if leaves out, scales or changes."""
    leave: tuple[int, int] | None = None
    """First and last of a range of steps that it leaves out, scales or changes."""
    without: tuple[int, ...] = ()
    """Training examples that it leaves out."""
    scale: int = 0
    """Percent that is left of what is left out; 0: nothing."""
    change: tuple[tuple[str, str], ...] = ()
    """(hyperparameter, what it is instead) in those stages and steps, which are then not left out."""
    performance: str = "log-likelihood"
    method: Method = "boundary"
    curvature: Curvature = "exact"
    readout: Readout = "linear"
    semantics: Semantics = "freeze"

    @property
    def filtered(self) -> bool:
        """Is any filter in force?"""
        return any(getattr(self, name) != getattr(NOTHING, name) for name in FILTERS)

    @property
    def everything(self) -> Selection:
        """The same estimator on all examples of the run."""
        return replace(NOTHING, **{name: getattr(self, name) for name in ("run", "digest", *OPTIONS)})


NOTHING = Selection()


@dataclass(frozen=True)
class Facts:
    """What a selection of a run can refer to."""

    examples: int
    classes: int
    stages: tuple[str, ...]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Metadata columns to filter by, and their values."""
    slices: Mapping[str, str] = field(default_factory=dict)
    """{digest: name} of the saved subgroups."""
    confounders: tuple[str, ...] = ()
    """Metadata columns that name a class for each example."""
    steps: int = 0
    trained_on: int = 0
    """How many different training examples there are."""
    hypers: tuple[str, ...] = ()
    """Hyperparameters that a stage can be trained with otherwise."""

    @property
    def performances(self) -> tuple[str, ...]:
        """What the model can be judged by."""
        return (*OPTIONS["performance"], *(CONFOUNDER + c for c in self.confounders))


class Codec(NamedTuple):
    """How one field is written in the URL; `parse` raises ValueError, saying what was expected."""

    parse: Callable[[list[str]], Any]
    show: Callable[[Any], list[str]]


def from_query(query: Mapping[str, list[str]]) -> tuple[Selection, list[str]]:
    """The selection that a query string asks for, and a note for every part that is ignored."""
    found, notes = {}, []
    for name, values in query.items():
        if name not in CODECS:
            notes.append(f"{name[:40]}: no such setting")
            continue
        try:
            if sum(map(len, values)) > MAX_VALUE:
                raise ValueError(f"at most {MAX_VALUE} characters")
            found[name] = CODECS[name].parse(values)
        except ValueError as error:
            notes.append(f"{name}={','.join(values)[:60]}: expected {error}")
    return replace(NOTHING, **found), notes


def to_query(selection: Selection) -> dict[str, list[str]]:
    """The query string of a selection: only what differs from the default, in a fixed order."""
    return {
        name: codec.show(value)
        for name, codec in CODECS.items()
        if (value := getattr(selection, name)) != getattr(NOTHING, name)
    }


def fit(selection: Selection, facts: Facts) -> tuple[Selection, list[str]]:
    """Leave out what the run does not have, with a note for each."""
    notes: list[str] = []

    def keep(name: str, values: Iterable[Any], known: Callable[[Any], bool], what: str) -> tuple[Any, ...]:
        values = tuple(values)
        good = tuple(v for v in values if known(v))
        if len(good) < len(values):
            bad = next(v for v in values if not known(v))
            notes.append(f"{name}: {str(bad)[:60]} is no {what} of this run")
        return good

    classes = range(facts.classes)
    (stage,) = keep("stage", [selection.stage], lambda s: not s or s in facts.stages, "stage") or ("",)
    (kept,) = keep("slice", [selection.slice], lambda s: not s or s in facts.slices, "saved subgroup") or ("",)
    (gamma,) = keep("performance", [selection.performance], facts.performances.__contains__, "performance") or (
        NOTHING.performance,
    )
    steps = range(facts.steps)
    within = keep("leave", selection.leave or (), steps.__contains__, "step")
    fitted = replace(
        selection,
        examples=keep("examples", selection.examples, range(facts.examples).__contains__, "evaluation example"),
        labels=keep("labels", selection.labels, classes.__contains__, "class"),
        predictions=keep("predictions", selection.predictions, classes.__contains__, "class"),
        where=keep("where", selection.where, lambda w: w[1] in facts.columns.get(w[0], ()), "metadata value"),
        skip=keep("skip", selection.skip, facts.stages.__contains__, "stage"),
        without=keep("without", selection.without, range(facts.trained_on).__contains__, "training example"),
        change=keep("change", selection.change, lambda c: c[0] in facts.hypers, "hyperparameter"),
        leave=within if len(within) == 2 else None,
        slice=kept,
        performance=gamma,
        stage=stage,
        steps=selection.steps if stage else None,
    )
    return fitted, notes


def compress(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 -> "1-3,7"."""
    ranges: list[list[int]] = []
    for n in sorted(set(numbers)):
        if ranges and n == ranges[-1][1] + 1:
            ranges[-1][1] = n
        else:
            ranges.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _numbers(values: list[str]) -> tuple[int, ...]:
    found: set[int] = set()
    for part in ",".join(values).split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if not match:
            raise ValueError("whole numbers or ranges, like 3,7,10-14")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= MAX_EXAMPLES or len(found) >= MAX_EXAMPLES:
            raise ValueError(f"at most {MAX_EXAMPLES} numbers; use a filter for larger groups")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def _pair(values: list[str]) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", values[-1])
    if not match or int(match[1]) > int(match[2]):
        raise ValueError("two whole numbers, like 20-80")
    return int(match[1]), int(match[2])


def _percentages(values: list[str]) -> tuple[int, int]:
    low, high = _pair(values)
    if high > 100:
        raise ValueError("percentages, like 20-80")
    return low, high


def _page(values: list[str]) -> int:
    if not re.fullmatch(r"[1-9]\d{0,6}", values[-1]):
        raise ValueError("a page number")
    return int(values[-1])


def _flag(values: list[str]) -> bool:
    if values[-1] not in ("0", "1"):
        raise ValueError("0 or 1")
    return values[-1] == "1"


def _matching(pattern: str, expected: str) -> Codec:
    def parse(values: list[str]) -> str:
        if not re.fullmatch(pattern, values[-1]):
            raise ValueError(expected)
        return values[-1]

    return Codec(parse, lambda text: [text])


def _one_of(options: tuple[str, ...]) -> Codec:
    return _matching("|".join(options), f"one of {', '.join(options)}")


def _names(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _percent(values: list[str]) -> int:
    if not re.fullmatch(r"\d{1,3}", values[-1]) or int(values[-1]) == 100:
        raise ValueError("a whole number of percent, not 100")
    return int(values[-1])


def _where(values: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(value.split(":", 1)) for value in values]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("column:value")
    return tuple(sorted(set(pairs)))  # type: ignore[arg-type]


def _printable(limit: int) -> Codec:
    return _matching(rf"[^\x00-\x1f\x7f]{{0,{limit}}}", f"at most {limit} printable characters")


CODECS: dict[str, Codec] = {
    "run": _printable(MAX_TEXT),
    "digest": _matching(r"[0-9a-f]{12}", "12 hexadecimal digits"),
    "examples": Codec(_numbers, lambda numbers: [compress(numbers)]),
    "labels": Codec(_numbers, lambda numbers: [compress(numbers)]),
    "predictions": Codec(_numbers, lambda numbers: [compress(numbers)]),
    "wrong": Codec(_flag, lambda flag: [str(int(flag))]),
    "confidence": Codec(_percentages, lambda pair: [f"{pair[0]}-{pair[1]}"]),
    "where": Codec(_where, lambda pairs: [f"{column}:{value}" for column, value in pairs]),
    "text": _printable(MAX_TEXT),
    "slice": _matching(r"[0-9a-f]{12}", "12 hexadecimal digits"),
    "page": Codec(_page, lambda page: [str(page)]),
    "stage": _printable(MAX_TEXT),
    "steps": Codec(_pair, lambda pair: [f"{pair[0]}-{pair[1]}"]),
    "chart": _one_of(CHARTS),
    "by": _printable(MAX_TEXT),
    "mode": _one_of(MODES),
    "other": _printable(MAX_TEXT),
    "first": _printable(MAX_TEXT),
    "second": _printable(MAX_TEXT),
    "skip": Codec(_names, list),
    "leave": Codec(_pair, lambda pair: [f"{pair[0]}-{pair[1]}"]),
    "without": Codec(_numbers, lambda numbers: [compress(numbers)]),
    "scale": Codec(_percent, lambda percent: [str(percent)]),
    "change": Codec(_where, lambda pairs: [f"{hyper}:{how}" for hyper, how in pairs]),
    **{name: _one_of(options) for name, options in OPTIONS.items()},
    "performance": _matching(
        rf"{'|'.join(OPTIONS['performance'])}|{CONFOUNDER}[^\x00-\x1f\x7f]{{1,{MAX_TEXT}}}",
        f"one of {', '.join(OPTIONS['performance'])}",
    ),
}
assert set(CODECS) == {f.name for f in fields(Selection)}
