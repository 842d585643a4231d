"""Stains of a slide: how much of each a pixel holds, and one slide's colours made those of another.

Light is absorbed as Beer and Lambert say: the optical density ``ln((white + 1) / (I + 1))`` of a pixel is the sum over
the stains of an amount times the colour that the stain absorbs, a unit vector over red, green and blue. The 1 keeps
the density of a black pixel finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.slides.base import RgbImage, Slide
from histill.slides.tissue import Tissue

Amounts = NDArray[np.float32]
Matrix = NDArray[np.float64]
Vector = tuple[float, float, float]
Normaliser = Callable[[RgbImage], RgbImage]

BRIGHT: Vector = (255.0, 255.0, 255.0)

HED: Matrix = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
"""What haematoxylin, eosin and DAB absorb, [3, 3] (Ruifrok and Johnston, Anal Quant Cytol Histol 2001;23:291-299)."""
HED /= np.linalg.norm(HED, axis=1, keepdims=True)
_FROM_HED = np.linalg.inv(HED)

LEAST, STAINED = 500, 0.15
"""Fewest pixels that a fit is made of, and the natural optical density from which on a pixel is stained (Macenko)."""


def hed(image: RgbImage) -> Amounts:
    """How much haematoxylin, eosin and DAB each pixel holds, float32 [..., 3], from RGB uint8 [..., 3]."""
    return np.asarray(_density(image, BRIGHT) @ _FROM_HED.astype(np.float32), np.float32)


def rgb(amounts: Amounts) -> RgbImage:
    """The RGB uint8 [..., 3] of amounts of haematoxylin, eosin and DAB, float32 [..., 3]; undoes `hed`."""
    return _light(np.asarray(amounts @ HED.astype(np.float32), np.float32), BRIGHT)


def vary(image: RgbImage, factors: Matrix, shifts: Matrix) -> RgbImage:
    """Scale and shift the amounts of haematoxylin, eosin and DAB of an image uint8 [h, w, 3].

    The shift fades out with the stain, as the share of green light that is absorbed, so that empty glass stays white.

    Args:
        image: the image.
        factors: of the three amounts, [3].
        shifts: what is added to the three, [3].
    """
    density = cv2.transform(_density(image, BRIGHT), (_FROM_HED @ np.diag(factors) @ HED).T)
    absorbed = 1 - image[..., 1] / np.float32(255)  # [h, w]
    shifted = cv2.add(density, cv2.transform(absorbed, (shifts @ HED)[:, None]))
    return _light(np.asarray(shifted, np.float32), BRIGHT)


@dataclass(frozen=True)
class Macenko:
    """A slide's two stains (Macenko et al., ISBI 2009, doi:10.1109/ISBI.2009.5193250).

    The densities of stained pixels lie about a plane, which the two largest singular vectors span; the stains are
    the outermost directions in it, but for a percent on either side. Amounts are the coordinates along the two, and
    their 99th percentile is a slide's strength.

    What a pixel holds across the plane is left out, as in the paper: it is the cast of the scanner more than a stain.

    Attributes:
        haematoxylin: what it absorbs, a unit vector over red, green, blue; of the two stains the one that takes more
            red.
        eosin: the same of eosin.
        strength: 99th percentile of the amounts of either, in natural optical density.
        white: light where the glass is empty, 0 to 255.
    """

    haematoxylin: Vector
    eosin: Vector
    strength: tuple[float, float]
    white: Vector = BRIGHT

    @classmethod
    def fit(cls, pixels: RgbImage, white: Vector = BRIGHT) -> Self:
        """The stains of tissue.

        Args:
            pixels: uint8 [n, 3] or [h, w, 3].
            white: light where the slide's glass is empty.

        Raises:
            HistillError: input (4) if fewer than `LEAST` pixels are stained, or all have one colour.
        """
        density = _density(pixels.reshape(-1, 3), white).astype(np.float64)
        density = density[(density > STAINED).all(axis=1)]
        if len(density) < LEAST:
            raise _unfit(f"{len(density)} pixels are stained; stains are fitted to {LEAST} or more")
        _, axes = np.linalg.eigh(density.T @ density)
        plane = axes[:, 1:]  # [3, 2]
        # Angles are counted from the middle of all directions, and so never wrap.
        along = plane @ (plane.T @ density.mean(axis=0))
        along /= np.linalg.norm(along)
        across = np.cross(np.cross(axes[:, 1], axes[:, 2]), along)
        angles = np.arctan2(density @ across, density @ along)
        # No stain sends out light: what is below 0 is noise.
        stains = [
            (along * np.cos(angle) + across * np.sin(angle)).clip(1e-6) for angle in np.percentile(angles, (1, 99))
        ]
        haematoxylin, eosin = sorted((each / np.linalg.norm(each) for each in stains), key=lambda each: -each[0])
        if haematoxylin @ eosin > np.cos(np.radians(3)):
            raise _unfit("the tissue has one colour, and its stains cannot be told apart")
        amounts = density @ np.linalg.pinv(np.stack([haematoxylin, eosin]))  # [n, 2]
        first, second = np.percentile(amounts, 99, axis=0)
        return cls(_vector(haematoxylin), _vector(eosin), (float(first), float(second)), white)

    def unmix(self, image: RgbImage) -> Amounts:
        """Amounts of haematoxylin and eosin and what neither explains, float32 [..., 3], from uint8 [..., 3]."""
        return np.asarray(_density(image, self.white) @ np.linalg.inv(self._stains).astype(np.float32), np.float32)

    def mix(self, amounts: Amounts) -> RgbImage:
        """The image uint8 [..., 3] of such amounts; undoes `unmix`."""
        return _light(np.asarray(amounts @ self._stains.astype(np.float32), np.float32), self.white)

    def normaliser(self, target: Macenko | None = None) -> Normaliser:
        """What makes images uint8 [h, w, 3] of this slide look like the target, `MACENKO` if none is given."""
        target = target or MACENKO
        ratio = [*np.divide(target.strength, np.maximum(self.strength, 1e-3)), 0]
        change = np.linalg.inv(self._stains) @ np.diag(ratio) @ target._stains  # [3, 3], density to density

        def normalise(image: RgbImage) -> RgbImage:
            return _light(np.asarray(cv2.transform(_density(image, self.white), change.T), np.float32), target.white)

        return normalise

    @property
    def _stains(self) -> Matrix:
        """Both stains and what is at right angles to them, [3, 3]."""
        across = np.cross(self.haematoxylin, self.eosin)
        return np.stack([self.haematoxylin, self.eosin, across / np.linalg.norm(across)])


MACENKO = Macenko(
    haematoxylin=(0.580, 0.750, 0.318),
    eosin=(0.240, 0.870, 0.431),
    strength=(1.9, 1.2),
    white=(245.0, 245.0, 245.0),
)
"""The look that slides are given: well-stained H&E on light grey glass. Round numbers of our own, amid those that the
fit finds in colon and lung from three scanners."""


_LMS: Matrix = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB: Matrix = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


@dataclass(frozen=True)
class Reinhard:
    """A slide's mean colour and its spread in lαβ (Reinhard et al., IEEE CG&A 2001, doi:10.1109/38.946629).

    lαβ are three nearly independent mixtures of the logarithms of what the eye's cones see (Ruderman et al. 1998), here
    of the light as a share of what the empty glass lets through. The paper shifts and scales them alike everywhere,
    which would tint the glass: here the change fades out from pixels twice as dense as the palest stained ones to none
    at glass, which takes the target's colour.

    Attributes:
        mean: of l, α, β over stained pixels.
        deviation: of l, α, β over stained pixels.
        white: light where the glass is empty, 0 to 255.
    """

    mean: Vector
    deviation: Vector
    white: Vector = BRIGHT

    @classmethod
    def fit(cls, pixels: RgbImage, white: Vector = BRIGHT) -> Self:
        """The colours of tissue.

        Args:
            pixels: uint8 [n, 3] or [h, w, 3].
            white: light where the slide's glass is empty.

        Raises:
            HistillError: input (4) if fewer than `LEAST` pixels are stained.
        """
        pixels = pixels.reshape(-1, 3)
        seen = _lab(pixels[_density(pixels, white).mean(axis=1) > STAINED], white)
        if len(seen) < LEAST:
            raise _unfit(f"{len(seen)} pixels are stained; colours are fitted to {LEAST} or more")
        return cls(_vector(seen.mean(axis=0)), _vector(seen.std(axis=0)), white)

    def normaliser(self, target: Reinhard | None = None) -> Normaliser:
        """What makes images uint8 [h, w, 3] of this slide look like the target, `REINHARD` if none is given."""
        target = target or REINHARD
        # Tissue of one colour has no spread to be widened.
        ratio = [to / of if of > 1e-6 else 1.0 for to, of in zip(target.deviation, self.deviation, strict=True)]
        scale = np.linalg.inv(_LAB) @ np.diag(ratio) @ _LAB
        shift = np.linalg.inv(_LAB) @ (np.array(target.mean) - np.multiply(ratio, self.mean)) * np.log(10)
        change = np.column_stack([scale, shift])  # [3, 4], natural logarithms of cones to the same
        fade = np.full((1, 3), 1 / 3 / (2 * STAINED))  # mean density of three colours to a share

        def normalise(image: RgbImage) -> RgbImage:
            density = _density(image, self.white)
            cones = np.log(cv2.transform(np.exp(-density), _LMS))
            stained = cv2.transform(density, fade).clip(0, 1)[..., None]  # [h, w, 1]
            cones += stained * (cv2.transform(cones, change) - cones)
            shares = cv2.transform(np.exp(cones), np.linalg.inv(_LMS))  # of the light of empty glass
            return _light(-np.log(shares.clip(1e-6)), target.white)

        return normalise


REINHARD = Reinhard(mean=(-0.42, -0.075, 0.020), deviation=(0.18, 0.042, 0.008), white=(245.0, 245.0, 245.0))
"""The look that slides are given; round numbers of our own, those of tissue that looks like `MACENKO`."""

SAMPLES, SAMPLE_SIDE, SAMPLE_MPP = 32, 128, 1.0
"""Places of a slide that stains are fitted to, their side in px, and their spacing in um/px: nuclei are still told
from what is around them, which in a thumbnail they are not."""


def fit_normaliser(method: Literal["macenko", "reinhard"], slide: Slide, tissue: Tissue) -> Normaliser:
    """What makes tiles of a slide look like `MACENKO` or `REINHARD`, fitted to the slide once.

    Args:
        method: `Macenko` or `Reinhard`.
        slide: it is read at places spread evenly over its tissue: the same slide gives the same fit.
        tissue: where it has tissue.

    Raises:
        HistillError: input (4) if the slide is fluorescent, or has too little tissue, or tissue of one colour; or if
            it cannot be read, or has no spacing.
    """
    if tissue.kind == "fluorescence":
        raise HistillError(
            "fluorescence has no stains that absorb light",
            code=Exit.INPUT,
            subject=str(slide.path),
            mend="Predict without stain normalisation",
        )
    try:
        pixels = tissue_pixels(slide, tissue)
        fit = (Macenko if method == "macenko" else Reinhard).fit(pixels, tissue.glass)
    except HistillError as error:
        raise HistillError(
            error.what, code=error.code, subject=error.subject or str(slide.path), mend=error.mend
        ) from error
    return fit.normaliser()


def tissue_pixels(slide: Slide, tissue: Tissue) -> RgbImage:
    """Pixels of a slide's tissue from places spread evenly over it, uint8 [n, 3]."""
    frame = slide.at(max(SAMPLE_MPP, slide.mpp))
    rows, columns = np.nonzero(tissue.mask)
    chosen = np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(np.intp)
    found = [np.zeros((0, 3), np.uint8)]
    for row, column in zip(rows[chosen], columns[chosen], strict=True):
        x, y = (
            round((at + 0.5) * scale / frame.scale) - SAMPLE_SIDE // 2
            for at, scale in zip((column, row), tissue.scale, strict=True)
        )
        image = slide.read_as(frame.region(x, y, SAMPLE_SIDE, SAMPLE_SIDE), SAMPLE_SIDE, SAMPLE_SIDE)
        found.append(image[tissue.over(frame, x, y, SAMPLE_SIDE, SAMPLE_SIDE)])
    return np.concatenate(found)  # [n, 3]


def _density(image: RgbImage, white: Vector) -> Amounts:
    """Natural optical density, float32 [..., 3]."""
    table = np.log((np.array(white) + 1) / (np.arange(256)[:, None] + 1)).astype(np.float32)  # [256, 3]
    if image.ndim == 3 and image.size:
        return np.asarray(cv2.LUT(image, table[:, None]), np.float32)
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)


def _light(density: Amounts, white: Vector) -> RgbImage:
    """The light that passes, uint8 [..., 3]; undoes `_density`."""
    light = np.exp(-density) * (np.array(white, np.float32) + 1) - 0.5
    return np.asarray(np.clip(light, 0, 255), np.uint8)


def _lab(image: RgbImage, white: Vector) -> Matrix:
    lab: Matrix = np.log10((image + 1.0) / (np.array(white) + 1) @ _LMS.T) @ _LAB.T
    return lab


def _vector(values: Matrix) -> Vector:
    one, two, three = (float(value) for value in values)
    return one, two, three


def _unfit(what: str) -> HistillError:
    return HistillError(what, code=Exit.INPUT, mend="Predict this slide without stain normalisation")
