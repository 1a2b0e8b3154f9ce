"""An experiment is planned in a file, recorded, measured against retraining, stored, and written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import aa_core as aa
from aa_core.cli import app
from aa_core.errors import RequestError
from aa_core.registry import load_problem
from sample_runs.experiment import command
from sample_runs.experiment.blocks import Heading, Picture, Table, Text, html, markdown
from sample_runs.experiment.command import data_folder
from sample_runs.experiment.measure import holds, judged, measure
from sample_runs.experiment.page import PAGE, experiment_blocks, results_page, targets, variants
from sample_runs.experiment.pictures import Effects, effects_chart
from sample_runs.experiment.plan import Case, Finding, Judged, Plan, experiments, read_plan
from sample_runs.experiment.record import Course, Pool, batches, record
from sample_runs.experiment.results import Results, Trained, read_results, results_path, stored_results, write_results
from sample_runs.loaders import DataError

STAGES = ("one", "two", "three")
CASE = Case.model_validate(
    {
        "name": "tiny",
        "question": "Which stage hurt?",
        "problem": "pictures-mlp",
        "config": {"pixels": 4, "hidden": 3, "classes": 2},
        "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.5},
        "batch": 8,
        "together": "all",
        "left_out": "picture-0",
        "stages": [{"name": n, "steps": 8, "data": {"wrong": n == "two"}} for n in STAGES],
        "performances": [{"name": "all"}, {"name": "the colour", "confounder": "colour"}],
        "findings": [{"says": "two hurts", "performance": "all", "kind": "lowest", "stages": ["two"]}],
    },
    strict=False,
)


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """2 x 2 pictures whose first pixel tells the label."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=generator)
    x = torch.randint(0, 256, (count, 2, 2), generator=generator, dtype=torch.uint8)
    x[:, 0, 0] = (y * 255).to(torch.uint8)
    return x, y


def tiny_course() -> Course:
    x, y = pictures(40, 0)
    test_x, test_y = pictures(12, 1)
    table = pd.DataFrame({"colour": 1 - test_y.numpy()})
    ids = [f"picture-{i}" for i in range(40)]
    return Course(
        lambda stage: Pool(x, 1 - y if stage.data["wrong"] else y, ids), aa.Evaluation(test_x, test_y, metadata=table)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> aa.Trajectory:
    return record(tmp_path_factory.mktemp("tiny") / "run", CASE, tiny_course(), 0, "tiny")


@pytest.fixture(scope="module")
def trained(run: aa.Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AA_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))
        return measure(run, load_problem(run.header.problem.name, run.header.problem.config), CASE, 0).trained


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", experiments())
def test_shipped_plans_are_sound(name: str) -> None:
    plan = read_plan(name)
    assert plan.tuned and plan.shipped in [c.name for c in plan.cases] and len(plan.seeds) >= 3
    for case in plan.cases:
        stages, performances = {s.name for s in case.stages}, {p.name for p in case.performances}
        for finding in case.findings:
            assert set(finding.stages) <= stages and finding.performance in performances
        assert case.together in (None, *performances)
        assert case.baseline in (None, *(c.name for c in plan.cases))


def test_a_case_takes_over_what_it_is_like(tmp_path: Path) -> None:
    assert read_plan("mnist").case("momentum 0.5").stages == read_plan("mnist").case("rotations").stages
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "experiment.toml").write_text('[[cases]]\nname = "a"\nlike = "b"\n')
    with pytest.raises(RequestError, match="like 'b'"):
        read_plan("odd", tmp_path)
    (tmp_path / "odd" / "experiment.toml").write_text('title = "x"\nextra = 1\n')
    with pytest.raises(RequestError, match=r"(?s)question.*extra"):
        read_plan("odd", tmp_path)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"no experiment 'nist'; there are .*mnist"):
        read_plan("nist")
    with pytest.raises(RequestError, match=r"no case 'x'; there are rotations"):
        read_plan("mnist").case("x")


# ---- recording -------------------------------------------------------------------------------------------------------


def test_batches_go_through_shuffled_epochs_and_hold_what_is_always_there() -> None:
    pool = Pool(torch.arange(7), torch.arange(7), [str(i) for i in range(7)], always=1)
    drawn = [(ids, x) for ids, x, _ in batches(pool, 4, 4, torch.Generator().manual_seed(0))]
    assert all(ids[0] == "0" and len(ids) == 4 for ids, _ in drawn)
    assert all([str(i) for i in x.tolist()] == ids for ids, x in drawn)
    for epoch in (drawn[:2], drawn[2:]):
        assert sorted(int(i) for ids, _ in epoch for i in ids[1:]) == [1, 2, 3, 4, 5, 6]


def test_a_stage_with_an_optimizer_of_its_own_goes_on_with_adapters_alone(tmp_path: Path) -> None:
    text = torch.randint(0, 5, (12, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    course = Course(
        lambda stage: Pool(text[:, :-1], text[:, 1:], [str(i) for i in range(12)]),
        aa.Evaluation(text[:, :-1], text[:, 1:]),
    )
    run = record(tmp_path / "run", ADAPTED, course, 0, "adapted")
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    assert [p.start for p in run.phases] == [0, 3] and all(n.endswith((".up", ".down")) for n in run.phases[1].trained)
    assert all(d.within_tolerance for d in aa.replay_drift(run, problem))
    without, final = aa.retrain(run, problem, aa.Counterfactual.skip("after")), aa.final_model(run, problem)
    moved = {n for n, p in final.params.items() if not torch.equal(p, without.params[n])}
    assert moved == set(run.phases[1].trained)


ADAPTED = Case.model_validate(
    {
        "name": "adapted",
        "question": "Do adapters go on from the model as it was?",
        "problem": "small-gpt2",
        "config": {"characters": 5, "length": 6, "width": 4, "layers": 1, "heads": 2, "rank": 2},
        "optimizer": {"name": "AdamW", "lr": 0.01},
        "batch": 4,
        "stages": [
            {"name": "before", "steps": 3},
            {"name": "after", "steps": 2, "optimizer": {"name": "SGD", "lr": 0.1}},
        ],
    },
    strict=False,
)


def test_recording_depends_on_the_seed_alone(run: aa.Trajectory, tmp_path: Path) -> None:
    again, other = (record(tmp_path / f"{s}", CASE, tiny_course(), s, "tiny") for s in (0, 1))
    final = [r.load(r.steps).state.params["layers.0.weight"] for r in (run, again, other)]
    assert torch.equal(final[0], final[1]) and not torch.equal(final[0], final[2])


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_truth_is_real_retraining_and_the_estimates_are_the_engine_s(run: aa.Trajectory, trained: Trained) -> None:
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    evaluation = run.evaluation
    assert evaluation is not None
    gamma = aa.log_likelihood(evaluation.x, evaluation.y)
    recorded = aa.final_model(run, problem).performance(gamma)
    truth = torch.stack(
        [recorded - aa.retrain(run, problem, aa.Counterfactual.skip(s)).performance(gamma) for s in STAGES]
    )
    estimate = aa.stage_effects(run, problem, gamma).effects
    means = trained.means[0]
    assert np.allclose(means.truth, truth.mean(1)) and np.allclose(means.engine, estimate.mean(1))
    figures = trained.figures("boundary", "exact", "linear")
    assert figures.pairs.pearson == pytest.approx(aa.agreement(estimate.numpy(), truth.numpy()).pearson)
    confounded = trained.means[1]
    assert confounded.name == "the colour" and confounded.truth[1] > 0 > means.truth[1]


def test_a_left_out_example_is_really_left_out(run: aa.Trajectory, trained: Trained) -> None:
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    gamma = judged(run, CASE.performances[0]).mean()
    row = next(r for r in range(80) if run.example_ids(torch.tensor([r])) == ["picture-0"])
    without = aa.retrain(run, problem, aa.Counterfactual.without_examples(row)).performance(gamma)
    truth = float(aa.final_model(run, problem).performance(gamma) - without)
    assert trained.left_out[0].truth == pytest.approx(truth)


def test_stages_that_are_skipped_together_are_those_that_the_estimate_names(
    run: aa.Trajectory, trained: Trained
) -> None:
    problem = load_problem(run.header.problem.name, run.header.problem.config)
    highest, lowest = trained.together
    assert set(highest.stages) == set(lowest.stages) == set(STAGES)  # three of three
    gamma = judged(run, CASE.performances[0]).mean()
    without = aa.retrain(run, problem, aa.Counterfactual.skip(*STAGES)).performance(gamma)
    assert highest.without == pytest.approx(float(without)) and highest.truth == highest.recorded - highest.without


def test_performances_are_of_the_examples_asked_for(run: aa.Trajectory) -> None:
    evaluation = run.evaluation
    assert evaluation is not None and evaluation.metadata is not None
    some = judged(run, Judged(name="some", where={"colour": 1}))
    assert torch.equal(some.targets, evaluation.y[evaluation.y == 0])
    colours = judged(run, Judged(name="colours", confounder="colour"))
    assert colours.targets.tolist() == evaluation.metadata["colour"].tolist()


@pytest.mark.parametrize(
    ("kind", "stages", "expected"),
    [
        ("highest", ["c"], True),
        ("highest", ["c", "a"], True),
        ("highest", ["a"], False),
        ("lowest", ["b"], True),
        ("negative", ["b"], True),
        ("negative", ["a", "b"], False),
        ("positive", ["a", "c"], True),
        ("positive", ["b"], False),
    ],
)
def test_claims_on_effects(kind: str, stages: list[str], expected: bool) -> None:
    claim = Finding.model_validate(
        {"says": "", "performance": "", "kind": kind, "stages": stages},
        strict=False,
    )
    assert holds(claim, pd.Series({"a": 1.0, "b": -1.0, "c": 2.0})) is expected


# ---- stored, and written down ----------------------------------------------------------------------------------------


def plan_of(case: Case) -> Plan:
    said = dict.fromkeys(("title", "question", "data", "tuned"), "said")
    return Plan(**said, seeds=(0,), shipped=case.name, cases=(case,))


def test_results_are_read_as_they_were_written_to_four_digits(trained: Trained, tmp_path: Path) -> None:
    found = Results(experiment="tiny", date="2026-01-01", machine="here", trained=(trained,))
    write_results(found, tmp_path / "results.json")
    again = read_results(tmp_path / "results.json")
    assert again.trained[0].means[0].truth == pytest.approx(trained.means[0].truth, rel=1e-3)
    assert again.trained[0].default == trained.default
    with pytest.raises(RequestError, match="run `aa experiment`"):
        read_results(tmp_path / "none.json")


def test_a_page_shows_every_estimator_finding_and_picture(trained: Trained) -> None:
    found = Results(experiment="tiny", date="2026-01-01", machine="here", trained=(trained,))
    text = markdown(experiment_blocks(plan_of(CASE), found), "here/")
    pearson = trained.figures("boundary", "exact", "linear").pairs.pearson
    assert f"| boundary, exact, linear (the engine's default) | {pearson:.2f} |" in text
    assert "| two hurts | " in text and "picture" in text and "(here/tiny-tiny-effects.svg)" in text


def test_variants_are_compared_with_their_baseline(trained: Trained) -> None:
    double = [m.model_copy(update={"truth": tuple(2 * e for e in m.truth)}) for m in trained.means]
    other = trained.model_copy(update={"case": "other", "means": tuple(double)})
    plan = plan_of(CASE)
    plan = plan.model_copy(update={"cases": (CASE, CASE.model_copy(update={"name": "other", "baseline": "tiny"}))})
    found = Results(experiment="tiny", date="2026-01-01", machine="here", trained=(trained, other))
    base, varied = variants(plan, found, "tiny").rows
    size = np.abs([e for m in trained.means for e in m.truth]).mean()
    assert base[2] == f"{size:.3f}" and varied[2] == f"{2 * size:.3f}" and base[3] == varied[3] == "1.00"


def test_targets_are_asked_only_where_the_verdict_trusts(trained: Trained) -> None:
    figures = trained.figures("calibrated")
    bad = figures.model_copy(update={"pairs": figures.pairs.model_copy(update={"pearson": 0.5})})
    kept = [e for e in trained.estimators if e.name != trained.default]
    poor = trained.model_copy(update={"estimators": (bad, *kept), "found": (), "single_steps_verdict": "nothing"})
    assert targets([poor.model_copy(update={"verdict": "rank"})]).startswith("missed: r")
    assert targets([poor.model_copy(update={"verdict": "nothing"})]) == "met (r and sign not asked)"


def test_pages_show_names_literally() -> None:
    hostile = "<script>alert(1)</script>"
    chart = effects_chart([Effects(hostile, [hostile], [[1.0]], [[2.0]])], hostile)
    blocks = [Heading(1, hostile), Text(hostile), Table([hostile], [[hostile]]), Picture("a.svg", chart, hostile)]
    assert "<script" not in html(blocks, hostile)


def test_the_results_page_is_that_of_the_stored_results() -> None:
    assert PAGE.read_text("utf-8") == markdown(results_page(), "images/results/")


def test_stored_results_name_the_runs_that_they_are_about() -> None:
    stored = stored_results()
    assert set(stored.values()) == {results_path(n) for n in experiments() if results_path(n).is_file()}


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AA_DATA", raising=False)
    for arguments, said in (
        (["nist"], "no experiment"),
        (["mnist"], "where are the data?"),
        (["mnist", "--data", str(tmp_path), "-o", str(tmp_path / "out")], "expected train-images-idx3-ubyte"),
    ):
        result = CliRunner().invoke(app, ["experiment", *arguments])
        assert result.exit_code == 1 and said in result.output, result.output


def test_a_case_without_its_data_is_left_out_only_if_it_is_optional_and_nobody_asked_for_it(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def one(name: str, plan: Plan, case: Case, *_: object) -> Trained:
        if case.optional:
            raise DataError("no faces")
        return trained.model_copy(update={"case": case.name})

    monkeypatch.setattr(command, "_one", one)
    said: list[str] = []
    page = command.run_experiment("coloured", data=tmp_path, seeds=1, out=tmp_path, say=said.append)
    assert "left out: no faces" in said and "Planned, and not measured here: faces" in page.read_text("utf-8")
    with pytest.raises(DataError):
        command.run_experiment("coloured", data=tmp_path, cases=("faces",), out=tmp_path, say=said.append)


def test_an_interrupted_experiment_goes_on_with_the_run_that_was_cut_short(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[tuple[str, int]] = []

    def one(name: str, plan: Plan, case: Case, seed: int, *_: object) -> Trained:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append((case.name, seed))
        return trained.model_copy(update={"case": case.name, "seed": seed})

    monkeypatch.setattr(command, "_one", one)
    with pytest.raises(KeyboardInterrupt):
        command.run_experiment("xray", data=tmp_path, out=tmp_path)
    begun = measured.copy()
    measured.clear()
    command.run_experiment("xray", data=tmp_path, out=tmp_path, resume=True)
    assert begun + measured == [("site marker", seed) for seed in (0, 1, 2)]
    assert [t.seed for t in read_results(tmp_path / "results.json").trained] == [0, 1, 2]
    measured.clear()
    command.run_experiment("xray", data=tmp_path, out=tmp_path, cases=("site marker",), seeds=2)
    assert len(measured) == 2, "without resume, what is asked for is measured again"


def test_the_folder_of_the_data_can_be_set_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AA_DATA", str(tmp_path))
    assert data_folder(None) == tmp_path and data_folder(Path("other")) == Path("other")
    monkeypatch.delenv("AA_DATA")
    with pytest.raises(DataError, match="AA_DATA"):
        data_folder(None)
