"""The canonical bytes of a report, and digests of its every field: what was changed is found, and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from aa_core.errors import IntegrityError, RunFormatError, RunVersionError
from aa_core.runs.header import read_json

SCHEMA: Literal["aa-report/2"] = "aa-report/2"
"""What is written."""
READ = ("aa-report/1", SCHEMA)
"""What is read: a report of the first schema lacks what the second one added."""
SEALS = ("digest", "digests")
MOST_NAMED = 5


def canonical(value: Any) -> str:
    """One text for one value: sorted keys, ASCII, no "<" (it is embedded in HTML as it is)."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).replace("<", "\\u003c")


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content with a digest of each of its fields, and one of all."""
    return {**content, "digests": dict(_digests(content, "")), "digest": sha256(content)}


def sha256(value: Any) -> str:
    """Digest of the canonical text of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def verified(data: bytes, where: str = "report.json") -> dict[str, Any]:
    """The content of a report.json that matches its own digests; IntegrityError names the fields that do not.

    A digest says that nothing was changed by accident or by hand. Who wrote the report, a signature has to say.
    """
    found = read_json(data, where)
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema not in READ:
        kind = RunVersionError if str(schema).startswith("aa-report/") else RunFormatError
        raise kind(f"{where}: schema is {schema!r}, this package reads {' and '.join(map(repr, READ))}")
    content = {k: v for k, v in found.items() if k not in SEALS}
    expected = sealed(content)
    stated = found.get("digests")
    _compare(stated if isinstance(stated, dict) else {}, expected["digests"], where)
    if found.get("digest") != expected["digest"]:
        raise IntegrityError(f"{where}: digest is {str(found.get('digest'))[:64]!r}, the content has another one")
    if (place := first_difference(data, (canonical(found) + "\n").encode())) is not None:
        raise IntegrityError(
            f"{where}: same values, but not the bytes that were written, from byte {place} on (a number or the "
            "layout was edited)"
        )
    return content


def first_difference(a: bytes, b: bytes) -> int | None:
    """The first place at which two byte strings differ; None if they are the same."""
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _compare(stated: dict[str, Any], actual: dict[str, str], where: str) -> None:
    changed = sorted(n for n in {*stated, *actual} if stated.get(n) != actual.get(n))
    if not changed:
        return
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    verb = "differs from its digest" if len(changed) == 1 else "differ from their digests"
    raise IntegrityError(
        f"{where}: {', '.join(changed[:MOST_NAMED])}{more} {verb}: the report was changed after it was written"
    )


def _digests(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, digest) of every field: objects and lists of objects are entered, columns of values are one field."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _digests(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        for i, inner in enumerate(value):
            yield from _digests(inner, f"{path}[{i}]")
    else:
        yield path, sha256(value)
