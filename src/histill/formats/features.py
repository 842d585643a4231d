"""QuPath's GeoJSON, written as QuPath 0.4 and later has it: regions of a label map, and any outline.

One feature a line. Its id is a UUID made from the slide's name and what is drawn, so that the same map gives
the same bytes; all that QuPath needs stands in the properties. Geometry is in level-0 px, with holes: exteriors run
counter-clockwise and holes clockwise where y points up, as RFC 7946 asks (on the screen y points down, and it is the
other way round). There is no reference system: a slide is no place on the earth.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.polygon import orient

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame
from histill.core.labels import Classes, Colour
from histill.core.masks import LabelMap
from histill.core.storage import open_new
from histill.formats.outlines import Outline
from histill.formats.tracing import LabelPolygons, trace

DECIMALS = 3
"""Of a coordinate, in level-0 px."""

BLOCK = 1 << 16
"""Corners turned into text in one go."""

Texts = NDArray[np.bytes_]

NAMESPACE = uuid.UUID("6cf1d4c9-6b0a-5c0e-9a53-0f5f6a2f5d10")


@dataclass(frozen=True, slots=True)
class Feature:
    """One object on a slide, as QuPath shows it.

    Attributes:
        kind: Polygon or MultiPolygon.
        coordinates: its coordinates as GeoJSON has them: text, as there may be millions.
        class_name: of its class, or None.
        colour: of its class.
        name: shown beside it; None if it has none of its own.
        object_type: annotation or detection.
        locked: whether QuPath keeps it from being edited.
        measurements: numbers by name, with their units.
    """

    kind: str
    coordinates: bytes
    class_name: str | None
    colour: Colour
    name: str | None = None
    object_type: str = "annotation"
    locked: bool = False
    measurements: dict[str, float] = field(default_factory=dict)


def outline_feature(
    outline: Outline, colour: Colour, *, locked: bool = False, measurements: dict[str, float] | None = None
) -> Feature:
    """An outline as a feature; its corners are rounded to `DECIMALS`, and it stays valid.

    Raises:
        ValueError: nothing of it is left after rounding.
    """
    rounded = shapely.set_precision(outline.area, 10.0**-DECIMALS)
    parts = [orient(part) for part in shapely.get_parts(rounded) if part.area > 0]
    if not parts:
        raise ValueError("an outline too small to be written")
    texts = [
        "[" + ",".join(_ring_text(shapely.get_coordinates(ring)) for ring in (part.exterior, *part.interiors)) + "]"
        for part in parts
    ]
    kind, text = ("Polygon", texts[0]) if len(texts) == 1 else ("MultiPolygon", "[" + ",".join(texts) + "]")
    return Feature(
        kind,
        text.encode(),
        outline.class_name,
        colour,
        outline.name,
        outline.object_type,
        locked,
        {} if measurements is None else measurements,
    )


def label_map_features(
    bands: Iterable[LabelMap],
    classes: Classes,
    frame: Frame,
    *,
    left_out: Collection[str] = (),
    object_type: str = "annotation",
) -> Iterator[Feature]:
    """The regions of a label map as features with their areas, without ever holding the map.

    Each region is a polygon along the edges of its pixels: pixels of one class that hang together by their sides.
    Corners of the map's last row and column may lie up to one map px beyond the slide.

    Args:
        bands: uint8 [rows, w] each, from top to bottom; together the label map of the frame, `IGNORE` where there is
            nothing.
        classes: their names and colours.
        frame: where the map lies on the slide.
        left_out: names of classes that become no features.
        object_type: annotation or detection.

    Yields:
        Features with the measurements `area um2`, `area mm2` and `area px` (of the map).

    Raises:
        HistillError: input (4) if a label is none of the classes.
        ValueError: the map is not of the frame's shape, or its pixels are too small for `DECIMALS`.
    """
    if frame.scale < 2 * 10.0**-DECIMALS:
        raise ValueError(f"a map px of {frame.scale} level-0 px: its corners would fall together")
    height, width = frame.shape
    columns, rows = _texts(width, frame.scale, "[{},"), _texts(height, frame.scale, "{}],")
    um2 = frame.mpp * frame.mpp
    for polygons in trace(_of_shape(bands, height, width), [classes.index(name) for name in left_out]):
        unknown = polygons.labels[polygons.labels >= len(classes)]
        if len(unknown):
            raise HistillError(
                f"label {unknown[0]} is none of the {len(classes)} classes",
                code=Exit.INPUT,
                subject="label map",
                mend="Make it anew with the model that goes with these classes",
            )
        texts = _coordinates(polygons, columns, rows)
        for label, px, text in zip(polygons.labels.tolist(), polygons.areas.tolist(), texts, strict=True):
            area = {"area um2": round(px * um2, 3), "area mm2": round(px * um2 * 1e-6, 9), "area px": px}
            name = classes.names[label]
            yield Feature("Polygon", text, name, classes.colours[label], name, object_type, False, area)


def write_features(path: Path, features: Iterable[Feature], *, slide: str) -> int:
    """Write features one after the other, packed if the name ends with .gz; the same features give the same bytes.

    Args:
        path: of the file: ``.geojson`` or ``.geojson.gz``.
        features: in the order in which QuPath will draw them. No two may be the same.
        slide: its name, which makes ids differ between slides.

    Returns:
        How many there were.

    Raises:
        HistillError: storage (7) if it cannot be written.
    """
    count = 0
    with open_new(path) as file, _packed(file, path) as out:
        out.write(b'{"type":"FeatureCollection","features":[')
        for feature in features:
            out.write(b",\n" if count else b"\n")
            out.write(_feature_text(feature, slide))
            count += 1
        out.write(b"\n]}\n")
    return count


@contextlib.contextmanager
def _packed(file: IO[bytes], path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    if path.name.lower().endswith(".gz"):
        # Neither a name nor a time in its head: the same text gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            yield packed
    else:
        yield file


def _feature_text(feature: Feature, slide: str) -> bytes:
    head = _properties(feature.class_name, feature.colour, feature.name, feature.object_type, feature.locked)
    identity = f"{slide}\n{head}\n{feature.kind}\n".encode(errors="backslashreplace") + feature.coordinates
    digest = hashlib.sha1(NAMESPACE.bytes + identity, usedforsecurity=False).digest()
    return (
        b'{"type":"Feature","id":"%s","geometry":{"type":"%s","coordinates":%s},"properties":%s"measurements":%s}}'
        % (
            str(uuid.UUID(bytes=digest[:16], version=5)).encode(),
            feature.kind.encode(),
            feature.coordinates,
            head.encode(),
            _json(feature.measurements).encode(),
        )
    )


@lru_cache(maxsize=1024)
def _properties(class_name: str | None, colour: Colour, name: str | None, object_type: str, locked: bool) -> str:
    """The properties up to the measurements. What is None is left out: QuPath takes no null for a name."""
    properties: dict[str, object] = {"objectType": object_type}
    if name is not None:
        properties["name"] = name
    if class_name is not None:
        properties["classification"] = {"name": class_name, "color": list(colour)}
    return _json(properties | {"isLocked": locked}).removesuffix("}") + ","


_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _number(value: float) -> str:
    return f"{value:.{DECIMALS}f}".rstrip("0").removesuffix(".")


def _ring_text(points: NDArray[np.float64]) -> str:
    return "[" + ",".join(f"[{_number(x)},{_number(y)}]" for x, y in points.tolist()) + "]"


def _texts(side: int, scale: float, form: str) -> Texts:
    """What is written for each map px from 0 to side."""
    return np.array([form.format(_number(px * scale)) for px in range(side + 1)], np.bytes_)


def _coordinates(polygons: LabelPolygons, columns: Texts, rows: Texts) -> Iterator[bytes]:
    """The coordinates of each polygon as GeoJSON, made a block of polygons at a time."""
    first = polygons.first_point[polygons.first_ring]
    start = 0
    while start < len(polygons):
        stop = max(start + 1, int(np.searchsorted(first, first[start] + BLOCK, side="right")) - 1)
        ring = polygons.first_ring[start : stop + 1]
        texts = _ring_texts(polygons.points, polygons.first_point[ring[0] : ring[-1] + 1], columns, rows)
        for i, j in pairwise((ring - ring[0]).tolist()):
            yield b"[[" + b"],[".join(texts[i:j]) + b"]]"
        start = stop


def _ring_texts(points: NDArray[np.int32], first: NDArray[np.int64], columns: Texts, rows: Texts) -> list[bytes]:
    """The points of each ring, the first of them once more at its end, as ``[x,y],[x,y]``."""
    bounds = first - first[0] + np.arange(len(first))
    index = np.arange(bounds[-1]) + first[0] - np.repeat(np.arange(len(first) - 1), np.diff(bounds))
    index[bounds[1:] - 1] = first[:-1]
    x, y = points.take(index, axis=0).T
    pieces = []
    for at in range(0, len(x), BLOCK):
        pair = np.empty(min(BLOCK, len(x) - at), [("x", columns.dtype), ("y", rows.dtype)])
        pair["x"], pair["y"] = columns.take(x[at : at + BLOCK]), rows.take(y[at : at + BLOCK])
        # The shorter texts are filled up with zero bytes.
        pieces.append(pair.tobytes().translate(None, b"\0"))
    text = b"".join(pieces)
    lengths = np.strings.str_len(columns).take(x) + np.strings.str_len(rows).take(y)
    ends = np.cumsum(np.add.reduceat(lengths, bounds[:-1])).tolist()
    return [text[i : j - 1] for i, j in pairwise([0, *ends])]


def _of_shape(bands: Iterable[LabelMap], height: int, width: int) -> Iterator[LabelMap]:
    rows = 0
    for band in bands:
        rows += len(band)
        if band.shape[1:] != (width,) or rows > height:
            break
        yield band
    else:
        if rows == height:
            return
    raise ValueError(f"the map is not of the frame's shape {height} x {width}")
