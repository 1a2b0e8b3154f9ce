"""What figures were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor and versions, as far as the system tells."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, 1 thread; Python {platform.python_version()}, torch {torch.__version__}"
