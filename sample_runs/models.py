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
        return self.mixed(_attended(self.attention(x), self.heads, there[:, None, None, :]))


def _attended(projected: Tensor, heads: int, seen: Tensor) -> Tensor:
    """[n, places, width] from queries, keys and values side by side; seen: which keys, as a mask."""
    n, length, width = projected.shape[0], projected.shape[1], projected.shape[2] // 3
    query, key, value = projected.reshape(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(2, 3) / math.sqrt(width / heads)
    scores = scores.masked_fill(~seen, -1e9)
    return (scores.softmax(3) @ value).transpose(1, 2).reshape(n, length, width)


class SmallGPT2(nn.Module):
    """Numbers of characters [n, places] -> logits of the next one at each place; the architecture of GPT-2, no dropout.

    With a rank the projections of the attention have adapters of it (LoRA), and all else rests.
    """

    def __init__(self, characters: int, length: int, width: int, layers: int, heads: int, rank: int = 0) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_GPT2Block(width, heads, rank) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and not name.endswith(".up"):
                nn.init.normal_(parameter, std=0.02)
            parameter.requires_grad_(not rank or name.endswith((".up", ".down")))

    def forward(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=text.device).tril()
        x = self.characters(text.long()) + self.places.weight[:length]
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x) @ self.characters.weight.T


class _GPT2Block(nn.Module):
    def __init__(self, width: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Adapted(width, 3 * width, rank) if rank else nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.mixed(_attended(self.attention(self.norm_attention(x)), self.heads, seen))
        return x + self.mlp(self.norm_mlp(x))


class _Adapted(nn.Linear):
    """W x + b + 2 U D x: a linear layer with an adapter (Hu et al. 2021), which at first changes nothing."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.empty(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 2 * (x @ self.down.T @ self.up.T)
