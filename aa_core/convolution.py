"""Convolutions whose second derivative costs what it must: torch's own computes more, and by slower kernels.

torch differentiates the backward pass of a convolution in its input, too, where nobody asked (pictures, in the first
layer), and in the weight by a dilated convolution, for which CPUs have no fast kernel. A convolution is linear in its
input and in its weight, so every derivative of it is a convolution, or the backward pass of one. Values and gradients
stay the same to the bit: the same kernels compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

SMALL = 2**16
"""Elements of an input up to which torch's own second derivative costs no more than the calls that replace it, but for
a first layer."""

_BOTH = ("input", "weight", "bias", "stride", "padding")
_ORDERS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), (*_BOTH, "dilation", "groups")),
    **dict.fromkeys(
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        (*_BOTH, "output_padding", "groups", "dilation"),
    ),
}
"""The arguments of each convolution, in order."""
_SPATIAL = ("stride", "padding", "dilation", "output_padding")
_NOT_GIVEN = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1}


class Geometry(NamedTuple):
    """How a kernel is moved, one number a spatial dimension, in the order that torch.convolution takes."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


class Convolutions(TorchFunctionMode):
    """Inside, convolutions have the second derivative of this module.

    Small ones, those under autocast, with padding by name or of one example without a batch stay torch's, which are
    right, too. For reverse mode only: forward mode and torch.func know torch's own.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, order = kwargs or {}, _ORDERS.get(func)
        if order is None:
            return func(*args, **kwargs)
        call = dict(zip(order, args, strict=False)) | kwargs
        understood = len(call) == len(args) + len(kwargs) and call.keys() <= set(order)
        if not understood or not _is_ours(call):
            return func(*args, **kwargs)
        weight, moved = call["weight"], _NOT_GIVEN | call
        stride, padding, dilation, more = (_each(moved[name], weight) for name in _SPATIAL)
        geometry = Geometry(stride, padding, dilation, "output_padding" in order, more, moved["groups"])
        return _Convolution.apply(call["input"], weight, call.get("bias"), geometry)


def _is_ours(call: dict[str, Any]) -> bool:
    input, weight = call.get("input"), call.get("weight")
    if input is None or weight is None or isinstance(call.get("padding"), str):
        return False
    pays = input.numel() > SMALL or not input.requires_grad
    batched = input.dim() == weight.dim() and input.numel() > 0
    return pays and batched and weight.is_floating_point() and not torch.is_autocast_enabled(weight.device.type)


def _each(number: int | Sequence[int], weight: Tensor) -> list[int]:
    """One for each spatial dimension."""
    dims = weight.dim() - 2
    return [number] * dims if isinstance(number, int) else list(number) * (dims if len(number) == 1 else 1)


class _Convolution(Function):
    """y = x * w + b, bilinear in x and w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.bias = geometry, None if b is None else list(b.shape)
        return torch.convolution(x, w, b, *geometry)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return *_Backward.apply(slope, x, w, ctx.geometry, ctx.bias, ctx.needs_input_grad[:3]), None


class _Backward(Function):
    """The gradients in x, w and b for the gradient g in y: linear in g, the first in w, the second in x."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, bias: list[int] | None, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.geometry = geometry
        return _pull(g, x, w, geometry, wanted, bias)

    @staticmethod
    def backward(ctx: Any, of_x: Tensor | None, of_w: Tensor | None, of_b: Tensor | None) -> Any:
        """From what is asked of the three gradients, each in the shape of x, w and b."""
        g, x, w = ctx.saved_tensors
        in_g, in_x, in_w = ctx.needs_input_grad[:3]
        geometry, parts = ctx.geometry, []
        if in_g and of_x is not None:
            parts.append(torch.convolution(of_x, w, None, *geometry))
        if in_g and of_w is not None:
            parts.append(torch.convolution(x, of_w, of_b, *geometry))
        elif in_g and of_b is not None:
            parts.append(of_b.reshape(-1, *[1] * (g.dim() - 2)).expand_as(g))
        in_slope = sum(parts[1:], start=parts[0]) if parts else None
        in_input = _pull(g, x, of_w, geometry, (True, False, False))[0] if in_x and of_w is not None else None
        in_weight = _pull(g, of_x, w, geometry, (False, True, False))[1] if in_w and of_x is not None else None
        return in_slope, in_input, in_weight, None, None, None


def _pull(
    g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: Sequence[bool], bias: list[int] | None = None
) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward.default(g, x, w, bias, *geometry, list(wanted))
