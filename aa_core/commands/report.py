"""`aa report`: write a report of a run, or check one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import typer
import typer.core

from aa_core import signing
from aa_core.commands.base import ProblemOption, epilog
from aa_core.commands.console import Meter, note, rows
from aa_core.commands.options import (
    ExamplesOption,
    PerformanceOption,
    Run,
    SemanticsOption,
    open_any_told,
    open_told,
    problem_of,
)
from aa_core.commands.sign import PrivateKey, SignatureOption
from aa_core.curvature import Curvature
from aa_core.effects.embedding import Method, Readout
from aa_core.reporting.about import About, read_about
from aa_core.reporting.asked import Picks
from aa_core.reporting.files import write_report
from aa_core.reporting.model import json_schema
from aa_core.reporting.report import DASHBOARD, build_report
from aa_core.reporting.surroundings import surroundings
from aa_core.reporting.verify import verify_file

PREFERRED = "By default as a stored calibration of this run prefers, else {}."


class Reports(typer.core.TyperGroup):
    """`aa report RUN` is `aa report build RUN`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["build", *args])


reports = typer.Typer(
    cls=Reports,
    help="Write a report of a run, or check one. `aa report RUN` is `aa report build RUN`.",
    short_help="Write a report of a run, or check one.",
    epilog=epilog("aa report sample_runs/digits-shift/run -o report.html", "aa report verify report.html"),
    context_settings={"ignore_unknown_options": True},
    no_args_is_help=True,
)


@reports.command(
    epilog=epilog(
        "aa report build my_run -o report.html",
        'aa report build my_run --stage "stage two" --about cover.toml -o report.zip',
    )
)
def build(
    run: Run,
    output: Annotated[Path, typer.Option("-o", "--output", help="report.html, .pdf, .json, .csv or .zip.")],
    stage: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Only these stages; repeat it for several.")
    ] = None,
    performance: PerformanceOption = "log-likelihood",
    examples: ExamplesOption = None,
    method: Annotated[Method | None, typer.Option(help=PREFERRED.format("boundary"))] = None,
    curvature: Annotated[Curvature | None, typer.Option(help=PREFERRED.format("exact"))] = None,
    readout: Annotated[Readout | None, typer.Option(help=PREFERRED.format("linear"))] = None,
    semantics: SemanticsOption = "freeze",
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Ask the same of another run, and show both side by side.")
    ] = None,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Also the effect of every step.")] = True,
    picked_by: Annotated[
        str | None,
        typer.Option(
            metavar="QUERY",
            help="How the examples were picked, as a link of the dashboard says it; is told, and picks nothing.",
        ),
    ] = None,
    about: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="What only you know: auditor, independence, purpose, sign_off, ..."),
    ] = None,
    date: Annotated[str | None, typer.Option(help="Printed as it is; without it the same input is the same file.")] = (
        None
    ),
    dashboard: Annotated[str, typer.Option(metavar="URL", help="Where the links of the figures lead.")] = DASHBOARD,
    problem: ProblemOption = None,
) -> None:
    """Attribute, and write a report. Every what-if job on this run that is over is part of it."""
    opened, other = open_any_told(run), None if against is None else open_told(against)
    context = replace(
        surroundings(opened),
        about=About() if about is None else read_about(about),
        date=date,
        dashboard=dashboard,
        picks=None if picked_by is None else Picks(query={k: tuple(v) for k, v in parse_qs(picked_by).items()}),
    )
    meter = Meter()
    made = build_report(
        opened,
        problem_of(opened, problem),
        performance=performance,
        examples=rows(examples),
        stages=stage,
        method=method,
        curvature=curvature,
        readout=readout,
        semantics=semantics,
        with_steps=steps,
        against=None if other is None else (other, problem_of(other, problem)),
        context=context,
        progress=lambda done, total: meter("attributing", done, total),
    )
    for path in write_report(made, output):
        note(f"wrote {path}")
    note(f"with {len(context.whatifs)} retraining{'s' * (len(context.whatifs) != 1)} from this machine's jobs")


File = Annotated[Path, typer.Argument(help="report.html, .pdf, .json, .csv or .zip.", show_default=False)]


@reports.command(epilog=epilog("aa report verify report.html", "aa report verify report.zip --key auditor.pub"))
def verify(
    file: File,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE.pub", help="Also check the signature, by the owner of this key.")
    ] = None,
    signature: SignatureOption = None,
) -> None:
    """Is a report as it was written, to the digit? Names the field that is not, and exits with 1."""
    if key is None and signature is not None:
        raise typer.BadParameter("a signature is checked with a key", param_hint="--key")
    verify_file(file)
    signed = "" if key is None else f", and signed by the owner of the key {signing.verify(file, key, signature)[:16]}"
    typer.echo(f"{file}: as it was written{signed}")


@reports.command(
    epilog=epilog("aa report sign report.html --key auditor.key", "aa report sign report.zip --key auditor.key")
)
def sign(file: File, key: PrivateKey, signature: SignatureOption = None) -> None:
    """Sign a report that is as it was written; the signature is a file of its own."""
    verify_file(file)
    note(f"wrote {signing.sign(file, key, signature)}")


@reports.command(epilog=epilog("aa report schema", "aa report schema > report.schema.json"))
def schema() -> None:
    """The JSON Schema of report.json."""
    typer.echo(json_schema(), nl=False)
