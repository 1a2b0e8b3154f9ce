"""A run of a language model, whose targets are sequences of characters, on the screens."""

from __future__ import annotations

import pytest

from tests.dashboard.conftest import Open, said


@pytest.mark.parametrize("view", ["overview", "explore", "subgroups"])
def test_sequences_are_judged_as_a_whole_and_predicted_at_their_last_place(calibrated: Open, view: str) -> None:
    words = said(calibrated(view, run="language"))
    assert "likelihood" in words.replace("\\", "")
