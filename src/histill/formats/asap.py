"""ASAP XML, read: the outlines of Camelyon16, Camelyon17 and whatever else was drawn with ASAP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

import numpy as np
import shapely
from shapely import STRtree

from histill.core.errors import Exit, HistillError
from histill.formats.outlines import Area, Outline, Outlines, check_size, listed, polygon, polygonal, unreadable

MOST_BYTES = 512 << 20

TUMOUR = "Tumor"
TUMOUR_GROUPS = (TUMOUR, "_0", "_1")
"""Camelyon16's names for tumour: outlined in full, and in part."""
HOLE_GROUPS = ("_2", "Exclusion")
"""Camelyon16's names for what inside an outline is not of it."""

_NO_AREA = ("Dot", "PointSet", "Measurement")
_MEND = "Mend it in ASAP, or take this annotation out of the file"


@dataclass
class _Annotation:
    name: str
    kind: str
    group: str
    points: list[tuple[float, float]] = field(default_factory=list)


def read_asap(path: Path) -> Outlines:
    """The outlines of an ASAP file, in level-0 px.

    Groups `Tumor`, `_0` and `_1` are of class `Tumor`; `_2` and `Exclusion` are cut from all others; any other group is
    a class of its own, and `None` is none. Splines and rectangles are taken by their points; dots, point sets and
    measurements have no area and are left out, which the notes say.

    Raises:
        HistillError: input (4) with the annotation's name or the line: no XML, not ASAP's, fewer than three points, a
            coordinate that is no number, no area; unsafe (5): more than 512 MiB, or a document type, which could hold
            entities that unfold without end.
    """
    check_size(path, MOST_BYTES)
    notes = []
    found = []
    mended = []
    annotations = _annotations(path)
    for annotation in annotations:
        if annotation.kind in _NO_AREA:
            continue
        area, why = polygon([np.array(annotation.points).reshape(-1, 2)], f"{path}, {annotation.name}")
        if why:
            mended.append(annotation.name)
        found.append((annotation, area))
    for kind in _NO_AREA:
        count = sum(annotation.kind == kind for annotation in annotations)
        if count:
            notes.append(f"{count} annotations of type {kind} left out, having no area")
    if mended:
        notes.append(f"{len(mended)} polygons repaired that crossed themselves: {listed(mended)}")

    holes = [area for annotation, area in found if annotation.group in HOLE_GROUPS]
    tree = STRtree(holes)
    outlines = []
    for annotation, area in found:
        if annotation.group in HOLE_GROUPS:
            continue
        rest = _without(area, [holes[i] for i in tree.query(area, predicate="intersects")])
        if rest.is_empty:
            notes.append(f"{annotation.name} left out, as it lies wholly in a hole")
            continue
        class_name = TUMOUR if annotation.group in TUMOUR_GROUPS else annotation.group
        outlines.append(Outline(rest, None if class_name in ("", "None") else class_name, name=annotation.name))
    return Outlines(tuple(outlines), tuple(notes))


def _without(area: Area, holes: list[Area]) -> Area:
    return polygonal(shapely.get_parts(shapely.difference(area, shapely.union_all(holes)))) if holes else area


def _annotations(path: Path) -> list[_Annotation]:
    found: list[_Annotation] = []
    parser = expat.ParserCreate()
    depth = 0

    def subject() -> str:
        return f"{path}, line {parser.CurrentLineNumber}"

    def refuse(*_: object) -> None:
        what = "a document type, which no ASAP file has"
        raise HistillError(what, code=Exit.UNSAFE, subject=subject(), mend="Export it from ASAP again")

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        if not depth and tag != "ASAP_Annotations":
            raise _fault(f"not ASAP's: it begins with <{tag}>", str(path), "Export it from ASAP")
        depth += 1
        if tag == "Annotation":
            name = attributes.get("Name", f"annotation {len(found) + 1}")
            found.append(_Annotation(name, attributes.get("Type", "Polygon"), attributes.get("PartOfGroup", "")))
        elif tag == "Coordinate":
            if not found:
                raise _fault("a coordinate outside of any annotation", subject())
            found[-1].points.append(_point(attributes, f"{subject()}, {found[-1].name}"))

    parser.StartElementHandler = begin
    # Entities are declared in a document type: without one there are none to unfold.
    parser.StartDoctypeDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        what = f"no valid XML ({expat.ErrorString(error.code)})"
        raise _fault(what, f"{path}, line {error.lineno}", "Export it again: it may be cut off") from None
    except OSError as error:
        raise unreadable(path, error) from error
    return found


def _point(attributes: dict[str, str], subject: str) -> tuple[float, float]:
    try:
        # Some versions write numbers as the computer's language has them.
        x, y = (float(attributes[axis].replace(",", ".")) for axis in ("X", "Y"))
    except (KeyError, ValueError):
        raise _fault("a coordinate that is no number", subject) from None
    return x, y


def _fault(what: str, subject: str, mend: str = _MEND) -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject=subject, mend=mend)
