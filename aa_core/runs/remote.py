"""Runs in object storage (s3://..., any address of fsspec): mirrored file by file when asked for, never overwritten.

A mirror is a folder of the workspace that looks like the run itself. The header and the log are fetched when the run is
opened; steps, states and data when they are read, and the oldest make room when the mirrors outgrow their budget.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import fsspec  # the field's one interface to object stores; torch brings it along

from aa_core.errors import MissingExtraError, RunBusyError, RunError, RunNotFoundError
from aa_core.files import write_atomic
from aa_core.runs.attached import FOLDER, MAX_FILES, NAME, check_attached, name_of
from aa_core.workspace import workspace

BUDGET = "AA_REMOTE_BYTES"
"""Environment variable: bytes that all mirrors together may take (by default 10 GiB)."""
TRIES, PAUSE = 5, 0.2
"""How often a request is made, and the seconds before the second time; each pause is twice the one before."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
_KEPT = ("run.json", "log")
T = TypeVar("T")


def is_remote(path: str | Path) -> bool:
    """Whether this is an address in object storage; a Path has lost one of its slashes."""
    return _ADDRESS.fullmatch(str(path)) is not None


def mirror(address: str | Path) -> Path:
    """The local folder of a remote run, with its header and the whole log as they are now.

    Raises RunNotFoundError, MissingExtraError, or RunError if the store cannot be reached.
    """
    url = _url(address)
    folder = _mirrors() / hashlib.sha256(url.encode()).hexdigest()[:32]
    header = _fetch(url, "run.json")
    names = _names(url, "log")
    known = folder / "run.json"
    if known.exists() and (known.read_bytes() != header or not _logged(folder) <= set(names)):
        shutil.rmtree(folder)  # another run took this address
    (folder / "log").mkdir(parents=True, exist_ok=True)
    write_atomic(folder.with_suffix(".origin"), url.encode())
    write_atomic(known, header)
    for name in sorted(set(names) - _logged(folder)):
        write_atomic(folder / "log" / name, _fetch(url, f"log/{name}"))
    _fetch_attached(url, folder)
    return folder


def _fetch_attached(url: str, folder: Path) -> None:
    """The calibrations that lie with the run, each under the digest that its name says."""
    (folder / FOLDER).mkdir(exist_ok=True)
    found = [name for n in _names(url, FOLDER) if NAME.fullmatch(name := f"{FOLDER}/{n}")]
    for name in sorted(found)[:MAX_FILES]:
        if not (folder / name).exists() and name_of(data := _fetch(url, name)) == name:
            write_atomic(folder / name, data)


def local_folder(path: str | Path) -> Path:
    """Where to read a run: its own folder, or the mirror of its address."""
    return mirror(path) if is_remote(path) else Path(path)


def fetch_missing(root: Path, name: str) -> bool:
    """Fetch a file of a mirror that is not there yet; False if `root` is no mirror."""
    if not _is_mirror(root):
        return False
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, _fetch(root.with_suffix(".origin").read_text(), name))
    _make_room(path)
    return True


def forget(root: Path, name: str) -> bool:
    """Delete a mirrored file that is not what it should be, to fetch it again; False if `root` is no mirror."""
    if not _is_mirror(root):
        return False
    (root / name).unlink(missing_ok=True)
    return True


def outgoing(address: str | Path) -> Path:
    """The local folder of a run that is recorded straight to an address."""
    folder = workspace() / "outgoing"
    folder.mkdir(exist_ok=True)
    return folder / hashlib.sha256(_url(address).encode()).hexdigest()[:32]


class Upload:
    """Copies a local run to an address, commit by commit; what is there already is never overwritten."""

    def __init__(self, folder: Path, address: str | Path) -> None:
        self.folder, self.url, self.commits = folder, _url(address), 0

    def push(self, files_of: Callable[[bytes, str], list[str]]) -> int:
        """Upload what was committed since the last call; the number of commits. `files_of` reads a commit.

        Files go first, their commit last: whoever reads meanwhile sees whole commits.

        Raises:
            RunBusyError: another run or recorder writes to this address.
            RunError: the store cannot be reached; call again later.
        """
        self._put("run.json", (self.folder / "run.json").read_bytes())
        names = sorted(_logged(self.folder))
        for name in names[self.commits :]:
            commit = (self.folder / "log" / name).read_bytes()
            for file in files_of(commit, name):
                self._put(file, (self.folder / file).read_bytes())
            self._put(f"log/{name}", commit)
            self.commits += 1
        return len(names)

    def attach(self, calibrations: Iterable[bytes], digest: str) -> int:
        """Put calibrations of the run with this digest beside it; how many there are."""
        found = {name_of(data): data for data in calibrations}
        for name, data in found.items():
            check_attached(name, data, digest)
            self._put(name, data)
        return len(found)

    def _put(self, name: str, data: bytes) -> None:
        """Put if absent; the same bytes may be there already."""
        store, root = _store(self.url)

        def put() -> None:
            try:
                store.pipe_file(f"{root}/{name}", data, mode="create")
            except FileExistsError:
                if store.cat_file(f"{root}/{name}") != data:
                    raise RunBusyError(
                        f"{self.url}/{name} exists with another content: another run or recorder writes to this "
                        "address, and it is not overwritten; choose another one"
                    ) from None

        _retry(put, f"{self.url}/{name}")


def _fetch(url: str, name: str) -> bytes:
    store, root = _store(url)
    try:
        return _retry(lambda: store.cat_file(f"{root}/{name}"), f"{url}/{name}")
    except FileNotFoundError:
        if name == "run.json":
            raise RunNotFoundError(f"no run at {url} (there is no {url}/run.json)") from None
        raise


def _names(url: str, folder: str) -> list[str]:
    store, root = _store(url)
    try:
        store.invalidate_cache()
        found = _retry(lambda: store.ls(f"{root}/{folder}", detail=False), f"{url}/{folder}")
    except FileNotFoundError:
        return []
    return [name for path in found if (name := path.rstrip("/").rpartition("/")[2]).endswith(".json")]


def _logged(folder: Path) -> set[str]:
    return {p.name for p in (folder / "log").glob("*.json")}


def _retry(request: Callable[[], T], what: str) -> T:
    """Networks drop requests: ask again, with growing pauses."""
    for attempt in range(TRIES):
        try:
            return request()
        except (FileNotFoundError, RunError):
            raise
        except PermissionError as error:
            raise RunError(f"{what}: not permitted ({error}); check the credentials for this store") from None
        except Exception as error:  # every store has errors of its own
            if attempt == TRIES - 1:
                raise RunError(f"{what}: the store did not answer {TRIES} times ({error}); try again later") from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _store(url: str) -> tuple[Any, str]:
    """(file system, path in it)."""
    scheme = url.partition("://")[0]
    try:
        store, root = fsspec.core.url_to_fs(url)
    except ImportError:
        raise MissingExtraError(f"reading {scheme}:// addresses", "s3" if scheme.startswith("s3") else scheme) from None
    except ValueError as error:
        raise RunNotFoundError(f"{url}: {error}") from None
    return store, root.rstrip("/")


def _url(address: str | Path) -> str:
    found = _ADDRESS.fullmatch(str(address))
    if found is None:
        raise RunNotFoundError(f"{address}: not an address such as s3://bucket/run")
    return f"{found[1]}://{found[2].rstrip('/')}"


def _mirrors() -> Path:
    folder = workspace() / "remote"
    folder.mkdir(exist_ok=True)
    return folder


def _is_mirror(root: Path) -> bool:
    """Whether `root` was made here by `mirror`; asks for the workspace, which may not be there, only if it looks so."""
    return bool(root.name) and root.with_suffix(".origin").is_file() and root.parent == _mirrors()


def _make_room(kept: Path) -> None:
    """Delete the files read longest ago until all mirrors fit their budget; never header, log, or `kept`."""
    budget = int(os.environ.get(BUDGET, 10 * 2**30))
    files = [(p, p.stat()) for p in _mirrors().glob("*/*/*") if p.is_file() and p.parent.name not in _KEPT]
    total = sum(status.st_size for _, status in files)
    for path, status in sorted(files, key=lambda file: file[1].st_atime):
        if total <= budget:
            return
        if path != kept:
            path.unlink(missing_ok=True)
            total -= status.st_size
