"""The horizontal edges of a label map's regions, found strip by strip in the 2 x 2 pixels around each corner."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from histill.core.labels import IGNORE
from histill.core.masks import LabelMap

Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

STRIP = 1 << 19
"""Pixels looked at in one go: they and what is made of them stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Some rows of the map, one after the other in memory.

    First the row above them, then they themselves, each with one pixel of nothing before it, and one more at the end:
    a pixel's neighbours are at -1, +1, -width and +width.

    Attributes:
        pixels: uint8, flat, labels as they are in the map.
        width: of a row, with the pixel of nothing before it.
        top: the first row, in the map.
        counts_as: uint8 [256], what each label is taken for: itself, or IGNORE.
    """

    pixels: LabelMap
    width: int
    top: int
    counts_as: NDArray[np.uint8]

    @property
    def bottom(self) -> int:
        """The row below its last one."""
        return self.top + len(self.pixels) // self.width - 1

    def end(self) -> Strip:
        """The last row and nothing below it: what closes the map here."""
        pixels = np.full(2 * self.width + 1, IGNORE, np.uint8)
        pixels[: self.width] = self.pixels[-1 - self.width : -1]
        return Strip(pixels, self.width, self.bottom, self.counts_as)


def strips(bands: Iterable[LabelMap], left_out: Collection[int]) -> Iterator[Strip]:
    """Bands of any height, from top to bottom, as strips of one; each is good until the next is asked for.

    Raises:
        ValueError: a band is not uint8 [rows, w], or has another width than the first.
    """
    counts_as = np.arange(256, dtype=np.uint8)
    counts_as[list(left_out)] = IGNORE
    rows = filled = top = 0
    pixels = np.empty(0, np.uint8)
    for band in bands:
        if band.ndim != 2 or band.dtype != np.uint8 or band.shape[1] == 0:
            raise ValueError(f"a band is uint8 [rows, w], not {band.dtype} {list(band.shape)}")
        if not rows:
            width = band.shape[1] + 1
            rows = max(1, STRIP // width)
            pixels = np.full((rows + 1) * width + 1, IGNORE, np.uint8)
            lines = pixels[:-1].reshape(rows + 1, width)
        if band.shape[1] + 1 != width:
            raise ValueError(f"a band is {band.shape[1]} px wide, the first one {width - 1}")
        done = 0
        while done < len(band):
            taken = min(rows - filled, len(band) - done)
            lines[filled + 1 : filled + 1 + taken, 1:] = band[done : done + taken]
            filled, done = filled + taken, done + taken
            if filled == rows:
                yield Strip(pixels, width, top, counts_as)
                lines[0] = lines[-1]
                top, filled = top + rows, 0
    if filled:
        end = (filled + 1) * width
        yield Strip(np.append(pixels[:end], np.uint8(IGNORE)), width, top, counts_as)


@dataclass(frozen=True, eq=False)
class Edges:
    """Horizontal edges, in the order of the corners they start from: by row, then from the left.

    Attributes:
        y, x0, x1: int32 [m]; from (x0, y) to (x1, y). To the right where the region is below, to the left where above.
        labels: uint8 [m].
        comes_from_below, goes_below: whether the vertical edge before its start, and that after its end, is below y.
        left: int32 [m]; where a run of the region's pixels that ends at the lower left of the edge begins, in the row
            below y; -1 where there is none.
        starts, ends: int64 [s, 2]; pairs of edges that start or end at one corner and whose pixels touch there.
    """

    y: NDArray[np.int32]
    x0: NDArray[np.int32]
    x1: NDArray[np.int32]
    labels: NDArray[np.uint8]
    comes_from_below: Bools
    goes_below: Bools
    left: NDArray[np.int32]
    starts: Indices
    ends: Indices

    def __len__(self) -> int:
        return len(self.y)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """One after the other."""
        offsets = np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()
        return cls(
            np.concatenate([part.y for part in parts]),
            np.concatenate([part.x0 for part in parts]),
            np.concatenate([part.x1 for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.comes_from_below for part in parts]),
            np.concatenate([part.goes_below for part in parts]),
            np.concatenate([part.left for part in parts]),
            np.concatenate([part.starts + offset for part, offset in zip(parts, offsets, strict=True)]),
            np.concatenate([part.ends + offset for part, offset in zip(parts, offsets, strict=True)]),
        )

    def only(self, kept: Bools) -> Edges:
        """Those of them, and the pairs of which both remain."""
        new = np.cumsum(kept) - 1
        starts, ends = (new[pairs[kept[pairs].all(axis=1)]] for pairs in (self.starts, self.ends))
        return Edges(
            self.y[kept],
            self.x0[kept],
            self.x1[kept],
            self.labels[kept],
            self.comes_from_below[kept],
            self.goes_below[kept],
            self.left[kept],
            starts,
            ends,
        )


def edges_of(strip: Strip) -> Edges:
    """The edges in the corner rows above each of a strip's rows."""
    pixels, width = strip.pixels, strip.width
    size = len(pixels) - width - 1
    beside = pixels[1:] != pixels[:-1]
    above = pixels[:-width] != pixels[width:]
    corners = beside[:size] | beside[width:]
    corners &= above[:-1] | above[1:]
    at = np.flatnonzero(corners)
    # The four pixels around a corner:  a b
    #                                   c d
    a, b, c, d = (strip.counts_as.take(pixels.take(at + step)) for step in (0, 1, width, width + 1))
    ab, cd, ac, bd, ad, bc = a == b, c == d, a == c, b == d, a == d, b == c
    a_is, b_is, c_is, d_is = (label != IGNORE for label in (a, b, c, d))
    y, x = np.divmod(at, width)
    y += strip.top

    # A region below starts an edge where its d is bare above, unless it goes on from c, bare above as well.
    # One above starts where its a is bare below, unless it goes on from b. Ends likewise.
    begins = np.stack((d_is & ~bd & (~cd | ad), a_is & ~ac & (~ab | ad)), axis=1)  # [corners, 2]: region below, above
    of_below, of_above = np.flatnonzero(c_is & ~ac & (~cd | bc)), np.flatnonzero(b_is & ~bd & (~ab | bc))
    begin = np.flatnonzero(begins)
    is_above = (begin & 1).astype(bool)
    below_index, above_index = np.flatnonzero(~is_above), np.flatnonzero(is_above)
    start, end = begin >> 1, np.empty_like(begin)
    end[below_index], end[above_index] = of_below, of_above

    left = np.full(len(begin), -1, np.int32)
    asks = np.flatnonzero(bc[of_above])
    if len(asks):
        changes = np.flatnonzero(beside[width:]) + width
        run = changes[np.searchsorted(changes, at[of_above[asks]] + width) - 1]
        left[above_index[asks]] = run % width

    touch_a = np.flatnonzero(ad & a_is & ~ab & ~ac)
    touch_b = np.flatnonzero(bc & b_is & ~ab & ~bd)
    first = np.searchsorted(begin, 2 * touch_a)
    second = np.searchsorted(of_below, touch_b), np.searchsorted(of_above, touch_b)
    return Edges(
        y.take(start).astype(np.int32),
        x.take(start).astype(np.int32),
        x.take(end).astype(np.int32),
        np.where(is_above, a.take(start), d.take(start)),
        np.where(is_above, ab.take(start), ~cd.take(start)),
        np.where(is_above, ab.take(end), ~cd.take(end)),
        left,
        np.stack((first, first + 1), axis=1),
        np.stack((below_index[second[0]], above_index[second[1]]), axis=1),
    )
