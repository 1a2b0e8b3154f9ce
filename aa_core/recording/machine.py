"""The machine and settings that a recording depends on: bit-exact replay is promised inside one such class."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import torch

from aa_core.runs.header import Environment


def environment(device: torch.device) -> Environment:
    """The class of this process, computing on `device`."""
    return Environment(
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        cpu=cpu(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def cpu() -> str:
    """Vendor, family, model, stepping and a digest of the features: math libraries choose their kernels by these.

    Two processors of one capability (AVX512, say) may still round differently.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    named = [facts[key] for key in ("vendor_id", "cpu family", "model", "stepping") if key in facts]
    features = " ".join(sorted((facts.get("flags") or facts.get("Features") or "").split()))
    return " ".join([*named, hashlib.sha256(features.encode()).hexdigest()[:8]])
