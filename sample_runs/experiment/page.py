"""Results pages: one of an experiment, and docs/results.md of all that are stored.

`python -m sample_runs.experiment.page` writes docs/results.md from the stored results; nothing in it is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import numpy as np

from aa_core.confidence.agreement import agreement
from aa_core.confidence.calibration import Figures
from sample_runs.experiment.blocks import Block, Heading, Picture, Table, Text, html, markdown, write_pictures
from sample_runs.experiment.pictures import Effects, effects_chart, scatter
from sample_runs.experiment.plan import ROOT, Case, Plan, experiments, read_plan
from sample_runs.experiment.results import Results, Trained, read_results, results_path

DOCS = ROOT.parent / "docs"
PAGE, PICTURES = DOCS / "results.md", DOCS / "images" / "results"
TRUSTED = ("size", "rank")
TARGET_R, TARGET_SIGN, TARGET_STEPS = 0.9, 0.9, 0.98
TARGETS = (
    f"Targets, where the verdict says rank or better: r >= {TARGET_R} and sign >= {TARGET_SIGN} by the chosen "
    f"estimator, and r >= {TARGET_STEPS} for effects of single steps where their verdict says so; every planted stage "
    "found in every seed, wherever retraining shows that it is there."
)
ROWS = {
    "chosen by calibration": ("calibrated",),
    "boundary, exact, linear (the engine's default)": ("boundary", "exact", "linear"),
    "boundary, exact, displaced": ("boundary", "exact", "displaced"),
    "boundary, exact, link": ("boundary", "exact", "link"),
    "midpoint, exact, displaced": ("midpoint", "exact", "displaced"),
    "boundary, Gauss-Newton, displaced": ("boundary", "ggn", "displaced"),
    "boundary, Gauss-Newton, link": ("boundary", "ggn", "link"),
    "additive, exact, linear (the paper's)": ("additive", "exact", "linear"),
    "additive, none, linear (curvature neglected)": ("additive", "none", "linear"),
    "path share (another question)": ("path share",),
}
READ = (
    "Effects are positive where a stage helped: the performance as recorded minus that without the stage, in nats. "
    "Truth is really training again without the stage (its updates do not occur, all else as recorded). r, sign and "
    "error are over all pairs of stage and evaluation example on the log-likelihood of the label, means over the seeds "
    "with the range of r; error is the mean of |estimate - truth| over the mean of |truth|. Cost is CPU time of one "
    "question on all examples in plain replays of the training. The chosen estimator was chosen, among all of every "
    "sweep, on the same retrainings that it is judged by here, so its figures flatter; the verdict was said before "
    "anything was retrained."
)


def write_page(plan: Plan, found: Results, folder: Path) -> Path:
    """results.html of one experiment, with its pictures beside it."""
    short = summary({found.experiment: (plan, found)})
    blocks = [Heading(1, plan.title), Text(made(found)), Text(READ), short, *experiment_blocks(plan, found)]
    write_pictures(blocks, folder)
    page = folder / "results.html"
    page.write_text(html(blocks, plan.title), "utf-8")
    return page


def stored(root: Path = ROOT) -> dict[str, tuple[Plan, Results]]:
    """Plan and stored results of every experiment that has been done, in the order of their names."""
    return {
        name: (read_plan(name, root), read_results(results_path(name, root)))
        for name in experiments(root)
        if results_path(name, root).is_file()
    }


def results_page(root: Path = ROOT) -> list[Block]:
    """All stored results."""
    known = stored(root)
    blocks: list[Block] = [
        Heading(1, "Experiments"),
        Text(
            "Real data, real retraining. Written by "
            "`python -m sample_runs.experiment.page` from the results stored with each experiment; do one again with "
            "`aa experiment NAME --data DIR`."
        ),
        Text(READ),
        Heading(2, "Summary"),
        Text(TARGETS),
        summary(known),
    ]
    for name, (plan, found) in known.items():
        blocks += [Heading(2, plan.title), Text(f"`{name}`: {made(found)}"), *experiment_blocks(plan, found)]
    return blocks


def made(found: Results) -> str:
    """When, and on what machine."""
    return f"Measured on {found.date}; {found.machine}."


def summary(known: dict[str, tuple[Plan, Results]]) -> Table:
    """One row a case that was measured: what was said of it, and how well the estimates did."""
    head = ["experiment, case", "verdicts", "r, default", "r, chosen", "sign, chosen", "step r", "found", "targets"]
    rows = [
        _summary_row(f"{name}, {case.name}", case, trained)
        for name, (plan, found) in known.items()
        for case in plan.cases
        if (trained := found.of_case(case.name))
    ]
    return Table(head, rows)


def _summary_row(name: str, case: Case, trained: Sequence[Trained]) -> list[str]:
    chosen = [t.figures("calibrated").pairs for t in trained]
    engine = [t.figures("boundary", "exact", "linear").pairs for t in trained]
    there = [f for t in trained for f in t.found if f.truth]
    return [
        name,
        ", ".join(t.verdict for t in trained),
        _mean(s.pearson for s in engine),
        _mean(s.pearson for s in chosen),
        _mean(s.sign for s in chosen),
        _mean(t.single_steps.pearson for t in trained),
        f"{sum(f.calibrated for f in there)} of {len(there)}" if case.findings else "-",
        targets(trained),
    ]


def targets(trained: Sequence[Trained]) -> str:
    """Which of the targets are met; they are asked only where the verdict says rank or better."""
    asked = [t.figures("calibrated").pairs for t in trained if t.verdict in TRUSTED]
    steps = [t.single_steps.pearson for t in trained if t.single_steps_verdict in TRUSTED]
    missed = [
        *_below("r", (s.pearson for s in asked), TARGET_R),
        *_below("sign", (s.sign for s in asked), TARGET_SIGN),
        *_below("step r", steps, TARGET_STEPS),
        *(["found"] if any(f.truth and not f.calibrated for t in trained for f in t.found) else []),
    ]
    if missed:
        return "missed: " + ", ".join(missed)
    return "met" if asked else "met (r and sign not asked)"


def _below(name: str, values: Iterator[float | None] | Sequence[float | None], target: float) -> list[str]:
    found = [v or 0.0 for v in values]
    return [name] if found and mean(found) < target else []


def experiment_blocks(plan: Plan, found: Results) -> list[Block]:
    """Question, data, and each case."""
    blocks: list[Block] = [Text(plan.question), Text(f"Data: {plan.data}"), Text(f"Tuned: {plan.tuned}")]
    waiting = [case.name for case in plan.cases if not found.of_case(case.name)]
    if waiting:
        blocks.append(Text(f"Planned, and not measured here: {', '.join(waiting)}."))
    blocks += [variants(plan, found, name) for name in dict.fromkeys(c.baseline for c in plan.cases if c.baseline)]
    for case in plan.cases:
        if trained := found.of_case(case.name):
            blocks += _case_blocks(found.experiment, case, trained)
    return blocks


def _case_blocks(experiment: str, case: Case, trained: Sequence[Trained]) -> list[Block]:
    first = trained[0]
    optimizer = ", ".join(f"{n} {v:g}" for n, v in case.optimizer.model_dump(exclude={"name", "cosine"}).items() if v)
    blocks: list[Block] = [
        Heading(3, case.name[0].upper() + case.name[1:]),
        Text(case.question),
        Text(
            f"{len(first.stages)} stages, {first.steps} steps of {case.batch}; {case.problem}, {first.parameters:,} "
            f"parameters; {case.optimizer.name}, {optimizer}{', cosine' if case.optimizer.cosine else ''}; "
            f"{first.examples} evaluation examples, {mean(t.accuracy for t in trained):.0%} right; seeds "
            f"{', '.join(str(t.seed) for t in trained)}."
        ),
        estimators(trained),
        Text(_verdicts(trained)),
    ]
    if first.held:
        blocks.append(Text(_held(trained)))
    if case.findings:
        blocks.append(findings(trained))
    if first.together:
        blocks.append(together(trained))
    if first.left_out:
        blocks.append(left_out(trained))
    slug = f"{experiment}-{case.name}".replace(",", "").replace(".", "").replace(" ", "-")
    if first.means:
        words = f"Effects of the stages, hollow estimated by the chosen estimator, full retrained; {case.name}"
        blocks.append(Picture(f"{slug}-effects.svg", effects_chart(list(_panels(trained)), words), words))
    words = f"Estimate against truth, seed {first.seed}, {len(first.points)} of the pairs; {case.name}"
    return [*blocks, Picture(f"{slug}-pairs.svg", scatter(first.points, words), words)]


def _panels(trained: Sequence[Trained]) -> Iterator[Effects]:
    for i, means in enumerate(trained[0].means):
        of = [t.means[i] for t in trained]
        yield Effects(means.name, trained[0].stages, [m.calibrated for m in of], [m.truth for m in of])


def estimators(trained: Sequence[Trained]) -> Table:
    """Every estimator against the truth, means over the seeds."""
    head = ["estimator", "r", "range", "r, examples", "r, stages", "Spearman", "sign", "error", "cost"]
    rows = [
        _estimator_row(name, [t.figures(*key) for t in trained], trained)
        for name, key in ROWS.items()
        if key[0] in {"calibrated", *(e.method for e in trained[0].estimators)}
    ]
    retraining = _mean((t.costs["retraining without each stage"] for t in trained), ".1f")
    return Table(head, [*rows, ["retraining without each stage", *["1"] * 6, "0%", retraining]])


def _estimator_row(name: str, figures: Sequence[Figures], trained: Sequence[Trained]) -> list[str]:
    pairs = [f.pairs for f in figures]
    known = [s.pearson for s in pairs if s.pearson is not None]
    costs = [t.costs.get(f"{f.method}, {f.curvature}", 1.0) for f, t in zip(figures, trained, strict=True)]
    return [
        name,
        _mean(s.pearson for s in pairs),
        f"{min(known):.2f} to {max(known):.2f}" if known else "-",
        _mean(f.examples.pearson for f in figures),
        _mean(f.stages.pearson for f in figures),
        _mean(s.spearman for s in pairs),
        _mean(s.sign for s in pairs),
        _mean((s.relative_error for s in pairs), ".0%"),
        _mean(costs, ".1f"),
    ]


def variants(plan: Plan, found: Results, baseline: str) -> Table:
    """Mean effects of the stages on every performance: their size, and how alike those of the baseline they are."""
    names = [baseline, *(c.name for c in plan.cases if c.baseline == baseline)]
    known = {name: trained for name in names if (trained := found.of_case(name))}
    rows = []
    for name, trained in known.items():
        cells = [name, f"{mean(t.accuracy for t in trained):.0%}"]
        for by in ("truth", "calibrated"):
            effects, others = _all_means(trained, by), _all_means(known.get(baseline, trained), by)
            alike = agreement(effects, others).pearson if len(effects) == len(others) else float("nan")
            cells += [f"{np.abs(effects).mean():.3f}", f"{alike:.2f}"]
        rows.append(cells)
    head = [
        "variant",
        "right",
        "mean size, retrained",
        f"r with {baseline}",
        "mean size, estimated",
        "r with it, estimated",
    ]
    return Table(head, rows)


def _all_means(trained: Sequence[Trained], by: str) -> np.ndarray:
    return np.array([effect for t in trained for m in t.means for effect in getattr(m, by)])


def _verdicts(trained: Sequence[Trained]) -> str:
    said = "; ".join(f"seed {t.seed}: said {t.verdict}, earned {t.earned}, chosen {t.default}" for t in trained)
    single = [t.single_steps for t in trained]
    noise = sum(t.below_noise for t in trained)
    return (
        f"Verdict on the default, before retraining, and what it earned: {said}. Single steps, {single[0].n} a seed: r "
        f"{', '.join(_mean([s.pearson], '.3f') for s in single)}, sign {_mean(s.sign for s in single)}, error "
        f"{_mean((s.relative_error for s in single), '.0%')} (verdicts "
        f"{', '.join(t.single_steps_verdict for t in trained)}; cost of all steps "
        f"{_mean((t.costs['all steps, one mean'] for t in trained), '.1f')})."
        + (f" {noise} pairs are within the noise of the truth and in no figure." if noise else "")
    )


def _held(trained: Sequence[Trained]) -> str:
    """How much of the error is not that of running statistics."""
    held = [t.held for t in trained if t.held]
    return (
        "The model has running statistics, which retraining moves. With those of the recorded model put into the "
        "default and the retrained models alike, the default has "
        f"r {_mean(s.pearson for s in held)}, sign {_mean(s.sign for s in held)} and error "
        f"{_mean((s.relative_error for s in held), '.0%')}: so well are the parameters alone estimated."
    )


def findings(trained: Sequence[Trained]) -> Table:
    """What was to be found, and in how many seeds it was."""
    rows = []
    for i, first in enumerate(trained[0].found):
        of = [t.found[i] for t in trained]
        counts = [sum(getattr(f, by) for f in of) for by in ("engine", "calibrated", "truth")]
        rows.append([first.says, *(f"{c} of {len(of)}" for c in counts)])
    return Table(["to be found", "by the default", "by the chosen", "by retraining"], rows)


def together(trained: Sequence[Trained]) -> Table:
    """Several stages skipped at once: what was predicted, and what happened."""
    head = ["skipped together", "seed", "stages", "recorded", "retrained", "effect, estimated", "effect, retrained"]
    rows = [
        [
            f"{x.chosen} on {x.performance}",
            str(t.seed),
            ", ".join(x.stages),
            f"{x.recorded:.3f}",
            f"{x.without:.3f}",
            f"{x.estimate:+.3f}",
            f"{x.truth:+.3f}",
        ]
        for t in trained
        for x in t.together
    ]
    return Table(head, rows)


def left_out(trained: Sequence[Trained]) -> Table:
    """The effect of one training example, over the seeds."""
    rows = []
    for i, first in enumerate(trained[0].left_out):
        of = [t.left_out[i] for t in trained]
        rows.append(
            [first.performance, *(", ".join(f"{getattr(x, n):+.3f}" for x in of) for n in ("estimate", "truth"))]
        )
    return Table(["effect of the one picture on", "estimated, by seed", "retrained, by seed"], rows)


def _mean(values: Iterator[float | None] | Sequence[float | None], form: str = ".2f") -> str:
    """The mean of the figures that are defined; "-" where none is."""
    known = [v for v in values if v is not None]
    return format(mean(known), form) if known else "-"


def main() -> None:
    """Write docs/results.md and its pictures."""
    blocks = results_page()
    write_pictures(blocks, PICTURES)
    PAGE.write_text(markdown(blocks, "images/results/"), "utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
