"""Images and true masks of flat files: what a manifest's rows show, as arrays.

A header is checked before a pixel is decoded, and a file is either read whole and as it is, or refused: never guessed
at, never resized.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Region
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest, Sample, table_error
from histill.core.masks import LabelMap
from histill.data.recent import Recent

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""What is read; Pillow's other decoders are not tried."""

MOST_PIXELS = 120_000_000
"""An image with more pixels is refused before it is decoded; larger ones are slides, read tile by tile."""

CACHE_BYTES = 256 << 20

ORIENTATION = 0x0112
SIDEWAYS = range(5, 9)
"""EXIF orientations that swap width and height."""

RgbImage = NDArray[np.uint8]


def read_image(path: Path, crop: Region | None = None) -> RgbImage:
    """Read an image, or a part of it, as uint8 [h, w, 3].

    Grey, palette and 1-bit images become RGB, transparency is laid on white, EXIF orientation is applied (a crop counts
    in the upright image).

    Raises:
        HistillError: input (4) if the file is missing, not an image, truncated, or has 16 bits a channel; unsafe (5) if
            it is larger than `MOST_PIXELS`; usage (2) if the crop leaves the image.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            coloured = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
        pixels = np.array(upright.convert("RGB"))  # [h, w, 3]
    return pixels if crop is None else _cropped(pixels, crop, path)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an upright image, from its header alone. Raises as `read_image`."""
    with _opened(path) as image:
        # Of a TIFF Pillow turns the size itself.
        sideways = image.format != "TIFF" and image.getexif().get(ORIENTATION) in SIDEWAYS
        return (image.width, image.height) if sideways else (image.height, image.width)


def read_mask(sample: Sample, card: DatasetCard, size: tuple[int, int]) -> LabelMap:
    """The true mask of a sample as class indices, uint8 [h, w], `IGNORE` where the mask says nothing.

    Args:
        sample: a row with a mask; its crop applies to the mask as to the image.
        card: says what the mask's values mean.
        size: height and width of the whole image the mask belongs to; see `image_size`.

    Raises:
        HistillError: usage (2) if the row has no mask; input (4) if the file cannot be read, is not 8-bit indices, is
            not exactly of the image's size, or holds values that mean nothing.
    """
    if sample.mask is None:
        raise HistillError(
            "this row has no mask",
            code=Exit.USAGE,
            subject=f"line {sample.line} ({sample.id})",
            mend="Name its file in the column 'mask'",
        )
    labels = _whole_mask(sample.mask, card, size)
    return labels if sample.crop is None else _cropped(labels, sample.crop, sample.mask)


class ImageCache:
    """Decoded images, kept so that thirty crops of one image decode it once. For one process.

    Args:
        limit: most bytes kept; the image used longest ago goes first.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._images = Recent(read_image, attrgetter("nbytes"), limit)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.limit,)

    def read(self, sample: Sample) -> RgbImage:
        """The pixels of a sample, uint8 [h, w, 3], the caller's own to change. Raises as `read_image`."""
        whole = self._images.get(sample.path)
        return whole.copy() if sample.crop is None else _cropped(whole, sample.crop, sample.path)


class MaskCache:
    """True masks, kept as `ImageCache` keeps images: thirty crops of one image read its mask once.

    Args:
        card: says what the masks' values mean.
        most: masks kept.
    """

    def __init__(self, card: DatasetCard, most: int = 128) -> None:
        self._card = card
        self._whole = functools.lru_cache(maxsize=most)(self._read_whole)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._card,)

    def read(self, sample: Sample) -> LabelMap:
        """As `read_mask`, for the sample's own image; the caller does not change it."""
        if sample.mask is None:
            return read_mask(sample, self._card, (0, 0))
        labels = self._whole(sample.path, sample.mask)
        return labels if sample.crop is None else _cropped(labels, sample.crop, sample.mask)

    def _read_whole(self, image: Path, mask: Path) -> LabelMap:
        return _whole_mask(mask, self._card, image_size(image))


def check_files(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Decode every image and mask of a table once, and list what is wrong, each fault with its line.

    Args:
        manifest: the table.
        progress: called with (rows done, rows in all).

    Returns:
        One text per fault; a file that several rows share is named on the first of them.
    """
    faults: list[str] = []
    sizes: dict[Path, tuple[int, int] | None] = {}
    masks: set[tuple[Path, tuple[int, int]]] = set()
    for done, sample in enumerate(manifest.samples, 1):
        where = f"line {sample.line} ({sample.id})"
        try:
            if sample.path not in sizes:
                sizes[sample.path] = None
                height, width, _ = read_image(sample.path).shape
                sizes[sample.path] = height, width
            size = sizes[sample.path]
            if size is not None:
                if sample.crop is not None:
                    _check_inside(sample.crop, size, sample.path)
                if sample.mask is not None and (sample.mask, size) not in masks:
                    masks.add((sample.mask, size))
                    _whole_mask(sample.mask, manifest.card, size)
        except HistillError as error:
            faults.append(f"{where}: {error}")
        if progress is not None:
            progress(done, len(manifest.samples))
    return faults


def require_sound_files(manifest: Manifest, progress: Callable[[int, int], None] | None = None) -> None:
    """Raise one input error with every fault that `check_files` finds."""
    faults = check_files(manifest, progress)
    if faults:
        mend = "Mend these files, or take their rows out of the table"
        raise table_error(manifest.path, faults, mend, Exit.INPUT)


def _whole_mask(path: Path, card: DatasetCard, size: tuple[int, int]) -> LabelMap:
    with _opened(path) as image:
        if image.mode not in ("1", "P", "L"):
            raise _unreadable(
                path, f"a mask of mode {image.mode}, not 8-bit indices", "Save it as an indexed or grey 8-bit PNG"
            )
        values = np.array(image, np.uint8)  # [h, w]; of a 1-bit image 0 and 1
    if values.shape != size:
        raise _unreadable(
            path,
            f"the mask is {values.shape[1]} x {values.shape[0]} pixels, its image {size[1]} x {size[0]}",
            "Give a mask of exactly the image's size; histill resizes none",
        )
    if not card.mask_values and set(np.unique(values)) == {0, IGNORE}:
        raise _unreadable(
            path,
            "the mask holds 0 and 255 alone: 255 may be a class or say nothing",
            "Say in mask_values which, for both",
        )
    return mask_indices(values, card, path)


def mask_indices(values: NDArray[np.uint8], card: DatasetCard, path: Path) -> LabelMap:
    """Pixel values of a mask -> class indices, `IGNORE` where the mask says nothing; same shape.

    Raises:
        HistillError: input (4), naming the file, if a value means nothing.
    """
    meaning = _meaning(card)
    unknown = [
        str(value) for value in np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if value not in meaning
    ]
    if unknown:
        known = ", ".join(f"{value} {_name(index, card)}" for value, index in sorted(meaning.items()))
        raise _unreadable(
            path, f"the mask holds the value {', '.join(unknown)} (known: {known})", "Say in mask_values what it means"
        )
    table = np.full(256, IGNORE, np.uint8)
    for value, index in meaning.items():
        table[value] = index
    return table[values]


def _meaning(card: DatasetCard) -> dict[int, int]:
    """Pixel value -> class index or `IGNORE`."""
    if not card.mask_values:
        return {IGNORE: IGNORE, **{index: index for index in range(len(card.classes))}}
    return {
        int(value): IGNORE if name == "ignore" else card.classes.index(name) for value, name in card.mask_values.items()
    }


def _name(index: int, card: DatasetCard) -> str:
    return "ignore" if index == IGNORE else card.classes[index]


def _cropped(pixels: NDArray[np.uint8], crop: Region, path: Path) -> NDArray[np.uint8]:
    _check_inside(crop, (pixels.shape[0], pixels.shape[1]), path)
    return pixels[crop.y : crop.y + crop.h, crop.x : crop.x + crop.w].copy()  # [h, w, ...]


def _check_inside(crop: Region, size: tuple[int, int], path: Path) -> None:
    height, width = size
    if not crop.inside(width, height):
        raise HistillError(
            f"the crop x, y, w, h = {crop.x}, {crop.y}, {crop.w}, {crop.h} leaves the image of {width} x {height}",
            code=Exit.USAGE,
            subject=str(path),
            mend="Correct the crop in the table",
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header has been found sound and of 8 bits; what goes wrong in the block is the file's fault."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            # Pillow's warnings are of sizes below our own limit and of harmless oddities in the header.
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            # Pillow shows 16-bit colour as if it were 8-bit; only the raw mode of its decoder tells.
            if image.mode.startswith(("I", "F")) or any(";16" in str(tile.args) for tile in image.tile):
                raise _unreadable(path, "16 or more bits a channel", "Save it with 8 bits a channel")
            yield image
    except (HistillError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise HistillError(
            f"more than {MOST_PIXELS // 1_000_000} million pixels: it may be a decompression bomb",
            code=Exit.UNSAFE,
            subject=str(path),
            mend="Cut it into patches, or read it as a slide",
        ) from None
    except FileNotFoundError:
        raise _unreadable(path, "there is no such file", "Correct the path") from None
    except UnidentifiedImageError:
        what = "an empty file" if path.stat().st_size == 0 else f"not an image ({', '.join(FORMATS)})"
        raise _unreadable(path, what, "Copy the file again, or take its row out of the table") from None
    except Exception as error:  # Pillow's decoders meet damage with any exception there is
        raise _unreadable(
            path, f"cannot be decoded: {error}", "Copy the file again, or take its row out of the table"
        ) from error


def _unreadable(path: Path, what: str, mend: str) -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject=str(path), mend=mend)
