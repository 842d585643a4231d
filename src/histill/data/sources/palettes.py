"""Masks that show classes by colour: indexed, grey or RGB. A pixel means what its colour says, or the mask is refused.

An index alone says little: copies of one data set have been met in which the same index stood for other classes. So
what a file stores is used as it is only where its colours say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes, Colour
from histill.core.masks import LabelMap, label_png
from histill.core.storage import write_bytes
from histill.data.images import FORMATS, image_size, mask_indices

UNKNOWN = 254
"""Of a pixel while nothing is known of it; no class has this index."""

SHOWN = 3
"""So many colours stand in a message; the rest are counted."""


@dataclass(frozen=True)
class Palette:
    """Which colours a data set's masks show, and what they mean.

    Attributes:
        card: its mask values say what a stored value means.
        meaning: colour -> class, or ``ignore``.
        mend: what to do with a mask of other colours.
        by_value: pixels mean what is stored, and colours are not looked at; so the user says.
    """

    card: DatasetCard
    meaning: Mapping[Colour, str]
    mend: str
    by_value: bool = False

    def read(self, path: Path) -> tuple[LabelMap, bool]:
        """A mask as class indices, uint8 [h, w], and whether the file stores them as the card has it.

        Raises:
            HistillError: input (4) if the file cannot be read, is partly transparent, or holds what means nothing.
        """
        stored, colours = _decoded(path)
        if self.by_value:
            return mask_indices(_indexed(stored, path), self.card, path), True
        red_green_blue = np.moveaxis(colours.astype(np.uint32), 2, 0)  # [3, h, w]
        packed = red_green_blue[0] << 16 | red_green_blue[1] << 8 | red_green_blue[2]  # [h, w]
        labels = np.full(packed.shape, UNKNOWN, np.uint8)  # [h, w]
        for (red, green, blue), name in self.meaning.items():
            labels[packed == (red << 16 | green << 8 | blue)] = self._index(name)
        if (labels == UNKNOWN).any():
            raise self._strange(path, packed[labels == UNKNOWN])
        if stored is None:
            return labels, False
        meant = np.full(256, UNKNOWN, np.uint8)
        for value, name in self.card.mask_values.items():
            meant[int(value)] = self._index(name)
        return labels, bool((meant[stored] == labels).all())

    def png(self, labels: LabelMap) -> bytes:
        """Class indices [h, w] as an indexed PNG of the card's values, in the data set's colours."""
        value_of = {name: int(value) for value, name in reversed(list(self.card.mask_values.items()))}
        colour_of = {name: colour for colour, name in reversed(list(self.meaning.items()))}
        table = np.zeros(256, np.uint8)
        for name, value in value_of.items():
            table[self._index(name)] = value
        names = sorted(value_of, key=lambda name: value_of[name])
        return label_png(table[labels], Classes(tuple(names), tuple(colour_of[name] for name in names)))

    def _index(self, name: str) -> int:
        return IGNORE if name == "ignore" else self.card.classes.index(name)

    def _strange(self, path: Path, packed: NDArray[np.uint32]) -> HistillError:
        found, counts = np.unique(packed, return_counts=True)
        most = found[np.argsort(-counts, kind="stable")][:SHOWN].tolist()
        spelt = ", ".join(str((each >> 16, each >> 8 & 255, each & 255)) for each in most)
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return HistillError(
            f"{len(packed)} pixels of colours that mean nothing, {spelt}{more}",
            code=Exit.INPUT,
            subject=str(path),
            mend=self.mend,
        )


class NewMasks:
    """Masks that are written anew beside the table to come, in a folder of its name, once nothing is wrong.

    Args:
        palette: how they are stored.
        folder: the data set's.
        to: the table.
    """

    def __init__(self, palette: Palette, folder: Path, to: Path) -> None:
        self.palette = palette
        self.place = to.with_suffix("") / "masks"
        self._source, self._to = folder, to
        self._files: dict[Path, bytes] = {}

    def __len__(self) -> int:
        return len(self._files)

    def add(self, name: str, labels: LabelMap) -> Path:
        """Where a mask will lie that `write` writes."""
        path = self.place / f"{name}.png"
        # As PNG they fit in memory, thousands of them.
        self._files.setdefault(path, self.palette.png(labels))
        return path

    def write(self) -> None:
        """Write them.

        Raises:
            HistillError: usage (2) if they would lie in the data set's own folder; storage (7).
        """
        if self._files and self.place.resolve().is_relative_to(self._source.resolve()):
            raise HistillError(
                f"masks have to be written anew, and would go into the folder that is read, {self._source}",
                code=Exit.USAGE,
                subject=str(self._to),
                mend="Choose another --to",
            )
        for path, data in self._files.items():
            write_bytes(path, data)


def stored_values(path: Path) -> NDArray[np.uint8]:
    """The values of an 8-bit file, uint8 [h, w], whatever their colours.

    Raises:
        HistillError: input (4) if it cannot be read, or has no such values.
    """
    return _indexed(_decoded(path)[0], path)


def shown(labels: LabelMap, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that a label map shows."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return tuple(name for name, count in zip(classes, counts.tolist(), strict=False) if count)


def _decoded(path: Path) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8]]:
    """What a file stores, uint8 [h, w], or None where that is colours; and the colours it shows, uint8 [h, w, 3]."""
    # The header is sound then, and promises no more pixels than are read.
    image_size(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            stored = np.array(image, np.uint8) if image.mode in ("1", "P", "L") else None  # [h, w]
            seen = np.array(image.convert("RGBA"))  # [h, w, 4]
    except Exception as error:  # Pillow's decoders meet damage with any exception there is
        raise _refused(path, f"cannot be decoded: {error}", "Copy the file again") from error
    if (seen[..., 3] < 255).any():
        raise _refused(path, "a mask that is partly transparent", "Save it without transparency")
    return stored, seen[..., :3]


def _indexed(stored: NDArray[np.uint8] | None, path: Path) -> NDArray[np.uint8]:
    if stored is None:
        raise _refused(path, "a mask of colours, not 8-bit indices", "Save it as an indexed or grey 8-bit PNG")
    return stored


def _refused(path: Path, what: str, mend: str) -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject=str(path), mend=mend)
