"""The models of the shipped runs, by the name that the runs ask for."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import aa_core as aa
from sample_runs.models import PicturesCNN, PicturesMLP, SmallGPT2, TextTransformer

CHARACTERS = "".join(sorted(string.printable[:95]))
"""What a character's number stands for."""
SPACE = "␣"
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


class DigitsMLP(nn.Module):
    """8x8 grey pictures (0..255, uint8) -> logits of ten digits."""

    def __init__(self, hidden: int = 64, activation: str = "gelu", dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, hidden, dtype=dtype), ACTIVATIONS[activation](), nn.Linear(hidden, 10, dtype=dtype)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures.flatten(1).to(self.layers[0].weight.dtype) / 255)


def digits_mlp(config: Mapping[str, Any]) -> aa.Problem:
    """Problem "digits-mlp"; config: hidden, activation."""
    model = DigitsMLP(int(config.get("hidden", 64)), str(config.get("activation", "gelu")))
    return aa.Problem(model, nn.functional.cross_entropy)


def pictures_mlp(config: Mapping[str, Any]) -> aa.Problem:
    """Problem "pictures-mlp"; config: the arguments of PicturesMLP."""
    return aa.Problem(PicturesMLP(**config), nn.functional.cross_entropy)


def pictures_cnn(config: Mapping[str, Any]) -> aa.Problem:
    """Problem "pictures-cnn"; config: the arguments of PicturesCNN."""
    return aa.Problem(PicturesCNN(**config), nn.functional.cross_entropy)


def text_transformer(config: Mapping[str, Any]) -> aa.Problem:
    """Problem "text-transformer"; config: the arguments of TextTransformer, and `words`, its vocabulary."""
    sizes = {n: v for n, v in config.items() if n != "words"}
    words = ["", *map(str, config["words"][1:])]  # the first stands for no word
    model = TextTransformer(vocabulary=len(words), **sizes)
    return aa.Problem(model, nn.functional.cross_entropy, as_text=lambda numbers: told(numbers, words, " "))


def told(numbers: Tensor, words: Sequence[str], between: str) -> list[str]:
    """Rows of numbers as text; a number that stands for nothing is a question mark."""
    known = dict(enumerate(words))
    rows = ([known.get(i, "?") for i in row] for row in numbers.reshape(len(numbers), -1).tolist())
    return [between.join(word for word in row if word) for row in rows]


def next_character_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over all places; outputs [n, places, characters]."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten().long())


def small_gpt2(config: Mapping[str, Any]) -> aa.Problem:
    """Problem "small-gpt2"; config: the arguments of SmallGPT2, which has its adapters only from some stage on."""
    begun = aa.Problem(SmallGPT2(**{**config, "rank": 0}), next_character_loss)
    return aa.Problem(
        SmallGPT2(**config),
        next_character_loss,
        previous=begun,
        as_text=lambda numbers: told(numbers, CHARACTERS, ""),
        class_names=[SPACE if c == " " else c for c in CHARACTERS],
    )
