"""Two things side by side: runs, groups of examples, or stages. Each answer has a row, first and second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from aa_core.effects.embedding import StageEmbedding, embed_stages
from aa_core.reporting.links import SHORT
from dashboard.selection import Selection
from dashboard.service.desk import Desk
from dashboard.service.engine import Progress
from dashboard.service.estimates import Belief, every_stage, known_of, mean_over, request_of
from dashboard.service.groups import Group, cells, gap
from dashboard.service.runs import RunEntry, list_runs


@dataclass(frozen=True)
class Pair:
    """Two effects a row, and their difference; positive = helped (more)."""

    frame: pd.DataFrame
    """stage (the name of the row), first, second, effect = first - second."""
    unit: str
    n: int
    beliefs: tuple[Belief, ...]
    """Of the first and of the second, or of both together."""
    unmatched: tuple[str, ...] = ()
    """Rows that only one of them has."""


def other_run(desk: Desk, s: Selection) -> RunEntry | None:
    """The second run that is asked for: by its id or, as in reports, by the first digits of its digest."""
    entries = [e for e in list_runs().values() if not e.error and e.id != desk.entry.id]
    by_digest = (e for e in entries if len(s.other) == SHORT and e.digest.startswith(s.other))
    return next((e for e in entries if e.id == s.other), next(by_digest, None))


def same_evaluation(first: Desk, second: Desk) -> bool:
    """Were both runs judged on the same examples?"""
    return first.run.evaluation is not None and first.evaluation_digest == second.evaluation_digest


def runs(first: Desk, second: Desk, s: Selection, progress: Progress) -> Pair:
    """The effects of the stages that both runs have, on the examples that the first run's selection picks."""
    rows = first.rows(s)
    (one, known), (two, known_too) = (_means(desk, s, rows, progress) for desk in (first, second))
    both = one.merge(two, on="stage", suffixes=("_first", "_second"))
    frame = pd.DataFrame({"stage": both["stage"], "first": both["effect_first"], "second": both["effect_second"]})
    alone = sorted(set(one["stage"]).symmetric_difference(two["stage"]))
    unit = every_stage(first, s, progress).unit
    return Pair(_with_difference(frame), unit, len(rows), (known, known_too), tuple(alone))


def groups(desk: Desk, s: Selection, first: Group, second: Group, progress: Progress) -> Pair:
    """The effects of every stage on two groups."""
    found = gap(desk, s, first, second, progress)
    return Pair(found.frame, found.unit, first.size + second.size, (found.belief,))


def stages(desk: Desk, s: Selection, names: tuple[str, str], by: Sequence[Group], progress: Progress) -> Pair:
    """The effects of two stages on each of some groups; a row is a group."""
    found = cells(desk, s, by, progress)
    one, two = (found.frame[found.frame["stage"] == name].reset_index(drop=True) for name in names)
    frame = pd.DataFrame({"stage": one["group"], "first": one["effect"], "second": two["effect"]})
    return Pair(_with_difference(frame), found.unit, int(one["n"].sum()), (found.belief,))


def cosines(desk: Desk, s: Selection, progress: Progress) -> pd.DataFrame:
    """[stages, stages]: the cosine between what two stages did to the final weights, to first order."""

    def work() -> pd.DataFrame:
        embedded = embed_stages(
            desk.recorded,
            desk.problem,
            method=s.method,
            curvature=s.curvature,
            semantics=s.semantics,
            progress=progress,
        )
        rows = torch.stack([_flat(e) for e in embedded])
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
        names = [e.stage for e in embedded]
        return pd.DataFrame((rows @ rows.T).numpy(), names, names)

    return desk.ask(("cosines", *request_of(s)), work)


def _flat(embedding: StageEmbedding) -> torch.Tensor:
    return torch.cat([p.detach().cpu().double().flatten() for p in embedding.params.values()])


def _means(desk: Desk, s: Selection, rows: np.ndarray, progress: Progress) -> tuple[pd.DataFrame, Belief]:
    every = every_stage(desk, s, progress)
    known = known_of(desk, every, rows, s)
    return mean_over(every, rows, s.readout), Belief.of(known)


def _with_difference(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(effect=frame["first"] - frame["second"])
