"""Random changes to an image and its masks or boxes, from one generator a sample: flips, turns, blur, stain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histill.core.boxes import Boxes
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


@dataclass(frozen=True)
class Pose:
    """How an image is flipped, then turned.

    Attributes:
        flips: whether rows, and whether columns, run the other way.
        turns: quarter turns against the clock.
    """

    flips: tuple[bool, bool]
    turns: int

    @staticmethod
    def draw(settings: Augmentation, square: bool, random: np.random.Generator) -> Pose:
        """A pose; images that are not square keep their sides."""
        down, across = (random.random() < settings.flip for _ in range(2))
        turns = 0
        if settings.turn:
            turns = int(random.integers(4)) if square else 2 * int(random.integers(2))
        return Pose((bool(down), bool(across)), turns)

    def of(self, pixels: NDArray[np.uint8], axis: int = 0) -> NDArray[np.uint8]:
        """Pixels in this pose; rows are along `axis`, columns along the next."""
        turned = np.flip(pixels, tuple(axis + i for i, flip in enumerate(self.flips) if flip))
        return np.rot90(turned, self.turns, axes=(axis, axis + 1))

    def of_boxes(self, boxes: Boxes, width: int, height: int) -> Boxes:
        """Boxes of an image of this width and height, as they lie in its pose."""
        x0, y0, x1, y1 = boxes.corners.T
        if self.flips[0]:
            y0, y1 = height - y1, height - y0
        if self.flips[1]:
            x0, x1 = width - x1, width - x0
        for _ in range(self.turns % 4):
            # The right edge comes to lie at the top.
            x0, y0, x1, y1 = y0, width - x1, y1, width - x0
            width, height = height, width
        return replace(boxes, corners=np.stack([x0, y0, x1, y1], axis=-1).astype(np.float32))


def augment(
    image: Image, masks: Image | None, settings: Augmentation, random: np.random.Generator
) -> tuple[Image, Image | None]:
    """Change an image uint8 [h, w, 3] and its masks uint8 [m, h, w] alike; blur and stains touch the image only."""
    pose = Pose.draw(settings, image.shape[0] == image.shape[1], random)
    masks = None if masks is None else np.ascontiguousarray(pose.of(masks, axis=1))
    return recolour(pose.of(image), settings, random), masks


def recolour(image: Image, settings: Augmentation, random: np.random.Generator) -> Image:
    """Change how sharp an image uint8 [h, w, 3] is and how it is stained.

    Varying stains in HED is Tellez et al., IEEE TMI 2018, doi:10.1109/TMI.2018.2820199.
    """
    if random.random() < settings.blur:
        blurred = cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), float(random.uniform(0.1, 2.0)))
        image = blurred.astype(np.uint8, copy=False)
    if settings.stain:
        image = scale_density(image, 1 + settings.stain * random.uniform(-1, 1, size=3))
    if settings.hed:
        factors, shifts = 1 + settings.hed * random.uniform(-1, 1, 3), settings.hed / 4 * random.uniform(-1, 1, 3)
        image = vary(image, factors, shifts)
    return np.ascontiguousarray(image)


def scale_density(image: Image, factors: NDArray[np.float64]) -> Image:
    """Scale each channel's optical density: ``I' = 255 (I / 255)^f`` (Beer-Lambert), by a table of 256 entries."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255
    table = np.rint(255 * levels ** factors[None, :]).astype(np.uint8)  # [256, 3]
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)
