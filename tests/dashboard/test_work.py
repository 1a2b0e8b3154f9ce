"""What is light enough for a page is counted as torch counts it, without torch's compiler being imported for that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dashboard.service.work import Arithmetic
from tests.zoo import MODELS, examples

ALONE = """
import sys, torch
from dashboard.service.work import Arithmetic
with Arithmetic() as counted:
    torch.nn.Linear(3, 2)(torch.zeros(5, 3))
assert counted.flops == 2 * 5 * 3 * 2
assert "torch._dynamo" not in sys.modules
"""


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


@pytest.mark.parametrize("make", [*MODELS.values(), convolutional], ids=[*MODELS, "convolutional"])
def test_it_counts_what_torch_counts(make: Callable[[], nn.Module]) -> None:
    model = make()
    inputs = torch.zeros(5, 1, 8, 8) if make is convolutional else examples(5, 0, torch.float32)[0]
    with Arithmetic() as counted, torch.no_grad():
        model(inputs)
    with FlopCounterMode(display=False) as expected, torch.no_grad():
        model(inputs)
    assert counted.flops == expected.get_total_flops() > 0


def test_it_does_not_import_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", ALONE], check=True)
