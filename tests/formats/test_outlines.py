"""Outlines: polygons made from rings, mended or refused."""

from pathlib import Path

import numpy as np
import pytest
from shapely import MultiPolygon, Polygon, box

from histill.core.errors import Exit, HistillError
from histill.formats.outlines import FARTHEST, Outline, Outlines, check_size, listed, polygon, polygonal

SQUARE = [(0, 0), (4, 0), (4, 4), (0, 4)]


def rings(*each: list[tuple[float, float]]) -> list[np.ndarray]:
    return [np.array(points, float).reshape(-1, 2) for points in each]


@pytest.mark.parametrize("closed", [False, True])
def test_rings_make_a_polygon_closed_or_not(closed: bool) -> None:
    hole = [(1, 1), (1, 2), (2, 2)]
    again = [SQUARE[0]] if closed else []
    area, why = polygon(rings(SQUARE + again, hole + [hole[0]] * closed), "here")
    assert area.equals(Polygon(SQUARE, [hole]))
    assert area.area == 15.5
    assert why == ""


def test_a_bow_tie_becomes_two_triangles() -> None:
    area, why = polygon(rings([(0, 0), (4, 4), (4, 0), (0, 4)]), "here")
    assert area.is_valid
    assert isinstance(area, MultiPolygon)
    assert area.area == 8
    assert why.startswith("Self-intersection")


def test_a_spike_is_no_area() -> None:
    area, _ = polygon(rings([(0, 0), (4, 0), (4, 4), (9, 9), (4, 4), (0, 4)]), "here")
    assert area.equals(box(0, 0, 4, 4))


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ([], "without a ring"),
        ([[]], "fewer than three"),
        ([[(0, 0), (4, 4)]], "fewer than three"),
        ([[(0, 0), (4, 4), (0, 0)]], "fewer than three"),
        ([SQUARE, [(1, 1), (2, 2)]], "fewer than three"),
        ([[(0, 0), (4, 4), (8, 8)]], "encloses no area"),
        ([[(1, 1)] * 5], "encloses no area"),
        ([[(0, 0), (4, 0), (4, np.nan)]], "not finite"),
        ([[(0, 0), (4, 0), (np.inf, 4)]], "not finite"),
        ([[(0, 0), (4, 0), (4, 2 * FARTHEST)]], "beyond 100000000"),
    ],
)
def test_what_is_no_polygon(wrong: list[list[tuple[float, float]]], what: str) -> None:
    with pytest.raises(HistillError, match=what) as caught:
        polygon(rings(*wrong), "a.json, feature 3")
    assert caught.value.code == Exit.INPUT
    assert caught.value.subject == "a.json, feature 3"
    assert caught.value.mend


def test_only_areas_are_polygonal() -> None:
    parts = [box(0, 0, 2, 2), box(1, 0, 3, 2), box(0, 0, 9, 9).exterior]
    assert polygonal(parts).equals(box(0, 0, 3, 2))
    assert polygonal(parts[2:]).is_empty


def test_outlines_are_a_sequence() -> None:
    some = [Outline(box(0, 0, side, 1)) for side in (1, 2, 3)]
    outlines = Outlines(tuple(some), ("a note",))
    assert list(outlines) == some
    assert len(outlines) == 3
    assert outlines[-1] == some[2]
    assert outlines[:2] == tuple(some[:2])
    assert outlines.notes == ("a note",)


def test_lists_for_notes_are_short() -> None:
    assert listed([1, 2, 3, 4, 5]) == "1, 2, 3, 4, 5"
    assert listed(["a"] * 8) == "a, a, a, a, a and 3 more"


def test_files_that_are_missing_or_too_large(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(HistillError, match="no such file") as caught:
        check_size(file, 10)
    assert caught.value.code == Exit.INPUT
    file.write_bytes(b"x" * 11)
    check_size(file, 11)
    with pytest.raises(HistillError, match="more than") as caught:
        check_size(file, 10)
    assert caught.value.code == Exit.UNSAFE
