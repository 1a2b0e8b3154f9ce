"""Saved subgroups: what picks the examples, named by the digest of that, in the workspace."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from aa_core.files import unsealed, write_sealed
from aa_core.workspace import workspace
from dashboard.selection import FILTERS, NOTHING, Selection, from_query, to_query
from dashboard.service import people
from dashboard.service.log import append


def save(evaluation: str, s: Selection, name: str, run: str | None = None) -> str:
    """Keep what picks the examples under a name; returns the digest of what defines it. The name is no part of that.

    `run` is the digest of the run that was looked at, for the access log.
    """
    person = people.require("analyst", "Saving a subgroup")
    content = {"evaluation": evaluation, "query": to_query(picks_of(s))}
    digest = _digest(content)
    append(person, "saved subgroup", run, digest)
    _folder().mkdir(parents=True, exist_ok=True)
    text = json.dumps({"name": name, **content}, indent=1, ensure_ascii=False)
    write_sealed(_folder() / f"{digest}.json", text.encode())
    return digest


def forget(digest: str, run: str | None = None) -> None:
    """Delete a saved subgroup; for callbacks. `run`: as of `save`."""
    person = people.require("analyst", "Forgetting a subgroup")
    if re.fullmatch(r"[0-9a-f]{12}", digest):
        append(person, "forgot subgroup", run, digest)
        (_folder() / f"{digest}.json").unlink(missing_ok=True)


def saved(evaluation: str) -> dict[str, str]:
    """{digest: name} of the subgroups of an evaluation set, by name; where two share one, the digest follows it."""
    found = {path.stem: content for path in _folder().glob("*.json") if (content := _read(path)) is not None}
    mine = {k: c["name"] for k, c in found.items() if c["evaluation"] == evaluation}
    often = Counter(mine.values())
    ordered = sorted(mine.items(), key=lambda item: (item[1].casefold(), item[0]))
    return {digest: name if often[name] == 1 else f"{name} ({digest[:6]})" for digest, name in ordered}


def definition(digest: str) -> Selection:
    """What picks the examples of a saved subgroup; nothing if there is none."""
    content = _read(_folder() / f"{digest}.json")
    return NOTHING if content is None else from_query(content["query"])[0]


def picks_of(s: Selection) -> Selection:
    """The part of a selection that picks examples."""
    return replace(NOTHING, **{name: getattr(s, name) for name in ("examples", *FILTERS)})


def _read(path: Path) -> dict[str, Any] | None:
    """A saved subgroup; None unless it is as it was written, and what its name says."""
    try:
        data = path.read_bytes()
        content = json.loads(unsealed(data) or data)  # once they had no seal; what has a broken one is no JSON
        defining = {"evaluation": content["evaluation"], "query": content["query"]}
        return content if _digest(defining) == path.stem and isinstance(content["name"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _folder() -> Path:
    return workspace() / "subgroups"
