"""What travels with a run without being part of it: calibrations, each in a file that is named by its digest.

The run's own digest does not pin them: anybody can add one to a run that is not theirs, so they are shown as a claim.
"""

from __future__ import annotations

import hashlib
import re

from aa_core.errors import RunFormatError
from aa_core.runs.header import read_json

FOLDER = "calibrations"
NAME = re.compile(rf"{FOLDER}/([0-9a-f]{{64}})\.json", re.ASCII)
MAX_BYTES, MAX_FILES = 4 * 2**20, 64


def name_of(data: bytes) -> str:
    """Where it lies in the folder, archive or address of a run."""
    return f"{FOLDER}/{hashlib.sha256(data).hexdigest()}.json"


def check_attached(name: str, data: bytes, digest: str) -> None:
    """RunFormatError unless it has the digest that its name says, and claims to be of the run with this digest."""
    if len(data) > MAX_BYTES:
        raise RunFormatError(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read")
    if name != name_of(data):
        raise RunFormatError(f"{name}: was changed since it was packed, now it would be {name_of(data)}")
    content = read_json(data, name)
    claimed = content.get("run") if isinstance(content, dict) else None
    if claimed != digest:
        raise RunFormatError(f"{name}: about run {str(claimed)[:64]!r}, expected one about this run, {digest}")
