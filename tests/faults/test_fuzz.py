"""Files of every kind, damaged at random: read as before, or refused in words. `make fuzz` goes on for ten minutes."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aa_core.errors import AuditError
from aa_core.recording.recorder import Recorder
from aa_core.reporting.escape import safe_cell
from aa_core.runs.archive import export_run, import_run
from aa_core.runs.header import Commit, parse, parse_header, read_json
from aa_core.runs.integrity import check_integrity
from aa_core.runs.journal import _seal
from aa_core.runs.store import decode, layout
from aa_core.runs.trajectory import open_run
from aa_core.runs.verified import sha256
from dashboard.words import escaped
from tests.faults.forge import replace_file, reseal
from tests.faults.fuzz import SPANS, changed, damaged, explore
from tests.recorded import LOSS, as_killed, make, record, settled, steps_of, train

Check = Callable[[Any], object]


def fuzz(what: st.SearchStrategy[Any], check: Check, examples: int = 80) -> None:
    """Every value of a strategy is taken, or refused by an error of ours."""

    def refuse_in_words(value: Any) -> None:
        try:
            check(value)
        except AuditError as error:
            assert 0 < len(str(error)) < 20_000 and "fit into the memory" not in str(error)

    def run(chosen: settings) -> None:
        chosen(given(what)(refuse_in_words))()

    explore(run, examples)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("fuzz") / "r").path


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run whose recorder is at work."""
    folder, (model, optimizer) = tmp_path_factory.mktemp("live"), make()
    with Recorder(folder / "r", model, optimizer, LOSS, checkpoint_every=4) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 7)
        return as_killed(settled(folder / "r"), folder / "copy")


def read_all(path: Path) -> None:
    """All that a viewer reads."""
    run = open_run(path)
    check_integrity(run)
    run.log_frame()
    for step in range(run.steps):
        run.step_input(step, torch.device("cpu"))


class Restored:
    """A folder that is again what it was, whatever a check did to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def after(self, check: Check) -> Check:
        def checked(value: Any) -> None:
            try:
                check(value)
            finally:
                for path, data in self.files.items():
                    if not path.exists() or path.read_bytes() != data:
                        path.write_bytes(data)

        return checked


# ---- parsers ---------------------------------------------------------------------------------------------------------


def test_json_and_headers(original: Path) -> None:
    header, commit = (original / "run.json").read_bytes(), (original / "log" / "0000000001.json").read_bytes()
    texts = st.one_of(
        damaged(header), changed(json.loads(header)).map(_text), damaged(commit), changed(json.loads(commit)).map(_text)
    )

    def check(data: bytes) -> None:
        for parser in (lambda d: read_json(d, "here"), parse_header, lambda d: parse(Commit, d, "here")):
            try:
                parser(data)
            except AuditError as error:
                assert 0 < len(str(error)) < 20_000

    fuzz(texts, check, 150)


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_headers_of_tensors(original: Path) -> None:
    data = (original / "states" / "0.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    table, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    expected = layout(data, "here").tensors

    def forged(value: Any) -> bytes:
        text = _text(value)
        return len(text).to_bytes(8, "little") + text + rest

    def check(found: bytes) -> None:
        tensors = decode(found, "here", dict(expected))
        assert {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()} == expected

    fuzz(damaged(data) | changed(table).map(forged), check, 150)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_any_file_of_a_run(live: Path) -> None:
    files = sorted(p for p in live.rglob("*") if p.is_file() and p.name != ".lock")
    damages = st.sampled_from(files).flatmap(lambda p: st.tuples(st.just(p), damaged(p.read_bytes())))

    def check(damage: tuple[Path, bytes]) -> None:
        damage[0].write_bytes(damage[1])
        read_all(live)

    fuzz(damages, Restored(live).after(check))


def test_forged_commits(original: Path) -> None:
    commits = {n: json.loads(p.read_text()) for n, p in enumerate(sorted((original / "log").iterdir()))}
    forgeries = st.sampled_from(sorted(commits)).flatmap(lambda n: st.tuples(st.just(n), changed(commits[n])))

    def check(forgery: tuple[int, Any]) -> None:
        number, value = forgery
        if isinstance(value, dict):
            reseal(original, lambda commit: (commit.clear(), commit.update(value)), number)  # type: ignore[func-returns-value]
            read_all(original)

    fuzz(forgeries, Restored(original).after(check))


def test_forged_lines_of_a_journal(live: Path) -> None:
    (journal,) = (p for p in (live / "journal").iterdir() if not (live / "log" / f"{p.stem}.json").exists())
    steps = steps_of(journal, first=4)
    lines, follow = zip(*(step[17:].split(b"\n", 1) for step in steps), strict=True)
    forgeries = st.sampled_from(range(len(lines))).flatmap(
        lambda n: st.tuples(st.just(n), changed(json.loads(lines[n])).map(_text) | damaged(lines[n]))
    )

    def check(forgery: tuple[int, bytes]) -> None:
        forged = [*lines[: forgery[0]], forgery[1].replace(b"\n", b""), *lines[forgery[0] + 1 :]]
        sealed = (_seal(line) + b" " + line + b"\n" + rest for line, rest in zip(forged, follow, strict=True))
        journal.write_bytes(b"".join(sealed))
        read_all(live)

    fuzz(forgeries, Restored(live).after(check))


def test_forged_examples_of_a_journal(tmp_path: Path) -> None:
    """Of the digest that their line names."""
    model, optimizer = make()
    with Recorder(tmp_path / "r", model, optimizer, LOSS) as recorder, recorder.stage("a"):
        train(recorder, model, optimizer, 2)
        path = as_killed(tmp_path / "r", tmp_path / "copy")
    (journal,) = (path / "journal").iterdir()
    first, second = steps_of(journal)
    line, examples = first[17:-1].split(b"\n", 1)

    def check(forged: bytes) -> None:
        text = _text(json.loads(line) | {"examples": {"size": len(forged), "sha256": sha256(forged)}})
        journal.write_bytes(_seal(text) + b" " + text + b"\n" + forged + b"\n" + second)
        read_all(path)

    fuzz(damaged(examples), check)


def test_forged_columns(original: Path) -> None:
    """Well-formed tensors of the right names, with values that no recorder writes."""
    name = "steps/0-3.safetensors"
    columns = safetensors.torch.load((original / name).read_bytes())
    values = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 40) | st.sampled_from([torch.nan, torch.inf, -0.5])
    forgeries = st.tuples(st.sampled_from(sorted(columns)), SPANS, values, st.booleans())

    def check(forgery: tuple[str, float, float, bool]) -> None:
        column, place, value, cut = forgery
        forged = {n: t.clone() for n, t in columns.items()}
        flat = forged[column].view(-1)
        if cut or not len(flat):
            forged[column] = forged[column][: int(place * len(flat))].clone()
        elif flat.is_floating_point() or isinstance(value, int):
            flat[min(int(place * len(flat)), len(flat) - 1)] = value % 256 if flat.dtype == torch.uint8 else value
        replace_file(original, name, safetensors.torch.save(forged))
        read_all(original)

    fuzz(forgeries, Restored(original).after(check))


def test_archives(original: Path, tmp_path: Path) -> None:
    packed = export_run(open_run(original), tmp_path / "r.zip").read_bytes()
    digest = open_run(original).digest

    def check(data: bytes) -> None:
        (tmp_path / "d.zip").write_bytes(data)
        try:
            assert import_run(tmp_path / "d.zip", tmp_path / "in" / "r").digest == digest
        finally:
            shutil.rmtree(tmp_path / "in", ignore_errors=True)
            assert {p.name for p in tmp_path.iterdir()} == {"r.zip", "d.zip"}

    fuzz(damaged(packed), check, 80)


# ---- escapers --------------------------------------------------------------------------------------------------------

NASTY = st.text(st.sampled_from("=+-@\t\r\n'\",;<>&/ abc1\u202e\0") | st.characters(), max_size=40)


def test_a_cell_is_never_a_formula() -> None:
    def check(text: str) -> None:
        cell = safe_cell(text)
        assert not str(cell).startswith(("=", "+", "-", "@", "\t", "\r"))
        written = io.StringIO(newline="")
        csv.writer(written).writerow([cell, "end"])
        (row,) = csv.reader(io.StringIO(written.getvalue(), newline=""))
        assert row == [str(cell), "end"] and text in (row[0], row[0][1:])

    fuzz(NASTY, check, 500)


class Seen(html.parser.HTMLParser):
    """The text of a page, and whether there was anything else."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.other = "", False
        self.feed(page)
        self.close()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.other = True

    handle_endtag = handle_comment = handle_decl = handle_pi = lambda self, *_: setattr(self, "other", True)


def test_text_in_a_page_is_text() -> None:
    def check(text: str) -> None:
        shown = escaped(text)
        seen = Seen(f"<!---->{shown}".removeprefix("<!---->"))
        assert not seen.other and not set("<>\"'") & set(shown)
        assert all(c.isprintable() or c in "\n\t\r " for c in seen.text)

    fuzz(NASTY, check, 500)
