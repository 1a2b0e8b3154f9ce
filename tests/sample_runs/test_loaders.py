"""The loaders read the official layouts, and refuse anything else in words: found, expected, where to get it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sample_runs.loaders import (
    IDENTITIES,
    DataError,
    load_celeba,
    load_chexpert,
    load_civil_comments,
    load_medmnist,
    load_mnist,
    load_nih,
    load_templates,
)

PIXELS = np.arange(2 * 28 * 28, dtype=np.uint32).reshape(2, 28, 28).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def picture(path: Path, colour: int | tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


# ---- what is official is read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("place", ["mnist", "."])
def test_mnist_gzipped_or_not_in_its_folder_or_here(tmp_path: Path, pack: Callable[..., bytes], place: str) -> None:
    suffix = ".gz" if pack is gzip.compress else ""
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx(PIXELS)))
    (tmp_path / place / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.array([7, 4], np.uint8))))
    found = load_mnist(tmp_path, "t10k")
    assert np.array_equal(found.pixels, PIXELS)
    assert found.table["digit"].tolist() == [7, 4]


def test_medmnist(tmp_path: Path) -> None:
    np.savez(tmp_path / "pneumoniamnist.npz", val_images=PIXELS, val_labels=np.array([[1], [0]]))
    found = load_medmnist(tmp_path, "pneumoniamnist", "val")
    assert np.array_equal(found.pixels, PIXELS) and found.table["label"].tolist() == [1, 0]


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_celeba_text_or_csv(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "celeba"
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)], 1):
        picture(folder / "img_align_celeba" / f"{i:06d}.jpg", colour)
    if form == "txt":
        (folder / "list_attr_celeba.txt").write_text(
            "3\nBlond_Hair Male Young\n000001.jpg -1  1 1\n000002.jpg  1 -1 1\n000003.jpg  1  1 -1\n"
        )
        (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n000003.jpg 2\n")
    else:
        (folder / "list_attr_celeba.csv").write_text(
            "image_id,Blond_Hair,Male\n000001.jpg,-1,1\n000002.jpg,1,-1\n000003.jpg,1,1\n"
        )
        (folder / "list_eval_partition.csv").write_text(
            "image_id,partition\n000001.jpg,0\n000002.jpg,2\n000003.jpg,2\n"
        )
    found = load_celeba(tmp_path, "test", size=2)
    assert found.table.to_dict("list") == {
        "file": ["000002.jpg", "000003.jpg"],
        "Blond_Hair": [1, 1],
        "Male": [0, 1],
    }
    assert found.pixels.shape == (2, 2, 2, 3)
    assert found.pixels[0, 0, 0, 1] > 200 and found.pixels[1, 0, 0, 2] > 200
    assert len(load_celeba(tmp_path, "test", size=2, limit=1).pixels) == 1


def test_civil_comments_of_wilds(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"comment_text": ["a", "b", None, "d"], "toxicity": [0.5, 0.4, 0.0, 1.0], "split": ["train"] * 3 + ["val"]}
    ).assign(**dict.fromkeys(IDENTITIES, 0.0))
    table["female"] = [0.6, None, 0.0, 0.0]
    (tmp_path / "civilcomments_v1.0").mkdir()
    table.to_csv(tmp_path / "civilcomments_v1.0" / "all_data_with_identities.csv")
    found = load_civil_comments(tmp_path, "train")
    assert found.texts == ["a", "b"]
    assert found.table["toxic"].tolist() == [1, 0] and found.table["female"].tolist() == [1, 0]


@pytest.mark.parametrize("sex", ["Patient Gender", "Patient Sex"])
def test_nih(tmp_path: Path, sex: str) -> None:
    picture(tmp_path / "images_001" / "images" / "00000001_000.png", 200)
    picture(tmp_path / "images_002" / "images" / "00000002_000.png", 10)
    pd.DataFrame(
        {
            "Image Index": ["00000001_000.png", "00000002_000.png"],
            "Finding Labels": ["Infiltration|Pneumonia", "No Finding"],
            "Follow-up #": [0, 0],
            "Patient ID": [1, 2],
            "Patient Age": [58, 81],
            sex: ["M", "F"],
            "View Position": ["PA", "AP"],
        }
    ).to_csv(tmp_path / "Data_Entry_2017.csv", index=False)
    found = load_nih(tmp_path, size=2)
    assert found.pixels[:, 0, 0].tolist() == [200, 10]
    assert found.table[["label", "sex", "view"]].to_numpy().tolist() == [[1, "M", "PA"], [0, "F", "AP"]]


def test_chexpert_leaves_out_what_is_uncertain(tmp_path: Path) -> None:
    folder = tmp_path / "CheXpert-v1.0-small"
    names = [f"CheXpert-v1.0-small/train/patient0000{i}/study1/view1_frontal.jpg" for i in range(3)]
    for name in names:
        picture(tmp_path / name, 99)
    pd.DataFrame(
        {
            "Path": names,
            "Sex": ["Female", "Male", "Male"],
            "Age": [68, 87, 20],
            "Frontal/Lateral": ["Frontal"] * 2 + ["Lateral"],
            "AP/PA": ["AP", "PA", None],
            "Pneumonia": [1.0, -1.0, None],
        }
    ).to_csv(folder / "train.csv", index=False)
    found = load_chexpert(tmp_path, size=2)
    assert found.table[["label", "view"]].to_numpy().tolist() == [[1, "AP"], [0, "Lateral"]]
    assert len(found.pixels) == 2


def test_sentence_templates(tmp_path: Path) -> None:
    (tmp_path / "en_sentence_templates.csv").write_text(
        "template,toxicity,phrase\nbeing_adj,nontoxic,being gay is fine\nname_adj,toxic,Bob is vile\n"
    )
    found = load_templates(tmp_path)
    assert found.texts == ["being gay is fine", "Bob is vile"] and found.table["toxic"].tolist() == [0, 1]


# ---- anything else is refused in words -------------------------------------------------------------------------------

LOADERS: dict[str, Callable[[Path], object]] = {
    "MNIST": lambda data: load_mnist(data, "train"),
    "MedMNIST": lambda data: load_medmnist(data, "pneumoniamnist", "train"),
    "CelebA": lambda data: load_celeba(data, "train"),
    "CivilComments": lambda data: load_civil_comments(data, "train"),
    "NIH": load_nih,
    "CheXpert": load_chexpert,
    "templates": load_templates,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_missing_set_says_what_is_there_what_is_expected_and_where_to_get_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.doc").touch()
    with pytest.raises(DataError, match=r"found .*expected .*had (at|by) .*https://") as refused:
        LOADERS[name](tmp_path)
    assert name.lower() in str(refused.value).lower()
    with pytest.raises(DataError, match="no such folder"):
        LOADERS[name](tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx(PIXELS)[:-1], "cut short"),
        (b"\x1f\x8b not gzip", "starts with 1f 8b"),
        (b"", "starts with"),
        (idx(PIXELS[0]), "expected 00 00 08 03"),
    ],
)
def test_damaged_mnist_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match=said):
        load_mnist(tmp_path, "train")


def test_cut_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS))[:-9])
    with pytest.raises(DataError, match="cannot be unpacked"):
        load_mnist(tmp_path, "train")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    hostile = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "pneumoniamnist.npz", train_images=hostile, train_labels=hostile)
    with pytest.raises(DataError, match="cannot be read"):
        load_medmnist(tmp_path, "pneumoniamnist", "train")


def test_a_picture_that_the_table_names_but_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "list_attr_celeba.txt").write_text("1\nBlond_Hair Male\n000001.jpg -1 1\n")
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match=r"000001\.jpg: no such file"):
        load_celeba(tmp_path, "train")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "all_data_with_identities.csv").write_text("comment_text,toxicity\nhello,0\n")
    with pytest.raises(DataError, match=r"found columns comment_text, toxicity; expected also split, male"):
        load_civil_comments(tmp_path, "train")
