"""GeoJSON, read: QuPath's of any version, histill's own, TRIDENT's."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.formats.outlines import Outline, Outlines, check_size, listed, polygon, polygonal, too_large, unreadable

MOST_BYTES = 2 << 30
"""Of a file's text, unpacked."""

_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
# What QuPath 0.2 and 0.3 wrote as a feature's id.
_OLD_IDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
}
_SPACE = re.compile(r"[ \t\n\r]*")
# NaN among the measurements is QuPath's own; among coordinates it is found later.
_DECODER = json.JSONDecoder()


def read_geojson(path: Path) -> Outlines:
    """The outlines of a GeoJSON file, packed or not: QuPath's of any version, histill's, TRIDENT's.

    A collection, a bare list of features, a single feature, or a bare geometry. Features without an area (points,
    lines) are left out; polygons that cross themselves are repaired: both stand in the notes. TRIDENT's outlines
    (`tissue_id`) are of the class `tissue`. Of the JSON, one feature is held at a time.

    Raises:
        HistillError: input (4) with the feature's number: no JSON, no GeoJSON, a coordinate that is no number, no area;
            unsafe (5): a file of more than 2 GiB of text, or lists nested too deep.
    """
    text = _text(path)
    outlines: list[Outline] = []
    left_out: dict[str, list[int]] = defaultdict(list)
    mended: list[int] = []
    number = 0
    try:
        for number, feature in enumerate(_features(text), start=1):
            outline, why = _outline(feature, f"{path}, feature {number}")
            if outline is None:
                left_out[why].append(number)
                continue
            outlines.append(outline)
            if why:
                mended.append(number)
    except json.JSONDecodeError as error:
        subject = f"{path}, line {error.lineno}, feature {number + 1}"
        raise _fault(f"no valid JSON ({error.msg})", subject, "Export it again: it may be cut off") from None
    except RecursionError:
        subject = f"{path}, feature {number + 1}"
        mend = "Export it again, or take this feature out"
        raise HistillError("lists nested too deep", code=Exit.UNSAFE, subject=subject, mend=mend) from None
    notes = [f"{len(at)} {kind} left out, having no area: feature {listed(at)}" for kind, at in left_out.items()]
    if mended:
        notes.append(f"{len(mended)} polygons repaired that crossed themselves: feature {listed(mended)}")
    return Outlines(tuple(outlines), tuple(notes))


def _text(path: Path) -> str:
    check_size(path, MOST_BYTES)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            # A small packed file may hold very much: no more is unpacked than may be read.
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _fault(f"cannot be unpacked ({error})", str(path), "Export it again: it may be cut off") from None
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > MOST_BYTES:
        raise too_large(path, MOST_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fault(f"not UTF-8 (byte {error.start})", str(path), "Save it as UTF-8") from None


def _features(text: str) -> Iterator[Any]:
    """The features of a GeoJSON text, one after the other."""
    at = _skip(text, 0)
    if text.startswith("[", at):
        at = yield from _items(text, at)
    else:
        members: dict[Any, Any] = {}
        at = _after(text, at, "{")
        while not text.startswith("}", at):
            if members:
                at = _after(text, at, ",")
            key, at = _value(text, at)
            at = _after(text, at, ":")
            if key == "features" and text.startswith("[", at):
                members[key], at = None, (yield from _items(text, at))
            else:
                members[str(key)], at = _value(text, at)
        if "features" not in members:
            yield members
        at = _skip(text, at + 1)
    if at < len(text):
        raise json.JSONDecodeError("something after the end", text, at)


def _items(text: str, at: int) -> Generator[Any, None, int]:
    """The items of a list that begins here; returns where what follows it begins."""
    at = _after(text, at, "[")
    some = False
    while not text.startswith("]", at):
        if some:
            at = _after(text, at, ",")
        item, at = _value(text, at)
        some = True
        yield item
    return _skip(text, at + 1)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        value, at = _DECODER.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise json.JSONDecodeError("a number of too many digits", text, at) from None
    return value, _skip(text, at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _after(text: str, at: int, sign: str) -> int:
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"expecting '{sign}'", text, at)
    return _skip(text, at + 1)


def _outline(feature: Any, subject: str) -> tuple[Outline | None, str]:
    """The outline of a feature, and why it was repaired; or None, and of what kind it is that has no area."""
    if not isinstance(feature, dict):
        raise _fault("a feature is an object", subject)
    bare = feature.get("type") != "Feature"
    geometry = feature if bare else feature.get("geometry")
    properties = {} if bare else feature.get("properties") or {}
    if geometry is None:
        return None, "features without geometry"
    if not isinstance(properties, dict):
        raise _fault("its properties are no object", subject)
    area, why = _area(geometry, subject)
    if area is None:
        return None, why
    kind = properties.get("objectType") or properties.get("object_type") or _OLD_IDS.get(str(feature.get("id")))
    class_name, name = _class_name(properties.get("classification"), subject), properties.get("name")
    if class_name is None and "tissue_id" in properties:
        class_name, name = "tissue", name or f"tissue {properties['tissue_id']}"
    return Outline(area, class_name, str(kind or "annotation"), None if name is None else str(name)), why


def _area(geometry: Any, subject: str) -> tuple[Any, str]:
    """The area of a geometry, and why it was repaired; or None, and of what kind it is that has no area."""
    if not isinstance(geometry, dict):
        raise _fault("a geometry is an object", subject)
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind in _NO_AREA:
        return None, str(kind)
    if kind == "Polygon":
        return polygon(_rings(coordinates, subject), subject)
    if kind == "MultiPolygon" and isinstance(coordinates, list):
        found = [polygon(_rings(each, subject), subject) for each in coordinates]
    elif kind == "GeometryCollection" and isinstance(geometry.get("geometries"), list):
        found = [_area(each, subject) for each in geometry["geometries"]]
    else:
        raise _fault(f"no GeoJSON geometry: {str(kind)[:40]}", subject)
    areas = [area for area, _ in found if area is not None]
    if not areas:
        return None, f"{kind} without a polygon"
    joined = shapely.MultiPolygon([part for area in areas for part in shapely.get_parts(area)])
    why = "; ".join(why for area, why in found if area is not None and why)
    # Parts that overlap are one area.
    return (joined, why) if joined.is_valid else (polygonal(areas), why or "parts that overlap")


def _rings(coordinates: Any, subject: str) -> list[NDArray[np.float64]]:
    try:
        rings = [np.asarray(ring, np.float64) for ring in coordinates]
    except (TypeError, ValueError, OverflowError):
        raise _fault("coordinates that are no numbers", subject) from None
    if not all(ring.ndim == 2 and ring.shape[1] >= 2 for ring in rings):
        raise _fault("coordinates that are no list of rings of points", subject)
    return [ring[:, :2] for ring in rings]


def _class_name(classification: Any, subject: str) -> str | None:
    """The name of a class; a class below another one is called `Tumor: Positive`."""
    if isinstance(classification, dict):
        names = classification.get("names")
        if not isinstance(names, list):
            above = _class_name(classification.get("parentClass"), subject)
            names = [name for name in (above, classification.get("name")) if name]
        return ": ".join(map(str, names)) or None
    if classification is None or isinstance(classification, str):
        return classification or None
    raise _fault("its classification is no class", subject)


def _fault(what: str, subject: str, mend: str = "Export it again, or take this feature out") -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject=subject, mend=mend)
