"""The JSON Schema of a run's JSON files, from the models that read them: python -m aa_core.runs.run_schema FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic.json_schema import models_json_schema

from aa_core.runs.header import FORMAT, VERSION, Commit, Header
from aa_core.runs.journal import CommitUnderway, StepLine


def run_schema() -> str:
    """One schema with a definition a file: Header (run.json), Commit (log/*.json), and those of the journal."""
    _, schema = models_json_schema([(model, "validation") for model in (Header, Commit, StepLine, CommitUnderway)])
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{FORMAT}, version {VERSION}",
        "description": "run.json: Header; log/*.json: Commit; a line of journal/*.jsonl: a digest and a StepLine or a "
        "Following; journal/*.json: CommitUnderway",
    }
    return json.dumps(about | schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(run_schema(), "utf-8")
