"""Every screen draws every run that ships, to its end. Work is done once for all screens, jobs here and now.

Curvature is neglected: on xray, language and comments the exact one takes a minute a run and draws nothing else. Report
costs a sweep of its own and is drawn for one run of each kind: pictures and their classes, text and its characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from streamlit.testing.v1 import AppTest

import aa_core as aa
from aa_core.jobs.worker import work
from tests.dashboard.conftest import SAMPLES, VIEWS, open_screen, said

RUNS = sorted(path.parent.parent.name for path in SAMPLES.glob("*/run/run.json"))
KINDS = ("digits-adamw", "language")
CHEAP = {"curvature": "none"}
DRAWN = {
    "overview": "What each stage did",
    "explore": "Click a bar to see its steps",
    "subgroups": "Gap between two groups",
    "whatif": "The model would be",
    "compare": "Did the stages pull the same way?",
    "reliability": "Noise floor",
    "findings": "No findings yet",
    "report": "Digest of this report",
    "jobs": "Each is a process of its own",
}
"""What a screen says near its end."""


@pytest.fixture(scope="module", autouse=True)
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AA_RUNS_DIRS", str(SAMPLES))
        patch.setenv("AA_WORKSPACE", str(tmp_path_factory.mktemp("samples")))
        patch.setattr("aa_core.jobs.job._start", lambda folder, lock: work(folder))
        yield


@pytest.mark.parametrize(("run", "view"), [(r, v) for r in RUNS for v in VIEWS if v != "report" or r in KINDS])
def test_every_screen_draws_it(run: str, view: str) -> None:
    last = aa.open_run(SAMPLES / run / "run").stages[-1].name
    more = {"whatif": {"skip": last}, "compare": {"mode": "stages"}}.get(view, {})
    words = said(open_screen(view, run=run, **CHEAP, **more))
    assert DRAWN[view] in words and "This cannot be shown" not in words


@pytest.mark.parametrize("run", ["comments", "language"])
def test_a_step_shows_the_texts_that_it_was_trained_on(run: str) -> None:
    last = aa.open_run(SAMPLES / run / "run").stages[-1]
    app = open_screen("explore", run=run, **CHEAP, stage=last.name, steps=f"{last.stop - 1}-{last.stop - 1}")
    assert "They add up to" in said(app)
    shown = [item["text"] for item in _tiles(app)]
    assert len(shown) > 9 and all(any(c.isalpha() for c in text) for text in shown)


def _tiles(app: AppTest) -> list[dict[str, str]]:
    [grid] = (e for e in app.get("bidi_component") if "batch" in str(e.proto))
    return json.loads(grid.proto.json)["items"]
