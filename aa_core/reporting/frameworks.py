"""Where the record-keeping texts of the field find in a report what they ask for. A map, not a claim of conformity."""

from __future__ import annotations

from typing import NamedTuple

AI_ACT, NIST, ISO = "EU AI Act (2024/1689)", "NIST AI RMF 1.0", "ISO/IEC 42001:2023"
CARDS, AUDIT = "Model cards (Mitchell et al. 2019)", "Audit cards (Staufer et al. 2025)"


class Asked(NamedTuple):
    """One thing that a text asks to be recorded, in our words, and where it stands."""

    text: str
    clause: str
    asks: str
    section: str


FRAMEWORKS = (
    Asked(AI_ACT, "Annex IV, 1", "intended purpose and version of the system", "Scope; The system and its training"),
    Asked(AI_ACT, "Annex IV, 2 (a, b)", "how it was developed, design choices", "The system and its training; Method"),
    Asked(AI_ACT, "Annex IV, 2 (d)", "training data and their provenance", "Data; The system and its training"),
    Asked(
        AI_ACT,
        "Annex IV, 2 (g)",
        "tests, metrics, logs and signed test reports",
        "Results; Checked by retraining; Sign-off",
    ),
    Asked(
        AI_ACT, "Annex IV, 3", "limits, and accuracy for groups of persons", "Results, by subgroup; Limits and validity"
    ),
    Asked(AI_ACT, "Annex IV, 4", "why the metrics are appropriate", "Method; How far to believe it"),
    Asked(AI_ACT, "Article 12", "automatic logs: here of the training only, not of use", "The system and its training"),
    Asked(NIST, "MEASURE 1.1", "what is measured, and what cannot be", "Scope; Limits and validity"),
    Asked(NIST, "MEASURE 1.3", "independent assessors", "Auditor and independence"),
    Asked(NIST, "MEASURE 2.1", "test sets, metrics and tools", "Data; Method; Appendix A"),
    Asked(NIST, "MEASURE 2.5", "validity, and limits of generalising", "How far to believe it; Limits and validity"),
    Asked(NIST, "MEASURE 2.8", "transparency and accountability", "Results; Findings"),
    Asked(NIST, "MEASURE 2.9", "explanation and validation of the model", "Results; Checked by retraining"),
    Asked(NIST, "MEASURE 2.11", "fairness and bias", "Results, by subgroup"),
    Asked(NIST, "MEASURE 2.13", "whether the measuring itself works", "Checked by retraining, calibration"),
    Asked(ISO, "A.6.2.3", "documentation of design and development", "The system and its training; Method"),
    Asked(ISO, "A.6.2.4", "verification and validation", "Checked by retraining; Reproduce and verify"),
    Asked(ISO, "A.6.2.7", "technical documentation", "the whole report"),
    Asked(ISO, "A.6.2.8", "event logs: here of the training", "The system and its training"),
    Asked(ISO, "A.7.5", "provenance of data", "Data; Appendix A"),
    Asked(CARDS, "model details, intended use", "what the model is, and is for", "The system and its training; Scope"),
    Asked(CARDS, "factors, metrics, analyses", "performance by group", "Results, by subgroup"),
    Asked(CARDS, "training and evaluation data", "what they are", "Data"),
    Asked(CARDS, "caveats", "what not to conclude", "Limits and validity"),
    Asked(AUDIT, "auditor identity", "who, and conflicts of interest", "Auditor and independence"),
    Asked(AUDIT, "evaluation scope", "what was and was not evaluated", "Scope"),
    Asked(AUDIT, "methodology", "how", "Method"),
    Asked(AUDIT, "resource access", "what the auditor could see and run", "Auditor and independence"),
    Asked(AUDIT, "process integrity", "what was tried, and by whom", "What was done, and when; Appendix A"),
    Asked(AUDIT, "review mechanisms", "who challenged the result", "Auditor and independence; Sign-off"),
)
