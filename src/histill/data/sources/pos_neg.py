"""Your own folders pos, neg and gt, or those of Camelyon16 and DigestPath patches: images with and without a lesion.

``{train,val,test}/{pos,neg,gt}`` or ``{pos,neg,gt}``. True masks in ``gt`` belong to the images in ``pos`` of the same
stem, never of the same place in the list; black is background, white (or 1) lesion. An image in ``neg`` shows none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histill.core.card import DatasetCard
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import Colour
from histill.core.manifest import Sample, plausible_mpp
from histill.data.images import image_size
from histill.data.sources.palettes import NewMasks, Palette
from histill.data.sources.published import Imported
from histill.data.sources.stems import TCGA, Counters, Faults, by_stem, official_if_shared, quiet, split_folders

PARTS = ("pos", "neg", "gt")
LESION, NORMAL = 0, 1
"""Indices of the classes."""

BLACK: Colour = (0, 0, 0)
ONE: Colour = (1, 1, 1)
WHITE: Colour = (255, 255, 255)

_WHOSE = (TCGA, re.compile(r"((?:tumor|normal|test)_[0-9]{3})(?![0-9])", re.IGNORECASE))
"""Names that hold a TCGA patient, or a slide of Camelyon16."""


@dataclass
class _Row:
    split: str
    part: str
    image: Path
    mask: Path | None

    @property
    def name(self) -> str:
        return "_".join(part for part in (self.split, self.part, self.image.stem) if part)


def read(
    folder: Path,
    *,
    to: Path,
    classes: Sequence[str] = (),
    background: str | None = None,
    mpp: float | None = None,
    counters: Counters = quiet,
) -> Imported:
    """Read the folders.

    Args:
        folder: holds pos, neg and gt, or folders of splits that do.
        to: the table to come; masks of colours, and those of images without a lesion, are written beside it.
        classes: the name of the lesion; left out, ``lesion``.
        background: the name of what is none; left out, ``normal``.
        mpp: um/px of all images.
        counters: shows how far a step has come.

    Raises:
        HistillError: usage (2) with every fault and its file, or a wrong option; input (4) if there are no such
            folders; storage (7).
    """
    palette = _palette(classes, background)
    if mpp is not None and not plausible_mpp(mpp):
        raise HistillError(f"{mpp} um/px is not plausible", code=Exit.USAGE, subject="mpp", mend="Give um/px")
    faults = Faults(folder)
    rows: list[_Row] = []
    for split, place in _places(folder, faults).items():
        rows += _paired(place, split, faults)
    anew = NewMasks(palette, folder, to)
    with_truth = {row.split for row in rows if row.mask is not None}
    count = counters("reading masks")
    for done, row in enumerate(rows, 1):
        if row.mask is not None or (row.part == "neg" and row.split in with_truth):
            _look(row, palette, anew, faults)
        count(done, len(rows))
    faults.close()
    anew.write()
    lesion, normal = palette.card.classes
    samples = tuple(
        Sample(
            id=row.name,
            path=row.image,
            labels=(lesion if row.part == "pos" else normal,),
            patient=next((found[1] for each in _WHOSE if (found := each.match(row.image.stem))), row.name),
            split=row.split,
            mask=row.mask,
            mpp=mpp,
        )
        for row in rows
    )
    own = sum(sample.patient == sample.id for sample in samples)
    notes = [f"{own:,} names do not say whose the image is: each counts as a patient of its own"] if own else []
    if anew:
        what = "those of colours as indices, and for images in neg one of each size"
        notes.append(f"{len(anew):,} masks were written into {anew.place}: {what}")
    return Imported(samples, official_if_shared(palette.card, samples), tuple(notes))


def _palette(classes: Sequence[str], background: str | None) -> Palette:
    normal = background or "normal"
    lesions = [name for name in classes if name != normal] or ["lesion"]
    if len(lesions) > 1:
        what = f"pos is one class, and {len(lesions)} are named: {', '.join(lesions)}"
        raise HistillError(what, code=Exit.USAGE, subject="--classes", mend="Name the lesion; --background the rest")
    values = {"0": normal, "1": lesions[0], "255": lesions[0]}
    given = {"classes": [lesions[0], normal], "background": normal, "mask_values": values}
    card = resolve(DatasetCard, ("classes", given))
    meaning = {BLACK: normal, WHITE: lesions[0], ONE: lesions[0]}
    return Palette(card, meaning, mend="Save masks in black and white, without loss (no JPEG)")


def _places(folder: Path, faults: Faults) -> Mapping[str, Path]:
    """The folders that hold pos and neg, by split."""
    if any((folder / part).is_dir() for part in PARTS):
        return {"": folder}
    return split_folders(folder, faults)


def _paired(place: Path, split: str, faults: Faults) -> list[_Row]:
    pos, neg, truth = (by_stem(place / part, faults) for part in PARTS)
    if not pos and not neg:
        faults.add(place, "holds no image in pos or neg", "Name the folder that holds pos, neg and gt")
    for stem in sorted(pos.keys() - truth.keys()) if truth else ():
        faults.add(pos[stem], "has no mask in gt", "Add it, or take the image out")
    for stem in sorted(truth.keys() - pos.keys() - neg.keys()):
        faults.add(truth[stem], "no image has this name", "Add the image, or take the mask out")
    rows = [_Row(split, "pos", file, truth.get(stem)) for stem, file in pos.items()]
    return rows + [_Row(split, "neg", file, None if stem in pos else truth.get(stem)) for stem, file in neg.items()]


def _look(row: _Row, palette: Palette, anew: NewMasks, faults: Faults) -> None:
    """Hold a mask against the label; an image without a lesion gets one that says so."""
    try:
        if row.mask is None:
            height, width = image_size(row.image)
            nothing = np.full((height, width), NORMAL, np.uint8)
            row.mask = anew.add(f"{width}x{height}-without-lesion", nothing)
            return
        labels, as_stored = palette.read(row.mask)
    except HistillError as error:
        faults.add_error(Path(error.subject), error)
        return
    if bool((labels == LESION).any()) != (row.part == "pos"):
        shows = "no lesion" if row.part == "pos" else "a lesion"
        faults.add(row.mask, f"shows {shows}, but its image is in {row.part}", "Move the image, or correct the mask")
    if not as_stored:
        row.mask = anew.add(f"{row.split}/{row.image.stem}" if row.split else row.image.stem, labels)
