"""`aa experiment NAME`: record, attribute, retrain without every stage, and write down what was found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from aa_core.confidence.calibration import BESIDE_A_RUN
from aa_core.errors import RequestError
from aa_core.registry import load_problem
from sample_runs.experiment.measure import measure
from sample_runs.experiment.page import write_page
from sample_runs.experiment.plan import Case, Plan, read_plan
from sample_runs.experiment.record import record, script
from sample_runs.experiment.results import RESULTS, Results, Trained, read_results, write_results
from sample_runs.loaders import DataError
from sample_runs.machine import machine

DATA = "AA_DATA"
"""Environment variable with the folder of the data sets."""
RUNS = "runs"

Say = Callable[[str], None]


def run_experiment(
    name: str,
    *,
    data: Path | None = None,
    seeds: int | None = None,
    cases: Sequence[str] = (),
    resume: bool = False,
    out: Path | None = None,
    say: Say = print,
) -> Path:
    """Do the experiment and return the page with its results.

    Args:
        data: folder with the data sets; $AA_DATA by default.
        seeds: only the first so many.
        cases: only these are measured anew; what `out` already has of the others stays.
        resume: what `out` already has stays, whatever it is of; after an interruption only the rest is measured.
        out: by default results/NAME here. Gets results.json, the page, its pictures, and runs/, one a case and seed.

    Raises:
        DataError: the data are not there. RequestError: no such experiment or case.
    """
    plan = read_plan(name)
    folder = out or Path("results") / name
    wanted = [plan.case(c) for c in cases] or list(plan.cases)
    chosen = plan.seeds[:seeds]
    if not chosen:
        raise RequestError(f"seeds={seeds}; expected 1 to {len(plan.seeds)}")
    source = data_folder(data)
    done = {(t.case, t.seed): t for t in (_before(folder) if cases or resume else ())}
    for case in wanted:
        for seed in chosen:
            if resume and (case.name, seed) in done:
                continue
            say(f"{name}: {case.name}, seed {seed}")
            try:
                done[case.name, seed] = _one(name, plan, case, seed, source, folder)
            except DataError as error:
                if cases or not case.optional:
                    raise
                say(f"left out: {error}")
                continue
            _write(name, plan, done, folder)
    return write_page(plan, read_results(folder / RESULTS), folder)


def data_folder(chosen: Path | None) -> Path:
    """The folder of the data sets: as chosen, else $AA_DATA."""
    named = os.environ.get(DATA)
    if chosen is None and not named:
        raise DataError(f"where are the data? Give their folder: --data DIR, or set {DATA}")
    return chosen or Path(named or "")


def place_of(folder: Path, case: Case, seed: int) -> Path:
    """Where a run of an experiment and its calibration lie."""
    return folder / RUNS / f"{case.name}, seed {seed}"


def _one(name: str, plan: Plan, case: Case, seed: int, data: Path, folder: Path) -> Trained:
    """Record and measure one case with one seed; the calibration lies beside the run."""
    place = place_of(folder, case, seed)
    title = f"{plan.title} {case.name}, seed {seed}"
    run = record(place / "run", case, script(name)(case, seed, data), seed, title)
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    found = measure(run, problem, case, seed)
    (place / BESIDE_A_RUN).write_bytes(found.calibration.to_bytes())
    return found.trained


def _before(folder: Path) -> tuple[Trained, ...]:
    return read_results(folder / RESULTS).trained if (folder / RESULTS).is_file() else ()


def _write(name: str, plan: Plan, done: dict[tuple[str, int], Trained], folder: Path) -> None:
    """What is known so far, in the order of the plan."""
    order = {c.name: i for i, c in enumerate(plan.cases)}
    known = sorted((t for t in done.values() if t.case in order), key=lambda t: (order[t.case], t.seed))
    found = Results(experiment=name, date=datetime.now(UTC).date().isoformat(), machine=machine(), trained=tuple(known))
    write_results(found, folder / RESULTS)
