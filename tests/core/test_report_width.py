"""What of a report has many columns: all of them are named, none is crowded out."""

from __future__ import annotations

import pytest

from aa_core.reporting.heat import heat_map, least_width
from aa_core.reporting.pages.effects import WIDEST, parts


@pytest.mark.parametrize("columns", [*range(1, 2 * WIDEST + 2), 40])
def test_tables_share_the_columns_out(columns: int) -> None:
    found = [range(columns)[part] for part in parts(columns)]
    assert [i for part in found for i in part] == list(range(columns))
    sizes = {len(part) for part in found}
    assert max(sizes) <= WIDEST and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("stages", [3, 10])
def test_every_stage_of_a_heat_map_is_named_and_every_number_has_a_size(stages: int) -> None:
    names, grid = [f"90° (time number {i})" for i in range(stages)], [[0.5, -0.25]] * stages
    figure = heat_map(names, ["is a", "is b"], [9, 8], grid, grid, grid, [], "log-likelihood", "nats", "Effects")
    shown = [text.replace("<br>", " ") for text in figure.layout.xaxis.ticktext]
    assert shown == names and figure.layout.xaxis.ticklabeloverflow == "allow"
    assert figure.data[0].textfont.size >= 9 and least_width(stages) >= 48 * stages
