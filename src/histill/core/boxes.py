"""Boxes of objects in an image, and the small JSON file that a table's `boxes` column names.

A file is a list with an entry for each object, ``{"class": "glomerulus", "box": [x0, y0, x1, y1]}``; an empty list says
that the image holds none. Found boxes have a ``score`` of 0 to 1 as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.manifest import table_error
from histill.core.storage import write_bytes


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes along the edges of an image's pixels: the box of pixel (x, y) alone is (x, y, x + 1, y + 1).

    Attributes:
        corners: float32 [n, 4]: x0, y0, x1, y1 with x0 < x1 and y0 < y1; may reach beyond the image.
        classes: int64 [n], indices of classes.
        scores: float32 [n], 0 to 1, of boxes that were found; None of true ones.

    Raises:
        HistillError: input (4) if shapes differ, a number is not finite, a box has no area, or a score is not 0 to 1.
    """

    corners: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.classes)
        shapes = [self.corners.shape == (count, 4), self.classes.shape == (count,)]
        shapes.append(self.scores is None or self.scores.shape == (count,))
        if not all(shapes):
            scored = "" if self.scores is None else f", {self.scores.shape} scores"
            raise _error(f"{self.corners.shape} corners, {self.classes.shape} classes{scored}; expected n x 4, n and n")
        types = [self.corners.dtype == np.float32, self.classes.dtype == np.int64]
        if not all(types) or (self.scores is not None and self.scores.dtype != np.float32):
            raise _error("boxes are float32 corners, int64 classes and float32 scores")
        x0, y0, x1, y1 = self.corners.T
        bad = ~np.isfinite(self.corners).all(axis=1) | (x0 >= x1) | (y0 >= y1) | (self.classes < 0)
        if self.scores is not None:
            bad |= ~((self.scores >= 0) & (self.scores <= 1))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise _error(f"box {first + 1} of {count} has no area, or a number that cannot be: {self.corners[first]}")

    def __len__(self) -> int:
        return len(self.classes)

    @staticmethod
    def of(corners: Sequence[Sequence[float]], classes: Sequence[int], scores: Sequence[float] | None = None) -> Boxes:
        """Boxes of plain numbers; no boxes at all of empty lists."""
        return Boxes(
            np.asarray(corners, np.float32).reshape(-1, 4),
            np.asarray(classes, np.int64),
            None if scores is None else np.asarray(scores, np.float32),
        )

    @property
    def areas(self) -> NDArray[np.float32]:
        """Area of each box in square pixels, float32 [n]."""
        x0, y0, x1, y1 = self.corners.T
        areas: NDArray[np.float32] = (x1 - x0) * (y1 - y0)
        return areas

    def scaled(self, factor: float) -> Boxes:
        """The boxes of the same image when its sides are `factor` times as long."""
        return replace(self, corners=(self.corners * np.float32(factor)))

    def shifted(self, dx: float, dy: float) -> Boxes:
        """The boxes moved to the right and down."""
        return replace(self, corners=self.corners + np.asarray([dx, dy, dx, dy], np.float32))

    def clipped(self, width: float, height: float, least_visible: float = 0.5) -> Boxes:
        """The boxes cut off at the edges of an image.

        Args:
            width: of the image.
            height: of the image.
            least_visible: boxes of which less than this share of the area lies inside are dropped; with 0, those of
                which nothing does.
        """
        high = np.asarray([width, height, width, height], np.float32)
        corners = np.clip(self.corners, np.float32(0), high)  # [n, 4]
        x0, y0, x1, y1 = corners.T
        inside = (x1 - x0) * (y1 - y0)
        keep = (x1 > x0) & (y1 > y0) & (inside >= np.float32(least_visible) * self.areas)
        kept = self.take(keep)
        return replace(kept, corners=corners[keep])

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_] | Sequence[int]) -> Boxes:
        """Some of the boxes, by their numbers in the wanted order or by a mask."""
        chosen = np.asarray(index)
        chosen = chosen if chosen.dtype == bool else chosen.astype(np.int64)
        scores = None if self.scores is None else self.scores[chosen]
        return Boxes(self.corners[chosen], self.classes[chosen], scores)


def read_boxes(path: Path, classes: Classes, size: tuple[int, int] | None = None) -> Boxes:
    """Read a file of boxes.

    Args:
        path: the JSON.
        classes: the known classes.
        size: width and height of the image; where given, boxes must lie inside.

    Raises:
        HistillError: usage (2) with every fault and its entry; input (4) if the file is not there or not such a JSON.
    """
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise _error(f"cannot be read: {error.strerror}", path, "Check the path") from error
    except (ValueError, RecursionError) as error:
        raise _error(f"not valid JSON: {error}", path) from error
    if not isinstance(entries, list):
        raise _error("a file of boxes is a list of entries", path, "Write [] for an image that holds none")
    faults: list[str] = []
    for number, entry in enumerate(entries, 1):
        faults += [f"entry {number}: {fault}" for fault in _faults(entry, classes, size)]
    scored = sum("score" in entry for entry in entries if isinstance(entry, dict))
    if scored not in (0, len(entries)):
        faults.append(f"{scored} of {len(entries)} entries have a score; give one to all or to none")
    if faults:
        raise table_error(path, faults, "Correct these entries")
    return Boxes.of(
        [entry["box"] for entry in entries],
        [classes.index(entry["class"]) for entry in entries],
        [entry["score"] for entry in entries] if scored else None,
    )


def boxes_json(boxes: Boxes, classes: Classes) -> bytes:
    """The bytes of a file of boxes, one line for each; `read_boxes` gives the same boxes back."""
    lines = []
    for i, (corners, index) in enumerate(zip(boxes.corners, boxes.classes.tolist(), strict=True)):
        entry: dict[str, Any] = {"class": classes.names[index], "box": [_short(part) for part in corners]}
        if boxes.scores is not None:
            entry["score"] = _short(boxes.scores[i])
        lines.append(json.dumps(entry, ensure_ascii=False))
    return ("[\n  " + ",\n  ".join(lines) + "\n]\n" if lines else "[]\n").encode()


def write_boxes(path: Path, boxes: Boxes, classes: Classes) -> None:
    """Write a file of boxes.

    Raises:
        HistillError: storage (7) as `core.storage.write_bytes`.
    """
    write_bytes(path, boxes_json(boxes, classes))


def _faults(entry: Any, classes: Classes, size: tuple[int, int] | None) -> list[str]:
    """What is wrong with an entry."""
    if not isinstance(entry, dict) or not {"class", "box"} <= set(entry) <= {"class", "box", "score"}:
        return ['an entry is {"class": NAME, "box": [x0, y0, x1, y1]}, with a "score" at most beside it']
    faults = []
    if entry["class"] not in classes.names:
        faults.append(f"the class '{entry['class']}' is not one of {', '.join(classes.names)}")
    box, score = entry["box"], entry.get("score", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(part) for part in box):
        return [*faults, f"the box {box} is not four finite numbers"]
    # Sides are compared as they will be kept, in single precision.
    x0, y0, x1, y1 = (np.float32(part) for part in box)
    if not (x0 < x1 and y0 < y1):
        faults.append(f"the box {box} has no area; the corners are left, top, right, bottom")
    elif size is not None and (x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]):
        faults.append(f"the box {box} reaches beyond the image of {size[0]} x {size[1]} px")
    if not (_is_number(score) and 0 <= score <= 1):
        faults.append(f"the score {score} is not a number from 0 to 1")
    return faults


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9


def _short(value: np.float32) -> float:
    """The shortest number that is the same in single precision."""
    return float(str(value))


def _error(what: str, path: Path | None = None, mend: str = "") -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject="boxes" if path is None else str(path), mend=mend)
