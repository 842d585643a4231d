"""Blending tiles: against the undivided image, against a slow obvious version, and its bounds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from histill.core.geometry import Frame, Grid
from histill.slides.stitch import Stitcher, blend_window

OVERLAPS = (0.0, 0.25, 0.5, 0.7)


def grid_of(height: int, width: int, side: int, overlap: float) -> Grid:
    """All tiles of a map."""
    step = max(1, round(side * (1 - overlap)))
    corners = [(x, y) for y in range(0, height, step) for x in range(0, width, step)]
    return Grid(Frame(width, height, 1.0, 1.0), np.array(corners, np.int64), side, step)


def tile_of(image: NDArray[np.float32], x: int, y: int, side: int) -> NDArray[np.float32]:
    """A tile [c, side, side] of an image [c, h, w], 0 beyond it."""
    padded = np.pad(image, ((0, 0), (0, side), (0, side)))
    return padded[:, y : y + side, x : x + side]


def stitched(image: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The image again, from its tiles."""
    whole = np.full(image.shape, np.nan, np.float32)
    stitcher = Stitcher(grid, len(image))
    bands = []
    for i, (x, y) in enumerate(grid.corners):
        bands += list(stitcher.add(i, tile_of(image, int(x), int(y), grid.side)))
    bands += list(stitcher.end())
    assert all(one.top + one.maps.shape[1] <= other.top for one, other in pairwise(bands))
    for band in bands:
        h, w = band.seen.shape
        part = whole[:, band.top : band.top + h, band.left : band.left + w]
        part[:, band.seen] = band.maps[:, band.seen]
    return whole


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_tiles_of_an_image_give_the_image_back(overlap: float) -> None:
    image = np.random.default_rng(0).random((3, 83, 131), np.float32)
    assert stitched(image, grid_of(83, 131, 32, overlap)) == pytest.approx(image, abs=1e-6)


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_a_constant_stays_constant(overlap: float) -> None:
    image = np.full((2, 70, 90), 0.37, np.float32)
    assert stitched(image, grid_of(70, 90, 24, overlap)) == pytest.approx(image, abs=1e-6)


def test_a_network_without_padding_effects_gives_the_map_of_the_undivided_image() -> None:
    image = np.random.default_rng(1).random((3, 64, 96), np.float32)
    mix = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    whole = np.tanh(np.einsum("kc,chw->khw", mix, image)).astype(np.float32)
    for overlap in (0.0, 0.25, 0.5):
        grid = grid_of(64, 96, 32, overlap)
        stitcher, found = Stitcher(grid, 4), np.zeros_like(whole)
        for i, (x, y) in enumerate(grid.corners):
            maps = np.tanh(np.einsum("kc,chw->khw", mix, tile_of(image, int(x), int(y), 32))).astype(np.float32)
            for band in (*stitcher.add(i, maps), *(stitcher.end() if i == len(grid) - 1 else ())):
                h, w = band.seen.shape
                found[:, band.top : band.top + h, band.left : band.left + w] = band.maps
        assert found == pytest.approx(whole, abs=1e-6)


@given(st.data())
def test_any_tiles_are_weighted_means(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    full = grid_of(int(rng.integers(1, 60)), int(rng.integers(1, 60)), int(rng.integers(2, 24)), float(rng.random()))
    kept = rng.random(len(full)) < 0.6
    grid = Grid(full.frame, full.corners[kept], full.side, full.step)
    height, width = full.frame.shape
    sums, weights = np.zeros((2, height + 30, width + 30)), np.zeros((height + 30, width + 30))
    stitcher, found = Stitcher(grid, 2), np.full((2, height, width), np.nan)
    window = blend_window(grid.side, grid.step)
    bands = []
    for i, (x, y) in enumerate(grid.corners):
        maps = rng.random((2, grid.side, grid.side), np.float32)
        sums[:, y : y + grid.side, x : x + grid.side] += maps * window
        weights[y : y + grid.side, x : x + grid.side] += window
        bands += list(stitcher.add(i, maps))
    for band in (*bands, *stitcher.end()):
        h, w = band.seen.shape
        found[:, band.top : band.top + h, band.left : band.left + w][:, band.seen] = band.maps[:, band.seen]
    seen = weights[:height, :width] > 0
    slow = sums[:, :height, :width][:, seen] / weights[:height, :width][seen]
    assert found[:, seen] == pytest.approx(slow, abs=1e-5)
    assert np.isnan(found[:, ~seen]).all()


def test_no_tile_at_all_gives_nothing() -> None:
    grid = Grid(Frame(50, 40, 1.0, 1.0), np.zeros((0, 2), np.int64), 16, 12)
    assert list(Stitcher(grid, 3).end()) == []


@pytest.mark.parametrize("side", [8, 9, 32])
def test_the_window_is_symmetric_positive_and_flat_without_overlap(side: int) -> None:
    assert (blend_window(side, side) == 1).all()
    window = blend_window(side, side // 2)
    assert (window > 0).all()
    assert window.max() <= 1
    assert window == pytest.approx(window[::-1, ::-1])
    assert window == pytest.approx(window.T)
