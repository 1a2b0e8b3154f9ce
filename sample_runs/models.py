"""The models of the experiments."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class PicturesMLP(nn.Module):
    """Pictures (0..255, uint8, any shape) -> logits, one hidden layer."""

    def __init__(self, pixels: int, hidden: int, classes: int, dtype: str = "float64") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(pixels, hidden, dtype=DTYPES[dtype]), nn.GELU(), nn.Linear(hidden, classes, dtype=DTYPES[dtype])
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures.flatten(1).to(self.layers[0].weight.dtype) / 255)


class PicturesCNN(nn.Module):
    """Pictures [n, height, width] or [n, height, width, colours] (0..255, uint8) -> logits.

    Two convolutions, each with batch normalisation if asked for, GELU and 2x2 mean pooling, then one linear layer.
    """

    def __init__(
        self,
        size: int,
        classes: int,
        *,
        colours: int = 1,
        widths: tuple[int, int] = (12, 24),
        batch_norm: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.colours, self.dtype = colours, DTYPES[dtype]
        self.features = nn.Sequential(
            *_convolution(colours, widths[0], batch_norm, self.dtype),
            *_convolution(widths[0], widths[1], batch_norm, self.dtype),
        )
        self.classify = nn.Linear(widths[1] * (size // 4) ** 2, classes, dtype=self.dtype)

    def forward(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[1:3]
        planes = pictures.reshape(len(pictures), height, width, self.colours).permute(0, 3, 1, 2)
        return self.classify(self.features(planes.to(self.dtype) / 255).flatten(1))


def _convolution(inputs: int, outputs: int, batch_norm: bool, dtype: torch.dtype) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(outputs, dtype=dtype)] if batch_norm else []
    return [nn.Conv2d(inputs, outputs, 3, padding=1, dtype=dtype), *norm, nn.GELU(), nn.AvgPool2d(2)]


class TextTransformer(nn.Module):
    """Word numbers [n, words] (0: no word) -> logits: one transformer block, mean over the words, one linear layer."""

    def __init__(
        self, vocabulary: int, length: int, classes: int = 2, width: int = 16, heads: int = 2, dtype: str = "float32"
    ) -> None:
        super().__init__()
        kind = DTYPES[dtype]
        self.heads = heads
        self.words = nn.Embedding(vocabulary, width, dtype=kind)
        self.places = nn.Embedding(length, width, dtype=kind)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width, dtype=kind), nn.LayerNorm(width, dtype=kind)
        self.attention = nn.Linear(width, 3 * width, dtype=kind)
        self.mixed = nn.Linear(width, width, dtype=kind)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width, dtype=kind), nn.GELU(), nn.Linear(2 * width, width, dtype=kind)
        )
        self.classify = nn.Linear(width, classes, dtype=kind)

    def forward(self, words: Tensor) -> Tensor:
        there = words > 0
        x = self.words(words.long()) + self.places.weight[: words.shape[1]]
        x = x + self._attend(self.norm_attention(x), there)
        x = x + self.mlp(self.norm_mlp(x))
        weights = there.to(x.dtype).unsqueeze(2)
        return self.classify((x * weights).sum(1) / weights.sum(1).clamp(min=1))

    def _attend(self, x: Tensor, there: Tensor) -> Tensor:
        n, length, width = x.shape
        query, key, value = self.attention(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / math.sqrt(width / self.heads)
        scores = scores.masked_fill(~there[:, None, None, :], -1e9)
        return self.mixed((scores.softmax(3) @ value).transpose(1, 2).reshape(n, length, width))
