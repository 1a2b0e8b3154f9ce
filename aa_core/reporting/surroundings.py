"""What this workspace knows of a run beside the effects that are asked for, as the context of its reports."""

from __future__ import annotations

from aa_core.checkpoints_only.checkpoints import AnyRun, CheckpointRun
from aa_core.jobs import replayed, retrainings
from aa_core.reporting.activity import activity
from aa_core.reporting.ledger import ledger_events, ledger_section
from aa_core.reporting.report import Context


def surroundings(run: AnyRun) -> Context:
    """Retrainings, replay, findings, and who did what; of a run of checkpoints the last alone, as there is no more."""
    if isinstance(run, CheckpointRun):
        return Context(activity=activity(run))
    return Context(
        whatifs=retrainings(run),
        ledger=ledger_section(run),
        events=ledger_events(run),
        replay=replayed(run),
        activity=activity(run),
    )
