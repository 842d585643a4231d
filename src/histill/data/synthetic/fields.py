"""Random fields, scattered points and cell mosaics on a torus: what synthetic tissue is grown from.

All of it wraps round at the edges, so that a tile can be sampled at any offset without a seam.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

Field = NDArray[np.float32]


def smooth(
    shape: tuple[int, int], scale: float | tuple[float, float], rng: np.random.Generator, *, rough: float = 0
) -> Field:
    """A Gaussian random field with mean 0 and deviation 1 that wraps round.

    Args:
        shape: height and width in pixels.
        scale: how far values hang together, in pixels; one for each axis makes fibres.
        rng: where the draws come from.
        rough: 0 is a Gaussian spectrum; above it a power law's tail is mixed in, for frayed outlines.

    Returns:
        float32 [h, w].
    """
    height, width = shape
    down, across = scale if isinstance(scale, tuple) else (scale, scale)
    vertical = (fft.fftfreq(height).astype(np.float32) * down)[:, None]
    horizontal = (fft.rfftfreq(width).astype(np.float32) * across)[None, :]
    square = (2 * np.pi) ** 2 * (vertical**2 + horizontal**2)  # [h, w // 2 + 1]
    gain = np.exp(-square / 4)
    if rough:
        gain += rough * (1 + square) ** -1.25
    gain[0, 0] = 0
    field: Field = fft.irfft2(fft.rfft2(rng.standard_normal(shape, np.float32)) * gain, shape).astype(
        np.float32
    )  # [h, w]
    return field / max(float(field.std()), 1e-6)


def scatter(
    side: int, distance: float, rng: np.random.Generator, *, density: Field | None = None
) -> NDArray[np.float64]:
    """Points on a torus, none closer than a distance to another, nearly as many as fit.

    Args:
        side: side of the square tile in pixels.
        distance: least distance between two points, in pixels.
        rng: where the draws come from.
        density: how readily a point is taken, 0 to 1 per pixel [side, side]; None is 1 everywhere.

    Returns:
        float64 [n, 2]: row and column.
    """
    points = np.empty((0, 2))
    for _ in range(7):
        fresh = rng.random((int(1.2 * (side / distance) ** 2) + 1, 2)) * side
        if density is not None:
            row, column = fresh.astype(np.intp).T
            fresh = fresh[rng.random(len(fresh)) < density[row, column]]
        if len(points) and len(fresh):
            fresh = fresh[cKDTree(points, boxsize=side).query(fresh)[0] >= distance]
        if not len(fresh):
            continue
        # Of every pair that is too close the later one goes: what is left keeps its distance.
        pairs = cKDTree(fresh, boxsize=side).query_pairs(distance, output_type="ndarray")
        keep = np.ones(len(fresh), bool)
        keep[pairs.max(axis=1)] = False
        points = np.concatenate([points, fresh[keep]])
    return points


@dataclass(frozen=True)
class Mosaic:
    """The cells around points: which cell a pixel is in, and how near it is to the neighbours.

    Attributes:
        owner: index of the nearest point, int [side, side].
        wall: 1 on the wall between two cells, falling to 0 inside, thicker in the corners; float32 [side, side].
    """

    owner: NDArray[np.intp]
    wall: Field


def mosaic(points: NDArray[np.float64], side: int, thickness: float, bend: float, rng: np.random.Generator) -> Mosaic:
    """Voronoi cells on a torus with bent walls.

    Args:
        points: [n, 2] row and column, as from `scatter`.
        side: side of the square tile in pixels.
        thickness: width of the walls in pixels.
        bend: how far walls stray from straight lines, in pixels.
        rng: where the draws come from.
    """
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).astype(np.float64)
    for axis in range(2):
        grid[..., axis] += bend * smooth((side, side), 6 * bend + 1, rng)
    near, owner = cKDTree(points, boxsize=side).query(grid.reshape(-1, 2) % side, k=3)  # [side * side, 3]
    gaps = (near[:, 1:] - near[:, :1]) / thickness  # [side * side, 2]
    wall = np.minimum(np.exp(-gaps * gaps).sum(axis=1), 1)  # [side * side]
    return Mosaic(owner[:, 0].reshape(side, side), wall.reshape(side, side).astype(np.float32))


@dataclass(frozen=True)
class Texture:
    """A smooth field over the plane in micrometres; it comes again, but far beyond what is seen of it.

    What it is at a point follows from the point alone: however a slide is cut into blocks, they agree to the last bit.

    Attributes:
        values: float32 [side, side], mean 0 and deviation 1.
        pitch: micrometres between two of them.
        start: row and column of the first of them, in micrometres.
    """

    values: Field
    pitch: float
    start: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def draw(scale: float, rng: np.random.Generator, *, rough: float = 0, side: int = 1024) -> Texture:
        """A field whose values hang together over `scale` micrometres; see `smooth`."""
        fine = 8
        return Texture(smooth((side, side), fine, rng, rough=rough), scale / fine)

    def moved(self, rng: np.random.Generator) -> Texture:
        """The same field, somewhere else."""
        down, across = rng.random(2) * len(self.values) * self.pitch
        return Texture(self.values, self.pitch, (float(down), float(across)))

    def at(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> Field:
        """Its values where rows at `y` and columns at `x` micrometres cross, float32 [len(y), len(x)]."""
        rows, columns = (Places.of((at - begin) / self.pitch) for at, begin in zip((y, x), self.start, strict=True))
        return bilinear(self.values, rows, columns, wrap=True)


@dataclass(frozen=True)
class Places:
    """Where positions lie between the points of a grid, along one axis.

    Attributes:
        before: the last point before each, int [n].
        share: how far on to the next point each is, 0 to 1, float32 [n].
    """

    before: NDArray[np.intp]
    share: Field

    @staticmethod
    def of(positions: NDArray[np.float64], first: int = 0) -> Places:
        """Positions in steps of a grid whose first point is `first`."""
        whole = np.floor(positions)
        return Places(whole.astype(np.intp) - first, (positions - whole).astype(np.float32))


def bilinear(values: Field, rows: Places, columns: Places, *, wrap: bool = False) -> Field:
    """Values between those of a grid, where rows and columns cross.

    Args:
        values: float32 [h, w].
        rows: places along the first axis, n of them.
        columns: places along the second axis, m of them.
        wrap: whether the grid wraps round; else it goes on beyond its edges as it ends there.

    Returns:
        float32 [n, m].
    """
    used, starts = [], []
    for places, size in zip((rows, columns), values.shape, strict=True):
        first = int(places.before.min())
        points = np.arange(first, int(places.before.max()) + 2)
        used.append(points % size if wrap else np.clip(points, 0, size - 1))
        starts.append(places.before - first)
    part = values[np.ix_(*used)]
    right = columns.share
    wide = part[:, starts[1]] * (1 - right) + part[:, starts[1] + 1] * right  # [used, m]
    below = rows.share[:, None]
    mixed: Field = wide[starts[0]] * (1 - below)  # [n, m]
    mixed += wide[starts[0] + 1] * below
    return mixed
