"""The linearization M_k of a step against the dense Jacobian of the whole step, gradient computation included."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import AdamW

from aa_core import packing
from aa_core.curvature import gradient_and_curvature, pull_back
from aa_core.errors import UnsupportedError
from aa_core.state import Snapshot, State, as_rays, leaves, map_state, pair, ray, stack_rays
from tests import zoo
from tests.core import oracle
from tests.core.cases import (
    Case,
    assert_close,
    generic_state,
    make_case,
    random_rays,
    recorded,
    scheduled,
    two_groups,
    warm_and_cosine,
)

CURVATURES = ("exact", "ggn", "none")
STEP = 2


def generic(case: Case, seed: int = 0) -> Snapshot:
    at = case.run.states[STEP]
    return at._replace(state=generic_state(at.state, seed))


def unit_rays(state: State) -> State:
    """e_1 .. e_N as N rays."""
    basis = torch.eye(len(oracle.flatten(state)), dtype=torch.float64)
    return stack_rays([oracle.unflatten(row, state) for row in basis])


def columns(tangent: State) -> Tensor:
    """[N, R]."""
    return torch.stack([oracle.flatten(ray(tangent, i)) for i in range(len(tangent.count))], 1)


def assert_is_dense(case: Case, at: Snapshot, curvature: str, rtol: float = 1e-10, k: int = STEP) -> None:
    """Block by block, for parameters, slots and count have different units."""
    expected, propagator = case.oracle.dense(at.state, k, curvature), case.propagator(at, k, curvature)
    units, size = unit_rays(at.state), oracle.parameter_count(at.state)
    pushed, pulled = columns(propagator @ units), columns(propagator.T @ units).T
    sizes = [*[size] * (1 + len(at.state.slots)), 1]
    for i, rows in enumerate(expected.split(sizes)):
        for j, block in enumerate(rows.split(sizes, 1)):
            for found in (pushed, pulled):
                difference = found.split(sizes)[i].split(sizes, 1)[j] - block
                assert float(difference.abs().max()) <= rtol * float(block.abs().max()), f"block {i}, {j}"


def assert_states_close(found: State, expected: State, rtol: float) -> None:
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        scale = max(float(b.abs().max()), 1e-300) if b.numel() else 1.0
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= rtol * scale


# ---- M is the Jacobian -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_propagator_is_the_dense_jacobian_of_the_whole_step(model: str, optimizer: str, curvature: str) -> None:
    case = recorded(model, optimizer)
    assert_is_dense(case, generic(case), curvature)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam-decay"])
@pytest.mark.parametrize("model", ["attention", "lstm"])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_so_it_is_for_attention_and_recurrence(model: str, optimizer: str, curvature: str) -> None:
    case = recorded(model, optimizer)
    assert_is_dense(case, generic(case), curvature)


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
def test_so_it_is_at_the_first_step_with_zero_slots_and_count(optimizer: str) -> None:
    case = recorded("mlp", optimizer)
    at = case.run.states[0]
    assert not any(bool(t.any()) for slot in at.state.slots.values() for t in slot.values())
    assert_is_dense(case, at, "exact", k=0)


@pytest.mark.parametrize("optimizer", ["momentum", "dampened", "adam", "adamw"])
def test_so_it_is_on_the_recorded_trajectory(optimizer: str) -> None:
    case = recorded("mlp", optimizer)
    assert_is_dense(case, case.run.states[7], "exact", k=7)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_so_it_is_for_weighted_micro_batches(optimizer: str, curvature: str) -> None:
    case = recorded("mlp", optimizer, micro_batches=3)
    assert len({w for _, w in case.run.inputs[STEP].batches}) == 3
    assert_is_dense(case, generic(case), curvature)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_so_it_is_for_groups_with_their_own_lr_and_decay(kind: type) -> None:
    more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    make = scheduled(two_groups(kind, lr=0.02, weight_decay=0.1, **more), warm_and_cosine)
    case = make_case(zoo.mlp, make)
    assert case.run.inputs[0].hyper[0]["lr"] != case.run.inputs[STEP].hyper[0]["lr"]
    assert case.run.inputs[STEP].hyper[0]["lr"] != case.run.inputs[STEP].hyper[1]["lr"]
    assert_is_dense(case, generic(case), "exact")


class Normed(nn.Module):
    """Batch statistics couple the examples; the running ones are replayed values."""

    def __init__(self, track: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(zoo.FEATURES, 5), nn.Linear(5, zoo.CLASSES)
        self.norm = nn.BatchNorm1d(5, track_running_stats=track)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).tanh())


@pytest.mark.parametrize("curvature", ["exact", "ggn"])
def test_so_it_is_through_batch_statistics(curvature: str) -> None:
    case = make_case(Normed, zoo.OPTIMIZERS["momentum"], micro_batches=2)
    untracked = oracle.Oracle(
        Normed(track=False), zoo.cross_entropy, case.run.optimizer, case.run.groups, case.run.inputs
    )
    assert_is_dense(Case(case.run, case.problem, case.model, untracked), generic(case), curvature)


def test_buffers_are_replayed_as_torch_leaves_them() -> None:
    case = make_case(Normed, zoo.OPTIMIZERS["momentum"], micro_batches=2)
    training, at, data = case.training(), case.run.states[STEP], case.run.inputs[STEP]
    before = {n: b.clone() for n, b in at.buffers.items()}
    taken, linearized = training.step(at, data), training.linearize(at, data, "exact")[0]()
    for name, expected in case.run.states[STEP + 1].buffers.items():
        assert torch.equal(taken.buffers[name], expected)
        assert torch.equal(linearized.buffers[name], expected)
        assert torch.equal(at.buffers[name], before[name]) and not torch.equal(expected, before[name])


@pytest.mark.parametrize("curvature", CURVATURES)
def test_linearizing_takes_the_same_step(curvature: str) -> None:
    case = recorded("attention", "adam")  # its fused kernel differs from the twice differentiable one by rounding
    stepped = case.training().linearize(case.run.states[STEP], case.run.inputs[STEP], curvature)[0]()
    assert stepped.step == STEP + 1
    assert_states_close(stepped.state, case.run.states[STEP + 1].state, 1e-9)


# ---- forward and transposed are one matrix ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [*product(("linear", "mlp"), zoo.OPTIMIZERS), *product(("attention", "lstm"), ("dampened", "adam", "adamw"))],
)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_pushing_and_pulling_pair_to_the_same_numbers(model: str, optimizer: str, curvature: str) -> None:
    case = recorded(model, optimizer)
    at = generic(case)
    propagator = case.propagator(at, STEP, curvature)
    a, t = random_rays(at.state, 3, seed=1), random_rays(at.state, 2, seed=2)
    assert_close(pair(a, propagator @ t), pair(propagator.T @ a, t), 1e-12)


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
@pytest.mark.parametrize("model", zoo.MODELS)
@pytest.mark.parametrize("curvature", ["exact", "ggn"])
def test_many_rays_at_once_are_those_one_by_one(model: str, optimizer: str, curvature: str) -> None:
    case = recorded(model, optimizer, micro_batches=2)
    at = generic(case)
    propagator, many = case.propagator(at, STEP, curvature), random_rays(at.state, 4)
    pushed, pulled = propagator @ many, propagator.T @ many
    for i in range(4):
        one = as_rays(ray(many, i))
        assert_states_close(propagator @ one, as_rays(ray(pushed, i)), 1e-11)
        assert_states_close(propagator.T @ one, as_rays(ray(pulled, i)), 1e-11)


@pytest.mark.parametrize(
    ("near", "alone", "passes"),
    [(1 << 30, 8 * 30, [1, 1, 1, 1, 1]), (2 * 8 * 30, 1 << 20, [2, 2, 1]), (1 << 30, 8 * 30 + 1, [5])],
)
def test_however_many_rays_go_together_they_come_back_the_same(
    near: int, alone: int, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = torch.randn(10, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((x @ weight).tanh().square().sum(), weight, create_graph=True)
    vectors, taken, grad = torch.randn(5, 4, 3, dtype=torch.float64), [], torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        taken.append(len(options["grad_outputs"][0]) if options.get("is_grads_batched") else 1)
        return grad(*args, **options)

    monkeypatch.setattr("aa_core.curvature.NEAR", near)  # the widest tensor: 10 examples by 3 outputs
    monkeypatch.setattr("aa_core.curvature.ALONE", alone)
    monkeypatch.setattr(torch.autograd, "grad", counted)
    (found,) = pull_back([slope], [weight], [vectors])
    assert sorted(taken) == sorted(passes), "two threads take them, in any order"
    expected = torch.stack([grad(slope, weight, v, retain_graph=True)[0] for v in vectors])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("lead", [(), (1,), (3,)], ids=str)
def test_a_scalar_and_an_empty_parameter_alone_in_their_groups_are_packed(lead: tuple[int, ...]) -> None:
    like = {"scalar": torch.zeros(()), "empty": torch.zeros(0, 2)}
    packed = packing.Packing((("scalar",), ("empty",)), (("scalar", "empty"),), like)
    tensors = {n: torch.randn((*lead, *t.shape)) for n, t in like.items()}
    again = packed.unpack(packed.pack(tensors, lead), lead)
    assert again.keys() == like.keys() and all(torch.equal(again[n], t) for n, t in tensors.items())


@pytest.mark.parametrize("block", [1, 7, 40])
def test_however_parameters_are_packed_it_is_the_same_matrix(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(zoo.MODELS["mlp"], two_groups(AdamW, lr=0.05, weight_decay=0.1))
    at, together = generic(case), case.propagator(generic(case), STEP)
    monkeypatch.setattr(packing, "BLOCK", block)
    apart, rays = case.propagator(at, STEP), random_rays(at.state, 3)
    assert_states_close(apart @ rays, together @ rays, 1e-13)
    assert_states_close(apart.T @ rays, together.T @ rays, 1e-13)


def test_a_propagator_is_linear_and_remembers_nothing() -> None:
    case = recorded("mlp", "adam")
    at = generic(case)
    propagator, rays = case.propagator(at, STEP), random_rays(at.state, 2)
    first = propagator @ rays
    _ = propagator.T @ rays
    doubled = propagator @ map_state(lambda t: 2 * t, rays)
    assert_states_close(doubled, map_state(lambda t: 2 * t, first), 1e-13)
    assert all(torch.equal(a, b) for a, b in zip(leaves(propagator @ rays), leaves(first), strict=True))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("model", ["mlp", "lstm"])
def test_float32_is_close_to_float64(model: str, optimizer: str) -> None:
    double, single = recorded(model, optimizer), recorded(model, optimizer, dtype=torch.float32)
    at = generic(double)
    narrow = lambda t: t if t is at.state.count else t.float()  # noqa: E731
    narrowed = Snapshot(at.step, map_state(narrow, at.state), at.buffers)
    rays = random_rays(at.state, 2)
    single_rays = random_rays(narrowed.state, 2)
    wide, small = double.propagator(at, STEP), single.propagator(narrowed, STEP)
    for found, expected in [(small @ single_rays, wide @ rays), (small.T @ single_rays, wide.T @ rays)]:
        assert all(t.dtype == torch.float32 for t in found.params.values()) and found.count.dtype == torch.float64
        assert_close(oracle.flatten(found).double(), oracle.flatten(expected), 1e-5)


def test_a_parameter_that_the_loss_does_not_use_only_decays() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(zoo.FEATURES, zoo.CLASSES), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + 0 * self.idle.sum()

    case = make_case(Idle, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5))
    assert_is_dense(case, generic(case), "exact")
    assert_is_dense(case, generic(case), "ggn")


# ---- models without a second derivative ------------------------------------------------------------------------------


class Distances(nn.Module):
    """cdist has a first derivative and no second."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, torch.eye(7).to(x), compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("rays", [1, 3])
def test_an_operator_without_second_derivative_is_refused_by_name_but_works_without_curvature(rays: int) -> None:
    case = make_case(lambda: zoo.mlp(Distances), zoo.OPTIMIZERS["sgd"], stages=(("a", 3),))
    at = case.run.states[STEP]
    tangent = random_rays(at.state, rays)
    with pytest.raises(UnsupportedError, match=r"second derivative: .*cdist"):
        _ = case.propagator(at, STEP) @ tangent
    pushed = case.propagator(at, STEP, "none") @ tangent
    assert_states_close(pushed, tangent._replace(slots=pushed.slots), 1e-15)


class OnceTanh(torch.autograd.Function):
    """As custom kernels are often written: the backward pass is declared not differentiable."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OnceTanh.apply(x)


def test_a_once_differentiable_operator_is_refused_or_right() -> None:
    case = make_case(lambda: zoo.mlp(Once), zoo.OPTIMIZERS["sgd"], stages=(("a", 3),))
    smooth = make_case(lambda: zoo.mlp(nn.Tanh), zoo.OPTIMIZERS["sgd"], stages=(("a", 3),))
    at, data = case.run.states[STEP], case.run.inputs[STEP]
    vectors = list(random_rays(at.state, 1).params.values())
    try:
        found = gradient_and_curvature(case.problem, at, data, "exact")[2](vectors)
    except UnsupportedError:
        return
    expected = gradient_and_curvature(smooth.problem, at, data, "exact")[2](vectors)
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))


class SquaredError(torch.autograd.Function):
    """Differentiable as often as one likes, whatever its name suggests."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def test_an_operator_is_not_refused_for_its_name() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return SquaredError.apply(x)

    class Power(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    named, plain = (make_case(lambda k=kind: zoo.mlp(k), zoo.OPTIMIZERS["sgd"]) for kind in (Squared, Power))
    rays = random_rays(named.run.states[STEP].state, 2)
    found, expected = (c.propagator(c.run.states[STEP], STEP) @ rays for c in (named, plain))
    assert_states_close(found, expected, 1e-13)


def test_many_rays_go_through_group_norm_as_one_does() -> None:
    build = lambda: nn.Sequential(nn.Linear(zoo.FEATURES, 6), nn.GroupNorm(2, 6), nn.Linear(6, zoo.CLASSES))  # noqa: E731
    case = make_case(build, zoo.OPTIMIZERS["momentum"])
    propagator, many = case.propagator(case.run.states[STEP], STEP), random_rays(case.run.states[STEP].state, 2)
    one = propagator @ as_rays(ray(many, 1))
    assert_states_close(as_rays(ray(propagator @ many, 1)), one, 1e-12)
