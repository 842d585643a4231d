"""What lies on a made-up slide and is no tissue: a stroke of a felt pen, dust and fibres. All of it is synthetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.fields import Field, Texture

INKS = ((0.16, 0.30, 0.78), (0.12, 0.52, 0.30), (0.13, 0.13, 0.15), (0.75, 0.13, 0.20))
"""The light that a pen's ink lets through, red, green, blue: blue, green, black, red."""

DUST = (0.30, 0.27, 0.25)
"""The light that dust lets through."""

FIBRES = 0.35
"""Share of the dust that is fibres."""

DUST_PER_MM2 = 0.7
MOST_DUST = 2000


class Marks:
    """The marks on one slide, as depths in micrometres, above 0 inside."""

    def __init__(self, seed: int, name: str, width: float, height: float, *, pen: bool, dust: bool) -> None:
        """Draw them.

        Args:
            seed: of the data set.
            name: of the slide.
            width: of the slide in micrometres.
            height: of the slide in micrometres.
            pen: whether somebody marked the slide.
            dust: whether it is dirty.
        """
        rng = generator(seed, "marks", name)
        self._wobble = Texture.draw(30, rng, rough=0.3, side=256)
        self.ink = INKS[rng.integers(len(INKS))]
        self._stroke = self._arc(rng, width, height) if pen else np.empty((0, 2))
        self._pen_width = float(np.clip(0.03 * min(width, height), 20, 600) * rng.uniform(0.6, 1.1))
        # All at once: how many are used hangs on the slide's size.
        drawn = rng.random((MOST_DUST, 5))  # row, column, kind, length, direction
        number = max(6, round(DUST_PER_MM2 * width * height * 1e-6)) if dust else 0
        self._dust = drawn[:number] * (height, width, 1, 1, 1)

    def pen(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Field | None:
        """How deep points lie in the stroke of the pen, float32 [len(y), len(x)]; None where there is none."""
        reach = 1.5 * self._pen_width + 10
        ends = _beside(self._stroke, y, x, reach)
        near = np.logical_or(ends[:-1], ends[1:])  # a stretch counts if one of its ends is near
        if not near.any():
            return None
        away = np.full((len(y), len(x)), np.inf, np.float32)
        for start, end in zip(self._stroke[:-1][near], self._stroke[1:][near], strict=True):
            away = np.minimum(away, _distance(y, x, start, end))
        return np.float32(self._pen_width) - away + 4 * self._wobble.at(y, x)

    def dust(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Field | None:
        """How deep points lie in dust or a fibre, float32 [len(y), len(x)]; None where there is none."""
        best = None
        for row, column, kind, long, turn in self._dust[_beside(self._dust[:, :2], y, x, 320)]:
            down, across = (y - row)[:, None], (x - column)[None, :]
            sine, cosine = np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)
            along, aside = down * sine + across * cosine, down * cosine - across * sine
            wobble = self._wobble.at(y, x)
            if kind < FIBRES:
                half = 60 + 200 * long
                aside = aside + 22 * np.sin(2 * along / half + 20 * kind)
                depth = 3.2 + 0.8 * wobble - np.maximum(np.abs(aside), np.abs(along) - half)
            else:
                depth = (4 + 22 * long**2) * (1 + 0.2 * wobble) - np.hypot(along, aside * (1 + kind))
            depth = depth.astype(np.float32)
            best = depth if best is None else np.maximum(best, depth)
        return best

    @staticmethod
    def _arc(rng: np.random.Generator, width: float, height: float) -> NDArray[np.float64]:
        """Points along a part of an oval, [n, 2] micrometres."""
        middle = rng.uniform(0.3, 0.7, 2) * (height, width)
        radii = rng.uniform(0.22, 0.42, 2) * (height, width)
        start = rng.uniform(0, 2 * np.pi)
        angle = start + np.linspace(0, rng.uniform(1.5, 5.5), 48)
        points: NDArray[np.float64] = middle + radii * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        return points


def _beside(
    points: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], reach: float
) -> NDArray[np.bool_]:
    """Which points lie in the rectangle of a grid, or no farther from it."""
    low, high = np.array([y[0], x[0]]) - reach, np.array([y[-1], x[-1]]) + reach
    return np.asarray(((points > low) & (points < high)).all(axis=1))


def _distance(
    y: NDArray[np.float64], x: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> Field:
    """From each point of a grid to a straight stretch, float32 [len(y), len(x)]."""
    along = end - start
    down, across = (y - start[0])[:, None], (x - start[1])[None, :]
    share = np.clip((down * along[0] + across * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    away: Field = np.sqrt((down - share * along[0]) ** 2 + (across - share * along[1]) ** 2).astype(np.float32)
    return away
