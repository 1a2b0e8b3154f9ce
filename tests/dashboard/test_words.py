"""Text is shown as text and classes by their names, in the words of the registered problem only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import aa_core as aa
from aa_core.errors import ProblemError
from dashboard.selection import Selection
from dashboard.service import Desk, list_runs
from dashboard.service.desk import MAX_LABEL
from dashboard.words import literal
from sample_runs.problems import CHARACTERS
from tests.dashboard.conftest import SAMPLES, Open, said
from tests.faults.forge import reseal


@pytest.fixture(autouse=True)
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AA_RUNS_DIRS", str(SAMPLES))


def test_training_texts_are_words() -> None:
    desk = Desk(list_runs()["comments"])
    batch = desk.batch(0)
    looks = desk.training_shown(tuple(batch["row"][:3]))
    sentence = looks[0]["text"]
    assert set(sentence.split()) <= {*desk.run.header.problem.config["words"]} and len(sentence.split()) > 2  # type: ignore[arg-type]
    assert "none" not in sentence, "padding is no word"
    assert set(batch["label"]) == {"toxic", "not toxic"}


def test_a_language_model_reads_characters_which_are_its_classes() -> None:
    desk = Desk(list_runs()["language"])
    batch, rows = desk.batch(0), tuple(desk.batch(0)["row"])
    texts, evaluation = [look["text"] for look in desk.training_shown(rows)], desk.evaluation
    told = ["".join(c if c in CHARACTERS else " " for c in text[:-1]) for text in evaluation.metadata["text"]]  # type: ignore[index]
    assert desk._looks(evaluation.x, [0, 7]) == [{"text": told[i]} for i in (0, 7)]
    assert all(len(text) == 48 and text.isprintable() for text in texts)
    labels = batch["label"].tolist()
    assert all(label[0] == "…" and len(label) == MAX_LABEL + 1 for label in labels), "a long target is shortened"
    assert [label[1:-1].replace("␣", " ") for label in labels] == [text[-MAX_LABEL + 1 :] for text in texts]
    names = desk.class_names()
    assert len(names) == 95 and names[0] == "␣" and set(desk.predictions()["label_name"]) <= set(names)


def test_training_texts_are_read_where_they_are_left_out(
    calibrated: Open, jobs_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(list_runs()["comments"])
    monkeypatch.setattr("dashboard.service.work.LIGHT", 0)
    monkeypatch.setattr("aa_core.jobs.job._start", lambda folder, lock: None)  # what they did is not asked
    words = said(calibrated("whatif", run="comments", without="3,7"))
    for look in desk.training_shown((3, 7)):
        assert literal(look["text"]) in words


def test_what_only_the_problem_can_say_is_searched_and_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(list_runs()["comments"])
    monkeypatch.setattr(desk, "metadata", lambda: desk.evaluation.metadata.drop(columns="text"))  # type: ignore[union-attr]
    monkeypatch.setattr(desk, "key", lambda what: ("without text", what))
    texts = desk.described()["text"]
    found = desk.filtered(Selection(text="stupid"))["example"]
    assert 0 < len(found) < len(texts) and found.tolist() == texts.index[texts.str.contains("stupid")].tolist()
    assert desk.shown([int(found.iloc[0])]) == [{"text": texts[found.iloc[0]]}]


def test_a_run_whose_problem_nobody_registered_brings_no_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLES / "language" / "run", tmp_path / "stranger")
    header = tmp_path / "stranger" / "run.json"
    asked = json.loads(header.read_text())
    asked["problem"]["name"] = "sample_runs.problems:small_gpt2"
    header.write_text(json.dumps(asked))
    reseal(tmp_path / "stranger", lambda commit: None)
    monkeypatch.setenv("AA_RUNS_DIRS", str(tmp_path))
    desk = Desk(list_runs()["stranger"])
    assert not desk.has_words and desk.class_names()[:3] == ["0", "1", "2"]
    numbers = desk.training_shown((0,))[0]["text"].split()
    assert numbers == [str(i) for i in desk.run.examples(torch.tensor([0])).inputs[0, :24].tolist()]  # type: ignore[index]
    label = desk.batch(0)["label"][0]
    assert label[0] == "…" and len(label) == MAX_LABEL + 1


def test_words_are_one_an_example_and_change_no_digest() -> None:
    model, inputs = nn.Linear(2, 2), torch.zeros(3, 2)
    told = aa.Problem(model, nn.functional.cross_entropy, as_text=lambda x: ["a"] * len(x), class_names=["n", "y"])
    assert told.fingerprint == aa.Problem(model, nn.functional.cross_entropy).fingerprint
    assert told.in_words(inputs) == ["a", "a", "a"]
    moved = told.to(torch.device("meta"))
    assert moved.in_words(inputs) == ["a", "a", "a"] and moved.class_names == ("n", "y")
    with pytest.raises(ProblemError, match="1 strings for 3 examples"):
        told.in_words({"x": inputs})  # of which `len` is 1
