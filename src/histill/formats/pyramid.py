"""Pyramidal TIFF written from the top down: label maps and probability maps as OME-TIFF, slides as generic TIFF.

Bands of rows come in; each level keeps the rows of one row of tiles, codes them when it is full, and hands them on at
half the size. Tiles go to disk as they come, so that memory holds one row of tiles a level, however large the map.

A label is never averaged: a pixel of a smaller level takes the label that most of its four pixels have, and where two
are even the one that comes first in reading order. Smaller levels are for looking; areas are counted on the largest.

Label maps are stored as grey values and not with a palette: a reader that knows palettes would hand out colours, and
the value of a pixel, read by whatever program, is to be the index of its class. Names and colours of the classes stand
in the OME-XML.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.storage import open_new
from histill.formats.ome import to_xml

TILE = 512
"""Side of a tile in px."""

WORKERS = 2
"""Threads that code tiles: what they call lets go of the interpreter."""

CLASSIC_LIMIT = 4_000_000_000
"""More bytes of pixels than this, before compression, make a BigTIFF."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Coding:
    """How the pixels of one kind of map are coded and made smaller.

    Attributes:
        encode: a tile [TILE, TILE] or [TILE, TILE, 3] to its bytes.
        halve: planes [k, 2 h, 2 w, ...] to [k, h, w, ...].
        take: a band to the numbers that are stored.
        tags: what the file's directories say of it, as `tifffile.TiffWriter.write` calls it.
        patches: tags that the library cannot write without a codec, put right afterwards.
        smaller: where the smaller levels stand: below the first directory, or after it.
    """

    encode: Callable[[Pixels], bytes]
    halve: Callable[[Pixels], Pixels]
    take: Callable[[Pixels], Pixels]
    tags: dict[str, Any]
    patches: dict[str, Any]
    smaller: Literal["subifds", "chain"]


class Pyramid:
    """A pyramidal TIFF in the making: `add` bands of rows, from the top row to the last."""

    def __init__(
        self, file: IO[bytes], shape: tuple[int, ...], mpp: float, coding: Coding, description: bytes, *, planes: int
    ) -> None:
        """Write the directories of a file whose tiles are still to come.

        Args:
            file: empty, to read and write.
            shape: of one plane: height, width, and 3 for colour.
            mpp: um/px of the largest level.
            coding: what kind of map it is.
            description: the first image's description.
            planes: how many.
        """
        self._file, self._coding, self._planes, self._mpp = file, coding, planes, mpp
        self._levels = [_Level(level, planes, coding.tags["dtype"]) for level in _level_shapes(shape)]
        self._pool = ThreadPoolExecutor(WORKERS)
        self._write_directories(description)

    def add(self, band: Pixels) -> None:
        """Take the next rows: [rows, w] or [rows, w, 3], with a leading axis [k, ...] where there are several planes.

        Raises:
            HistillError: a bug (1) if the band does not fit the map.
        """
        level = self._levels[0]
        taken = self._coding.take(band)
        rows = taken if taken.ndim == len(level.shape) + 1 else taken[None]  # [k, rows, w, ...]
        fits = rows.ndim == len(level.shape) + 1 and rows.dtype == level.rows.dtype
        if not fits or rows.shape[0] != self._planes or rows.shape[2:] != level.shape[1:]:
            raise HistillError(f"a band {band.dtype} {band.shape} does not fit a map {level.shape}", code=Exit.BUG)
        if level.done + level.filled + rows.shape[1] > level.shape[0]:
            raise HistillError(f"more than the {level.shape[0]} rows of the map were given", code=Exit.BUG)
        self._push(0, rows)

    def finish(self) -> None:
        """Write what is left, and where each tile stands."""
        level = self._levels[0]
        if level.done + level.filled < level.shape[0]:
            rows = level.done + level.filled
            raise HistillError(f"only {rows} of the {level.shape[0]} rows of the map were given", code=Exit.BUG)
        for number in range(len(self._levels)):
            self._flush(number)
        self._file.flush()
        self._file.seek(0)
        with tifffile.TiffFile(self._file) as whole:
            for plane, page in enumerate(itertools.islice(whole.pages, self._planes)):
                chain = [page, *(page.pages or ())] if self._coding.smaller == "subifds" else whole.pages
                for directory, level in zip(chain, self._levels, strict=True):
                    tags = directory.tags
                    tags["TileOffsets"].overwrite(level.offsets[plane])
                    tags["TileByteCounts"].overwrite(level.counts[plane])
                    for name, value in self._coding.patches.items():
                        tags[name].overwrite(value)

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)

    def _write_directories(self, description: bytes) -> None:
        count = len(self._levels)
        size = sum(math.prod(level.shape) * level.rows.itemsize for level in self._levels) * self._planes
        stack = (self._planes,) if self._planes > 1 else ()
        below = self._coding.smaller == "subifds"
        with tifffile.TiffWriter(self._file, bigtiff=size > CLASSIC_LIMIT, byteorder="<") as writer:
            for number, level in enumerate(self._levels):
                writer.write(
                    itertools.repeat(b"", level.tiles * self._planes),  # tiles follow, in whatever order
                    shape=(*stack, *level.shape),
                    tile=(TILE, TILE),
                    compression="zlib",
                    subfiletype=int(number > 0),
                    subifds=count - 1 if below and number == 0 else None,
                    resolution=(1e4 / (self._mpp * 2**number),) * 2,
                    resolutionunit="CENTIMETER",
                    description=description or None if number == 0 else None,
                    software="histill",
                    metadata=None,
                    **self._coding.tags,
                )

    def _push(self, number: int, rows: Pixels) -> None:
        """Rows [k, rows, w, ...] onto the end of a level."""
        level = self._levels[number]
        taken = 0
        while taken < rows.shape[1]:
            room = min(TILE - level.filled, rows.shape[1] - taken)
            level.rows[:, level.filled : level.filled + room] = rows[:, taken : taken + room]
            level.filled += room
            taken += room
            if level.filled == TILE:
                self._flush(number)

    def _flush(self, number: int) -> None:
        """Code a level's row of tiles, and hand it on at half the size."""
        level = self._levels[number]
        if not level.filled:
            return
        rows = level.rows[:, : level.filled]
        tiles = [plane[:, left : left + TILE] for plane in rows for left in range(0, level.shape[1], TILE)]
        coded = self._pool.map(lambda tile: self._coding.encode(_square(tile)), tiles)
        for plane in range(self._planes):
            for data in itertools.islice(coded, -(-level.shape[1] // TILE)):
                level.offsets[plane].append(self._file.seek(0, 2))
                level.counts[plane].append(self._file.write(data))
        level.done += level.filled
        if number + 1 < len(self._levels):
            self._push(number + 1, self._coding.halve(_even(rows)))
        level.filled = 0


class _Level:
    """One level: the rows of tiles that it is gathering, and where its finished tiles stand."""

    def __init__(self, shape: tuple[int, ...], planes: int, dtype: Any) -> None:
        self.shape, self.done, self.filled = shape, 0, 0
        self.rows = np.empty((planes, min(TILE, shape[0]), *shape[1:]), dtype)
        self.offsets: list[list[int]] = [[] for _ in range(planes)]
        self.counts: list[list[int]] = [[] for _ in range(planes)]

    @property
    def tiles(self) -> int:
        """How many tiles a plane has."""
        return -(-self.shape[0] // TILE) * -(-self.shape[1] // TILE)


@contextmanager
def new_labels(path: Path, *, shape: tuple[int, int], mpp: float, classes: Classes) -> Iterator[Pyramid]:
    """A label map in the making: an OME-TIFF that takes its name when the block ends well.

    Args:
        path: usually ending in .ome.tif.
        shape: height and width in px.
        mpp: um/px.
        classes: what the values mean; `IGNORE` says nothing.

    Yields:
        A pyramid to `add` bands uint8 [rows, w] to.
    """
    tags = {"dtype": np.dtype(np.uint8), "photometric": "minisblack"}
    coding = Coding(_deflate, _majority, np.asarray, tags, {}, "subifds")
    xml = to_xml(shape, mpp, classes, kind="uint8", channels=("class",), labels=True)
    with _making(path, shape, mpp, coding, xml, 1) as pyramid:
        yield pyramid


@contextmanager
def new_probabilities(
    path: Path, *, shape: tuple[int, int], mpp: float, classes: Classes, exact: bool = False
) -> Iterator[Pyramid]:
    """A probability map in the making, one plane a class: an OME-TIFF that takes its name when the block ends well.

    Args:
        path: usually ending in .ome.tif.
        shape: height and width in px.
        mpp: um/px.
        classes: one plane each, in this order.
        exact: float32; else uint8, where 255 is 1.

    Yields:
        A pyramid to `add` bands [k, rows, w] to: floats from 0 to 1, or, unless exact, uint8 stored as they are.
    """
    tags = {"dtype": np.dtype(np.float32 if exact else np.uint8), "photometric": "minisblack"}
    coding = Coding(_deflate, _mean, _as_floats if exact else _as_bytes, tags, {}, "subifds")
    kind = "float" if exact else "uint8"
    xml = to_xml(shape, mpp, classes, kind=kind, channels=classes.names, labels=False)
    with _making(path, shape, mpp, coding, xml, len(classes)) as pyramid:
        yield pyramid


@contextmanager
def new_slide(
    path: Path, *, shape: tuple[int, int], mpp: float, quality: int = 85, description: str = ""
) -> Iterator[Pyramid]:
    """A slide in the making: a TIFF of JPEG tiles that OpenSlide opens, with its name when the block ends well.

    Args:
        path: ending in .tif.
        shape: height and width in px.
        mpp: um/px.
        quality: of the JPEG, 1 to 100.
        description: what the file says of itself.

    Yields:
        A pyramid to `add` bands uint8 [rows, w, 3], RGB, to.
    """

    def encode(tile: Pixels) -> bytes:
        how = (
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        )
        return cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), how)[1].tobytes()

    # The library writes JPEG's tags only where it finds a codec, which we bring ourselves.
    patches = {"Compression": int(tifffile.COMPRESSION.JPEG), "YCbCrSubSampling": (2, 2)}
    tags = {"dtype": np.dtype(np.uint8), "photometric": "ycbcr"}
    coding = Coding(encode, _mean, np.asarray, tags, patches, "chain")
    with _making(path, (*shape, 3), mpp, coding, description.encode(), 1) as pyramid:
        yield pyramid


@contextmanager
def _making(
    path: Path, shape: tuple[int, ...], mpp: float, coding: Coding, description: bytes, planes: int
) -> Iterator[Pyramid]:
    with open_new(path) as file:
        pyramid = Pyramid(file, shape, mpp, coding, description, planes=planes)
        try:
            yield pyramid
            pyramid.finish()
        finally:
            pyramid.close()


def _level_shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sizes of the levels, each half the last, until one tile holds all."""
    yield shape
    while max(shape[:2]) > TILE:
        shape = (-(-shape[0] // 2), -(-shape[1] // 2), *shape[2:])
        yield shape


def _square(tile: Pixels) -> Pixels:
    """A tile at the edge, its last row and column repeated up to the full size."""
    short = [(0, TILE - side) for side in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
    return np.pad(tile, short, mode="edge") if any(more for _, more in short) else np.ascontiguousarray(tile)


def _even(rows: Pixels) -> Pixels:
    """Planes [k, h, w, ...] with the last row and column repeated where their number is odd."""
    odd = [(0, 0), (0, rows.shape[1] % 2), (0, rows.shape[2] % 2)] + [(0, 0)] * (rows.ndim - 3)
    return np.pad(rows, odd, mode="edge") if any(more for _, more in odd) else rows


def _deflate(tile: Pixels) -> bytes:
    return zlib.compress(tile.data, 6)


def _as_floats(band: Pixels) -> Pixels:
    return band.astype(np.float32, copy=False)


def _as_bytes(band: Pixels) -> Pixels:
    return band if band.dtype == np.uint8 else np.rint(np.clip(band, 0, 1) * 255).astype(np.uint8)


def _mean(planes: Pixels) -> Pixels:
    """The mean of each 2 x 2 pixels; whole numbers are rounded."""
    size = planes.shape[2] // 2, planes.shape[1] // 2
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes])


def _majority(planes: Pixels) -> Pixels:
    """The label that most of each 2 x 2 pixels have; of two that are even, the first in reading order."""
    first, second = planes[:, ::2, ::2], planes[:, ::2, 1::2]
    third, fourth = planes[:, 1::2, ::2], planes[:, 1::2, 1::2]
    alone = (first != second) & (first != third) & (first != fourth)
    pair = (second == third) | (second == fourth)
    chosen = np.where(alone & pair, second, first)
    return np.where(alone & ~pair & (third == fourth), third, chosen)
