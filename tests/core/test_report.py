"""Reports: deterministic, verifiable, harmless to whoever opens them, and no surer than their evidence."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from aa_core.attribution import Attribution, stage_effects, step_effects
from aa_core.errors import IntegrityError, RequestError, RunFormatError, RunVersionError
from aa_core.performance import log_likelihood
from aa_core.reporting import (
    Report,
    build_report,
    read_report,
    report_from,
    safe_cell,
    to_csv,
    to_frames,
    to_html,
    to_json,
    to_zip,
    verify,
    verify_file,
    write_report,
)
from aa_core.reporting.bootstrap import FLOOR, bootstrap_interval
from tests.core.report_case import FORMULA, HOSTILE, SCRIPT, STEPS, TURNED, N, ToldRun, make, whatif


@pytest.fixture(scope="module")
def report() -> Report:
    run, problem = make()
    return build_report(run, problem, whatifs=[whatif(SCRIPT, 0.1)])


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return to_html(report)


# ---- same input, same bytes; one digit changed, noticed --------------------------------------------------------------


def test_same_input_gives_the_same_bytes(report: Report, page: str) -> None:
    run, problem = make()
    again = build_report(run, problem, whatifs=[whatif(SCRIPT, 0.1)])
    assert to_json(again) == to_json(report)
    assert to_html(again) == page
    assert to_zip(again) == to_zip(report)


def test_json_reads_back_as_the_same_report(report: Report) -> None:
    data = to_json(report).encode()
    verify(data)
    assert read_report(data) == report
    assert json.loads(data)["schema"] == "aa-report/1"
    assert json.loads(data)["digest"] == report.digest


def test_every_single_changed_digit_is_found(report: Report) -> None:
    text = to_json(report)
    places = [m.start() for m in re.finditer(r"\d", text)][::37]
    assert len(places) > 50
    for at in places:
        changed = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        with pytest.raises((IntegrityError, RunFormatError, RunVersionError)):
            verify(changed.encode())


def test_the_error_names_the_section_that_differs(report: Report) -> None:
    content = json.loads(to_json(report))
    content["stages"][0]["n"] += 1
    with pytest.raises(IntegrityError, match="stages differ"):
        verify(json.dumps(content).encode())


@pytest.mark.parametrize("edit", [lambda s: s + " ", lambda s: s.replace('"n": 12', '"n": 12.0'), lambda s: s[1:]])
def test_other_bytes_for_the_same_values_are_found(report: Report, edit) -> None:
    with pytest.raises((IntegrityError, RunFormatError)):
        verify(edit(to_json(report)).encode())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", RunFormatError),
        (b"[]", RunFormatError),
        (b"{}", RunFormatError),
        (b'{"schema": "aa-report/2"}', RunVersionError),
        (b'{"schema": "aa-report/1", "schema": "aa-report/1"}', RunFormatError),
        (b'{"schema": "aa-report/1"}', IntegrityError),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"report\.json"):
        read_report(data)


def test_a_page_is_verified_to_the_letter(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, "utf-8")
    verify_file(file)
    for old, new in [("nats per example", "nats per sample"), ('"steps": 12', '"steps": 13')]:
        assert old in page
        file.write_text(page.replace(old, new, 1), "utf-8")
        with pytest.raises(IntegrityError):
            verify_file(file)


def test_a_page_whose_digest_was_redone_must_still_show_its_data(page: str, tmp_path: Path) -> None:
    from aa_core.reporting.html import BLANK, html_digest

    own = re.search(r'name="aa-html-sha256" content="(\w+)"', page)[1]
    forged = page.replace(own, BLANK, 1).replace("positive = helped", "positive = hurt", 1)
    file = tmp_path / "report.html"
    file.write_text(forged.replace(BLANK, html_digest(forged), 1), "utf-8")
    with pytest.raises(IntegrityError, match="does not show what its data say"):
        verify_file(file)


def test_a_zip_is_verified_file_by_file(report: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.zip"
    write_report(report, file)
    verify_file(file)
    with zipfile.ZipFile(file) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    assert {"report.html", "report.json", "SHA256SUMS", "tables/stages.csv"} <= set(files)
    for name in ("tables/stages.csv", "report.html"):
        with zipfile.ZipFile(file, "w") as archive:
            for n, data in files.items():
                archive.writestr(n, data + b"0" if n == name else data)
        with pytest.raises(IntegrityError, match=name):
            verify_file(file)


# ---- harmless --------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of the title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_names_are_shown_and_never_run(page: str) -> None:
    tags = Tags(page).tags
    assert [t for t, _ in tags].count("title") == 1
    assert not [t for t in tags if t[0] == "img" or "onerror" in t[1]]
    kinds = [a.get("type") for t, a in tags if t == "script"]
    assert kinds.count(None) == 2, "plotly and the ten lines that draw"
    assert set(kinds) == {None, "application/json"}
    visible = without_scripts(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in visible
    assert "<b>line</b>" not in visible


def test_direction_characters_are_spelled_out(report: Report, page: str) -> None:
    assert TURNED in [r.stage for r in report.stages]
    assert "\u202e" not in page
    assert "a\\u202eb" in without_scripts(page)


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster", "background"):
            assert attributes.get(name) in (None, "data:,"), f"<{tag} {name}={attributes[name]!r}>"
    assert not re.search(r"@import|url\(", without_scripts(page))
    policy = next(a["content"] for t, a in Tags(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "unsafe-inline" not in policy.split("style-src")[0]


def test_one_page_stays_under_six_megabytes() -> None:
    run, problem = make(tuple(f"stage {i}" for i in range(12)), n=3_000)
    assert len(to_html(build_report(run, problem)).encode()) < 6_000_000


def test_csv_cells_are_no_formulas(report: Report) -> None:
    tables = {name: list(csv.reader(io.StringIO(text))) for name, text in to_csv(report).items()}
    assert set(tables) == {"stages.csv", "steps.csv", "examples.csv", "checks.csv", "training.csv"}
    strings = [cell for table in tables.values() for row in table for cell in row if not _is_number(cell)]
    assert f"'{FORMULA}" in strings and "'@note" in strings
    assert not [cell for cell in strings if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_safe_cell_prefixes_text_and_leaves_numbers(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    assert safe_cell(-1.5) == -1.5
    assert safe_cell("a=1") == "a=1"


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_table_holds_the_engines_effects(report: Report) -> None:
    run, problem = make()
    gamma = log_likelihood(run.evaluation.x, run.evaluation.y)
    stages, steps = stage_effects(run, problem, gamma), step_effects(run, problem, gamma.mean())
    means = stages.effects.mean(1)
    assert [r.mean for r in report.stages] == pytest.approx(means.tolist(), rel=1e-9)
    assert report.steps.effect == pytest.approx(steps.effects[:, 0].tolist(), rel=1e-9)
    assert to_frames(report)["examples"].shape == (N, 1 + len(HOSTILE))
    assert [r.steps for r in report.stages] == [STEPS] * len(HOSTILE)


def test_every_table_of_effects_says_unit_and_n(report: Report) -> None:
    frames = to_frames(report)
    assert set(frames["stages"]["unit"]) == {"nats"} and set(frames["stages"]["n"]) == {N}
    assert set(frames["steps"]["unit"]) == {"nats"}


def test_bootstrap_interval_holds_the_mean_and_shrinks_with_n() -> None:
    values = torch.randn(2, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    (low, _), (high, _) = bootstrap_interval(values)
    assert low < float(values[0].mean()) < high
    assert high - low == pytest.approx(2 * 1.96 / 4000**0.5, rel=0.1)
    (low100, _), (high100, _) = bootstrap_interval(values[:, :100])
    assert 4 < (high100 - low100) / (high - low) < 9
    assert bootstrap_interval(values) == bootstrap_interval(values), "a fixed seed"


def test_no_interval_from_few_examples() -> None:
    assert bootstrap_interval(torch.ones(2, FLOOR - 1, dtype=torch.float64)) == ([None, None], [None, None])


@pytest.fixture(scope="module")
def both() -> tuple[ToldRun, Attribution]:
    """A run, and effects of which "first" helped most and "last" hurt most."""
    run, problem = make(("first", "middle", "last"))
    effects = stage_effects(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y))
    chosen = torch.tensor([0.2, -0.01, -0.3], dtype=torch.float64)[:, None].expand(3, N).clone()
    return run, dataclasses.replace(effects, effects=chosen)


@pytest.mark.parametrize(
    ("best", "worst", "status"),
    [
        ({}, {}, "confirmed"),
        ({}, None, "partly"),
        (None, None, "estimate"),
        ({"mean_truth": -0.1}, {}, "refuted"),
        ({"n": N - 1}, None, "estimate"),
        ({"semantics": "zero_gradient"}, None, "estimate"),
        ({"performance": "margin"}, None, "estimate"),
        ({"unit": "probability"}, None, "estimate"),
        ({"provenance": {"evaluation": "other examples"}}, None, "estimate"),
        ({"mean_truth": None, "status": "cancelled"}, None, "estimate"),
    ],
)
def test_status_claims_no_more_than_the_retrainings_show(
    both: tuple[ToldRun, Attribution], best: dict | None, worst: dict | None, status: str
) -> None:
    found = [] if best is None else [whatif("first", 0.1, **best)]
    found += [] if worst is None else [whatif("last", -0.1, **worst)]
    report = report_from(*both, whatifs=found)
    assert report.answer.lines[0].startswith("“first” helped most: its estimated effect on log-likelihood is +0.200")
    assert report.answer.lines[1].startswith("“last” hurt most: its estimated effect on log-likelihood is −0.300")
    assert report.answer.status == status
    assert len(report.checks) == len(found), "all retrainings are listed, whatever they say"
    assert ("No stage was retrained" in report.answer.lines[2]) == (status == "estimate")


def test_an_interval_that_holds_zero_is_said_to(both: tuple[ToldRun, Attribution]) -> None:
    run, effects = both
    spread = torch.linspace(-1, 1.01, N, dtype=torch.float64)
    report = report_from(run, dataclasses.replace(effects, effects=torch.stack([spread, -spread, -spread])))
    assert all("not distinguishable from no effect" in line for line in report.answer.lines[:2])


def test_all_zero_effects_are_answered_plainly(both: tuple[ToldRun, Attribution]) -> None:
    run, effects = both
    report = report_from(run, dataclasses.replace(effects, effects=torch.zeros(3, N, dtype=torch.float64)))
    assert report.answer.lines[:2] == ("No stage helped on average.", "No stage hurt on average.")
    assert to_html(report)


def test_effects_of_another_run_are_refused(both: tuple[ToldRun, Attribution]) -> None:
    with pytest.raises(RequestError, match="the report is about run"):
        report_from(make(("other",))[0], both[1])


def test_steps_that_contradict_their_stage_are_a_limitation(both: tuple[ToldRun, Attribution]) -> None:
    run, effects = both
    _, problem = make(("first", "middle", "last"))
    steps = step_effects(run, problem, log_likelihood(run.evaluation.x, run.evaluation.y).mean())
    against = torch.tensor([-1.0] * STEPS + [-1.0] * STEPS + [-1.0] * STEPS, dtype=torch.float64)[:, None]
    report = report_from(run, effects, steps=dataclasses.replace(steps, effects=against))
    assert [w for w in report.limitations if w.startswith("The steps of “first”") and "disagree" in w]
    assert not [w for w in report.limitations if w.startswith("The steps of “last”")]


def test_a_retraining_of_another_run_is_refused() -> None:
    run, problem = make(("one",))
    with pytest.raises(RequestError, match="is of run"):
        build_report(run, problem, whatifs=[whatif("one", 0.1, provenance={"run": "e" * 64})], with_steps=False)


def test_a_report_without_steps_checks_or_intervals_leaves_them_out() -> None:
    run, problem = make(("only",), n=FLOOR - 1)
    page = without_scripts(to_html(build_report(run, problem, with_steps=False)))
    for absent in ("Step by step", "Checked by retraining", "95 %", "Whiskers", "Table 3"):
        assert absent not in page
    assert "the stage “only”" in page


def test_selected_examples_and_stages_are_named() -> None:
    run, problem = make(("one", "two"))
    report = build_report(run, problem, examples=[3, 1], stages=["two"], with_steps=False, date="1 May 2031")
    assert report.selection.examples == (3, 1) and report.selection.n == 2
    assert [r.stage for r in report.stages] == ["two"]
    assert any("--stage two" in line and "--examples 3,1" in line for line in report.reproduce)
    assert "1 May 2031" in to_html(report)


def test_a_performance_of_your_own_may_be_reported() -> None:
    run, problem = make(("one", "two"))
    gamma = log_likelihood(run.evaluation.x, run.evaluation.y)
    report = build_report(run, problem, performance=gamma[:4].mean("few") - gamma[4:].mean("rest"))
    assert report.stages[0].low is None and report.examples is None
    assert to_html(report)


def test_progress_runs_from_start_to_end_once() -> None:
    run, problem = make(("one", "two"))
    seen: list[float] = []
    build_report(run, problem, progress=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen) and seen[-1] == 1


def test_write_report_by_suffix(report: Report, tmp_path: Path) -> None:
    assert write_report(report, tmp_path / "new" / "r.json") == (tmp_path / "new" / "r.json",)
    names = {p.name for p in write_report(report, tmp_path / "r.csv")}
    assert names == {"r.csv", "r-steps.csv", "r-examples.csv", "r-checks.csv", "r-training.csv"}
    with pytest.raises(RequestError, match=r"\.html, \.json, \.csv, \.zip"):
        write_report(report, tmp_path / "r.docx")
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "r.docx").exists()
