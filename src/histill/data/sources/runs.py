"""Masks as run lengths, and boxes around what hangs together in them, without ever making the mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Runs = NDArray[np.int64]


def read_runs(text: str, width: int, height: int) -> Runs:
    """Runs of a mask as Kaggle writes them: "start length start length ...", down each column in turn, from 1.

    Args:
        text: the numbers; empty where the mask is.
        width: of the image.
        height: of the image.

    Returns:
        int64 [n, 2]: where a run starts, from 0, and where it ends; in order, apart from one another.

    Raises:
        ValueError: not pairs of whole numbers, a length below 1, runs out of order or overlapping, or beyond the image.
    """
    try:
        numbers = np.asarray([int(part) for part in text.split()], np.int64)
    except (ValueError, OverflowError):
        raise ValueError("not whole numbers") from None
    if len(numbers) % 2:
        raise ValueError(f"{len(numbers)} numbers are not pairs of start and length")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    runs = np.stack([starts, starts + lengths], axis=-1)  # [n, 2]
    if (lengths < 1).any():
        raise ValueError(f"pair {int(np.flatnonzero(lengths < 1)[0]) + 1}: a length below 1")
    late = runs[1:, 0] < runs[:-1, 1]
    if late.any():
        raise ValueError(f"pair {int(np.flatnonzero(late)[0]) + 2} begins before the pair in front of it ends")
    if len(runs) and (runs[0, 0] < 0 or runs[-1, 1] > width * height):
        raise ValueError(f"reaches beyond the {width} x {height} px of the image")
    return runs


def boxes_of_runs(runs: Runs, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes around the parts of a mask that hang together, by sides or corners (8 neighbours).

    Args:
        runs: as `read_runs` gives them.
        height: of the image.

    Returns:
        boxes int64 [k, 4], x0, y0, x1, y1 along the edges of pixels, from left to right; and pixels in each, int64 [k].
    """
    if not len(runs):
        return np.zeros((0, 4), np.int64), np.zeros(0, np.int64)
    column, top, bottom = _columns(runs, height)
    # A run touches those of the next column that begin by its end and end by its begin: they lie side by side.
    key, span = column * (height + 2), height + 2
    order_by_top, order_by_bottom = key + top, key + bottom
    first = np.searchsorted(order_by_bottom, key + span + top, side="left")
    last = np.searchsorted(order_by_top, key + span + bottom, side="right")
    many = np.maximum(last - first, 0)
    one = np.repeat(np.arange(len(column)), many)
    other = np.arange(len(one)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
    # Two runs that meet within a column (the file may cut one in two) hang together as well.
    meeting = np.flatnonzero((column[1:] == column[:-1]) & (top[1:] == bottom[:-1]))
    one, other = np.concatenate([one, meeting]), np.concatenate([other, meeting + 1])
    graph = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(len(column), len(column)))
    count, part = connected_components(graph, directed=False)
    low, high = np.full((count, 2), np.iinfo(np.int64).max), np.full((count, 2), -1)
    np.minimum.at(low, part, np.stack([column, top], axis=-1))
    np.maximum.at(high, part, np.stack([column + 1, bottom], axis=-1))
    pixels = np.bincount(part, weights=bottom - top, minlength=count).astype(np.int64)
    boxes = np.concatenate([low, high], axis=-1)  # [k, 4]
    order = np.lexsort((boxes[:, 1], boxes[:, 0]))
    return boxes[order], pixels[order]


def _columns(runs: Runs, height: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs cut at the ends of columns: column, first row and row behind the last, int64 [m] each."""
    begin, end = runs.T
    first, last = begin // height, (end - 1) // height
    many = last - first + 1
    column = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)
    top = np.maximum(np.repeat(begin, many) - column * height, 0)
    bottom = np.minimum(np.repeat(end, many) - column * height, height)
    return column, top, bottom
