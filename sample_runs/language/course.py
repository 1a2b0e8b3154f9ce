"""Characters of two kinds of prose, then adapters for a third: which stage is to credit for a passage?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import aa_core as aa
from sample_runs.experiment.plan import Case, Stage
from sample_runs.experiment.record import Course, Pool
from sample_runs.loaders import load_civil_comments, load_templates
from sample_runs.problems import CHARACTERS


def course(case: Case, seed: int, data: Path) -> Course:
    """Stage data: text (which one). Case data: pool, examples (passages of each text), length (characters)."""
    generator, told = np.random.default_rng(seed), case.data
    drawn = {
        name: passages(text, told["pool"], told["examples"], told["length"], generator)
        for name, text in texts(data).items()
    }
    return Course(
        lambda stage: pool(stage, drawn[stage.data["text"]][0]),
        evaluation({name: test for name, (_, test) in drawn.items()}),
        config={"characters": len(CHARACTERS)},
    )


def texts(data: Path) -> dict[str, str]:
    """Three kinds of prose; where toxicity is labelled, without it."""
    talk = load_civil_comments(data, "train", "jigsaw_wikipedia")
    templates = load_templates(data)
    return {
        "talk pages": " ".join(t for t, toxic in zip(talk.texts, talk.table["toxic"], strict=True) if not toxic),
        "reference": " ".join(topics.values()),
        "sentences": ". ".join(
            t for t, toxic in zip(templates.texts, templates.table["toxic"], strict=True) if not toxic
        ),
    }


def passages(
    text: str, train: int, test: int, length: int, generator: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Passages of length + 1 characters that do not overlap, for training and for the evaluation."""
    line = " ".join(text.split())
    starts = generator.permutation(len(line) // (length + 1))[: train + test] * (length + 1)
    drawn = [line[start : start + length + 1] for start in starts]
    return drawn[:train], drawn[train:]


def numbers(drawn: Sequence[str]) -> Tensor:
    """uint8 [n, characters]; what is not printable ASCII is a space."""
    place = {character: i for i, character in enumerate(CHARACTERS)}
    return torch.tensor([[place.get(c, place[" "]) for c in text] for text in drawn], dtype=torch.uint8)


def pool(stage: Stage, drawn: Sequence[str]) -> Pool:
    """The passages of a stage's text: each character is to tell the next one."""
    found = numbers(drawn)
    return Pool(found[:, :-1], found[:, 1:], [f"{stage.data['text']} {i}" for i in range(len(drawn))])


def evaluation(tests: dict[str, list[str]]) -> aa.Evaluation:
    """Held-out passages of every text."""
    drawn = [(name, text) for name, test in tests.items() for text in test]
    found = numbers([text for _, text in drawn])
    table = pd.DataFrame(drawn, columns=["source", "text"])
    table["capitals"] = [sum(c.isupper() for c in text) for text in table["text"]]
    return aa.Evaluation(found[:, :-1], found[:, 1:], metadata=table, display={"kind": "text"})
