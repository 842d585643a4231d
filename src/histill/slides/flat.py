"""Flat images as slides of one level: PNG, JPEG, BMP, and TIFF in strips, decoded whole when first read."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from histill.core.errors import Exit, HistillError
from histill.slides.base import Level, RgbImage, Slide, SlideFacts, on_white
from histill.slides.header import COMPRESSION, COPY_AGAIN, EXPORT, TiffImage, not_one_image, refusal
from histill.slides.identity import changed
from histill.slides.resolution import choose, from_png, from_tiff

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""What is read; Pillow's other decoders are not tried."""

MOST_PIXELS = 150_000_000
"""An image is held whole: at this size in 450 MB, and in 1.1 GB while it is decoded. Pillow refuses more by itself."""

ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
_BAND = 1024


class FlatSlide(Slide):
    """A slide of one level in an image file. Grey becomes colour, alpha is laid on white, EXIF orientation is applied.

    Args:
        path: the file.
        mpp: um per px, where the user gives it.
        images: what `check_header` found.

    Raises:
        HistillError: input (4) if it is no image of a known kind, has 16 bits a channel, or is several images; unsafe
            (5) if it is larger than `MOST_PIXELS`; usage (2) for a spacing that cannot be true.
    """

    def __init__(self, path: Path, mpp: float | None, images: tuple[TiffImage, ...]) -> None:
        if any(not image.reduced for image in images[1:]):
            raise not_one_image(path, images)
        self._images = images
        self._whole: NDArray[np.uint8] | None = None
        with _header(path, images) as image:
            self._turn = _orientation(image)
            stated = from_tiff(images[0]) if images else from_png(image.info) if image.format == "PNG" else []
            spacing, notes = choose(stated, mpp)
            width, height = image.size[::-1] if self._turn in _SIDEWAYS else image.size
            properties = {"format": str(image.format), "mode": image.mode}
        if self._turn > 1:
            notes = (*notes, f"turned upright by its EXIF orientation {self._turn}")
        super().__init__(path, SlideFacts("flat", (Level(width, height, 1.0),), spacing, properties, notes))

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> RgbImage:
        if self._whole is None:
            self._whole = self._decoded()
        part = self._whole[y : y + h, x : x + w]
        return np.repeat(part[..., None], 3, axis=2) if part.ndim == 2 else part.copy()  # [h, w, 3]

    def _close(self) -> None:
        self._whole = None

    def _decoded(self) -> NDArray[np.uint8]:
        """All pixels, uint8 [h, w] of a grey image, else [h, w, 3]."""
        with _header(self.path, self._images) as image:
            if image.format == "PNG":
                _require_sums(self.path)
            upright = image.transpose(_TURNS[self._turn]) if self._turn > 1 else image
            upright.load()
            if upright.size != self.size:
                raise changed(self.path)
            mode = "RGBA" if upright.has_transparency_data else "L" if upright.mode in ("1", "L") else "RGB"
            pixels = np.empty((upright.height, upright.width, 3)[: 2 if mode == "L" else 3], np.uint8)
            # In bands, as Pillow's copy of the whole in another mode would take the memory twice.
            for top in range(0, upright.height, _BAND):
                bottom = min(top + _BAND, upright.height)
                band = np.asarray(upright.crop((0, top, upright.width, bottom)).convert(mode))
                pixels[top:bottom] = on_white(band) if mode == "RGBA" else band
        return pixels


def _orientation(image: Image.Image) -> int:
    # Pillow turns TIFFs itself. A PNG's EXIF behind its pixels would have all of them decoded.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    found = image.getexif().get(ORIENTATION)
    return found if found in _TURNS else 1


def _require_sums(path: Path) -> None:
    # The decoder passes over a PNG's sums, and shows what it makes of damaged data.
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()


@contextlib.contextmanager
def _header(path: Path, images: tuple[TiffImage, ...]) -> Iterator[Image.Image]:
    """An image that may be decoded; what goes wrong in the block is the file's fault."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            # Pillow's warnings are of sizes below our own limit and of harmless oddities in the header.
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            # Pillow shows 16-bit colour as if it were 8-bit; only the raw mode of its decoder tells.
            if image.mode.startswith(("I", "F")) or any(";16" in str(tile.args) for tile in image.tile):
                raise refusal(path, "16 or more bits a channel", EXPORT)
            yield image
    except (HistillError, MemoryError):
        raise
    except Image.DecompressionBombError:
        what = f"a flat image of more than {MOST_PIXELS // 1_000_000} million pixels, which would be decoded whole"
        raise refusal(path, what, EXPORT, Exit.UNSAFE) from None
    except UnidentifiedImageError:
        what, mend = "neither a slide nor an image of a kind that is read", f"Known images are {', '.join(FORMATS)}"
        if images:
            what, mend = f"a TIFF of a kind that is not read (compression {images[0].value(COMPRESSION, 1)})", EXPORT
        raise refusal(path, what, mend) from None
    except Exception as error:  # Pillow's decoders meet damage with any exception there is
        raise refusal(path, f"cannot be decoded: {error}", COPY_AGAIN) from error
