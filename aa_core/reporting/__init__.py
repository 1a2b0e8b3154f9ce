"""Reports: one frozen value, written as one offline page, canonical JSON, tables, or all of them in a zip."""

from aa_core.reporting.escape import safe_cell
from aa_core.reporting.figures import agreement_scatter, compare_bars, stage_bars, stage_timeline, step_bars
from aa_core.reporting.files import to_zip, verify_file, write_report
from aa_core.reporting.html import to_html
from aa_core.reporting.model import Report, read_report, to_json, verify
from aa_core.reporting.report import build_report, report_from
from aa_core.reporting.tables import to_csv, to_frames

__all__ = [
    "Report",
    "agreement_scatter",
    "build_report",
    "compare_bars",
    "read_report",
    "report_from",
    "safe_cell",
    "stage_bars",
    "stage_timeline",
    "step_bars",
    "to_csv",
    "to_frames",
    "to_html",
    "to_json",
    "to_zip",
    "verify",
    "verify_file",
    "write_report",
]
