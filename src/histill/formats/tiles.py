"""Tiles of a slide as rectangles for QuPath: what was kept of them, their clusters, how much each was looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.bags import Corners
from histill.core.errors import Exit, HistillError
from histill.core.labels import PALETTE, Colour
from histill.formats.features import Feature, write_features

AT_ONCE = 4096
"""Tiles whose numbers are turned into text in one go."""

Measurements = Mapping[str, NDArray[np.integer[Any] | np.floating[Any]]]

_NO_CLASS: Colour = (128, 128, 128)


def write_tiles(
    path: Path,
    coords: Corners,
    side: int,
    measurements: Measurements,
    class_names: Sequence[str | None] | None,
    slide: str,
    colours: Mapping[str, Colour] | None = None,
) -> int:
    """Write tiles as detections, in their order; packed if the name ends with .gz. The same tiles give the same bytes.

    Args:
        path: of the file: ``.geojson`` or ``.geojson.gz``.
        coords: int64 [n, 2], top-left corner of each tile in level-0 px; tiles may overlap, or lie at one place.
        side: of a tile in level-0 px.
        measurements: numbers by name, int or float [n] each, such as attention, cluster and index.
        class_names: of each tile, or None for one without a class; None if no tile has one.
        slide: its name, which makes ids differ between slides.
        colours: of classes by name; the others have the house's, in the order in which they appear.

    Returns:
        How many there were.

    Raises:
        HistillError: numbers (6) if a measurement is not finite; storage (7) if it cannot be written.
        ValueError: there are not as many measurements or classes as tiles.
    """
    for name, values in measurements.items():
        if values.shape != (len(coords),):
            raise ValueError(f"measurement '{name}' {values.shape} for {len(coords)} tiles")
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            what = f"measurement '{name}' of tile {place} is {values[place]}"
            raise HistillError(what, code=Exit.NUMBERS, subject=slide, mend="Measure it again")
    if class_names is not None and len(class_names) != len(coords):
        raise ValueError(f"{len(class_names)} classes for {len(coords)} tiles")
    found = dict.fromkeys(name for name in class_names or () if name is not None)
    drawn = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(found)} | dict(colours or {})
    return write_features(path, _features(coords, side, measurements, class_names, drawn), slide=slide)


def _features(
    coords: Corners,
    side: int,
    measurements: Measurements,
    class_names: Sequence[str | None] | None,
    colours: Mapping[str, Colour],
) -> Iterator[Feature]:
    # An id is made from place and class: a tile where there is one already has a name too.
    again = np.ones(len(coords), bool)
    again[np.unique(coords @ np.array([1 << 32, 1]), return_index=True)[1]] = False
    for start in range(0, len(coords), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        corners = np.concatenate([coords[rows], coords[rows] + side], axis=1).tolist()
        columns = [_short(values[rows]) for values in measurements.values()]
        numbers = zip(*columns, strict=True) if columns else repeat(())
        for index, (left, top, right, bottom), row in zip(count(start), corners, numbers, strict=False):
            name = class_names[index] if class_names is not None else None
            yield Feature(
                "Polygon",
                b"[[[%d,%d],[%d,%d],[%d,%d],[%d,%d],[%d,%d]]]"
                % (left, top, right, top, right, bottom, left, bottom, left, top),
                name,
                _NO_CLASS if name is None else colours[name],
                f"tile {index}" if again[index] else None,
                "detection",
                measurements=dict(zip(measurements, row, strict=True)),
            )


def _short(values: NDArray[np.integer[Any] | np.floating[Any]]) -> list[float]:
    """The numbers as Python has them; of a float32, the shortest decimal that is it: 0.1, not 0.10000000149011612."""
    if values.dtype.kind == "f" and values.itemsize < 8:
        values = values.astype(np.str_).astype(np.float64)
    numbers: list[float] = values.tolist()
    return numbers
