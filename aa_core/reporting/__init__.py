"""Reports: one frozen value, written as one offline page, canonical JSON, tables, or all of them in a zip."""

from aa_core.reporting.about import About, Signature, read_about
from aa_core.reporting.escape import safe_cell
from aa_core.reporting.figures import agreement_scatter, compare_bars, stage_bars, stage_timeline, step_bars
from aa_core.reporting.files import to_zip, write_report
from aa_core.reporting.html import to_html
from aa_core.reporting.model import Report, json_schema, read_report, to_json
from aa_core.reporting.pdf import to_pdf
from aa_core.reporting.report import Context, build_report, report_from, stated
from aa_core.reporting.tables import to_csv, to_frames
from aa_core.reporting.verify import verify_file

__all__ = [
    "About",
    "Context",
    "Report",
    "Signature",
    "agreement_scatter",
    "build_report",
    "compare_bars",
    "json_schema",
    "read_about",
    "read_report",
    "report_from",
    "safe_cell",
    "stage_bars",
    "stage_timeline",
    "stated",
    "step_bars",
    "to_csv",
    "to_frames",
    "to_html",
    "to_json",
    "to_pdf",
    "to_zip",
    "verify_file",
    "write_report",
]
