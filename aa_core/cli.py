"""The command line: parse, call one function, print."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer

from aa_core.check import check_files, check_run
from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.commands import archive, checkpoints, experiment, remote, sign
from aa_core.commands.console import Format, Meter, note, rows, unforeseen, write_rows
from aa_core.commands.findings import ledger
from aa_core.commands.launcher import HOST, become, prepare, reach
from aa_core.commands.log import log
from aa_core.commands.options import (
    Commands,
    CurvatureOption,
    ExamplesOption,
    FormatOption,
    MethodOption,
    Output,
    PerformanceOption,
    ProblemOption,
    ReadoutOption,
    Run,
    SemanticsOption,
    epilog,
    open_any_told,
    open_told,
    problem_of,
)
from aa_core.commands.report import reports
from aa_core.commands.whatif_each import AddressOption, EachOption, ExecutorOption, answers, separately
from aa_core.commands.whatif_options import counterfactual
from aa_core.confidence.borne_out import with_calibration
from aa_core.confidence.remainder import with_remainders
from aa_core.curvature import Curvature
from aa_core.effects.attribution import SIGN, Attribution, stage_effects, step_effects
from aa_core.effects.embedding import Readout
from aa_core.jobs import all_jobs, perform, resume_dead, whatif_spec
from aa_core.reporting.escape import shorten, visible
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory
from aa_core.version import __version__

app = typer.Typer(
    cls=Commands,
    name="aa",
    help=(
        "Which stage, step and example of its training made a model behave as it does, checked against retraining.\n\n"
        "Results go to stdout, everything else to stderr. Effects: positive = helped, negative = hurt."
    ),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aa {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    """See `app`."""


@app.command(epilog=epilog("aa info sample_runs/digits-shift/run", "aa info my_run"))
def info(run: Run) -> None:
    """What was recorded: stages, data, checkpoints. Runs no code of the run's model."""
    opened = open_any_told(run)
    stages = pd.DataFrame(
        {
            "stage": [s.name for s in opened.stages],
            "steps": [len(s) for s in opened.stages],
            "from": [s.start for s in opened.stages],
            "to": [s.stop - 1 for s in opened.stages],
            "note": [shorten(s.note, 60) for s in opened.stages],
        }
    )
    facts = checkpoints.facts(opened) if isinstance(opened, CheckpointRun) else _facts(opened)
    typer.echo("".join(f"{name:<12} {visible(value)}\n" for name, value in facts.items()))
    write_rows(stages, "table", None, {})


def _facts(run: Trajectory) -> dict[str, Any]:
    header, evaluation, machine = run.header, run.evaluation, run.environment
    return {
        "title": run.title or "(none)",
        "digest": run.digest,
        "state": "sealed" if run.sealed else "not sealed: still recording, or interrupted",
        "created": header.created,
        "problem": header.problem.name or "(none: name one with --problem)",
        "model": f"{header.model_class}, {len(header.parameters)} parameter tensors, loss {header.loss}",
        "optimizer": run.optimizer,
        "steps": run.steps,
        "checkpoints": f"{len(run.checkpoints)}, before steps {shorten(', '.join(map(str, run.checkpoints)), 60)}",
        "evaluation": f"{len(evaluation)} examples" if evaluation else "(none)",
        "recorded on": f"{machine.device}, {machine.cpu or 'processor unknown'}, {machine.threads} threads, "
        f"torch {machine.torch}, Python {machine.python}",
    }


@app.command(epilog=epilog("aa check sample_runs/digits-shift/run", "aa check my_run --problem my_problem.py"))
def check(
    run: Run,
    problem: ProblemOption = None,
    no_replay: Annotated[bool, typer.Option("--no-replay", help="Verify files only, run no model code.")] = False,
    key: Annotated[Path | None, typer.Option(metavar="FILE.pub", help="Key of who should have signed.")] = None,
) -> None:
    """Is the run intact, who vouches for it, and does it replay? Exits with 1 if not."""
    opened = open_any_told(run)
    if isinstance(opened, CheckpointRun):
        checkpoints.check(opened)
        return
    meter = Meter()
    found = (
        check_files(opened)
        if no_replay
        else check_run(opened, problem_of(opened, problem), lambda done, total: meter("replaying", done, total))
    )
    for finding in found.findings:
        note(f"finding: {finding}")
    if found.drifts:
        drifts = [(d.step, f"{d.absolute:.2e}", f"{d.relative:.2e}") for d in found.drifts]
        write_rows(pd.DataFrame(drifts, columns=["checkpoint", "absolute", "relative"]), "table", None, {})
    typer.echo(found.words)
    files, replayed = found.meaning
    for line in (files, sign.vouched(opened.path, key), replayed):
        note(f"  {line}")
    raise typer.Exit(0 if found.sound else 1)


@app.command(
    epilog=epilog(
        "aa effects my_run --by stage --mean",
        "aa effects my_run --by step --examples 0,1,5-9 --mean --format csv -o steps.csv",
    )
)
def effects(
    run: Run,
    by: Annotated[Literal["stage", "step"], typer.Option(help="Unit of the training to attribute to.")] = "stage",
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    mean: Annotated[bool, typer.Option("--mean", help="The mean over the examples, as one value.")] = False,
    method: MethodOption = None,
    curvature: Annotated[
        Curvature | None,
        typer.Option(
            help="How a change is propagated through later steps.",
            show_default="as calibrated, else exact; ggn where only checkpoints are known",
        ),
    ] = None,
    readout: Annotated[
        Readout | None,
        typer.Option(
            help="How a change of parameters becomes one of performance.",
            show_default="as calibrated, else linear; displaced where only checkpoints are known",
        ),
    ] = None,
    semantics: SemanticsOption = "freeze",
    bounds: Annotated[
        bool, typer.Option("--bounds", help="Also bound the error of every stage's mean effect: some more replays.")
    ] = False,
    problem: ProblemOption = None,
    format: FormatOption = None,
    output: Output = None,
) -> None:
    """How much each stage or step of the training helped: estimates. Steps cost one sweep per value: use --mean."""
    opened = open_any_told(run)
    judged = run_performance(opened, performance, rows(examples))
    judged = judged.mean() if mean else judged
    meter = Meter()
    common: dict[str, Any] = {"semantics": semantics, "progress": partial(meter, "attributing")}
    if bounds and (by, method or "boundary", readout or "linear", semantics) != (
        "stage",
        "boundary",
        "linear",
        "freeze",
    ):
        raise typer.BadParameter("only for stages, boundary, linear, freeze", param_hint="--bounds")
    if by == "step" and (method or "boundary", readout or "linear") != ("boundary", "linear"):
        raise typer.BadParameter("steps have one method and readout", param_hint="--method, --readout")
    if isinstance(opened, CheckpointRun):
        common |= {"by": by, "method": method, "curvature": curvature, "readout": readout}
        found = checkpoints.effects(opened, problem_of(opened, problem), judged, **common)
    elif by == "step":
        found = step_effects(opened, problem_of(opened, problem), judged, curvature=curvature or "exact", **common)
    else:
        common |= {"method": method or ("boundary" if bounds else None), "curvature": curvature, "readout": readout}
        found = stage_effects(opened, problem_of(opened, problem), judged, **common)
    if not isinstance(opened, CheckpointRun):
        found = with_calibration(found, opened, performance)
    if bounds:
        found = with_remainders(found, opened, problem_of(opened, problem), judged, common["progress"])
    _write_effects(found, format, output)


def _write_effects(found: Attribution, format: Format | None, output: Path | None) -> None:
    about = {"provenance": found.provenance, "reliability": found.reliability.to_dict()}
    write_rows(found.to_frame(), format, output, about)
    asked = found.provenance
    how = ", ".join(asked[name] for name in ("semantics", "method", "curvature", "readout"))
    note(f"{asked['performance']} in {found.unit}, n = {asked['n']}; {asked['sign']}; {how}")
    note(found.reliability.words)
    small = found.within_noise()
    if small is not None and bool(small.any()):
        note(f"{int(small.sum())} of {small.numel()} effects are within noise: retraining itself moves as much")
    for bound in found.reliability.remainders:
        note(bound.words)


@app.command(
    epilog=epilog(
        'aa whatif my_run --skip "stage two"',
        "aa whatif my_run --skip a --skip b --format json -o ab.json",
        "aa whatif my_run --skip a --scale 0.5",
        "aa whatif my_run --steps 40:60",
        "aa whatif my_run --change finetune:lr=0.5x --change finetune:momentum=0.8",
        'aa whatif my_run --change "finetune:lr=cosine 0.1 to 0"',
        "aa whatif my_run --without-example 3,7-9",
        "aa whatif my_run --each                              # every stage by itself",
        "aa whatif my_run --each --executor ray               # as a fleet on a Ray cluster",
    )
)
def whatif(
    run: Run,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="A stage to train without; repeat it for several at once.")
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Option(metavar="A:B", help="Steps A to B - 1 to train without, or one step; repeatable."),
    ] = None,
    without_example: Annotated[
        str | None, typer.Option(metavar="ROWS", help="Training examples to leave out wherever they were used: 3,7-9.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE:NAME=HOW",
            help="Other hyperparameters in a stage (or NAME=HOW in --steps): lr=0.5x, momentum=0.8, "
            "'lr=0.1 to 0', 'lr=cosine 0.1 to 0'.",
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Scale what is named by this factor instead of leaving it out.")
    ] = None,
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    curvature: CurvatureOption = None,
    readout: ReadoutOption = None,
    semantics: SemanticsOption = "freeze",
    each: EachOption = False,
    executor: ExecutorOption = "here",
    address: AddressOption = None,
    problem: ProblemOption = None,
    format: FormatOption = None,
    output: Output = None,
) -> None:
    """Train again with something changed, and compare with the estimate. Runs here and now."""
    asked = (skip or (), steps or (), without_example, change or (), scale, semantics)
    questions = [] if each else [counterfactual(*asked)]
    opened = open_told(run)
    if each:
        questions = separately(opened, skip or (), steps or (), semantics, rest=(without_example, change, scale))
    specs = [
        whatif_spec(opened, what, performance, rows(examples), readout=readout, curvature=curvature, problem=problem)
        for what in questions
    ]
    if each or executor == "ray":
        write_rows(answers(specs, executor, address), format, output, {"run": opened.digest, "sign": SIGN})
        return
    (spec,) = specs
    found = perform(spec, Meter())
    result = found.result
    if format is None and output is None:
        typer.echo(_whatif_text(result), nl=False)
    else:
        write_rows(found.tables["examples"], format, output, result)
    if result["reliability"]:
        note(result["reliability"]["words"])


def _whatif_text(found: dict[str, Any]) -> str:
    agreed = ", ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in found["agreement"].items() if k != "n" and v == v)
    return "".join(
        f"{name:<20} {visible(value)}\n"
        for name, value in {
            "what if": f"{found['counterfactual']} ({found['semantics']})",
            "performance": f"{found['performance']}, {found['unit']}, mean over n = {found['n']}",
            "recorded": f"{found['mean_recorded']:.6g}",
            "retrained": f"{found['mean_retrained']:.6g}  ({found['steps_replayed']} steps, {found['seconds']:.1f} s)",
            "effect, estimated": f"{found['mean_estimate']:+.6g}"
            if found["reliability"]
            else "none: it changes in steps",
            "effect, retrained": f"{found['mean_truth']:+.6g}  (positive = training as recorded did better)",
            "agreement": agreed or "not defined (no estimate, or fewer than 3 examples)",
        }.items()
    )


@app.command(epilog=epilog("aa jobs", "aa jobs --format csv"))
def jobs(format: Annotated[Format, typer.Option("--format", help="How to print them.")] = "table") -> None:
    """All jobs of this machine's workspace, newest first."""
    listed = [(j.id, j.status, j.spec.kind, _share(j.progress), j.spec.run, j.error or "") for j in all_jobs()]
    frame = pd.DataFrame(listed, columns=["id", "status", "kind", "progress", "run", "error"])
    if frame.empty:
        note("no jobs yet; the dashboard starts them")
    write_rows(frame, format, None, {})


def _share(progress: Any) -> str:
    return "" if progress is None else f"{progress.phase} {progress.done}/{progress.total}"


app.add_typer(reports, name="report")
app.add_typer(ledger, name="findings")
app.add_typer(log, name="log")


@app.command(
    epilog=epilog(
        "aa dashboard",
        "aa dashboard my_runs --port 8600 --no-browser",
        "aa dashboard my_runs --address 0.0.0.0 --access access.toml --no-browser",
    )
)
def dashboard(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUNS_DIR", help="Folders with runs; else the sample runs.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    address: Annotated[str, typer.Option(help="Network address to listen on; another one needs --access.")] = HOST,
    access: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Who signs in where, and as what: people sign in, on any address."),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    problem: ProblemOption = None,
) -> None:
    """Explore runs in a browser, on this machine only; with --access also for others, who sign in."""
    at = reach(address, access)
    server = prepare(port, folders or [], problem, at, f"--server.headless={str(no_browser).lower()}")
    note(f"the dashboard is at {server.url} (Ctrl-C ends it, jobs go on)")
    for job in resume_dead():
        note(f"job {job.id} was interrupted; it goes on")
    become(server)


sign.register(app)
archive.register(app)
remote.register(app)
experiment.register(app)


def main() -> None:
    """The `aa` command. AA_DEBUG=1 shows the traceback of an error that was not foreseen."""
    try:
        app(prog_name="aa")
    except Exception as error:
        if os.environ.get("AA_DEBUG"):
            raise
        note(f"error: {unforeseen(error)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
