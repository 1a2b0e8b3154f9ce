"""What was recorded: the system, its training, its data, and the method that reads them."""

from __future__ import annotations

from collections.abc import Iterator

from aa_core.reporting import glossary
from aa_core.reporting.blocks import Block, Bullets, Cell, Facts, Figure, Formula, Heading, Paragraph, Table
from aa_core.reporting.links import overview
from aa_core.reporting.model import Report
from aa_core.reporting.pages.basis import SHORT, evidence
from aa_core.reporting.pages.front import plural
from aa_core.reporting.recorded import RunSection, RunStage


def training(report: Report) -> Iterator[Block]:
    """The system, the stages in order, the states that are stored."""
    run = report.run
    yield Heading("The system and its training")
    for warning in run.warnings:
        yield Paragraph(warning, "warning")
    if run.replay is not None and not run.replay.sound:
        yield Paragraph(f"The recorded training does not replay: {run.replay.words}.", "warning")
    sealed = "sealed: nothing was added after its end"
    growing = "not sealed: it may still grow, and this report describes what it held"
    stages, steps = plural(len(run.stages), "stage"), plural(run.steps, "step")
    if run.known == "checkpoints":
        yield Paragraph(
            f"{steps} of {run.optimizer} in {stages}, of which only some states are known. Batches and their order are "
            "not, so the training can neither be replayed nor repeated without a stage, and nothing here shows that it "
            "took place as stated."
        )
    else:
        yield Paragraph(
            f"{steps} of {run.optimizer} in {stages}. The record is {sealed if run.sealed else growing}. It says what "
            "was recorded; it cannot prove that the training took place as recorded, which a replay shows step by step."
        )
    yield Facts(
        tuple(
            (label, text)
            for label, text in (
                ("Model", run.model),
                ("Trained parameters", "" if run.parameters is None else f"{run.parameters:,}"),
                ("Loss", run.loss),
                ("Optimizer", run.optimizer),
                ("Recorded", run.created),
                ("Files", run.integrity),
                ("Replay", _replay(run)),
                ("Run digest", run.digest),
            )
            if text
        )
    )
    yield from _timeline(report)
    yield Table(
        "The stages in the order of training.",
        ("Stage", "Optimizer", "Steps", "Number of steps", "Distinct examples", "Uses of an example"),
        tuple(_stage(s) for s in run.stages),
        texts=frozenset({1}),
    )
    if run.checkpoints:
        yield Table(
            "States of model and optimizer that are stored with the run, each pinned by its digest.",
            ("State", "sha256", "Bytes"),
            tuple((Cell(f.name), Cell(f.sha256), Cell(f"{f.size:,}")) for f in run.checkpoints),
            texts=frozenset({1}),
        )


def _replay(run: RunSection) -> str:
    if run.known == "checkpoints":
        return "not to be had: no step was recorded"
    return "not replayed in this workspace" if run.replay is None else f"{run.replay.words} (job {run.replay.job})"


def _timeline(report: Report) -> Iterator[Block]:
    run = report.run
    if run.log is None:
        return
    note = f" Means of {run.log.steps_per_row} neighbouring steps." if run.log.steps_per_row > 1 else ""
    curves = glossary.listed(words for name, words in glossary.CURVES.items() if getattr(run.log, name))
    yield Figure(
        "timeline",
        "The training",
        {
            "blocks": [[s.name, a, b] for s in run.stages for a, b in s.blocks],
            **run.log.model_dump(include={"step", "stage", *glossary.CURVES}),
        },
        f"Stages, {curves}, {plural(run.steps, 'step')}. As recorded, not estimated.{note}",
        "The table below lists the stages, training.csv every value.",
        f"run {run.digest[:SHORT]}, as recorded",
        overview(report),
    )


def _stage(stage: RunStage) -> tuple[Cell, ...]:
    more = [f"{k} {v}" for k, v in stage.metadata.items() if isinstance(v, str | int | float)]
    steps = ", ".join(f"{a:,}–{b - 1:,}" for a, b in stage.blocks)
    count = sum(b - a for a, b in stage.blocks)
    note = "; ".join([*([stage.note] if stage.note else []), *more])
    counts = (Cell("–" if n is None else f"{n:,}") for n in (count, stage.examples, stage.uses))
    return Cell(stage.name, note), Cell(stage.optimizer or "–"), Cell(steps), *counts


def data(report: Report) -> Iterator[Block]:
    """What it learnt from, and what it is judged on."""
    found, selection = report.data, report.selection
    yield Heading("Data")
    uses = "how often they were used is not known" if found.uses is None else f"used {found.uses:,} times in all"
    facts = [
        ("Training", f"{plural(found.examples, 'distinct example')}, {uses}"),
        ("Evaluation set", plural(found.evaluation, "example")),
        (
            "Judged here",
            f"{plural(selection.n, 'example')}, digest {selection.evaluation[:SHORT]} with the performance",
        ),
    ]
    if found.classes:
        facts.append(("Classes", ", ".join(found.classes)))
    if found.columns:
        facts.append(("Metadata", ", ".join(found.columns)))
    yield Facts(tuple(facts))
    if found.files:
        yield Table(
            "Files of the run that hold the examples.",
            ("File", "sha256", "Bytes"),
            tuple((Cell(f.name), Cell(f.sha256), Cell(f"{f.size:,}")) for f in found.files),
            texts=frozenset({1}),
        )


def method(report: Report) -> Iterator[Block]:
    """Definition, estimator, assumptions, parameters."""
    selection, how = report.selection, report.method
    yield Heading("Method")
    meaning = glossary.performance_words(selection.performance)
    unit = glossary.unit_words(selection.unit)
    explained = f" The {selection.performance} is {meaning}, in {unit}." if meaning else ""
    yield Paragraph(
        f"The effect of a stage S on an example x is the model’s {selection.performance} as recorded, minus what it "
        f"would be had the training gone on without S. It is positive if the stage helped.{explained}"
    )
    yield Formula(("τ_S(x) = γ(recorded; x) − γ(without S; x)", *how.formula))
    yield Formula((glossary.SYMBOLS,))
    yield Bullets(how.words)
    yield Heading("Assumptions", 3)
    yield Bullets(how.assumptions)
    yield Heading("Parameters", 3)
    bootstrap = f"95 %, percentile, 2,000 draws over examples, seed {report.provenance.get('seed')}"
    yield Facts(
        (
            ("Estimator", f"{how.method}, {how.curvature} curvature, {how.readout} readout"),
            ("Without a stage", how.semantics),
            ("Intervals", bootstrap),
            ("Numbers", evidence(report)),
        )
    )
