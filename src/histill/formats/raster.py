"""From outlines back to a label map: which pixels' centres they hold.

A pixel is of an outline if its centre is inside; a centre right on a border is inside where the border is the left or
the upper one. So outlines that share a border share no pixel and leave none out. What is drawn later covers what was
drawn earlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from histill.core.geometry import Frame
from histill.core.labels import IGNORE
from histill.core.masks import LabelMap
from histill.formats.outlines import Outline

BAND = 1 << 24
"""Pixels drawn in one go."""

Indices = NDArray[np.int64]


def rasterise(outlines: Sequence[Outline], labels: Sequence[int], frame: Frame, *, beyond: int = IGNORE) -> LabelMap:
    """The label map of outlines, uint8 [h, w], all of it at once; see `OutlineRaster`."""
    return np.concatenate(list(OutlineRaster(outlines, labels, frame, beyond=beyond)))


class OutlineRaster:
    """The label map of outlines, drawn where it is asked for; iterate for bands from top to bottom.

    Args:
        outlines: in level-0 px; the later cover the earlier.
        labels: what is drawn for each of them, 0 to 255.
        frame: where the map lies on the slide. What reaches beyond it is left out.
        beyond: what is drawn where there is no outline.

    Raises:
        ValueError: there are not as many labels as outlines.
    """

    def __init__(
        self, outlines: Sequence[Outline], labels: Sequence[int], frame: Frame, *, beyond: int = IGNORE
    ) -> None:
        if len(outlines) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(outlines)} outlines")
        self.shape, self.beyond = frame.shape, beyond
        self._labels = np.array(labels, np.uint8)
        parts, outline_of = shapely.get_parts([outline.area for outline in outlines], return_index=True)
        rings, part_of = shapely.get_rings(parts, return_index=True)
        points, ring_of = shapely.get_coordinates(rings, return_index=True)
        # From here on the centres of pixels have whole numbers; a corner on one lies on it, and not a last bit away.
        points = np.round(points / frame.scale - 0.5, 9)
        edge = np.flatnonzero(ring_of[1:] == ring_of[:-1])
        # Each edge from its upper end: what two outlines share is cut at the very same places for both.
        upper = np.where(points[edge, 1] <= points[edge + 1, 1], edge, edge + 1)
        lower = 2 * edge + 1 - upper
        first, last = (np.clip(np.ceil(points[end, 1]), 0, self.shape[0]).astype(np.int64) for end in (upper, lower))
        kept = np.flatnonzero(first < last)
        kept = kept[np.argsort(first[kept], kind="stable")]
        upper, lower = upper[kept], lower[kept]
        self._first, self._last = first[kept], last[kept]
        self._x, self._y = points[upper].T
        self._slope = (points[lower, 0] - self._x) / (points[lower, 1] - self._y)
        self._outline = outline_of[part_of[ring_of[upper]]]

    def __iter__(self) -> Iterator[LabelMap]:
        height, width = self.shape
        step = max(1, BAND // width)
        for top in range(0, height, step):
            yield self.band(top, min(step, height - top))

    def band(self, top: int, rows: int) -> LabelMap:
        """Some rows of the map, uint8 [rows, w]."""
        starts, stops, outline = self._runs(top, rows)
        labels = self._labels[outline]
        apart = np.ones(len(starts), bool)
        apart[1:] = starts[1:] >= np.maximum.accumulate(stops)[:-1]
        apart[:-1] &= apart[1:].copy()
        # Where no two runs meet, a label is what the steps at their ends add up to, modulo 256.
        steps = np.zeros(rows * self.shape[1] + 1, np.uint8)
        step = labels[apart] - np.uint8(self.beyond)
        steps[0] = self.beyond
        steps[starts[apart]] += step
        steps[stops[apart]] -= step
        band = np.cumsum(steps[:-1], dtype=np.uint8)
        others = np.flatnonzero(~apart)
        others = others[np.argsort(outline[others], kind="stable")]
        runs = (each[others].tolist() for each in (starts, stops, labels))
        for start, stop, label in zip(*runs, strict=True):
            band[start:stop] = label
        return band.reshape(rows, -1)  # [rows, w]

    def _runs(self, top: int, rows: int) -> tuple[Indices, Indices, Indices]:
        """Runs of pixels inside an outline: where in the band they start, sorted, and stop; and of which outline."""
        width, count = self.shape[1], max(1, len(self._labels))
        edge = np.arange(np.searchsorted(self._first, top + rows))
        edge = edge[self._last[edge] > top]
        first = np.maximum(self._first[edge], top)
        lengths = np.minimum(self._last[edge], top + rows) - first
        row = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        edge = np.repeat(edge, lengths)
        x = self._x[edge] + (row - self._y[edge]) * self._slope[edge]
        column = np.clip(np.ceil(x), 0, width).astype(np.int64)
        # An outline is crossed an even number of times in a row: from outside to inside, and out again.
        crossings = np.sort(((row - top) * count + self._outline[edge]) * (width + 1) + column)
        line, column = np.divmod(crossings, width + 1)
        row, outline = np.divmod(line[0::2], count)
        start, stop = row * width + column[0::2], row * width + column[1::2]
        some = np.flatnonzero(start < stop)
        some = some[np.argsort(start[some], kind="stable")]
        return start[some], stop[some], outline[some]
