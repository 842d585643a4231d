"""The command line on slides, and what is found in the folder that it leaves."""

import csv
from collections.abc import Callable
from pathlib import Path

from scanned import EVERYWHERE, Pixels
from small import tree

from histill.core.record import read_record
from histill.formats.maps import open_labels
from histill.slides.open import open_slide

Fails = Callable[..., str]
"""What the fixture of this name is."""

NAMES = ["s.tif", "a b.tif", "-d..ash.TIFF", "UPPER.TIF", "ü ß/切片.tif", "ü ß/s.tif"]
IDS = ["-d..ash", "UPPER", "a b", "s.tif", "ü ß/s.tif", "切片"]
"""of the files, in the order of their paths: two of one stem are told apart by their folders"""


def begin(model: Path, slides: Path, to: Path, *more: object) -> list[object]:
    """The command line that predicts slides."""
    return ["predict", model, slides, "--to", to, *EVERYWHERE, *more]


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """The table of predictions, by the slides' ids."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["id"].removeprefix("'"): row for row in csv.DictReader(file)}


def labels_of(path: Path) -> Pixels:
    """All of a label map."""
    with open_labels(path) as image:
        height, width = image.shape
        return image.read(0, 0, width, height)


def map_of(folder: Path, name: str = "s") -> Pixels:
    """All of a slide's label map."""
    return labels_of(folder / rows(folder)[name]["mask"])


def look(path: Path, mpp: float | None = None) -> Pixels:
    """All of a slide at level 0, read in this process."""
    with open_slide(path, mpp) as slide:
        return slide.thumbnail(max(slide.size))


def same_bytes(found: Path, clean: Path, ids: list[str]) -> bool:
    """Whether all files of some samples, the record apart, are those of another run."""
    ours, theirs = tree(found), tree(clean)
    for name in ids:
        record, other = (read_record(each / "records" / f"{name}.json") for each in (found, clean))
        assert record is not None
        assert other is not None
        if record.outputs != other.outputs or any(ours[file] != theirs[file] for file in other.outputs):
            return False
        if (record.status, record.details) != (other.status, other.details):
            return False
    return True
