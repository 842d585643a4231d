"""Made files: small pyramids, TIFFs of any tags, and files that are damaged in a known way."""

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.slides.open import open_slide

Image = NDArray[np.uint8]


def coordinates(side: int = 256) -> Image:
    """An image whose red is x and whose green is y; blue tells nothing."""
    y, x = np.mgrid[:side, :side] * 256 / side
    return np.dstack([x, y, np.full_like(x, 7)]).astype(np.uint8)


def tissue(width: int, height: int, seed: int = 0) -> Image:
    """Smooth colours that differ from place to place."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    return np.clip(170 + smooth / smooth.std() * 30, 0, 255).astype(np.uint8)


def shrunk(image: Image, width: int, height: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def blocks(image: Image, factor: int) -> Image:
    """Means of squares of so many pixels; what is left over at the edges is dropped, as scanners do."""
    height, width = (side // factor for side in image.shape[:2])
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(squares.mean((1, 3))).astype(np.uint8)


def write_pyramid(
    path: Path, levels: Sequence[Image], mpp: float | None = 0.25, tile: int = 64, **options: object
) -> Path:
    """A tiled TIFF that OpenSlide opens, without loss; the levels are written as they are."""
    spacing = {} if mpp is None else {"resolution": (10_000 / mpp, 10_000 / mpp), "resolutionunit": "CENTIMETER"}
    given = {"compression": "zlib", "photometric": "rgb", "tile": (tile, tile), "metadata": None, **spacing, **options}
    with tifffile.TiffWriter(path) as file:
        for index, level in enumerate(levels):
            file.write(level, subfiletype=1 if index else 0, **given)
    return path


def poke(path: Path, tag: int, value: int, index: int = 0, page: int = 0) -> Path:
    """Overwrite one value of a tag in place."""
    with tifffile.TiffFile(path) as file:
        found = file.pages[page].tags[tag]
        form = {3: "H", 4: "I", 16: "Q"}[int(found.dtype)]
        place, order = found.valueoffset + index * struct.calcsize(form), file.byteorder
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(struct.pack(order + form, value))
    return path


def bare_tiff(path: Path, *images: dict[int, Sequence[int]], big: bool = False, last: int = 0, extra: int = 0) -> Path:
    """A TIFF of nothing but directories: values by tag, of 4 bytes each, or 8 in a BigTIFF.

    Args:
        path: the file.
        images: one directory each.
        big: as BigTIFF.
        last: where the last directory says that the next one is.
        extra: bytes added at the end, as a hole.
    """
    room, count, kind = (8, "Q", 16) if big else (4, "H", 4)
    word = "Q" if big else "I"
    data = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8))
    for number, image in enumerate(images):
        first = len(data) + struct.calcsize(f"<{count}")
        tables = first + len(image) * (4 + 2 * room) + room
        entries, rest = bytearray(), bytearray()
        for tag, values in sorted(image.items()):
            packed = struct.pack(f"<{len(values)}{word}", *values)
            inline = packed.ljust(room, b"\0") if len(packed) <= room else struct.pack(f"<{word}", tables + len(rest))
            rest += packed if len(packed) > room else b""
            entries += struct.pack(f"<HH{word}", tag, kind, len(values)) + inline
        following = tables + len(rest) if number + 1 < len(images) else last
        data += struct.pack(f"<{count}", len(image)) + entries + struct.pack(f"<{word}", following) + rest
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + extra)
    return path


def outcome(path: Path, mpp: float | None = 0.5) -> Image | HistillError:
    """What comes of opening a file and reading all of it: pixels at level 0, or the error; nothing else may come."""
    try:
        with open_slide(path, mpp) as slide:
            return slide.thumbnail(max(slide.size))
    except HistillError as error:
        found = error
    assert found.code in (Exit.INPUT, Exit.UNSAFE)
    assert found.mend
    return found


def failure(path: Path, mpp: float | None = 0.5) -> HistillError:
    """The error of a file that is not read."""
    error = outcome(path, mpp)
    assert isinstance(error, HistillError), "it was read"
    assert error.subject == str(path)
    return error
