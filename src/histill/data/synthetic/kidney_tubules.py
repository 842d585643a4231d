"""Made-up tubules: proximal and distal ones and casts, packed between whatever else lies in a tile."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.data.synthetic.fields import Field
from histill.data.synthetic.kidney_paint import Nuclei, Textures, distance, jittered, lay, nearest, rise
from histill.data.synthetic.kidney_scene import Donor, KidneyScene

KINDS = np.asarray(
    [
        # proximal, distal, collecting, with a cast, narrow
        (17.0, 9.5, 8.0, 5.0, 6.5),  # height of the epithelium in um
        (0.85, 0.52, 0.38, 0.45, 0.5),  # cytoplasm
        (0.95, 0.05, 0.0, 0.0, 0.0),  # brush border
        (0.62, 0.95, 0.95, 0.6, 0.8),  # nuclei
        (0.0, 0.0, 0.0, 0.75, 0.0),  # what fills the lumen
    ],
    np.float32,
)
CORTEX, MEDULLA = (0.66, 0.24, 0.06, 0.04, 0), (0.1, 0.4, 0.4, 0.04, 0.06)
"""How often each kind is drawn."""

NARROW = 4
STEPS = {False: 46.0, True: 31.0}
"""From one tubule to the next in cortex and in medulla, in micrometres."""

FINE = 21.0
"""The same in a bundle of narrow tubules."""


def paint_tubules(
    layers: Field,
    nuclei: Nuclei,
    blocked: NDArray[np.uint8],
    bundles: NDArray[np.uint8],
    scene: KidneyScene,
    donor: Donor,
    textures: Textures,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Fill a tile with interstitium and tubules.

    Args:
        layers: amounts of `kidney_stain.LAYERS`, float32 [5, h, w]; painted on in place.
        nuclei: those of the tubules are added.
        blocked: 1 where something else lies, uint8 [h, w].
        bundles: 1 where tubules are narrow, uint8 [h, w].
        scene: how tubules run.
        donor: how wide apart they lie.
        textures: for outlines and grain.
        mpp: micrometres per pixel.
        rng: where the draws come from.
    """
    shape: tuple[int, int] = blocked.shape
    matrix, cytoplasm, brush = layers[2], layers[1], layers[3]
    fold, grain = textures.cut("fold", *shape, rng), textures.cut("grain", *shape, rng)
    fine = textures.cut("fine", *shape, rng)
    cells, kinds = _cells(shape, bundles, scene, textures, mpp, rng)

    # Tubules are round: what a disc cannot reach between three of them is interstitium.
    apart: Field = np.where(bundles > 0, np.float32(0.6), np.float32(0.6 + donor.fibrosis / 2))  # um
    reach: Field = np.where(bundles > 0, np.float32(3.5), np.float32(6.0 if scene.medulla else 9.0))  # um
    border = cv2.morphologyEx(cells.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    free = distance(((1 - blocked) * ~border).astype(np.uint8)) * np.float32(mpp)
    core = (free > reach).astype(np.uint8)
    depth: Field = np.where(core > 0, free, reach - distance(1 - core) * np.float32(mpp)) - apart  # um

    height, stained, brushed, often, cast = KINDS[:, kinds].take(cells, axis=1)  # [h, w] each
    height += np.float32(1.6) * grain  # um
    inside = rise(depth, 1.2, mpp)
    lumen = rise(depth, height, 1.5 + mpp)
    lay(matrix, 0.30 + 0.05 * grain, np.ones(shape, np.float32))
    lay(matrix, 0.03 + 0.9 * cast * lumen, inside)
    cytoplasm += 0.10
    lay(cytoplasm, stained * (1 + 0.10 * fine + 0.08 * fold), inside)
    cytoplasm *= 1 - 0.96 * lumen * inside
    brush += brushed * rise(depth, height - 4.5, 2 + mpp) * inside * (1 - 0.75 * lumen) * (0.75 + 0.15 * grain)
    thin = np.float32(max(0.9, 0.7 * mpp))
    np.maximum(matrix, np.float32(0.85) * np.exp(-np.square((depth - np.float32(0.8)) / thin)), out=matrix)

    places = jittered(*shape, 6.6 / mpp, 0.28, rng)
    row, column = places.astype(np.intp).T
    within = (row >= 1) & (column >= 1) & (row < shape[0] - 1) & (column < shape[1] - 1)
    places, row, column = places[within], row[within], column[within]
    deep, lucky = depth[row, column], rng.random(len(row))
    open_ground = blocked[row, column] == 0
    along = _along(depth, row, column)
    basal = (deep > 3.6) & (deep < 7.6) & (lucky < often[row, column]) & open_ground
    nuclei.add(places[basal], 6.8 / mpp, 1.15, along[basal], 1.0, rng)
    between = (deep < 0.2) & (lucky < 0.2) & open_ground
    nuclei.add(places[between], 8.0 / mpp, 2.6, along[between], 1.05, rng)


def _cells(
    shape: tuple[int, int],
    bundles: NDArray[np.uint8],
    scene: KidneyScene,
    textures: Textures,
    mpp: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Which tubule each pixel belongs to, int32 [h, w], and the kind of each tubule."""
    height, width = shape
    step = STEPS[scene.medulla] / mpp
    # Sections are longer one way: a plane of round cells is drawn out.
    cosine, sine, stretch = np.cos(scene.direction), np.sin(scene.direction), scene.stretch
    reach = float(np.hypot(height, width))
    grid = jittered(reach / stretch, reach, step, 0.27, rng) * (stretch, 1) - reach / 2
    turn = np.asarray([[sine, cosine], [cosine, -sine]])
    seeds = grid @ turn + (height / 2, width / 2)
    kinds = rng.choice(KINDS.shape[1], len(seeds), p=MEDULLA if scene.medulla else CORTEX)
    if bundles.any():
        narrow = jittered(height, width, FINE / mpp, 0.25, rng)
        seeds, many = seeds[~_at(bundles, seeds)], narrow[_at(bundles, narrow)]
        kinds = np.concatenate([kinds[: len(seeds)], np.full(len(many), NARROW)])
        seeds = np.concatenate([seeds, many])
    plain = nearest(seeds, shape)
    # Some neighbours are one tubule that bends through the section twice.
    one = np.arange(len(seeds))
    beside = np.clip(seeds + rng.normal(0, 0.7 * step, seeds.shape), 0, np.subtract(shape, 1)).astype(np.intp)
    partner = plain[beside[:, 0], beside[:, 1]]
    joined = (rng.random(len(seeds)) < 0.3) & ~_at(bundles, seeds)
    one[joined] = partner[joined]
    bend = 5.0 / mpp
    at_x = np.arange(width, dtype=np.float32)[None, :] + bend * textures.cut("fold", height, width, rng)
    at_y = np.arange(height, dtype=np.float32)[:, None] + bend * textures.cut("fold", height, width, rng)
    rows = np.clip(at_y, 0, height - 1).astype(np.intp)
    columns = np.clip(at_x, 0, width - 1).astype(np.intp)
    return one.astype(np.int32)[plain[rows, columns]], kinds


def _at(mask: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie on a mask; those outside the tile don't."""
    row, column = np.floor(points).astype(np.intp).T
    inside = (row >= 0) & (column >= 0) & (row < mask.shape[0]) & (column < mask.shape[1])
    found = np.zeros(len(points), bool)
    found[inside] = mask[row[inside], column[inside]] > 0
    return found


def _along(depth: Field, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.float64]:
    """The direction of the wall at pixels, in radians."""
    down = depth[row + 1, column] - depth[row - 1, column]
    right = depth[row, column + 1] - depth[row, column - 1]
    along: NDArray[np.float64] = np.arctan2(down, right).astype(np.float64) + np.pi / 2
    return along
