"""GlaS as published: colon glands at 20x, image labels gland, stroma; true masks for all images.

``train_1.bmp``, ``train_1_anno.bmp``, ``testA_1.bmp``, ``testB_1.bmp``, ``Grade.csv``. Masks number the glands.
Rows are as those of `glas`: train rows are 112-pixel crops, test rows whole images, labels derived from the masks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.cells import read_cells
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.manifest import Sample
from histill.data.images import image_size
from histill.data.sources.glas import CARD, LEAST_SHARE, MPP, NOTES
from histill.data.sources.palettes import stored_values
from histill.data.sources.published import Imported, crop_id
from histill.data.sources.stems import Counters, Faults, images_in, official_if_shared, quiet

CROP = 112
"""Side of a train crop in px; they lie side by side, and what is left at the right and lower edges is not used."""

PUBLISHED = {"train": 85, "testA": 60, "testB": 20}
GRADES = "Grade.csv"
AGAIN = "Get the data set again"

_NAME = re.compile(r"(train|testA|testB)_[0-9]+(_anno)?")


@dataclass(frozen=True)
class _Image:
    name: str
    path: Path
    mask: Path
    patient: str
    glands: NDArray[np.bool_]
    """[h, w]"""


def read(folder: Path, *, counters: Counters = quiet) -> Imported:
    """Read the data set's folder; images may lie in folders of their splits.

    Args:
        folder: holds images, masks and ``Grade.csv``.
        counters: shows how far a step has come.

    Raises:
        HistillError: usage (2) with every fault and its file; input (4) if there is no image or no ``Grade.csv``.
    """
    faults = Faults(folder)
    images, masks = _files(folder, faults)
    patients = _patients(folder, faults)
    for name in sorted(images.keys() - masks.keys()):
        faults.add(images[name], f"has no mask {name}_anno", AGAIN)
    for name in sorted(masks.keys() - images.keys()):
        faults.add(masks[name], "has no image", AGAIN)
    for name in sorted(images.keys() - patients.keys()):
        faults.add(images[name], f"is in no row of {GRADES}", AGAIN)
    for name in sorted(patients.keys() - images.keys()):
        faults.add(folder / GRADES, f"names {name}, and there is no such image", AGAIN)
    found: list[_Image] = []
    values: set[int] = set()
    count = counters("reading masks")
    whole = sorted(images.keys() & masks.keys() & patients.keys(), key=lambda name: (not _is_train(name), name))
    for done, name in enumerate(whole, 1):
        try:
            stored = _numbers(images[name], masks[name])
        except HistillError as error:
            faults.add_error(Path(error.subject), error)
        else:
            values |= set(np.unique(stored).tolist())
            found.append(_Image(name, images[name], masks[name], patients[name], stored > 0))
        count(done, len(whole))
    faults.close()
    samples = [sample for image in found for sample in _samples(image)]
    numbers = {str(value): "gland" for value in sorted(values - {0})}
    card = CARD.model_copy(update={"mask_values": {"0": "stroma", **numbers}, "split_source": "patient"})
    notes = [NOTES[0]]
    for part, published in PUBLISHED.items():
        held = sum(image.name.startswith(f"{part}_") for image in found)
        if held != published:
            notes.append(f"This copy holds {held} images of {part}; published are {published}")
    return Imported(tuple(samples), official_if_shared(card, samples), tuple(notes))


def _files(folder: Path, faults: Faults) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks by the images' names."""
    found: dict[str, Path] = {}
    for place in (folder, *(each for each in sorted(folder.glob("[!.]*")) if each.is_dir())):
        for file in images_in(place):
            if not _NAME.fullmatch(file.stem):
                faults.add(file, "is not named as an image or a mask of this data set", "Take it out")
            elif found.setdefault(file.stem, file) != file:
                other = found[file.stem].relative_to(folder)
                faults.add(file, f"{other} has this name too", "Keep one of them")
    if not found:
        raise HistillError(
            "there are no images train_1, testA_1, testB_1 in it",
            code=Exit.INPUT,
            subject=str(folder),
            mend="Name the data set's own folder",
        )
    images = {stem: file for stem, file in found.items() if not stem.endswith("_anno")}
    masks = {stem.removesuffix("_anno"): file for stem, file in found.items() if stem.endswith("_anno")}
    return images, masks


def _patients(folder: Path, faults: Faults) -> dict[str, str]:
    """Whose each image is."""
    path = folder / GRADES
    try:
        header, rows, wrong = read_cells(path.read_bytes())
    except OSError as error:
        raise HistillError(
            f"there is no readable {GRADES}, which names the patients",
            code=Exit.INPUT,
            subject=str(folder),
            mend="Get it from the data set's archive, or name the folder that holds it",
        ) from error
    for fault in wrong:
        faults.add(path, fault, AGAIN)
    columns = [cell.lower() for cell in header]
    if not {"name", "patient id"} <= set(columns):
        faults.add(path, "line 1: there are no columns name, patient ID", AGAIN)
        return {}
    patients: dict[str, str] = {}
    for line, cells in rows:
        name, patient = (cells[columns.index(column)] for column in ("name", "patient id"))
        if not patient:
            faults.add(path, f"line {line}: {name} has no patient", AGAIN)
        if name in patients:
            faults.add(path, f"line {line}: {name} stands in it twice", AGAIN)
        patients.setdefault(name, patient)
    return patients


def _numbers(image: Path, mask: Path) -> NDArray[np.uint8]:
    """The numbers of the glands in a mask, uint8 [h, w]."""
    size, stored = image_size(image), stored_values(mask)
    if stored.shape != size:
        what = f"is {stored.shape[1]} x {stored.shape[0]} px, its image {size[1]} x {size[0]}"
        raise HistillError(what, code=Exit.INPUT, subject=str(mask), mend=AGAIN)
    if min(size) < CROP:
        what = f"is {size[1]} x {size[0]} px, and a crop {CROP}"
        raise HistillError(what, code=Exit.INPUT, subject=str(image), mend=AGAIN)
    return stored


def _samples(image: _Image) -> list[Sample]:
    """The rows of an image."""
    if not _is_train(image.name):
        labels = _labels(image.glands)
        return [Sample(image.name, image.path, None, labels, image.patient, "test", image.mask, mpp=MPP)]
    height, width = image.glands.shape
    samples = []
    for y in range(0, height - CROP + 1, CROP):
        for x in range(0, width - CROP + 1, CROP):
            region = Region(x, y, CROP, CROP)
            labels = _labels(image.glands[y : y + CROP, x : x + CROP])
            identity = crop_id(image.path.name, region)
            samples.append(Sample(identity, image.path, region, labels, image.patient, "train", image.mask, mpp=MPP))
    return samples


def _is_train(name: str) -> bool:
    return name.startswith("train")


def _labels(glands: NDArray[np.bool_]) -> tuple[str, ...]:
    share = glands.mean()
    return tuple(name for name, part in (("gland", share), ("stroma", 1 - share)) if part >= LEAST_SHARE)
