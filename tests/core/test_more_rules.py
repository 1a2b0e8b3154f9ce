"""Every further optimizer: bit for bit that of torch, differentiated as its formula is; and one of the user's own."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core import rules
from aa_core.errors import RequestError, RunFormatError, UnsupportedError
from aa_core.replay import replay_drift
from aa_core.rules import RULES, register_rule, rule_for, rule_named
from aa_core.rules.base import UpdateRule
from aa_core.rules.lion import LION
from aa_core.state import leaves, pair
from tests import zoo
from tests.core.cases import (
    Case,
    MakeOptimizer,
    assert_close,
    equal,
    make_case,
    memory_cache,
    queries,
    random_rays,
    two_groups,
)
from tests.core.test_propagator import assert_is_dense
from tests.core.test_retrain import steps_of, train_again
from tests.core.test_rules import compare, show


class Lion(torch.optim.Optimizer):
    """What a user might train with."""

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                direction = state["exp_avg"].clone().mul_(beta1).add(p.grad, alpha=1 - beta1).sign_()
                p.add_(direction, alpha=-group["lr"])
                state["exp_avg"].mul_(beta2).add_(p.grad, alpha=1 - beta2)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lion is known, in copies of the tables that end with the test."""
    monkeypatch.setattr(rules, "_TORCH", dict(rules._TORCH))
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    register_rule(Lion, LION)


def grid(**axes: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Every third combination: each value of an axis meets each of another."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())][::3]


SWITCHES = {"weight_decay": (0.0, 0.05), "maximize": (False, True), "eps": (1e-8, 1e-3)}
BETAS = ((0.9, 0.999), (0.5, 0.7))
OPTIONS: dict[type[torch.optim.Optimizer], list[dict[str, Any]]] = {
    torch.optim.Adam: grid(amsgrad=(True,), betas=BETAS, **SWITCHES),
    torch.optim.AdamW: grid(amsgrad=(True,), betas=BETAS, **SWITCHES),
    torch.optim.RMSprop: grid(alpha=(0.99, 0.5), momentum=(0.0, 0.9), centered=(False, True), **SWITCHES),
    torch.optim.Adagrad: grid(lr_decay=(0.0, 0.1), initial_accumulator_value=(0.0, 0.5), **SWITCHES),
    torch.optim.Adamax: grid(betas=BETAS, **SWITCHES),
    torch.optim.RAdam: grid(betas=(*BETAS, (0.9, 0.9)), decoupled_weight_decay=(False, True), **SWITCHES),
    Lion: grid(betas=BETAS, weight_decay=(0.0, 0.05)),
}
MUON = grid(
    weight_decay=(0.0, 0.1), momentum=(0.95, 0.5), nesterov=(True, False),
    adjust_lr_fn=(None, "original", "match_rms_adamw"), ns_steps=(5, 2),
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=show)
@pytest.mark.parametrize("kind", OPTIONS, ids=show)
def test_every_step_is_bit_for_bit_that_of_the_optimizer(kind: Any, dtype: torch.dtype) -> None:
    for options in OPTIONS[kind]:
        compare(lambda p, o=options: kind(p, lr=0.07, **o), dtype)  # type: ignore[misc]
    compare(two_groups(kind, lr=0.05, weight_decay=0.05), dtype)
    compare(lambda p: kind(p, lr=0.1), dtype, {"scale": (), "weight": (3,)})


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adamax], ids=show)
def test_the_foreach_implementation_gives_the_same_bits(kind: Any) -> None:
    compare(lambda p: kind(p, lr=0.05, weight_decay=0.1, foreach=True), torch.float32)
    compare(lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True, foreach=True), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=show)
def test_every_step_of_muon_is_bit_for_bit_that_of_torch(dtype: torch.dtype) -> None:
    for options in MUON:
        compare(lambda p, o=options: torch.optim.Muon(p, lr=0.07, **o), dtype, {"w": (3, 4), "t": (6, 2), "s": (4, 4)})  # type: ignore[misc]


def test_radam_left_to_torchs_default_is_refused_on_a_gpu_alone() -> None:
    (group,) = torch.optim.RAdam([torch.zeros(1, requires_grad=True)]).param_groups
    RULES["RAdam"].check([group])
    elsewhere = {**group, "params": [SimpleNamespace(is_cuda=True)]}
    with pytest.raises(UnsupportedError, match=r"RAdam\(foreach=None\) in parameter group 0: .*foreach=False"):
        RULES["RAdam"].check([elsewhere])
    RULES["RAdam"].check([{**elsewhere, "foreach": False}])


# ---- derivatives -----------------------------------------------------------------------------------------------------


def matrices() -> nn.Module:
    return nn.Sequential(nn.Linear(zoo.FEATURES, 5, bias=False), nn.GELU(), nn.Linear(5, zoo.CLASSES, bias=False))


MAKE: dict[str, MakeOptimizer] = {
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.05, betas=(0.8, 0.8), eps=1e-4),
    "amsgrad, decoupled": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, betas=(0.8, 0.8), eps=1e-4),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-4, momentum=0.5, weight_decay=0.05),
    "rmsprop, centered": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-4, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1, weight_decay=0.05, eps=1e-4),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01, weight_decay=0.05, betas=(0.8, 0.9)),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.05, betas=(0.8, 0.99), eps=1e-4),
    "radam, never rectified": lambda p: torch.optim.RAdam(p, lr=0.01, betas=(0.8, 0.5)),
    "lion": lambda p: Lion(p, lr=0.003, weight_decay=0.1),
    "muon": lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.1),
    "muon, matched": lambda p: torch.optim.Muon(p, lr=0.02, adjust_lr_fn="match_rms_adamw", nesterov=False),
}


def case_of(name: str) -> Case:
    return make_case(matrices if name.startswith("muon") else zoo.mlp, MAKE[name])


@pytest.mark.parametrize("name", MAKE)
def test_the_propagator_is_the_dense_jacobian_of_the_formula(name: str) -> None:
    case = case_of(name)
    for k in (3, 7):  # RAdam is not rectified at 3
        assert_is_dense(case, case.run.states[k], "exact", 1e-8, k)


@pytest.mark.parametrize("name", MAKE)
def test_forward_and_backward_are_transposes_also_at_the_first_step(name: str) -> None:
    case = case_of(name)
    at = case.run.states[0]
    propagator, tangent, cotangent = case.propagator(at, 0), random_rays(at.state, 3), random_rays(at.state, 2, seed=1)
    pushed, pulled = propagator @ tangent, propagator.T @ cotangent
    assert all(bool(torch.isfinite(t).all()) for t in (*leaves(pushed), *leaves(pulled)))
    assert_close(pair(cotangent, pushed), pair(pulled, tangent), 1e-9)


@pytest.mark.parametrize("name", MAKE)
def test_retraining_is_training_from_scratch_and_the_last_stage_is_estimated_exactly(name: str) -> None:
    case = case_of(name)
    what = aa.Counterfactual.skip("b")
    assert equal(aa.retrain(case.run, case.problem, what).params, train_again(case, MAKE[name], steps_of(case, "b")))
    last = aa.Counterfactual.skip("c")
    truth = aa.final_model(case.run, case.problem).performance(queries())
    truth = truth - aa.retrain(case.run, case.problem, last).performance(queries())
    found = aa.predict(case.run, case.problem, last, queries(), readout="displaced", cache=memory_cache())
    assert_close(found, truth, 1e-9)


@pytest.mark.parametrize("name", ["muon", "amsgrad", "rmsprop"])
def test_causes_and_parameters_add_up_to_the_step(name: str) -> None:
    case = case_of(name)
    steps = aa.step_effects(case.run, case.problem, queries()).effects
    for split in (aa.step_effects_by_cause, aa.step_effects_by_parameter):
        assert_close(aa.collapse(split(case.run, case.problem, queries()), "step").effects, steps)
    causes = aa.collapse(aa.step_effects_by_cause(case.run, case.problem, queries()), "cause")
    assert bool(causes.effects.any(1).all()), "each of the three has a part"


def test_muon_says_that_its_rounding_is_not_differentiated_and_step_effects_are_near_the_truth() -> None:
    case = case_of("muon")
    found = aa.step_effects(case.run, case.problem, queries(40))
    assert any("bfloat16" in a for a in found.reliability.assumptions)
    truth = aa.final_model(case.run, case.problem).performance(queries(40))
    without = [aa.retrain(case.run, case.problem, aa.Counterfactual.skip_steps(k)) for k in (4, 8)]
    exact = torch.stack([truth - model.performance(queries(40)) for model in without])
    assert aa.agreement(found.effects[[4, 8]].numpy(), exact.numpy()).pearson > 0.9


# ---- Lion, which is no optimizer of torch ----------------------------------------------------------------------------


def recorded_with(path: Path, make: MakeOptimizer) -> aa.Trajectory:
    torch.manual_seed(2)
    model = zoo.mlp().double()
    optimizer = make(list(model.parameters()))
    with aa.Recorder(path, model, optimizer, zoo.cross_entropy, checkpoint_every=4) as recorder:
        for name in ("a", "b"):
            with recorder.stage(name):
                for k in range(6):
                    x, y = zoo.examples(8, seed=10 * k)
                    recorder.batch(x, y)
                    optimizer.zero_grad()
                    zoo.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return aa.open_run(path)


def test_an_optimizer_of_ones_own_is_recorded_replayed_and_retrained(tmp_path: Path) -> None:
    run, problem = (
        recorded_with(tmp_path / "run", MAKE["lion"]),
        aa.Problem(zoo.mlp().double(), zoo.cross_entropy, device="cpu"),
    )
    assert run.optimizer == "Lion"
    assert [d.absolute for d in replay_drift(run, problem)] == [0.0] * 4
    gamma = queries()
    what = aa.Counterfactual.skip("b")
    found = aa.estimate(run, problem, what, gamma, readout="displaced", cache=memory_cache())
    truth = aa.final_model(run, problem).performance(gamma) - aa.retrain(run, problem, what).performance(gamma)
    assert_close(found.effects[0], truth, 1e-9)


def test_no_estimate_with_sign_updates_is_trusted_and_the_reason_is_said(tmp_path: Path) -> None:
    run, problem = (
        recorded_with(tmp_path / "run", MAKE["lion"]),
        aa.Problem(zoo.mlp().double(), zoo.cross_entropy, device="cpu"),
    )
    for found in (
        aa.stage_effects(run, problem, queries(), cache=memory_cache()),
        aa.step_effects(run, problem, queries()),
    ):
        assert found.reliability.verdict.trust == "nothing"
        assert "sign updates react to the data only where a sign flips" in found.reliability.words
        assert LION.blind in found.reliability.assumptions


def test_the_derivative_of_lion_is_its_decay() -> None:
    case = case_of("lion")
    at = case.run.states[5]
    tangent = random_rays(at.state, 1)
    pushed = case.propagator(at, 5) @ tangent
    for n, t in tangent.params.items():
        assert_close(pushed.params[n], (1 - 0.003 * 0.1) * t)


# ---- the documentation -----------------------------------------------------------------------------------------------


def test_the_documented_optimizer_is_recorded_and_replays(tmp_path: Path) -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "optimizers.md").read_text()
    names: dict[str, Any] = {}
    exec(document.partition("```python\n")[2].partition("```")[0], names)
    run = recorded_with(tmp_path / "run", lambda p: names["NormalizedSGD"](p, lr=0.05))
    problem = aa.Problem(zoo.mlp().double(), zoo.cross_entropy, device="cpu")
    assert run.optimizer == "NormalizedSGD"
    assert [d.absolute for d in replay_drift(run, problem)] == [0.0] * 4
    found, gamma = aa.step_effects(run, problem, queries()).effects, queries()
    nearly = aa.retrain(run, problem, aa.Counterfactual(steps=(5,), scale=1 - 1e-5)).performance(gamma)
    assert_close(found[5], (aa.final_model(run, problem).performance(gamma) - nearly) / 1e-5, 1e-3)


def test_the_document_lists_every_optimizer_that_is_known() -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "optimizers.md").read_text()
    for kind in rules._TORCH:
        assert f"`{kind.__name__}`" in document or f"`torch.optim.{kind.__name__}`" in document or kind is Lion


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_built_in_keeps_its_meaning() -> None:
    mine = UpdateRule("Mine", (), ("lr",), LION.update)
    for optimizer, rule in ((torch.optim.SGD, mine), (Lion, UpdateRule("Adam", (), ("lr",), LION.update))):
        with pytest.raises(RequestError, match="one of the two is built in"):
            register_rule(optimizer, rule)
    for _ in range(2):  # a file that is imported again registers again
        register_rule(Lion, UpdateRule("Mine", (), ("lr",), LION.update))
    assert rule_for(Lion([torch.zeros(1, requires_grad=True)])).name == "Mine"


def test_a_class_without_a_rule_and_a_name_without_a_rule_say_how_to_register() -> None:
    del rules._TORCH[Lion]
    with pytest.raises(UnsupportedError, match=r"Lion is not supported.*torch.optim.SGD.*register_rule\(YourOptimizer"):
        rule_for(Lion([torch.zeros(1, requires_grad=True)]))
    with pytest.raises(RunFormatError, match=r"'Sophia'.*register its rule before"):
        rule_named("Sophia")


def test_amsgrad_in_some_groups_only_is_refused() -> None:
    first, second = ([torch.zeros(1, requires_grad=True)] for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": first, "amsgrad": True}, {"params": second}], lr=0.1)
    with pytest.raises(UnsupportedError, match="amsgrad differs between parameter groups"):
        rule_for(optimizer)


REFUSED = [
    (kind, switch)
    for kind in (torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adamax, torch.optim.RAdam)
    for switch in RULES[kind.__name__].refused
]


@pytest.mark.parametrize(("kind", "switch"), REFUSED, ids=show)
def test_a_refused_switch_is_named_with_the_way_out(kind: Any, switch: str) -> None:
    optimizer = kind([torch.zeros(1, requires_grad=True)], lr=0.1)
    optimizer.param_groups[0][switch] = True
    with pytest.raises(UnsupportedError, match=rf"{kind.__name__}\({switch}=True\) .*build the optimizer with"):
        rule_for(optimizer)
