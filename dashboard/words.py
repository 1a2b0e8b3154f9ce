"""The screens' own words, and other people's words made literal."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dashboard.light import escape, glossary
from dashboard.selection import CONFOUNDER, Selection

if TYPE_CHECKING:  # words are there before the engine
    from dashboard.service import Desk, Effects
    from dashboard.service.checking import Truth

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

    A comma, or a hyphen inside a word, obeys nothing and is left alone: labels are also read out, with their
    backslashes.
    """
    unlinked = re.sub(r"://|(?<=www)\.|@", lambda found: f"{found[0]}{UNLINKED}", escape.visible(text))
    return re.sub(r"(?!,|(?<=\w)-(?=\w))([!-/:-@\[-`{-~])", r"\\\1", unlinked)


def escaped(text: object) -> str:
    """Text for a place that reads HTML."""
    return html.escape(escape.visible(text))


def chart_text(text: object) -> str:
    """Text for a label of a chart."""
    return escape.chart_text(text)


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 step", "1,400 steps"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def subject(desk: Desk, s: Selection) -> str:
    """Which examples a number is about; it may hold a name that somebody chose."""
    n, facts = len(desk.rows(s)), desk.facts()
    if len(s.examples) == 1:
        return f"example {s.examples[0]}"
    if s.examples:
        return f"{plural(n, 'picked example')}"
    if s.slice and not replace(s, slice="").filtered:
        return f"the {plural(n, 'example')} of the subgroup “{facts.slices.get(s.slice, s.slice)}”"
    if s.filtered:
        return f"{plural(n, 'filtered example')} of {facts.examples:,}"
    return f"all {plural(n, 'evaluation example')}"


def measure(s: Selection, unit: str, n: int) -> str:
    """What one bar is: performance, unit and number of examples."""
    mean = "mean over " + plural(n, "example") if n > 1 else "1 example"
    follows = " Positive: it made the model follow that more." if s.performance.startswith(CONFOUNDER) else ""
    return f"Effect on the {judged(s)}, {unit}; {mean}.{follows}"


def answer_words(found: Effects) -> str:
    """Which stage helped most and which hurt most, by the estimates, in a line."""
    scale, said = glossary.scale_of(found.frame["effect"]), []
    for way, verb in ((1, "helped"), (-1, "hurt")):
        row = max(found.frame.itertuples(), key=lambda r: way * r.effect)
        size = f"{glossary.fmt_effect(row.effect, scale)} {literal(found.unit)}"
        said.append(f"**{literal(row.stage)}** {verb} most, {size}" if way * row.effect > 0 else f"no stage {verb}")
    trust = " Not to be trusted: see why below." if found.belief.trust == "nothing" else ""
    return f"By the estimates {glossary.listed(said)}.{trust}"


def retrained_words(truths: Mapping[str, Truth]) -> str:
    """What a retrained effect is, and who measured it; nothing where there is none. It holds names of stages."""
    if not truths:
        return ""
    brought = [stage for stage, truth in truths.items() if not truth.here]
    of = f" (of {glossary.listed(brought)})" if len(brought) < len(truths) else ""
    whose = f", as whoever passed on this run measured it{of}" if brought else ""
    return f"the effect of the stage when the model was really trained again without it{whose}"


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
