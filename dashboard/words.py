"""The screens' own words, and other people's words made literal."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from dashboard.selection import CONFOUNDER, Selection
from dashboard.service import escape, glossary

UNLINKED = "\u2060"
"""Invisible; Markdown takes what it stands in for no address."""
OPTIONS = {
    "log-likelihood": "Log-likelihood",
    "probability": "Probability",
    "margin": "Margin (log-odds)",
    "boundary": "Boundary",
    "additive": "Additive",
    "midpoint": "Midpoint",
    "exact": "Exact Hessian",
    "ggn": "Gauss-Newton",
    "none": "None",
    "linear": "Linear",
    "displaced": "Displaced",
    "link": "Link",
    "freeze": "Freeze",
    "zero_gradient": "Zero gradient",
}
CONTROLS = {
    "performance": ("Performance", "What the model is judged by. Larger is better.", glossary.PERFORMANCES),
    "method": ("Method", "How a stage's change is carried to the end of training.", glossary.METHODS),
    "curvature": ("Curvature", "How later steps react to the change.", glossary.CURVATURES),
    "readout": ("Readout", "How the change of the weights becomes a change of the performance.", glossary.READOUTS),
    "semantics": ("Without a stage", "What is compared with the training as recorded.", glossary.SEMANTICS),
}


CHART_WORDS = {"effects": "Effect", "layers": "By layer", "causes": "By cause", "shares": "Path shares"}


def option(value: str) -> str:
    """What a setting's option is called."""
    return OPTIONS.get(value) or performance_words(value).capitalize()


def performance_words(name: str) -> str:
    """What the model is judged by, in the middle of a sentence."""
    if not name.startswith(CONFOUNDER):
        return name
    return f"log-likelihood of “{name.removeprefix(CONFOUNDER)}” as the label"


def judged(s: Selection) -> str:
    """What the model is judged by."""
    return performance_words(s.performance)


def help_of(control: str) -> str:
    """What a setting means, and each of its options, in plain words."""
    _, purpose, options = CONTROLS[control]
    return "\n".join([purpose, "", *(f"- **{OPTIONS[o]}**: {text}" for o, text in options.items())])


def literal(text: object) -> str:
    """Text for a place that reads Markdown: shown as it is, never obeyed, and no address in it becomes a link.

    A hyphen inside a word obeys nothing and is left alone: labels are also read out, with their backslashes.
    """
    unlinked = re.sub(r"://|(?<=www)\.|@", lambda found: f"{found[0]}{UNLINKED}", escape.visible(text))
    return re.sub(r"(?!(?<=\w)-(?=\w))([!-/:-@\[-`{-~])", r"\\\1", unlinked)


def escaped(text: object) -> str:
    """Text for a place that reads HTML."""
    return html.escape(escape.visible(text))


def chart_text(text: object) -> str:
    """Text for a label of a chart."""
    return escape.chart_text(text)


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 step", "1,400 steps"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def subject(s: Selection, n: int, total: int) -> str:
    """Which examples a number is about."""
    if len(s.examples) == 1:
        return f"example {s.examples[0]}"
    if s.examples:
        return f"{plural(n, 'picked example')}"
    if s.slice and not replace(s, slice="").filtered:
        return f"the {plural(n, 'example')} of a saved subgroup"
    return f"{plural(n, 'filtered example')} of {total:,}" if s.filtered else f"all {plural(n, 'evaluation example')}"


def measure(s: Selection, unit: str, n: int) -> str:
    """What one bar is: performance, unit and number of examples."""
    mean = "mean over " + plural(n, "example") if n > 1 else "1 example"
    follows = " Positive: it made the model follow that more." if s.performance.startswith(CONFOUNDER) else ""
    return f"Effect on the {judged(s)}, {unit}; {mean}.{follows}"


def effect_words(effect: float, unit: str, s: Selection) -> str:
    """What the effect of a what-if means for the model."""
    if not effect:
        return "This would change nothing."
    better = "worse" if effect > 0 else "better"
    by = f"{glossary.fmt_effect(abs(effect)).lstrip('+')} {glossary.unit_words(unit)} in {judged(s)}"
    what = "helped" if effect > 0 else "hurt"
    left_out = not s.change and not s.scale
    return f"The model would be {better} by {by}" + (f": what is left out {what}." if left_out else ".")


def agreement_words(found: Mapping[str, Any]) -> str:
    """How an estimate agrees with the retraining, example by example."""
    agreement = found["agreement"]
    if found["n"] < 3:
        return "Too few examples to compare one by one."
    parts = [
        f"correlation r = {glossary.fmt_number(agreement['pearson'])}",
        f"same sign for {glossary.fmt_percent(agreement['sign'])} of the examples",
        f"mean error {glossary.fmt_percent(agreement['relative_error'])} of the mean size",
    ]
    return f"Example by example (n = {found['n']:,}): {glossary.listed(parts)}."


VERDICTS = {
    "noise": "within noise: neither sign nor size means anything",
    "confirmed": "sign and size are borne out (size: within a factor of two)",
    "sign": "the sign is borne out, the size is not",
    "refuted": "the estimate is contradicted",
}


def when(moment: str) -> str:
    """A moment as ISO 8601 writes it, as a clock on the wall shows it; anything else as it is."""
    try:
        return f"{datetime.fromisoformat(moment).astimezone():%d %b %Y, %H:%M}"
    except ValueError:
        return moment
