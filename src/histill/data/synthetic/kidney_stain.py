"""How made-up kidney gets its colours: PAS or Masson's trichrome, a section, a microscope. All of it is synthetic.

What is drawn are amounts of `LAYERS`; a stain says how much red, green and blue light each absorbs (Beer-Lambert).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.fields import Field

LAYERS = ("nuclei", "cytoplasm", "matrix", "brush", "blood")
"""What kidney is made of here; matrix: basement membranes, mesangium, collagen; brush: the proximal tubule's border."""

PAS = ((1.30, 1.12, 0.48), (0.16, 0.36, 0.18), (0.42, 1.32, 0.66), (0.32, 0.92, 0.46), (0.16, 0.62, 0.34))
"""Schiff's magenta on matrix and brush border, haematoxylin on nuclei; optical density of each layer for R, G, B."""

MASSON = ((1.45, 1.30, 0.92), (0.20, 0.72, 0.50), (1.05, 0.56, 0.20), (0.26, 0.80, 0.52), (0.10, 1.05, 0.95))
"""Red cytoplasm, blue matrix, scarlet blood, nearly black nuclei."""

STAINS = {"PAS": PAS, "Masson": MASSON}


@dataclass(frozen=True)
class KidneyLook:
    """What one donor's staining and scanning do to kidney.

    Attributes:
        stain: a key of `STAINS`.
        absorbed: optical density of each layer for red, green and blue, float32 [5, 3].
        white: the light where the glass is empty, 0 to 255 per colour.
        blur: deviation of the focus blur in micrometres.
        uneven: relative deviation of the section's thickness.
        noise: deviation of the sensor's noise in grey levels.
        quality: JPEG quality, 1 to 100.
    """

    stain: str
    absorbed: Field
    white: tuple[float, float, float]
    blur: float
    uneven: float
    noise: float
    quality: int


def draw_kidney_look(seed: int, donor: str, stain: str) -> KidneyLook:
    """The look of a donor's sections, which follows from the seed and the donor's name; a key of `STAINS`."""
    rng = generator(seed, "kidney look", donor)
    # Each dye takes a little more or less, and its colour leans to one side.
    taken = np.exp(rng.normal(0, 0.16, (len(LAYERS), 1))) * np.exp(rng.normal(0, 0.07, (len(LAYERS), 3)))
    absorbed = np.asarray(STAINS[stain]) * taken * np.exp(rng.normal(0, 0.12))
    bright = rng.uniform(230, 247)
    red, green, blue = (float(min(bright + shift, 254)) for shift in rng.normal(0, 2, 3))
    return KidneyLook(
        stain,
        absorbed.astype(np.float32),
        (red, green, blue),
        blur=float(rng.uniform(0.4, 0.9)),
        uneven=float(rng.uniform(0.04, 0.12)),
        noise=float(rng.uniform(1, 3)),
        quality=int(rng.integers(75, 93)),
    )


def photograph(
    layers: Field, thickness: Field, look: KidneyLook, mpp: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A picture of stained kidney, before it is stored.

    Args:
        layers: amounts of `LAYERS`, float32 [5, h, w].
        thickness: of the section, mean 0 and deviation 1, float32 [h, w].
        look: the donor's.
        mpp: micrometres per pixel.
        rng: where the noise comes from.

    Returns:
        uint8 [h, w, 3], RGB.
    """
    count, height, width = layers.shape
    density = (layers.reshape(count, -1).T @ -look.absorbed).reshape(height, width, 3)
    density *= (1 + look.uneven * np.clip(thickness, -2.5, 2.5))[..., None]
    light = np.exp(density, out=density)
    light *= np.asarray(look.white, np.float32)
    seen = np.asarray(cv2.GaussianBlur(light, (0, 0), look.blur / mpp), np.float32)
    grains = rng.standard_normal(seen.shape, np.float32)
    grains *= look.noise
    seen += grains
    image: NDArray[np.uint8] = np.clip(np.rint(seen, out=seen), 0, 255, out=seen).astype(np.uint8)
    return image
