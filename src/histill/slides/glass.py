"""The empty glass of a slide lit from below: where it is, how much light it lets through, and the density over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.slides.base import RgbImage

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]
Number = TypeVar("Number", np.uint8, np.float32)

BLACK = 24
"""the brightest that still counts as black"""

LOGS = np.log10(np.maximum(np.arange(256), 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Glass:
    """Empty glass, and what is measured against it.

    Attributes:
        where: bool [h, w], what was taken for empty glass; none at all where tissue fills the picture.
        border: bool [h, w], what the scanner filled in where it did not scan.
        density: log10 of the glass's light over each pixel's, red, green and blue, float32 [h, w] each, smoothed over
            6 um: the optical density of what lies on the glass (Beer-Lambert).
        colour: red, green and blue of the glass, 0 to 255.
    """

    where: Mask
    border: Mask
    density: tuple[Plane, Plane, Plane]
    colour: tuple[float, float, float]


def find_glass(image: RgbImage, um: float) -> Glass:
    """Find the empty glass of a picture, uint8 [h, w, 3], and measure everything against it.

    Without any glass the brightest light of the picture stands in for it.

    Args:
        image: the picture.
        um: per px of it.
    """
    border = _border(image)
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    where = _empty(image, *texture(grey, max(2, round(12 / um))), border)
    logs = np.asarray(cv2.LUT(image, LOGS), np.float32)  # [h, w, 3]
    field = _field(logs, where, border)  # [h, w, 3]
    density = field - logs
    density[border] = 0
    smooth = np.asarray(cv2.GaussianBlur(density, (0, 0), max(0.8, 6 / um)), np.float32)
    red, green, blue = (float(value) for value in 10 ** np.median(field[where] if where.any() else field[0], axis=0))
    return Glass(where, border, split(smooth), (red, green, blue))


def split(image: NDArray[Number]) -> tuple[NDArray[Number], NDArray[Number], NDArray[Number]]:
    """Three planes [h, w] of an image [h, w, 3], each in one piece: numpy is slow along a last axis of three."""
    one, two, three = (np.asarray(plane, image.dtype) for plane in cv2.split(image))
    return one, two, three


def extremes(planes: Sequence[NDArray[Number]]) -> tuple[NDArray[Number], NDArray[Number]]:
    """The least and the most of three planes at each pixel."""
    one, two, three = planes
    return np.minimum(np.minimum(one, two), three), np.maximum(np.maximum(one, two), three)


def texture(grey: Plane, radius: int) -> tuple[Plane, Plane]:
    """Deviation and mean of grey levels over the square around each pixel."""
    size = (2 * radius + 1, 2 * radius + 1)
    mean = np.asarray(cv2.blur(grey, size, borderType=cv2.BORDER_REFLECT), np.float32)
    square = np.asarray(cv2.blur(grey * grey, size, borderType=cv2.BORDER_REFLECT), np.float32)
    return np.sqrt(np.maximum(square - mean * mean, 0)), mean


def at_least(mask: Mask, area: float) -> Mask:
    """The pieces of a mask that have so many pixels or more."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    large = stats[:, cv2.CC_STAT_AREA] >= area
    large[0] = False
    kept: Mask = large[labels]
    return kept


def _border(image: RgbImage) -> Mask:
    """What scanners fill in where they did not scan: one grey without any grain, or black from a corner on."""
    # Wider than a block of JPEG, within which glass is often one grey.
    block = np.ones((11, 11), np.uint8)
    channels = split(image)
    least, most = extremes(channels)
    constant = (most < 200) & (most - least <= 6)
    for channel in channels if constant.any() else ():
        constant &= cv2.dilate(channel, block) == cv2.erode(channel, block)
    grey = cv2.dilate(at_least(constant, constant.size / 500).astype(np.uint8), block) > 0
    _, pieces = cv2.connectedComponents((most <= BLACK).astype(np.uint8))
    corners = np.unique(pieces[[0, 0, -1, -1], [0, -1, 0, -1]])
    edge = grey | np.isin(pieces, corners[corners > 0])
    # What a codec smears over the border's edge is no tissue either.
    return np.asarray(cv2.dilate(edge.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)


def _empty(image: RgbImage, deviation: Plane, level: Plane, border: Mask) -> Mask:
    """Empty glass: flat, nearly colourless, among the brightest."""
    if border.all():
        return np.zeros(border.shape, bool)
    least, most = extremes(split(image))
    colourless = (most - least) <= 0.15 * most
    bright = level > max(80.0, 0.5 * float(np.percentile(level[~border], 99)))
    # Pale tissue is flat too, but not as flat as the glass beside it.
    flat = float(np.clip(3 * np.percentile(deviation[~border], 10), 1.2, 4))
    found: Mask = (deviation < flat) & colourless & bright & ~border
    # Where nothing was scanned some files are white, brighter than the glass: that is no measure for the glass.
    scanned = found & (least < 250)
    return scanned if scanned.sum() > max(0.05 * found.sum(), 0.002 * found.size) else found


def _field(logs: Plane, white: Mask, border: Mask) -> Plane:
    """The light that empty glass lets through at each pixel, as its log10, float32 [h, w, 3].

    A quadratic over the picture, as light falls off towards the corners, fitted to what looks like glass.
    """
    height, width = white.shape
    places = np.flatnonzero(white)
    if not len(places):
        seen = logs[~border] if not border.all() else logs[:1, 0]
        return np.broadcast_to(np.percentile(seen, 99.5, axis=0).astype(np.float32), logs.shape)
    places = places[:: len(places) // 20_000 + 1]
    values = logs.reshape(-1, 3)[places].astype(np.float64)  # [n, 3]
    # Where glass covers little of the picture a curve would be drawn far beyond it.
    terms = 6 if white.mean() > 0.05 else 1
    design = _quadratic(places % width / width, places // width / height)[:, :terms]  # [n, terms]
    light = values.sum(axis=1)
    residual = values - np.median(values[light >= np.median(light)], axis=0)
    for _ in range(4):
        apart = np.abs(residual).max(axis=1)
        near = apart <= max(0.013, 3 * float(np.median(apart)))
        fit = np.linalg.lstsq(design[near], values[near], rcond=None)[0]  # [terms, 3]
        residual = values - design @ fit
    low, high = np.percentile(values[near], (1, 99), axis=0)
    x, y = np.meshgrid((np.arange(64) + 0.5) / 64, (np.arange(64) + 0.5) / 64)
    field = (_quadratic(x.ravel(), y.ravel())[:, :terms] @ fit).clip(low, high)  # [64 * 64, 3]
    return np.asarray(cv2.resize(field.reshape(64, 64, 3).astype(np.float32), (width, height)), np.float32)


def _quadratic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
