"""Lines of JSON for logs that are only ever appended to: each with its own digest, so that a damaged one is seen."""

from __future__ import annotations

from typing import Self

from aa_core.runs.header import Digest, Model
from aa_core.runs.verified import sha256


class Line(Model):
    """One line. That it is at its place is told by the digest of the line before, which a log adds itself."""

    digest: Digest | None = None
    """sha256 of the line without it; None in those written before lines had one."""

    @property
    def line(self) -> bytes:
        """The bytes that it must have, its digest computed anew."""
        own = "" if self.digest is None else f',"digest":"{sha256(self._content)}"'
        return self._content[:-1] + f"{own}}}\n".encode()

    def sealed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"digest": sha256(self._content)})

    @property
    def _content(self) -> bytes:
        return self.model_dump_json(exclude={"digest"}).encode()
