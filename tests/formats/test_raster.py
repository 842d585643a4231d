"""Outlines to label maps: against shapely, asked for each pixel's centre."""

from unittest import mock

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon, box

from histill.core.geometry import Frame
from histill.formats import raster
from histill.formats.outlines import Outline, polygonal
from histill.formats.raster import OutlineRaster, rasterise

numbers = st.floats(-5, 25, allow_nan=False, width=32)
corners = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=12)
boxes = st.tuples(*[st.integers(-3, 12)] * 4).map(lambda b: box(b[0], b[1], b[0] + abs(b[2]) + 1, b[1] + abs(b[3]) + 1))
scales = st.sampled_from([1.0, 2.0016, 0.5, 0.37])


def frame(width: int, height: int, scale: float) -> Frame:
    made = Frame(max(1, int(width * scale)), max(1, int(height * scale)), 0.25, 0.25 * scale)
    assert made.scale == pytest.approx(scale)
    return made


def centres(of: Frame) -> tuple[np.ndarray, np.ndarray]:
    height, width = of.shape
    y, x = np.indices((height, width))
    return (x + 0.5) * of.scale, (y + 0.5) * of.scale


@given(corners, scales)
@example([(0.0, 0.0), (20.0, 7.0), (3.0, 19.0)], 1.0)
def test_a_pixel_is_inside_if_its_centre_is(points: list[tuple[float, float]], scale: float) -> None:
    area = polygonal(shapely.get_parts(shapely.make_valid(Polygon(points))))
    at = frame(20, 17, scale)
    drawn = rasterise([Outline(area)], [1], at, beyond=0)
    assert drawn.shape == at.shape
    assert drawn.dtype == np.uint8
    x, y = centres(at)
    # On the border itself a rule decides, see below.
    sure = shapely.distance(shapely.boundary(area), shapely.points(x, y)) > 1e-6
    sure |= area.is_empty
    np.testing.assert_array_equal(drawn[sure], shapely.contains_xy(area, x, y)[sure])


def test_holes_and_parts() -> None:
    ring = Polygon(box(0, 0, 6, 6).exterior, [box(2, 2, 4, 4).exterior])
    drawn = rasterise([Outline(MultiPolygon([ring, box(3, 3, 4, 4)]))], [1], Frame(6, 6, 1, 1), beyond=0)
    expected = np.ones((6, 6), np.uint8)
    expected[2:4, 2:4] = 0
    expected[3, 3] = 1
    np.testing.assert_array_equal(drawn, expected)


def test_a_centre_on_the_border_is_of_the_outline_right_of_and_below_it() -> None:
    drawn = rasterise([Outline(box(0.5, 0.5, 2.5, 2.5))], [1], Frame(4, 4, 1, 1), beyond=0)
    expected = np.zeros((4, 4), np.uint8)
    expected[0:2, 0:2] = 1
    np.testing.assert_array_equal(drawn, expected)


@given(st.tuples(numbers, numbers), scales)
@example((8.5, 8.5), 1.0)
@example((10.0, 10.0), 1.0)
@example((2.5, 5.5), 0.37)
def test_outlines_that_share_borders_leave_no_pixel_out_and_share_none(
    middle: tuple[float, float], scale: float
) -> None:
    """A square cut into triangles around a point, each with borders at odd angles, drawn one by one."""
    around = [(-6, -6), (7, -6), (26, -6), (26, 13), (26, 26), (11, 26), (-6, 26), (-6, 9)]
    triangles = [(middle, a, b) for a, b in zip(around, around[1:] + around[:1], strict=True)]
    parts = [Polygon(np.array(triangle) * scale) for triangle in triangles]
    at = frame(20, 17, scale)
    total = sum(rasterise([Outline(part)], [1], at, beyond=0).astype(int) for part in parts)
    np.testing.assert_array_equal(total, np.ones(at.shape))


@given(st.lists(st.tuples(boxes, st.integers(0, 255)), max_size=7), st.integers(0, 255))
def test_later_outlines_cover_earlier_ones(drawn: list[tuple[Polygon, int]], beyond: int) -> None:
    at = Frame(12, 11, 0.5, 0.5)
    expected = np.full((11, 12), beyond, np.uint8)
    for area, label in drawn:
        left, top, right, bottom = (int(side) for side in area.bounds)
        expected[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = label
    outlines, labels = [Outline(area) for area, _ in drawn], [label for _, label in drawn]
    np.testing.assert_array_equal(rasterise(outlines, labels, at, beyond=beyond), expected)


@given(st.lists(corners.map(lambda points: shapely.make_valid(Polygon(points))), max_size=4), st.integers(1, 9), scales)
def test_bands_are_rows_of_the_whole(areas: list[shapely.Geometry], rows: int, scale: float) -> None:
    outlines = [Outline(polygonal(shapely.get_parts(area))) for area in areas]
    labels = list(range(len(areas)))
    at = frame(20, 17, scale)
    whole = rasterise(outlines, labels, at)
    drawn = OutlineRaster(outlines, labels, at)
    with mock.patch.object(raster, "BAND", rows * at.shape[1]):
        np.testing.assert_array_equal(np.concatenate(list(drawn)), whole)
    last = at.shape[0] - rows
    if last >= 0:
        np.testing.assert_array_equal(drawn.band(last, rows), whole[last:])


def test_far_away_outlines_and_none_at_all() -> None:
    at = Frame(5, 4, 1, 1)
    assert (rasterise([], [], at) == 255).all()
    assert (OutlineRaster([], [], at, beyond=3).band(1, 2) == np.full((2, 5), 3)).all()
    far = [Outline(box(-1e7, -1e7, -10, 1e7)), Outline(box(0, 90, 5, 99)), Outline(box(9, -1, 1e7, 9))]
    assert (rasterise(far, [1, 2, 3], at) == 255).all()
    assert (rasterise([Outline(box(-1e7, -1e7, 1e7, 1e7))], [6], at) == 6).all()


def test_every_outline_needs_a_label() -> None:
    with pytest.raises(ValueError, match="1 labels for 2 outlines"):
        rasterise([Outline(box(0, 0, 1, 1))] * 2, [1], Frame(4, 4, 1, 1))
