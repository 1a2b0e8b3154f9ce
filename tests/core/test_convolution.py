"""Convolutions in derivatives: torch's values and gradients to the bit, its second derivatives, no pass too many."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import aa_core as aa
from aa_core import convolution
from aa_core.convolution import Convolutions
from aa_core.curvature import gradient_and_curvature, pull_back
from aa_core.records import Batch, StepInput
from aa_core.state import Snapshot, State

KINDS = {
    "plain": (lambda x, w, b: functional.conv2d(x, w, b), (3, 4, 6, 6), (5, 4, 3, 3), 5),
    "strided, padded": (lambda x, w, b: functional.conv2d(x, w, b, 2, 1), (3, 4, 7, 6), (5, 4, 3, 3), 5),
    "dilated": (
        lambda x, w, b: functional.conv2d(x, w, b, (1, 2), (2, 0), dilation=(2, 1)),
        (2, 4, 7, 7),
        (5, 4, 3, 3),
        5,
    ),
    "in groups": (lambda x, w, b: functional.conv2d(x, w, b, padding=1, groups=2), (3, 4, 5, 5), (6, 2, 3, 3), 6),
    "by depth": (lambda x, w, b: functional.conv2d(x, w, b, groups=4), (3, 4, 5, 5), (4, 1, 3, 3), 4),
    "one number in a list": (lambda x, w, b: functional.conv2d(x, w, b, [2], [1]), (3, 4, 5, 5), (5, 4, 3, 3), 5),
    "by name": (lambda x, w, b: functional.conv2d(input=x, weight=w, bias=b, stride=2), (3, 4, 5, 5), (5, 4, 3, 3), 5),
    "1d": (lambda x, w, b: functional.conv1d(x, w, b, 2, 1), (3, 4, 9), (5, 4, 3), 5),
    "3d": (lambda x, w, b: functional.conv3d(x, w, b, padding=1), (2, 3, 4, 4, 4), (4, 3, 3, 3, 3), 4),
    "transposed": (lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1, 1), (3, 4, 4, 4), (4, 5, 3, 3), 5),
    "transposed, 1d": (
        lambda x, w, b: functional.conv_transpose1d(x, w, b, 3, groups=2, dilation=2),
        (3, 4, 5),
        (4, 3, 3),
        6,
    ),
    "same": (lambda x, w, b: functional.conv2d(x, w, b, padding="same"), (3, 4, 5, 5), (5, 4, 3, 3), 5),
    "no batch": (lambda x, w, b: functional.conv2d(x, w, b), (4, 5, 5), (5, 4, 3, 3), 5),
    "no examples": (lambda x, w, b: functional.conv2d(x, w, b), (0, 4, 5, 5), (5, 4, 3, 3), 5),
}


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "SMALL", 0)


TORCHS = {"same", "no batch", "no examples"}
"""Kinds that stay torch's own."""
CASES = pytest.mark.parametrize("kind", list(KINDS))


def _is_ours(outputs: Tensor) -> bool:
    return outputs.grad_fn is not None and outputs.grad_fn.name() == "_ConvolutionBackward"


def _leaves(kind: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    _, x, w, b = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=dtype, generator=generator).requires_grad_() for s in (x, w, (b,))]


def _slopes(kind: str, leaves: list[Tensor], asked: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(KINDS[kind][0](*leaves).sin().sum(), asked, create_graph=True)


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_torchs_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    leaves = _leaves(kind, dtype)
    expected = KINDS[kind][0](*leaves), *_slopes(kind, leaves, leaves)
    with Convolutions():
        found = KINDS[kind][0](*leaves), *_slopes(kind, leaves, leaves)
    assert _is_ours(found[0]) is (kind not in TORCHS) and not _is_ours(expected[0])
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(found, expected, strict=True))


@CASES
@pytest.mark.parametrize("asked", [(0, 1, 2), (1, 2), (1,), (0,), (2,)], ids=str)
@pytest.mark.parametrize("rays", [1, 3])
def test_second_derivatives_are_torchs(kind: str, asked: tuple[int, ...], rays: int) -> None:
    leaves = _leaves(kind)
    for i in {0, 1, 2} - set(asked):
        leaves[i] = leaves[i].detach()
    wanted = [leaves[i] for i in asked]
    vectors = [torch.randn(rays, *t.shape, dtype=t.dtype) for t in wanted]
    expected = pull_back(_slopes(kind, leaves, wanted), wanted, vectors)
    with Convolutions():
        slopes = _slopes(kind, leaves, wanted)
    for a, b in zip(pull_back(slopes, wanted, vectors), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["strided, padded", "in groups", "transposed", "1d"])
def test_derivatives_are_those_of_finite_differences(kind: str) -> None:
    def ours(*leaves: Tensor) -> Tensor:
        with Convolutions():
            return KINDS[kind][0](*leaves).sin()

    assert torch.autograd.gradcheck(ours, _leaves(kind))
    assert torch.autograd.gradgradcheck(ours, _leaves(kind))


@pytest.mark.parametrize("asked", [(0,), (1,), (2,)], ids=["x", "w", "b"])
def test_one_gradient_of_three_may_be_differentiated_by_itself(asked: tuple[int, ...]) -> None:
    kind, leaves = "strided, padded", _leaves("strided, padded")
    picked = [_slopes(kind, leaves, leaves)[i] for i in asked]
    vectors = [torch.randn_like(t) for t in picked]
    expected = torch.autograd.grad(picked, leaves, vectors, allow_unused=True)
    with Convolutions():
        picked = [_slopes(kind, leaves, leaves)[i] for i in asked]
    for a, b in zip(torch.autograd.grad(picked, leaves, vectors, allow_unused=True), expected, strict=True):
        torch.testing.assert_close(
            torch.zeros(()) if a is None else a, torch.zeros(()) if b is None else b, atol=1e-11, rtol=1e-9
        )


class _Counted(TorchDispatchMode):
    """How often convolutions are computed, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_product_takes_no_pass_through_the_inputs_of_the_first_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(80, 4))
    problem = aa.Problem(model, functional.cross_entropy, device="cpu")
    params = {n: p.detach() for n, p in problem.model.named_parameters()}
    at = Snapshot(0, State(params, {}, torch.zeros(1, dtype=torch.float64)), {})
    batch = Batch(torch.randn(6, 3, 8, 8), torch.arange(6) % 4)
    grads, _, product = gradient_and_curvature(problem, at, StepInput(0, (), ((batch, 1.0),), True), "exact")
    assert len(grads) == len(params)
    with _Counted() as counted:
        product([torch.randn(1, *p.shape) for p in params.values()])
    # Forward: the input by v in both layers, the tangent by the weight in the second. Backward: the first layer's once,
    # for its weight; in the second those of v, of the tangent, and of what comes back.
    assert (counted.calls["convolution"], counted.calls["convolution_backward"]) == (3, 4)


@pytest.mark.parametrize(("examples", "pictures", "ours"), [(1, True, True), (1, False, False), (3, False, True)])
def test_torchs_own_serves_where_it_costs_no_more(
    monkeypatch: pytest.MonkeyPatch, examples: int, pictures: bool, ours: bool
) -> None:
    monkeypatch.setattr(convolution, "SMALL", 100)
    x, w = torch.randn(examples, 1, 10, 10, requires_grad=not pictures), torch.randn(2, 1, 3, 3, requires_grad=True)
    with Convolutions():
        assert _is_ours(functional.conv2d(x, w)) is ours


@pytest.mark.parametrize(
    ("args", "named"),
    [((1, 0, 1, 1, 1), {}), ((1,), {"stride": 1}), ((), {"strides": 2}), ((), {"input": torch.zeros(1)})],
    ids=["one too many", "given twice", "unknown", "input twice"],
)
def test_a_wrong_call_is_refused_as_torch_refuses_it(args: tuple[int, ...], named: dict[str, Any]) -> None:
    x, w, b = _leaves("plain")
    with pytest.raises(TypeError) as expected:
        functional.conv2d(x, w, b, *args, **named)
    with Convolutions(), pytest.raises(TypeError) as found:
        functional.conv2d(x, w, b, *args, **named)
    assert str(found.value) == str(expected.value)


def test_a_convolution_under_autocast_is_torchs() -> None:
    leaves = _leaves("plain", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = KINDS["plain"][0](*leaves)
        with Convolutions():
            found = KINDS["plain"][0](*leaves)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)
    assert not _is_ours(found)
