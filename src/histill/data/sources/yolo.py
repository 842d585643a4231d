"""YOLO: folders images and labels, a .txt for each image; also train/images and train/labels. Polygons get boxes.

Names of classes: ``names`` in data.yaml, or classes.txt, or --classes. An image without a .txt holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from histill.core.config import read_yaml
from histill.core.errors import Exit, HistillError
from histill.data.sources.boxed import BoxedImage, BoxedImages, around, split_in
from histill.data.sources.loose import SUFFIXES
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet

NAMES = "classes.txt"


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
    """Read a folder; options as in `BoxedImages`. Folders train, val (valid), test are splits.

    Raises:
        HistillError: usage (2) with every fault, its file and line; input (4) if there are no folders images and
            labels; storage (7).
    """
    places = [place for place in [folder / "images", *sorted(folder.glob("[!.]*/images"))] if place.is_dir()]
    places = [place for place in places if place.with_name("labels").is_dir()]
    if not places:
        raise HistillError(
            "there are no folders images and labels in it", code=Exit.INPUT, subject=str(folder), mend="Name theirs"
        )
    names = _names(folder) or list(classes)
    if not names:
        mend = "Name them with --classes, in the order of their numbers"
        raise HistillError("nothing names the classes", code=Exit.USAGE, subject=str(folder), mend=mend)
    found = BoxedImages(folder, to, classes=classes, rename=rename, split=split, mpp=mpp)
    found.know(names)
    count = counters("reading labels")
    for done, place in enumerate(places, 1):
        _read_place(place, folder, names, found)
        count(done, len(places))
    return found.close(source="YOLO")


def _read_place(place: Path, folder: Path, names: Sequence[str], found: BoxedImages) -> None:
    """Take in a folder of images and the folder of labels beside it."""
    labels = place.with_name("labels")
    told = {file.relative_to(labels).with_suffix(""): file for file in sorted(labels.rglob("[!.]*.txt"))}
    told = {stem: file for stem, file in told.items() if file.name != NAMES}
    for image in sorted(each for each in place.rglob("[!.]*") if each.suffix.lower() in SUFFIXES):
        file = told.pop(image.relative_to(place).with_suffix(""), None)
        by = image if file is None else file
        taken = found.image(image, by, "its image", split=split_in(image.relative_to(folder).parts[:-1]))
        if taken is not None and file is not None:
            _read_labels(file, taken, names, found)
    for file in told.values():
        found.faults.add(file, "no image has this name", "Add the image, or take this file out")


def _read_labels(file: Path, image: BoxedImage, names: Sequence[str], found: BoxedImages) -> None:
    width, height = image.size
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found.faults.add(file, f"cannot be read: {error}", "Export it again")
        return
    for line, text in enumerate(lines, 1):
        cells = text.split()
        if not cells:
            continue
        where = f"line {line}"
        try:
            index, numbers = int(cells[0]), [float(cell) for cell in cells[1:]]
        except ValueError:
            found.faults.add(file, f"{where}: '{text}' is not a class and numbers", "Export it again")
            continue
        if not 0 <= index < len(names):
            what = f"{where}: there is no class {index} (known: 0 to {len(names) - 1})"
            found.faults.add(file, what, "Name all classes in data.yaml or classes.txt")
        elif len(numbers) == 4:
            x, y, w, h = numbers
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            found.box(image, names[index], corners, file, where)
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:
            points = [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
            found.box(image, names[index], around(points), file, where)
        else:
            what = f"{where}: {len(numbers)} numbers behind the class; a box has 4, a polygon 6, 8, 10 ..."
            found.faults.add(file, what, "Export true boxes, without their scores")


def _names(folder: Path) -> list[str]:
    """The classes that data.yaml or classes.txt names, in the order of their numbers; none if there is no such file."""
    for path in (folder / "data.yaml", folder / "dataset.yaml"):
        if path.is_file():
            names = read_yaml(path).get("names")
            if isinstance(names, dict) and set(names) == set(range(len(names))):
                names = [names[number] for number in range(len(names))]
            if not isinstance(names, list) or not names:
                what = "names is neither a list nor numbers from 0 with a name each"
                raise HistillError(what, code=Exit.USAGE, subject=str(path), mend="Correct it")
            return [str(name) for name in names]
    for path in (folder / NAMES, folder / "labels" / NAMES):
        if path.is_file():
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return []
