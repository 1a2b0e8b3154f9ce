"""What was asked, as a report keeps it: how the examples were picked, and each retraining in the terms of its job."""

from __future__ import annotations

from urllib.parse import unquote_plus, urlencode

from pydantic import Field

from aa_core.reporting.about import Section
from aa_core.reporting.shown import Query


class Picks(Section):
    """What picked the examples: filters, or a saved subgroup by the digest of what defines it."""

    query: Query
    subgroup: str = ""
    """The name that the subgroup was saved under; empty for filters."""
    definition: Query = Field(default_factory=dict)
    """What defines it."""

    @property
    def words(self) -> str:
        """ "labels=3, wrong=1"; "slice=0123456789ab"."""
        return worded(self.query)


class Request(Section):
    """A retraining. Rows and steps are ranges: "3,7-9"."""

    skip: tuple[str, ...] = ()
    """Stages that were left out, scaled or changed."""
    steps: str = ""
    """Single steps beside them."""
    without: str = ""
    """Training examples that were left out or scaled."""
    scale: float = 0.0
    changes: dict[str, str] = Field(default_factory=dict)
    """{hyperparameter: what it was instead}."""
    semantics: str = "freeze"
    performance: str = "log-likelihood"
    examples: str = ""
    """Rows of the evaluation set; empty for all."""
    method: str = "boundary"
    curvature: str = "exact"
    readout: str = "linear"


class Attempt(Section):
    """An attempt at a retraining that came to nothing before it was tried again."""

    at: str
    """When it ended; empty where that is damaged."""
    how: str


def worded(query: Query) -> str:
    """A query as people read it."""
    return unquote_plus(urlencode(query, doseq=True)).replace("&", ", ")
