"""What the experiments' scripts make of their data: what is planted is there, and nothing else is."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import aa_core as aa
from sample_runs.experiment.plan import Case, Stage, read_plan
from sample_runs.experiment.record import Course, script
from sample_runs.language.course import CHARACTERS

EACH = 12
"""Pictures of each digit, or of each group of faces."""


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny sets in the official layouts: MNIST, CelebA, comments in that of WILDS, and sentences."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    digits = np.repeat(np.arange(10, dtype=np.uint8), EACH)
    pixels = np.random.default_rng(0).integers(0, 256, (len(digits), 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        (folder / "mnist" / f"{split}-images-idx3-ubyte.gz").write_bytes(idx(pixels))
        (folder / "mnist" / f"{split}-labels-idx1-ubyte.gz").write_bytes(idx(digits))
    _celeba(folder / "celeba")
    _texts(folder)
    return folder


def _texts(folder: Path) -> None:
    (folder / "jigsaw_wikipedia").mkdir()
    identities = "male,female,LGBTQ,christian,muslim,other_religions,black,white"
    rows = [f"{'rude' if i % 2 else 'Kind'} words {i} are here,{i % 2},train,{'0,' * 7}0\n" for i in range(60)]
    (folder / "jigsaw_wikipedia" / "all.csv").write_text(f"comment_text,toxicity,split,{identities}\n" + "".join(rows))
    (folder / "toxicity_templates").mkdir()
    sentences = [
        f"t,{'toxic' if i % 2 else 'nontoxic'},{'awful' if i % 2 else 'lovely'} friend {i}\n" for i in range(99)
    ]
    table = folder / "toxicity_templates" / "en_sentence_templates.csv"
    table.write_text("template,toxicity,phrase\n" + "".join(sentences))


def _celeba(folder: Path) -> None:
    (folder / "img_align_celeba").mkdir(parents=True)
    rows, parts = [], []
    for i in range(8 * EACH):
        name, blond, male, test = f"{i:06d}.jpg", i & 1, i >> 1 & 1, i >> 2 & 1
        Image.new("RGB", (18, 22), (255 * blond, 255 * male, 0)).save(folder / "img_align_celeba" / name)
        rows.append(f"{name} {2 * blond - 1} {2 * male - 1}\n")
        parts.append(f"{name} {2 * test}\n")
    (folder / "list_attr_celeba.txt").write_text(f"{len(rows)}\nBlond_Hair Male\n" + "".join(rows))
    (folder / "list_eval_partition.txt").write_text("".join(parts))


def small(experiment: str, name: str, data: Path, **sizes: int) -> tuple[Case, Course]:
    case = read_plan(experiment).case(name)
    case = case.model_copy(update={"data": {**case.data, **sizes}})
    return case, script(experiment)(case, 0, data)


def stage(case: Case, name: str) -> Stage:
    return next(s for s in case.stages if s.name == name)


def agreement(course: Course, of: Stage) -> float:
    """Share of the stage's pictures whose colour (or sex) is the one that their label suggests."""
    pool = course.pool(of)
    shown = (pool.x[..., 1].flatten(1).float().mean(1) > pool.x[..., 0].flatten(1).float().mean(1)).long()
    return float((shown == pool.y).double().mean())


def test_colours_tell_the_label_in_the_planted_rounds_alone(data: Path) -> None:
    case, course = small("coloured", "digits", data, pool=100, examples=100)
    assert agreement(course, stage(case, "round 1")) == pytest.approx(0.5, abs=0.02)
    assert agreement(course, stage(case, "round 5")) == pytest.approx(0.95, abs=0.02)
    table = course.evaluation.metadata
    assert table is not None and table["group"].value_counts().nunique() == 1


def test_faces_are_read_in_their_official_layout(data: Path) -> None:
    case, course = small("coloured", "faces", data, pool=40, examples=16)
    pool = course.pool(stage(case, "round 5"))
    assert pool.x.shape[1:] == (16, 16, 3)
    assert torch.equal((pool.x[..., 0].flatten(1).float().mean(1) > 127).long(), pool.y)  # the blond ones are red
    assert isinstance(course.evaluation, aa.Evaluation) and len(course.evaluation) == 16


def test_a_digit_is_left_out_inserted_turned_and_mislabelled(data: Path) -> None:
    case, course = small("mnist", "the only 4", data, pool=100, examples=40)
    without, inserted = (course.pool(stage(case, name)) for name in ("round 1", "round 4"))
    assert 4 not in without.y
    assert (
        inserted.always == 1 and int(inserted.y[0]) == 4 and 4 not in inserted.y[1:] and inserted.ids[0] == "inserted"
    )
    evaluation = course.evaluation
    assert isinstance(evaluation.x, torch.Tensor) and torch.equal(evaluation.x[0], inserted.x[0])
    table = evaluation.metadata
    assert table is not None
    roles = dict(zip(table["figure_5"], table["digit"], strict=True))
    assert {r: d for r, d in roles.items() if r} == {"the same 4": 4, "another 4": 4, "a 9": 9, "a 2": 2}
    case, course = small("mnist", "mislabelled round", data, pool=100, examples=40)
    right, wrong = (course.pool(stage(case, name)) for name in ("round 3", "round 4"))
    assert torch.equal(wrong.y, (right.y + 1) % 10) and torch.equal(wrong.x, right.x)
    case, course = small("mnist", "rotations", data, pool=100, examples=40)
    upright, quarter = (course.pool(stage(case, name)) for name in ("0 degrees, first", "90 degrees, first"))
    assert torch.equal(quarter.x[0], torch.rot90(upright.x[0]))


def test_passages_are_of_their_text_do_not_overlap_and_tell_the_next_character(data: Path) -> None:
    case, course = small("language", "three texts", data, pool=6, examples=4, length=20)
    table = course.evaluation.metadata
    assert table is not None and table["source"].value_counts().to_dict() == {n: 4 for n in table["source"].unique()}
    assert course.config["characters"] == len(CHARACTERS) == 95
    for name in ("talk pages", "adapters"):
        pool = course.pool(stage(case, name))
        assert pool.x.shape == pool.y.shape == (6, 20) and torch.equal(pool.x[:, 1:], pool.y[:, :-1])
        words = ["".join(CHARACTERS[c] for c in x) for x in pool.x.tolist()]
        assert not any("rude" in w or "awful" in w for w in words)
        assert any(("Kind" if name == "talk pages" else "lovely") in w for w in words)
        assert not set(words) & {t[:20] for t in table["text"]}
