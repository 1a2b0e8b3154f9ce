"""Durable writes: a file is there in full and on disk, or not at all; sealed ones tell whether they are as written."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

MODE = 0o644
SEAL = 65
"""Bytes before the content of a sealed file: its sha256 in hexadecimal digits, and a newline."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write so that the file is there in full and on disk, or not at all."""
    write_pieces(path, [data])


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """As `write_atomic`, of a file that never is in memory as a whole."""
    temporary = _write_temporary(path, pieces)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_sealed(path: Path, data: bytes) -> None:
    """As `write_atomic`, with a digest that shows bit rot and torn files, though not who knows how to forge one."""
    write_atomic(path, sealed(data))


def sealed(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def unsealed(content: bytes) -> bytes | None:
    """What was sealed; None unless all of it is as it was written."""
    data = content[SEAL:]
    return data if content == sealed(data) else None


def write_new(path: Path, data: bytes) -> None:
    """As `write_atomic`, but FileExistsError if there is such a file already."""
    temporary = _write_temporary(path, [data])
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_folder(path.parent)


def _write_temporary(path: Path, pieces: Iterable[bytes | memoryview]) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, MODE)
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
