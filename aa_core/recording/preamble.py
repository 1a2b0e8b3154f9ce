"""What is known of a run before its first step, and what may be said of its stages: plain, checked values."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aa_core.errors import RecordingError, RunFormatError
from aa_core.recording.live import Live, tensor_specs
from aa_core.recording.machine import environment
from aa_core.runs.header import MAX_STAGE_NAME, Header, ProblemEntry, read_json
from aa_core.state import AVERAGE


def preamble(
    live: Live, title: str, problem: str | None, config: Mapping[str, Any], evaluation: bool, averaged: bool
) -> Header:
    model, loss_fn = type(live.model), live.loss_fn
    run_id, created = _birth(title)
    return Header(
        format="aa-run",
        version=1,
        run_id=run_id,
        title=str(title),
        created=created,
        problem=ProblemEntry(name=problem, config=json_object(config, "config")),
        model_class=f"{model.__module__}.{model.__qualname__}",
        parameters=tensor_specs(live.trained),
        groups=live.groups,
        buffers=tensor_specs(live.carried),
        optimizer=live.rule.name,
        slots=(*live.rule.slots, *([AVERAGE] if averaged else [])),
        loss=str(getattr(loss_fn, "__qualname__", repr(loss_fn))),
        evaluation=evaluation,
        environment=environment(live.device),
    )


def _birth(title: str) -> tuple[str, str]:
    """(run id, time of creation); both fixed by SOURCE_DATE_EPOCH, so that a recording can be repeated to the bit."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return uuid.uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds")
    created = datetime.fromtimestamp(int(epoch), UTC).isoformat(timespec="seconds")
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{title} {created}").hex, created


def json_object(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A copy through JSON, so that what is written is what is read back."""
    try:
        return read_json(json.dumps(dict(value), allow_nan=False).encode(), what)
    except (TypeError, ValueError, RunFormatError) as error:
        raise RecordingError(f"{what} must be a JSON object (text, finite numbers, lists, objects): {error}") from None


def check_stage_name(name: object) -> None:
    if not (isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= MAX_STAGE_NAME):
        raise RecordingError(
            f"stage name {str(name)[:60]!r}: expected printable text on one line, 1 to {MAX_STAGE_NAME} characters"
        )
