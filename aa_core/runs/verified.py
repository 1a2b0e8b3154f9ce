"""Bytes of a run on disk, read with care: regular files inside it, and those that were recorded. Needs no torch."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from aa_core.errors import IntegrityError, RunFormatError
from aa_core.runs.header import MAX_JSON_BYTES, FileEntry
from aa_core.runs.remote import fetch_missing, forget


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_file(root: Path, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file inside the run; RunFormatError for links, devices and names that lead elsewhere.

    Raises FileNotFoundError if it is not there, RunFormatError if it cannot be read or has more than `limit` bytes.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\0" in name or "\\" in name or ".." in parts:
        raise RunFormatError(f"{name!r}: not a relative path inside the run")
    path = root
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise RunFormatError(f"{name}: a symbolic link, expected a regular file inside the run")
    try:
        if not path.exists():
            fetch_missing(root, name)
        return _read_regular(path, name, limit)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise RunFormatError(f"{name}: cannot be read: {error.strerror}; check its permissions and the disk") from None
    except MemoryError:
        raise RunFormatError(f"{name}: does not fit into the memory of this machine") from None


def _read_regular(path: Path, name: str, limit: int) -> bytes:
    """Looked at before it is opened, since opening a device can already act, and again after it."""
    if not stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode):
        raise RunFormatError(f"{name}: not a regular file, expected one")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RunFormatError(f"{name}: not a regular file, expected one")
        if status.st_size > limit:
            raise RunFormatError(f"{name}: {status.st_size} bytes, expected at most {limit}")
        return file.read()


def read_verified(root: Path, entry: FileEntry) -> bytes:
    """The bytes of a file that a commit names; IntegrityError unless they are the bytes that were recorded."""
    try:
        return _verified(root, entry)
    except IntegrityError:
        if not forget(root, entry.name):
            raise
        return _verified(root, entry)


def _verified(root: Path, entry: FileEntry) -> bytes:
    try:
        data = read_file(root, entry.name, limit=entry.size)
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{entry.name}: missing, but the log names it; get a complete copy of the run") from None
    if len(data) != entry.size:
        raise IntegrityError(
            f"{entry.name}: {len(data)} bytes, the log says {entry.size}; get an intact copy of the run"
        )
    if (found := sha256(data)) != entry.sha256:
        raise IntegrityError(
            f"{entry.name}: sha256 {found[:16]}..., the log says {entry.sha256[:16]}...; get an intact copy of the run"
        )
    return data
