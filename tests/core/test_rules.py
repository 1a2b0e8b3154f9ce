"""The optimizers' update rules against torch.optim itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

import aa_core as aa
from aa_core.errors import RunFormatError, UnsupportedError
from aa_core.records import Hyper, StepInput
from aa_core.rules import RULES, rule_for, rule_named
from aa_core.rules.numerics import safe_sqrt
from aa_core.state import State, leaves
from aa_core.update import Autograd, Each, update
from tests import zoo
from tests.core.cases import (
    assert_close,
    equal,
    log_likelihood,
    make_case,
    queries,
    random_rays,
    scheduled,
    two_groups,
    warm_and_cosine,
)

STEPS = 24
SHAPES = {"weight": (3, 4), "bias": (5,), "kernel": (2, 1, 3)}
DTYPES = (torch.float32, torch.float64)


def sgd_options() -> list[dict[str, Any]]:
    names = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
    grid = product((0.0, 0.9), (0.0, 0.3), (0.0, 0.05), (False, True), (False, True))
    found = [dict(zip(names, values, strict=True)) for values in grid]
    return [o for o in found if not o["nesterov"] or (o["momentum"] and not o["dampening"])]  # torch refuses the others


def adam_options() -> list[dict[str, Any]]:
    names = ("betas", "eps", "weight_decay", "maximize")
    grid = product(((0.9, 0.999), (0.5, 0.7), (0.0, 0.9), (0.3, 0.0)), (1e-8, 1e-3), (0.0, 0.05), (False, True))
    return [dict(zip(names, values, strict=True)) for values in grid]


ALL = [(SGD, o) for o in sgd_options()] + [(kind, o) for kind in (Adam, AdamW) for o in adam_options()]


def show(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items() if v)
    return getattr(value, "__name__", str(value).removeprefix("torch."))


def compare(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    dtype: torch.dtype,
    shapes: dict[str, tuple[int, ...]] = SHAPES,
    change: Callable[[torch.optim.Optimizer, int], None] = lambda optimizer, k: None,
    scale: float = 1.0,
    foreach: bool = False,
    device: str = "cpu",
) -> None:
    """Drive torch.optim and our rule with the same gradients; every parameter and slot must be the same bits."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda s: (torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(device, dtype)  # noqa: E731
    theirs = {n: draw(s).requires_grad_() for n, s in shapes.items()}
    optimizer = make(list(theirs.values()))
    rule, names = rule_for(optimizer), {id(p): n for n, p in theirs.items()}
    groups = tuple(tuple(names[id(p)] for p in g["params"]) for g in optimizer.param_groups)
    start = {n: rule.read_slots(optimizer.state.get(p, {}), p.detach()) for n, p in theirs.items()}
    slots = {s: {n: start[n][s] for n in theirs} for s in rule.slots}
    ours = State(
        {n: p.detach().clone() for n, p in theirs.items()}, slots, torch.zeros(1, dtype=torch.float64, device=device)
    )
    for k in range(STEPS):
        change(optimizer, k)
        grads = {n: draw(s) for n, s in shapes.items()}
        for n, p in theirs.items():
            p.grad = grads[n].clone()
        hyper = tuple(rule.read_hyper(g) for g in optimizer.param_groups)
        optimizer.step()
        step = StepInput(k, hyper, (), True)
        ours = update(rule, groups, (tuple(theirs),), ours, grads, step, foreach=foreach)
        assert equal(ours.params, {n: p.detach() for n, p in theirs.items()}), f"parameters differ after step {k}"
        for slot in rule.slots:
            made = {n: t for n, p in theirs.items() if (t := optimizer.state[p].get(slot)) is not None}
            assert equal({n: ours.slots[slot][n] for n in made}, made), f"{slot} differs after step {k}"
        assert float(ours.count) == k + 1


# ---- the same bits as torch.optim ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=show)
@pytest.mark.parametrize(("kind", "options"), ALL, ids=show)
def test_every_step_is_bit_for_bit_that_of_torch(kind: type, options: dict[str, Any], dtype: torch.dtype) -> None:
    compare(lambda p: kind(p, lr=0.07, **options), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=show)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05}),
        (SGD, {"momentum": 0.8, "dampening": 0.2}),
        (Adam, {"weight_decay": 0.05}),
        (AdamW, {"weight_decay": 0.05}),
    ],
    ids=show,
)
def test_groups_and_schedules_are_those_of_torch(kind: type, options: dict[str, Any], dtype: torch.dtype) -> None:
    compare(scheduled(two_groups(kind, lr=0.05, **options), warm_and_cosine), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=show)
def test_momentum_and_betas_may_change_from_step_to_step(dtype: torch.dtype) -> None:
    def cycle(optimizer: torch.optim.Optimizer, k: int) -> None:
        for group in optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (0.95 - 0.1 * (k % 3), 0.99 - 0.05 * (k % 2))
            else:
                group["momentum"] = 0.95 - 0.1 * (k % 3)

    compare(lambda p: Adam(p, lr=0.05), dtype, change=cycle)
    compare(lambda p: SGD(p, lr=0.05, momentum=0.9), dtype, change=cycle)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW], ids=show)
def test_the_foreach_implementation_gives_the_same_bits(kind: type) -> None:
    compare(lambda p: kind(p, lr=0.05, weight_decay=0.1, foreach=True), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=show)
@pytest.mark.parametrize("options", [*adam_options(), {"amsgrad": True}], ids=show)
@pytest.mark.parametrize("kind", [Adam, AdamW], ids=show)
def test_many_parameters_at_once_are_those_of_torch(kind: type, options: dict[str, Any], dtype: torch.dtype) -> None:
    for theirs in (True, False):  # on a CPU they are the same operations
        compare(lambda p, theirs=theirs: kind(p, lr=0.07, foreach=theirs, **options), dtype, foreach=True)
    groups = two_groups(kind, lr=0.05, foreach=True, **options)
    compare(scheduled(groups, warm_and_cosine), dtype, foreach=True)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12])
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW], ids=show)
def test_tiny_and_huge_gradients_give_the_same_bits(kind: type, scale: float) -> None:
    compare(lambda p: kind(p, lr=0.1), torch.float32, {"weight": (200,)}, scale=scale)  # squares under- and overflow


@pytest.mark.parametrize("optimizer", zoo.OPTIMIZERS)
@pytest.mark.parametrize("model", zoo.MODELS)
@pytest.mark.parametrize(("dtype", "micro_batches"), [(torch.float32, 3), (torch.float64, 1)], ids=show)
def test_a_replayed_step_is_bit_for_bit_the_recorded_one(
    model: str, optimizer: str, dtype: torch.dtype, micro_batches: int
) -> None:
    case = make_case(
        zoo.MODELS[model], zoo.OPTIMIZERS[optimizer], dtype=dtype, micro_batches=micro_batches, stages=(("a", 3),)
    )
    training = case.training()
    for k in range(case.run.steps):
        stepped, expected = training.step(case.run.states[k], case.run.inputs[k]).state, case.run.states[k + 1].state
        assert equal(stepped.params, expected.params)
        assert all(equal(stepped.slots[s], expected.slots[s]) for s in expected.slots)
        assert torch.equal(stepped.count, expected.count)


# ---- zero second moments ---------------------------------------------------------------------------------------------


class Dead(nn.Module):
    """A linear model whose first feature is always zero: its weights never get a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(zoo.FEATURES, zoo.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * (torch.arange(zoo.FEATURES) > 0))


@pytest.mark.parametrize("kind", [Adam, AdamW], ids=show)
def test_a_coordinate_without_gradient_has_the_value_of_torch_and_finite_tangents(kind: type) -> None:
    case = make_case(Dead, lambda p: kind(p, lr=0.02, eps=1e-8))
    at = case.run.states[3]
    assert bool((at.state.slots["exp_avg_sq"]["linear.weight"][:, 0] == 0).all())
    assert equal(case.training().step(at, case.run.inputs[3]).state.params, case.run.states[4].state.params)
    propagator = case.propagator(at, 3)
    for pushed in (propagator @ random_rays(at.state, 3), propagator.T @ random_rays(at.state, 3)):
        assert all(bool(torch.isfinite(t).all()) for t in leaves(pushed))


def test_effects_with_dead_coordinates_are_those_of_finite_differences() -> None:
    case = make_case(Dead, lambda p: Adam(p, lr=0.02, eps=1e-4))
    gamma, h = log_likelihood(case), 1e-5
    ends = []
    for sign in (1, -1):
        treatments = torch.ones(case.run.steps, dtype=torch.float64)
        treatments[5] += sign * h
        ends.append(gamma(case.oracle.final(case.run.states[0].state, treatments).params).detach())
    found = aa.step_effects(case.run, case.problem, queries())
    assert_close(found.effects[5], (ends[0] - ends[1]) / (2 * h), 1e-6)
    dead, size = zoo.CLASSES, (zoo.FEATURES + 1) * zoo.CLASSES
    assert found.reliability.stiff_share == pytest.approx(dead / size)


def test_safe_sqrt_is_sqrt_with_slope_zero_at_zero() -> None:
    x = torch.tensor([0.0, 1e-30, 0.25, 4.0, torch.inf], requires_grad=True)
    root = safe_sqrt(x)
    assert torch.equal(root, x.sqrt())
    (slope,) = torch.autograd.grad(root.sum(), x)
    assert torch.equal(slope, torch.where(x > 0, 0.5 / x.sqrt(), 0.0))


def test_safe_sqrt_does_not_hide_a_nan() -> None:
    assert bool(safe_sqrt(torch.tensor([torch.nan])).isnan().all())


# ---- derivatives that are written down -------------------------------------------------------------------------------

WRITTEN_DOWN = [name for name, rule in RULES.items() if rule.derivative is not None]


@pytest.mark.parametrize("dtype", DTYPES, ids=show)
@pytest.mark.parametrize(
    "changed",
    [{}, *({name: 1.0} for name in ("maximize", "nesterov")), {"dampening": 0.3}]
    + [{name: 0.0} for name in ("weight_decay", "beta1", "beta2", "lr", "eps", "momentum")],
    ids=str,
)
@pytest.mark.parametrize("count", [1.0, 3.0])
@pytest.mark.parametrize("name", WRITTEN_DOWN)
def test_a_derivative_written_down_is_that_of_autograd(
    name: str, count: float, changed: dict[str, float], dtype: torch.dtype
) -> None:
    rule, draw = RULES[name], torch.Generator().manual_seed(0)
    own = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.2, "maximize": 0.0}
    own |= {"momentum": 0.9, "dampening": 0.0, "nesterov": 0.0}

    def many(*rays: int) -> list[Tensor]:
        return [torch.randn(*rays, n, generator=draw, dtype=torch.float64).to(dtype) for n in (7, 20)]

    there = {s: [t.square() for t in many()] if s == "exp_avg_sq" else many() for s in rule.slots}
    params, grads, hyper = many(), many(), own | changed
    assert rule.derivative is not None
    written, ticked = rule.derivative(params, grads, there, count, hyper), torch.tensor(count, dtype=torch.float64)
    places = ((p, g, {s: ts[i] for s, ts in there.items()}) for i, (p, g) in enumerate(zip(params, grads, strict=True)))
    expected = Each([Autograd(rule, *place, ticked, hyper) for place in places])
    slots = {s: many(3) for s in rule.slots}
    tangent = many(3), many(3), slots, torch.randn(3, generator=draw, dtype=torch.float64)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(written.push(*tangent), expected.push(*tangent), **tolerance)
    torch.testing.assert_close(written.pull(tangent[0], slots), expected.pull(tangent[0], slots), **tolerance)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_derivative_written_down_stays_within_half_precision(name: str) -> None:
    """Small gradients and a small second moment, as float16 holds them: 1 / sqrt(v') is large, the step is not."""
    rule, draw = RULES[name], torch.Generator().manual_seed(0)
    hyper = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4, "weight_decay": 0.0, "maximize": 0.0}

    def many(size: float, *rays: int) -> Tensor:
        return (size * torch.randn(*rays, 40, generator=draw)).half()

    at = many(1.0), many(1e-2), {"exp_avg": many(1e-2), "exp_avg_sq": many(1e-2).square()}
    ray = many(1.0, 1), {"exp_avg": many(1.0, 1), "exp_avg_sq": many(1.0, 1)}

    def pulled(dtype: torch.dtype) -> list[Tensor]:
        def wide(t: Any) -> Any:
            return [t.to(dtype)] if isinstance(t, Tensor) else {s: [v.to(dtype)] for s, v in t.items()}

        assert rule.derivative is not None
        found = rule.derivative(*map(wide, at), 2.0, hyper).pull(*map(wide, ray))
        return [found[0][0].double(), found[1][0].double()]

    torch.testing.assert_close(pulled(torch.float16), pulled(torch.float64), rtol=2e-2, atol=2e-2)


# ---- what cannot be replayed is refused ------------------------------------------------------------------------------


class HomeMade(SGD):
    """A subclass may step differently."""


@pytest.mark.parametrize("kind", [torch.optim.ASGD, torch.optim.NAdam, HomeMade], ids=show)
def test_an_unknown_optimizer_is_refused_by_name_and_the_supported_ones_are_listed(kind: type) -> None:
    with pytest.raises(UnsupportedError) as error:
        rule_for(kind(nn.Linear(2, 2).parameters(), lr=0.1))
    assert kind.__name__ in str(error.value)
    assert all(f"torch.optim.{name}" in str(error.value) for name in ("SGD", "Adam", "AdamW"))


REFUSED = [(kind, switch) for kind in (SGD, Adam, AdamW) for switch in RULES[kind.__name__].refused]


@pytest.mark.parametrize(("kind", "switch"), REFUSED, ids=show)
def test_a_refused_switch_is_named_with_its_group_and_the_way_out(kind: type, switch: str) -> None:
    plain, switched = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = kind(plain.parameters(), lr=0.1)
    assert rule_for(optimizer).name == kind.__name__
    optimizer.add_param_group({"params": list(switched.parameters()), switch: True})
    with pytest.raises(UnsupportedError, match=rf"{kind.__name__}\({switch}=True\) in parameter group 1: .*build"):
        rule_for(optimizer)


@pytest.mark.parametrize("switch", ["fused", "capturable", "differentiable"])
def test_the_switches_that_change_the_update_are_refused_for_adam(switch: str) -> None:
    with pytest.raises(UnsupportedError, match=switch):
        rule_for(Adam(nn.Linear(2, 2).parameters(), **{switch: True}))


def test_a_run_with_an_optimizer_of_the_future_is_refused_by_name() -> None:
    with pytest.raises(RunFormatError, match=r"'Sophia'.*SGD, Adam, AdamW"):
        rule_named("Sophia")


def assert_refused_or_equal(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], dtype: torch.dtype, **more: Any
) -> None:
    try:
        rule_for(make([torch.zeros(2, dtype=dtype, requires_grad=True) for _ in SHAPES]))
    except UnsupportedError:
        return
    compare(make, dtype, **more)


def test_adam_with_decoupled_decay_is_refused_or_replayed() -> None:
    assert_refused_or_equal(lambda p: Adam(p, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True), torch.float64)


def test_a_tensor_as_lr_is_refused_or_replayed() -> None:
    """Torch would compute with it in float32."""
    assert_refused_or_equal(lambda p: AdamW(p, lr=torch.tensor(0.1), weight_decay=0.1), torch.float64)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW], ids=show)
def test_a_parameter_without_dimensions_keeps_its_dtype(kind: type) -> None:
    compare(lambda p: kind(p, lr=0.1), torch.float32, {"scale": (), "weight": (3,)})


def hyper_names() -> list[tuple[str, str]]:
    return [(name, h) for name, rule in RULES.items() for h in rule.hyper]


@pytest.mark.parametrize(("name", "key"), hyper_names())
def test_every_hyperparameter_that_is_recorded_matters(name: str, key: str) -> None:
    rule = RULES[name]
    switches = ("nesterov", "maximize", "centered", "decoupled_weight_decay")
    on: Hyper = {
        "lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "lr_decay": 0.1, "alpha": 0.9,
        "beta1": 0.9, "beta2": 0.99, "eps": 10.0 if name == "Muon" else 1e-3, **dict.fromkeys(switches, 0.0),
        "ns_steps": 4.0, "ns_a": 3.4, "ns_b": -4.8, "ns_c": 2.0, "adjust_lr_fn": 2.0,
    }  # fmt: skip
    other = {**on, key: 1.0 - on[key] if key in switches else on[key] * 0.5}
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(4, 3, generator=generator, dtype=torch.float64)  # noqa: E731
    param, grad, slots = draw(), draw(), {s: 0.5 + 0.1 * draw().abs() for s in rule.slots}
    count = torch.tensor(30.0, dtype=torch.float64)
    results = []
    for hyper in (on, other):
        stepped, made = rule.update(param, grad, slots, count, hyper)
        results.append(torch.stack([stepped, *made.values()]))
        assert bool(torch.isfinite(results[-1]).all())
    assert not torch.equal(*results)
