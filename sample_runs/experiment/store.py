"""`python -m sample_runs.experiment.store NAME FOLDER`: take over what `aa experiment NAME -o FOLDER` left there.

The results, and the run that the plan ships with its calibration, come to lie in sample_runs/NAME.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from aa_core.confidence.calibration import BESIDE_A_RUN
from aa_core.errors import RequestError
from sample_runs.experiment.command import place_of
from sample_runs.experiment.plan import ROOT, read_plan
from sample_runs.experiment.results import RESULTS, read_results, results_path

LARGEST = 3_000_000
"""Bytes of a run that ships."""


def store(name: str, folder: Path, root: Path = ROOT) -> Path:
    """Copy results and shipped run into sample_runs/NAME; RequestError if the run is too large to ship."""
    plan = read_plan(name, root)
    place = place_of(folder, plan.case(plan.shipped), plan.seeds[0])
    read_results(folder / RESULTS)
    size = sum(file.stat().st_size for file in (place / "run").rglob("*") if file.is_file())
    if not 0 < size < LARGEST:
        raise RequestError(f"{place}: the run to ship has {size:,} bytes, expected 1 to {LARGEST:,}")
    target = results_path(name, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / RESULTS, target)
    shutil.rmtree(root / name / "run", ignore_errors=True)
    shutil.copytree(place / "run", root / name / "run", ignore=shutil.ignore_patterns(".lock"))
    shutil.copyfile(place / BESIDE_A_RUN, root / name / BESIDE_A_RUN)
    return root / name


if __name__ == "__main__":
    print(store(sys.argv[1], Path(sys.argv[2])))
