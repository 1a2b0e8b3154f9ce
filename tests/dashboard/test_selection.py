"""A view is a link: what is picked survives the way through the URL, and no URL breaks a page."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.selection import (
    CHARTS,
    CODECS,
    MODES,
    NOTHING,
    OPTIONS,
    Facts,
    Selection,
    compress,
    fit,
    from_query,
    to_query,
)

FACTS = Facts(50, 10, ("pretrain", "fine-tune, 45°"), {"rotation": ("0", "45")}, steps=9, trained_on=5, hypers=("lr",))
words = st.text(st.characters(exclude_categories=["C"]), max_size=20)
numbers = st.frozensets(st.integers(0, 49), max_size=20).map(lambda s: tuple(sorted(s)))
classes = st.frozensets(st.integers(0, 9)).map(lambda s: tuple(sorted(s)))
ranges = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(lambda p: tuple(sorted(p)))
selections = st.builds(
    Selection,
    run=words,
    digest=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    examples=numbers,
    labels=classes,
    predictions=classes,
    wrong=st.booleans(),
    confidence=ranges,
    where=st.frozensets(st.tuples(words.filter(lambda w: ":" not in w), words)).map(lambda s: tuple(sorted(s))),
    text=words,
    page=st.integers(1, 99),
    stage=words,
    steps=st.none() | ranges,
    skip=st.lists(words, unique=True, max_size=3).map(tuple),
    slice=st.just("") | st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    leave=st.none() | ranges,
    without=numbers,
    scale=st.integers(0, 200).filter(lambda n: n != 100),
    change=st.frozensets(st.tuples(words.filter(lambda w: ":" not in w), words)).map(lambda s: tuple(sorted(s))),
    chart=st.sampled_from(CHARTS),
    mode=st.sampled_from(MODES),
    by=words,
    other=words,
    first=words,
    second=words,
    **{name: st.sampled_from(options) for name, options in OPTIONS.items()},
)


@given(selections)
def test_a_selection_survives_its_url(selection: Selection) -> None:
    assert from_query(to_query(selection)) == (selection, [])


def test_nothing_picked_is_an_empty_url() -> None:
    assert to_query(NOTHING) == {}


@given(st.dictionaries(st.sampled_from([*CODECS, "other"]), st.lists(st.text(max_size=40), min_size=1, max_size=3)))
def test_no_url_is_an_error(query: dict[str, list[str]]) -> None:
    selection, _ = from_query(query)
    fitted, _ = fit(selection, FACTS)
    assert fit(fitted, FACTS) == (fitted, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("examples", "1;2"),
        ("examples", "0-999999999"),
        ("examples", "-1"),
        ("page", "0"),
        ("wrong", "yes"),
        ("confidence", "80-20"),
        ("confidence", "0-200"),
        ("performance", "accuracy"),
        ("digest", "xyz"),
        ("where", "rotation"),
        ("stage", "a\nb"),
        ("steps", "9-1"),
        ("nonsense", "1"),
        ("slice", "../etc"),
        ("scale", "100"),
        ("leave", "9-1"),
        ("change", "lr"),
        ("chart", "pie"),
        ("performance", "confounder:"),
    ],
)
def test_a_bad_value_is_left_out_and_named(name: str, value: str) -> None:
    selection, notes = from_query({name: [value], "text": ["kept"]})
    assert selection == replace(NOTHING, text="kept")
    assert len(notes) == 1
    assert name in notes[0]


def test_what_the_run_does_not_have_is_left_out_and_named() -> None:
    asked = replace(
        NOTHING,
        examples=(3, 50),
        labels=(10,),
        where=(("rotation", "0"), ("rotation", "7"), ("x", "0")),
        stage="no",
        skip=("pretrain", "no"),
        slice="0" * 12,
        performance="confounder:rotation",
        leave=(4, 12),
        without=(4, 5),
        change=(("lr", "0.5x"), ("nonsense", "1")),
    )
    fitted, notes = fit(asked, FACTS)
    kept = {"examples": (3,), "where": (("rotation", "0"),), "skip": ("pretrain",), "without": (4,)}
    assert fitted == replace(NOTHING, **kept, change=(("lr", "0.5x"),))
    assert len(notes) == 10


def test_numbers_are_written_as_ranges() -> None:
    assert compress([7, 1, 2, 3]) == "1-3,7"


def test_everything_keeps_run_and_estimator_only() -> None:
    picked = Selection(run="r", digest="0" * 12, examples=(1,), stage="s", readout="link")
    assert picked.everything == Selection(run="r", digest="0" * 12, readout="link")


def test_every_field_has_a_place_in_the_url() -> None:
    assert {f.name for f in fields(Selection)} == set(CODECS)
