"""What is round in made-up kidney: glomeruli, vessels and heaps of lymphocytes, painted into a window of a tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histill.data.synthetic.fields import Field
from histill.data.synthetic.kidney_paint import Nuclei, Textures, distance, inward, jittered, lay, nearest, rise
from histill.data.synthetic.kidney_scene import ARTERY, INFILTRATE, Distractor, Donor, Glomerulus

Points = NDArray[np.float64]
CAPILLARY, LOBULE = 10.5, 42.0
"""From one capillary loop, and from one lobule of the tuft, to the next in micrometres."""


def paint_glomerulus(
    layers: Field,
    nuclei: Nuclei,
    each: Glomerulus,
    donor: Donor,
    textures: Textures,
    mpp: float,
    rng: np.random.Generator,
) -> None:
    """Paint a glomerulus: capsule, Bowman's space, and the tuft or the scar in it.

    Args:
        layers: amounts of `kidney_stain.LAYERS`, float32 [5, h, w]; painted on in place.
        nuclei: its nuclei are added.
        each: the glomerulus, in micrometres from the tile's corner.
        donor: how full of cells it is.
        textures: for folds and grain.
        mpp: micrometres per pixel.
        rng: where the draws come from.
    """
    window, origin = _window(layers, each.capsule / mpp, 12 / mpp)
    part = layers[:, window[0], window[1]]
    shape: tuple[int, int] = part.shape[1:]
    if min(shape) < 4:
        return
    fold, grain, fine = (textures.cut(name, *shape, rng) for name in ("fold", "grain", "fine"))
    outer, inner = (inward(outline / mpp - origin, shape) * mpp for outline in (each.capsule, each.tuft))
    inside = rise(outer, 0.0, mpp)
    for layer in part:
        layer *= 1 - inside
    thick = 4.0 if each.sclerosed else 1.7
    capsule = np.exp(-(((outer - thick / 2) / max(thick / 2, 0.7 * mpp)) ** 2)) * (outer > -4)
    np.maximum(part[2], 0.95 * capsule, out=part[2])
    tuft = rise(inner + (0.5 if each.sclerosed else 1.3) * grain, 0.0, mpp)

    points = jittered(*shape, CAPILLARY / mpp, 0.33, rng)
    loops = nearest(points, shape)
    bent = _bent(loops, 2.0 / mpp, grain, fold)
    deep = distance(_walls(bent)) * mpp
    lobules = _bent(nearest(jittered(*shape, LOBULE / mpp, 0.3, rng), shape), 6.0 / mpp, fold, grain)
    within = distance(_walls(lobules)) * mpp
    lot = rng.random(len(points)).astype(np.float32)[bent] + 0.07 * fold
    if each.sclerosed:
        lay(part[2], 0.62 + 0.10 * grain + 0.10 * fold + 0.1 * (1 - rise(deep, 1.5, 2.0)), tuft)
        lay(part[1], 0.22 + 0.05 * fine, tuft)
    else:
        # Clefts between lobules open into Bowman's space; mesangium is thickest in a lobule's middle.
        tuft = tuft * np.maximum(rise(within, 1.6, 2.0), 0.25 + 0.75 * rise(inner, 26.0, 24.0))
        lot = lot + 0.25 * rise(within, 10.0, 12.0) - 0.1
        stalk = 0.66 - 0.22 * donor.cellular  # share of loops that are open
        opened = (lot < stalk + 0.14).astype(np.float32)
        red = (lot < 0.10).astype(np.float32)
        rim = 1 - rise(deep, 1.4, 1.2)
        lay(part[2], 0.04 + 0.42 * rim + (1 - opened) * (0.24 + 0.08 * grain), tuft)
        lay(part[1], 0.06 + 0.30 * (1 - rise(deep, 2.8, 2.0)) + (1 - opened) * (0.30 + 0.08 * fine), tuft)
        part[4] += 0.7 * red * rise(deep, 1.8, 1.2) * tuft
    if not each.sclerosed:
        # What little protein there is in Bowman's space.
        part[1] += 0.02 * inside * (1 - tuft)

    places, row, column = _inside(jittered(*shape, 8.2 / mpp, 0.30, rng), shape)
    often = 0.08 if each.sclerosed else 0.25 + 0.40 * donor.cellular
    in_tuft = (inner[row, column] > 1.5) & (rng.random(len(row)) < often) & (deep[row, column] < 4.2)
    nuclei.add((places + origin[::-1])[in_tuft], 6.9 / mpp, 1.25, None, 1.0, rng)
    podocytes = (
        ~in_tuft & (np.abs(inner[row, column] - 1.0) < 2.4) & (rng.random(len(row)) < 0.75) & (not each.sclerosed)
    )
    nuclei.add((places + origin[::-1])[podocytes], 7.8 / mpp, 1.25, None, 0.85, rng)
    flat = (np.abs(outer[row, column] - 2.6) < 1.3) & (rng.random(len(row)) < 0.55)
    nuclei.add(
        (places + origin[::-1])[flat], 9.0 / mpp, 3.0, _across(places[flat], each.centre, origin, mpp), 1.05, rng
    )


def paint_distractor(
    layers: Field, nuclei: Nuclei, each: Distractor, textures: Textures, mpp: float, rng: np.random.Generator
) -> None:
    """Paint a vessel or a heap of lymphocytes; a bundle of tubules is the tubules' own.

    Args:
        layers: amounts of `kidney_stain.LAYERS`, float32 [5, h, w]; painted on in place.
        nuclei: its nuclei are added.
        each: in micrometres from the tile's corner.
        textures: for folds and grain.
        mpp: micrometres per pixel.
        rng: where the draws come from.
    """
    window, origin = _window(layers, each.outline / mpp, 12 / mpp)
    part = layers[:, window[0], window[1]]
    shape: tuple[int, int] = part.shape[1:]
    if min(shape) < 4:
        return
    centre = tuple(each.outline.mean(axis=0))
    grain, fold = textures.cut("grain", *shape, rng), textures.cut("fold", *shape, rng)
    depth = inward(each.outline / mpp - origin, shape) * mpp
    if each.kind == INFILTRATE:
        heap = rise(depth + 6 * fold, 4.0, 5.0)
        lay(part[2], 0.22 + 0.05 * grain, heap)
        lay(part[1], 0.20 + 0.05 * grain, heap)
        places, row, column = _inside(jittered(*shape, 6.3 / mpp, 0.25, rng), shape)
        keep = (heap[row, column] > 0.5) & (rng.random(len(row)) < 0.85)
        nuclei.add((places + origin[::-1])[keep], 5.8 / mpp, 1.1, None, 1.15, rng)
        return
    inside = rise(depth, 0.0, mpp)
    for layer in part:
        layer *= 1 - inside
    # The lumen of an artery is folded: its inner lamina waves.
    lumen = rise(depth + (2.2 if each.kind == ARTERY else 1.0) * fold, each.wall, mpp)
    coat = inside * (1 - lumen)
    adventitia = 1 - rise(depth + 1.5 * grain, 5.0 if each.kind == ARTERY else 2.0, 3.0)
    rings = 0.5 + 0.5 * np.sin(depth * (2 * np.pi / 6.5) + 1.2 * fold)
    part[2] += coat * (0.16 + 0.22 * rings + 0.55 * adventitia)
    part[1] += coat * (1 - adventitia) * (0.62 + 0.10 * grain)
    lamina = np.exp(-(((depth + 2.2 * fold * (each.kind == ARTERY) - each.wall) / max(1.1, 0.7 * mpp)) ** 2)) * inside
    np.maximum(part[2], 0.9 * lamina, out=part[2])
    if each.filled:
        part[4] += lumen * (0.55 + 0.18 * grain)
    places, row, column = _inside(jittered(*shape, 9.5 / mpp, 0.33, rng), shape)
    at = depth[row, column]
    keep = (at > 3) & (at < each.wall - 1) & (rng.random(len(row)) < 0.7)
    nuclei.add((places + origin[::-1])[keep], 10.0 / mpp, 3.2, _across(places[keep], centre, origin, mpp), 0.95, rng)
    lining = (np.abs(at - each.wall - 1) < 1.6) & (rng.random(len(row)) < 0.6)
    nuclei.add((places + origin[::-1])[lining], 8.0 / mpp, 2.6, _across(places[lining], centre, origin, mpp), 1.0, rng)


def _window(layers: Field, outline: Points, beyond: float) -> tuple[tuple[slice, slice], Points]:
    """The rows and columns of a tile around an outline in pixels, and the window's corner x, y."""
    height, width = layers.shape[1:]
    low = np.floor(outline.min(axis=0) - beyond)
    high = np.ceil(outline.max(axis=0) + beyond)
    x0, y0 = (int(max(part, 0)) for part in low)
    x1, y1 = int(min(high[0], width)), int(min(high[1], height))
    return (slice(y0, max(y0, y1)), slice(x0, max(x0, x1))), np.asarray([x0, y0], np.float64)


def _inside(points: Points, shape: tuple[int, int]) -> tuple[Points, NDArray[np.intp], NDArray[np.intp]]:
    """Points that lie in a window, with their pixels' rows and columns."""
    row, column = np.floor(points).astype(np.intp).T
    keep = (row >= 0) & (column >= 0) & (row < shape[0]) & (column < shape[1])
    return points[keep], row[keep], column[keep]


def _across(places: Points, centre: tuple[float, ...], origin: Points, mpp: float) -> Points:
    """The direction of a ring about a centre at places of a window, in radians."""
    x, y = np.asarray(centre) / mpp - origin
    along: Points = np.arctan2(places[:, 0] - y, places[:, 1] - x) + np.pi / 2
    return along


def _bent(labels: NDArray[np.int32], far: float, down: Field, right: Field) -> NDArray[np.int32]:
    """Labels of cells with bent walls."""
    height, width = labels.shape
    rows = np.clip(np.arange(height)[:, None] + far * down, 0, height - 1).astype(np.intp)
    columns = np.clip(np.arange(width)[None, :] + far * right, 0, width - 1).astype(np.intp)
    return labels[rows, columns]


def _walls(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """0 where two cells meet, else 1, uint8 [h, w]."""
    inside = (labels[1:, 1:] == labels[:-1, :-1]) & (labels[1:, :-1] == labels[:-1, 1:])
    return np.pad(inside, ((1, 0), (1, 0)), mode="edge").astype(np.uint8)
