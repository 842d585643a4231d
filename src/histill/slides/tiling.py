"""Tiles of one physical size over a slide's tissue, with overlap, and inside or outside of regions that a user drew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Grid
from histill.slides.tissue import Tissue

Regions = Sequence[Polygon | MultiPolygon]

_FINE, _TOUCH = 4, 1e-3
"""Bits below a pixel that polygons' corners are drawn with; how far a region reaches into a pixel that it touches."""


def side_in_px(um: float, mpp: float) -> int:
    """The side of a tile in px at a spacing in um/px, from its side in um.

    Raises:
        HistillError: usage (2) if that is less than a pixel.
    """
    if not um >= mpp:
        raise HistillError(
            f"a tile of {um:g} um is smaller than a pixel of {mpp:g} um", code=Exit.USAGE, mend="Ask for larger tiles"
        )
    return round(um / mpp)


def lay_grid(
    frame: Frame,
    tissue: Tissue,
    *,
    side: int,
    overlap: float = 0.0,
    least_tissue: float = 0.0,
    within: Regions | None = None,
    without: Regions | None = None,
) -> Grid:
    """Lay tiles over a slide, row by row from the top; the last of a row or column may reach beyond the slide.

    A tile belongs where

    - tissue covers at least `least_tissue` of that part of it that lies on the slide, by area on tissue's coarse map;
    - and, with regions, some of its tissue (with `least_tissue` 0: some of it) is wanted: inside a region of `within`
      and not inside one of `without`. Regions are drawn on tissue's coarse map: a pixel of it is inside a region of
      `within` if the region touches it, and inside one of `without` if that holds its middle. So a region however
      small has its tile, and a tile is lost only if, to within a pixel of that map, all is excluded.

    Without regions and with `least_tissue` 0 every tile belongs.

    Args:
        frame: the slide at the tiles' spacing.
        tissue: where it has tissue.
        side: of a tile in map px.
        overlap: of neighbouring tiles as a share of their side, 0 to below 1; their step is at least a pixel.
        least_tissue: share of a tile.
        within: polygons in level-0 px; None: everywhere. An empty list is nowhere.
        without: polygons in level-0 px.

    Raises:
        HistillError: usage (2) if side, overlap or share make no tiles.
    """
    if side < 1 or not 0 <= overlap < 1 or not 0 <= least_tissue <= 1:
        raise HistillError(
            f"no tiles of {side} px, overlap {overlap:g} and tissue {least_tissue:g}",
            code=Exit.USAGE,
            subject="tiles",
            mend="Give a side of 1 px or more, an overlap from 0 to below 1, and a share of tissue from 0 to 1",
        )
    step = max(1, round(side * (1 - overlap)))
    height, width = frame.shape
    x, y = _starts(width, side, step), _starts(height, side, step)
    # Edges of tiles in px of the coarse map, cut at the slide's edge.
    columns, rows = tissue.mask.shape[::-1]
    left, right = (((x + far) * frame.scale / tissue.scale[0]).clip(0, columns) for far in (0, side))
    top, bottom = (((y + far) * frame.scale / tissue.scale[1]).clip(0, rows) for far in (0, side))
    there = _sums(tissue.mask, left, right, top, bottom)  # [rows of tiles, columns of tiles]
    area = np.outer(bottom - top, right - left)
    # Sums of fractions of pixels miss a whole by their last bits.
    belongs = there >= least_tissue * area - 1e-6
    if within is not None or without is not None:
        wanted = np.ones_like(tissue.mask) if within is None else _drawn(within, tissue, touched=True)
        if without is not None:
            wanted &= ~_drawn(without, tissue, touched=False)
        if least_tissue > 0:
            wanted &= tissue.mask
        belongs &= _sums(wanted, left, right, top, bottom) > 1e-6
    down, across = np.nonzero(belongs)
    return Grid(frame, np.stack([x[across], y[down]], axis=1), side, step)


def _starts(length: int, side: int, step: int) -> NDArray[np.int64]:
    """Where tiles begin along an axis: so many that the last reaches its end."""
    return np.arange(1 + max(0, -(-(length - side) // step)), dtype=np.int64) * step


def _sums(
    mask: NDArray[np.bool_],
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    top: NDArray[np.float64],
    bottom: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Area of the mask in every rectangle [top, bottom] x [left, right], exact for fractions of pixels too."""
    total = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    np.cumsum(np.cumsum(mask, axis=0), axis=1, out=total[1:, 1:])
    # Between corners of pixels the integral of a map that is constant on pixels is linear along each axis.
    wide = _between(total, right, 1) - _between(total, left, 1)  # [h + 1, columns of tiles]
    return _between(wide, bottom, 0) - _between(wide, top, 0)


def _between(values: NDArray[np.float64], at: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    below = np.minimum(at.astype(np.intp), values.shape[axis] - 2)
    part = np.expand_dims(at - below, 1 - axis)
    low, high = values.take(below, axis), values.take(below + 1, axis)
    between: NDArray[np.float64] = low + (high - low) * part
    return between


def _drawn(regions: Regions, tissue: Tissue, *, touched: bool) -> NDArray[np.bool_]:
    """Regions on tissue's coarse map: the pixels that they touch, or those whose middle they hold."""
    rows, columns = tissue.mask.shape
    # OpenCV is careless along the edges of what it draws on: hence a margin of 3 px, in which regions are cut off.
    drawn = np.zeros((rows + 6, columns + 6), np.uint8)
    for region in regions:
        on_map = shapely.transform(region, lambda corners: corners / tissue.scale)
        for polygon in shapely.get_parts(shapely.clip_by_rect(on_map, -1, -1, columns + 1, rows + 1)):
            if polygon.is_empty:
                continue
            # Each on a canvas of its own size with a margin of 2 px: there may be thousands.
            left, top, right, bottom = (math.floor(side) for side in polygon.bounds)
            part = np.zeros((bottom - top + 4, right - left + 4), np.uint8)
            # To OpenCV (0, 0) is the middle of a pixel.
            origin = np.array([left, top]) - 1.5
            corners = [shapely.get_coordinates(ring) - origin for ring in shapely.get_rings(polygon)]
            rings = [np.rint(ring * (1 << _FINE)).astype(np.int32) for ring in corners]
            cv2.fillPoly(part, rings, 1, cv2.LINE_8, _FINE)
            # OpenCV is right inside and outside; along the outline each pixel is asked for.
            line = np.zeros_like(part)
            cv2.polylines(line, rings, True, 1, 1, cv2.LINE_8, _FINE)
            row, column = np.nonzero(cv2.dilate(line, np.ones((3, 3), np.uint8)))
            x, y = column + left - 2, row + top - 2
            if touched:
                pixels = shapely.box(x + _TOUCH, y + _TOUCH, x + 1 - _TOUCH, y + 1 - _TOUCH)
                shapely.prepare(polygon)
                part[row, column] = shapely.intersects(polygon, pixels)
            else:
                part[row, column] = shapely.contains_xy(polygon, x + 0.5, y + 0.5)
            drawn[top + 1 : bottom + 5, left + 1 : right + 5] |= part
    return drawn[3:-3, 3:-3] > 0
