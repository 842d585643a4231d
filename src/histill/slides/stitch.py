"""Tiles' maps blended into one map of the slide without seams, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.geometry import Grid

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Band:
    """A finished part of the slide's map: all rows from `top` on, the columns from `left` on.

    Attributes:
        left: first column in map px.
        top: first row in map px.
        maps: float32 [m, h, w], the blended maps; 0 where no tile was.
        seen: bool [h, w], where a tile was.
    """

    left: int
    top: int
    maps: Maps
    seen: NDArray[np.bool_]


class Stitcher:
    """Blends overlapping tiles: each map pixel is the mean over its tiles, weighted by `blend_window`.

    Tiles come in the grid's order, row by row; as soon as a row of tiles is passed, the map's rows above the next one
    are finished and leave memory. What is kept is one row of tiles, as wide as the tiles reach.

    Args:
        grid: the tiles.
        channels: maps of a tile.
    """

    def __init__(self, grid: Grid, channels: int) -> None:
        self._grid = grid
        height, width = grid.frame.shape
        self._height = height
        self._left = int(grid.corners[:, 0].min(initial=width))
        right = min(width, int(grid.corners[:, 0].max(initial=0)) + grid.side)
        self._window = blend_window(grid.side, grid.step)  # [side, side]
        # The grid's tiles may reach beyond the map: what lies there is cut off when a band is finished.
        span = int(grid.corners[:, 0].max(initial=0)) + grid.side - self._left
        self._width = max(0, right - self._left)
        self._top = int(grid.corners[0, 1]) if len(grid) else 0
        self._sums = np.zeros((channels, grid.side, max(span, 0)), np.float32)
        self._weights = np.zeros((grid.side, max(span, 0)), np.float32)

    def add(self, index: int, maps: Maps) -> Iterator[Band]:
        """Blend in a tile's maps, float32 [m, side, side]; gives the band that is finished by its coming, if any."""
        x, y = (int(value) for value in self._grid.corners[index])
        if y > self._top:
            yield from self._finish(y)
        x -= self._left
        side = self._grid.side
        self._sums[:, :, x : x + side] += maps * self._window
        self._weights[:, x : x + side] += self._window

    def end(self) -> Iterator[Band]:
        """The last band."""
        if len(self._grid):
            yield from self._finish(self._top + self._grid.side)

    def _finish(self, until: int) -> Iterator[Band]:
        """The rows above `until`; the rows below move up."""
        done = min(until - self._top, self._grid.side)
        rows = max(0, min(self._top + done, self._height) - self._top)
        if rows:
            weights = self._weights[:rows, : self._width]
            # A sum is 0 where its weights are.
            maps = self._sums[:, :rows, : self._width] / np.maximum(weights, np.finfo(np.float32).tiny)
            yield Band(self._left, self._top, maps.astype(np.float32, copy=False), weights > 0)
        self._sums[:, : self._grid.side - done] = self._sums[:, done:]
        self._sums[:, self._grid.side - done :] = 0
        self._weights[: self._grid.side - done] = self._weights[done:]
        self._weights[self._grid.side - done :] = 0
        self._top = until


def blend_window(side: int, step: int) -> Maps:
    """How much each pixel of a tile counts, float32 [side, side]: 1 inside, falling linearly over the overlap.

    Nowhere 0, so that a pixel that one tile alone sees is that tile's; without overlap, 1 everywhere.
    """
    overlap = side - step
    from_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5  # [side]
    # Where tiles overlap by more than half, a ramp as long as the overlap would have no top.
    ramp = np.minimum(from_edge / max(min(overlap, side / 2), 0.5), 1).astype(np.float32)
    window: Maps = np.outer(ramp, ramp)
    return window
