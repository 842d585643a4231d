"""How made-up tissue gets its colours: two stains, a section, a microscope and a file format. All of it is synthetic.

Light is absorbed as Beer and Lambert say: I = white * exp(-(h * H + e * E)), where H and E are the colours that the
stains absorb (unit vectors over red, green, blue) and h and e how much of each a pixel holds. The vectors lie around
those that Macenko et al. 2009 (doi:10.1109/ISBI.2009.5193250) find in slides of two scanners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.fields import Field, smooth

Vector = tuple[float, float, float]

HAEMATOXYLIN: tuple[Vector, Vector] = ((0.61, 0.72, 0.33), (0.49, 0.83, 0.27))
EOSIN: tuple[Vector, Vector] = ((0.21, 0.84, 0.50), (0.20, 0.95, 0.23))
"""What the stains absorb as one scanner sees it, and as another does; slides lie in between."""


@dataclass(frozen=True)
class SlideLook:
    """What one slide's staining and scanning do to its tissue.

    Attributes:
        haematoxylin: the colours that haematoxylin absorbs, a unit vector over red, green, blue.
        eosin: the same of eosin.
        strength: factors on the amounts of haematoxylin and eosin.
        white: the light that reaches the sensor where the glass is empty, 0 to 255 per colour.
        blur: focus blur, the deviation of a Gaussian in micrometres.
        uneven: relative deviation of the section's thickness.
        noise: sensor noise, its deviation in grey levels.
        quality: JPEG quality, 1 to 100.
    """

    haematoxylin: Vector = HAEMATOXYLIN[0]
    eosin: Vector = EOSIN[0]
    strength: tuple[float, float] = (1.0, 1.0)
    white: Vector = (243.0, 241.0, 244.0)
    blur: float = 0.35
    uneven: float = 0.06
    noise: float = 1.5
    quality: int = 85


def draw_look(seed: int, slide: str) -> SlideLook:
    """The look of a slide, which follows from the seed and the slide's name."""
    rng = generator(seed, "look", slide)

    scanner = rng.beta(0.8, 1.2)

    def unit(ends: tuple[Vector, Vector]) -> Vector:
        one, other = np.asarray(ends)
        drawn = np.abs((1 - scanner) * one + scanner * other + rng.normal(0, 0.03, 3))
        red, green, blue = (float(part) for part in drawn / np.linalg.norm(drawn))
        return red, green, blue

    bright = rng.uniform(232, 248)
    red, green, blue = (float(min(bright + shift, 254)) for shift in rng.normal(0, 1.5, 3))
    return SlideLook(
        haematoxylin=unit(HAEMATOXYLIN),
        eosin=unit(EOSIN),
        strength=(float(np.exp(rng.normal(0, 0.2))), float(np.exp(rng.normal(0, 0.22)))),
        white=(red, green, blue),
        blur=float(rng.uniform(0.25, 0.6)),
        uneven=float(rng.uniform(0.03, 0.1)),
        noise=float(rng.uniform(0.8, 2.5)),
        quality=int(rng.integers(70, 93)),
    )


def absorb(amounts: Field, look: SlideLook) -> Field:
    """The light that stained tissue lets through, by the law of Beer and Lambert.

    Args:
        amounts: haematoxylin and eosin, float32 [h, w, 2], in natural optical density.
        look: the slide's stains.

    Returns:
        float32 [h, w, 3]: red, green, blue, 0 to 255.
    """
    vectors = np.asarray([look.haematoxylin, look.eosin], np.float32) * np.asarray(look.strength, np.float32)[:, None]
    light: Field = np.exp(amounts @ -vectors) * np.asarray(look.white, np.float32)  # [h, w, 3]
    return light


def expose(amounts: Field, look: SlideLook, mpp: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A photograph of stained tissue: uneven section, Beer-Lambert, focus blur, noise.

    Args:
        amounts: haematoxylin and eosin, float32 [h, w, 2].
        look: the slide's look.
        mpp: micrometres per pixel.
        rng: where the noise comes from.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = amounts.shape[:2]
    coarse = smooth((height // 8 + 2, width // 8 + 2), 60 / mpp / 8, rng)
    thickness = 1 + look.uneven * np.clip(cv2.resize(coarse, (width, height)), -3, 3)  # [h, w]
    light = absorb(amounts * thickness[..., None], look)
    seen = np.asarray(cv2.GaussianBlur(light, (0, 0), look.blur / mpp), np.float32)
    seen += look.noise * rng.standard_normal(seen.shape, np.float32)
    image: NDArray[np.uint8] = np.clip(seen + 0.5, 0, 255).astype(np.uint8)
    return image


def jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """An RGB image [h, w, 3] as a JPEG file."""
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return coded.tobytes()


def through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What is left of an RGB image after it was stored as JPEG."""
    coded = np.frombuffer(jpeg(image, quality), np.uint8)
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
