"""What goes wrong is said in words: what was found, what was expected, what to do."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core import errors
from aa_core.errors import (
    AuditError,
    EmptyStageError,
    NonFiniteError,
    ProblemError,
    ReplayDriftError,
    RequestError,
    UnknownStageError,
)
from aa_core.registry import known_problems, load_problem
from aa_core.replay import prepare, snapshot_before
from aa_core.stages import Stage
from aa_core.state import max_difference
from tests import zoo
from tests.core.cases import Case, assert_close, make_case, memory_cache, queries, recorded

Ask = Callable[[Any, aa.Problem], Any]


def questions(problem: aa.Problem) -> aa.Performance:
    return queries(dtype=next(problem.model.parameters()).dtype)


def stages_of(run: Any, problem: aa.Problem) -> aa.Attribution:
    return aa.stage_effects(run, problem, questions(problem), cache=memory_cache())


def steps_of(run: Any, problem: aa.Problem) -> aa.Attribution:
    return aa.step_effects(run, problem, questions(problem))


def predicted(run: Any, problem: aa.Problem) -> Tensor:
    return aa.predict(run, problem, aa.Counterfactual.skip("a"), questions(problem), cache=memory_cache())


def retrained(run: Any, problem: aa.Problem) -> aa.TrainedModel:
    return aa.retrain(run, problem, aa.Counterfactual.skip("b"))


ASKS: dict[str, Ask] = {
    "stage effects": stages_of,
    "step effects": steps_of,
    "predict": predicted,
    "retrain": retrained,
    "final model": aa.final_model,
}


def every_error() -> list[type[AuditError]]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AuditError)]


def test_every_error_has_one_root_and_stands_in_the_tree_of_the_module() -> None:
    assert len(every_error()) > 15
    for error in every_error():
        assert error.__name__ in (errors.__doc__ or "") and error.__doc__


# ---- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [aa.stage_effects, aa.step_effects], ids=["stages", "steps"])
def test_an_unknown_stage_is_named_with_the_known_ones(ask: Any) -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(UnknownStageError, match=r"'z'; this run has: 'a', 'b', 'c'") as error:
        ask(case.run, case.problem, queries(), stages=["b", "z"])
    assert (error.value.name, error.value.known) == ("z", ("a", "b", "c"))


@pytest.mark.parametrize("ask", [aa.stage_effects, aa.step_effects], ids=["stages", "steps"])
def test_an_empty_stage_has_no_effect_to_ask_for(ask: Any) -> None:
    case = recorded("mlp", "sgd")
    run = dataclasses.replace(case.run, stages=(*case.run.stages, Stage("warm-up", ())))
    with pytest.raises(EmptyStageError, match="'warm-up'"):
        ask(run, case.problem, queries(), stages=["a", "warm-up"])


def test_an_empty_stage_is_left_out_when_all_are_asked_for() -> None:
    case = recorded("mlp", "sgd")
    run = dataclasses.replace(case.run, stages=(*case.run.stages, Stage("warm-up", ())))
    assert list(stages_of(run, case.problem).units["stage"]) == ["a", "b", "c"]


@pytest.mark.parametrize("step", [-1, 13])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(RequestError, match=rf"step {step} .*0\.\.12"):
        snapshot_before(case.run, prepare(case.run, case.problem), step)


# ---- the model and the loss ------------------------------------------------------------------------------------------


class Other(nn.Module):
    """Of the recorded mlp: one parameter renamed, one of another shape, one of another dtype, one too many."""

    def __init__(self) -> None:
        super().__init__()
        first, last = nn.Linear(zoo.FEATURES, 7).double(), nn.Linear(7, zoo.CLASSES)
        first.bias = nn.Parameter(torch.zeros(8, dtype=torch.float64))
        last.weight = nn.Parameter(torch.zeros(zoo.CLASSES, 7, dtype=torch.float32))
        self.add_module("0", first)
        self.add_module("2", last)
        last.offset = last.bias
        del last.bias
        self.register_buffer("extra", torch.zeros(3))


@pytest.mark.parametrize("ask", ASKS)
def test_all_mismatches_of_a_model_are_listed_at_once(ask: str) -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(ProblemError) as error:
        ASKS[ask](case.run, aa.Problem(Other(), zoo.cross_entropy, device="cpu"))
    text = str(error.value)
    assert "2.bias: in the run, not in the model" in text
    assert "2.offset: in the model, not in the run" in text
    assert "extra: in the model, not in the run" in text
    assert "0.bias: the run has [7] float64, the model [8] float64" in text
    assert "2.weight: the run has [4, 7] float64, the model [4, 7] float32" in text
    assert "0.weight" not in text


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    class Pair(nn.Sequential):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    case = recorded("mlp", "sgd")
    with pytest.raises(ProblemError, match="returned tuple, expected a tensor"):
        steps_of(case.run, aa.Problem(Pair(*zoo.mlp().double()), zoo.cross_entropy, device="cpu"))


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape() -> None:
    case = recorded("mlp", "sgd")
    each = aa.Problem(zoo.mlp().double(), nn.CrossEntropyLoss(reduction="none"), device="cpu")
    with pytest.raises(ProblemError, match=r"shape \(8,\), expected a scalar; .*mean"):
        steps_of(case.run, each)


@pytest.mark.parametrize("ask", ASKS)
def test_a_run_that_is_not_finite_is_refused_from_the_step_on_that_broke_it(ask: str) -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(NonFiniteError, match="from step 7 on"):
        ASKS[ask](dataclasses.replace(case.run, first_nonfinite=7), case.problem)


# ---- a model that fits and is another one ----------------------------------------------------------------------------


def imposter(case: Case) -> aa.Problem:
    dtype = case.run.states[0].state.params["0.weight"].dtype
    return aa.Problem(zoo.mlp(nn.Tanh).to(dtype), zoo.cross_entropy, device="cpu")


@pytest.mark.parametrize("every", [1, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ask", ["stage effects", "step effects", "predict"])
def test_another_activation_is_noticed_by_the_replay(ask: str, dtype: torch.dtype, every: int) -> None:
    case = recorded("mlp", "momentum", dtype=dtype)
    for request in ASKS[ask], aa.replay_drift:
        assert request(case.every(every), case.problem) is not None, "the right model is accepted"
    with pytest.raises(ReplayDriftError, match=r"replaying up to step \d+ .*architecture and loss"):
        ASKS[ask](case.every(every), imposter(case))


def test_another_loss_is_noticed_by_the_replay() -> None:
    case = recorded("mlp", "adam", every=5)
    smoothed = aa.Problem(zoo.mlp().double(), nn.CrossEntropyLoss(label_smoothing=0.1), device="cpu")
    with pytest.raises(ReplayDriftError):
        steps_of(case.run, smoothed)


def test_other_data_are_noticed_by_the_replay() -> None:
    case = recorded("mlp", "adam", every=5)
    batch, weight = case.run.inputs[6].batches[0]
    swapped = case.run.inputs[6]._replace(batches=((batch._replace(targets=batch.targets.flip(0)), weight),))
    inputs = [swapped if s.step == 6 else s for s in case.run.inputs]
    with pytest.raises(ReplayDriftError, match="up to step 10"):
        steps_of(dataclasses.replace(case.run, inputs=inputs), case.problem)


def test_the_drift_of_every_segment_is_reported() -> None:
    case = recorded("mlp", "adam")
    assert [(d.step, d.absolute) for d in aa.replay_drift(case.every(5), case.problem)] == [(5, 0), (10, 0), (12, 0)]
    drifts = aa.replay_drift(case.every(5), imposter(case))
    assert [d.step for d in drifts] == [5, 10, 12] and all(d.relative > 1e-4 for d in drifts)
    before, after = (case.run.states[k].state.params for k in (0, 5))
    change = max(float((after[n] - before[n]).abs().max()) for n in after)
    assert drifts[0].relative == pytest.approx(drifts[0].absolute / change) and not drifts[0].within_tolerance


def test_running_statistics_that_something_else_moved_are_noticed() -> None:
    model = nn.Sequential(nn.Linear(zoo.FEATURES, 5), nn.BatchNorm1d(5), nn.Linear(5, zoo.CLASSES))
    case = make_case(lambda: model, zoo.OPTIMIZERS["sgd"], every=5)
    assert all(d.absolute == 0 for d in aa.replay_drift(case.run, case.problem))
    last = case.run.states[-1]
    moved = last._replace(buffers={**last.buffers, "1.running_mean": last.buffers["1.running_mean"] + 0.1})
    run = dataclasses.replace(case.run, states=[*case.run.states[:-1], moved])
    assert [d.within_tolerance for d in aa.replay_drift(run, case.problem)] == [True, True, False]
    with pytest.raises(ReplayDriftError, match="up to step 12"):
        aa.step_effects(run, case.problem, queries())


@pytest.mark.parametrize("every", [1, 5])
def test_retraining_with_a_wrong_model_is_refused(every: int) -> None:
    case = recorded("mlp", "momentum", every=every)
    with pytest.raises(ReplayDriftError):
        retrained(case.run, imposter(case))


@pytest.mark.parametrize("stages", [(("all", 12),), (("a", 6), ("b", 6))])
def test_the_boundary_effect_of_the_last_stage_with_a_wrong_model_is_refused(stages: Any) -> None:
    case = make_case(zoo.mlp, zoo.OPTIMIZERS["momentum"], stages=stages, every=6)
    with pytest.raises(ReplayDriftError):
        aa.stage_effects(case.run, imposter(case), queries(), stages=[stages[-1][0]], cache=memory_cache())


def test_a_wrong_model_is_noticed_however_small_the_steps_are() -> None:
    case = make_case(zoo.mlp, lambda p: torch.optim.AdamW(p, lr=1e-4), dtype=torch.float32)
    changes = [
        max_difference(b.state.params, a.state.params)
        for a, b in zip(case.run.states, case.run.states[1:], strict=False)
    ]
    drifts = aa.replay_drift(case.run, imposter(case))
    assert max(d.absolute / c for d, c in zip(drifts, changes, strict=True)) > 0.5, (
        "it learns something else altogether"
    )
    with pytest.raises(ReplayDriftError):
        aa.step_effects(case.run, imposter(case), queries(dtype=torch.float32))


def test_a_nan_in_any_tensor_is_the_largest_difference() -> None:
    sound, broken = torch.zeros(2), torch.tensor([0.0, math.nan])
    assert math.isnan(max_difference({"a": broken, "b": sound}, {"a": sound, "b": sound}))
    assert math.isnan(max_difference({"a": sound, "b": broken}, {"a": sound, "b": sound}))


class Mixed(nn.Module):
    """Its norm was put into eval mode by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(zoo.FEATURES), nn.Linear(zoo.FEATURES, zoo.CLASSES)
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


def test_the_outputs_do_not_depend_on_what_was_asked_before() -> None:
    problem = aa.Problem(Mixed().double(), zoo.cross_entropy, device="cpu")
    params, buffers = dict(problem.model.named_parameters()), dict(problem.model.named_buffers())
    x, _ = zoo.examples(5, 0)

    def trained() -> Tensor:
        return problem.outputs(params, {n: b.clone() for n, b in buffers.items()}, x, training=True)

    first = trained()
    problem.outputs(params, {n: b.clone() for n, b in buffers.items()}, x, training=False)
    assert torch.equal(trained(), first)


# ---- requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("method", "boundary, additive"),
        ("curvature", "exact, ggn, none"),
        ("readout", "linear, displaced, link"),
        ("semantics", "freeze, zero_gradient"),
    ],
)
def test_a_misspelled_choice_is_shown_with_the_ones_that_exist(name: str, known: str) -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(RequestError, match=rf"{name}='exotic'; expected one of {known}"):
        aa.stage_effects(case.run, case.problem, queries(), **{name: "exotic"})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["curvature", "semantics"])
def test_so_it_is_for_step_effects(name: str) -> None:
    case = recorded("mlp", "sgd")
    with pytest.raises(RequestError, match=f"{name}='exotic'"):
        aa.step_effects(case.run, case.problem, queries(), **{name: "exotic"})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["readout", "curvature"])
def test_so_it_is_for_predictions(name: str) -> None:
    case = recorded("mlp", "sgd")
    what = aa.Counterfactual.skip("a")
    with pytest.raises(RequestError, match=f"{name}='exotic'"):
        aa.predict(case.run, case.problem, what, queries(), cache=memory_cache(), **{name: "exotic"})  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [aa.log_likelihood, aa.margin, aa.probability])
def test_a_performance_needs_one_target_per_example(make: Any) -> None:
    x, y = zoo.examples(5, 0)
    with pytest.raises(RequestError, match="5 inputs but 4 targets"):
        make(x, y[:4])
    with pytest.raises(RequestError, match="4 inputs but 5 targets"):
        make({"x": x, "mask": x[:4]}, y)
    with pytest.raises(RequestError, match="at least one"):
        make(x[:0], y[:0])


def test_a_mean_has_no_examples_to_select_and_a_gap_needs_two_means_of_one_score() -> None:
    with pytest.raises(RequestError, match="already a mean"):
        queries().mean()[0]
    with pytest.raises(RequestError, match="two means of the same score"):
        queries() - queries().mean()
    with pytest.raises(RequestError, match="two means of the same score"):
        queries().mean() - aa.margin(*zoo.examples(5, 0)).mean()


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "broadcast to [n, n]": lambda outputs, targets: -((outputs[:, :1] - targets) ** 2),
    "one for the batch": lambda outputs, targets: -(outputs[:, 0] - targets).square().mean(),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ask", [aa.stage_effects, aa.step_effects], ids=["stages", "steps"])
def test_a_score_that_is_not_one_number_per_example_is_refused(ask: Any, shape: str) -> None:
    case = recorded("mlp", "sgd")
    gamma = aa.performance(*zoo.examples(5, 9), SHAPES[shape], name="error", unit="squares")
    with pytest.raises(RequestError):
        ask(case.run, case.problem, gamma)


X, Y = zoo.examples(5, 9)
UNFIT: dict[str, tuple[Tensor, Tensor, str]] = {
    "other shape": (torch.zeros(5, 7, dtype=torch.float64), Y, r"inputs \[5, 7\] float64"),
    "other dtype": (X.float(), Y, r"inputs \[5, 6\] float32"),
    "labels out of range": (X, Y + zoo.CLASSES, r"out of bounds.*targets \[5\] int64"),
    "labels of another dtype": (X, Y.double(), r"targets \[5\] float64"),
}


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("ask", [aa.stage_effects, aa.step_effects, aa.path_shares], ids=["stages", "steps", "shares"])
def test_examples_that_do_not_go_with_the_model_are_described(ask: Any, unfit: str) -> None:
    case, (x, y, found) = recorded("mlp", "sgd"), UNFIT[unfit]
    with pytest.raises(RequestError, match=f"log-likelihood cannot be computed on these examples: .*{found}.*expected"):
        ask(case.run, case.problem, aa.log_likelihood(x, y))


@pytest.mark.parametrize("stray", [1.5, range(3), "a"], ids=str)
def test_a_step_or_an_example_is_a_whole_number(stray: Any) -> None:
    for make in (aa.Counterfactual.skip_steps, aa.Counterfactual.without_examples):
        with pytest.raises(RequestError, match="is no step and no row"):
            make(stray)


# ---- problems by name ------------------------------------------------------------------------------------------------


GOOD = """
import torch, aa_core as aa
def problem(config): return aa.Problem(torch.nn.Linear(config["in"], 2), torch.nn.functional.cross_entropy)
def other(config): return problem({"in": 7})
def nothing(config): return None
"""


@pytest.fixture
def problem_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_problem.py"
    path.write_text(GOOD)
    return path


def test_a_file_of_the_auditor_gives_the_problem_whatever_the_run_says(problem_file: Path) -> None:
    assert load_problem("digits-mlp", {"in": 3}, str(problem_file)).model.in_features == 3
    assert load_problem(None, {"in": 3}, f"{problem_file}:other").model.in_features == 7


def test_the_built_in_problem_is_found_by_name() -> None:
    assert "digits-mlp" in known_problems()
    found = load_problem("digits-mlp", {"hidden": 5})
    assert {tuple(p.shape) for p in found.model.parameters()} == {(5, 64), (5,), (10, 5), (10,)}


def test_an_unknown_problem_is_named_with_the_registered_ones_and_the_way_out() -> None:
    for name, chosen in (("zork", None), ("digits-mlp", "zork")):
        with pytest.raises(ProblemError, match=r"'zork'.*not registered.*digits-mlp.*--problem"):
            load_problem(name, {}, chosen)
    with pytest.raises(ProblemError, match="names no problem"):
        load_problem(None, {})


def test_a_problem_file_that_is_missing_or_lacks_the_function_is_an_error(problem_file: Path) -> None:
    with pytest.raises(ProblemError, match=r"elsewhere\.py: no such file"):
        load_problem(None, {}, str(problem_file.with_name("elsewhere.py")))
    with pytest.raises(ProblemError, match=r"elsewhere\.py: no such file"):
        load_problem(None, {}, f"{problem_file.with_name('elsewhere.py')}:other")
    with pytest.raises(ProblemError, match=r"my_problem\.py: has no function 'absent'"):
        load_problem(None, {}, f"{problem_file}:absent")


def test_a_function_that_returns_no_problem_is_an_error(problem_file: Path) -> None:
    with pytest.raises(ProblemError, match=r"my_problem\.py:nothing: returned NoneType, expected an aa_core.Problem"):
        load_problem(None, {}, f"{problem_file}:nothing")


def test_a_path_in_the_run_is_never_imported(tmp_path: Path) -> None:
    canary, hostile = tmp_path / "canary", tmp_path / "hostile.py"
    hostile.write_text(f"open({str(canary)!r}, 'w')\ndef problem(config): ...\n")
    for name in (str(hostile), f"{hostile}:problem", "hostile", "os:system"):
        with pytest.raises(ProblemError, match="not registered"):
            load_problem(name, {})
    assert not canary.exists()


def test_a_problem_file_may_define_a_dataclass(tmp_path: Path) -> None:
    path = tmp_path / "with_dataclass.py"
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Config:\n    n: int\n"
    )
    path.write_text(head + GOOD)
    assert load_problem(None, {"in": 3}, str(path)).model.in_features == 3


def test_the_right_problem_gives_the_same_effects_as_the_recorded_one() -> None:
    case = recorded("mlp", "adam", every=5)
    torch.manual_seed(99)
    fresh = aa.Problem(zoo.mlp().double(), zoo.cross_entropy, device="cpu")
    assert fresh.fingerprint == case.problem.fingerprint != imposter(case).fingerprint
    assert_close(stages_of(case.run, fresh).effects, stages_of(case.run, case.problem).effects, 1e-13)


def test_a_path_in_place_of_a_run_and_a_model_in_place_of_a_problem_are_named() -> None:
    case = recorded("mlp", "momentum")
    with pytest.raises(RequestError, match="open_run"):
        aa.stage_effects("runs/digits", case.problem, queries())  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="Problem"):
        aa.step_effects(case.run, case.problem.model, queries().mean())  # type: ignore[arg-type]
