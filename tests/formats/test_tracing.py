"""Label maps to polygons: against the slow way, one region at a time with scipy and shapely."""

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from histill.core.labels import IGNORE
from histill.formats import edges, tracing
from histill.formats.tracing import LabelPolygon, LabelPolygons, trace


def few(labels: list[int]) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from(labels))


def chessboard(height: int, width: int) -> np.ndarray:
    return (np.indices((height, width)).sum(axis=0) % 2).astype(np.uint8)


def tissue(side: int, seed: int) -> np.ndarray:
    """Blobs of three classes and nothing, many sizes, holes in holes, and specks."""
    random = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(random.standard_normal((side, side)), sigma) for sigma in (1.5, 2, 3)]
    labels = np.argmax([field / field.std() for field in fields], axis=0).astype(np.uint8)
    labels[ndimage.gaussian_filter(random.standard_normal((side, side)), 4) < -0.02] = IGNORE
    labels[random.random((side, side)) < 0.05] = 1
    return labels


def bands(labels: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    return (labels[top : top + rows] for top in range(0, len(labels), rows))


def traced(labels: np.ndarray, rows: int = 10**6, left_out: tuple[int, ...] = ()) -> list[LabelPolygon]:
    return [polygon for batch in trace(bands(labels, rows), left_out) for polygon in batch]


def check(labels: np.ndarray, found: list[LabelPolygon], left_out: tuple[int, ...] = ()) -> None:
    """Every region is one polygon, and every polygon a region: valid, with its very pixels, area and holes."""
    regions = {label: ndimage.label(labels == label) for label in set(np.unique(labels).tolist()) - {IGNORE, *left_out}}
    assert len(found) == sum(count for _, count in regions.values())
    seen = set()
    y, x = np.indices(labels.shape)
    for polygon in found:
        area = shapely.Polygon(polygon.exterior, polygon.holes)
        assert area.is_valid, shapely.is_valid_reason(area)
        assert area.exterior.is_ccw
        assert not any(hole.is_ccw for hole in area.interiors)
        inside = shapely.contains_xy(area, x + 0.5, y + 0.5)
        numbers = np.unique(regions[polygon.label][0][inside])
        assert len(numbers) == 1
        assert (inside == (regions[polygon.label][0] == numbers[0])).all()
        seen.add((polygon.label, int(numbers[0])))
        assert polygon.area == area.area == inside.sum()
        # Euler: what is cut out are the pieces of the rest, but for the one around it all.
        assert len(polygon.holes) == ndimage.label(np.pad(~inside, 1, constant_values=True))[1] - 1
        for ring in (polygon.exterior, *polygon.holes):
            assert len(np.unique(ring, axis=0)) == len(ring)  # it never meets itself
            across = np.diff(ring, axis=0, append=ring[:1]) != 0
            assert (across.sum(axis=1) == 1).all()  # along the edges of pixels
            assert (across != np.roll(across, 1, axis=0)).all()  # and each point a corner
    assert len(seen) == len(found)


@given(few([0, 1, IGNORE]), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
@example(chessboard(6, 7), 2, 1, 1)
@example(1 - chessboard(5, 5), 9, 7, 3)
@example(np.zeros((1, 1), np.uint8), 1, 1, 1)
def test_every_region_is_one_valid_polygon(labels: np.ndarray, rows: int, strip: int, batch: int) -> None:
    with mock.patch.object(edges, "STRIP", strip), mock.patch.object(tracing, "BATCH", batch):
        check(labels, traced(labels, rows))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("strip", "batch"), [(1 << 19, 1 << 20), (200, 60)])
def test_regions_with_islands_in_holes(seed: int, strip: int, batch: int) -> None:
    labels = tissue(48, seed)
    with mock.patch.object(edges, "STRIP", strip), mock.patch.object(tracing, "BATCH", batch):
        found = traced(labels, 7)
    assert max(len(polygon.holes) for polygon in found) > 2
    check(labels, found)


@given(few([0, 1, 2, IGNORE]))
def test_labels_are_left_out(labels: np.ndarray) -> None:
    check(labels, traced(labels, left_out=(1,)), left_out=(1,))


def rings(rows: list[str]) -> list[tuple[int, list[list[int]], list[list[list[int]]], int]]:
    labels = np.array([[IGNORE if sign == "." else int(sign) for sign in row] for row in rows], np.uint8)
    return [(p.label, p.exterior.tolist(), [hole.tolist() for hole in p.holes], p.area) for p in traced(labels)]


def test_rings_begin_at_the_upper_left_and_hold_corners_alone() -> None:
    exterior = [[0, 0], [4, 0], [4, 3], [0, 3]]
    hole = [[3, 1], [1, 1], [1, 2], [3, 2]]
    assert rings(["0000", "0110", "0000"]) == [
        (0, exterior, [hole], 10),
        (1, [*hole[1:2], [3, 1], [3, 2], [1, 2]], [], 2),
    ]


def test_pixels_that_touch_at_a_corner_are_two_polygons() -> None:
    first, second = [[0, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [2, 1], [2, 2], [1, 2]]
    assert rings(["3.", ".3"]) == [(3, first, [], 1), (3, second, [], 1)]
    assert [(label, area) for label, _, _, area in rings(["01", "10"])] == [(0, 1), (1, 1), (1, 1), (0, 1)]


def test_a_hole_that_touches_the_outside_is_a_hole_still() -> None:
    exterior = [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]
    assert rings(["000", "0.0", "00."]) == [(0, exterior, [[[2, 1], [1, 1], [1, 2], [2, 2]]], 7)]


def test_holes_that_touch_are_two() -> None:
    (polygon,) = rings(["0000", "0.00", "00.0", "0000"])
    assert [hole[0] for hole in polygon[2]] == [[2, 1], [3, 2]]
    assert polygon[3] == 14


def test_what_comes_out_does_not_depend_on_the_bands() -> None:
    labels = tissue(40, 5)
    with mock.patch.object(edges, "STRIP", 130), mock.patch.object(tracing, "BATCH", 50):
        batches = [list(trace(bands(labels, rows))) for rows in (1, 3, 40)]
    assert len(batches[0]) > 2
    for other in batches[1:]:
        for one, same in zip(batches[0], other, strict=True):
            for name in LabelPolygons.__dataclass_fields__:
                np.testing.assert_array_equal(getattr(one, name), getattr(same, name))


def test_finished_polygons_come_out_before_the_map_is_read() -> None:
    read = []

    def slowly() -> Iterator[np.ndarray]:
        for top in range(100):
            read.append(top)
            yield chessboard(2, 10)

    with mock.patch.object(edges, "STRIP", 20), mock.patch.object(tracing, "BATCH", 50):
        first = next(trace(slowly()))
    assert len(first) > 0
    assert len(read) < 10


def test_edges_of_finished_polygons_are_let_go() -> None:
    """A region that is open all the way down, and thousands beside it: only the open ones are looked at again."""
    labels = chessboard(300, 40)
    labels[:, :3] = 7
    seen = []
    settle = tracing._settle

    def watched(found: edges.Edges, frontier: int | None) -> tuple[LabelPolygons, edges.Edges]:
        seen.append(len(found))
        return settle(found, frontier)

    with mock.patch.multiple(tracing, BATCH=400, _settle=watched), mock.patch.object(edges, "STRIP", 80):
        found = traced(labels, 10)
    assert sum(polygon.area for polygon in found) == labels.size
    assert len(seen) > 20
    assert max(seen) < 1500


def test_maps_wider_than_16_bits() -> None:
    labels = np.zeros((3, 70_000), np.uint8)
    labels[1, 65_530:65_540] = labels[1, 5] = 1
    labels[2, 69_999] = IGNORE
    found = traced(labels)
    assert [(p.label, p.area) for p in found] == [(0, 210_000 - 12), (1, 1), (1, 10)]
    assert [hole[0].tolist() for hole in found[0].holes] == [[6, 1], [65_540, 1]]
    assert found[2].exterior.tolist() == [[65_530, 1], [65_540, 1], [65_540, 2], [65_530, 2]]


def test_nothing_gives_nothing() -> None:
    assert list(trace([])) == []
    assert traced(np.full((5, 4), IGNORE, np.uint8)) == []
    assert traced(np.zeros((0, 4), np.uint8)) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([np.zeros((2, 3), np.int64)], "not int64"),
        ([np.zeros(3, np.uint8)], "not uint8"),
        ([np.zeros((2, 0), np.uint8)], "not uint8"),
        ([np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8)], "4 px wide, the first one 3"),
    ],
)
def test_bands_that_are_none(wrong: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(trace(wrong))
