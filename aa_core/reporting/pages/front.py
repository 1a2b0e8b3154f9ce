"""The first pages: what was asked, what the answer is, who asked, about what."""

from __future__ import annotations

from collections.abc import Iterator

from aa_core.reporting import glossary
from aa_core.reporting.asked import Picks, worded
from aa_core.reporting.blocks import Block, Bullets, Cover, Facts, Heading, Paragraph
from aa_core.reporting.model import Report
from aa_core.reporting.pages.basis import SHORT, stated

READ = {
    "estimate": "Nothing here was checked by retraining: read signs and ranks as a lead to follow, sizes as an order "
    "of magnitude.",
    "refuted": "At least one retraining shows the opposite sign of the estimate. Believe the retraining.",
    "partly": "Some of it was checked by retraining; what was not is an estimate.",
    "confirmed": "The signs of the largest effects were checked by retraining.",
}


def cover(report: Report) -> Iterator[Block]:
    """Title, question, answer."""
    run, selection = report.run, report.selection
    whole = "the whole evaluation set" if selection.examples == "all" else "selected"
    yield Cover(
        kicker="Accountability report" + (f" · {report.date}" if report.date else ""),
        title=report.title,
        question=report.question,
        status=glossary.STATUS[report.answer.status],
        tone=report.answer.status,
        lines=report.answer.lines,
        facts=(
            ("Run", run.digest[:SHORT]),
            ("Training", f"{plural(len(run.stages), 'stage')}, {plural(run.steps, 'step')}"),
            ("Judged by", selection.performance),
            ("Examples", f"{selection.n:,}, {whole}"),
            ("Sign", "positive = helped"),
            ("Auditor", report.about.auditor or "not stated"),
        ),
    )


def confidence(report: Report) -> Iterator[Block]:
    """How far to believe the answer, and the figures behind that."""
    found = report.reliability
    yield Heading("How far to believe it")
    yield Paragraph(report.answer.confidence)
    yield Paragraph(READ[report.answer.status], "warning" if report.answer.status == "refuted" else "plain")
    facts = [
        ("Growth of a small change", f"{glossary.fmt_number(found.growth)} times at most; near or below 1 is smooth")
    ]
    if found.readout_spread is not None:
        agree = (
            "" if found.signs_agree is None else f"; one sign for {glossary.fmt_percent(found.signs_agree)} of stages"
        )
        spread = f"{glossary.fmt_percent(found.readout_spread)} of the size of the effects{agree}"
        facts.append(("Spread of the three readouts", spread))
    facts.append(("Largest effective learning rate", glossary.fmt_number(found.effective_lr)))
    if found.moved is not None:
        facts.append(
            ("Largest move of a stage", f"{glossary.fmt_percent(found.moved)} of the norm of the final weights")
        )
    if found.stiff_share:
        share = glossary.fmt_percent(found.stiff_share)
        facts.append(("Stiff coordinates", f"{share} of the weights have a zero second moment and react without bound"))
    if found.noise_of_mean is not None:
        noise = f"{glossary.fmt_small(found.noise_of_mean)} {report.selection.unit}"
        facts.append(("Noise floor of these mean effects", f"{noise}: what is smaller is noise"))
    yield Facts(tuple(facts))


def auditor(report: Report) -> Iterator[Block]:
    """Who did this, and what ties them to whom."""
    about = report.about
    yield Heading("Auditor and independence")
    named = (
        ("Auditor", about.auditor),
        ("Role", about.role),
        ("Organisation", about.organisation),
        ("Independence", about.independence),
        ("Access", about.access),
        ("Review", about.review),
    )
    yield Facts(tuple((label, stated(text)) for label, text in named))


def scope(report: Report) -> Iterator[Block]:
    """What was asked, and what was not."""
    about, selection, run = report.about, report.selection, report.run
    asked = {r.stage for r in report.stages}
    left_out = [s.name for s in run.stages if s.name not in asked]
    yield Heading("Scope")
    yield Facts(
        (
            ("Purpose of the audit", stated(about.purpose)),
            ("Intended use of the system", stated(about.intended_use)),
            ("Out of scope", stated(about.out_of_scope)),
        )
    )
    examples = "all of the evaluation set" if selection.examples == "all" else "picked from the evaluation set"
    lines = [
        f"Asked: the effect of {plural(len(asked), 'stage')} of one recorded training on the model’s "
        f"{selection.performance}, on {plural(selection.n, 'example')} ({examples}).",
        *([] if selection.picks is None else [_picked(selection.picks)]),
        *([f"Not asked: {glossary.listed(f'“{n}”' for n in left_out)}."] if left_out else []),
        "Not asked: whether the training should have been done, whether the data were lawfully obtained, and how the "
        "model behaves in use.",
    ]
    yield Bullets(tuple(lines))


def _picked(picks: Picks) -> str:
    saved = f", saved as “{picks.subgroup}”: {worded(picks.definition)}" if picks.definition else ""
    return f"The examples were picked by {picks.words}{saved}."


def plural(count: int, one: str) -> str:
    """ "1 step", "1,400 steps"."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"
