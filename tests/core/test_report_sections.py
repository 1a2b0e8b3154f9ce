"""The sections of a report: subgroups, calibration and noise, another run, the auditor's own statements."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from aa_core.confidence.calibrate import calibrate
from aa_core.confidence.calibration import Calibration
from aa_core.effects.attribution import Attribution, stage_effects
from aa_core.errors import RequestError
from aa_core.performance import log_likelihood
from aa_core.problem import Problem
from aa_core.records import Phase
from aa_core.reporting.about import About, read_about
from aa_core.reporting.blocks import Figure, Heading, Table
from aa_core.reporting.html import to_html
from aa_core.reporting.pages import pages
from aa_core.reporting.report import Context, build_report, report_from
from aa_core.reporting.sections import stage_section
from aa_core.reporting.tables import to_frames
from tests.core.report_case import STEPS, ToldRun, make
from tests.core.test_report_harmless import without_scripts

STAGES = ("first", "middle", "last")
N = 40


def told(columns: dict[str, list] | None = None, **changes) -> tuple[ToldRun, Problem, Attribution]:
    run, problem = make(STAGES, n=N)
    metadata = None if columns is None else pd.DataFrame(columns)
    run = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, metadata=metadata, **changes))
    judged = log_likelihood(run.evaluation.x, run.evaluation.y)
    return run, problem, stage_effects(run, problem, judged, readout="linear")  # whatever another test calibrated


# ---- subgroups -------------------------------------------------------------------------------------------------------


def test_subgroups_are_means_over_classes_and_over_columns_with_few_values() -> None:
    site = ["a" if i % 3 else "b" for i in range(N)]
    run, _, effects = told({"site": site, "serial": list(range(N)), "constant": [1] * N})
    groups = report_from(run, effects).groups
    columns = {"label": run.evaluation.y.tolist(), "site": site}
    wanted = [(c, str(v)) for c, values in columns.items() for v in sorted(set(values))]
    assert [(g.column, g.value) for g in groups.groups] == wanted
    for j, group in enumerate(groups.groups):
        members = [i for i, v in enumerate(columns[group.column]) if str(v) == group.value]
        assert group.n == len(members)
        for i in range(len(STAGES)):
            assert groups.effect[i][j] == pytest.approx(float(effects.effects[i, members].mean()), rel=1e-9)
            if len(members) >= 8:
                assert groups.low[i][j] < groups.effect[i][j] < groups.high[i][j]
            else:
                assert groups.low[i][j] is groups.high[i][j] is None


def test_a_column_that_is_the_label_again_is_no_second_group() -> None:
    run, _ = make(STAGES, n=N)
    names = ("zero", "one", "two", "three")
    y = run.evaluation.y.tolist()
    run, _, effects = told({"digit": y, "name": [names[i] for i in y]}, class_names=names)
    groups = report_from(run, effects).groups
    assert {g.column for g in groups.groups} == {"label"}
    assert [g.value for g in groups.groups] == sorted(names)


def test_subgroups_are_those_of_the_picked_examples() -> None:
    run, problem, _ = told({"site": ["a", "b"] * (N // 2)})
    report = build_report(run, problem, examples=[1, 3, 5, 0], with_steps=False)
    assert {(g.value, g.n) for g in report.groups.groups if g.column == "site"} == {("a", 1), ("b", 3)}
    every = stage_effects(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y)).effects
    place = [g.value for g in report.groups.groups].index("b")
    assert report.groups.effect[0][place] == pytest.approx(float(every[0, [1, 3, 5]].mean()), rel=1e-9)


# ---- the training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sound", [True, False])
def test_a_replay_that_was_done_is_told(sound: bool) -> None:
    run, _, effects = told()
    replay = {"words": "2 of 3 segments replayed", "sound": sound, "job": "0123"}
    page = without_scripts(to_html(report_from(run, effects, context=Context(replay=replay))))
    assert "2 of 3 segments replayed (job 0123)" in page
    assert ("The recorded training does not replay" in page) == (not sound)
    assert "not replayed in this workspace" in without_scripts(to_html(report_from(run, effects)))


def test_each_stage_says_by_which_optimizer_it_was_trained() -> None:
    run, *_ = told()
    changed = TwoOptimizers(**{f.name: getattr(run, f.name) for f in dataclasses.fields(run)})
    found = [stage_section(changed, s).optimizer for s in changed.stages]
    assert found == ["SGD", "SGD, then AdamW", "AdamW"]


class TwoOptimizers(ToldRun):
    @property
    def phases(self) -> tuple[Phase, ...]:
        return Phase(0, "SGD", (), ()), Phase(STEPS + 1, "AdamW", (), ())


# ---- calibration and noise -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated() -> tuple[ToldRun, Problem, Calibration]:
    run, problem, _ = told()
    return run, problem, calibrate(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y))


def test_a_calibration_chooses_the_estimator_and_counts_as_retraining(calibrated) -> None:
    run, problem, found = calibrated
    report = build_report(run, problem, with_steps=False)
    chosen = found.default
    assert (report.method.method, report.method.curvature, report.method.readout) == (
        chosen.method,
        chosen.curvature,
        chosen.readout,
    )
    assert report.calibration.truth == pytest.approx(found.truth, rel=1e-9)
    assert report.calibration.same_question and [e.used for e in report.calibration.estimators].count(True) == 1
    assert report.answer.status in ("confirmed", "refuted") and "calibration measured here" in report.answer.lines[2]
    page = without_scripts(to_html(report))
    assert "Every estimator against retraining." in page and "used in this report" in page
    assert len(to_frames(report)["calibration"]) == len(found.estimators) + 1


def test_what_was_chosen_by_hand_is_not_overruled(calibrated) -> None:
    run, problem, _ = calibrated
    report = build_report(run, problem, curvature="ggn", with_steps=False)
    assert (report.method.method, report.method.curvature, report.method.readout) == ("boundary", "ggn", "linear")


def test_a_calibration_of_another_question_is_shown_as_such_and_confirms_nothing(calibrated) -> None:
    run, problem, found = calibrated
    report = build_report(run, problem, examples=list(range(10)), with_steps=False)
    assert not report.calibration.same_question and report.answer.status == "estimate"
    assert report.reliability.noise_of_mean == pytest.approx(found.noise_of_value, rel=1e-9)
    assert all(row.within_noise is False for row in report.stages)
    assert f"on all {found.values:,} examples, of which these are 10" in report.reliability.words
    assert "another performance than this report" in without_scripts(to_html(report))


def test_effects_up_to_the_noise_floor_are_marked_in_words_table_and_limits(calibrated) -> None:
    run, problem, found = calibrated
    effects = stage_effects(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y))
    means = effects.effects.mean(1).abs()
    loud = found.model_copy(update={"noise_of_mean": float(means.median())})
    reliability = dataclasses.replace(effects.reliability, calibration=loud)
    report = report_from(run, dataclasses.replace(effects, reliability=reliability))
    small = [s for s, m in zip(STAGES, means.tolist(), strict=True) if m <= loud.noise_of_mean]
    assert [r.stage for r in report.stages if r.within_noise] == small and 0 < len(small) < len(STAGES)
    assert any(w.startswith("Within noise") and small[0] in w for w in report.limitations)
    assert "within noise" in without_scripts(to_html(report))


# ---- another run -----------------------------------------------------------------------------------------------------


def test_another_run_is_put_beside_it_by_the_names_of_its_stages() -> None:
    run, problem, effects = told()
    other, theirs = make(("middle", "extra"), n=N)
    report = build_report(run, problem, against=(other, theirs), readout="linear", with_steps=False)
    judged = log_likelihood(other.evaluation.x, other.evaluation.y)
    there = stage_effects(other, theirs, judged, readout="linear").effects.mean(1)
    found = report.comparison
    assert found.digest == other.digest and found.stage == (*STAGES, "extra")
    assert found.here[:3] == pytest.approx(effects.effects.mean(1).tolist(), rel=1e-9) and found.here[3] is None
    assert found.there[0] is None and found.there[1] == pytest.approx(float(there[0]), rel=1e-9)
    page = without_scripts(to_html(report))
    assert "Beside another run" in page and "pale = this run" in to_html(report)


# ---- the auditor -----------------------------------------------------------------------------------------------------

SHEET = """
auditor = "A. <b>Nother</b>"
organisation = "Audits & Sons"
independence = "No ties to the provider."
[[sign_off]]
name = "A. Nother"
role = "lead auditor"
date = "2031-05-01"
"""


def test_the_auditors_statements_are_printed_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "about.toml").write_text(SHEET)
    run, problem, _ = told()
    about = read_about(tmp_path / "about.toml")
    page = without_scripts(to_html(build_report(run, problem, with_steps=False, context=Context(about=about))))
    for shown in ("A. &lt;b&gt;Nother&lt;/b&gt;", "Audits &amp; Sons", "No ties to the provider.", "2031-05-01"):
        assert shown in page
    assert page.count("Not stated.") == len(About.model_fields) - 4
    assert "Not signed off" not in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auditer = 'x'", "auditer"),
        ("auditor = 3", "auditor"),
        ("auditor =", "TOML"),
        ("[[sign_off]]\nname='x'", "role"),
    ],
)
def test_a_cover_sheet_that_is_wrong_is_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "about.toml").write_text(text)
    with pytest.raises(RequestError, match=said):
        read_about(tmp_path / "about.toml")
    with pytest.raises(RequestError, match="no-such"):
        read_about(tmp_path / "no-such.toml")


# ---- no number without its basis -------------------------------------------------------------------------------------


def test_every_figure_and_table_of_effects_says_unit_sign_n_and_verdict(calibrated) -> None:
    run, problem, _ = calibrated
    other, theirs = make(("middle", "extra"), n=N)
    report = build_report(run, problem, against=(other, theirs))
    blocks = list(pages(report, ()))
    told_of = [
        b for b in blocks if isinstance(b, Figure | Table) and any(w in b.words for w in ("helped", "Estimated"))
    ]
    assert len(told_of) >= 10
    for block in told_of:
        assert "positive = " in block.words and f"n = {N}" in block.words, block.words
        assert any(w in block.words for w in ("trust ", "Trust ")), block.words
    figures = [b for b in blocks if isinstance(b, Figure)]
    for figure in figures[1:]:
        for part in (
            run.digest[:12],
            report.selection.evaluation[:12],
            f"n = {N}",
            "float64",
            "cpu",
            "seed 0",
            "code ",
        ):
            assert part in figure.evidence, (part, figure.evidence)
    places = [address for f in figures for _, address in f.link.places]
    assert all(address.count("?") == 1 and f"digest={run.digest[:12]}" in address for address in places)
    assert all(bool(f.link.places) != bool(f.link.instead) for f in figures)


def test_the_sections_come_in_the_order_of_an_audit_report() -> None:
    run, _, effects = told()
    titles = [b.text for b in pages(report_from(run, effects), ()) if isinstance(b, Heading) and b.level == 2]
    assert titles == [
        "How far to believe it",
        "Auditor and independence",
        "Scope",
        "The system and its training",
        "Data",
        "Method",
        "Results",
        "Checked by retraining",
        "Findings",
        "Limits and validity",
        "What was done, and when",
        "Sign-off",
        "Reproduce and verify",
        "Appendix A: provenance",
        "Appendix B: tables",
        "Appendix C: glossary",
        "Appendix D: record-keeping rules",
    ]


def test_no_report_claims_conformity() -> None:
    run, _, effects = told()
    page = without_scripts(to_html(report_from(run, effects))).lower()
    assert "supports record keeping for" in page
    assert "compliant" not in page and "complies" not in page and "certified" not in page
