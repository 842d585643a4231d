"""Label maps and probability maps read back, a few tiles at a time: ours, and other programs' masks as TIFF."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import IGNORE, Classes
from histill.core.masks import LabelMap
from histill.formats.ome import OmeFacts, from_xml

LARGEST_CHUNK = 1 << 28
"""Bytes that one tile or strip may hold once unpacked; a file that asks for more is refused."""

LONGEST_XML = 1 << 20
DAMAGED = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error, zlib.error)
"""What a damaged file makes the libraries raise."""


@dataclass(frozen=True)
class MapFacts:
    """What a file says of its map.

    Attributes:
        shape: height and width in px.
        mpp: um/px, or None where the file does not say, or pixels are not square.
        classes: names and colours, or None where the file does not say.
        levels: height and width of every level, largest first.
        planes: names of the planes of a probability map, in order.
    """

    shape: tuple[int, int]
    mpp: float | None
    classes: Classes | None
    levels: tuple[tuple[int, int], ...]
    planes: tuple[str, ...]


class _Map:
    """A TIFF whose planes are read tile by tile, by one thread; close it, or use it in a with statement."""

    _empty: Any  # what a tile holds that the file leaves out
    _kinds: tuple[str, ...]  # names of the dtypes that are understood

    def __init__(self, path: Path) -> None:
        """Open a file and read its directories, not its pixels.

        Raises:
            HistillError: input (4) if it is missing, damaged, or holds something else; unsafe (5) if a single tile
                would fill the memory.
        """
        self.path = path
        with _reading(path):
            self._file = tifffile.TiffFile(path)
        try:
            with _reading(path):
                self._pages, self.facts = self._directories()
                self._check()
        except BaseException:
            self._file.close()
            raise

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.facts.shape

    @property
    def mpp(self) -> float | None:
        """um/px, or None where the file does not say."""
        return self.facts.mpp

    @property
    def classes(self) -> Classes | None:
        """Names and colours of the classes, or None where the file does not say."""
        return self.facts.classes

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _directories(self) -> tuple[list[list[tifffile.TiffPage]], MapFacts]:
        """The directories of each level, plane by plane; and the facts."""
        first = self._file.pages.first
        xml = first.description if len(first.description) <= LONGEST_XML else ""
        ome = from_xml(xml) if xml.rstrip().endswith("OME>") else OmeFacts()
        count = max(1, len(ome.channels))
        planes = [_whole(self._file.pages[i]) for i in range(count)]
        below = [[_whole(level) for level in plane.pages or ()] for plane in planes]
        levels = [planes, *([smaller[i] for smaller in below] for i in range(min(map(len, below))))]
        shapes = tuple((int(level[0].imagelength), int(level[0].imagewidth)) for level in levels)
        return levels, MapFacts(shapes[0], ome.mpp or _spacing(first), ome.classes, shapes, ome.channels)

    def _check(self) -> None:
        for page in (page for level in self._pages for page in level):
            # A file that means something else by its pixels is not read as if it did not.
            if (
                page.dtype is None
                or page.dtype.name not in self._kinds
                or page.samplesperpixel != 1
                or page.imagedepth > 1
            ):
                raise HistillError(
                    f"it holds {page.samplesperpixel} x {page.dtype} a pixel, not one of {', '.join(self._kinds)}",
                    code=Exit.INPUT,
                    subject=str(self.path),
                    mend="Give a single-channel mask whose values are class indices",
                )
            pixels = math.prod(int(side) for side in page.chunks)
            if pixels < 1:
                raise ValueError("its tiles have no pixels")
            if pixels * page.dtype.itemsize > LARGEST_CHUNK:
                raise HistillError(
                    "a single tile or strip of it would take too much memory",
                    code=Exit.UNSAFE,
                    subject=str(self.path),
                    mend="Store it in tiles of 512 px",
                )

    def _read(self, level: int, plane: int, x: int, y: int, w: int, h: int) -> NDArray[Any]:
        """A rectangle of one plane, [h, w]; it must lie inside."""
        page = self._pages[level][plane]
        height, width = self.facts.levels[level]
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > width or y + h > height:
            raise HistillError(
                f"the rectangle {x}, {y}, {w}, {h} is not inside the {width} x {height} px",
                code=Exit.USAGE,
                subject=str(self.path),
            )
        out = np.full((h, w), self._empty, page.dtype)
        down, across = int(page.chunks[0]), int(page.chunks[1])
        columns = -(-width // across)
        for row in range(y // down, -(-(y + h) // down)):
            for column in range(x // across, -(-(x + w) // across)):
                pixels = self._chunk(page, row * columns + column)
                if pixels is None:
                    continue
                top, left = row * down, column * across
                y0, x0 = max(y, top), max(x, left)
                y1, x1 = min(y + h, top + pixels.shape[0]), min(x + w, left + pixels.shape[1])
                out[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _chunk(self, page: tifffile.TiffPage, index: int) -> NDArray[Any] | None:
        """One tile or strip [h, w]; None where the file leaves it out."""
        with _reading(self.path):
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if not count:
                return None
            handle = self._file.filehandle
            handle.seek(offset)
            data = handle.read(count)
            if len(data) < count:
                raise ValueError("it ends in the middle of a tile")
            pixels, _, shape = page.decode(data, index)
            if pixels is None:
                return None
            return np.asarray(pixels)[0, : shape[1], : shape[2], 0]


class LabelImage(_Map):
    """A label map on disk: any rectangle of it, without reading the rest. A tile left out reads as `IGNORE`."""

    _empty = IGNORE
    _kinds = ("uint8",)

    def read(self, x: int, y: int, w: int, h: int, level: int = 0) -> LabelMap:
        """Class indices of a rectangle in px of a level, uint8 [h, w].

        Raises:
            HistillError: input (4) if pixels cannot be read; usage (2) if the rectangle is not inside.
        """
        return self._read(level, 0, x, y, w, h)

    def bands(self, rows: int = 512) -> Iterator[LabelMap]:
        """The whole map from the top down, uint8 [rows, w] each, the last one shorter."""
        height, width = self.shape
        for top in range(0, height, rows):
            yield self.read(0, top, width, min(rows, height - top))


class ProbabilityImage(_Map):
    """A probability map on disk, one plane a class. A tile left out reads as 0."""

    _empty = 0
    _kinds = ("uint8", "float32")

    def read(self, x: int, y: int, w: int, h: int, level: int = 0) -> NDArray[np.float32]:
        """Probabilities of a rectangle in px of a level, 0 to 1, float32 [k, h, w].

        Raises:
            HistillError: input (4) if pixels cannot be read; usage (2) if the rectangle is not inside.
        """
        planes = np.stack(
            [self._read(level, plane, x, y, w, h) for plane in range(len(self._pages[level]))]
        )  # [k, h, w]
        return planes.astype(np.float32) / np.float32(255) if planes.dtype == np.uint8 else planes

    def bands(self, rows: int = 512) -> Iterator[NDArray[np.float32]]:
        """The whole map from the top down, float32 [k, rows, w] each, the last one shorter."""
        height, width = self.shape
        for top in range(0, height, rows):
            yield self.read(0, top, width, min(rows, height - top))


def open_labels(path: Path) -> LabelImage:
    """A label map as TIFF, ours or another program's, opened for reading; see `LabelImage`."""
    return LabelImage(path)


def open_probabilities(path: Path) -> ProbabilityImage:
    """A probability map as OME-TIFF, opened for reading; see `ProbabilityImage`."""
    return ProbabilityImage(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise HistillError("there is no such file", code=Exit.INPUT, subject=str(path), mend="Check the path") from None
    except DAMAGED as error:
        raise HistillError(
            f"it cannot be read as a TIFF map ({error})",
            code=Exit.INPUT,
            subject=str(path),
            mend="Check that it is whole, and stored in tiles with deflate compression or none",
        ) from error


def _whole(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    if not isinstance(page, tifffile.TiffPage):
        raise ValueError("its directories differ from one another")
    return page


def _spacing(page: tifffile.TiffPage) -> float | None:
    """um/px by the resolution tags; None where they give none, or pixels are not square."""
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit))
    across, down = page.resolution
    if unit is None or across <= 0 or down <= 0 or abs(across / down - 1) > 0.01:
        return None
    return float(unit / across)
