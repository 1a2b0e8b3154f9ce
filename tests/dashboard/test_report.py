"""The Report screen: computed once whatever is typed, linked to where it was opened, given again by its command."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

import aa_core as aa
from aa_core.access_log import read_log
from aa_core.cli import app as commands
from aa_core.findings import Signature
from aa_core.jobs import all_jobs, asked_counterfactual, run_spec, spec_of, submit, whatif_spec
from aa_core.reporting.about import About, read_about
from aa_core.reporting.checks import check_section
from aa_core.reporting.html import to_html
from aa_core.reporting.links import view_of
from aa_core.reporting.model import Report
from aa_core.reporting.reproduce import cover_sheet
from dashboard.selection import Selection, from_query
from dashboard.service import Desk, address, report_of, reports, retraining, slices, work
from dashboard.service.runs import RunEntry
from tests.core.job_run import wait
from tests.dashboard.conftest import SAMPLES, Open, checked, said
from tests.dashboard.test_findings_view import press

UNSTATED = About()
RUN = SAMPLES / "digits-adamw" / "run"


@pytest.fixture(autouse=True)
def own_workspace(jobs_at_once: None) -> None:
    """Every test has jobs and a log of its own."""


def report(s: Selection, about: About = UNSTATED, date: str = "1 May 2031", steps: bool = False) -> Report:
    return report_of(Desk(RunEntry("digits-adamw", RUN, "", "")), s, steps, about, date, lambda done, total: None)


# ---- computed once ---------------------------------------------------------------------------------------------------


def digest_of(app: AppTest) -> str:
    return next(c.value for c in app.caption if c.value.startswith("Digest of this report"))


def test_typing_a_statement_computes_no_effect(screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    app = screen("report", run="good", examples="3-9")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    for where, name in ((reports, "stage_effects"), (reports, "report_from"), (work, "effects")):
        monkeypatch.setattr(where, name, refuse)
    seen = {digest_of(app)}
    for key, text in (("auditor", "A. Uditor"), ("purpose", "To see."), ("sign_off:name", "A. Uditor")):
        app = checked(app.text_input(f"about:{key}").set_value(text).run())
        seen.add(digest_of(app))
    assert len(seen) == 3 and "Write name, role and date." in said(app), "half a signature is none"


def test_a_report_of_a_long_training_is_made_by_jobs(screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LIGHT", 0)
    s = Selection(run="digits-adamw", examples=(3, 4), semantics="zero_gradient", performance="margin")
    by_jobs = report(s, steps=True)
    assert {j.spec.request["by"] for j in all_jobs()} == {"stages", "steps"}
    monkeypatch.setattr(work, "LIGHT", 1_000)
    at_once = report(s, steps=True)
    assert (by_jobs.stages, by_jobs.steps, by_jobs.groups) == (at_once.stages, at_once.steps, at_once.groups)


def test_the_screen_waits_for_the_jobs(screen: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("AA_JOBS_FIRST", "1")
    monkeypatch.setenv("AA_RUNS_DIRS", str(SAMPLES))
    monkeypatch.setattr(work, "LIGHT", 0)
    app = screen("report", run="digits-adamw", examples="5", performance="probability")
    [job] = all_jobs()
    assert job.spec.kind == "effects" and not app.get("download_button")
    wait(lambda: not job.living)
    app = checked(app.run())
    wait(lambda: not any(j.living for j in all_jobs()))
    assert len(checked(app.run()).get("download_button")) == 4


# ---- signed off ------------------------------------------------------------------------------------------------------


def test_a_report_is_signed_off_on_the_screen(screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Report] = []
    monkeypatch.setattr("dashboard.views.report._summary", made.append)
    app = screen("report", run="good", examples="3")
    for name, text in (("name", "B. Oss"), ("role", "lead"), ("date", "1 May 2031")):
        app = checked(app.text_input(f"about:sign_off:{name}").set_value(text).run())
    checked(app.text_area("about:sign_off:statement").set_value("I read <b>all</b> of it.").run())
    assert made[0].about.sign_off == ()
    assert made[-1].about.sign_off == (
        Signature(name="B. Oss", role="lead", date="1 May 2031", statement="I read <b>all</b> of it."),
    )
    assert "I read &lt;b&gt;all&lt;/b&gt; of it." in to_html(made[-1])


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opened", "found"),
    [
        ("http://localhost:8600/report", "http://localhost:8600"),
        ("https://127.0.0.1:8600/", "https://127.0.0.1:8600"),
        ("http://evil.example/report", "http://localhost:8765"),
        ("http://localhost@evil.example/", "http://localhost:8765"),
        ("javascript://localhost/%0aalert(1)", "http://localhost:8765"),
        ("file:///report", "http://localhost:8765"),
        (None, "http://localhost:8765"),
    ],
)
def test_links_lead_to_where_the_page_was_opened(
    opened: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: config.get_option(name) for name in ("server.allowedHosts", "server.port")}
    monkeypatch.setattr(address.st, "context", SimpleNamespace(url=opened))
    config.set_option("server.allowedHosts", ["localhost", "127.0.0.1"])
    config.set_option("server.port", 8765)
    try:
        assert address.origin() == found
        assert report(Selection(examples=(3,))).dashboard == found
    finally:
        for name, value in before.items():
            config.set_option(name, value)


def test_the_link_of_a_retraining_asks_its_question_again() -> None:
    run = aa.open_run(RUN)
    names = [s.name for s in run.stages]
    made = report(Selection(examples=(3,)))
    for what in (
        aa.Counterfactual.skip(*names[:2]),
        aa.Counterfactual((names[1],), 0.5),
        aa.Counterfactual.skip_steps(*range(3, 9)),
        aa.Counterfactual.without_examples(3, 7),
        aa.Counterfactual.change(names[1], lr="0.5x"),
        aa.Counterfactual.skip(names[1], semantics="zero_gradient"),
    ):
        spec = whatif_spec(run, what, "margin", [1, 2, 3, 9], readout="link", curvature="ggn")
        check = check_section({"counterfactual": what.name, "request": spec.request}, run.digest)
        [(_, place)] = view_of(made, check).places
        selection, ignored = from_query(parse_qs(urlsplit(place).query))
        assert not ignored and retraining.counterfactual(selection) == asked_counterfactual(spec)
        assert retraining.question(Desk(RunEntry("digits-adamw", RUN, "", "")), selection).id == spec.id


def test_another_run_is_found_by_its_digest(screen: Open, runs: Path, tmp_path: Path) -> None:
    other = aa.open_run(runs / "hostile").digest[:12]
    assert "judged on different examples" in said(screen("compare", run="good", other=other))


def test_filters_and_subgroups_are_named_and_linked() -> None:
    desk = Desk(RunEntry("digits-adamw", RUN, "", ""))
    filtered = Selection(labels=(3,), wrong=True)
    assert report(filtered).selection.picks.query == {"labels": ("3",), "wrong": ("1",)}
    digest = slices.save(desk.evaluation_digest, filtered, "wrong threes")
    picks = report(Selection(slice=digest)).selection.picks
    assert (picks.query, picks.subgroup) == ({"slice": (digest,)}, "wrong threes")
    assert picks.definition == {"labels": ("3",), "wrong": ("1",)}
    assert report(Selection(examples=(3,))).selection.picks is None


# ---- what was done ---------------------------------------------------------------------------------------------------


def test_the_process_log_names_who_asked_and_counts_the_questions(screen: Open) -> None:
    press(screen("reliability", run="good"), "Replay the whole run")
    press(screen("whatif", run="good", skip="fine-tune 90°", examples="3"), "Retrain to verify")
    press(screen("subgroups", run="good", examples="3-9"), "Save subgroup")
    submit(whatif_spec(aa.open_run(RUN), aa.Counterfactual.skip("pretrain"), examples=[3]))
    me = read_log().entries[0].who
    found = report(Selection(examples=(3,))).process
    told = {e.what.partition(" (")[0].partition(",")[0]: e.who for e in found.events}
    assert told["retraining: skip fine-tune 90°"] == told["replay of the whole run"] == me
    assert told["retraining: skip pretrain"] == "not recorded"
    assert [e.who for e in found.events if e.what.startswith("subgroup ")] == [me]
    assert found.questions == 3 and "3 different questions about this run took a job here" in found.comparisons
    assert next(e.how for e in found.events if e.what.startswith("replay")).startswith("chain consistent; 4 of 4")


def test_what_failed_and_was_tried_again_is_told(screen: Open) -> None:
    run = aa.open_run(RUN)
    job = submit(spec_of("calibrate", run, {"performance": "margin", "semantics": "freeze"}, "none-such"))
    assert job.status == "failed"
    job.retry()
    submit(run_spec(run, aa.Counterfactual.skip("pretrain"), "none-such"))
    made = report(Selection(examples=(3,)))
    kinds = {c.kind: c for c in made.checks}
    assert set(kinds) == {"calibration", "run"} and all(c.status.startswith("failed") for c in made.checks)
    assert "aa calibrate run --performance margin --semantics freeze" in made.reproduce
    check = kinds["calibration"]
    [attempt] = check.earlier
    assert "none-such" in attempt.how
    app = screen("jobs", run="good")
    assert "1 earlier attempt" in [e.label for e in app.expander]
    assert any(attempt.how in t.value for t in app.text)


# ---- given again -----------------------------------------------------------------------------------------------------

STATED = About(auditor='A. "Uditor"', purpose="To\nsee.", sign_off=(Signature(name="B", role="lead", date="1 May"),))


@pytest.mark.parametrize(
    ("s", "steps", "about"),
    [
        (Selection(examples=(3, 4, 5, 9)), True, STATED),
        (Selection(labels=(3,), wrong=True, readout="link", semantics="zero_gradient"), False, About()),
    ],
    ids=["picked", "filtered"],
)
def test_the_printed_command_gives_the_same_bytes(
    s: Selection, steps: bool, about: About, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(whatif_spec(aa.open_run(RUN), aa.Counterfactual.skip("pretrain"), examples=[3, 4, 5, 9]))
    made = report(s, about, steps=steps)
    shutil.copytree(RUN.parent, tmp_path / "held")  # a calibration lies beside the run
    monkeypatch.chdir(tmp_path / "held")
    if about != About():
        Path("cover.toml").write_text("\n".join(cover_sheet(about)))
        assert read_about("cover.toml") == about
    [line] = [line for line in made.reproduce if line.startswith("aa report run")]
    done = CliRunner().invoke(commands, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert Path("report.html").read_text() == to_html(made)
