"""A few small foci in a made-up slide's tissue, of a wanted share of its area. All of it is synthetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.data.synthetic.fields import Field, Texture

Steps = NDArray[np.float64]

NARROWEST, WIDEST = 260.0, 1000.0
"""Micrometres across a round focus of the least and the largest area; ragged ones are wider, 300 to 1500."""

MOST = 5
"""Foci of one slide, unless they would be larger than `WIDEST`."""

AROUND = 1.3
"""An outline holds so many times the tissue that is wanted in it: at its edge nests lie in stroma."""

REACH = 2.5
"""No point of a focus is farther from its middle, in radii of the circle of its area."""

FINEST = 5.0
"""Micrometres between two points at which areas are measured; more on slides of more than `POINTS` such steps."""

POINTS = 800

SQUARE = 48
"""Points along the side of a square of them."""


@dataclass(frozen=True)
class Foci:
    """What is asked for.

    Attributes:
        rng: where the draws come from.
        share: of the tissue's area, above 0.
    """

    rng: np.random.Generator
    share: float

    def outlines(self, y: Steps, x: Steps, depth: Field) -> NDArray[np.bool_]:
        """Where the foci lie: irregular, apart from each other where there is room, anywhere in the tissue.

        Args:
            y: micrometres of the rows, evenly spaced.
            x: of the columns, as far apart.
            depth: how deep points lie in the tissue, float32 [rows, columns] micrometres.

        Returns:
            bool [rows, columns]; all False where there is no tissue.
        """
        inside = depth > 0
        found = np.zeros(inside.shape, bool)
        pitch = y[1] - y[0]
        wanted = AROUND * self.share * np.count_nonzero(inside) * pitch**2
        if not wanted:
            return found
        areas = self._areas(wanted)
        for middle, area in zip(self._middles(y, x, depth, areas), areas, strict=True):
            radius = np.sqrt(area / np.pi)
            ragged = Texture.draw(0.55 * radius, self.rng, rough=0.15, side=256)
            turn, long = self.rng.uniform(0, np.pi), self.rng.uniform(1, 1.5)
            rows, columns = (
                np.flatnonzero(np.abs(axis - at) < REACH * radius) for axis, at in zip((y, x), middle, strict=True)
            )
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            down, across = (y[rows] - middle[0])[:, None], (x[columns] - middle[1])[None, :]
            along, aside = np.cos(turn) * down + np.sin(turn) * across, np.cos(turn) * across - np.sin(turn) * down
            height = (
                0.3 * ragged.at(y[rows], x[columns]) - np.hypot(along / np.sqrt(long), aside * np.sqrt(long)) / radius
            )
            height[~inside[part]] = -np.inf
            points = min(max(round(area / pitch**2), 1), int(np.count_nonzero(inside[part])))
            found[part] |= height >= np.partition(height, -points, axis=None)[-points]
        return found

    def _areas(self, wanted: float) -> NDArray[np.float64]:
        """Areas of the foci in square micrometres, [n]."""
        least, most = (np.pi / 4 * across**2 for across in (NARROWEST, WIDEST))
        fewest = int(np.ceil(wanted / most))
        number = self.rng.integers(fewest, max(fewest, min(int(wanted / least), MOST)) + 1)
        parts = self.rng.uniform(0.7, 1.3, number)
        areas: NDArray[np.float64] = wanted * parts / parts.sum()
        return areas

    def _middles(self, y: Steps, x: Steps, depth: Field, areas: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Row and column of each focus in micrometres."""
        middles: list[tuple[float, float]] = []
        apart = np.full(depth.shape, np.inf)  # from the foci so far, radius to radius
        for radius in np.sqrt(areas / np.pi):
            # Wholly inside and apart if that can be, then less and less.
            for ease in (1.0, 0.6, 0.3, 0.0):
                fits = (depth > ease * radius) & (apart > 2 * ease * radius)
                if fits.any():
                    break
            else:
                fits = depth > 0
            row, column = divmod(int(self.rng.choice(np.flatnonzero(fits))), len(x))
            middles.append((float(y[row]), float(x[column])))
            away = np.hypot(y[:, None] - y[row], x[None, :] - x[column]) - radius
            apart = np.minimum(apart, away)
        return middles


def measuring_parts(width: float, height: float) -> list[tuple[Steps, Steps]]:
    """Rows and columns in micrometres at which areas on a slide of this size, in micrometres, are measured."""
    pitch = max(FINEST, max(width, height) / POINTS)
    down, across = (np.arange(min(pitch, side) / 2, side, pitch) for side in (height, width))
    return [
        (down[top : top + SQUARE], across[left : left + SQUARE])
        for top in range(0, len(down), SQUARE)
        for left in range(0, len(across), SQUARE)
    ]


def grown(share_at: Callable[[float], float], share: float, most: float) -> float:
    """By how many micrometres outlines are moved out, at most `most` either way, to hold a share.

    Args:
        share_at: the share when they are moved out so far; the farther, the more.
        share: the share that is wanted.
        most: see above.
    """
    low, high = -most, most
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if share_at(middle) < share else (low, middle)
    return (low + high) / 2
