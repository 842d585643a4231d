"""LabelMe JSON files: boxes around polygons, rectangles and circles; the image lies where the file says, or beside it.

Images without a JSON are not taken in: nobody has looked at them. A JSON without shapes says that there is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from histill.core.errors import Exit, HistillError
from histill.data.sources.boxed import BoxedImages, around, read_json, split_in
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet


def read(
    folder: Path,
    *,
    to: Path,
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    split: str = "",
    mpp: float | None = None,
    counters: Counters = quiet,
) -> Imported:
    """Read all JSON files below a folder; options as in `BoxedImages`. Folders train, val, test are splits.

    Raises:
        HistillError: usage (2) with every fault, its file and shape; input (4) if there is no such file; storage (7).
    """
    files = sorted(file for file in folder.rglob("[!.]*.json") if file.is_file())
    if not files:
        raise HistillError("there is no JSON here", code=Exit.INPUT, subject=str(folder), mend="Name the folder")
    found = BoxedImages(folder, to, classes=classes, rename=rename, split=split, mpp=mpp)
    values: dict[Path, dict[str, Any]] = {}
    for file in files:
        value = read_shapes(file, found)
        if value is not None:
            values[file] = value
    found.know(sorted({str(shape["label"]) for value in values.values() for shape in value["shapes"]}))
    count = counters("reading shapes")
    for done, (file, value) in enumerate(values.items(), 1):
        take(value, file, _image(file, value), found, split=split_in(file.relative_to(folder).parts[:-1]))
        count(done, len(values))
    return found.close(source="LabelMe")


def read_shapes(file: Path, found: BoxedImages) -> dict[str, Any] | None:
    """A LabelMe file that is sound as far as its shapes have a label and points; None, and a fault, if it is not."""
    try:
        value = read_json(file)
    except HistillError as error:
        found.faults.add_error(file, error)
        return None
    shapes = value.get("shapes") if isinstance(value, dict) else None
    if not isinstance(shapes, list):
        found.faults.add(file, "not a LabelMe file: it lacks a list of shapes", "Take it out of the folder")
        return None
    for i, shape in enumerate(shapes):
        known = isinstance(shape, dict) and isinstance(shape.get("label"), str)
        if not known or not isinstance(shape.get("points"), list):
            found.faults.add(file, f"shapes[{i}]: it lacks a label or points", "Export it again")
            return None
    return value if isinstance(value, dict) else None


def take(
    value: dict[str, Any], file: Path, image: Path, found: BoxedImages, *, patient: str = "", split: str = ""
) -> None:
    """Take in the image and the boxes of a file that `read_shapes` gave."""
    taken = found.image(
        image,
        file,
        "imagePath",
        stated=(value.get("imageWidth"), value.get("imageHeight")),
        patient=patient,
        split=split,
    )
    if taken is None:
        return
    for i, shape in enumerate(value["shapes"]):
        where, kind, points = f"shapes[{i}]", shape.get("shape_type") or "polygon", shape["points"]
        if kind not in ("polygon", "rectangle", "circle"):
            what = f"{where}: a {kind} has no box (polygon, rectangle and circle have)"
            found.faults.add(file, what, "Draw it anew, or take it out")
            continue
        corners = around(points)
        if kind == "circle" and corners:
            # The middle, and a point of the rim.
            (x, y), (u, v) = points[:2]
            radius = ((x - u) ** 2 + (y - v) ** 2) ** 0.5
            corners = [x - radius, y - radius, x + radius, y + radius]
        found.box(taken, shape["label"], corners, file, where)


def _image(file: Path, value: dict[str, Any]) -> Path:
    """The image as the file names it, be it in the manner of Windows; else the one beside it of that name."""
    name = PureWindowsPath(str(value.get("imagePath") or file.with_suffix(".png").name))
    told = file.parent.joinpath(*name.parts) if not name.is_absolute() else file.parent / name.name
    beside = file.parent / name.name
    return beside if not told.is_file() and beside.is_file() else told.resolve()
