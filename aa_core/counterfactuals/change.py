"""A changed hyperparameter as one value, and its text: `lr="0.5x"`, `lr=0.01`, `lr="cosine 0.1 to 0"`."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from aa_core.errors import RequestError

Kind = Literal["times", "set", "linear", "cosine", "list"]
EXPECTED = (
    "expected 0.5x (of what was recorded), 0.01 (instead of it), 0.1 to 0.01, cosine 0.1 to 0, or 0.1, 0.05, 0.01"
)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORMS: dict[Kind, str] = {
    "times": rf"({_NUMBER})\s*x",
    "set": rf"({_NUMBER})",
    "linear": rf"({_NUMBER})\s+to\s+({_NUMBER})",
    "cosine": rf"cosine\s+({_NUMBER})\s+to\s+({_NUMBER})",
}
_HYPER = re.compile(r"([A-Za-z_]\w*)(?:\[(\d+)\])?")


class Change(NamedTuple):
    """What one hyperparameter is in the changed steps, instead of what was recorded."""

    hyper: str
    """"lr" in all parameter groups, "lr[1]" in group 1 only."""
    kind: Kind
    """times: numbers[0] x the recorded value, so that a schedule keeps its shape; set: numbers[0]; linear and cosine:
    from numbers[0] in the first changed step to numbers[1] in the last; list: one number for each changed step."""
    numbers: tuple[float, ...]

    @property
    def text(self) -> str:
        """What `parse` reads, to the last digit."""
        shown = [f"{number!r}".removesuffix(".0") for number in self.numbers]
        match self.kind:
            case "times":
                return f"{shown[0]}x"
            case "linear":
                return " to ".join(shown)
            case "cosine":
                return f"cosine {' to '.join(shown)}"
            case _:
                return ", ".join(shown)

    @property
    def name(self) -> str:
        """The hyperparameter without its group."""
        return self.hyper.partition("[")[0]

    @property
    def group(self) -> int | None:
        """The one parameter group; None for all."""
        found = _HYPER.fullmatch(self.hyper)
        return int(found[2]) if found and found[2] else None

    def value(self, recorded: float, place: int, of: int) -> float:
        """The new value in the changed step number `place` of `of`."""
        first, last = self.numbers[0], self.numbers[-1]
        along = place / max(of - 1, 1)
        match self.kind:
            case "times":
                return recorded * first
            case "list":
                return self.numbers[place]
            case "cosine":
                return last + (first - last) * (1 + math.cos(math.pi * along)) / 2
            case _:
                return first + (last - first) * along


def parse(hyper: str, how: str | float) -> Change:
    """A change from its text; a plain number is the value itself. RequestError says what is expected."""
    if not _HYPER.fullmatch(hyper):
        raise RequestError(f"{hyper!r} names no hyperparameter; expected one such as lr, or lr[1] for group 1 only")
    text = (how if isinstance(how, str) else repr(float(how))).strip()
    for kind, form in _FORMS.items():
        if found := re.fullmatch(form, text):
            return Change(hyper, kind, tuple(map(float, found.groups())))
    if re.fullmatch(rf"{_NUMBER}(?:\s*,\s*{_NUMBER})+", text):
        return Change(hyper, "list", tuple(map(float, text.split(","))))
    raise RequestError(f"{hyper}={how!r}: {EXPECTED}")
