"""Boxes: what they may be, moving and cutting them, and their file."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histill.core.boxes import Boxes, boxes_json, read_boxes, write_boxes
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes

CLASSES = Classes(("glomerulus", "tubule"))
side = st.floats(-50, 150, width=32)
corners = st.tuples(side, side, side, side).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 0.5, max(b[1], b[3]) + 0.5)
)
some_boxes = st.lists(st.tuples(corners, st.integers(0, 1), st.floats(0, 1, width=32)), max_size=6)


def made(rows: list[tuple[tuple[float, ...], int, float]]) -> Boxes:
    return Boxes.of([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def same(one: Boxes, other: Boxes) -> bool:
    scored = one.scores is not None and other.scores is not None and np.array_equal(one.scores, other.scores)
    return (
        np.array_equal(one.corners, other.corners)
        and np.array_equal(one.classes, other.classes)
        and (scored or one.scores is other.scores is None)
    )


@pytest.mark.parametrize(
    ("row", "index", "score"),
    [
        ((0, 0, 0, 5), 0, None),
        ((0, 5, 4, 5), 0, None),
        ((4, 0, 0, 5), 0, None),
        ((0, 0, float("nan"), 5), 0, None),
        ((0, 0, float("inf"), 5), 0, None),
        ((0, 0, 4, 5), -1, None),
        ((0, 0, 4, 5), 0, 1.5),
        ((0, 0, 4, 5), 0, float("nan")),
    ],
)
def test_what_a_box_cannot_be(row: tuple[float, ...], index: int, score: float | None) -> None:
    with pytest.raises(HistillError, match="box 2 of 2") as caught:
        Boxes.of([(0, 0, 1, 1), row], [0, index], None if score is None else [1, score])
    assert caught.value.code == Exit.INPUT


def test_shapes_and_types() -> None:
    with pytest.raises(HistillError, match="expected n x 4"):
        Boxes(np.zeros((2, 4), np.float32), np.zeros(1, np.int64))
    with pytest.raises(HistillError, match="expected n x 4"):
        Boxes.of([(0, 0, 1, 1)], [0], [0.5, 0.5])
    with pytest.raises(HistillError, match="float32"):
        Boxes(np.asarray([[0, 0, 1, 1]], np.float64), np.zeros(1, np.int64))  # type: ignore[arg-type]
    assert len(Boxes.of([], [])) == 0
    assert Boxes.of([], []).corners.shape == (0, 4)


def test_moving_and_scaling() -> None:
    boxes = Boxes.of([(1, 2, 5, 8), (0, 0, 2, 2)], [1, 0])
    assert boxes.areas.tolist() == [24, 4]
    assert boxes.scaled(0.5).corners.tolist() == [[0.5, 1, 2.5, 4], [0, 0, 1, 1]]
    assert boxes.shifted(10, -1).corners.tolist() == [[11, 1, 15, 7], [10, -1, 12, 1]]
    assert boxes.shifted(10, -1).classes.tolist() == [1, 0]
    assert boxes.take([1, 0, 1]).classes.tolist() == [0, 1, 0]
    assert boxes.take(np.asarray([False, True])).corners.tolist() == [[0, 0, 2, 2]]
    assert len(boxes.take([])) == 0


def test_clipping_keeps_what_is_half_visible() -> None:
    rows = [(-5, 0, 5, 10), (-6, 0, 5, 10), (95, 70, 115, 80), (100, 0, 110, 10), (2, 2, 4, 4)]
    boxes = Boxes.of(rows, [0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert boxes.clipped(100, 80).corners.tolist() == [[0, 0, 5, 10], [2, 2, 4, 4]]
    assert boxes.clipped(100, 80).scores is not None
    assert boxes.clipped(100, 80, 0.25).corners.tolist() == [
        [0, 0, 5, 10],
        [0, 0, 5, 10],
        [95, 70, 100, 80],
        [2, 2, 4, 4],
    ]
    # Of what merely touches the edge nothing is seen.
    assert boxes.clipped(100, 80, 0).classes.tolist() == [0, 1, 0, 1]


@given(some_boxes, st.floats(0, 1))
def test_clipping_against_counting(rows: list[tuple[tuple[float, ...], int, float]], least: float) -> None:
    boxes = made(rows).clipped(100, 60, least)
    kept = []
    for (x0, y0, x1, y1), index, _ in rows:
        cut = (max(x0, 0), max(y0, 0), min(x1, 100), min(y1, 60))
        share = max(cut[2] - cut[0], 0) * max(cut[3] - cut[1], 0) / ((x1 - x0) * (y1 - y0))
        if abs(share - least) < 1e-4:
            return
        if share > least:
            kept.append((cut, index))
    assert boxes.classes.tolist() == [index for _, index in kept]
    np.testing.assert_allclose(boxes.corners, np.reshape([cut for cut, _ in kept], (-1, 4)), atol=1e-4)


@given(some_boxes, st.booleans())
def test_a_file_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[tuple[float, ...], int, float]], scored: bool
) -> None:
    boxes = made(rows)
    boxes = boxes if scored else Boxes(boxes.corners, boxes.classes)
    path = tmp_path_factory.mktemp("boxes") / "a.json"
    write_boxes(path, boxes, CLASSES)
    again = read_boxes(path, CLASSES)
    # No box at all has no scores either.
    assert same(again, boxes if len(boxes) else Boxes.of([], []))
    assert boxes_json(again, CLASSES) == path.read_bytes()


def test_the_file_is_plain(tmp_path: Path) -> None:
    write_boxes(tmp_path / "a.json", Boxes.of([(0.1, 2, 5, 8)], [1]), CLASSES)
    assert json.loads((tmp_path / "a.json").read_bytes()) == [{"class": "tubule", "box": [0.1, 2, 5, 8]}]
    write_boxes(tmp_path / "none.json", Boxes.of([], []), CLASSES)
    assert (tmp_path / "none.json").read_text() == "[]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('[{"class": "tubule"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
        ('{"boxes": []}', "is a list of entries"),
        ("[7]", "entry 1: an entry is"),
        ('[{"class": "tubule"}]', "entry 1: an entry is"),
        ('[{"class": "tubule", "box": [0, 0, 1, 1], "hard": true}]', "entry 1: an entry is"),
        ('[{"class": "vein", "box": [0, 0, 1, 1]}]', "the class 'vein' is not one of glomerulus, tubule"),
        ('[{"class": ["a"], "box": [0, 0, 1, 1]}]', "is not one of glomerulus"),
        ('[{"class": "tubule", "box": [0, 0, 1]}]', "not four finite numbers"),
        ('[{"class": "tubule", "box": [0, 0, 1, NaN]}]', "not four finite numbers"),
        ('[{"class": "tubule", "box": [0, 0, 1, 1e400]}]', "not four finite numbers"),
        ('[{"class": "tubule", "box": [0, 0, 1, true]}]', "not four finite numbers"),
        ('[{"class": "tubule", "box": [0, 0, 1, "1"]}]', "not four finite numbers"),
        ('[{"class": "tubule", "box": [1, 0, 1, 1]}]', "has no area"),
        ('[{"class": "tubule", "box": [1, 0, 1.00000000001, 1]}]', "has no area"),
        ('[{"class": "tubule", "box": [-1, 0, 1, 1]}]', "beyond the image of 20 x 10 px"),
        ('[{"class": "tubule", "box": [0, 0, 1, 10.5]}]', "beyond the image of 20 x 10 px"),
        ('[{"class": "tubule", "box": [0, 0, 1, 1], "score": 2}]', "not a number from 0 to 1"),
        (
            '[{"class": "tubule", "box": [0, 0, 1, 1], "score": 1}, {"class": "tubule", "box": [0, 0, 1, 1]}]',
            "1 of 2 entries have a score",
        ),
    ],
)
def test_a_bad_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(HistillError, match=message) as caught:
        read_boxes(path, CLASSES, (20, 10))
    assert caught.value.subject == str(path)
    assert caught.value.code in (Exit.INPUT, Exit.USAGE)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('[{"class": "vein", "box": [3, 0, 1, 1]}, {"class": "tubule", "box": [0, 0, 1, 1]}, 4]')
    with pytest.raises(HistillError, match=r"(?s)3 faults.*entry 1: .*vein.*entry 1: .*no area.*entry 3") as caught:
        read_boxes(path, CLASSES)
    assert caught.value.code == Exit.USAGE


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(HistillError, match="cannot be read") as caught:
        read_boxes(tmp_path / "none.json", CLASSES)
    assert caught.value.code == Exit.INPUT
