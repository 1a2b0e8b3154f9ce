"""The experiments that ship with their results: estimates against real retraining, and the runs to open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

import streamlit as st

from dashboard import session, shell, tables
from dashboard.pictures import drawing
from dashboard.selection import NOTHING, to_query
from dashboard.service import experiments, list_runs
from dashboard.service.experiments import Block, Experiment, Heading, Picture, Table, Text
from dashboard.shell import Context
from dashboard.words import literal

WIDTH = 480


def render(ctx: Context) -> None:
    """All experiments in short, then one in full."""
    found = experiments.known()
    here = {entry.digest: entry.id for entry in list_runs().values() if not entry.error}
    st.caption("How close effects came to really training again, on real data. A name that is a link opens the run.")
    rows = [
        (line.name, _address(here[line.run]) if line.run in here else "", line.figures)
        for experiment in found.values()
        for line in experiment.lines
    ]
    head = next(iter(found.values())).head
    st.html(tables.linked(head, rows, experiments.TARGETS))
    with st.expander("How to read these figures", icon=":material/help:"):
        st.markdown(literal(experiments.READ))
    chosen = _chosen(ctx, found)
    st.subheader("One experiment in full", anchor=False)
    st.selectbox(
        "Experiment",
        list(found),
        format_func=lambda name: found[name].title,
        width=WIDTH,
        label_visibility="collapsed",
        **session.mirror("first", show=chosen),
    )
    _in_full(found[chosen], here)


def _chosen(ctx: Context, found: Mapping[str, Experiment]) -> str:
    """The experiment that is picked, else the one that the open run is of, else the first."""
    of_run = [name for name, e in found.items() if any(line.run == ctx.desk.run.digest for line in e.lines)]
    return next((name for name in (ctx.selection.first, *of_run) if name in found), next(iter(found)))


def _address(run: str) -> str:
    """The start screen of a run, seen from any other screen."""
    return f"./?{urlencode(to_query(replace(NOTHING, run=run)), doseq=True)}"


def _in_full(experiment: Experiment, here: dict[str, str]) -> None:
    for line in experiment.lines:
        if run := here.get(line.run):
            shell.link("Overview", f"Open the run: {literal(line.name)}", replace(NOTHING, run=run))
    st.caption(literal(experiment.made))
    for block in experiment.blocks:
        _draw(block)


def _draw(block: Block) -> None:
    match block:
        case Heading(_, text):
            st.markdown(f"**{literal(text)}**")
        case Table(head, rows):
            st.html(tables.linked(head, [(row[0], "", row[1:]) for row in rows], ""))
        case Picture(_, svg, words):
            st.html(drawing(svg, words))
        case Text(text):
            st.markdown(literal(text))
