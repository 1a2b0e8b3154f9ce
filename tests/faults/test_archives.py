"""A run as a zip file: packed and unpacked to the byte, and an archive that could do harm is refused before it does."""

from __future__ import annotations

import io
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aa_core.errors import AuditError, IntegrityError, RequestError, RunExistsError, RunFormatError
from aa_core.runs.archive import LONG_AGO, export_run, import_run
from aa_core.runs.attached import name_of
from aa_core.runs.trajectory import open_run
from tests.faults.oracle import contents, refused
from tests.recorded import record


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("runs") / "r").path


@pytest.fixture(scope="module")
def packed(original: Path) -> bytes:
    return export_run(open_run(original), original.parent / "r.zip").read_bytes()


def test_what_is_unpacked_is_what_was_packed(original: Path, packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.zip").write_bytes(packed)
    run = import_run(tmp_path / "r.zip", tmp_path / "new" / "r")
    assert run.digest == open_run(original).digest and run.path == tmp_path / "new" / "r"
    before = {n: c for n, c in contents(original).items() if not n.startswith((".lock", "journal"))}
    assert contents(run.path) == before
    assert export_run(run, tmp_path / "again.zip").read_bytes() == packed
    with pytest.raises(RunExistsError, match="not overwritten"):
        import_run(tmp_path / "r.zip", tmp_path / "new" / "r")
    with pytest.raises(RequestError, match="not overwritten"):
        export_run(run, tmp_path / "r.zip")


def test_calibrations_travel_with_a_run_under_their_digests(original: Path, packed: bytes, tmp_path: Path) -> None:
    run = open_run(original)
    claim = b'{"run": "%s"}' % run.digest.encode()
    export_run(run, tmp_path / "r.zip", [claim, claim])
    moved = import_run(tmp_path / "r.zip", tmp_path / "r")
    name = name_of(claim)
    assert moved.digest == run.digest and (moved.path / name).read_bytes() == claim
    with pytest.raises(RunFormatError, match="about this run"):
        export_run(run, tmp_path / "other.zip", [b'{"run": "another"}'])
    forged = {
        "changed since it was packed": (name, claim + b" "),
        "expected one about this run": (name_of(b'{"run": "another"}'), b'{"run": "another"}'),
        "about run 'None'": (name_of(b"[]"), b"[]"),
        "not the name of a file of a run": ("calibrations/best.json", claim),
    }
    for words, (entry_name, data) in forged.items():
        (tmp_path / "forged.zip").write_bytes(rebuilt(packed, entry(entry_name, data=data)))
        with pytest.raises(RunFormatError, match=words):
            import_run(tmp_path / "forged.zip", tmp_path / "forged")
        assert not (tmp_path / "forged").exists()


def test_a_run_that_is_not_intact_is_not_packed(original: Path, tmp_path: Path) -> None:
    path = shutil.copytree(original, tmp_path / "r")
    run = open_run(path)
    state = path / "states" / "3.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"states/3\.safetensors"):
        export_run(run, tmp_path / "r.zip")
    assert not (tmp_path / "r.zip").exists()


def rebuilt(packed: bytes, add: Callable[[zipfile.ZipFile], object], method: int = zipfile.ZIP_STORED) -> bytes:
    """The same entries, and what somebody adds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed)) as source, zipfile.ZipFile(buffer, "w", method) as copy:
        for entry in source.infolist():
            copy.writestr(zipfile.ZipInfo(entry.filename, LONG_AGO), source.read(entry), method)
        add(copy)
    return buffer.getvalue()


def entry(name: str, mode: int = 0, data: bytes = b"x") -> Callable[[zipfile.ZipFile], object]:
    info = zipfile.ZipInfo(name, LONG_AGO)
    info.create_system, info.external_attr = 3, mode << 16
    return lambda archive: archive.writestr(info, data)


def twice(archive: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("run.json", b"{}")


def bomb() -> bytes:
    """Sixty megabytes of zeros in sixty kilobytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("run.json", "w") as file:
        for _ in range(60):
            file.write(bytes(2**20))
    return buffer.getvalue()


def overlapping(packed: bytes) -> bytes:
    """Many entries of the list that share the bytes of one."""
    end = packed.rindex(b"PK\x05\x06")
    start = int.from_bytes(packed[end + 16 : end + 20], "little")
    first = packed[start : packed.index(b"PK\x01\x02", start + 4)]
    table = b"".join(first.replace(b"data/0.safetensors", b"data/%d.safetensors" % n) for n in range(1, 10))
    size = len(table).to_bytes(4, "little")
    return packed[:start] + table + packed[end : end + 12] + size + packed[end + 16 :]


def another_name(packed: bytes) -> bytes:
    """Before the bytes of an entry stands a name of 30,000 bytes, in the list its own."""
    return packed[:26] + (30_000).to_bytes(2, "little") + packed[28:]


def flood() -> bytes:
    """An empty archive whose end announces a list of 200,000 entries."""
    table = (b"PK\x01\x02" + bytes(42)) * 200_000
    count = (0).to_bytes(2, "little")
    return table + b"PK\x05\x06" + bytes(4) + count * 2 + len(table).to_bytes(4, "little") + bytes(6)


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "climbs out": (lambda p: rebuilt(p, entry("../outside")), r"'\.\./outside': not the name"),
    "climbs out of a folder": (lambda p: rebuilt(p, entry("states/../../outside")), "not the name"),
    "an absolute name": (lambda p: rebuilt(p, entry("/etc/cron.d/x")), "'/etc/cron.d/x': not the name"),
    "backslashes": (lambda p: rebuilt(p, entry("..\\outside")), "not the name"),
    "code": (lambda p: rebuilt(p, entry("torch.py")), r"'torch\.py': not the name"),
    "a folder": (lambda p: rebuilt(p, entry("states/")), "'states/': not the name"),
    "a link": (lambda p: rebuilt(p, entry("states/99.safetensors", stat.S_IFLNK | 0o777, b"/etc/passwd")), "a link"),
    "a pipe": (lambda p: rebuilt(p, entry("states/99.safetensors", stat.S_IFIFO)), "a link, folder or device"),
    "an unnamed file": (lambda p: rebuilt(p, entry("states/99.safetensors")), "'states/99.safetensors' is not part"),
    "a name twice": (lambda p: rebuilt(p, twice), r"'run\.json' occurs twice"),
    "compressed": (lambda p: rebuilt(p, lambda a: None, zipfile.ZIP_DEFLATED), "compressed; pack runs with"),
    "a bomb": (lambda p: bomb(), "compressed; pack runs with"),
    "overlapping entries": (overlapping, "more bytes|[Oo]verlap|differ"),
    "another name": (another_name, r"not a zip file that can be read: File name .{100,200}\s*\Z"),
    "a flood of entries": (lambda p: flood(), "a list of entries of 9200000 bytes"),
    "a comment": (lambda p: p[:-2] + b"\x03\x00abc", "without a comment"),
    "cut": (lambda p: p[: len(p) // 2], "not a zip file"),
    "empty": (lambda p: b"", "not a zip file"),
    "not a run": (lambda p: zip_of({"run.json": b"{}"}), "problems"),
    "no header": (lambda p: zip_of({"data/0.safetensors": b""}), "no run at"),
}


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_is_written(packed: bytes, tmp_path: Path, case: str) -> None:
    damage, because = HOSTILE[case]
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "r.zip").write_bytes(damage(packed))
    refused("import", "r.zip", "-o", "r", folder=folder, because=because)


def test_every_flipped_bit_of_an_archive_is_refused_or_changes_nothing(packed: bytes, tmp_path: Path) -> None:
    """Dates and the like in a zip file mean nothing to a run."""
    rng, refusals = random.Random(0), 0
    digest = import_run(_written(tmp_path / "a.zip", packed), tmp_path / "a").digest
    for number in range(200):
        bit = rng.randrange(len(packed) * 8)
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        target = tmp_path / str(number)
        try:
            assert import_run(_written(tmp_path / "b.zip", bytes(flipped)), target).digest == digest, bit
        except AuditError:
            refusals += 1
            assert not target.exists()
    assert refusals > 150 and not list(tmp_path.glob(".*"))


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
