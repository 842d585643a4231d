"""Rectangles in level-0 pixels: the only coordinate system in the house; and how a slide is seen at one spacing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """A rectangle in level-0 pixels: top-left corner, width, height."""

    x: int
    y: int
    w: int
    h: int

    def inside(self, width: int, height: int) -> bool:
        """Whether the region lies wholly inside an image of this size."""
        return (
            self.x >= 0
            and self.y >= 0
            and self.w > 0
            and self.h > 0
            and (self.x + self.w <= width and self.y + self.h <= height)
        )


@dataclass(frozen=True)
class Frame:
    """A slide seen at one spacing: a map whose pixels are squares of level 0.

    The map pixel at (x, y) covers level 0 from ``(x, y) * scale`` to ``(x + 1, y + 1) * scale``.

    Attributes:
        width: of the slide in level-0 px.
        height: of the slide in level-0 px.
        level0_mpp: um per level-0 px.
        mpp: um per map px.
    """

    width: int
    height: int
    level0_mpp: float
    mpp: float

    @property
    def scale(self) -> float:
        """Level-0 px per map px; a fraction of one where the map is finer than the slide."""
        return self.mpp / self.level0_mpp

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the map in map px; its last row and column may reach beyond the slide."""
        # A slide of 1000 px at twice its spacing is 500 px, and not 501 for a last bit of the division.
        height, width = (max(1, math.ceil(side / self.scale - 1e-6)) for side in (self.height, self.width))
        return height, width

    def region(self, x: int, y: int, w: int, h: int) -> Region:
        """The level-0 pixels under a rectangle of the map; may reach beyond the slide.

        Corners are rounded one by one, so that neighbours meet and no error adds up along the slide.
        """
        left, top = round(x * self.scale), round(y * self.scale)
        right, bottom = round((x + w) * self.scale), round((y + h) * self.scale)
        return Region(left, top, max(1, right - left), max(1, bottom - top))


@dataclass(frozen=True, eq=False)
class Grid:
    """Square tiles of one size at one spacing.

    Attributes:
        frame: the slide at that spacing.
        corners: int64 [n, 2]: x and y of each tile's top-left corner in map px, row by row from the top.
        side: of a tile in map px.
        step: from one tile to the next in map px; less than `side` where tiles overlap.
    """

    frame: Frame
    corners: NDArray[np.int64]
    side: int
    step: int

    def __len__(self) -> int:
        return len(self.corners)

    def region(self, index: int) -> Region:
        """A tile's rectangle in level-0 px; may reach beyond the slide, where there is white."""
        x, y = (int(value) for value in self.corners[index])
        return self.frame.region(x, y, self.side, self.side)

    @property
    def level0(self) -> NDArray[np.int64]:
        """Top-left corner of each tile in level-0 px, int64 [n, 2]: x, y."""
        corners: NDArray[np.int64] = np.rint(self.corners * self.frame.scale).astype(np.int64)
        return corners
