"""A run as one zip file, and back: nothing is packed but what the log names and calibrations of it, nothing unpacked
but that, as it was.

Entries are stored, not compressed: tensors hardly shrink, and what is not compressed cannot expand.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aa_core.errors import IntegrityError, RequestError, RunExistsError, RunFormatError, RunNotFoundError
from aa_core.files import MODE, sync_folder
from aa_core.runs.attached import MAX_BYTES, NAME, check_attached, name_of
from aa_core.runs.chain import Chain
from aa_core.runs.header import listed, repeated
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.runs.verified import read_file

LONG_AGO = (1980, 1, 1, 0, 0, 0)
END, END_BYTES = b"PK\x05\x06", 22
MAX_DIRECTORY = 8 * 2**20
"""Bytes of the list of entries, at the end of a zip file; each entry costs twenty times that of memory."""
CHUNK = 2**20
_NAME = re.compile(
    r"run\.json|log/\d{10}\.json|journal/\d{10}\.jsonl?|data/evaluation\.json"
    r"|(?:steps/\d{1,15}-\d{1,15}|states/\d{1,15}|data/(?:\d{1,15}|evaluation))\.safetensors",
    re.ASCII,
)
"""The files of a run; what else the log does not name is refused, too."""


def export_run(run: Trajectory, target: str | Path, calibrations: Iterable[bytes] = ()) -> Path:
    """Write an intact run as a zip file, with calibrations of it; the same run and calibrations give the same bytes.

    Raises IntegrityError if the run is not intact, RequestError if there is such a file already.
    """
    target = Path(target)
    if target.exists() or target.is_symlink():
        raise RequestError(f"{target}: exists already and is not overwritten; name another file")
    _require_intact(run)
    with _beside(target) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        for name in sorted(_files(run.chain)):
            archive.writestr(_entry(name), read_file(run.path, name, limit=2**40))
        for name, data in sorted({name_of(data): data for data in calibrations}.items()):
            check_attached(name, data, run.digest)
            archive.writestr(_entry(name), data)
    return target


def import_run(file: str | Path, target: str | Path) -> Trajectory:
    """Unpack a run into a new folder, if every entry and then the run as a whole is what it has to be.

    Raises RunNotFoundError, RunExistsError, RunFormatError (all entries that are wrong, listed), IntegrityError.
    """
    file, target = Path(file), Path(target)
    if not file.is_file():
        raise RunNotFoundError(f"{file}: no such file")
    if target.exists() or target.is_symlink():
        raise RunExistsError(f"{target}: exists already and is not overwritten; name another folder")
    try:
        with _beside(target) as temporary, _opened(file) as archive:
            temporary.mkdir()
            for entry in _checked(archive, file):
                _unpack(archive, entry, temporary)
            run = open_run(temporary)
            _require_intact(run)
            brought = {i.filename for i in archive.infolist() if NAME.fullmatch(i.filename)}
            for name in sorted(brought):
                check_attached(name, read_file(temporary, name, MAX_BYTES), run.digest)
            if extra := {i.filename for i in archive.infolist()} - _files(run.chain) - brought:
                raise RunFormatError(f"{file}: " + listed(f"entry {n!r} is not part of the run" for n in sorted(extra)))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise RunFormatError(f"{file}: not a zip file that can be read: {str(error)[:200]}") from None
    return open_run(target)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, LONG_AGO)
    entry.create_system, entry.external_attr = 3, (stat.S_IFREG | MODE) << 16
    return entry


def _files(chain: Chain) -> set[str]:
    """All that the run consists of."""
    names = {"run.json", *(f"log/{c.number:010d}.json" for c in chain.commits)}
    return names | {*chain.journals} | {f.name for c in chain.commits for f in c.files}


def _require_intact(run: Trajectory) -> None:
    if problems := [p for p in check_integrity(run) if p not in run.warnings]:
        raise IntegrityError(f"{run.path}: not intact: " + listed(problems))


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A place in the same folder that becomes the target in the end, or is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        _sync(temporary)
        os.rename(temporary, target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()
        raise


def _sync(path: Path) -> None:
    for place in (path, *path.rglob("*")):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _opened(file: Path) -> zipfile.ZipFile:
    """RunFormatError if the list of entries is larger than a run's: reading it costs memory before any check."""
    with file.open("rb") as raw:
        size = raw.seek(0, os.SEEK_END)
        raw.seek(max(size - END_BYTES, 0))
        end = raw.read()
    if end[:4] != END or len(end) != END_BYTES:
        raise RunFormatError(f"{file}: not a zip file as `aa export` writes it (of at most 4 GiB, without a comment)")
    if (directory := int.from_bytes(end[12:16], "little")) > MAX_DIRECTORY:
        raise RunFormatError(f"{file}: a list of entries of {directory} bytes, at most {MAX_DIRECTORY} are read")
    return zipfile.ZipFile(file)


def _checked(archive: zipfile.ZipFile, file: Path) -> list[zipfile.ZipInfo]:
    """The entries; RunFormatError unless each could be a file of a run and all together fit into the archive."""
    entries = archive.infolist()
    problems = [f"entry {entry.filename[:100]!r}: {p}" for entry in entries if (p := _entry_problem(entry))]
    problems += [f"entry {name[:100]!r} occurs twice" for name in repeated(e.filename.lower() for e in entries)]
    if sum(e.file_size for e in entries) > (size := file.stat().st_size):
        problems.append(f"entries announce more bytes than the archive's {size}")
    if problems:
        raise RunFormatError(f"{file}: " + listed(problems))
    return entries


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not (_NAME.fullmatch(entry.filename) or NAME.fullmatch(entry.filename)) or entry.filename != entry.orig_filename:
        return "not the name of a file of a run"
    if kind not in (0, stat.S_IFREG):
        return "a link, folder or device, expected a regular file"
    if entry.flag_bits & 1:
        return "encrypted"
    if entry.header_offset < 0:
        return "begins before the archive does"
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        return "compressed; pack runs with `aa export`, which only stores"
    return None


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    path = folder / entry.filename
    path.parent.mkdir(exist_ok=True)
    with archive.open(entry) as source, path.open("xb") as copy:
        os.fchmod(copy.fileno(), MODE)
        shutil.copyfileobj(source, copy, CHUNK)
