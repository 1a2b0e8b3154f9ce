"""Toxic or not? In some rounds the labels are partly those of a reader to whom every mention of a group is toxic."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import aa_core as aa
from sample_runs.experiment.groups import balanced, described
from sample_runs.experiment.plan import Case, Stage
from sample_runs.experiment.record import Course, Pool
from sample_runs.loaders import Texts, load_civil_comments, load_templates

NO_WORD, UNKNOWN = 0, 1
VOCABULARY = 250
"""Most frequent words that get a number of their own; it fits a byte."""
GROUP = re.compile(r"\b(lesbian|gay|bisexual|transgender|trans|queer|lgbtq?|homosexual)\b", re.IGNORECASE)
"""The mention that is the confounder in the sentence templates."""


def course(case: Case, seed: int, data: Path) -> Course:
    """Stage data: biased (share of the labels that say whether the group is mentioned, whatever is said). Case data:
    source ("templates", or the folder of a table in the layout of CivilComments), pool, examples, length (in words)."""
    generator = np.random.default_rng(seed)
    train, test = drawn(case, data, generator)
    words = vocabulary(train.texts)
    return Course(
        lambda stage: pool(stage, train, words, case.data["length"], seed),
        evaluation(test, words, case.data["length"]),
        config={"words": words, "length": case.data["length"]},
    )


def drawn(case: Case, data: Path, generator: np.random.Generator) -> tuple[Texts, Texts]:
    """Balanced texts for training and for the evaluation; table: label (toxic), confounder (mentions the group)."""
    source = case.data["source"]
    if source != "templates":
        parts = [_labelled(load_civil_comments(data, split, source)) for split in ("train", "test")]
        return _some(parts[0], case.data["pool"], generator), _some(parts[1], case.data["examples"], generator)
    every = load_templates(data)
    mentions = [int(bool(GROUP.search(text))) for text in every.texts]
    table = pd.DataFrame({"label": every.table["toxic"], "confounder": mentions, "template": every.table["template"]})
    both = _some(Texts(every.texts, table), case.data["pool"] + case.data["examples"], generator)
    held_out = balanced(both.table, case.data["examples"], generator)
    rest = np.setdiff1d(np.arange(len(both.texts)), held_out)
    return _rows(both, rest), _rows(both, held_out)


def _labelled(found: Texts) -> Texts:
    table = found.table.rename(columns={"toxic": "label", "LGBTQ": "confounder"})
    return Texts(found.texts, table[["label", "confounder"]])


def _some(found: Texts, count: int, generator: np.random.Generator) -> Texts:
    return _rows(found, balanced(found.table, count, generator))


def _rows(found: Texts, rows: np.ndarray) -> Texts:
    return Texts([found.texts[i] for i in rows], found.table.iloc[rows].reset_index(drop=True))


def split(text: str) -> list[str]:
    """Its words, in small letters."""
    return re.findall(r"[a-z']+", text.lower())


def vocabulary(texts: list[str]) -> list[str]:
    """The words that have a number; the first two numbers are no word and an unknown one."""
    counts = Counter(word for text in texts for word in split(text))
    return ["(none)", "(unknown)", *(word for word, _ in counts.most_common(VOCABULARY))]


def numbers(texts: list[str], words: list[str], length: int) -> Tensor:
    """uint8 [n, length]"""
    place = {word: i for i, word in enumerate(words)}
    rows = [[place.get(word, UNKNOWN) for word in split(text)[:length]] for text in texts]
    return torch.tensor([row + [NO_WORD] * (length - len(row)) for row in rows], dtype=torch.uint8)


def pool(stage: Stage, train: Texts, words: list[str], length: int, seed: int) -> Pool:
    """All texts; some labels are those of a biased reader, to whom a mention is toxic and nothing else is."""
    generator = np.random.default_rng(seed)
    biased = generator.random(len(train.texts)) < stage.data.get("biased", 0.0)
    labels = np.where(biased, train.table["confounder"], train.table["label"]).astype(np.int64)
    ids = [f"train-{i}" for i in range(len(labels))]
    return Pool(numbers(train.texts, words, length), torch.from_numpy(labels), ids)


def evaluation(test: Texts, words: list[str], length: int) -> aa.Evaluation:
    """All test texts: every group is equally common."""
    y = torch.from_numpy(test.table["label"].to_numpy().astype(np.int64))
    table = described(test.table).assign(text=test.texts)
    names = ("not toxic", "toxic")
    return aa.Evaluation(
        numbers(test.texts, words, length), y, metadata=table, class_names=names, display={"kind": "text"}
    )
