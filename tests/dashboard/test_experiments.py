"""The experiments and their results, seen from the dashboard."""

from __future__ import annotations

import re
import subprocess
import sys

import aa_core as aa
from sample_runs.experiment.page import stored
from tests.dashboard.conftest import SAMPLES, Open, checked, said

HIDES_MODELS = """
import sys
from dashboard.service import experiments
assert experiments.known()
print([m for m in sys.modules if m.startswith("sample_runs.") and not m.startswith("sample_runs.experiment")])
"""


def test_every_measured_case_is_a_line_and_the_run_that_ships_of_it_is_a_link(calibrated: Open) -> None:
    words = said(calibrated("compare", run="digits-shift", mode="experiments"))
    links = dict(re.findall(r'<a href="\./\?run=([\w-]+)">([^<]+)</a>', words))
    for name, (plan, found) in stored().items():
        assert all(f"{name}, {t.case}" in words for t in found.trained)
        assert links.pop(name) == f"{name}, {plan.shipped}"
        assert aa.open_run(SAMPLES / name / "run").digest == found.of_case(plan.shipped)[0].run
    assert not links


def test_one_experiment_is_shown_in_full_and_another_can_be_picked(calibrated: Open) -> None:
    app = calibrated("compare", run="digits-shift", mode="experiments", first="comments")
    found = stored()
    assert found["comments"][0].question.split("?")[0] in said(app).replace("\\", "")
    assert 'alt="Effects of the stages' in said(app) and "data:image/svg+xml" in said(app)
    checked(app.selectbox("pick:first").select("xray").run())
    assert app.query_params["first"] == "xray"
    assert "burnt in by the experiment" in said(app).replace("\\", "")


def test_lines_stay_where_the_runs_are_not_on_offer(screen: Open) -> None:
    words = said(screen("compare", run="unjudged", mode="experiments"))
    assert "mnist, rotations" in words and "<a href" not in words


def test_looking_at_results_imports_no_model() -> None:
    seen = subprocess.run([sys.executable, "-W", "ignore", "-c", HIDES_MODELS], capture_output=True, text=True)
    assert seen.stdout.strip() == "[]", seen.stderr
