"""Damaging and forging the files of a recorded run, as bad luck or somebody without a signature to fear would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from aa_core.runs.chain import read_chain


def named_files(path: Path) -> list[Path]:
    chain = read_chain(path)
    named = [path / f.name for c in chain.commits for f in c.files]
    return [path / "run.json", *sorted((path / "log").iterdir()), *named]


def reseal(path: Path, change: Callable[[dict], None], number: int = -1) -> None:
    """Change a commit and forge the chain after it, as somebody would who has no signature to fear."""
    names = sorted((path / "log").iterdir())
    previous = hashlib.sha256((path / "run.json").read_bytes()).hexdigest()
    for index, name in enumerate(names):
        commit = json.loads(name.read_text())
        if index == number % len(names):
            change(commit)
        commit["previous"] = previous
        name.write_text(json.dumps(commit))
        previous = hashlib.sha256(name.read_bytes()).hexdigest()


def replace_file(path: Path, name: str, data: bytes) -> None:
    """Put other bytes into the run under a forged digest."""
    (path / name).write_bytes(data)

    def forge(commit: dict) -> None:
        for file in commit["files"]:
            if file["name"] == name:
                file |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    for number in range(len(list((path / "log").iterdir()))):
        reseal(path, forge, number)


def file_with(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
