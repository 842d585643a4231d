"""How large a pixel is: what a file says of it, who says so, and whether it can be true.

Nothing is guessed. In particular these are not taken for a spacing: the power of an objective, as 40x is 0.22 to 0.28
um/px from one scanner to the next; and the dots per inch of a JPEG, which are whole numbers that programs make up for
printing. A TIFF's or PNG's resolution is taken where it has a unit and lies where a microscope's does, which that of
prints (72 to 1,200 dots per inch, 350 to 21 um) never does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histill.core.errors import Exit, HistillError
from histill.slides.base import Spacing
from histill.slides.header import UNIT, TiffImage

LEAST_MPP, MOST_MPP = 0.05, 20.0
"""um per level-0 px of slides: oil immersion at 100x has 0.06 or more, a slide at 0.5x has 20"""

SQUARE = 0.01
"""Pixels may be so much wider than high before a note says so,"""
NEARLY_SQUARE = 0.1
"""and so much before neither number is believed."""

_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
_UM_PER_NAME = {"um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3}


@dataclass(frozen=True)
class Stated:
    """What one place in a file says: um per px in x and y."""

    x: float
    y: float
    source: str


def choose(stated: Iterable[Stated], user: float | None) -> tuple[Spacing | None, tuple[str, ...]]:
    """The spacing to work with: the user's, else the first that a file states and that can be true.

    Args:
        stated: what the file says, the best source first.
        user: what the user says, in um per level-0 px.

    Returns:
        The spacing, or None; and notes on what was not taken, and why.

    Raises:
        HistillError: usage (2) if the user's cannot be true.
    """
    notes: list[str] = []
    taken: Spacing | None = None
    seen: list[tuple[float, float]] = []
    for each in stated:
        # OpenSlide repeats what the TIFF's tags say, to its last digits but a few.
        if taken is not None or any(np.allclose((each.x, each.y), other, rtol=1e-4, equal_nan=True) for other in seen):
            continue
        seen.append((each.x, each.y))
        # Of pixels that are not quite square the one number keeps areas right.
        mpp = each.x if each.x == each.y else math.sqrt(max(0.0, each.x * each.y))
        says = f"{each.source} says {each.x:.6g} um/px" + (f" by {each.y:.6g}" if each.x != each.y else "")
        aside = abs(each.x / each.y - 1) if each.x > 0 and each.y > 0 else math.nan
        if not (_plausible(each.x) and _plausible(each.y)):
            notes.append(f"{says}, and slides have {LEAST_MPP:g} to {MOST_MPP:g}: not taken")
        elif aside > NEARLY_SQUARE:
            notes.append(f"{says}, which are not the sides of a square: not taken")
        else:
            taken = Spacing(mpp, f"file: {each.source}")
            if aside > SQUARE:
                notes.append(f"{says}: taken as {mpp:.6g}, which keeps areas right")
    if user is None:
        return taken, tuple(notes)
    if not _plausible(user):
        raise HistillError(
            f"no slide has {user:g} um/px",
            code=Exit.USAGE,
            subject="--mpp",
            mend=f"Give the spacing of the slide's largest level, {LEAST_MPP:g} to {MOST_MPP:g} um/px",
        )
    if taken is not None and abs(user / taken.mpp - 1) > SQUARE:
        notes.append(f"{taken.source} says {taken.mpp:.6g} um/px; the user's {user:g} counts")
    return Spacing(user, "user"), tuple(notes)


def from_openslide(properties: Mapping[str, str]) -> list[Stated]:
    """What OpenSlide understood: of scanners' own words, DICOM's pixel spacing, and TIFF's resolution."""
    name = "openslide.mpp-x"
    if name not in properties:
        return []
    x = _number(properties[name])
    return [Stated(x, _number(properties.get("openslide.mpp-y", properties[name])), name)]


def from_tiff(image: TiffImage) -> list[Stated]:
    """What a TIFF says itself: its resolution tags, if they have a unit, OME-XML, or ImageJ's own words."""
    found = []
    per_px = [1 / each if each else math.nan for each in image.resolution]
    unit = _UM_PER_UNIT.get(image.value(UNIT, 2))
    if unit and not any(map(math.isnan, image.resolution)):
        found.append(Stated(per_px[0] * unit, per_px[1] * unit, "TIFF XResolution"))
    text = image.description
    sides = [_ome_side(text, axis) for axis in "XY"]
    if not any(map(math.isnan, sides)):
        found.append(Stated(sides[0], sides[1], "OME PhysicalSizeX"))
    name = re.search(r"^unit=(.+?)\s*$", text, re.MULTILINE)
    if text.startswith("ImageJ=") and name and name[1].lower() in _UM_PER_NAME:
        um = _UM_PER_NAME[name[1].lower()]
        found.append(Stated(per_px[0] * um, per_px[1] * um, "ImageJ unit"))
    return found


def from_png(info: Mapping[Any, Any]) -> list[Stated]:
    """What a PNG's pHYs chunk says, in the dots per inch that Pillow makes of it where its unit is the metre."""
    dpi = info.get("dpi")
    if not isinstance(dpi, tuple) or not all(dpi):
        return []
    return [Stated(25_400 / float(dpi[0]), 25_400 / float(dpi[1]), "PNG pHYs")]


def _plausible(mpp: float) -> bool:
    return LEAST_MPP <= mpp <= MOST_MPP  # false for NaN


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _ome_side(text: str, axis: str) -> float:
    """Um per px by OME-XML, whose unit is the um where it names none; NaN where it says nothing."""
    size = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', text)
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', text)
    return _number(size[1]) * _UM_PER_NAME.get(unit[1] if unit else "um", math.nan) if size else math.nan
