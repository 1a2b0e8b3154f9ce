"""Every screen draws, answers its widgets, and refuses what it should, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import aa_core as aa
from aa_core import jobs
from aa_core.reporting.sections import run_section
from dashboard.selection import NOTHING, OPTIONS
from dashboard.service import retraining
from tests.core.job_run import wait
from tests.dashboard.conftest import HOSTILE, SAMPLES, VIEWS, Open, checked, record, said


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("run", ["good", "hostile", "unjudged"])
def test_every_view_draws_every_run(screen: Open, view: str, run: str) -> None:
    app = screen(view, run=run)
    assert app.title


@pytest.mark.parametrize(("name", "option"), [(n, o) for n, options in OPTIONS.items() for o in options[1:]])
def test_every_estimator_draws(screen: Open, name: str, option: str) -> None:
    app = screen("explore", run="hostile")
    checked(app.selectbox(f"pick:{name}").select(option).run())
    assert app.query_params[name] == option
    assert "positive = the stage helped" in said(app).lower()


def test_overview_says_what_the_run_is(screen: Open) -> None:
    words = said(screen("overview", run="good"))
    assert words.count("<td class='muted more'>AdamW</td>") == 3, "each stage says by which optimizer"
    assert "1,400 distinct<br>7,680 uses" in words and "1,400 distinct<br>3,840 uses" in words
    assert "1,191 examples" in words
    assert "files match their digests" in words
    assert "fine-tune 90°" in words


def test_the_first_run_that_opens_is_shown_when_none_is_asked_for(screen: Open) -> None:
    assert screen("overview").query_params["run"] == "confounded"  # after "broken", before "good"


def test_a_run_that_cannot_be_opened_says_why_and_leaves_the_others(screen: Open) -> None:
    app = screen("overview", run="broken")
    assert "cannot be opened" in said(app)
    assert "0000000001.json" in said(app)
    checked(app.selectbox("pick:run").select("good").run())
    assert "AdamW" in said(app)


def test_a_training_that_exploded_is_shown_and_not_attributed(
    screen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(RuntimeWarning, match="recording goes on"):
        record(tmp_path / "exploded", words="plain", title="Exploded", lr=1e200)
    monkeypatch.setenv("AA_RUNS_DIRS", str(tmp_path))
    words = said(screen("overview", run="exploded"))
    assert "The training did not stay finite" in words and words.count("not finite from step 1 on") == 1, "said once"
    assert "nothing can be attributed across that step" in said(screen("explore", run="exploded"))


def test_an_unknown_run_is_refused(screen: Open) -> None:
    assert "no run of this name" in said(screen("overview", run="../../etc"))


def test_a_stale_link_is_refused_until_one_insists(screen: Open) -> None:
    app = screen("overview", run="good", digest="0" * 12)
    assert "another version of the run" in said(app)
    assert "AdamW" not in said(app)
    checked(app.button[0].click().run())
    assert "AdamW" in said(app)


def test_a_bad_part_of_a_link_is_noted_and_the_rest_shown(screen: Open) -> None:
    app = screen("explore", run="good", performance="accuracy", examples="9999", wrong="1")
    assert "Part of this link was ignored" in said(app)
    assert "performance=accuracy" in said(app)
    assert "9999 is no evaluation example" in said(app)
    assert app.toggle("pick:wrong").value


@pytest.mark.parametrize("view", VIEWS)
def test_strings_of_a_run_are_never_markup(screen: Open, view: str) -> None:
    app = screen(view, run="hostile")
    for element in [*app.markdown, *app.caption, *app.title, *app.checkbox]:
        words = str(getattr(element, "value", "")) + str(getattr(element, "label", ""))
        assert HOSTILE[:20] not in words
        assert "**bold**" not in words
        assert "\u202e" not in words, "it would turn what follows"
    for element in app.get("html"):
        assert "<img" not in element.proto.body


def test_filters_narrow_what_the_charts_are_about(screen: Open) -> None:
    app = screen("explore", run="good")
    checked(app.toggle("pick:wrong").set_value(True).run())
    assert "filtered example" in said(app)
    checked(app.multiselect("pick:labels").select(3).run())
    assert app.query_params["labels"] == "3"
    checked(app.text_input("pick:text").input("zebra").run())
    assert "No example passes these filters" in said(app)
    checked(next(b for b in app.button if b.label == "Clear").click().run())
    assert "all 1,191 evaluation examples" in said(app)


def test_picked_examples_are_what_the_charts_are_about(screen: Open) -> None:
    app = screen("explore", run="good")
    checked(app.multiselect("pick:examples").set_value([3]).run())
    assert "Effect on example 3" in said(app)
    assert app.query_params["examples"] == "3"


def test_of_very_many_examples_the_number_is_typed(screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.browser.MOST_OFFERED", 10)
    app = checked(screen("explore", run="good", examples="3"))
    field = app.multiselect(key="pick:examples")
    assert field.options == ["#3"] and "type a number to pick" in field.placeholder


def test_zoom_into_a_stage_and_a_step_and_back(screen: Open) -> None:
    app = screen("explore", run="good", stage="fine-tune 90°", steps="200-200")
    assert "Step 200" in said(app)
    assert "64 examples" in said(app)
    checked(next(b for b in app.button if b.label == "All stages").click().run())
    assert "stage" not in app.query_params
    assert "Click a bar to see its steps" in said(app)


@pytest.mark.parametrize(
    ("chart", "words"),
    [("layers", "add up to its effect"), ("causes", "Momentum is what"), ("shares", "Exact, and no effect")],
)
def test_effects_are_split_and_path_shares_stand_beside_them(screen: Open, chart: str, words: str) -> None:
    app = screen("explore", run="hostile", chart=chart)
    assert words in said(app)
    assert len(app.get("plotly_chart")) == 1


def test_a_step_shows_its_training_examples_ranked_and_hands_them_to_what_if(screen: Open) -> None:
    app = screen("explore", run="good", stage="fine-tune 90°", steps="200-200", examples="3", without="5")
    assert "They add up to" in said(app)
    (tiles,) = (e for e in app.get("bidi_component") if "batch" in str(e.proto))
    effects = [float(item["lines"][1][1].replace("\u2212", "-")) for item in json.loads(tiles.proto.json)["items"]]
    assert effects == sorted(effects, reverse=True) and effects[0] > 0 > effects[-1]
    checked(next(b for b in app.button if b.label == "Forget them").click().run())
    assert "without" not in app.query_params


def test_a_step_can_be_chosen_with_the_keyboard(screen: Open) -> None:
    app = screen("explore", run="good", stage="fine-tune 90°")
    checked(app.number_input("pick:steps").set_value(201).run())
    assert app.query_params["steps"] == "201-201"
    assert "Step 201" in said(app)


def test_a_long_stage_is_drawn_in_bins_that_open(screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.service.estimates.BARS", 20)
    app = screen("explore", run="good", stage="fine-tune 90°")
    assert "the 3 steps that it sums" in said(app)
    zoomed = screen("explore", run="good", stage="fine-tune 90°", steps="183-185")
    assert "Click a bar to see its training examples" in said(zoomed)
    checked(next(b for b in zoomed.button if b.label == "All steps of the stage").click().run())
    assert "steps" not in zoomed.query_params


def test_the_likelihood_of_a_confounder_is_a_performance(screen: Open) -> None:
    app = screen("explore", run="confounded", performance="confounder:site")
    assert "it made the model follow that more" in said(app)
    assert "confounder:rotation is no performance of this run" in said(
        screen("explore", run="good", performance="confounder:rotation")
    )


def test_what_if_predicts_what_is_ticked(screen: Open) -> None:
    app = screen("whatif", run="good")
    assert "Nothing is changed yet" in said(app)
    checked(app.checkbox("skip:1").check().run())
    assert app.query_params["skip"] == "fine-tune 45°"
    assert "The model would be worse by" in said(app)
    assert "Retrain to verify" in said(app)


def test_a_run_that_was_calibrated_opens_with_the_estimator_that_did_best(calibrated: Open) -> None:
    app = calibrated("explore", run="digits-adamw")
    assert app.query_params["readout"] == "displaced"
    assert "Calibrated by whoever made or passed on this run, not measured here" in said(app)
    assert "readout" not in calibrated("explore", run="digits-adamw", digest=app.query_params["digest"]).query_params


def test_reliability_says_what_may_be_trusted_and_why(calibrated: Open) -> None:
    app = calibrated("reliability", run="digits-adamw", readout="link")
    words = said(app)
    assert "do not trust" in words and "Sizes" in words
    assert "boundary, exact, displaced" in words and "Noise floor" in words
    checked(next(b for b in app.button if b.label.startswith("Use midpoint")).click().run())
    assert app.query_params["readout"] == "displaced"
    assert "do not trust" not in said(app)


@pytest.mark.usefixtures("jobs_at_once")
def test_all_stages_are_verified_as_a_job(screen: Open) -> None:
    app = screen("reliability", run="hostile")
    assert "Nothing is known yet about this performance" in said(app)
    checked(next(b for b in app.button if b.label == "Verify all stages").click().run())
    assert "Noise floor" in said(app)
    assert "Verify all stages by retraining" in said(screen("jobs", run="good"))


@pytest.mark.usefixtures("jobs_at_once")
@pytest.mark.parametrize("run", ["hostile", "unjudged"])
def test_a_replay_that_is_done_is_told_on_the_first_page_and_in_reports(screen: Open, runs: Path, run: str) -> None:
    assert "not replayed" in said(screen("overview", run=run))
    app = screen("reliability", run=run)
    checked(next(b for b in app.button if b.label == "Replay the whole run").click().run())
    words = said(screen("overview", run=run))
    assert "2 of 2 segments replayed, max deviation 0, bit-exact" in words and "not replayed" not in words
    opened = aa.open_run(runs / run)
    (job,) = jobs.all_jobs()
    told = run_section(opened, jobs.replayed(opened)).replay
    assert told is not None and (told.job, told.sound) == (job.id, True) and told.words in words


@pytest.mark.usefixtures("jobs_at_once")
def test_jobs_say_how_they_stand_and_can_be_tried_again(screen: Open) -> None:
    assert "No jobs yet" in said(screen("jobs", run="good"))
    spec = jobs.spec_of("replay", aa.open_run(SAMPLES / "digits-shift" / "run"), {"asked": "badly"}, "no-such-problem")
    job = jobs.submit(spec)
    app = screen("jobs", run="good")
    assert "Failed" in said(app) and "no-such-problem" in said(app)
    failed = (job.folder / "failure.json").stat().st_mtime_ns
    checked(next(b for b in app.button if b.label == "Try again").click().run())
    assert (job.folder / "failure.json").stat().st_mtime_ns > failed


def test_long_work_is_a_job_that_the_page_waits_for(
    screen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))
    monkeypatch.setattr("dashboard.service.work.LIGHT", 0)
    app = screen("explore", run="hostile", semantics="zero_gradient", performance="margin")
    (job,) = jobs.all_jobs()
    assert job.spec.kind == "effects" and "Click a bar" not in said(app)
    wait(lambda: not job.living)
    assert "Click a bar to see its steps" in said(checked(app.run()))


def chart(app: AppTest, key: str) -> Any:
    """What the chart of this key shows, as plotly takes it."""
    found = [c for c in app.get("plotly_chart") if key in c.proto.id]
    return json.loads(found[0].proto.spec)


def figures(app: AppTest) -> list[str]:
    """What is predicted: the words that carry figures."""
    return [line for line in said(app).splitlines() if "The model would be" in line or "as recorded" in line]


@pytest.mark.usefixtures("jobs_at_once")
@pytest.mark.parametrize("query", [{"leave": "3-8"}, {"without": "3,7"}], ids=["steps", "examples"])
def test_what_takes_long_to_predict_is_predicted_by_a_job_that_retrains_nothing(
    screen: Open, monkeypatch: pytest.MonkeyPatch, query: dict[str, str]
) -> None:
    in_the_page = figures(screen("whatif", run="confounded", examples="1-9", **query))
    monkeypatch.setattr("dashboard.service.work.LIGHT", 0)
    monkeypatch.setattr("dashboard.service.desk.Desk.key", lambda self, what: ("a long run", what))
    by_a_job = screen("whatif", run="confounded", examples="1-9", **query)
    assert figures(by_a_job) == in_the_page and len(in_the_page) > 1
    assert [job.spec.kind for job in jobs.all_jobs()] == ["estimate"]
    assert "Retrain to verify" in said(by_a_job)
    assert "estimated only" in said(screen("jobs", run="good"))


def test_what_is_being_predicted_can_be_retrained_meanwhile(
    screen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))
    monkeypatch.setattr("dashboard.service.work.LIGHT", 0)
    monkeypatch.setattr("aa_core.jobs.job._start", lambda folder, lock: None)  # it dies at once
    words = said(screen("whatif", run="confounded", scale="50", skip="one plain"))
    assert "This failed" in words and "all its processes died" in words and "Retrain to verify" in words


def test_what_if_scales_and_trains_otherwise(screen: Open) -> None:
    app = screen("whatif", run="good", skip="fine-tune 45°", scale="50")
    assert "0\\.5 x fine-tune 45°" in said(app)
    checked(app.segmented_control("way").set_value("change").run())
    assert "scale" not in app.query_params
    checked(app.text_input("hyper:0").input("0.5x").run())
    assert app.query_params["change"] == "lr:0.5x"
    assert "with lr 0" in said(app) and "The model would be" in said(app)
    checked(app.text_input("hyper:0").input("fast").run())
    assert "expected 0.5x" in said(app)


def test_what_if_leaves_out_steps_and_training_examples(screen: Open) -> None:
    app = screen("whatif", run="good", leave="200-210")
    assert "without steps 200 to 210" in said(app)
    app = screen("whatif", run="good")
    checked(app.text_input("without:text").input("3, 7-9").run())
    assert app.query_params["without"] == "3,7-9"
    assert "without 4 examples" in said(app)
    checked(app.checkbox("skip:1").check().run())
    assert "ask one by one" in said(app)
    checked(app.text_input("without:text").input("some").run())
    assert "expected whole numbers" in said(app)


@pytest.mark.usefixtures("jobs_at_once")
def test_a_what_if_is_verified_recorded_as_a_run_and_compared(screen: Open) -> None:
    app = screen("whatif", run="good", skip="fine-tune 90°", examples="1,2,3,4,5")
    words = said(app)
    checked(next(b for b in app.button if b.label == "Retrain to verify").click().run())
    assert "Example by example (n = 5)" in said(app)
    assert "Trains 60 steps again" in words and "at the pace" not in words, "nothing was retrained before"
    assert "at the pace of the last retraining" in said(screen("whatif", run="good", skip="fine-tune 45°"))
    assert "noise floor of this run is not measured yet" in said(app)
    checked(next(b for b in app.button if b.label == "Make it a run").click().run())
    (job,) = (j for j in jobs.all_jobs() if j.spec.kind == "run")
    name = job.result()["run"]
    assert "skip fine" in said(screen("overview", run=name))
    compared = said(screen("compare", run="good", other=name))
    assert "Only in one of them, so not compared: fine-tune 90°" in compared
    assert "Positive = it helped the first more" in compared
    offered = screen("compare", run="good", other=name).selectbox("pick:other").options
    assert [o.endswith("other examples)") for o in offered] == sorted(o.endswith("other examples)") for o in offered)
    assert not offered[0].endswith("other examples)"), "what is judged alike comes first"


def test_a_past_what_if_is_asked_again_by_its_selection(screen: Open) -> None:
    run = aa.open_run(SAMPLES / "digits-shift" / "run")
    stage = run.stages[1].name
    for what in (
        aa.Counterfactual((stage,), 0.5),
        aa.Counterfactual.skip_steps(*range(3, 9)),
        aa.Counterfactual.without_examples(3, 7),
        aa.Counterfactual.change(stage, lr="0.5x", momentum=0.8),
        aa.Counterfactual.skip(stage, semantics="zero_gradient"),
    ):
        spec = jobs.whatif_spec(run, what, readout="link")
        again = retraining.asked(jobs.Job(Path(), spec), NOTHING)
        assert retraining.counterfactual(again) == jobs.asked_counterfactual(spec)


def test_two_groups_and_two_stages_are_compared(screen: Open) -> None:
    words = said(screen("compare", run="good", mode="groups", by="rotation", second="rotation 90"))
    assert "Upper, pale: rotation 0. Lower, full: rotation 90" in words
    words = said(screen("compare", run="good", mode="stages", first="pretrain"))
    assert "Did the stages pull the same way?" in words and "all weights count alike" in words


def test_runs_that_were_judged_on_different_examples_are_not_compared(screen: Open) -> None:
    app = screen("compare", run="good", other="hostile")
    assert "judged on different examples" in said(app)
    offered = app.selectbox("pick:other").options
    assert offered and all(name.endswith(" (judged on other examples)") for name in offered), "no copy of it is there"
    assert "Pick a second run" in said(screen("compare", run="good", other="nowhere"))


def test_report_says_that_nothing_was_verified(screen: Open) -> None:
    app = screen("report", run="good", examples="3")
    assert "example 3" in said(app)
    assert "Nothing of this was checked by retraining yet" in said(app)
    assert len(app.get("download_button")) == 4


def test_what_only_the_auditor_can_say_goes_into_the_report(screen: Open) -> None:
    app = screen("report", run="good", examples="3")
    before = next(c.value for c in app.caption if c.value.startswith("Digest of this report"))
    app = checked(app.text_input("about:auditor").set_value("A. Uditor").run())
    assert next(c.value for c in app.caption if c.value.startswith("Digest of this report")) != before


def test_a_link_that_names_a_run_by_its_digest_alone_opens_that_run(screen: Open, runs: Path) -> None:
    digest = aa.open_run(runs / "hostile").digest[:12]
    assert screen("overview", digest=digest).query_params["run"] == "hostile"
    assert "another version of the run" in said(screen("overview", digest="0" * 12))


def test_no_runs_is_no_blank_page(screen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_RUNS_DIRS", str(tmp_path))
    assert "No recorded runs here" in said(screen("overview"))


@pytest.mark.parametrize("view", ["overview", "explore"])
def test_effects_within_the_noise_are_named(calibrated: Open, view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Within noise" not in said(calibrated(view, run="digits-shift"))
    monkeypatch.setattr("dashboard.service.checking.noise", lambda desk, s: 0.1)
    words = said(calibrated(view, run="digits-shift"))
    named = words.partition("Within noise")[2].partition("A start moved")[0]
    assert named.count("°") == 3, "two stages at 45 degrees, one at 90"


@pytest.mark.usefixtures("jobs_at_once")
def test_what_retraining_measured_stands_beside_the_estimates_of_those_examples(screen: Open) -> None:
    assert "Retrained" not in said(screen("overview", run="good")), "of this run nothing was retrained"
    assert "Diamonds" not in said(screen("explore", run="good"))
    asked = aa.open_run(SAMPLES / "digits-adamw" / "run")
    spec = jobs.whatif_spec(asked, aa.Counterfactual.skip("fine-tune 90°"), examples=[1, 2, 3])
    jobs.submit(spec)
    truth = jobs.find(spec.id).table("examples").set_index("example")["truth"]
    some = screen("explore", run="good", examples="1,3")
    assert "Diamonds: the effect of the stage when the model was really trained again without it" in said(some)
    (marks,) = (t for t in chart(some, "stages")["data"] if t.get("marker", {}).get("symbol") == "diamond")
    assert marks["customdata"] == ["fine-tune 90°"] and marks["x"] == [pytest.approx(truth[[1, 3]].mean())]
    for other in ({"examples": "1,4"}, {"examples": "1,3", "performance": "margin"}, {"semantics": "zero_gradient"}):
        assert "Diamonds" not in said(screen("explore", run="good", **other)), "another question"
    jobs.submit(jobs.whatif_spec(asked, aa.Counterfactual.skip("fine-tune 45°")))
    words = said(screen("overview", run="good"))
    assert "Retrained: the effect of the stage" in words and "passed on" not in words
    assert words.count("<td class='n'>–</td>") == 2, "two of the three stages were not retrained"


def test_a_calibration_that_came_with_a_run_is_told_apart(
    calibrated: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path))
    words = said(calibrated("overview", run="digits-mislabelled"))
    assert "as whoever passed on this run measured it." in words
    assert "By the estimates **round 6** helped most" in words and "**round 4** hurt most" in words
