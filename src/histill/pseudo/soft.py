"""Soft maps of a lesion: where they are kept, and the stated thresholds at which they become masks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Sample
from histill.core.masks import LabelMap, grey_png, read_indexed
from histill.core.storage import safe_name, write_inside


@dataclass(frozen=True)
class Thresholds:
    """Where a soft map says lesion, where it says none, and where it says nothing.

    Attributes:
        foreground: from this value on, lesion.
        background: up to this value, none; between the two, ignored.
    """

    foreground: float
    background: float

    def __post_init__(self) -> None:
        if self.background >= self.foreground:
            raise HistillError(
                f"what is background up to {self.background:g} cannot be lesion from {self.foreground:g} on",
                code=Exit.USAGE,
                subject="foreground",
                mend="Set foreground above background",
            )

    def mask(self, soft: NDArray[np.float32], classes: Classes, *, has_lesion: bool) -> LabelMap:
        """A hard mask.

        An image without the lesion is background throughout. A map that finds none in an image that has it contradicts
        the label, and says nothing: it is ignored throughout. A map that is lesion throughout stands.

        Args:
            soft: [h, w] in 0..1.
            classes: a lesion and a background.
            has_lesion: what the image label says.

        Returns:
            uint8 [h, w].
        """
        lesion = classes.lesion
        rest = 1 - lesion
        found = soft >= self.foreground
        if not has_lesion:
            return np.full(soft.shape, rest, np.uint8)
        if not found.any():
            return np.full(soft.shape, IGNORE, np.uint8)
        labels = np.where(found, np.uint8(lesion), np.uint8(IGNORE))
        labels[soft <= self.background] = rest
        return labels


class SoftFolder:
    """Soft maps on disk, ``<tap>/<id>.png`` in grey, 255 for 1; a tap is the stream that a map was made for.

    Args:
        folder: where.
        taps: the streams' names.
        classes: a lesion and a background.
        thresholds: how maps become masks.
    """

    def __init__(self, folder: Path, taps: Sequence[str], classes: Classes, thresholds: Thresholds) -> None:
        self.folder, self.taps, self.classes, self.thresholds = folder, tuple(taps), classes, thresholds

    def add(self, tap: str, sample: Sample, soft: NDArray[np.float32]) -> None:
        """Write one map float [h, w] in 0..1; the folder is one that `Run.once` is making."""
        write_inside(self.folder, self._name(tap, sample), grey_png(soft))

    def describe(self, provenance: Mapping[str, str]) -> None:
        """Write what the maps were made with, and how they become masks."""
        classes = {"classes": list(self.classes.names), "rest": self.classes.background}
        about = {"streams": list(self.taps), **classes, **asdict(self.thresholds), **provenance}
        write_inside(self.folder, "provenance.json", f"{json.dumps(about, indent=2)}\n".encode())

    def soft(self, tap: str, sample: Sample) -> NDArray[np.float32]:
        """The map of a sample, float32 [h, w] in steps of 1/255."""
        return read_indexed(self.folder / self._name(tap, sample)).astype(np.float32) / np.float32(255)

    def labels(self, tap: str, sample: Sample) -> LabelMap:
        """The mask of a sample, uint8 [h, w]: see `Thresholds.mask`."""
        has_lesion = self.classes.names[self.classes.lesion] in sample.labels
        return self.thresholds.mask(self.soft(tap, sample), self.classes, has_lesion=has_lesion)

    def holds(self, sample: Sample) -> bool:
        """Whether there are maps of this sample."""
        return (self.folder / self._name(self.taps[-1], sample)).is_file()

    def read(self, sample: Sample, image: NDArray[np.uint8]) -> LabelMap:
        """All taps' masks of a sample, uint8 [taps, h, w]: what `Tiles` takes as masks."""
        return np.stack([self.labels(tap, sample) for tap in self.taps])

    def _name(self, tap: str, sample: Sample) -> str:
        return f"{tap}/{safe_name(sample.id)}.png"


def open_soft(folder: Path, about: Mapping[str, Any]) -> SoftFolder:
    """The maps of a folder by what `SoftFolder.describe` wrote of it; KeyError if it describes something else."""
    classes = Classes(tuple(about["classes"]), background=about["rest"])
    return SoftFolder(folder, about["streams"], classes, Thresholds(about["foreground"], about["background"]))
