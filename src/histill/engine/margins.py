"""Bands of a slide's map with the rows around them, for what decides by a pixel's surroundings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from histill.slides.stitch import Band


@dataclass(frozen=True)
class Surrounded:
    """Rows that can be decided, and what is known around them.

    Attributes:
        band: these rows with up to `above` rows before and as many as there are after, as a band.
        above: rows of the band before the first that is to be decided.
        rows: how many are to be decided.
    """

    band: Band
    above: int
    rows: int


def with_margins(bands: Iterable[Band], reach: int) -> Iterator[Surrounded]:
    """Every row of the bands once, as soon as the `reach` rows after it are known, with the `reach` rows before it.

    Rows between two bands where no tile was are maps of 0, seen nowhere; beyond the first and the last band, nothing
    is given. In all, one band and twice `reach` rows are kept.

    Args:
        bands: from top to bottom, of the same columns, with or without gaps.
        reach: how many rows up and down a decision looks.
    """
    kept: Band | None = None
    above = 0  # of the rows kept, those that are decided
    for band in bands:
        if kept is not None and band.top - _end(kept) >= max(reach, 1):
            yield from _due(kept, above, 0)
            kept = None
        if kept is None:
            kept, above = band, 0
        else:
            kept = _joined(kept, band)
        yield from _due(kept, above, reach)
        above = max(above, len(kept.seen) - reach)
        kept, above = _below(kept, max(0, above - reach)), min(above, reach)
    if kept is not None:
        yield from _due(kept, above, 0)


def _end(band: Band) -> int:
    return band.top + len(band.seen)


def _due(kept: Band, above: int, after: int) -> Iterator[Surrounded]:
    rows = len(kept.seen) - after - above
    if rows > 0:
        yield Surrounded(kept, above, rows)


def _below(band: Band, row: int) -> Band:
    return Band(band.left, band.top + row, band.maps[:, row:], band.seen[row:]) if row else band


def _joined(first: Band, second: Band) -> Band:
    if not len(first.seen):
        return second
    between = second.top - _end(first)
    m, _, w = first.maps.shape
    maps = [first.maps, np.zeros((m, between, w), np.float32), second.maps]
    seen = [first.seen, np.zeros((between, w), np.bool_), second.seen]
    return Band(first.left, first.top, np.concatenate(maps, axis=1), np.concatenate(seen))
