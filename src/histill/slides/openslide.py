"""Slides of scanners, as OpenSlide reads them: Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM, tiled TIFF."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import openslide

from histill.slides.base import Level, RgbImage, Slide, SlideFacts, on_white
from histill.slides.header import (
    BITS,
    COMPRESSION,
    COPY_AGAIN,
    EXPORT,
    ORIENTATION,
    PHOTOMETRIC,
    SAMPLES,
    TiffImage,
    check_size,
    check_tile,
    not_one_image,
    refusal,
)
from histill.slides.identity import changed
from histill.slides.resolution import choose, from_openslide, from_tiff

JPEG, DEFLATE, JPEG_2000 = {7}, {8, 32946}, {33003, 33005}
"""Ways of compression, by TIFF's numbers."""


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads. Colours are as stored: a colour profile is left alone.

    A TIFF's orientation is not applied, so that coordinates are those of OpenSlide and of QuPath; a note says so.

    Args:
        path: a file that OpenSlide recognises.
        mpp: um per level-0 px, where the user gives it.
        images: what `check_header` found.

    Raises:
        HistillError: input (4) if OpenSlide cannot open it or would read it wrongly: channels, planes, some
            orientations; unsafe (5) if it claims more than a slide has; usage (2) for a spacing that cannot be true.
    """

    def __init__(self, path: Path, mpp: float | None, images: tuple[TiffImage, ...]) -> None:
        self._handle: openslide.OpenSlide | None = _opened(path)
        self._closed = False
        facts, stored = _facts(path, self._handle, mpp, images)
        self._stored = [_StoredTiles(path, image) if image and _unchecked(image) else None for image in stored]
        super().__init__(path, facts)

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        where = f"{w} x {h} pixels at {x}, {y} of level {level} cannot be decoded"
        stored = self._stored[level]
        if stored is not None and not stored.sound(x, y, w, h):
            raise refusal(self.path, f"{where}: a tile's data are cut off or damaged", COPY_AGAIN)
        try:
            return self._pixels(level, x, y, w, h)
        except openslide.OpenSlideError:
            # A handle that failed once fails for ever, at sound tiles too: a new one decides if this is unreadable.
            self._handle = None
        try:
            return self._pixels(level, x, y, w, h)
        except openslide.OpenSlideError as error:
            self._handle = None
            raise refusal(self.path, f"{where}: {error}", COPY_AGAIN) from error

    def _pixels(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        # Held here, as another thread may let go of it meanwhile.
        handle = self._handle or self._reopened()
        down = self.facts.levels[level].downsample
        return on_white(np.asarray(handle.read_region((round(x * down), round(y * down)), level, (w, h))))

    def _reopened(self) -> openslide.OpenSlide:
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        handle = self._handle = _opened(self.path)
        if handle.level_dimensions != tuple((each.width, each.height) for each in self.facts.levels):
            raise changed(self.path)
        return handle

    def _close(self) -> None:
        # Not closed but let go of: closed under another thread that reads, it would end the process.
        self._handle, self._closed = None, True


class _StoredTiles:
    """A level's tiles as they are stored, each looked at once before OpenSlide decodes it.

    It decodes damaged tiles of some compressions without an error: JPEG 2000 and grey JPEG whose end is missing, as a
    blur or grey, and Deflate whose sum is wrong, as whatever comes out. A copy that stopped half way and was filled up
    with zeros would show tissue that is not there. In LZW and raw tiles nothing tells zeros from black.
    """

    def __init__(self, path: Path, image: TiffImage) -> None:
        self.path, self.image = path, image
        self.begins, self.lengths = image.stored
        self.looked_at = (self.begins == 0) | (self.lengths == 0)
        (width, height), (tile_width, tile_height) = image.size, image.tile
        columns, rows = math.ceil(width / tile_width), math.ceil(height / tile_height)
        # Colours may lie in planes of tiles one behind the other.
        planes = len(self.begins) // (columns * rows)
        self.grid = np.arange(planes * rows * columns).reshape(planes, rows, columns)

    def sound(self, x: int, y: int, w: int, h: int) -> bool:
        """Whether all tiles under a rectangle of the level can be decoded, as far as their data tell."""
        width, height = self.image.tile
        under = self.grid[:, y // height : (y + h - 1) // height + 1, x // width : (x + w - 1) // width + 1]
        new = under[~self.looked_at[under]]
        if len(new):
            try:
                with self.path.open("rb") as file:
                    for index in new:
                        file.seek(int(self.begins[index]))
                        self.looked_at[index] = self._ends(file.read(int(self.lengths[index])))
            except OSError as error:
                raise refusal(self.path, f"cannot be read: {error.strerror or error}", COPY_AGAIN) from None
        return bool(self.looked_at[new].all())

    def _ends(self, data: bytes) -> bool:
        if self.image.value(COMPRESSION) not in DEFLATE:
            return data.rstrip(b"\0").endswith(b"\xff\xd9")
        across = self.image.tile[0] * self.image.value(BITS, 1) * self.image.value(SAMPLES, 1)
        length = math.ceil(across / 8) * self.image.tile[1]
        stream = zlib.decompressobj()
        try:
            stream.decompress(data, 2 * length + 1024)
        except zlib.error:
            return False
        return stream.eof


def recognised(path: Path) -> bool:
    """Whether OpenSlide knows this kind of file, by its content."""
    try:
        return path.is_file() and openslide.OpenSlide.detect_format(path) is not None
    except (openslide.OpenSlideError, OSError, ValueError):
        return False


def _opened(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        if "BitsAllocated" in str(error):
            raise refusal(path, "16 or more bits a channel", EXPORT) from error
        mend = f"Copy the file again. Where another program reads it: {EXPORT}"
        raise refusal(path, f"OpenSlide cannot open it: {error}", mend) from error


def _facts(
    path: Path, handle: openslide.OpenSlide, mpp: float | None, images: tuple[TiffImage, ...]
) -> tuple[SlideFacts, list[TiffImage | None]]:
    """What there is to know of a slide, and the image of a TIFF that is each of its levels."""
    # Of a damaged file OpenSlide lists properties that it then does not have.
    properties = {name: value for name in handle.properties if (value := handle.properties.get(name)) is not None}
    vendor = properties.get("openslide.vendor", "unknown")
    sizes = zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    levels = tuple(Level(width, height, float(down)) for (width, height), down in sizes)
    for index, level in enumerate(levels):
        check_size(path, level.width, level.height)
        tile = [int(properties.get(f"openslide.level[{index}].tile-{side}", 0)) for side in ("width", "height")]
        check_tile(path, *tile)
    # By size, as a scanner's first image may be a macro: its resolution is not the slide's.
    stored = [
        next((image for image in images if image.tiled and image.size == (level.width, level.height)), None)
        for level in levels
    ]
    first = stored[0]
    spacing, notes = choose([*from_openslide(properties), *(from_tiff(first) if first else [])], mpp)
    for image in stored:
        _require_upright(path, image)
    oddities = _oddities(first) if first else []
    if vendor == "generic-tiff" and first is not None:
        others = [image for image in images if image is not first and not image.reduced]
        # OpenSlide reads the first and is silent on the others: of fluorescence one channel would pass for the slide.
        if any(image.size == first.size for image in others):
            raise not_one_image(path, images)
        if others:
            oddities.append(f"{len(others)} more images in the file are not read")
    return SlideFacts(vendor, levels, spacing, properties, (*notes, *oddities)), stored


def _direct(image: TiffImage) -> bool:
    """Whether OpenSlide decodes an image's tiles itself; it leaves the others to libtiff."""
    kind = image.value(COMPRESSION, 1)
    return kind in JPEG_2000 or (kind in JPEG and image.value(PHOTOMETRIC) in (2, 6))


def _unchecked(image: TiffImage) -> bool:
    """Whether OpenSlide may decode damaged tiles of an image without an error that its data would tell."""
    kind = image.value(COMPRESSION, 1)
    return kind in DEFLATE | JPEG_2000 or (kind in JPEG and not _direct(image))


def _require_upright(path: Path, image: TiffImage | None) -> None:
    # libtiff would mirror each tile by itself, in its place; only of 5, a transposition, it does nothing at all.
    if image is not None and image.value(ORIENTATION, 1) not in (0, 1, 5) and not _direct(image):
        what = f"OpenSlide would scramble its tiles, for its TIFF orientation is {image.value(ORIENTATION)}"
        raise refusal(path, what, "Set it to 1 with: tiffset -s 274 1 FILE. Its coordinates are then as stored")


def _oddities(image: TiffImage) -> list[str]:
    """What a user should know of a TIFF's largest level that OpenSlide does not say."""
    notes = []
    orientation = image.value(ORIENTATION, 1)
    if orientation > 1:
        notes.append(f"its TIFF orientation {orientation} is not applied: coordinates are as OpenSlide's and QuPath's")
    if image.missing:
        notes.append(f"{image.missing} of {len(image.stored[0])} tiles of its largest level are not stored: white")
    return notes
