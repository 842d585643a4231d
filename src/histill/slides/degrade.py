"""What a cheap scanner sees of a field that a good one has seen: softer, coarser, noisier, and stored as JPEG."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histill.core.config import Strict
from histill.core.errors import Exit, HistillError


class Scanner(Strict):
    """A cheap scanner. With all of it off, it is plain area down-sampling."""

    blur: Annotated[float, Field(ge=0, le=5)] = 0.5
    """deviation of the Gaussian that its lens blurs by, in its own (large) pixels; 0: none"""
    noise: Annotated[float, Field(ge=0, le=50)] = 2.0
    """deviation of its sensor's noise, in grey levels of 0 to 255; 0: none"""
    quality: Annotated[int, Field(ge=0, le=100)] = 75
    """quality of its JPEG, 1 to 100; 0: stored without loss"""


PLAIN = Scanner(blur=0, noise=0, quality=0)
"""Area down-sampling and nothing else."""


def degrade(image: NDArray[np.uint8], factor: int, scanner: Scanner, random: np.random.Generator) -> NDArray[np.uint8]:
    """A field at `factor` times the pixel size, as the scanner sees it.

    Pixel (x, y) of the result shows the ``factor x factor`` pixels from ``(x, y) * factor`` on. Pixels at the right and
    at the bottom that do not fill a pixel of the result are left out.

    Args:
        image: uint8 [h, w, 3].
        factor: how many times as large a pixel becomes.
        scanner: what else it does: lens, then sensor, then file.
        random: where the noise comes from.

    Returns:
        uint8 [h // factor, w // factor, 3].

    Raises:
        HistillError: usage (2) if the factor is below 1, or the image smaller than one pixel of the result.
    """
    h, w = (side // max(factor, 1) for side in image.shape[:2])
    if factor < 1 or not h or not w:
        raise HistillError(
            f"an image of {image.shape[1]} x {image.shape[0]} px cannot be made {factor} times as coarse",
            code=Exit.USAGE,
            subject="degrade",
            mend="Give a factor from 1 to the image's shorter side",
        )
    # What lies beyond the part that is kept still shines into it through the lens.
    blurred = cv2.GaussianBlur(image, (0, 0), scanner.blur * factor) if scanner.blur else image
    seen = _block_means(np.asarray(blurred, np.uint8)[: h * factor, : w * factor], factor)  # [h, w, 3]
    if scanner.noise:
        seen = seen + scanner.noise * random.standard_normal(seen.shape, np.float32)
    coarse: NDArray[np.uint8] = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    return _through_jpeg(coarse, scanner.quality) if scanner.quality else coarse


def _block_means(image: NDArray[np.uint8], factor: int) -> NDArray[np.float64]:
    h, w = image.shape[0] // factor, image.shape[1] // factor
    # In single precision a block's sum is exact up to 256 px a side; its mean may be off in the last bit.
    means = cv2.resize(image.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA)
    exact: NDArray[np.float64] = np.rint(np.asarray(means, np.float64) * factor**2) / factor**2
    return exact


def _through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
