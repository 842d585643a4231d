"""Folders images and masks, files of the same stem: a box around each part of a mask that hangs together.

0 is nothing, 1 and 255 are the one class of --classes; or --mask-values says what values mean: 1=glomerulus.
Parts that touch by a corner are one. Parts whose box has less than 9 px are left out as specks, and counted. An empty
mask says that there is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.masks import LabelMap
from histill.data.sources.boxed import IGNORE, BoxedImage, BoxedImages, split_in
from histill.data.sources.loose import SUFFIXES
from histill.data.sources.palettes import stored_values
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, quiet

SPECK = 9
"""A part whose box has fewer pixels is no object."""


def read(
    folder: Path,
    *,
    to: Path,
    classes: Sequence[str] = (),
    mask_values: Mapping[str, str] | None = None,
    split: str = "",
    mpp: float | None = None,
    counters: Counters = quiet,
) -> Imported:
    """Read a folder that holds images and masks; options as in `BoxedImages`. Folders train, val, test are splits.

    Of `mask_values`, each value of a mask -> its class, or ignore, 0 need not be named.

    Raises:
        HistillError: usage (2) with every fault and its file; input (4) if there are no such folders; storage (7).
    """
    if not ((folder / "images").is_dir() and (folder / "masks").is_dir()):
        what = "there are no folders images and masks in it"
        raise HistillError(what, code=Exit.INPUT, subject=str(folder), mend="Name the folder that holds both")
    meaning = _meaning(mask_values or {}, classes)
    found = BoxedImages(folder, to, classes=classes, split=split, mpp=mpp)
    found.know(name for name in meaning.values() if name != IGNORE)
    masks = _by_stem(folder / "masks")
    images = _by_stem(folder / "images")
    count = counters("reading masks")
    specks = 0
    for done, (stem, path) in enumerate(images.items(), 1):
        mask = masks.pop(stem, None)
        if mask is None:
            found.faults.add(path, "has no mask", "Add it, or take the image out")
        elif (taken := found.image(path, mask, "its image", split=split_in(stem.parts[:-1]))) is not None:
            specks += read_mask(mask, taken, meaning, found)
        count(done, len(images))
    for mask in masks.values():
        found.faults.add(mask, "no image has this name", "Add the image, or take the mask out")
    return found.close(source="boxes around the parts of masks", notes=speck_note(specks))


def read_mask(mask: Path, image: BoxedImage, meaning: Mapping[int, str], found: BoxedImages) -> int:
    """Take in the boxes around the parts of a mask file; returns how many specks were left out.

    Args:
        mask: 8-bit, exactly as large as the image.
        image: where the boxes go.
        meaning: value -> class; 0 is nothing.
        found: where faults go.
    """
    try:
        values = stored_values(mask)
    except HistillError as error:
        found.faults.add_error(mask, error)
        return 0
    if (values.shape[1], values.shape[0]) != image.size:
        told = f"{values.shape[1]} x {values.shape[0]} px, its image {image.size[0]} x {image.size[1]}"
        found.faults.add(mask, told, "Give a mask of exactly the image's size")
        return 0
    unknown = sorted(set(np.unique(values).tolist()) - {0, *meaning})
    if unknown:
        told = f"the value {', '.join(map(str, unknown))} means nothing (known: 0, {', '.join(map(str, meaning))})"
        found.faults.add(mask, told, "Say in --mask-values what it means")
        return 0
    specks = 0
    for name in dict.fromkeys(meaning.values()):
        shown: LabelMap = np.isin(values, [value for value, each in meaning.items() if each == name]).astype(np.uint8)
        boxes = boxes_of_parts(shown)
        large = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) >= SPECK
        specks += int((~large).sum())
        for i, corners in enumerate(boxes[large].tolist(), 1):
            if name != IGNORE:
                found.box(image, name, corners, mask, f"part {i}")
    return specks


def boxes_of_parts(mask: LabelMap) -> NDArray[np.int64]:
    """Boxes around the parts of a mask (not 0) that hang together by sides or corners.

    Args:
        mask: uint8 [h, w].

    Returns:
        int64 [n, 4]: x0, y0, x1, y1 along the edges of pixels, from left to right.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    x, y, w, h = np.asarray(stats[1:, :4], np.int64).T
    boxes = np.stack([x, y, x + w, y + h], axis=-1)  # [n, 4]
    return boxes[np.lexsort((y, x))]


def speck_note(specks: int) -> list[str]:
    """What to say of specks, if there were any."""
    return [f"{specks:,} parts with a box of less than {SPECK} px were left out as specks"] if specks else []


def _meaning(mask_values: Mapping[str, str], classes: Sequence[str]) -> dict[int, str]:
    if not mask_values:
        if len(classes) != 1:
            mend = "Name it with --classes; of several, say in --mask-values which value is which"
            raise HistillError("the class of the boxes is not named", code=Exit.USAGE, subject="components", mend=mend)
        return {1: classes[0], 255: classes[0]}
    wrong = [value for value in mask_values if not value.isdecimal() or not 0 <= int(value) <= 255]
    if wrong:
        what = f"'{wrong[0]}' is not a value of 0 to 255"
        raise HistillError(what, code=Exit.USAGE, subject="--mask-values", mend="Correct it")
    return {int(value): name for value, name in mask_values.items() if int(value)}


def _by_stem(folder: Path) -> dict[Path, Path]:
    """Images below a folder, by their path in it without the ending."""
    files = sorted(each for each in folder.rglob("[!.]*") if each.suffix.lower() in SUFFIXES)
    return {file.relative_to(folder).with_suffix(""): file for file in files}
