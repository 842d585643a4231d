"""A slide: pixels of any place at any spacing, whatever file they come from. The guards live here, once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Region

RgbImage = NDArray[np.uint8]
WHITE = 255

MOST_AT_ONCE = 1 << 24
"""Pixels of a level that are held at once; a thumbnail of a slide without a pyramid is made part by part."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its size in its own px, and level-0 px per px of it."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Spacing:
    """um per level-0 px, and who says so: ``file: openslide.mpp-x``, ``user`` ..."""

    mpp: float
    source: str


@dataclass(frozen=True)
class SlideFacts:
    """What a file says of itself, read once when it is opened.

    Attributes:
        vendor: the file's kind: aperio, hamamatsu, dicom, generic-tiff, flat ...
        levels: largest first; level 0 gives the slide's size.
        spacing: None where neither file nor user gives one.
        properties: what else the file says, by its own names.
        notes: what a user should know of this reading: an implausible spacing that was not taken, an orientation.
    """

    vendor: str
    levels: tuple[Level, ...]
    spacing: Spacing | None
    properties: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Slide(ABC):
    """A slide, open for reading; close it, or use it in a with statement.

    What a kind of file has to fill in: `_read_level`, `_close`, and the facts.
    """

    def __init__(self, path: Path, facts: SlideFacts) -> None:
        self.path, self.facts = path, facts

    @abstractmethod
    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        """Pixels of a rectangle that lies inside a level, in that level's own px, uint8 [h, w, 3].

        Transparency is laid on white. Pixels that cannot be decoded are an error, never grey.
        """

    @abstractmethod
    def _close(self) -> None:
        """Let go of the file."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 px."""
        return self.facts.levels[0].width, self.facts.levels[0].height

    @property
    def mpp(self) -> float:
        """um per level-0 px.

        Raises:
            HistillError: input (4) if neither the file nor the user gives it.
        """
        if self.facts.spacing is None:
            notes = "; ".join(self.facts.notes)
            raise HistillError(
                "the file does not say how large a pixel is" + (f" ({notes})" if notes else ""),
                code=Exit.INPUT,
                subject=str(self.path),
                mend="Give the spacing of its largest level in um/px: --mpp 0.25 (usual for 40x; 0.5 for 20x)",
            )
        return self.facts.spacing.mpp

    def at(self, mpp: float) -> Frame:
        """The slide at a spacing in um/px."""
        width, height = self.size
        return Frame(width, height, self.mpp, mpp)

    def read(self, region: Region, mpp: float) -> RgbImage:
        """Pixels of a region at a spacing in um/px, uint8 [h, w, 3]; what lies beyond the slide is white.

        Raises:
            HistillError: input (4) if the pixels cannot be read, or the slide has no spacing.
        """
        scale = mpp / self.mpp
        return self.read_as(region, max(1, round(region.w / scale)), max(1, round(region.h / scale)))

    def read_as(self, region: Region, width: int, height: int) -> RgbImage:
        """Pixels of a region, made width x height px large, uint8 [height, width, 3]; white beyond the slide.

        The best level of the pyramid is read: the coarsest that is at least as fine as asked. Its pixels are laid on
        those asked for to within half a pixel of the level. Memory is bounded, whatever the region.

        Raises:
            HistillError: input (4) if the pixels cannot be read.
        """
        down = min(region.w / width, region.h / height)
        # A level that is a hair coarser than asked will do: pyramids round their sizes.
        fine = [i for i, each in enumerate(self.facts.levels) if each.downsample <= down * 1.01]
        level = max(fine, key=lambda i: self.facts.levels[i].downsample, default=0)
        x, y, w, h = self._at_level(region, level)
        if w * h > MOST_AT_ONCE and max(width, height) > 1:
            return self._in_halves(region, width, height)
        pixels = self._padded(level, x, y, w, h)
        if pixels.shape[:2] == (height, width):
            return pixels
        shrinks = h >= height and w >= width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)

    def thumbnail(self, longest: int) -> RgbImage:
        """The whole slide, its longer side so many px or less, uint8 [h, w, 3]."""
        width, height = self.size
        shrink = max(1.0, max(width, height) / longest)
        return self.read_as(Region(0, 0, width, height), max(1, round(width / shrink)), max(1, round(height / shrink)))

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _at_level(self, region: Region, level: int) -> tuple[int, int, int, int]:
        """A region in a level's px: left, top, width, height."""
        width, height = self.size
        left, right = _along(region.x, region.w, width, self.facts.levels[level].width)
        top, bottom = _along(region.y, region.h, height, self.facts.levels[level].height)
        return left, top, right - left, bottom - top

    def _in_halves(self, region: Region, width: int, height: int) -> RgbImage:
        """A region that is too large to hold, cut across its longer side."""
        if width > 1 and (region.w >= region.h or height == 1):
            half, cut = width // 2, round(region.w * (width // 2) / width)
            left = self.read_as(Region(region.x, region.y, cut, region.h), half, height)
            right = self.read_as(Region(region.x + cut, region.y, region.w - cut, region.h), width - half, height)
            return np.concatenate([left, right], axis=1)
        half, cut = height // 2, round(region.h * (height // 2) / height)
        above = self.read_as(Region(region.x, region.y, region.w, cut), width, half)
        below = self.read_as(Region(region.x, region.y + cut, region.w, region.h - cut), width, height - half)
        return np.concatenate([above, below], axis=0)

    def _padded(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        size = self.facts.levels[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w, size.width), min(y + h, size.height)
        if left >= right or top >= bottom:
            return np.full((h, w, 3), WHITE, np.uint8)
        inner = self._read_level(level, left, top, right - left, bottom - top)
        if inner.shape[:2] == (h, w):
            return inner
        pixels = np.full((h, w, 3), WHITE, np.uint8)
        pixels[top - y : bottom - y, left - x : right - x] = inner
        return pixels


def _along(start: int, length: int, whole: int, part: int) -> tuple[int, int]:
    """Where a stretch of level 0's side, `whole` px long, begins and ends on a level's side of `part` px."""
    factor = round(whole / part)
    # Scanners shrink by whole numbers and drop what is left over: of 4443 px by 2 there are 2221, each of 2 px.
    step = factor if part in (whole // factor, -(-whole // factor)) else whole / part
    begin, end = round(start / step), round((start + length) / step)
    # What was dropped, less than a pixel, is not white: white begins where the slide ends.
    end = min(end, part) if start + length <= whole else end
    return min(begin, end - 1), end


def on_white(pixels: NDArray[np.uint8]) -> RgbImage:
    """Colour with straight alpha, uint8 [h, w, 4], laid on white: uint8 [h, w, 3]."""
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min(initial=WHITE) == WHITE:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)  # [h, w, 3]
    weighed = colour * alpha.astype(np.uint16) + WHITE * (WHITE - alpha.astype(np.uint16))  # [h, w, 3], at most 65,025
    return ((weighed + 127) // WHITE).astype(np.uint8)
