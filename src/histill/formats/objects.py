"""Boxes found on a slide as other tools read them: QuPath's detections, and a table of their places and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from histill.core.boxes import Boxes
from histill.core.cells import write_cells
from histill.core.labels import Classes
from histill.formats.features import Feature, write_features

COLUMNS = ("class", "score", "x0", "y0", "x1", "y1", "centre_x", "centre_y", "width_um", "height_um", "size_um")


def write_objects(path: Path, boxes: Boxes, classes: Classes, mpp: float, *, slide: str) -> int:
    """Write boxes as QuPath's detections, in their order; the same boxes give the same bytes.

    Args:
        path: of the file: ``.geojson`` or ``.geojson.gz``.
        boxes: found, in level-0 px; no two the same.
        classes: their names and colours.
        mpp: um per level-0 px.
        slide: its name, which makes ids differ between slides.

    Returns:
        How many there were.

    Raises:
        HistillError: storage (7) if it cannot be written.
    """
    return write_features(path, _features(boxes, classes, mpp), slide=slide)


def objects_table(boxes: Boxes, classes: Classes, mpp: float | None) -> bytes:
    """A CSV with a line for each box: class, score, corners and centre in px, and where `mpp` is known its size in um.

    The size is the mean of width and height.
    """
    rows = []
    for i, (x0, y0, x1, y1) in enumerate(boxes.corners.tolist()):
        width, height = x1 - x0, y1 - y0
        sides = ["", "", ""] if mpp is None else [f"{mpp * s:.2f}" for s in (width, height, (width + height) / 2)]
        places = [f"{place:.2f}" for place in (x0, y0, x1, y1, (x0 + x1) / 2, (y0 + y1) / 2)]
        rows.append([classes.names[int(boxes.classes[i])], _score(boxes, i), *places, *sides])
    return write_cells(COLUMNS, rows)


def _features(boxes: Boxes, classes: Classes, mpp: float) -> Iterator[Feature]:
    for i, (x0, y0, x1, y1) in enumerate(boxes.corners.astype(float).round(3).tolist()):
        index, (width, height) = int(boxes.classes[i]), ((x1 - x0) * mpp, (y1 - y0) * mpp)
        yield Feature(
            "Polygon",
            f"[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]".encode(),
            classes.names[index],
            classes.colours[index],
            None,
            "detection",
            measurements={
                "score": float(_score(boxes, i) or 0),
                "width um": round(width, 3),
                "height um": round(height, 3),
                "size um": round((width + height) / 2, 3),
            },
        )


def _score(boxes: Boxes, index: int) -> str:
    return "" if boxes.scores is None else f"{boxes.scores[index]:.4f}"
