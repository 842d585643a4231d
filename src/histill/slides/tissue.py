"""Where on a slide there is tissue: H&E pale and strong, IHC, PAS, silver, fluorescence; without pen marks and dust.

In bright field tissue is what absorbs more light than the glass beside it, or absorbs it unevenly over the colours. So
the glass is found first: flat, nearly colourless, among the brightest. Its light, which may fall off towards the
corners, is fitted by a quadratic; optical density over it says how much each pixel absorbs (Beer-Lambert), and the
glass's own scatter says from where on this is more than noise. A slide without any glass is measured against its own
brightest light, and is tissue wherever it absorbs. Under fluorescence tissue is what shines brighter than the dark.
No threshold is drawn from the histogram of the whole picture: one that halves it (Otsu's) halves tissue too, where
there is nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histill.core.config import Strict
from histill.core.geometry import Frame
from histill.slides.base import RgbImage, Slide
from histill.slides.glass import BLACK, Mask, Plane, at_least, extremes, find_glass, split, texture
from histill.slides.pen import pen_marks

Kind = Literal["bright field", "fluorescence"]

Amount = Annotated[float, Field(ge=0)]


class TissueSettings(Strict):
    """How tissue is told from glass."""

    spacing: Annotated[float, Field(gt=0)] = 8.0
    """um per px of the coarse map; finer on small slides and coarser on large ones, 512 to 2,048 px a side"""
    kind: Literal["auto", "bright field", "fluorescence"] = "auto"
    """how the slide was lit; auto: seen from its pixels"""
    threshold: Amount = 0.0
    """least density of tissue over the glass (fluorescence: brightness over the dark), about 0.02 to 0.1; 0: follows
    from the scatter of the glass"""
    least_area: Amount = 20_000.0
    """smaller pieces are dust, in um2 (20,000 is a disc 160 um wide); never more than a fiftieth of the slide"""
    largest_hole: Amount = 50_000.0
    """smaller holes are lumen, fat or a tear, and filled, in um2; never more than a twentieth of the slide"""
    drop_pen: bool = True
    """leave out blue, green, red and black felt-tip"""


class Dropped(IntEnum):
    """Why a pixel that differs from the glass is no tissue."""

    PEN = 1
    SMALL = 2
    """dust, or a piece smaller than the least area"""
    BORDER = 3
    """black or grey that the scanner put where it did not scan"""


@dataclass(frozen=True, eq=False)
class Tissue:
    """Where there is tissue, on a coarse map of the whole slide.

    Attributes:
        mask: bool [h, w].
        scale: level-0 px per mask px, along x and along y: ``slide.size`` over the mask's.
        why: empty, or why there is no tissue at all, a phrase.
        kind: how the slide was lit.
        threshold: what was taken: density over the glass, or brightness over the dark as a share of full.
        glass: red, green and blue of the empty glass, or of the dark; what stains are measured against.
        dropped: uint8 [h, w], a `Dropped` where something was left out, else 0.
    """

    mask: Mask
    scale: tuple[float, float]
    why: str
    kind: Kind
    threshold: float
    glass: tuple[float, float, float]
    dropped: NDArray[np.uint8]

    @property
    def share(self) -> float:
        """Tissue as a share of the slide."""
        return float(self.mask.mean())

    def over(self, frame: Frame, x: int, y: int, w: int, h: int) -> Mask:
        """Tissue on a rectangle of a finer map of the same slide, bool [h, w]; none beyond the slide.

        Args:
            frame: the map.
            x: left column of the rectangle in map px.
            y: its top row.
            w: its width.
            h: its height.
        """
        rows, columns = self.mask.shape
        inside_x, at_x = _places(x, w, frame.scale / self.scale[0], columns)
        inside_y, at_y = _places(y, h, frame.scale / self.scale[1], rows)
        found: Mask = self.mask[np.ix_(at_y, at_x)] & (inside_y[:, None] & inside_x[None])
        return found


def _places(start: int, count: int, ratio: float, size: int) -> tuple[Mask, NDArray[np.intp]]:
    at = np.floor((np.arange(start, start + count) + 0.5) * ratio).astype(np.intp)
    return (at >= 0) & (at < size), at.clip(0, size - 1)


LONGEST, SHORTEST, BLIND = 2048, 512, 1024
"""Bounds of the coarse map's longer side in px, and that side where the slide's spacing is not known."""


def find_tissue(slide: Slide, settings: TissueSettings | None = None) -> Tissue:
    """Where a slide has tissue. Finding none is no error: `Tissue.why` then says why.

    Args:
        slide: what to look at; without a spacing areas are measured as if a px of the coarse map were `spacing` wide.
        settings: how tissue is told from glass.

    Raises:
        HistillError: input (4) if the slide cannot be read.
    """
    settings = settings or TissueSettings()
    spacing = slide.facts.spacing
    whole = max(slide.size)
    wanted = float(BLIND)
    if spacing is not None:
        wanted = min(max(whole * spacing.mpp / settings.spacing, SHORTEST), LONGEST)
    # A level of about that size is read as it is: decoding a finer one to shrink it takes seconds.
    sizes = [max(level.width, level.height) for level in slide.facts.levels]
    near = [size for size in sizes if wanted / 1.6 <= size <= min(wanted * 1.6, 1.25 * LONGEST)]
    image = slide.thumbnail(round(min(near, key=lambda size: abs(np.log(size / wanted)), default=wanted)))
    height, width = image.shape[:2]
    scale = slide.size[0] / width, slide.size[1] / height
    return tissue_in(image, settings, mpp=spacing.mpp * whole / max(height, width) if spacing else None, scale=scale)


def tissue_in(
    image: RgbImage,
    settings: TissueSettings | None = None,
    *,
    mpp: float | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Tissue:
    """Where a picture of a slide, or a patch, has tissue.

    Args:
        image: uint8 [h, w, 3].
        settings: how tissue is told from glass.
        mpp: um per px of the picture; None where it is not known.
        scale: level-0 px per px of the picture, along x and y.
    """
    settings = settings or TissueSettings()
    # A patch is looked at as closely as a slide of a millimetre: lengths of tissue would blur all of it.
    um = max(mpp or settings.spacing, 1000 / float(np.sqrt(image.shape[0] * image.shape[1])))
    kind: Kind = settings.kind if settings.kind != "auto" else _lit(image)
    view = _in_bright_field(image, um, settings) if kind == "bright field" else _in_the_dark(image, um, settings)
    found, dropped = view.found, view.dropped

    free = dropped == 0
    # Gaps as narrow as a fat cell's lumen close, without growing over what was dropped.
    found = _closed(found, round(20 / um)) & free
    found = _filled(found, settings.largest_hole / um**2) & free
    large = at_least(found, settings.least_area / um**2)
    dropped[found & ~large] = Dropped.SMALL
    return Tissue(large, scale, _why(view, large, settings), kind, view.threshold, view.glass, dropped)


@dataclass(frozen=True)
class _View:
    """What differs from the glass, before it is cleaned; the fields are those of `Tissue`."""

    found: Mask
    dropped: NDArray[np.uint8]
    threshold: float
    glass: tuple[float, float, float]


def _why(view: _View, mask: Mask, settings: TissueSettings) -> str:
    if mask.any():
        return ""
    small = f"pieces smaller than {settings.least_area:,.0f} um2"
    found = {Dropped.PEN: "pen marks", Dropped.SMALL: small}
    if left_out := [text for reason, text in found.items() if (view.dropped == reason).any()]:
        return f"only {' and '.join(left_out)} were found"
    if (view.dropped == Dropped.BORDER).all():
        return "the picture is all black, or all one grey"
    return "no pixel differs from the background"


def _lit(image: RgbImage) -> Kind:
    """Whether light came through the tissue or out of it: much dark, and hardly any light that has all colours."""
    least, most = extremes(split(image))
    seen = most > BLACK
    if not seen.any():
        return "bright field"
    # Black alone says little: some scanners fill in with it around glass, which is bright in all colours.
    dark, light = float((most < 50).mean()), float((least > 90).mean())
    if dark >= 0.25 and float(np.median(least[seen])) < 60:
        return "fluorescence"
    one_dye = light < 0.005 and float(np.median(least[seen] / most[seen])) < 0.2
    return "fluorescence" if one_dye else "bright field"


def _in_bright_field(image: RgbImage, um: float, settings: TissueSettings) -> _View:
    glass = find_glass(image, um)
    dropped = np.where(glass.border, np.uint8(Dropped.BORDER), np.uint8(0))
    if settings.drop_pen:
        # A felt-tip's mark is larger than the smallest piece of tissue that counts.
        ink = pen_marks(glass.density, 5 * settings.least_area / um**2, um)
        dropped[ink & ~glass.border] = Dropped.PEN
    # Stains absorb one colour more than another, shadows and dirt all alike: so colour counts in full, and mere
    # darkness by half, which still finds silver and weakly counterstained tissue.
    red, green, blue = glass.density
    least, most = extremes(glass.density)
    strength: Plane = most - least + (red.clip(0) + green.clip(0) + blue.clip(0)) / 6
    threshold = settings.threshold or float(np.clip(_scatter(strength[glass.where]), 0.015, 0.06))
    strength[dropped > 0] = 0
    return _View(_grown(strength, threshold), dropped, threshold, glass.colour)


def _in_the_dark(image: RgbImage, um: float, settings: TissueSettings) -> _View:
    bright = extremes(split(image))[1].astype(np.float32)
    brightness = np.asarray(cv2.GaussianBlur(bright / 255, (0, 0), max(0.8, 12 / um)), np.float32)
    deviation, level = texture(bright, max(2, round(12 / um)))
    empty = (deviation < 4) & (level <= np.median(level))
    dark = _mode(brightness[empty]) if empty.any() else float(brightness.min())
    threshold = settings.threshold or max(0.02, _scatter(brightness[empty] - dark))
    found = _grown(brightness - dark, threshold)
    rest = image[~found] if not found.all() else image[:1, 0]
    red, green, blue = (float(value) for value in np.median(rest, axis=0))
    return _View(found, np.zeros(found.shape, np.uint8), threshold, (red, green, blue))


def _scatter(values: Plane) -> float:
    """How far noise reaches: the median, and five deviations (of a normal curve with the same median deviation)."""
    if not values.size:
        return 0.0
    middle = float(np.median(values))
    return middle + 5 * 1.4826 * float(np.median(np.abs(values - middle)))


def _mode(values: Plane) -> float:
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    most = int(counts.argmax())
    return float(edges[most] + edges[most + 1]) / 2


def _grown(strength: Plane, threshold: float) -> Mask:
    """Pieces above the threshold that somewhere reach twice as much."""
    count, labels = cv2.connectedComponents((strength > threshold).astype(np.uint8))
    sure = np.zeros(count, bool)
    sure[labels[strength > 2 * threshold]] = True
    sure[0] = False
    grown: Mask = sure[labels]
    return grown


def _closed(mask: Mask, radius: int) -> Mask:
    if radius < 1:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed: Mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0
    return closed


def _filled(mask: Mask, area: float) -> Mask:
    """The mask with the gaps filled that are smaller and lie wholly inside the picture."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < area
    small[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
    filled: Mask = mask | small[labels]
    return filled
