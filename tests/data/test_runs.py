"""Run lengths and the boxes around what hangs together in them, against the mask itself."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.data.sources.components import boxes_of_parts
from histill.data.sources.runs import boxes_of_runs, read_runs


def encoded(mask: np.ndarray) -> str:
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    turns = np.flatnonzero(np.diff(flat)) + 1
    return " ".join(f"{start} {end - start}" for start, end in turns.reshape(-1, 2))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.floats(0, 1), st.integers(0, 10_000))
def test_boxes_of_runs_are_those_of_the_mask(width: int, height: int, share: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    boxes, pixels = boxes_of_runs(read_runs(encoded(mask), width, height), height)
    expected = boxes_of_parts(mask)
    assert sorted(map(tuple, boxes.tolist())) == sorted(map(tuple, expected.tolist()))
    assert int(pixels.sum()) == int(mask.sum())
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    assert sorted(pixels.tolist()) == sorted(np.bincount(labels.ravel(), minlength=count)[1:].tolist())


def test_a_run_goes_on_in_the_next_column() -> None:
    # 3 rows: the run from pixel 2 on, 5 long, is rows 1 and 2 of column 0 and all of column 1.
    boxes, pixels = boxes_of_runs(read_runs("2 5", 4, 3), 3)
    assert boxes.tolist() == [[0, 0, 2, 3]]
    assert pixels.tolist() == [5]


def test_a_run_in_two_pieces_is_one() -> None:
    boxes, pixels = boxes_of_runs(read_runs("1 2 3 2", 1, 9), 9)
    assert boxes.tolist() == [[0, 0, 1, 4]]
    assert pixels.tolist() == [4]


def test_the_bottom_of_a_column_does_not_touch_the_top_of_the_next_but_one() -> None:
    boxes, _ = boxes_of_runs(read_runs("4 1 9 1", 3, 4), 4)
    assert boxes.tolist() == [[0, 3, 1, 4], [2, 0, 3, 1]]


def test_no_runs() -> None:
    boxes, pixels = boxes_of_runs(read_runs("", 4, 3), 3)
    assert boxes.shape == (0, 4)
    assert pixels.shape == (0,)


@pytest.mark.parametrize("text", ["1", "a b", "1 0", "0 1", "1 13", "3 2 4 1", "-1 2", "1.5 2"])
def test_what_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_runs(text, 4, 3)
