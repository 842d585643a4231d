"""Brushes for made-up kidney: soft thresholds, distances, cells around points, textures, and many nuclei at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.fields import Field, smooth

TEXTURE = 1024
"""Side of a texture in pixels; it wraps round."""


@dataclass(frozen=True)
class Textures:
    """Smooth noise, drawn once and cut anywhere: mean 0, deviation 1.

    Attributes:
        values: float32 [1024, 1024] for each name.
    """

    values: dict[str, Field]

    @staticmethod
    def draw(seed: int, mpp: float) -> Textures:
        """Textures for one spacing, which follow from the seed."""
        scales = {"fine": 1.5, "grain": 5.0, "fold": 14.0, "sweep": 70.0}
        return Textures(
            {
                name: smooth((TEXTURE, TEXTURE), max(scale / mpp, 0.7), generator(seed, "kidney texture", name))
                for name, scale in scales.items()
            }
        )

    def cut(self, name: str, height: int, width: int, rng: np.random.Generator) -> Field:
        """A part of a texture at a place drawn, float32 [height, width]; it comes again in parts beyond its side."""
        spare = [max(TEXTURE - side, 0) + 1 for side in (height, width)]
        down, across = (int(rng.integers(each)) for each in spare)
        again = -(-height // TEXTURE), -(-width // TEXTURE)
        values = self.values[name] if again == (1, 1) else np.tile(self.values[name], again)
        return values[down : down + height, across : across + width]


def rise(values: Field, at: float | Field, soft: float) -> Field:
    """0 below a threshold, 1 above it, and a ramp `soft` wide between."""
    ramp: Field = np.clip((values - at) / np.float32(soft) + np.float32(0.5), 0, 1)
    return ramp


def lay(layer: Field, amount: float | Field, cover: Field) -> None:
    """Put an amount onto a layer in place, as far as it covers what was there."""
    layer += cover * (amount - layer)


def filled(outline: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """1 inside an outline of points x, y in pixels, uint8 [h, w]."""
    mask = np.zeros(shape, np.uint8)
    # Four more bits for parts of a pixel; a pixel's middle is half a pixel from its edge.
    cv2.fillPoly(mask, [np.rint((outline - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask


def distance(mask: NDArray[np.uint8]) -> Field:
    """How far each pixel of a mask is from the nearest one outside, in pixels, float32 [h, w]; 10,000 at most."""
    found: Field = np.minimum(cv2.distanceTransform(mask, cv2.DIST_L2, 3), np.float32(10_000))
    return found


def inward(outline: NDArray[np.float64], shape: tuple[int, int]) -> Field:
    """Distance in pixels from an outline: positive inside, negative outside, float32 [h, w]."""
    mask = filled(outline, shape)
    # The line runs half a pixel from the middle of the nearest pixel on either side.
    found: Field = np.where(mask > 0, distance(mask) - np.float32(0.5), np.float32(0.5) - distance(1 - mask))
    return found


def nearest(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.int32]:
    """The number of the point that is nearest to each pixel.

    Args:
        points: row and column, float64 [n, 2]; those outside count for nothing.
        shape: height and width.

    Returns:
        int32 [h, w], indices of the points.
    """
    height, width = shape
    rows, columns = points.astype(np.intp).T
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    away = np.ones(shape, np.uint8)
    number = np.zeros(shape, np.int32)
    chosen = np.flatnonzero(inside)
    away[rows[chosen], columns[chosen]] = 0
    number[rows[chosen], columns[chosen]] = chosen
    _, labels = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    table = np.zeros(int(labels.max()) + 1, np.int32)
    seeds = away == 0
    table[labels[seeds]] = number[seeds]
    found: NDArray[np.int32] = table[labels]
    return found


def jittered(height: float, width: float, step: float, jitter: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points of a brick pattern that stray by a share of its step; row and column, float64 [n, 2]."""
    rows, columns = np.mgrid[-1 : height / step / 0.87 + 2, -1 : width / step + 2]
    points = np.stack([rows * 0.87, columns + 0.5 * (rows % 2)], axis=-1).reshape(-1, 2)
    return (points + rng.uniform(-jitter, jitter, points.shape)) * step


@dataclass
class Nuclei:
    """Nuclei to be drawn, in pixels.

    Attributes:
        parts: arrays float64 [n, 6]: row, column, half its length, half its width, direction, amount.
    """

    parts: list[NDArray[np.float64]] = field(default_factory=list)

    def add(
        self,
        points: NDArray[np.float64],
        length: float,
        aspect: float,
        angles: NDArray[np.float64] | None,
        amount: float,
        rng: np.random.Generator,
    ) -> None:
        """Add nuclei of one kind.

        Args:
            points: row and column, float64 [n, 2].
            length: of the long axis in pixels.
            aspect: long over short axis.
            angles: direction of the long axis in radians from the column axis towards growing rows, [n], or None.
            amount: of stain.
            rng: where size and shade come from.
        """
        count = len(points)
        if angles is None:
            angles = rng.uniform(0, np.pi, count)
        long = length / 2 * np.exp(rng.normal(0, 0.13, count))
        short = long / np.maximum(aspect * np.exp(rng.normal(0, 0.12, count)), 1)
        shade = amount * np.exp(rng.normal(0, 0.16, count))
        self.parts.append(np.column_stack([points, long, short, angles, shade]))

    def draw(self, layer: Field) -> None:
        """Draw all of them onto a layer in place; where two meet, the darker one is seen."""
        for part in self.parts:
            # A stamp has some 200 pixels, and a slide a hundred thousand nuclei.
            for start in range(0, len(part), 4096):
                _stamp(layer, part[start : start + 4096].astype(np.float32))


def _stamp(layer: Field, nuclei: Field) -> None:
    height, width = layer.shape
    half = int(np.ceil(nuclei[:, 2].max() + 1))
    steps = np.arange(-half, half + 1, dtype=np.float32)
    row, column, long, short, angle, shade = (part[:, None, None] for part in nuclei.T)  # [n, 1, 1]
    down, across = np.floor(row).astype(np.intp), np.floor(column).astype(np.intp)
    y, x = steps[None, :, None] + down + 0.5 - row, steps[None, None, :] + across + 0.5 - column  # [n, s, 1], [n, 1, s]
    cosine, sine = np.cos(angle), np.sin(angle)
    along, over = cosine * x + sine * y, cosine * y - sine * x  # [n, s, s]
    radius = np.sqrt((along / long) ** 2 + (over / short) ** 2)
    depth = (1 - radius) * short  # pixels from the outline, nearly
    # The rim is darker than the middle.
    amount = shade * np.clip(depth + 0.5, 0, 1) * (0.82 + 0.25 * np.clip(radius, 0, 1))
    rows = down + steps[None, :, None].astype(np.intp)
    columns = across + steps[None, None, :].astype(np.intp)
    seen = (amount > 0) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    np.maximum.at(layer.reshape(-1), (rows * width + columns)[seen], amount[seen])
