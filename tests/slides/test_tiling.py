"""Tiles against slow obvious versions: which belong, what they cover, and how large they are in um."""

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Point, Polygon, box

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Grid
from histill.slides.tiling import lay_grid, side_in_px
from histill.slides.tissue import Tissue


def coarse(mask: np.ndarray, width: int, height: int) -> Tissue:
    """Tissue of a slide of so many level-0 px."""
    scale = width / mask.shape[1], height / mask.shape[0]
    return Tissue(mask, scale, "", "bright field", 0.02, (240, 240, 240), np.zeros(mask.shape, np.uint8))


def tissue_under(tissue: Tissue, grid: Grid, index: int) -> tuple[float, float]:
    """Tissue under a tile and the part of the tile that lies on the slide, in level-0 px2, by plain geometry."""
    frame = grid.frame
    x, y = grid.corners[index] * frame.scale
    side = grid.side * frame.scale
    tile = box(x, y, x + side, y + side).intersection(box(0, 0, frame.width, frame.height))
    rows, columns = np.nonzero(tissue.mask)
    w, h = tissue.scale
    pixels = shapely.box(columns * w, rows * h, (columns + 1) * w, (rows + 1) * h)
    return float(shapely.area(shapely.intersection(pixels, tile)).sum()), tile.area


def every_tile(frame: Frame, tissue: Tissue, side: int, overlap: float) -> Grid:
    return lay_grid(frame, tissue, side=side, overlap=overlap)


frames = st.builds(
    Frame,
    width=st.integers(20, 300),
    height=st.integers(20, 300),
    level0_mpp=st.just(0.5),
    mpp=st.sampled_from([0.25, 0.5, 0.7, 1.0, 3.3]),
)
masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.floats(0, 1)).map(
    lambda drawn: np.random.default_rng(drawn[2]).random(drawn[:2]) < drawn[3]
)
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.9])


@given(frames, masks, st.integers(5, 200), overlaps, st.sampled_from([0.01, 0.3, 0.5, 1.0]))
def test_a_tile_belongs_by_the_area_of_its_tissue(
    frame: Frame, mask: np.ndarray, side: int, overlap: float, least: float
) -> None:
    tissue = coarse(mask, frame.width, frame.height)
    everything = every_tile(frame, tissue, side, overlap)
    assume(len(everything) < 60)
    chosen = {
        tuple(corner) for corner in lay_grid(frame, tissue, side=side, overlap=overlap, least_tissue=least).corners
    }
    for index, corner in enumerate(everything.corners):
        found, area = tissue_under(tissue, everything, index)
        if abs(found - least * area) > 1e-6 * area:
            assert (tuple(corner) in chosen) == (found > least * area)


@settings(max_examples=40)
@given(frames, masks, st.integers(1, 200), overlaps)
def test_tiles_cover_the_map_and_begin_inside_it(frame: Frame, mask: np.ndarray, side: int, overlap: float) -> None:
    assume(side * (1 - overlap) * 40 > max(frame.shape))
    grid = every_tile(frame, coarse(mask, frame.width, frame.height), side, overlap)
    height, width = frame.shape
    seen = np.zeros((height, width), int)
    for x, y in grid.corners:
        assert 0 <= x < width
        assert 0 <= y < height
        seen[y : y + side, x : x + side] += 1
    assert seen.min() >= 1
    assert (grid.corners % grid.step == 0).all()
    assert grid.step == max(1, round(side * (1 - overlap)))
    # No column or row of tiles that shows nothing new.
    assert grid.corners[:, 0].max() == 0 or grid.corners[:, 0].max() - grid.step + side < width
    assert grid.corners[:, 1].max() == 0 or grid.corners[:, 1].max() - grid.step + side < height
    assert [tuple(corner) for corner in grid.corners] == sorted(map(tuple, grid.corners), key=lambda xy: xy[::-1])


@given(frames, masks, st.integers(5, 120), overlaps)
def test_no_tissue_is_lost_if_a_trace_of_it_is_enough(
    frame: Frame, mask: np.ndarray, side: int, overlap: float
) -> None:
    tissue = coarse(mask, frame.width, frame.height)
    grid = lay_grid(frame, tissue, side=side, overlap=overlap, least_tissue=1e-6)
    height, width = frame.shape
    seen = np.zeros((height, width), bool)
    for x, y in grid.corners:
        seen[y : y + side, x : x + side] = True
    assert not (tissue.over(frame, 0, 0, width, height) & ~seen).any()


FRAME = Frame(1000, 800, 0.5, 0.5)
WHOLE = coarse(np.ones((80, 100), bool), 1000, 800)


def corners(**options: object) -> set[tuple[int, int]]:
    given = {"side": 100, "overlap": 0.0, **options}
    return {tuple(int(v) for v in corner) for corner in lay_grid(FRAME, WHOLE, **given).corners}


def test_within_keeps_the_tiles_that_a_region_touches() -> None:
    assert corners(within=[box(250, 350, 480, 360)]) == {(200, 300), (300, 300), (400, 300)}
    assert corners(within=[box(250, 350, 260, 360), Point(905, 705).buffer(3)]) == {(200, 300), (900, 700)}
    assert corners(within=[MultiPolygon([box(1, 1, 2, 2), box(501, 1, 502, 2)])]) == {(0, 0), (500, 0)}
    assert corners(within=[box(200, 300, 400, 400)]) == {(200, 300), (300, 300)}
    assert corners(within=[]) == set()
    assert corners(within=[box(-500, -500, -50, -50)]) == set()
    assert len(corners(within=[box(-1e12, -1e12, 1e12, 1e12)])) == 80


def test_without_drops_only_tiles_that_are_wholly_excluded() -> None:
    everything = corners()
    assert corners(without=[box(200, 300, 300, 400)]) == everything - {(200, 300)}
    assert corners(without=[box(230, 330, 280, 390)]) == everything
    assert corners(without=[box(150, 300, 350, 400)]) == everything - {(200, 300)}
    assert corners(without=[box(-9, -9, 1009, 809)]) == set()
    # Two that meet inside a tile exclude it together.
    assert corners(without=[box(100, 0, 160, 100), box(160, 0, 200, 100)]) == everything - {(100, 0)}


def test_a_hole_in_a_region_is_outside_of_it() -> None:
    ring = Polygon(box(100, 100, 600, 600).exterior, [box(150, 150, 550, 550).exterior])
    inside_the_hole = {(x, y) for x in (200, 300, 400) for y in (200, 300, 400)}
    assert corners(within=[ring]).isdisjoint(inside_the_hole)
    assert (100, 300) in corners(within=[ring])
    assert corners(without=[ring]) >= inside_the_hole


def test_both_filters_look_at_the_same_place() -> None:
    # What is wanted of the tile at (200, 300) is its left half, and that is excluded.
    assert (200, 300) not in corners(within=[box(200, 300, 250, 400)], without=[box(195, 300, 250, 400)])
    assert (200, 300) in corners(within=[box(200, 300, 270, 400)], without=[box(195, 300, 250, 400)])


def test_regions_count_only_where_there_is_tissue() -> None:
    mask = np.zeros((80, 100), bool)
    mask[30:40, 20:25] = True  # the left half of the tile at (200, 300)
    tissue = coarse(mask, 1000, 800)

    def chosen(**options: object) -> list[list[int]]:
        return lay_grid(FRAME, tissue, side=100, overlap=0.0, **options).corners.tolist()

    assert chosen(least_tissue=0.5, within=[box(201, 301, 299, 399)]) == [[200, 300]]
    assert chosen(least_tissue=0.5, within=[box(270, 301, 299, 399)]) == []
    assert chosen(least_tissue=0.5, without=[box(190, 290, 250, 410)]) == []
    assert chosen(least_tissue=0.0, within=[box(270, 301, 299, 399)]) == [[200, 300]]


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_a_pixel_is_within_if_touched_and_without_if_its_middle_is_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    reach = rng.uniform(30, 400, len(angles))[:, None]
    region = Polygon(rng.uniform(0, (1000, 800)) + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assume(region.is_valid)
    # Tiles of one pixel of the coarse map each.
    grid = every_tile(FRAME, WHOLE, 10, 0.0)
    pixels = shapely.box(*grid.corners.T, *(grid.corners + 10).T)
    within, without = (
        {tuple(corner) for corner in lay_grid(FRAME, WHOLE, side=10, **{how: [region]}).corners}
        for how in ("within", "without")
    )
    shared = shapely.area(shapely.intersection(pixels, region))
    middle = shapely.contains_xy(region, *(grid.corners + 5).T)
    for corner, area, held in zip(map(tuple, grid.corners.tolist()), shared, middle, strict=True):
        if area > 1 or area == 0:
            assert (corner in within) == (area > 0)
        assert (corner not in without) == held


@pytest.mark.parametrize("um", [64.0, 128.0, 256.0])
@pytest.mark.parametrize("mpp", [0.21, 0.25, 0.29, 0.5])
def test_a_tile_is_as_large_in_um_whatever_the_slides_spacing(um: float, mpp: float) -> None:
    frame = Frame(20_000, 15_000, level0_mpp=mpp, mpp=mpp)
    grid = lay_grid(frame, coarse(np.ones((15, 20), bool), 20_000, 15_000), side=side_in_px(um, mpp))
    assert abs(grid.side * mpp - um) < 0.01 * um
    # And the same at one spacing on slides of others, through level-0 px.
    seen = lay_grid(
        Frame(20_000, 15_000, mpp, 0.5), coarse(np.ones((15, 20), bool), 20_000, 15_000), side=side_in_px(um, 0.5)
    ).region(0)
    assert abs(seen.w * mpp - um) < 0.01 * um
    assert abs(seen.h * mpp - um) < 0.01 * um


def test_a_giant_slide_is_tiled_at_once() -> None:
    mask = np.random.default_rng(0).random((1536, 2048)) < 0.5
    grid = lay_grid(
        Frame(200_000, 150_000, 0.25, 0.25), coarse(mask, 200_000, 150_000), side=224, overlap=0.5, least_tissue=0.1
    )
    assert len(grid) > 2_000_000
    assert grid.corners.dtype == np.int64
    assert grid.corners.max(axis=0).tolist() == [199_808, 149_856]


@pytest.mark.parametrize("given", [{"side": 0}, {"overlap": 1.0}, {"overlap": -0.1}, {"least_tissue": 1.5}])
def test_what_makes_no_tiles_is_a_usage_error(given: dict[str, float]) -> None:
    with pytest.raises(HistillError, match="no tiles of") as error:
        corners(**given)
    assert error.value.code == Exit.USAGE


def test_a_tile_has_at_least_a_pixel() -> None:
    assert side_in_px(0.5, 0.5) == 1
    for um in (0.4, 0.0, float("nan")):
        with pytest.raises(HistillError, match="smaller than a pixel"):
            side_in_px(um, 0.5)
