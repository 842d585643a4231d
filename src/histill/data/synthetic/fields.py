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
