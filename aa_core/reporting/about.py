"""What no file can know of an audit: who did it, why, for whom, and who answers for it. Given by the auditor."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from aa_core.errors import RequestError
from aa_core.findings import Signature
from aa_core.runs.header import listed

NOT_STATED = "Not stated."
MOST_BYTES = 1 << 20


class Section(BaseModel):
    """A JSON object with exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class About(Section):
    """The auditor's own statements, printed as they are; what is left out is printed as not stated."""

    auditor: str = ""
    organisation: str = ""
    role: str = ""
    independence: str = ""
    """Relation to those who trained the model, and who paid."""
    access: str = ""
    """What the auditor could see and run: data, code, weights, people."""
    purpose: str = ""
    """Which decision the audit serves."""
    intended_use: str = ""
    """What the audited system is for."""
    out_of_scope: str = ""
    review: str = ""
    """Who read and challenged the report before it was signed."""
    sign_off: tuple[Signature, ...] = ()


def read_about(path: str | Path) -> About:
    """The statements in a TOML file of the fields of `About`; RequestError names what is wrong in it."""
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RequestError(f"{path}: {path.stat().st_size} bytes, a cover sheet has at most {MOST_BYTES}")
        return About.model_validate(tomllib.loads(path.read_text("utf-8")), strict=False)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{path}: not a readable TOML file: {error}") from None
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise RequestError(f"{path}: {listed(wrong)}; it may have {', '.join(About.model_fields)}") from None
