"""The ledger of findings: nothing is confirmed without a retraining, and nothing is changed unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from aa_core.cli import app
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.effects.estimate import estimate
from aa_core.errors import IntegrityError, RequestError, RunBusyError, RunFormatError
from aa_core.findings import (
    Added,
    Evidence,
    Finding,
    Signature,
    add,
    changes,
    check,
    evidence_of,
    findings,
    judge,
    judged,
    ledger_path,
    question,
    read_ledger,
    sign,
)
from aa_core.jobs import Job, JobSpec, whatif_spec
from aa_core.jobs.spec import SPEC
from aa_core.jobs.worker import work
from aa_core.lock import acquire
from aa_core.registry import load_problem
from aa_core.reporting.html import to_html
from aa_core.reporting.ledger import ledger_events, ledger_section
from aa_core.reporting.report import Context, build_report
from aa_core.run_performance import run_performance
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.workspace import workspace
from tests.core.job_run import make
from tests.faults.test_flips import flips

AT = "2031-05-01T12:00:00+00:00"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trajectory, Path]:
    return make(tmp_path_factory.mktemp("findings"))


@pytest.fixture
def run(recorded: tuple[Trajectory, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trajectory:
    """The run, with a workspace in which nothing was found yet."""
    monkeypatch.setenv("AA_WORKSPACE", str(tmp_path / "workspace"))
    return recorded[0]


@pytest.fixture(scope="module")
def evidence(recorded: tuple[Trajectory, Path]) -> Evidence:
    run, file = recorded
    what = Counterfactual.skip("first")
    found = estimate(run, load_problem(None, {}, str(file)), what, run_performance(run, "log-likelihood"))
    return evidence_of(found, what)


def claim(evidence: Evidence, effect: float | None = None, **changed: Any) -> Added:
    pinned = evidence if effect is None else evidence.model_copy(update={"effect": effect})
    told = {"claim": "The first stage helped.", "severity": "high", "extent": "sign", "recommendation": "Keep it."}
    return Added(evidence=pinned, **{**told, **changed})


def retrained(run: Trajectory, file: Path, **changed: Any) -> Job:
    """A stored retraining of the evidence's question, done here; `changed` makes it another question."""
    asked = {"performance_name": "log-likelihood", "examples": None, **changed}
    what = asked.pop("what", Counterfactual.skip("first"))
    spec = whatif_spec(run, what, problem=str(file), **asked)
    folder = _store(spec)
    work(folder)
    return Job(folder, spec)


def _store(spec: JobSpec) -> Path:
    folder = workspace() / "jobs" / spec.id
    folder.mkdir(parents=True)
    (folder / SPEC).write_bytes(spec.to_bytes())
    return folder


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "truth", "extent", "noise", "says"),
    [
        (0.2, 0.01, "sign", None, "confirmed"),
        (-0.2, -5.0, "sign", None, "confirmed"),
        (0.2, -0.01, "sign", None, "refuted"),
        (0.2, 0.0, "sign", None, "neither"),
        (0.2, 0.01, "sign", 0.01, "neither"),
        (0.2, -0.01, "sign", 0.02, "neither"),
        (0.2, -0.03, "sign", 0.02, "refuted"),
        (0.0, 0.1, "sign", None, "neither"),
        (0.2, 0.1, "size", None, "confirmed"),
        (0.2, 0.4, "size", None, "confirmed"),
        (-0.2, -0.39, "size", None, "confirmed"),
        (0.2, 0.099, "size", None, "refuted"),
        (0.2, 0.41, "size", None, "refuted"),
        (0.2, -0.2, "size", None, "refuted"),
        (0.2, 0.09, "size", 0.02, "neither"),
        (0.2, 0.05, "size", 0.02, "refuted"),
        (0.2, 0.0, "size", None, "refuted"),
        (0.2, 0.0, "size", 0.15, "neither"),
    ],
)
def test_the_rule_of_sign_and_size(estimate: float, truth: float, extent: Any, noise: float | None, says: str) -> None:
    assert judge(estimate, truth, extent, noise) == says
    assert judge(-estimate, -truth, extent, noise) == says, "no sign is favoured"


# ---- nothing is confirmed without a retraining -----------------------------------------------------------------------


def test_a_claim_is_an_estimate_until_its_very_question_was_retrained(
    run: Trajectory, evidence: Evidence, recorded: tuple[Trajectory, Path]
) -> None:
    file = recorded[1]
    entered = add(run, claim(evidence), "me", AT)
    assert (entered.id, entered.standing, entered.checked) == ("F1", "estimate only", None)
    others = [
        {"what": Counterfactual.skip("last")},
        {"what": Counterfactual.skip("first", semantics="zero_gradient")},
        {"what": Counterfactual(("first",), 0.5)},
        {"performance_name": "margin"},
        {"examples": [0, 1, 2]},
    ]
    for other in others:
        retrained(run, file, **other)
    for wanted in ("confirmed", "refuted"):
        with pytest.raises(RequestError, match=rf"F1 cannot be {wanted}: no retraining .*skip first, freeze, log-like"):
            check(run, "F1", wanted, "me", AT)
    job = retrained(run, file)
    truth = job.result()["mean_truth"]
    assert truth * evidence.effect > 0, "the tiny run is smooth"
    with pytest.raises(RequestError, match=rf"F1 cannot be refuted: the retraining \(job {job.id}\) .* says confirmed"):
        check(run, "F1", "refuted", "me", AT)
    found = check(run, "f1", "confirmed", "me", AT)
    assert found.standing == "confirmed by retraining"
    assert (entered.checked_at, found.checked_at, found.checked_by) == ("", AT, "me")
    assert (found.checked.job, found.checked.effect) == (job.id, truth)


def test_a_claim_that_the_retraining_contradicts_can_only_be_refuted(
    run: Trajectory, evidence: Evidence, recorded: tuple[Trajectory, Path]
) -> None:
    add(run, claim(evidence, -evidence.effect), "me", AT)
    add(run, claim(evidence, 100 * evidence.effect, extent="size"), "me", AT)
    add(run, claim(evidence, 100 * evidence.effect), "me", AT)
    retrained(run, recorded[1])
    for name, standing in (("F1", "refuted"), ("F2", "refuted"), ("F3", "confirmed")):
        other = {"refuted": "confirmed", "confirmed": "refuted"}[standing]
        with pytest.raises(RequestError, match=f"which says {standing}"):
            check(run, name, other, "me", AT)  # type: ignore[arg-type]
        assert check(run, name, standing, "me", AT).standing == f"{standing} by retraining"  # type: ignore[arg-type]


def test_a_failed_retraining_backs_nothing(
    run: Trajectory, evidence: Evidence, recorded: tuple[Trajectory, Path]
) -> None:
    add(run, claim(evidence), "me", AT)
    folder = _store(whatif_spec(run, Counterfactual.skip("first"), problem=f"{recorded[1]}:broken"))
    work(folder)
    with pytest.raises(RequestError, match="no retraining"):
        check(run, "F1", "confirmed", "me", AT)


@pytest.mark.parametrize(
    "what",
    [
        Counterfactual(("first",), 0.5),
        Counterfactual.skip_steps(3, 4),
        Counterfactual.without_examples(1, 5),
        Counterfactual.change("first", lr="0.5x", momentum=0.1),
        Counterfactual.skip("last", "first"),
    ],
    ids=lambda what: what.name,
)
def test_any_change_is_pinned_and_settled_by_its_own_retraining_alone(
    run: Trajectory, recorded: tuple[Trajectory, Path], what: Counterfactual
) -> None:
    file = recorded[1]
    found = estimate(run, load_problem(None, {}, str(file)), what, run_performance(run, "log-likelihood"))
    add(run, claim(evidence_of(found, what)), "me", AT)
    [finding] = findings(read_ledger(run))
    assert finding.added.evidence.counterfactual == what and question(finding.added.evidence).startswith(what.name)
    retrained(run, file)
    retrained(run, file, what=what, examples=[0, 1, 2])
    with pytest.raises(RequestError, match="no retraining of its question"):
        check(run, "F1", "confirmed", "me", AT)
    job = retrained(run, file, what=what)
    [(says, backing, truth)] = judged(run, finding)
    assert (backing.id, truth) == (job.id, job.result()["mean_truth"]) and says != "neither"
    assert check(run, "F1", says, "me", AT).standing == f"{says} by retraining"


# ---- evidence is pinned ----------------------------------------------------------------------------------------------


def test_evidence_reopens_or_says_what_changed(run: Trajectory, evidence: Evidence) -> None:
    assert changes(run, evidence) == ()
    grown = evidence.model_copy(update={"run": "e" * 64})
    assert changes(run, grown) == (f"the run had digest {'e' * 12}, now it has {run.digest[:12]}",)
    other = evidence.model_copy(update={"evaluation": "d" * 64, "examples": (0, 1)})
    assert [c.startswith("performance and examples had digest dddd") for c in changes(run, other)] == [True]
    gone = evidence.model_copy(update={"examples": (0, 99)})
    assert "example 99 does not exist" in changes(run, gone)[0]
    for bad in (grown, other, gone):
        with pytest.raises(RequestError, match="not of the run as it is now"):
            add(run, Added(claim="x", severity="low", extent="sign", evidence=bad), "me", AT)


def test_a_changed_run_keeps_its_findings_and_says_so(run: Trajectory, evidence: Evidence) -> None:
    add(run, claim(evidence), "me", AT)
    object.__setattr__(changed := open_run(run.path), "digest", "c" * 64)
    section = ledger_section(changed)
    assert section.findings[0].changed[0].startswith("the run had digest")
    with pytest.raises(RequestError, match="its inputs have changed"):
        check(changed, "F1", "confirmed", "me", AT)


# ---- the ledger ------------------------------------------------------------------------------------------------------


def filled(run: Trajectory, evidence: Evidence) -> tuple[Finding, ...]:
    add(run, claim(evidence), "me", AT)
    add(run, claim(evidence, claim="Another.", severity="low"), "you", AT)
    sign(run, "F1", Signature(name="A. Uditor", role="lead", date="1 May 2031"), "me", AT)
    return findings(read_ledger(run))


def test_it_is_appended_to_and_read_back(run: Trajectory, evidence: Evidence) -> None:
    first, second = filled(run, evidence)
    assert (first.id, second.id, second.by, second.added.severity) == ("F1", "F2", "you", "low")
    assert [s.name for s in first.signatures] == ["A. Uditor"] and second.signatures == ()
    assert ledger_path(run).parent.name == "findings" and not ledger_path(run).is_relative_to(run.path)
    before = ledger_path(run).read_bytes()
    sign(run, "F2", Signature(name="B", role="r", date="d"), "me", AT)
    assert ledger_path(run).read_bytes().startswith(before)
    with pytest.raises(RequestError, match="there is no finding 'F9'; this run has F1, F2"):
        sign(run, "F9", Signature(name="B", role="r", date="d"), "me", AT)


def test_lines_from_before_evidence_could_be_of_anything_but_whole_stages_keep_their_bytes(
    run: Trajectory, evidence: Evidence
) -> None:
    add(run, claim(evidence), "me", AT)
    assert [*json.loads(ledger_path(run).read_bytes())["act"]["evidence"]] == [
        *("run", "stages", "semantics", "performance", "examples", "n", "evaluation", "method", "curvature", "readout"),
        *("effect", "unit", "reliability", "query", "code"),
    ]


def test_whatever_is_changed_in_it_is_found_by_line(run: Trajectory, evidence: Evidence) -> None:
    filled(run, evidence)
    path = ledger_path(run)
    lines = path.read_bytes().splitlines(keepends=True)
    edits = {
        "line 1": [lines[0].replace(b"helped", b"hurt.."), *lines[1:]],
        "line 1:": [lines[1], lines[0], lines[2]],
        "line 2": [lines[0], lines[1].replace(b'"you"', b'"yoU"'), lines[2]],
        "line 3": [lines[0], lines[1], lines[2].replace(b'"me"', b'"he"')],
        "line 2:": [lines[0], lines[2]],
        "line 1: ": [lines[0].replace(b'"number":0', b'"number": 0'), *lines[1:]],
        "torn": [lines[0], lines[1], lines[2][:-5]],
    }
    for place, changed in edits.items():
        path.write_bytes(b"".join(changed))
        with pytest.raises((IntegrityError, RunFormatError), match=place):
            read_ledger(run)
    path.write_bytes(b"".join(lines))
    assert len(read_ledger(run).entries) == 3
    for _ in flips(path):
        with pytest.raises((IntegrityError, RunFormatError)):
            read_ledger(run)
    whole = read_ledger(run).head
    path.write_bytes(b"".join(lines[:-1]))
    assert read_ledger(run).head != whole, "a missing end shows against the head that a report names"


def test_two_writers_do_not_mix(run: Trajectory, evidence: Evidence) -> None:
    add(run, claim(evidence), "me", AT)
    held = acquire(ledger_path(run).with_suffix(".lock"))
    assert held is not None
    with pytest.raises(RunBusyError, match="try again"):
        add(run, claim(evidence), "me", AT)
    assert len(read_ledger(run).entries) == 1


# ---- command line and report -----------------------------------------------------------------------------------------


def aa(*arguments: str, code: int | None = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments), prog_name="aa")
    assert code in (None, result.exit_code), (result.output, result.exception)
    return result


def test_the_command_line_enters_checks_and_signs(run: Trajectory, recorded: tuple[Trajectory, Path]) -> None:
    at, problem = ["findings", str(run.path)], f"--problem={recorded[1]}"
    assert "no findings yet" in aa(*at, "list").stderr
    told = aa(*at, "add", "--stage", "first", "--claim", "It <b>helped</b>.", "--by", "me", problem)
    assert told.stdout == "F1  estimate only  medium  It <b>helped</b>.\n" and "estimated +" in told.stderr
    assert "no retraining of its question" in aa(*at, "confirm", "F1", code=1).stderr
    assert "F1  confirmed by retraining" in aa(*at, "confirm", "F1", "--retrain", problem).stdout
    assert "which says confirmed" in aa(*at, "refute", "F1", code=1).stderr
    aa(*at, "sign-off", "F1", "--name", "A. Uditor", "--role", "lead", "--date", "1 May 2031")
    rows = json.loads(aa(*at, "list", "--format", "json").stdout)
    assert rows["entries"] == 3 and rows["head"] == read_ledger(run).head
    [row] = rows["rows"]
    assert (row["status"], row["inputs"], row["signed by"]) == ("confirmed by retraining", "as pinned", "A. Uditor")
    assert "unknown stage" in aa(*at, "add", "--stage", "none", "--claim", "x", problem, code=1).stderr
    assert "Invalid value" in aa(*at, "add", "--stage", "first", "--claim", "x", "--severity", "dire", code=2).stderr


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (("--change", "first:lr=0.5x"), "first with lr 0.5x, change"),
        (("--steps", "2:4", "--stage", "last"), "skip last + steps 2 to 3, freeze"),
        (("--stage", "last", "--scale", "0.5"), "0.5 x last, freeze"),
        (("--without-example", "0,2"), "skip examples 0, 2, zero_gradient"),
    ],
)
def test_a_claim_may_be_about_whatever_a_what_if_changes(
    run: Trajectory, recorded: tuple[Trajectory, Path], options: tuple[str, ...], asked: str
) -> None:
    at, problem = ("findings", str(run.path)), f"--problem={recorded[1]}"
    told = aa(*at, "add", *options, "--claim", "It matters.", problem)
    assert f"{asked}, log-likelihood on all examples: estimated" in told.stderr
    outcomes = {aa(*at, says, "F1", "--retrain", problem, code=None).exit_code for says in ("confirm", "refute")}
    assert outcomes == {0, 1}, "settled by its own retraining, one way"


def test_a_claim_is_about_something(run: Trajectory) -> None:
    said = aa("findings", str(run.path), "add", "--claim", "x", code=2).stderr
    assert "what to change" in said and "--stage" in said and "--skip" not in said


def test_the_report_has_the_findings_and_every_entry(
    run: Trajectory, evidence: Evidence, recorded: tuple[Trajectory, Path]
) -> None:
    filled(run, evidence)
    context = Context(ledger=ledger_section(run), events=ledger_events(run))
    problem = load_problem(None, {}, str(recorded[1]))
    report = build_report(run, problem, with_steps=False, context=context)
    assert [(f.id, f.status) for f in report.ledger.findings] == [("F1", "estimate only"), ("F2", "estimate only")]
    assert report.ledger.head == read_ledger(run).head
    assert [e.who for e in report.process.events] == ["me", "you", "me"]
    page = to_html(report)
    for shown in ("F1: The first stage helped.", "A. Uditor, lead, 1 May 2031", "Keep it.", "signed off by A. Uditor"):
        assert shown in page
