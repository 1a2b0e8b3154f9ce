"""Where this machine keeps what it computed: caches, jobs, reports. Never inside a recorded run."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs  # the field's way to find a user's data folder on each system


def workspace() -> Path:
    """$AA_WORKSPACE, or the user's data folder."""
    chosen = os.environ.get("AA_WORKSPACE")
    path = Path(chosen) if chosen else platformdirs.user_data_path("accountability-audit")
    path.mkdir(parents=True, exist_ok=True)
    return path
