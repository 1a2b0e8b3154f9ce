"""The ledger of findings: what an auditor claims of a run, what each claim rests on, and who answers for it."""

from aa_core.findings.entries import Added, Checked, Evidence, Signature
from aa_core.findings.finding import (
    Finding,
    add,
    changes,
    check,
    evidence_fields,
    evidence_of,
    find_finding,
    findings,
    judged,
    question,
    sign,
)
from aa_core.findings.ledger import Ledger, ledger_path, read_ledger
from aa_core.findings.rule import RULES, Judgement, judge

__all__ = [
    "RULES",
    "Added",
    "Checked",
    "Evidence",
    "Finding",
    "Judgement",
    "Ledger",
    "Signature",
    "add",
    "changes",
    "check",
    "evidence_fields",
    "evidence_of",
    "find_finding",
    "findings",
    "judge",
    "judged",
    "ledger_path",
    "question",
    "read_ledger",
    "sign",
]
