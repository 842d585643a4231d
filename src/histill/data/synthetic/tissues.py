"""Made-up tissues: for each a tile of stain amounts that wraps round, with its cells as objects that can be kept whole.

A tile is ground (fibres, debris, the paste between lymphocytes) and objects upon it: nuclei for stroma, lymphocytes
and necrosis; whole cells for tumour; whole adipocytes for fat; whole glands for gland. Lengths are micrometres,
amounts natural optical densities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from histill.core.seeds import generator
from histill.data.synthetic import nuclei
from histill.data.synthetic.fields import Field, Mosaic, mosaic, scatter, smooth
from histill.data.synthetic.nuclei import Canvas, draw

DENSEST = 3.2
"""The optical density that a tile stores as 255."""

REACH = 64.0
"""No pixel is farther than this from the centre of its object along either axis, in micrometres."""


@dataclass(frozen=True)
class Tile:
    """A square of one tissue that wraps round.

    Attributes:
        ground: stain where no object is shown, uint8 [side, side, 2]: haematoxylin, eosin; 255 is `DENSEST`.
        full: stain with every object in place, uint8 [side, side, 2].
        offset: from each pixel to the centre of its object, int16 [side, side, 2].
        owned: whether a pixel belongs to an object, bool [side, side].
        centres: True at the centre of each nucleus, bool [side, side].
    """

    ground: NDArray[np.uint8]
    full: NDArray[np.uint8]
    offset: NDArray[np.int16]
    owned: NDArray[np.bool_]
    centres: NDArray[np.bool_]


def render_tile(tissue: str, variant: int, *, seed: int, side: int, mpp: float) -> Tile:
    """One tile of a tissue; what it shows follows from the arguments alone.

    Args:
        tissue: a key of `TISSUES`.
        variant: which of the tissue's appearances.
        seed: the bank's seed.
        side: side in pixels.
        mpp: micrometres per pixel.
    """
    canvas = Canvas.blank(side, mpp)
    ground = TISSUES[tissue](canvas, variant, generator(seed, "tile", tissue, variant))
    return Tile(_packed(ground), _packed(canvas.amounts), canvas.offset, canvas.owned, canvas.centres)


def _packed(amounts: Field) -> NDArray[np.uint8]:
    return cv2.convertScaleAbs(np.clip(amounts, 0, DENSEST), alpha=255 / DENSEST).astype(np.uint8, copy=False)


def _noise(canvas: Canvas, scale: float | tuple[float, float], rng: np.random.Generator, rough: float = 0) -> Field:
    down, across = scale if isinstance(scale, tuple) else (scale, scale)
    return smooth((canvas.side, canvas.side), (down / canvas.mpp, across / canvas.mpp), rng, rough=rough)


def _own_cells(canvas: Canvas, cells: Mosaic, points: NDArray[np.float64]) -> None:
    """Let every pixel belong to its cell, unless the cell's centre is out of reach."""
    rows, columns = np.indices((canvas.side, canvas.side))
    for axis, position in enumerate((rows, columns)):
        away = np.floor(points[:, axis]).astype(np.int16)[cells.owner] - position  # [side, side]
        canvas.offset[..., axis] = (away + canvas.side // 2) % canvas.side - canvas.side // 2
    canvas.owned[:] = (np.abs(canvas.offset) * canvas.mpp <= REACH).all(axis=-1)


def _stroma(canvas: Canvas, variant: int, rng: np.random.Generator) -> Field:
    """Wavy collagen with fibroblasts along it and small vessels; variant 1 is loose and pale."""
    side, mpp, loose = canvas.side, canvas.mpp, variant % 2
    rows, columns = np.indices((side, side), dtype=np.float32)
    # Fibres run along the columns of a stretched noise. What shifts them down changes quickly along them and slowly
    # across, so that they swing and crimp without being squeezed or drawn out.
    swing = (34 + 6 * loose) / mpp * _noise(canvas, (190, 75), rng)
    crimp = np.clip(0.8 + 0.5 * _noise(canvas, 60, rng), 0, 2)
    swing += (0.9 + 0.6 * loose) / mpp * crimp * _noise(canvas, (22, 7), rng)
    slide = 10 / mpp * _noise(canvas, 60, rng)

    def along(field: Field) -> Field:
        return cv2.remap(
            field, (columns + slide) % side, (rows + swing) % side, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        ).astype(np.float32, copy=False)

    bundles = along(_noise(canvas, (6, 50), rng))
    fibres = along(_noise(canvas, (1.8, 22 - 8 * loose), rng))
    fibrils = along(_noise(canvas, (0.75, 7), rng))
    regional = _noise(canvas, 60, rng)
    # Slits between fibres: short lenses with crisp sides where the tissue is loose.
    slits = along(_noise(canvas, (2.2, 14), rng)) + 0.6 * fibres
    gap = np.clip(2.2 * (slits - (1.75 - 0.75 * loose) + 0.45 * regional), 0, 1)
    eosin = (0.74 - 0.16 * loose) * np.exp(0.13 * bundles + 0.16 * fibres + 0.18 * fibrils + 0.10 * regional)
    blue = (0.10 + 0.05 * loose) * np.exp(0.35 * fibrils + 0.25 * _noise(canvas, 25, rng))
    canvas.amounts[..., 0], canvas.amounts[..., 1] = blue * (1 - 0.88 * gap), eosin * (1 - 0.88 * gap)
    ground = canvas.amounts.copy()

    slope = np.gradient(swing)  # [2][side, side]
    direction = np.arctan2(-slope[1], 1 + slope[0])  # the level lines of row + swing

    def angles(points: NDArray[np.float64], spread: float) -> NDArray[np.float64]:
        row, column = points.astype(np.intp).T
        return np.asarray(direction[row, column] + rng.normal(0, spread, len(points)), np.float64)

    _vessels(canvas, scatter(side, 75 / mpp, rng), angles, rng)
    crowd: Field = np.clip(0.30 + 0.25 * _noise(canvas, 45, rng) + 0.1 * bundles, 0.02, 1)
    spindles = scatter(side, 11.5 / mpp, rng, density=crowd * 0.16)
    draw(canvas, nuclei.FIBROBLAST, spindles, angles(spindles, 0.15), rng)
    plump = scatter(side, 30 / mpp, rng, density=crowd * 0.4)
    draw(canvas, nuclei.PLUMP, plump, angles(plump, 0.3), rng)
    strays = scatter(side, 30 / mpp, rng, density=crowd * 0.3)
    draw(canvas, nuclei.LYMPHOCYTE, strays, rng.uniform(0, np.pi, len(strays)), rng)
    return ground


def _vessels(
    canvas: Canvas,
    points: NDArray[np.float64],
    angles: Callable[[NDArray[np.float64], float], NDArray[np.float64]],
    rng: np.random.Generator,
) -> None:
    """Capillaries that lie along the fibres: an empty channel, red cells in it, flat nuclei on its wall."""
    turns = angles(points, 0.2)
    draw(canvas, nuclei.CHANNEL, points, turns, rng)
    ahead = np.stack([np.sin(turns), np.cos(turns)], axis=-1)  # [n, 2]
    aside = np.stack([np.cos(turns), -np.sin(turns)], axis=-1)  # [n, 2]
    for _ in range(4):
        full = rng.random(len(points)) < 0.45
        spots = points + ahead * rng.normal(0, 5, (len(points), 1)) / canvas.mpp
        draw(canvas, nuclei.ERYTHROCYTE, spots[full], turns[full], rng)
    canvas.centres[:] = False  # none of these has a nucleus
    for reach in (-4.6, 4.6):
        spots = points + (aside * reach + ahead * rng.normal(0, 4, (len(points), 1))) / canvas.mpp
        draw(canvas, nuclei.PERIPHERAL, spots, turns + rng.normal(0, 0.2, len(turns)), rng)


def _lymphocytes(canvas: Canvas, variant: int, rng: np.random.Generator) -> Field:
    """Crowded small round dark nuclei on a pale net; variant 1 is looser, with plasma cells."""
    side, mpp, loose = canvas.side, canvas.mpp, variant % 2
    net = _noise(canvas, 3.0, rng)
    strands = np.exp(-((net / 0.45) ** 2))
    canvas.amounts[..., 0] = 0.20 + 0.07 * _noise(canvas, 5, rng) + 0.08 * strands
    canvas.amounts[..., 1] = 0.24 + 0.16 * loose + 0.16 * strands + 0.08 * _noise(canvas, 12, rng)
    np.clip(canvas.amounts, 0.03, None, out=canvas.amounts)
    ground = canvas.amounts.copy()
    crowd: Field = np.clip(0.75 + 0.3 * _noise(canvas, 28, rng) - 0.35 * loose, 0.05, 1)
    points = scatter(side, 6.3 / mpp, rng, density=crowd)
    kinds = rng.random(len(points))
    for kind, low, high in (
        (nuclei.LYMPHOCYTE, 0.0, 0.86 - 0.2 * loose),
        (nuclei.PLASMA, 0.86 - 0.2 * loose, 0.96),
        (nuclei.BLAST, 0.96, 1.0),
    ):
        chosen = points[(kinds >= low) & (kinds < high)]
        draw(canvas, kind, chosen, rng.uniform(0, np.pi, len(chosen)), rng)
    return ground


def _necrosis(canvas: Canvas, variant: int, rng: np.random.Generator) -> Field:
    """Smudged eosinophilic debris with ghosts of cells, shrunken nuclei and nuclear dust."""
    side, mpp = canvas.side, canvas.mpp
    clumps = _noise(canvas, 5, rng, rough=0.5)
    grains = _noise(canvas, 1.4, rng)
    holes = np.clip(_noise(canvas, 4, rng, rough=0.4) - 1.1, 0, 1)
    patches = _noise(canvas, 45, rng)
    eosin = 0.66 * np.exp(0.20 * clumps + 0.13 * grains + 0.10 * patches) * (1 - 0.75 * holes)
    canvas.amounts[..., 1] = eosin
    canvas.amounts[..., 0] = 0.17 * np.exp(0.35 * clumps + 0.25 * grains - 0.25 * patches) * (1 - 0.6 * holes)
    ghosts = scatter(side, 12 / mpp, rng)
    draw(canvas, nuclei.GHOST, ghosts, rng.uniform(0, np.pi, len(ghosts)), rng, own=False)
    ground = canvas.amounts.copy()
    crowd: Field = np.clip(0.25 + 0.3 * patches, 0.02, 1)
    dust = scatter(side, 2.5 / mpp, rng, density=crowd * 0.10)
    draw(canvas, nuclei.DUST, dust, rng.uniform(0, np.pi, len(dust)), rng)
    canvas.centres[:] = False  # neither ghosts nor dust are nuclei any more
    shrunken = scatter(side, 9 / mpp, rng, density=crowd * 0.35)
    draw(canvas, nuclei.PYKNOTIC, shrunken, rng.uniform(0, np.pi, len(shrunken)), rng)
    return ground


def _tumour(canvas: Canvas, variant: int, rng: np.random.Generator) -> Field:
    """Big uneven cells side by side; variant 0 has pale vesicular nuclei, variant 1 crowded dark ones."""
    side, mpp, crowded = canvas.side, canvas.mpp, variant % 2
    points = scatter(side, (10.0 - 1.6 * crowded) / mpp, rng)
    cells = mosaic(points, side, (0.9 - 0.1 * crowded) / mpp, 1.5 / mpp, rng)
    _own_cells(canvas, cells, points)
    of_cell = rng.normal(0, 1, (2, len(points))).astype(np.float32)[:, cells.owner]  # [2, side, side]
    grains = _noise(canvas, 1.2, rng)
    foam = _noise(canvas, 3.5, rng, rough=0.3)
    regional = _noise(canvas, 80, rng)
    eosin = (0.58 + 0.04 * crowded) * np.exp(0.15 * of_cell[0] + 0.12 * grains + 0.09 * foam + 0.07 * regional)
    blue = (0.27 + 0.12 * crowded) * np.exp(0.20 * of_cell[1] + 0.16 * grains + 0.16 * foam)
    # Membranes are faint dark lines here and pale cracks there.
    place = _noise(canvas, 22, rng)
    crack = cells.wall * np.clip(place - 0.7, 0, 0.7)
    eosin *= 1 + 0.22 * cells.wall - 1.2 * crack
    blue *= 1 + 0.12 * cells.wall - 1.2 * crack
    canvas.amounts[..., 0], canvas.amounts[..., 1] = blue, eosin
    ground = canvas.amounts.copy()
    kind = nuclei.CROWDED if crowded else nuclei.TUMOUR
    draw(canvas, kind, points, rng.uniform(0, np.pi, len(points)), rng)
    return ground


def _fat(canvas: Canvas, variant: int, rng: np.random.Generator) -> Field:
    """Large empty cells with thin walls, and now and then a flat nucleus pressed to a wall."""
    side, mpp = canvas.side, canvas.mpp
    points = scatter(side, 36 / mpp, rng)
    cells = mosaic(points, side, 2.6 / mpp, 2.5 / mpp, rng)
    _own_cells(canvas, cells, points)
    wall = np.clip(1.5 * (cells.wall - 0.45), 0, 1) * np.exp(0.25 * _noise(canvas, 5, rng))
    canvas.amounts[..., 1] = 0.015 + 0.42 * wall
    canvas.amounts[..., 0] = 0.005 + 0.12 * wall
    ground = canvas.amounts.copy()
    slope = np.stack(np.gradient(cv2.GaussianBlur(cells.wall, (0, 0), 3 / mpp)), axis=-1)  # [side, side, 2]
    spots = scatter(side, 3 / mpp, rng, density=(wall > 0.6).astype(np.float32))
    spots = spots[rng.random(len(spots)) < 0.05]
    row, column = spots.astype(np.intp).T
    draw(canvas, nuclei.PERIPHERAL, spots, np.arctan2(-slope[row, column, 1], slope[row, column, 0]), rng, own=False)
    return ground


def _gland(canvas: Canvas, variant: int, rng: np.random.Generator) -> Field:
    """Rings of columnar cells around a lumen, nuclei at the base; variant 1 has goblets of mucin."""
    side, mpp, goblet = canvas.side, canvas.mpp, variant % 2
    middles = scatter(side, 62 / mpp, rng)
    grains, foam = _noise(canvas, 1.2, rng), _noise(canvas, 3.0, rng, rough=0.3)
    vacuoles = np.clip(1.5 * _noise(canvas, 3.2, rng), 0, 1)
    fluff = np.clip(_noise(canvas, 6, rng, rough=0.6) - 1.0, 0, 1)
    places, turns = [], []
    half = int(52 / mpp)
    steps = np.arange(-half, half + 1)
    y, x = np.meshgrid(steps * mpp, steps * mpp, indexing="ij")
    away, theta = np.hypot(y, x), np.arctan2(y, x)
    toward = np.stack(np.meshgrid(-steps, -steps, indexing="ij"), axis=-1)
    angle = np.linspace(-np.pi, np.pi, 361)
    apart = cKDTree(middles, boxsize=side).query(middles, k=2)[0][:, 1] * mpp  # [n] micrometres to the next gland
    for middle, room in zip(np.floor(middles).astype(np.intp), apart, strict=True):
        size, height = min(room / 2 - 1, 42) * rng.uniform(0.88, 1.06), rng.uniform(18, 26)
        bumps = rng.normal(0, (0.10, 0.05, 0.03), 3)
        phases = rng.uniform(0, 2 * np.pi, 3)
        outline = size * (1 + sum(b * np.cos(k * angle + p) for k, b, p in zip((2, 3, 5), bumps, phases, strict=True)))
        depth = np.interp(theta, angle, outline) - away  # micrometres from the outline inwards
        height = min(height, 0.75 * float(outline.min()))
        window = np.ix_((middle[0] + steps) % side, (middle[1] + steps) % side)
        ragged = height + 1.2 * foam[window]
        inside, lumen = depth > 0, np.clip((depth - ragged) / 1.0 + 0.5, 0, 1)
        columns = np.cos(theta * np.round(2 * np.pi * size / 6.5) + 1.5 * foam[window])  # cells as seen from above
        border = np.clip(columns - 0.86, 0, None) / 0.14
        apical = np.clip((depth - 0.45 * height) / (0.2 * height), 0, 1)
        mucin = apical * (0.25 + 0.65 * goblet * vacuoles[window])
        eosin = 0.55 * np.exp(0.10 * grains[window] + 0.12 * foam[window]) * (1 - 0.75 * mucin) * (1 - 0.3 * border)
        eosin += 0.30 * np.exp(-(((depth - 0.6) / 0.8) ** 2)) + 0.25 * np.exp(-(((depth - ragged + 0.8) / 0.8) ** 2))
        blue = 0.32 * np.exp(0.14 * grains[window] + 0.14 * foam[window]) * (1 - 0.45 * mucin)
        full = np.stack([blue, eosin], axis=-1) * (1 - lumen[..., None])
        full += lumen[..., None] * fluff[window][..., None] * np.array([0.12, 0.25])
        amounts, offset, owned = canvas.amounts[window], canvas.offset[window], canvas.owned[window]
        inside &= ~owned
        amounts[inside], offset[inside], owned[inside] = full[inside], toward[inside], True
        canvas.amounts[window], canvas.offset[window], canvas.owned[window] = amounts, offset, owned
        for row in range(2):
            number = int(2 * np.pi * size / (5.9 + 5.0 * row))
            around = -np.pi + 2 * np.pi * (np.arange(number) + rng.normal(0, 0.22, number) + 0.5 * row) / number
            base = np.clip(rng.normal(6.4 + 4.5 * row, 1.2, number), 5.0, 0.7 * height)
            reach = np.interp(around, angle, outline, period=2 * np.pi) - base
            places.append(middle + np.stack([np.sin(around), np.cos(around)], axis=-1) * reach[:, None] / mpp)
            turns.append(around + rng.normal(0, 0.14, number))
    ground = canvas.amounts.copy()
    spots = np.concatenate(places) % side
    row, column = spots.astype(np.intp).T
    kept = canvas.owned[row, column]
    draw(canvas, nuclei.COLUMNAR, spots[kept], np.concatenate(turns)[kept], rng, own=False, within=True)
    return ground


TISSUES: dict[str, Callable[[Canvas, int, np.random.Generator], Field]] = {
    "tumour": _tumour,
    "stroma": _stroma,
    "lymphocytes": _lymphocytes,
    "necrosis": _necrosis,
    "gland": _gland,
    "fat": _fat,
}
"""Each draws its tile onto a canvas and returns the ground without objects."""
