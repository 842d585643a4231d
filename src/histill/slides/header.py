"""What a slide's file promises, checked before a decoder believes it: that it is whole, and that no number is a bomb.

A TIFF is a chain of directories, one an image, of tags that say where its tiles lie and how large they are. A decoder
takes these at their word: 2,651 bytes can ask it for gigabytes. What is legal and common is let through: tiles of white
that are a few hundred bytes, and tiles that are not stored at all, which some scanners leave out.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError

MOST_PIXELS = 100_000_000_000
"""of one level; the largest glass there is, 50 x 75 mm at 0.25 um/px, has 60 billion"""

MOST_TILE_PIXELS = 1 << 26
"""of one tile, which a decoder holds whole; scanners write 256 to 4,096 a side"""

MOST_PIXELS_A_BYTE = 10_000
"""of a level of more than `FREE_PIXELS`: white in JPEG has about 200, a slide with no tile stored 8,000"""

FREE_PIXELS = 1_000_000_000

MOST_TABLE_BYTES = 1 << 28
"""of where tiles lie, over all levels; 60 billion pixels in tiles of 256 need 20 million"""

MOST_DIRECTORIES = 1000
MOST_TAGS = 4096
MOST_TEXT = 1 << 16

EXPORT = "Export it as a tiled TIFF of 8-bit colour (from QuPath, or with: vips tiffsave IN OUT --tile)"
COPY_AGAIN = "Copy the file again, or take it out"

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES = 273, 274, 277, 279
X_RESOLUTION, Y_RESOLUTION, UNIT, KIND = 282, 283, 296, 254
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325

_TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u4", 7: "u1", 9: "i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8"}
_WANTED = {
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_BYTES),
    *(X_RESOLUTION, Y_RESOLUTION, UNIT, KIND, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES),
}


@dataclass(frozen=True, eq=False)
class TiffImage:
    """One image of a TIFF, as its directory describes it: values by their tags."""

    tags: dict[int, NDArray[Any]]

    def value(self, tag: int, default: int = 0) -> int:
        """The first, or only, value of a tag."""
        return int(self.tags[tag][0]) if tag in self.tags else default

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in its own px."""
        return self.value(WIDTH), self.value(HEIGHT)

    @property
    def tiled(self) -> bool:
        """Whether it is cut into tiles, as slides are, and not into strips."""
        return TILE_WIDTH in self.tags

    @property
    def reduced(self) -> bool:
        """Whether it is a smaller copy of another image, or a mask."""
        return bool(self.value(KIND) & 0b101)

    @property
    def channels(self) -> int:
        """Channels that are not colours, of fluorescence for one; 0 for grey, palette, colour, and these with alpha."""
        samples = self.value(SAMPLES, 1)
        # Photometric 0 and 1 are grey, which has one sample, and 3 indices; alpha is one more.
        return samples if samples > (2 if self.value(PHOTOMETRIC) in (0, 1, 3) else 4) else 0

    @property
    def resolution(self) -> tuple[float, float]:
        """Px per unit in x and y; NaN where the file says none."""
        return self._ratio(X_RESOLUTION), self._ratio(Y_RESOLUTION)

    @property
    def description(self) -> str:
        """Its text, cut off at `MOST_TEXT`."""
        return bytes(self.tags.get(DESCRIPTION, np.zeros(0, np.uint8))).decode("utf-8", "replace").rstrip("\0")

    @cached_property
    def stored(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Where each tile or strip begins, and its bytes."""
        begins = self.tags.get(TILE_OFFSETS, self.tags.get(STRIP_OFFSETS, np.zeros(0)))
        lengths = self.tags.get(TILE_BYTES, self.tags.get(STRIP_BYTES, np.zeros(0)))
        count = min(len(begins), len(lengths))
        return begins[:count].astype(np.uint64), lengths[:count].astype(np.uint64)

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of its tiles; 0 of an image in strips."""
        return self.value(TILE_WIDTH), self.value(TILE_HEIGHT)

    @property
    def missing(self) -> int:
        """Tiles that are not stored."""
        begins, lengths = self.stored
        return int(((begins == 0) | (lengths == 0)).sum())

    def _ratio(self, tag: int) -> float:
        values = [float(each) for each in self.tags.get(tag, ())]
        numerator, denominator = (*values, 1.0)[:2] if values else (math.nan, 1.0)
        return numerator / denominator if denominator else math.nan


def check_header(path: Path) -> tuple[TiffImage, ...]:
    """Refuse a file that is not there, not whole, or dangerous to decode; nothing is decoded for that.

    Returns:
        The images of a TIFF; nothing for other files, and for TIFFs beyond 4 GiB of the kind that has no room for it,
        as Hamamatsu writes them: what OpenSlide says of these is checked when they are open.

    Raises:
        HistillError: input (4) if it is missing, a folder, empty, unreadable, cut off, damaged, or of 16 bits; unsafe
            (5) if it promises more than a slide has.
    """
    size = _file_size(path)
    try:
        with path.open("rb") as file:
            images = _Directories(path, file, size).images()
    except OSError as error:
        raise refusal(
            path, f"cannot be read: {error.strerror or error}", "Check its permissions and the disk"
        ) from None
    for index, image in enumerate(images):
        # Further images in strips are labels and previews, which are not read, and which some tools wipe.
        if index == 0 or image.tiled:
            _check_image(path, image, size)
    return images


def check_size(path: Path, width: int, height: int) -> None:
    """Refuse a level with more pixels than any slide has.

    Raises:
        HistillError: unsafe (5).
    """
    if width * height > MOST_PIXELS:
        what = f"it claims {width} x {height} pixels, more than any slide has"
        raise refusal(path, what, "Take it out, or cut it into parts", Exit.UNSAFE)


def check_tile(path: Path, width: int, height: int) -> None:
    """Refuse tiles that are too large to decode whole.

    Raises:
        HistillError: unsafe (5).
    """
    if width * height > MOST_TILE_PIXELS:
        raise refusal(path, f"it claims tiles of {width} x {height} pixels: it may be a bomb", EXPORT, Exit.UNSAFE)


def refusal(path: Path, what: str, mend: str, code: Exit = Exit.INPUT) -> HistillError:
    """The error of a file that is not read."""
    return HistillError(what, code=code, subject=str(path), mend=mend)


def not_one_image(path: Path, images: tuple[TiffImage, ...]) -> HistillError:
    """The error of a TIFF of channels or planes, of which none is the slide."""
    count = sum(not image.reduced for image in images)
    what = f"it holds {count} images that are not levels of one another: channels, planes or time points"
    return refusal(path, what, f"Choose one, or make colours of the channels. {EXPORT}")


def _file_size(path: Path) -> int:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise refusal(path, "there is no such file", "Correct the path") from None
    except (OSError, ValueError) as error:
        raise refusal(path, f"cannot be read: {error}", "Correct the path, or check its permissions") from None
    if stat.S_ISDIR(found.st_mode):
        raise refusal(path, "a folder, not a slide", "Give a file; of a DICOM slide any one of its series")
    if not stat.S_ISREG(found.st_mode):
        raise refusal(path, "not a plain file", "Give a file")
    if found.st_size == 0:
        raise refusal(path, "an empty file", COPY_AGAIN)
    return found.st_size


def _check_image(path: Path, image: TiffImage, file_size: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise refusal(path, f"damaged: an image of {width} x {height} pixels", COPY_AGAIN)
    if image.tiled and not all(image.tile):
        raise refusal(path, "damaged: an image of tiles without a size", COPY_AGAIN)
    check_size(path, width, height)
    if max(image.tags.get(BITS, (8,))) > 8:
        # OpenSlide and Pillow would show it cut to its upper 8 bits, and so nearly black where a scanner uses 12.
        raise refusal(path, "16 or more bits a channel", EXPORT)
    if image.channels:
        raise refusal(path, f"{image.channels} channels that are not colours", EXPORT)
    check_tile(path, *image.tile)
    begins, lengths = image.stored
    there = (begins > 0) & (lengths > 0)
    if not there.any():
        if len(there):
            raise refusal(path, "none of its pixels are stored", COPY_AGAIN)
        return
    # One by one first, as their sum could run over.
    for values in (begins[there], lengths[there], begins[there] + lengths[there]):
        if int(values.max()) > file_size:
            what = f"cut off: its pixels reach byte {int(values.max())}, and it has {file_size}"
            raise refusal(path, what, COPY_AGAIN)
    most = int(lengths.max())
    if image.tiled and most > 16 * math.prod(image.tile) + (1 << 20):
        what = f"it claims {most} bytes for a tile of {image.tile[0]} x {image.tile[1]} pixels: it may be a bomb"
        raise refusal(path, what, EXPORT, Exit.UNSAFE)
    if width * height > max(FREE_PIXELS, MOST_PIXELS_A_BYTE * file_size):
        what = f"it claims {width} x {height} pixels in {file_size} bytes: it may be a bomb"
        raise refusal(path, what, "Take it out", Exit.UNSAFE)


class _Directories:
    """The chain of directories of a TIFF, read with every length checked before it is believed."""

    def __init__(self, path: Path, file: IO[bytes], size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.tables = 0

    def images(self) -> tuple[TiffImage, ...]:
        magic = self.file.read(8)
        self.order = {b"II": "<", b"MM": ">"}.get(magic[:2], "")
        version = struct.unpack(f"{self.order}H", magic[2:4])[0] if self.order and len(magic) == 8 else 0
        if version not in (42, 43) or (version == 42 and self.size > 1 << 32):
            return ()
        # Classic TIFF: 2-byte counts of tags, 12-byte tags, 4-byte values and offsets; BigTIFF: 8, 20, 8.
        self.count, self.word, self.room = ("H", "I", 4) if version == 42 else ("Q", "Q", 8)
        offset = self._unpack(self.word, 4 if version == 42 else 8)
        images: list[TiffImage] = []
        while offset:
            # The chain may be a ring.
            if len(images) == MOST_DIRECTORIES:
                raise refusal(self.path, "its chain of images has no end", COPY_AGAIN, Exit.UNSAFE)
            tags, offset = self._directory(offset)
            images.append(TiffImage(tags))
        if not images:
            raise refusal(self.path, "cut off: it says where no image is", COPY_AGAIN)
        return tuple(images)

    def _directory(self, offset: int) -> tuple[dict[int, NDArray[Any]], int]:
        """The wanted tags of a directory, and where the next begins."""
        tags: dict[int, NDArray[Any]] = {}
        entries = self._unpack(self.count, offset)
        if entries > MOST_TAGS:
            raise refusal(self.path, f"damaged: an image with {entries} tags", COPY_AGAIN)
        first, step = offset + struct.calcsize(f"<{self.count}"), 4 + 2 * self.room
        block = self._read(first, entries * step)
        for start in range(0, len(block), step):
            tag, kind, count = struct.unpack_from(f"{self.order}HH{self.word}", block, start)
            if tag in _WANTED and kind in _TYPES and count:
                inline = block[start + 4 + self.room : start + step]
                tags[tag] = self._values(kind, count, inline)
        return tags, self._unpack(self.word, first + len(block))

    def _values(self, kind: int, count: int, inline: bytes) -> NDArray[Any]:
        dtype = np.dtype(self.order + _TYPES[kind])
        # A text is cut to what is wanted of it, a ratio is two numbers.
        count = min(count, MOST_TEXT) if kind == 2 else count * (2 if kind == 5 else 1)
        length = count * dtype.itemsize
        # In all, as a thousand directories may share one table.
        self.tables += length
        if self.tables > MOST_TABLE_BYTES:
            what = f"it claims tables of {self.tables} bytes: it may be a bomb"
            raise refusal(self.path, what, COPY_AGAIN, Exit.UNSAFE)
        if length > len(inline):
            inline = self._read(struct.unpack(f"{self.order}{self.word}", inline)[0], length)
        return np.frombuffer(inline[:length], dtype)

    def _unpack(self, form: str, offset: int) -> int:
        return int(struct.unpack(f"{self.order}{form}", self._read(offset, struct.calcsize(f"<{form}")))[0])

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            what = f"cut off: its header reaches byte {offset + length}, and it has {self.size}"
            raise refusal(self.path, what, COPY_AGAIN)
        self.file.seek(offset, os.SEEK_SET)
        data = self.file.read(length)
        if len(data) < length:
            raise refusal(self.path, "it grew shorter while it was read", COPY_AGAIN)
        return data
