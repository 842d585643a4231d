"""Label maps on disk and in memory: indexed PNG in and out, pseudo-masks with their confidence and provenance."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.labels import Classes

LabelMap = NDArray[np.uint8]


@dataclass(frozen=True)
class PseudoMask:
    """A pixel label that was inferred from an image label.

    Attributes:
        labels: uint8 [h, w], class indices; `IGNORE` where nothing is said.
        confidence: float32 [h, w] in 0..1.
        provenance: method, stage, tap and checkpoint hash it came from.
    """

    labels: LabelMap
    confidence: NDArray[np.float32]
    provenance: dict[str, str] = field(default_factory=dict)


def label_png(labels: LabelMap, classes: Classes) -> bytes:
    """A label map uint8 [h, w] as an indexed PNG whose palette shows the classes' colours."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(labels), mode="P")
    image.putpalette(classes.palette())
    return _png(image)


def grey_png(values: NDArray[np.float32]) -> bytes:
    """Values in 0..1, float [h, w], as an 8-bit grey PNG (rounded to 1/255)."""
    from PIL import Image

    return _png(Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)))


def rgb_png(image: NDArray[np.uint8]) -> bytes:
    """An image uint8 [h, w, 3] as PNG."""
    from PIL import Image

    return _png(Image.fromarray(image))


def read_indexed(path: Path) -> LabelMap:
    """The indices of an indexed or grey 8-bit PNG, uint8 [h, w].

    Raises:
        OSError: the file cannot be decoded.
        ValueError: its pixels are not 8-bit indices.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.mode not in ("1", "P", "L"):
            raise ValueError(f"pixels of mode {image.mode}, not 8-bit indices")
        return np.array(image, np.uint8)


def _png(image: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)  # type: ignore[attr-defined]
    return buffer.getvalue()
