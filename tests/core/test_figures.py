"""Charts: ids to click on, unit and sign in words, and no case that breaks them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from aa_core.reporting.bins import BARS, binned, spans_decades
from aa_core.reporting.breakdown import split_bars, told_apart
from aa_core.reporting.figures import (
    HELPED,
    HURT,
    STAGES,
    agreement_scatter,
    compare_bars,
    stage_bars,
    stage_timeline,
    step_bars,
)
from aa_core.reporting.glossary import by_chance, fmt_correlation, fmt_effect, fmt_interval, fmt_percent, fmt_seconds
from aa_core.reporting.marks import grid_words
from aa_core.reporting.sketch import GRID, TITLED, Sketch
from aa_core.stages import Stage

LONG = [f"fine-tune on the third-party customer corpus, part {i}" for i in range(12)]


def stages(names: list[str], effects: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"stage": names, "effect": effects})


def steps(count: int) -> pd.DataFrame:
    owner = ["a"] * (count // 2) + ["b"] * (count - count // 2)
    return pd.DataFrame({"step": range(count), "stage": owner, "effect": np.linspace(-1, 2, count)})


def log(count: int) -> pd.DataFrame:
    return steps(count).assign(loss=1.0, lr=0.1).drop(columns="effect")


FIGURES = {
    "stages": stage_bars(stages(["a", "b"], [0.12, -0.3]), "nats", performance="log-likelihood"),
    "one": stage_bars(stages(["only"], [0.12]), "nats"),
    "twelve": stage_bars(stages(LONG, [1.0] * 12).assign(low=0.5, high=1.5), "nats", selected=LONG[3]),
    "zeros": stage_bars(stages(["a", "b"], [0.0, 0.0]), "nats"),
    "no interval": stage_bars(stages(["a"], [1.0]).assign(low=np.nan, high=np.nan), "nats"),
    "steps": step_bars(steps(30), "nats", performance="log-likelihood"),
    "one step": step_bars(steps(1), "nats"),
    "many steps": step_bars(steps(9000), "nats"),
    "compare": compare_bars(pd.DataFrame({"stage": ["a"], "estimate": [0.2], "truth": [-0.1]}), "nats"),
    "timeline": stage_timeline([Stage("a", ((0, 5), (10, 15))), Stage("b", ((5, 10),))], log(15)),
    "gradients": stage_timeline([Stage("a", ((0, 4),))], log(4).assign(grad_norm=[100.0, np.nan, np.inf, 0.01])),
    "scatter": agreement_scatter(pd.DataFrame({"estimate": [1.0, -1.0], "truth": [2.0, 0.5]})),
    "empty scatter": agreement_scatter(pd.DataFrame({"estimate": [], "truth": []}, dtype=float)),
}
EFFECTS = [n for n in FIGURES if n not in ("timeline", "gradients")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_json_with_a_stable_revision_and_no_colour_of_its_own_for_text(name: str) -> None:
    layout = json.loads(FIGURES[name].to_json())["layout"]
    assert layout["uirevision"] and layout["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert "color" not in layout["font"], "the page's theme decides, light or dark"


@pytest.mark.parametrize("name", EFFECTS)
def test_every_chart_of_effects_says_unit_and_sign(name: str) -> None:
    layout = FIGURES[name].layout
    titles = [axis.title.text or "" for axis in (layout.xaxis, layout.yaxis)]
    assert any("effect on" in t and "nats per example" in t for t in titles)
    assert "positive = the st" in layout.title.text


@pytest.mark.parametrize("name", FIGURES)
def test_every_bar_carries_its_id(name: str) -> None:
    for trace in FIGURES[name].data:
        if isinstance(trace, go.Bar):
            assert len(trace.customdata) == len(trace.x)


def test_ids_are_stages_and_steps() -> None:
    assert list(FIGURES["stages"].data[0].customdata) == ["a", "b"]
    assert list(FIGURES["steps"].data[0].customdata) == list(range(30))
    assert list(FIGURES["scatter"].data[1].customdata) == [0]


def test_the_sign_is_said_by_colour_hatch_and_text() -> None:
    bars, labels = FIGURES["stages"].data
    assert list(bars.marker.color) == [HELPED, HURT]
    assert list(bars.marker.pattern.shape) == ["", "/"]
    assert [t.strip() for t in labels.text] == ["+0.120", "−0.300"]
    assert not {HELPED, HURT} & set(STAGES)


def test_selected_stages_stand_out() -> None:
    opacity = FIGURES["twelve"].data[0].marker.opacity
    assert [i for i, o in enumerate(opacity) if o == 1.0] == [3]
    assert set(FIGURES["stages"].data[0].marker.opacity) == {1.0}


def test_the_chosen_step_has_a_line_through_bars_and_strip() -> None:
    layout = step_bars(steps(30), "nats", chosen=7).layout
    assert layout.hovermode == "x", "a bar of next to nothing is hit in its column"
    lines = layout.shapes
    assert [(line.x0, line.x1, line.yref) for line in lines] == [(7, 7, "y domain"), (7, 7, "y2 domain")]
    assert not FIGURES["steps"].layout.shapes


def test_what_is_set_wins_over_the_common_look_and_leaves_the_next_chart_alone() -> None:
    own = Sketch([0.5, 0.5])
    own.yaxis(2, title={"text": "loss"}, gridcolor="red")
    own.set(margin={"b": 1})
    layout = own.done("Own", [], 100, "own").layout
    assert (layout.yaxis2.title.text, layout.yaxis2.title.standoff, layout.yaxis2.gridcolor) == ("loss", 8, "red")
    assert (layout.margin.b, layout.margin.l, layout.height) == (1, TITLED, 144)
    plain = Sketch([0.5, 0.5]).done("Plain", [], 100, "plain").layout
    assert (plain.yaxis2.title.text, plain.yaxis2.gridcolor, plain.margin.b) == (None, GRID, 50)


def test_names_stay_names() -> None:
    figure = stage_bars(stages(["2020", "<a href='https://x.org'>y</a>", "a\u202eb"], [1.0, 2.0, 3.0]), "nats")
    ticks = "".join(figure.layout.yaxis.ticktext)
    assert list(figure.data[0].y) == [0, 1, 2], "a stage called 2020 is no number"
    assert "<a" not in ticks and "&lt;a" in ticks and "\u202e" not in ticks
    assert "<a" not in "".join(figure.data[0].hovertext)


def test_names_have_room_beside_their_bars() -> None:
    def room(*names: str) -> int:
        return stage_bars(stages([*names], [1.0] * len(names)), "nats").layout.margin.l

    assert room("a") < room("wwww") < room("WWWW WWWW") < room("WWWW WWWW", *LONG) < 200
    assert room("<<<<") == room("====") and room("fine-tune one", "a") == room("a", "fine-tune one")
    assert room("one line of no more and another line of it") < room("one line of no more and") * 1.1


def test_many_steps_are_summed_and_the_chart_says_so() -> None:
    figure, frame = FIGURES["many steps"], steps(9000)
    bars = figure.data[0]
    assert len(bars.y) <= BARS + 2
    assert sum(bars.y) == pytest.approx(frame["effect"].sum())
    assert "sum of 5 neighbouring steps" in figure.layout.title.text


def test_the_gradient_norm_is_a_third_curve_logarithmic_where_it_spans_decades() -> None:
    figure = FIGURES["gradients"]
    assert [t.name for t in figure.data[1:]] == ["loss", "lr", "grad_norm"]
    assert figure.layout.yaxis4.title.text == "gradient norm" and figure.layout.yaxis4.type == "log"
    assert json.loads(figure.to_json())["data"][3]["y"] == [100.0, None, None, 0.01], "as where a loss is not finite"
    assert "loss, learning rate and gradient norm" in figure.layout.title.text
    flat = stage_timeline([Stage("a", ((0, 4),))], log(4).assign(grad_norm=[1.0, 2.0, 99.0, 1.0]))
    assert flat.layout.yaxis4.type is None and flat.layout.yaxis4.rangemode == "tozero"


@pytest.mark.parametrize(
    ("values", "wide"),
    [([1.0, 100.0], True), ([1.0, 99.0], False), ([0.0, 100.0], False), ([-1.0, 100.0], False), ([], False),
     ([None, float("nan"), float("inf")], False), ([0.01, None, 1.0], True)],
)  # fmt: skip
def test_what_spans_decades(values: list[float | None], wide: bool) -> None:
    assert spans_decades(values) == wide


def test_a_bin_never_mixes_stages() -> None:
    rows, width = binned(steps(9001), "sum")
    assert width == 5
    assert rows.loc[rows["stage"] == "b", "step"].min() == 4500


def test_few_steps_are_left_alone() -> None:
    rows, width = binned(steps(BARS), "sum")
    assert width == 1 and len(rows) == BARS


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.12, None, "+0.120"),
        (-0.12, 1.5, "−0.12"),
        (0.0, 1.5, "0.00"),
        (0.001, 1.5, "0.00"),
        (0.0, 0.0, "0"),
        (-2e-6, None, "−2.00e−06"),
        (1234.5, None, "+1234"),
        (float("nan"), None, "n/a"),
        (None, None, "n/a"),
    ],
)
def test_effects_are_signed_and_share_decimals(value: float | None, scale: float | None, text: str) -> None:
    assert fmt_effect(value, scale) == text


def test_other_formats() -> None:
    assert [fmt_correlation(r) for r in (0.987, -0.5, -0.001, None)] == ["0.99", "−0.50", "0.00", "n/a"]
    assert [fmt_percent(s) for s in (0, 0.004, 0.5, 0.996, 1)] == ["0 %", "< 1 %", "50 %", "> 99 %", "100 %"]
    assert fmt_interval(-0.1, 0.2, 0.2) == "−0.100 to +0.200" and fmt_interval(None, None) == "–"
    assert [fmt_seconds(s) for s in (0.01, 1.26, 80, 600, None)] == ["< 0.1 s", "1.3 s", "80 s", "10 min", "–"]


def test_parts_that_cannot_be_told_apart_are_added_up() -> None:
    parts = [f"layer {i}" for i in range(20)]
    effects = [[float(i) for i in range(20)], [-0.5 * i for i in range(20)]]
    names, told = told_apart(parts, effects)
    assert names == [*parts[6:], "5 others, where they help", "5 others, where they hurt"], "layer 0 does nothing"
    assert told == [[*effects[0][6:], 15.0, 0.0], [*effects[1][6:], 0.0, -7.5]]
    assert told_apart(parts[:17], [[1.0 * i for i in range(17)]])[0] == parts[1:17], "sixteen are told apart"
    assert told_apart(["a", "b"], [[None, 0.0]]) == ([], [[]])

    rows = [("s", p, e) for p, e in zip(parts, effects[0], strict=True)]
    figure = split_bars(pd.DataFrame(rows, columns=["stage", "layer", "effect"]), "layer", "nats", "loss")
    *bars, sums = figure.data
    looks = {(bar.marker.color, bar.marker.pattern.shape) for bar in bars}
    assert len(looks) == len(bars) == 16 and sum(bar.x[0] for bar in bars) == sum(effects[0])
    assert list(sums.text) == [" +190 "] and list(sums.x) == [190.0]


def test_a_cell_says_what_is_not_sure_of_it() -> None:
    grids = ([[0.12, 0.03]], [[0.1, -0.1]], [[0.2, 0.1]])
    assert grid_words(*grids, [[True, True]]) == [["+0.120?", "(+0.030)?"]]
    assert grid_words(*grids, []) == [["+0.120", "(+0.030)"]], "older reports do not say"
    assert grid_words([[None]], [[None]], [[None]], [[False]]) == [["n/a"]]


def test_a_retrained_effect_is_a_diamond_and_the_value_stands_beyond_it() -> None:
    frame = pd.DataFrame({"stage": ["a", "b"], "effect": [0.1, -0.2], "truth": [0.4, np.nan]})
    _, labels, marks = stage_bars(frame, "nats").data
    assert (list(marks.x), list(marks.y), list(marks.customdata)) == ([0.4], [0], ["a"])
    assert list(labels.x) == [0.4, -0.2] and "retrained +0.400 nats" in marks.hovertext[0]
    assert len(stage_bars(frame.assign(truth=np.nan), "nats").data) == 2, "nothing was retrained"


def test_a_stage_keeps_its_colour_where_only_it_is_shown() -> None:
    names = [f"s{i}" for i in range(8)]
    every = pd.DataFrame({"step": range(8), "stage": names, "effect": 1.0})
    strip, hatch = step_bars(every, "nats").data[1:]
    alone, hatched = step_bars(every[6:7], "nats", stages=names).data[1:]
    assert alone.marker.color[0] == strip.marker.color[6] == strip.marker.color[0]
    assert list(hatch.base) == [5.5, 6.5] and list(hatched.base) == [5.5], "colours begin again, hatched"
    assert len(step_bars(every[:6], "nats").data) == 2, "six are told apart by colour alone"


@pytest.mark.parametrize(("intervals", "words"), [(7, "0.35"), (20, "1"), (199, "10"), (2400, "120")])
def test_how_many_would_by_chance(intervals: int, words: str) -> None:
    assert by_chance(intervals) == words
