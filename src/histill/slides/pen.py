"""Pen marks on the glass of a slide: blue, green, red or black felt-tip."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.slides.glass import Mask, Plane, extremes


def pen_marks(density: Sequence[Plane], least: float, um: float) -> Mask:
    """Felt-tip: dark, in a hue that stains hardly have, and of one dye evenly laid on, which tissue never is.

    One dye absorbs the colours in one proportion however thick it lies: the directions of the densities around a pixel
    agree (Beer-Lambert). In tissue they scatter, and so do the amounts, blue and green stains' as well.

    Args:
        density: optical density of red, green and blue over the glass, log10, float32 [h, w] each.
        least: area of the smallest mark in px.
        um: per px.

    Returns:
        bool [h, w].
    """
    red, green, blue = density
    fewest, most = extremes(density)
    inks = (
        (green < 0.75 * np.minimum(red, blue)) & (most > 0.2),  # green
        (red > 1.15 * green) & (red > blue + 0.15) & (most > 0.3),  # blue
        (np.minimum(green, blue) > 0.3) & (blue > 0.75 * green) & (red < 0.25 * green),  # red
        (fewest > 0.5) & (most - fewest < 0.3 * most),  # black
    )
    found = np.zeros(red.shape, bool)
    radius = max(2, round(24 / um))
    for ink in inks:
        if np.count_nonzero(ink) < least:
            continue
        even = ink & (_unevenness(density, ink, radius) < 0.002)
        core = cv2.morphologyEx(even.astype(np.uint8), cv2.MORPH_OPEN, _square(16 / um)) > 0
        _, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8))
        area = stats[:, cv2.CC_STAT_AREA]
        # Where ink lies on tissue it is as uneven as that; a sixth on bare glass gives the piece away.
        is_ink = (area >= least) & (np.bincount(labels[core], minlength=len(area)) > 0.16 * area)
        is_ink[0] = False
        found |= is_ink[labels]
    # Ink runs out thinly at its edge.
    return np.asarray(cv2.dilate(found.astype(np.uint8), _square(30 / um)) > 0)


def _square(radius: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.ones((side, side), np.uint8)


def _unevenness(channels: Sequence[Plane], where: Mask, radius: int) -> Plane:
    """The deviation of amounts, as a share of them, times that of directions, over the chosen pixels around each."""
    red, green, blue = channels
    amount: Plane = np.sqrt(red * red + green * green + blue * blue) + np.float32(1e-3)
    weight = where.astype(np.float32)
    size = (2 * radius + 1, 2 * radius + 1)
    count = np.maximum(cv2.blur(weight, size), 1e-3)

    def mean(values: Plane) -> Plane:
        return np.asarray(cv2.blur(values * weight, size) / count, np.float32)

    level = mean(amount)
    spread = np.sqrt(np.maximum(mean(amount * amount) - level * level, 0)) / level.clip(1e-3)
    # Unit vectors that all point one way have a mean of length 1.
    agreement = mean(red / amount) ** 2 + mean(green / amount) ** 2 + mean(blue / amount) ** 2
    return np.asarray(spread * np.sqrt(np.maximum(1 - agreement, 0)), np.float32)
