"""A picture to check tissue by: its outline on the slide, what was left out and why, and the tiles laid over it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.geometry import Grid
from histill.core.labels import Colour
from histill.report.legend import FAULT, Item, Text, swatch, with_legend
from histill.slides.base import RgbImage
from histill.slides.tissue import Dropped, Tissue

OUTLINE: Colour = (0, 158, 60)
TILES: dict[str, Colour] = {"bright field": (0, 90, 200), "fluorescence": (120, 170, 255)}
LEFT_OUT: dict[Dropped, tuple[str, Colour]] = {
    Dropped.PEN: ("pen", (255, 196, 0)),
    Dropped.SMALL: ("small or dust", (230, 40, 30)),
    Dropped.BORDER: ("not scanned", (130, 130, 130)),
}

_DISTINCT = 6
"""the side in px from which on tiles are drawn one by one; smaller ones as the area they cover"""


def tissue_picture(thumbnail: RgbImage, tissue: Tissue, grid: Grid | None = None) -> RgbImage:
    """Draw tissue on a thumbnail of its slide: a green outline, blue tiles, what was left out in other colours.

    Args:
        thumbnail: the whole slide, uint8 [h, w, 3], of any size.
        tissue: where the slide has tissue.
        grid: tiles; None for none.

    Returns:
        uint8 [h', w', 3]: the picture above a legend; at least 340 px wide.
    """
    height, width = thumbnail.shape[:2]
    picture = np.ascontiguousarray(thumbnail).copy()
    dropped = _fitted(tissue.dropped, height, width)
    for why, (_, colour) in LEFT_OUT.items():
        _tint(picture, dropped == why, colour, 0.65)
    if grid is not None and len(grid):
        _draw_tiles(picture, grid, TILES[tissue.kind])
    thick = max(2, round(max(height, width) / 600))
    mask = _fitted(tissue.mask.astype(np.uint8), height, width)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, OUTLINE, thick)
    return with_legend(picture, _legend(tissue, grid))


def _fitted(values: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _tint(picture: RgbImage, where: NDArray[np.bool_], colour: Colour, opacity: float) -> None:
    picture[where] = np.rint(picture[where] * (1 - opacity) + np.multiply(colour, opacity)).astype(np.uint8)


def _draw_tiles(picture: RgbImage, grid: Grid, colour: Colour) -> None:
    height, width = picture.shape[:2]
    # Map px to px of the picture, along x and y.
    scale = np.array([width / grid.frame.width, height / grid.frame.height]) * grid.frame.scale
    first = np.rint(grid.corners * scale).astype(int)  # [n, 2]
    last = np.rint((grid.corners + grid.side) * scale).astype(int)
    if grid.side * scale.min() >= _DISTINCT:
        for corner, opposite in zip(first.tolist(), last.tolist(), strict=True):
            cv2.rectangle(picture, corner, opposite, colour, 1)
        return
    covered = np.zeros((height, width), np.uint8)
    for corner, opposite in zip(first.tolist(), last.tolist(), strict=True):
        cv2.rectangle(covered, corner, opposite, 1, -1)
    _tint(picture, covered > 0, colour, 0.3)


def _legend(tissue: Tissue, grid: Grid | None) -> list[Item]:
    """What stands below the picture."""
    items: list[Item] = [
        (Text(f"no tissue: {tissue.why}", FAULT),)
        if tissue.why
        else (swatch(OUTLINE), Text(f"tissue {tissue.share:.1%}"))
    ]
    if grid is not None:
        size = f"{grid.side * grid.frame.mpp:.4g} um ({grid.side} px at {grid.frame.mpp:.4g} um/px)"
        items.append((swatch(TILES[tissue.kind]), Text(f"{len(grid):,} tile{'s'[: len(grid) != 1]} of {size}")))
    items += [(swatch(colour), Text(text)) for why, (text, colour) in LEFT_OUT.items() if (tissue.dropped == why).any()]
    return [*items, (Text(f"{tissue.kind}, threshold {tissue.threshold:.3f}"),)]
