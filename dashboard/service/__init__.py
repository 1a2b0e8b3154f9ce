"""The dashboard's door to the engine: asks for plain values, answers with tables. Computes each thing once.

What needs no torch is in `dashboard.light`.

engine      the lock and the memo                 runs         which runs there are
desk        what a run is, without an estimate    estimates    effects of stages and steps, predictions
retraining  what-ifs as jobs                      reports      a selection as a report
ledger      findings: pinned, checked, signed     experiments  results that ship, beside real retraining
people      who asks, and what they may do        acts         jobs, started and stopped by who may
"""

from aa_core.confidence.calibration import Calibration
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.jobs import Job, JobSpec, find
from aa_core.reporting.about import About
from aa_core.reporting.model import Report
from dashboard.service import (
    acts,
    checking,
    compare,
    estimates,
    experiments,
    groups,
    ledger,
    people,
    retraining,
    slices,
)
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress
from dashboard.service.estimates import Belief, Effects, Prediction
from dashboard.service.reports import exporting, formats, report_of
from dashboard.service.runs import RunEntry, is_current, list_runs
from dashboard.service.shown import parts
from dashboard.service.work import Waiting

__all__ = [
    "About",
    "Belief",
    "Calibration",
    "Counterfactual",
    "Desk",
    "Effects",
    "Job",
    "JobSpec",
    "Prediction",
    "Progress",
    "Report",
    "RunEntry",
    "Waiting",
    "acts",
    "checking",
    "compare",
    "estimates",
    "experiments",
    "exporting",
    "find",
    "formats",
    "groups",
    "is_current",
    "ledger",
    "list_runs",
    "parts",
    "people",
    "report_of",
    "retraining",
    "slices",
]
