"""Gradient of a recorded step and products with its curvature: the only second-order code.

Everything is reverse mode: the graph of the gradient is built once and shared by all products, works for every
operator that has a double backward (LSTM and plain attention included), and takes many vectors at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from aa_core.convolution import Convolutions
from aa_core.errors import RequestError, UnsupportedError
from aa_core.problem import Problem, twice_differentiable_kernels
from aa_core.records import Batch, StepInput
from aa_core.state import Buffers, Params, Snapshot
from aa_core.threads import share

Curvature = Literal["exact", "ggn", "none"]
NEAR, ALONE = 2 * 2**20, 2**18
"""Bytes of the widest tensor of several vectors that a CPU takes through a graph at once, since larger ones leave its
caches; and of a single one from which each goes alone: calls cost little then, and two can be under way at once."""
Product = Callable[[list[Tensor]], list[Tensor]]
"""[R, ...] per parameter -> [R, ...] per parameter."""


def check_curvature(kind: str) -> None:
    if kind not in get_args(Curvature):
        raise RequestError(f"curvature={kind!r}; expected one of {', '.join(get_args(Curvature))}")


def gradient(
    problem: Problem, at: Snapshot, step: StepInput, names: Collection[str] | None = None
) -> tuple[Params, Buffers]:
    """(gradient of the recorded loss, buffers after the forward passes), with the kernels that training itself used.

    In the named parameters, all of them by default. One forward and one backward per micro-batch.
    """
    wanted = at.state.params.keys() if names is None else names
    params = {n: p.detach().requires_grad_(n in wanted) for n, p in at.state.params.items()}
    buffers, total = problem.passed(params, at.buffers, step), None
    for batch, weight in step.batches:
        loss, buffers = problem.batch_loss(params, buffers, batch, training=step.training)
        part = _grad([_weighted(loss, weight, step.scale)], [params[n] for n in wanted])
        total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
    total = [torch.zeros_like(params[n]) for n in wanted] if total is None else total
    grads = problem.in_order(dict(zip(wanted, _unscaled(total, step.scale), strict=True)))
    return grads, {n: b.detach() for n, b in buffers.items()}


def gradient_and_curvature(
    problem: Problem, at: Snapshot, step: StepInput, kind: Curvature
) -> tuple[Params, Buffers, Product]:
    """(gradient, buffers after, product with the curvature of the recorded loss at this state).

    kind: "exact" = Hessian, "ggn" = generalised Gauss-Newton J^T (d2 loss / d outputs2) J, "none" = 0. Under autocast
    to float16 it is that of the same step in full precision (`in_range`), for one more forward and backward pass.
    Cost of a product: one double backward per micro-batch and vector, of as many vectors together as pay.
    """
    if kind == "none" or not step.batches:
        return *gradient(problem, at, step), lambda vectors: [torch.zeros_like(v) for v in vectors]
    if (full := in_range(problem, at, step)) is not step:
        return *gradient(problem, at, step), gradient_and_curvature(problem, at, full, kind)[2]
    params = {n: p.detach().requires_grad_() for n, p in at.state.params.items()}
    buffers, total, products = problem.passed(params, at.buffers, step), None, []
    if problem.fused_attention is None:
        problem.fused_attention = _has_fused_attention(problem, params, buffers, step)
    with twice_differentiable_kernels(), Convolutions():
        for batch, weight in step.batches:
            after = {n: b.clone() for n, b in buffers.items()}
            outputs = problem.batch_outputs(params, after, batch, training=step.training)
            loss = _weighted(problem.loss_of(outputs, batch), weight, step.scale)
            slopes = _grad([loss], list(params.values()), create_graph=True)
            check_twice_differentiable(problem, slopes)
            total = (
                [g.detach() for g in slopes]
                if total is None
                else [a + g.detach() for a, g in zip(total, slopes, strict=True)]
            )
            products.append(
                _hessian(slopes, params) if kind == "exact" else _gauss_newton(problem, outputs, loss, params)
            )
            buffers = after
    grads = problem.in_order(dict(zip(params, _unscaled(total or [], step.scale), strict=True)))

    def product(vectors: list[Tensor]) -> list[Tensor]:
        return _unscaled(_sum([p(vectors) for p in products]), step.scale)

    return grads, {n: b.detach() for n, b in buffers.items()}, product


def in_range(problem: Problem, at: Snapshot, step: StepInput) -> StepInput:
    """The step in a precision that holds its second derivatives: those of a scaled loss do not fit into float16.

    As it is where its model draws random numbers, which might be others then, or cannot do without autocast.
    """
    every = (*step.passed, *(batch for batch, _ in step.batches))
    if all(batch.autocast != torch.float16 for batch in every) or any(batch.rng is not None for batch in every):
        return step
    if problem.needs_autocast is None:
        problem.needs_autocast = not _computes(problem, at, every[0]._replace(autocast=None))
    if problem.needs_autocast:
        return step
    batches = tuple((batch._replace(autocast=None), weight) for batch, weight in step.batches)
    return step._replace(batches=batches, scale=1.0, passed=tuple(b._replace(autocast=None) for b in step.passed))


def _computes(problem: Problem, at: Snapshot, batch: Batch) -> bool:
    """Whether model and loss take this batch: dtypes that autocast brings together may not meet without it."""
    try:
        with torch.no_grad():
            problem.batch_loss(at.state.params, at.buffers, batch, training=False)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True


def example_slopes(problem: Problem, at: Snapshot, step: StepInput) -> Product:
    """A direction v, [R, ...] per parameter -> d(recorded loss)[v], example by example, [R, n] per micro-batch.

    d loss [v] = sum_i <d loss / d f_i, (J v)_i>, f_i the outputs for example i. A mean's 1 / n and the micro-batch's
    weight are inside. Cost: one forward and one backward pass with its graph kept, and one pass through that graph for
    all examples and all R directions together.
    """
    params = {n: p.detach().requires_grad_() for n, p in at.state.params.items()}
    step = in_range(problem, at, step)
    buffers, products = problem.passed(params, at.buffers, step), []
    with twice_differentiable_kernels(), Convolutions():
        for batch, weight in step.batches:
            after = {n: b.clone() for n, b in buffers.items()}
            outputs = problem.batch_outputs(params, after, batch, training=step.training)
            loss = _weighted(problem.loss_of(outputs, batch), weight, step.scale)
            (slope,) = _unscaled(_grad([loss], [outputs], retain_graph=True), step.scale)
            products.append((slope, jacobian(problem, outputs, params)))
            buffers = after
    return lambda vectors: [_by_example(push(vectors)[0] * slope) for slope, push in products]


def _by_example(products: Tensor) -> Tensor:
    """[R, n, ...] -> [R, n]."""
    return products.reshape(*products.shape[:2], -1).sum(2)


def _has_fused_attention(problem: Problem, params: Params, buffers: Buffers, step: StepInput) -> bool:
    """Whether the recorded step itself attended by another kernel than derivatives do."""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):  # not counted by whoever counts
        loss, _ = problem.batch_loss(params, buffers, step.batches[0][0], training=step.training)
    return any("ScaledDotProduct" in node.name() for node in _graph([loss]))


def check_twice_differentiable(problem: Problem, grads: Sequence[Tensor]) -> None:
    """Raise UnsupportedError for an operator whose second derivative would silently be left out; once per problem.

    Autograd marks one by a node that raises when it is reached; a product in chosen inputs never reaches it.
    """
    if problem.twice_differentiable:
        return
    for node in _graph(grads):
        if node.name() in ("torch::autograd::Error", "torch::autograd::NotImplemented", "Error", "NotImplemented"):
            raise UnsupportedError(
                f"the model uses an operator that can be differentiated only once ({_complaint(node)}): its curvature "
                "would be missing. Write its backward with differentiable operations, or use curvature='none'"
            )
    problem.twice_differentiable = True


def _graph(tensors: Sequence[Tensor]) -> Iterator[Any]:
    """All nodes of the graph that these tensors come from, each once."""
    seen, todo = set(), [t.grad_fn for t in tensors]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo += [n for n, _ in node.next_functions]


def _complaint(node: Any) -> str:
    """What a node that cannot be differentiated says when it is reached: torch's name of the operator."""
    try:
        node(*(torch.zeros(()) for _ in node._input_metadata))
    except RuntimeError as error:
        return str(error)
    return node.name()


def _weighted(loss: Tensor, weight: float, scale: float) -> Tensor:
    for factor in (weight, scale):
        loss = loss if factor == 1.0 else loss * factor
    return loss


def _unscaled(found: list[Tensor], scale: float) -> list[Tensor]:
    return found if scale == 1.0 else [t * (1.0 / scale) for t in found]


def _sum(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(ts).sum(0) if len(ts) > 1 else ts[0] for ts in zip(*parts, strict=True)]


def _hessian(grads: list[Tensor], params: Params) -> Product:
    return lambda vectors: pull_back(grads, list(params.values()), vectors)


def jacobian(problem: Problem, outputs: Tensor, params: Params) -> Product:
    """[J v] for [R, ...] vectors, from differentiating J^T u in u: the graph of J^T u serves all of them."""
    seed = torch.zeros_like(outputs, requires_grad=True)
    transposed = _grad([outputs], list(params.values()), grad_outputs=[seed], create_graph=True)
    check_twice_differentiable(problem, transposed)
    return lambda vectors: pull_back(transposed, [seed], vectors)


def _gauss_newton(problem: Problem, outputs: Tensor, loss: Tensor, params: Params) -> Product:
    """J^T H J v."""
    push = jacobian(problem, outputs, params)
    (slope,) = _grad([loss], [outputs], create_graph=True)

    def product(vectors: list[Tensor]) -> list[Tensor]:
        curved = pull_back([slope], [outputs], push(vectors))
        return pull_back([outputs], list(params.values()), curved)

    return product


def pull_back(outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """vectors^T d outputs / d inputs for [R, ...] vectors, in as few passes as pay; zeros where nothing depends."""
    used = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    count = vectors[0].shape[0]
    if not used:
        return [i.new_zeros((count, *i.shape)) for i in inputs]
    outs = [o for o, _ in used]
    given, some = [v for _, v in used], _rays_at_once(outs, count)
    if some == count:
        return _pull_back(outs, inputs, given)
    found = [i.new_empty((count, *i.shape)) for i in inputs]

    def take(rows: slice) -> None:
        for whole, part in zip(found, _pull_back(outs, inputs, [v[rows] for v in given]), strict=True):
            whole[rows] = part

    share(take, [slice(first, first + some) for first in range(0, count, some)], outs[0].device)
    return found


def _pull_back(outs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The same, all vectors in one pass if they can be batched; some double backwards (GroupNorm) cannot."""
    if len(vectors[0]) == 1:
        return [t[None] for t in _grad(outs, inputs, grad_outputs=[v[0] for v in vectors], retain_graph=True)]
    try:
        return _grad(outs, inputs, grad_outputs=vectors, retain_graph=True, is_grads_batched=True)
    except RuntimeError:
        each = [_pull_back(outs, inputs, [v[None] for v in one]) for one in zip(*vectors, strict=True)]
        return [torch.cat(parts) for parts in zip(*each, strict=True)]


def _rays_at_once(outputs: Sequence[Tensor], count: int) -> int:
    """How many of so many vectors go through the graph of the outputs together."""
    if count == 1 or outputs[0].device.type != "cpu":
        return count
    made = (m for node in _graph(outputs) for m in node._input_metadata)
    widest = max((1, *(math.prod(m.shape) * m.dtype.itemsize for m in made)))
    return 1 if widest >= ALONE else min(NEAR // widest, count)


def _grad(outputs: Sequence[Tensor], inputs: Sequence[Tensor], **options: Any) -> list[Tensor]:
    """torch.autograd.grad with zeros for unused inputs and our error for operators without a second derivative."""
    try:
        found = torch.autograd.grad(outputs, inputs, allow_unused=True, **options)
    except (RuntimeError, NotImplementedError) as error:
        if (
            "not implemented" in str(error)
            or "isn't implemented" in str(error)
            or "not differentiable twice" in str(error)
        ):
            raise UnsupportedError(f"the model uses an operator without a second derivative: {error}") from error
        raise
    lead = options["grad_outputs"][0].shape[:1] if options.get("is_grads_batched") else ()
    return [i.new_zeros((*lead, *i.shape)) if f is None else f for f, i in zip(found, inputs, strict=True)]
