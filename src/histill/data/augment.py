"""Random changes to an image and its masks, drawn from one generator per sample: flips, quarter turns, blur, stain."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histill.core.config import Strict
from histill.slides.stain import vary

Image = NDArray[np.uint8]


Chance = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Strict):
    """What training does to images."""

    flip: Chance = 0.5
    """chance of a horizontal flip, and of a vertical one"""
    turn: bool = False
    """turn by a random number of quarter turns (square images; others by half turns)"""
    blur: Chance = 0.0
    """chance of a Gaussian blur of sigma 0.1 to 2 px"""
    stain: Chance = 0.0
    """how far the red, green and blue optical densities may be scaled, each by its own draw: 0.1 is 10 %"""
    hed: Chance = 0.0
    """how far the amounts of haematoxylin, eosin and DAB may be scaled, each by its own draw, and shifted by up to a
    quarter of that in optical density: 0.1 is 10 % and 0.025"""


def augment(
    image: Image, masks: Image | None, settings: Augmentation, random: np.random.Generator
) -> tuple[Image, Image | None]:
    """Change an image uint8 [h, w, 3] and its masks uint8 [m, h, w] alike; blur and stains touch the image only.

    Varying stains in HED is Tellez et al., IEEE TMI 2018, doi:10.1109/TMI.2018.2820199.
    """
    for axis in (0, 1):
        if random.random() < settings.flip:
            image = np.flip(image, axis)
            masks = None if masks is None else np.flip(masks, axis + 1)
    if settings.turn:
        square = image.shape[0] == image.shape[1]
        turns = int(random.integers(4)) if square else 2 * int(random.integers(2))
        image = np.rot90(image, turns)
        masks = None if masks is None else np.rot90(masks, turns, axes=(1, 2))
    if random.random() < settings.blur:
        blurred = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), float(random.uniform(0.1, 2.0)))
        image = blurred.astype(np.uint8, copy=False)
    if settings.stain:
        image = scale_density(image, 1 + settings.stain * random.uniform(-1, 1, size=3))
    if settings.hed:
        factors, shifts = 1 + settings.hed * random.uniform(-1, 1, 3), settings.hed / 4 * random.uniform(-1, 1, 3)
        image = vary(image, factors, shifts)
    return np.ascontiguousarray(image), None if masks is None else np.ascontiguousarray(masks)


def scale_density(image: Image, factors: NDArray[np.float64]) -> Image:
    """Scale each channel's optical density: ``I' = 255 (I / 255)^f`` (Beer-Lambert), by a table of 256 entries."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255
    table = np.rint(255 * levels ** factors[None, :]).astype(np.uint8)  # [256, 3]
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)
