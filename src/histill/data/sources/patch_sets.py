"""Patches whose labels stand in their names, with masks for validation and test: BCSS-WSSS, LUAD-HistoSeg, WSSS4LUAD.

``train/*.png``, ``{val,test}/{img,mask}/``. Nothing is guessed: a name, a pair or a mask that does not fit is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from histill.core.card import DatasetCard
from histill.core.config import resolve
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE
from histill.core.manifest import Sample
from histill.core.masks import LabelMap
from histill.data.sources.palettes import NewMasks, Palette, shown, stored_values
from histill.data.sources.published import Imported
from histill.data.sources.stems import Counters, Faults, by_stem, images_in, label_in, official_if_shared, split_folders

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class PatchSet:
    """A published data set of patches.

    Attributes:
        card: its classes, their colours in masks, the values of masks.
        published: how many images each split has.
        patient: matches the part of a name that says whose an image is, as group 1.
        notes: what the user should know of it.
        numbered: images of val and test are numbered, in each anew.
        hidden: splits whose masks were kept back for a time, so that copies may lack them all.
    """

    card: DatasetCard
    published: Mapping[str, int]
    patient: re.Pattern[str]
    notes: tuple[str, ...]
    numbered: bool = False
    hidden: tuple[str, ...] = ()

    def palette(self, mask_values: Mapping[str, str]) -> Palette:
        """What masks mean: their colours; or their values, where the user says what they stand for."""
        values = {"mask_values": dict(mask_values)} if mask_values else {}
        card = resolve(DatasetCard, ("mask values", {**self.card.model_dump(mode="json"), **values}))
        colours = dict(zip(self.card.colours, self.card.classes, strict=True))
        meaning = {**colours, WHITE: "ignore"}
        known = ", ".join(f"{name} {colour}" for colour, name in meaning.items())
        said = ",".join(f"{value}={name}" for value, name in self.card.mask_values.items())
        mend = (
            f"Masks show {known}: get them from another copy; or, only if you are sure what the values that they store "
            f"stand for, say it: --mask-values {said}"
        )
        return Palette(card, meaning, mend, by_value=bool(mask_values))


@dataclass
class _Row:
    """An image of a split."""

    split: str
    name: str
    image: Path
    labels: tuple[str, ...] = ()
    mask: Path | None = None
    glass: Path | None = None
    """a mask of the background that is left out besides"""


def read_patch_set(
    kind: PatchSet, folder: Path, to: Path, mask_values: Mapping[str, str], counters: Counters
) -> Imported:
    """Read a data set's folder.

    Args:
        kind: which.
        folder: holds the folders of its splits.
        to: the table to come; masks that are no indices, or in another palette, are written anew beside it.
        mask_values: what the masks' stored values mean; left out, their colours say it.
        counters: shows how far a step has come.

    Raises:
        HistillError: usage (2) with every fault and its file; input (4) if there is no split; storage (7).
    """
    palette = kind.palette(mask_values)
    faults = Faults(folder)
    places = split_folders(folder, faults)
    rows: list[_Row] = []
    for split in kind.published:
        if split not in places:
            faults.add(folder, f"there is no folder {split}", "Get the whole data set")
        elif split == "train":
            rows += _labelled(places[split], palette.card, faults)
        else:
            rows += _masked(places[split], split, kind, faults)
    _check_names(rows, faults)
    anew = NewMasks(palette, folder, to)
    count = counters("reading masks")
    with_masks = [row for row in rows if row.mask is not None]
    for done, row in enumerate(with_masks, 1):
        _look(row, palette, anew, faults)
        count(done, len(with_masks))
    faults.close()
    anew.write()
    samples = tuple(_sample(row, kind) for row in rows)
    return Imported(samples, official_if_shared(palette.card, samples), tuple(_notes(rows, kind, anew)))


def _labelled(place: Path, card: DatasetCard, faults: Faults) -> list[_Row]:
    rows = []
    first: dict[str, Path] = {}
    # Some copies have them in a folder of their own, as val and test do.
    files = images_in(place) + images_in(place / "img")
    if not files:
        faults.add(place, "holds no image", "Get the whole data set")
    for file in files:
        try:
            name, labels = label_in(file.stem, card.classes)
        except ValueError as error:
            faults.add(file, str(error), "Correct these names")
            continue
        if first.setdefault(name.lower(), file) != file:
            faults.add(file, f"{first[name.lower()].name} is this patch too", "Keep one of them")
        rows.append(_Row("train", name, file, labels))
    return rows


def _masked(place: Path, split: str, kind: PatchSet, faults: Faults) -> list[_Row]:
    images, masks, glass = (by_stem(place / part, faults) for part in ("img", "mask", "background-mask"))
    if not images:
        faults.add(place / "img", "holds no image", "Get the whole data set")
    if masks or split not in kind.hidden:
        for stem in sorted(images.keys() - masks.keys()):
            mend = "Get the mask from another copy; an image that has none anywhere cannot be scored: take it out"
            faults.add(images[stem], "has no mask", mend)
    for stem in sorted(masks.keys() - images.keys()):
        faults.add(masks[stem], "no image has this name", "Get the image from another copy, or take the mask out")
    for stem in sorted(images.keys() - glass.keys()) if glass else ():
        faults.add(images[stem], "has no background mask", "Get it from another copy, or take all of these out")
    return [
        _Row(split, f"{split}_{file.stem}" if kind.numbered else file.stem, file, (), masks.get(stem), glass.get(stem))
        for stem, file in images.items()
    ]


def _check_names(rows: list[_Row], faults: Faults) -> None:
    """No patch may stand in two splits."""
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(row.name.lower(), row)
        if other.split != row.split:
            faults.add(row.image, f"stands in {other.split} as {other.image.name}", "Keep one of them")


def _look(row: _Row, palette: Palette, anew: NewMasks, faults: Faults) -> None:
    """Fill in what a row's mask shows, and where it will lie."""
    assert row.mask is not None
    try:
        labels, as_stored = palette.read(row.mask)
        if row.glass is not None:
            as_stored = _leave_out(labels, row.glass) and as_stored
    except HistillError as error:
        faults.add_error(Path(error.subject), error)
        return
    row.labels = shown(labels, palette.card.classes)
    if not as_stored:
        row.mask = anew.add(f"{row.split}/{row.image.stem}", labels)


def _leave_out(labels: LabelMap, path: Path) -> bool:
    """Ignore what a background mask marks, in place; whether it was ignored already."""
    glass = stored_values(path) > 0  # [h, w]
    if glass.shape != labels.shape:
        what = f"is {glass.shape[1]} x {glass.shape[0]} px, its mask {labels.shape[1]} x {labels.shape[0]}"
        raise HistillError(what, code=Exit.INPUT, subject=str(path), mend="Get it from another copy")
    before = (labels[glass] == IGNORE).all()
    labels[glass] = IGNORE
    return bool(before)


def _sample(row: _Row, kind: PatchSet) -> Sample:
    whose = kind.patient.match(row.name)
    return Sample(
        id=row.name,
        path=row.image,
        labels=row.labels,
        patient=row.name if whose is None else whose[1],
        split=row.split,
        mask=row.mask,
    )


def _notes(rows: list[_Row], kind: PatchSet, anew: NewMasks) -> list[str]:
    notes = list(kind.notes)
    for split, published in kind.published.items():
        of_split = [row for row in rows if row.split == split]
        if len(of_split) != published:
            notes.append(f"This copy holds {len(of_split):,} images of split {split}; published are {published:,}")
        if split != "train" and not any(row.mask for row in of_split):
            notes.append(f"Split {split} of this copy has no masks: it cannot be scored")
    if anew:
        notes.append(f"{len(anew):,} masks show their classes by colour alone: written anew, into {anew.place}")
    notes.append("Labels of val and test name every class that a pixel of their masks shows")
    return notes
