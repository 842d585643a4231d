"""Classes: their names, colours, and which of them is the background."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError

IGNORE = 255
"""The label of a pixel that says nothing: left out of losses and metrics alike."""

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (214, 39, 40),
    (44, 160, 44),
    (31, 119, 180),
    (255, 187, 40),
    (148, 103, 189),
    (23, 190, 207),
    (227, 119, 194),
    (140, 86, 75),
)
IGNORE_COLOUR: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, in label order.

    Attributes:
        names: one name per class; index i of a mask means names[i].
        colours: one RGB triple per class; drawn from `PALETTE` where none are given.
        background: the name of the class that image labels never name, or None.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    background: str | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise HistillError("no class is named", code=Exit.USAGE, subject="classes", mend="Name at least one class")
        if len(self.names) >= IGNORE:
            raise HistillError(f"{len(self.names)} classes; at most {IGNORE - 1} fit in a mask", code=Exit.USAGE)
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            what = f"class named twice: {', '.join(twice)}"
            raise HistillError(what, code=Exit.USAGE, subject="classes", mend="Name each class once")
        if not self.colours:
            colours = tuple(PALETTE[i % len(PALETTE)] for i in range(len(self.names)))
            object.__setattr__(self, "colours", colours)
        if len(self.colours) != len(self.names):
            raise HistillError(
                f"{len(self.colours)} colours for {len(self.names)} classes", code=Exit.USAGE, subject="classes"
            )
        if self.background is not None and self.background not in self.names:
            raise HistillError(
                f"the background '{self.background}' is not one of the classes",
                code=Exit.USAGE,
                subject="classes",
                mend=f"Choose one of: {', '.join(self.names)}",
            )

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The index of a class; KeyError if there is no such class."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None

    @property
    def lesion(self) -> int:
        """The index of the one class that is not the background, for methods that tell one thing from the rest.

        Raises:
            HistillError: usage (2) if there are more classes, or none is the background.
        """
        found = [i for i, name in enumerate(self.names) if name != self.background]
        if self.background is None or len(found) != 1:
            what = "no class is the background" if self.background is None else f"{len(found)} classes beside it"
            raise HistillError(
                f"this method tells one class from a background, and of {', '.join(self.names)} {what}",
                code=Exit.USAGE,
                subject="classes",
                mend="Give a table of two classes of which the card names one the background: histill import pos_neg",
            )
        return found[0]

    def multi_hot(self, labels: Iterable[str]) -> NDArray[np.float32]:
        """Image labels as a float32 [k] of 0 and 1."""
        hot = np.zeros(len(self.names), np.float32)
        hot[[self.index(name) for name in labels]] = 1
        return hot

    def palette(self) -> list[int]:
        """The 768 numbers of a PNG palette; IGNORE is white."""
        flat = [0] * 768
        for i, colour in enumerate(self.colours):
            flat[3 * i : 3 * i + 3] = colour
        flat[3 * IGNORE :] = IGNORE_COLOUR
        return flat
