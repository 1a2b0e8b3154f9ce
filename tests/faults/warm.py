"""All that victims do, done once in the process that they are forks of: to none of them is anything new."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import torch

from aa_core.registry import load_problem
from aa_core.reporting.report import build_report
from tests.core.job_run import make
from tests.faults.victims import attribute, export, pack, retrain

torch.set_num_threads(1)  # a fork would wait for threads that it has not

with tempfile.TemporaryDirectory() as _name:
    _folder = Path(_name)
    _run, _file = make(_folder)
    _problem = f"{_file}:problem"
    for _victim in (retrain, attribute):
        _victim(_run.path, _problem, _folder)
    export(build_report(_run, load_problem(None, {}, _problem)), _folder)
    pack(_run.path, _folder)

gc.collect()
gc.freeze()  # what is never looked at again stays shared
