"""Sections on what the dashboard's screens show beside the effects themselves, where somebody has chosen to see it.

All effects are on the selection's performance, in its unit; positive = it helped, unless something else is said.
`words` tell how far the numbers of their section can be believed.
"""

from __future__ import annotations

from typing import Literal

from aa_core.reporting.about import Section
from aa_core.reporting.recorded import Number

Query = dict[str, tuple[str, ...]]
"""Settings of the dashboard as its links name them."""


class Group(Section):
    """Some of the examples: those that have one value of a column; of a saved subgroup, the column is empty."""

    column: str
    value: str
    n: int
    definition: str = ""
    """What picks the examples of a saved subgroup."""


class GroupTable(Section):
    """Mean effect of each stage on each subgroup: [stage][group], with the interval over the group's examples."""

    groups: tuple[Group, ...]
    stage: tuple[str, ...]
    effect: tuple[tuple[Number, ...], ...]
    low: tuple[tuple[Number, ...], ...]
    high: tuple[tuple[Number, ...], ...]
    unsure: tuple[tuple[bool, ...], ...] = ()
    """Whether the readouts disagree in the sign of the mean; empty where that was not kept."""

    def is_unsure(self, i: int, j: int) -> bool:
        """Of stage i on group j."""
        return bool(self.unsure) and self.unsure[i][j]


class Parts(Section):
    """Explore: the effect of each stage on the mean of the examples, split by layer or by cause."""

    by: Literal["layer", "cause"]
    stage: tuple[str, ...]
    part: tuple[str, ...]
    effect: tuple[tuple[Number, ...], ...]
    """[stage][part]"""
    words: str


class Shares(Section):
    """Explore: what the mean performance gained while each stage was trained. Exact, and no effect."""

    stage: tuple[str, ...]
    share: tuple[Number, ...]
    start: Number
    """The mean performance before the first step."""


class StepExamples(Section):
    """Explore: the training examples of one step, by what each did to the mean of the examples, best first."""

    step: int
    stage: str
    row: tuple[int, ...]
    """Of the run's table of examples."""
    id: tuple[int | str, ...]
    """What the training loop called it."""
    label: tuple[str, ...]
    effect: tuple[Number, ...]
    """Of all its uses in this step."""
    words: str


class Gap(Section):
    """Subgroups, Compare: how much more each stage helped the first group than the second."""

    groups: tuple[Group, Group]
    stage: tuple[str, ...]
    first: tuple[Number, ...]
    second: tuple[Number, ...]
    effect: tuple[Number, ...]
    """first - second, positive where the stage helped the first more or hurt it less."""
    low: tuple[Number, ...]
    high: tuple[Number, ...]


class Grouping(Section):
    """Subgroups: what each stage did to the groups that were chosen."""

    by: str
    """The column; empty for the subgroups that were saved."""
    table: GroupTable
    counted: int
    """How many of its effects have an interval."""
    apart: int
    """Of those: how many intervals leave out zero, each taken by itself."""
    apart_corrected: int
    """And how many do when all have to hold together (Bonferroni)."""
    gap: Gap | None
    """None for a single group."""
    evaluation: str
    """Digest of the performance and all examples: groups are whole, whichever are picked."""
    words: str


class Stages(Section):
    """Compare: two stages side by side on each true label, and whether stages pulled the same way."""

    first: str
    second: str
    groups: tuple[Group, ...]
    effect_first: tuple[Number, ...]
    effect_second: tuple[Number, ...]
    stage: tuple[str, ...]
    cosine: tuple[tuple[Number, ...], ...]
    """[stage][stage]: between what two stages did to the final weights, to first order; 1 = the same direction."""
    evaluation: str
    """As of Grouping."""
    words: str


class Prediction(Section):
    """What-if: what a change would do, while no retraining of it is done. `effect` = recorded - predicted."""

    what: str
    recorded: Number
    predicted: Number
    effect: Number
    n: int
    within_noise: bool | None
    """Whether the effect is no larger than the noise floor of the truth; None where none was measured."""
    estimator: str
    """method/curvature/readout: not every change can be estimated by the method of the report."""
    query: Query
    words: str


class Shown(Section):
    """What was on the screens when the report was made; None for what nobody had chosen."""

    parts: Parts | None = None
    shares: Shares | None = None
    batch: StepExamples | None = None
    grouping: Grouping | None = None
    stages: Stages | None = None
    prediction: Prediction | None = None

    @property
    def comparisons(self) -> int:
        """How many effects of stages on groups it has; a gap is one of its own."""
        grouping, pair = self.grouping, self.stages
        cells = 0 if grouping is None else len(grouping.table.stage) * len(grouping.table.groups)
        gaps = 0 if grouping is None or grouping.gap is None else len(grouping.gap.stage)
        return cells + gaps + (0 if pair is None else 2 * len(pair.groups))
