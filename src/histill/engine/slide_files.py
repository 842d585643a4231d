"""The slides that bags came from, where they are at hand: for pictures."""

from __future__ import annotations

from pathlib import Path

from histill.core.bags import BagFacts
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.slides.base import RgbImage
from histill.slides.open import slide_paths
from histill.slides.worker import GuardedSlide, open_guarded

LONGEST = 1600
"""Longer side of a thumbnail in px."""


class SlideFiles:
    """Slides by their ids, which are their files' stems.

    Args:
        folder: of slides, at any depth; None where none are at hand.

    Raises:
        HistillError: input (4) if there is no such folder.
    """

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise HistillError(
                "there is no such folder", code=Exit.INPUT, subject=str(folder), mend="Give the folder of the slides"
            )
        self.place = "" if folder is None else str(folder.resolve())
        """of the folder: pictures follow from it"""
        paths = [] if folder is None else slide_paths(folder)
        self._paths = {path.stem.lower(): path for path in paths}

    def open(self, slide: str) -> GuardedSlide | None:
        """A slide, to be closed; None if it is not at hand. Raises as `open_guarded`."""
        path = self._paths.get(slide.lower())
        return None if path is None else open_guarded(path, None)


def read_tile(slide: GuardedSlide, facts: BagFacts, index: int, side: int) -> RgbImage:
    """A bag's tile as it looks on its slide, made `side` x `side` px large."""
    assert facts.coords is not None
    assert facts.tile_side is not None
    x, y = facts.coords[index].tolist()
    return slide.read_as(Region(x, y, facts.tile_side, facts.tile_side), side, side)
