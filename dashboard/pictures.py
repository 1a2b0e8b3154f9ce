"""Evaluation and training inputs as something to look at: small PNG pictures, or a line of text."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

LARGEST = 160
MAX_CHARACTERS = 240


def picture(values: np.ndarray, shape: list[int]) -> str:
    """A data URI of one picture: [height, width], [height, width, channels] or [channels, height, width]."""
    pixels = np.asarray(values, dtype=np.float64).reshape(shape)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = np.moveaxis(pixels, 0, 2)
    image = Image.fromarray(_to_bytes(pixels, np.asarray(values).dtype))
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawing(svg: str, words: str) -> str:
    """An SVG as a picture in a page, in which nothing runs and nothing is fetched; words: what it shows."""
    source = base64.b64encode(svg.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{source}" alt="{escape(words)}" style="max-width:100%">'


def shown(inputs: Tensor | dict[str, Tensor], rows: list[int], display: dict[str, Any] | None) -> list[dict[str, str]]:
    """{"src": picture} or {"text": words} for each of these rows."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    values = first[rows].cpu().numpy()
    shape = (display or {}).get("shape")
    if (display or {}).get("kind") == "image" and shape and int(np.prod(shape)) == int(np.prod(values.shape[1:])):
        return [{"src": picture(v, shape)} for v in values]
    return [{"text": _as_text(v)} for v in values]


def _to_bytes(pixels: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """uint8 as it is; other numbers stretched over the range of the picture."""
    if dtype != np.uint8:
        pixels = np.nan_to_num(pixels)
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels - low) * (255 / (high - low if high > low else 1.0))
    flat = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return flat.round().clip(0, 255).astype(np.uint8)


def _as_text(values: np.ndarray) -> str:
    flat = values.ravel()[:24]
    return " ".join(f"{v:.3g}" if flat.dtype.kind == "f" else str(v) for v in flat)[:MAX_CHARACTERS]
