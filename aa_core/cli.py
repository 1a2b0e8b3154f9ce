"""The command line: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from aa_core.check import check_files, check_run
from aa_core.checkpoints_only.checkpoints import CheckpointRun
from aa_core.commands import archive, calibrate, checkpoints, dashboard, effects, experiment, remote, sign, whatif
from aa_core.commands.base import Commands, ProblemOption, epilog
from aa_core.commands.console import Format, Meter, note, write_rows
from aa_core.commands.findings import ledger
from aa_core.commands.log import log
from aa_core.commands.options import Run, open_any_told, problem_of
from aa_core.commands.report import reports
from aa_core.jobs import all_jobs
from aa_core.reporting.escape import shorten, visible
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
    header, evaluation, machine, bad = run.header, run.evaluation, run.environment, run.first_nonfinite
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    return {
        "title": run.title or "(none)",
        "digest": run.digest,
        "state": "sealed" if run.sealed else "not sealed: still recording, or interrupted",
        "created": header.created,
        "problem": header.problem.name or "(none: name one with --problem)",
        "model": f"{header.model_class}, {len(header.parameters)} parameter tensors, loss {header.loss}",
        "optimizer": run.optimizer,
        "steps": run.steps,
        **({} if bad is None else {"not finite": f"from step {bad} on: nothing can be attributed across it"}),
        "checkpoints": f"{len(run.checkpoints)}, before steps {shorten(', '.join(map(str, run.checkpoints)), 60)}",
        "evaluation": f"{len(evaluation)} examples" if evaluation else "(none)",
        "recorded on": f"{machine.device}, {machine.cpu or 'processor unknown'}, {threads}, torch {machine.torch}, "
        f"Python {machine.python}",
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


effects.register(app)
calibrate.register(app)
whatif.register(app)


@app.command(epilog=epilog("aa jobs", "aa jobs --format csv"))
def jobs(format: Annotated[Format, typer.Option("--format", help="How to print them.")] = "table") -> None:
    """All jobs of this machine's workspace, newest first."""
    listed = [(j.id, j.status, j.spec.kind, _share(j.progress), j.spec.run, j.error or "") for j in all_jobs()]
    frame = pd.DataFrame(listed, columns=["id", "status", "kind", "progress", "run", "error"])
    if frame.empty:
        note("no jobs yet; the dashboard, aa whatif and aa calibrate make them")
    write_rows(frame, format, None, {})


def _share(progress: Any) -> str:
    return "" if progress is None else f"{progress.phase} {progress.done}/{progress.total}"


app.add_typer(reports, name="report")
app.add_typer(ledger, name="findings")
app.add_typer(log, name="log")


dashboard.register(app)
sign.register(app)
archive.register(app)
remote.register(app)
experiment.register(app)
