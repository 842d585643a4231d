"""COCO JSON: boxes of one file, or of all in a folder; images beside it, or in its folder images.

A file whose name holds train, val or test is of that split. An annotation without ``bbox`` has the box of its polygons.
Annotations of crowds (``iscrowd`` 1) are no boxes and are left out. ``info.mpp`` is read, and of an image ``patient``,
``patient_id``, ``case`` or ``case_id``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from histill.core.errors import Exit, HistillError
from histill.data.sources.boxed import BoxedImage, BoxedImages, around, is_finite, read_json, split_in
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet

PATIENT = ("patient", "patient_id", "case", "case_id")
_WORDS = re.compile(r"[a-z]+")


def read(
    origin: Path,
    *,
    to: Path,
    classes: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    split: str = "",
    mpp: float | None = None,
    counters: Counters = quiet,
) -> Imported:
    """Read a COCO file, or those that a folder holds itself or in its folder annotations; options as in `BoxedImages`.

    Raises:
        HistillError: usage (2) with every fault, its file and entry; input (4) if there is no such file, or it is no
            COCO JSON; storage (7).
    """
    folder = origin if origin.is_dir() else origin.parent
    if folder.name == "annotations":
        folder = folder.parent
    files = [origin]
    if origin.is_dir():
        files = sorted([*origin.glob("[!.]*.json"), *origin.glob("annotations/[!.]*.json")])
    if not files:
        raise HistillError("there is no JSON here", code=Exit.INPUT, subject=str(origin), mend="Name the file")
    found = BoxedImages(folder, to, classes=classes, rename=rename, split=split, mpp=mpp)
    count = counters("reading annotations")
    crowds = 0
    for done, file in enumerate(files, 1):
        crowds += _read_file(file, folder, found)
        count(done, len(files))
    notes = [f"{crowds:,} annotations of crowds were left out"] if crowds else []
    return found.close(source=f"COCO: {', '.join(file.name for file in files)}", notes=notes)


def _read_file(file: Path, folder: Path, found: BoxedImages) -> int:
    """Take in a file's images and boxes; returns how many annotations are of crowds."""
    value = read_json(file)
    lists = ("images", "annotations", "categories")
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in lists):
        what = f"not a COCO file: it lacks a list {', '.join(lists)}"
        raise HistillError(what, code=Exit.INPUT, subject=str(file), mend="Name files of boxes alone")
    categories: dict[Any, str] = {}
    for i, category in enumerate(_entries(value["categories"], ("id", "name"), "categories", file, found)):
        name = str(category["name"])
        if categories.setdefault(category["id"], name) != name:
            found.faults.add(file, f"categories[{i}]: the id {category['id']} stands twice", "Give each its own")
    found.know(categories.values())
    info = value.get("info")
    mpp = info.get("mpp") if isinstance(info, dict) else None
    images: dict[Any, BoxedImage | None] = {}
    told = split_in(_WORDS.findall(file.stem.lower()))
    for i, entry in enumerate(_entries(value["images"], ("id", "file_name"), "images", file, found)):
        where = f"images[{i}]"
        if entry["id"] in images:
            found.faults.add(file, f"{where}: the id {entry['id']} stands twice", "Give each its own")
            continue
        patient = next((str(entry[name]) for name in PATIENT if entry.get(name)), "")
        images[entry["id"]] = found.image(
            _place(str(entry["file_name"]), file, folder),
            file,
            where,
            stated=(entry.get("width"), entry.get("height")),
            patient=patient,
            split=told,
            mpp=mpp if is_finite(mpp) else None,
        )
    crowds = 0
    for i, entry in enumerate(_entries(value["annotations"], ("image_id", "category_id"), "annotations", file, found)):
        where = f"annotations[{i}]"
        if entry["image_id"] not in images:
            found.faults.add(file, f"{where}: there is no image {entry['image_id']}", "Add it, or take this out")
        elif entry["category_id"] not in categories:
            what = f"{where}: there is no category {entry['category_id']}"
            found.faults.add(file, what, "Add it to categories, or take this out")
        elif entry.get("iscrowd") == 1:
            crowds += 1
        elif (image := images[entry["image_id"]]) is not None:
            found.box(image, categories[entry["category_id"]], _corners(entry), file, where)
    return crowds


def _entries(
    values: list[Any], needed: Sequence[str], name: str, file: Path, found: BoxedImages
) -> list[dict[str, Any]]:
    """The entries of a list; raises what is wrong so far if one of them lacks something."""
    sound = True
    for i, value in enumerate(values):
        lacking = [key for key in needed if not isinstance(value, dict) or not isinstance(value.get(key), str | int)]
        if lacking:
            found.faults.add(file, f"{name}[{i}]: it lacks {', '.join(lacking)}", "Export it again")
            sound = False
    if not sound:
        # What refers to these entries would be at fault as well.
        found.faults.close()
    return values


def _corners(entry: dict[str, Any]) -> list[Any]:
    box = entry.get("bbox")
    if box is None and isinstance(entry.get("segmentation"), list):
        flat = [each for each in entry["segmentation"] if isinstance(each, list)]
        return around([list(pair) for each in flat for pair in zip(each[::2], each[1::2], strict=False)])
    if not isinstance(box, list) or len(box) != 4 or not all(is_finite(part) for part in box):
        return box if isinstance(box, list) else [box]
    x, y, w, h = box
    return [x, y, x + w, y + h]


def _place(name: str, file: Path, folder: Path) -> Path:
    """Where an image lies: as the file says, seen from its own folder, from the data set's, or from images."""
    places = [file.parent / name, folder / name, folder / "images" / name]
    return next((place for place in places if place.is_file()), places[0])
