"""Images with boxes, whatever file told of them: one report of all that is wrong, and the files that a table names.

Rules: a box that reaches beyond its image is cut off there, and counted in a note; one that lies wholly outside, has no
area, or is not four finite numbers is a fault. An image of which no box is told holds none: its file is an empty list.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histill.core.boxes import Boxes, boxes_json
from histill.core.card import DatasetCard
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import Sample, plausible_mpp
from histill.core.storage import safe_name, write_bytes
from histill.data.images import image_size
from histill.data.sources.published import Imported
from histill.data.sources.stems import SPLIT_FOLDERS, Faults, official_if_shared

IGNORE = "ignore"
Corners = tuple[float, float, float, float]


@dataclass
class BoxedImage:
    """An image and what is told of it.

    Attributes:
        path: the image's file.
        size: width and height in pixels.
        patient: whom it comes from; empty: nobody says.
        split: train, val, test, or empty.
        mpp: um/px, or None.
        found: category and x0, y0, x1, y1 of each object.
    """

    path: Path
    size: tuple[int, int]
    patient: str = ""
    split: str = ""
    mpp: float | None = None
    found: list[tuple[str, Corners]] = field(default_factory=list)


class BoxedImages:
    """Collects images and boxes, and what is wrong with them; `close` makes a table of it.

    Args:
        folder: the data set's; nothing is written into it.
        to: the table to come; the boxes' files lie beside it in a folder of its name.
        classes: the classes in label order; left out, the categories in the order in which they are told.
        rename: a category -> the class that it stands for, or ``ignore``.
        split: of images for which nothing says it.
        mpp: um/px of images for which nothing says it.

    Raises:
        HistillError: usage (2) if mpp is not plausible, or the boxes' files would lie in the folder.
    """

    def __init__(
        self,
        folder: Path,
        to: Path,
        *,
        classes: Sequence[str] = (),
        rename: Mapping[str, str] | None = None,
        split: str = "",
        mpp: float | None = None,
    ) -> None:
        if mpp is not None and not plausible_mpp(mpp):
            raise HistillError(f"{mpp} um/px is not plausible", code=Exit.USAGE, subject="mpp", mend="Give um/px")
        self.folder, self.place = folder, to.with_suffix("") / "boxes"
        if self.place.resolve().is_relative_to(folder.resolve()):
            raise HistillError(
                f"files of boxes would go into the folder that is read, {folder}",
                code=Exit.USAGE,
                subject=str(to),
                mend="Choose another --to",
            )
        self.faults = Faults(folder)
        self.images: dict[Path, BoxedImage] = {}
        self._given, self._known = tuple(classes), list(classes)
        self._rename = {old.lower(): new for old, new in (rename or {}).items()}
        self._split, self._mpp = split, mpp
        self._cut, self._ignored = 0, 0

    def know(self, categories: Iterable[str]) -> None:
        """Tell of categories, in the order that classes are to have where none is given."""
        for category in categories:
            name = self._class(category)
            if name != IGNORE and name not in self._known and not self._given:
                self._known.append(name)

    def image(
        self,
        path: Path,
        told_by: Path,
        where: str,
        *,
        size: tuple[int, int] | None = None,
        stated: tuple[Any, Any] | None = None,
        patient: str = "",
        split: str = "",
        mpp: float | None = None,
    ) -> BoxedImage | None:
        """Take an image in; None, and a fault, if it is not there, cannot be read, or stands twice.

        Args:
            path: its file.
            told_by: the file that tells of it.
            where: in that file.
            size: its width and height, where they are known for sure; left out, its header is read.
            stated: what the file that tells of it says they are; None, where it does not.
            patient: whom it comes from.
            split: its split.
            mpp: its um/px.
        """
        if path in self.images:
            self.faults.add(told_by, f"{where}: {path.name} is told of twice", "Keep one of them")
            return None
        if size is None:
            try:
                height, width = image_size(path)
            except HistillError as error:
                self.faults.add(told_by, f"{where}: {path}: {error.what}", error.mend)
                return None
            size = width, height
        if stated is not None and None not in stated and stated != size:
            told = f"is {size[0]} x {size[1]} px, not {stated[0]} x {stated[1]}"
            self.faults.add(told_by, f"{where}: {path.name} {told}", "Get the images that were drawn on")
            return None
        if mpp is not None and not plausible_mpp(mpp):
            self.faults.add(told_by, f"{where}: {mpp} um/px is not plausible", "Correct it")
        taken = BoxedImage(path, size, patient, split or self._split, self._mpp if mpp is None else mpp)
        self.images[path] = taken
        return taken

    def box(self, image: BoxedImage, category: str, corners: Sequence[Any], told_by: Path, where: str) -> None:
        """Take a box in: x0, y0, x1, y1 in the image's pixels."""
        name = self._class(category)
        if name == IGNORE:
            self._ignored += 1
            return
        if name not in self._known:
            known = ", ".join(self._known) or "none"
            mend = "Name all classes in --classes, or say with --rename what a category stands for (or ignore)"
            self.faults.add(told_by, f"{where}: the category '{category}' is not known (known: {known})", mend)
            return
        if len(corners) != 4 or not all(is_finite(part) for part in corners):
            self.faults.add(told_by, f"{where}: {list(corners)} is not a box of four finite numbers", "Correct it")
            return
        x0, y0, x1, y1 = (float(part) for part in corners)
        if x0 >= x1 or y0 >= y1:
            self.faults.add(told_by, f"{where}: the box {[x0, y0, x1, y1]} has no area", "Correct it or take it out")
            return
        width, height = image.size
        cut = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        # A sliver thinner than a hundredth of a pixel is rounding, and nothing to be seen.
        if cut[2] - cut[0] < 0.01 or cut[3] - cut[1] < 0.01:
            what = f"{where}: the box {[x0, y0, x1, y1]} lies outside the image of {width} x {height} px"
            self.faults.add(told_by, what, "Correct it or take it out")
            return
        self._cut += any(abs(one - other) > 0.01 for one, other in zip(cut, (x0, y0, x1, y1), strict=True))
        image.found.append((name, cut))

    def close(self, *, source: str, licence: str = "", notes: Sequence[str] = ()) -> Imported:
        """Write the files of boxes, and give the rows that name them.

        Raises:
            HistillError: usage (2) with every fault; storage (7).
        """
        self.faults.close()
        if not self.images:
            raise HistillError("there is no image here", code=Exit.INPUT, subject=str(self.folder))
        if not self._known:
            raise HistillError(
                "nothing names a class", code=Exit.USAGE, subject=str(self.folder), mend="Name it with --classes"
            )
        card = resolve(DatasetCard, ("classes", {"classes": self._known, "source": source, "licence": licence}))
        samples = tuple(self._row(image, name, card) for image, name in self._named())
        counts = Counter(name for image in self.images.values() for name, _ in image.found)
        total = ", ".join(f"{counts[name]:,} {name}" for name in self._known)
        said = [f"Boxes: {total}; {sum(not each.found for each in self.images.values()):,} images hold none"]
        if self._cut:
            said.append(f"{self._cut:,} boxes reached beyond their images and were cut off there")
        if self._ignored:
            said.append(f"{self._ignored:,} boxes were left out, as --rename says")
        alone = sum(not image.patient for image in self.images.values())
        if alone:
            said.append(f"Nothing says whose {alone:,} of the images are: each counts as a patient of its own")
        return Imported(samples, official_if_shared(card, samples), (*said, *notes))

    def _row(self, image: BoxedImage, name: str, card: DatasetCard) -> Sample:
        classes: Classes = card.as_classes()
        boxes = Boxes.of([corners for _, corners in image.found], [classes.index(each) for each, _ in image.found])
        path = self.place / f"{safe_name(name)}.json"
        write_bytes(path, boxes_json(boxes, classes))
        present = {each for each, _ in image.found}
        return Sample(
            id=name,
            path=image.path,
            labels=tuple(each for each in classes.names if each in present),
            patient=image.patient or name,
            split=image.split,
            boxes=path,
            mpp=image.mpp,
        )

    def _named(self) -> list[tuple[BoxedImage, str]]:
        """Images with their ids: the stem, or the path where a stem stands twice in whatever case."""
        often = Counter(path.stem.lower() for path in self.images)
        named = []
        for path, image in self.images.items():
            inside = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
            whole = often[path.stem.lower()] > 1
            named.append((image, inside.as_posix() if whole else path.stem))
        return named

    def _class(self, category: str) -> str:
        return self._rename.get(category.lower(), category)


def is_finite(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def around(points: Sequence[Any]) -> list[float]:
    """The corners x0, y0, x1, y1 around points x, y; none of what are not at least two points of finite numbers."""
    sound = len(points) > 1 and all(
        isinstance(each, list | tuple) and len(each) == 2 and is_finite(each[0]) and is_finite(each[1])
        for each in points
    )
    if not sound:
        return []
    return [
        *(min(each[axis] for each in points) for axis in (0, 1)),
        *(max(p[axis] for p in points) for axis in (0, 1)),
    ]


def split_in(parts: Iterable[str]) -> str:
    """The split that one of the names of folders says, or none."""
    of = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    return next((of[part.lower()] for part in parts if part.lower() in of), "")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        HistillError: input (4) if it is not there or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        what, mend = f"cannot be read: {error.strerror}", "Check the path"
    except (ValueError, RecursionError) as error:
        what, mend = f"not valid JSON: {error}", "Export it again"
    raise HistillError(what, code=Exit.INPUT, subject=str(path), mend=mend)
