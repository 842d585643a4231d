"""Objects cut by tiles of every kind become whole again, and each is reported once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histill.core.boxes import Boxes
from histill.core.errors import Exit, HistillError
from histill.slides.seams import merged

SIDE = 128
Corners = list[list[float]]


def grid(width: int, height: int, step: int) -> np.ndarray:
    return np.array([[x, y, x + SIDE, y + SIDE] for y in range(0, height, step) for x in range(0, width, step)], float)


def seen(objects: np.ndarray, tiles: np.ndarray, least: float = 0.0) -> tuple[Boxes, np.ndarray]:
    """What a faultless detector says of each tile: the part of every object in it, if it is at least so large."""
    corners, tile, random = [], [], np.random.default_rng(0)
    for t, (x0, y0, x1, y1) in enumerate(tiles):
        for left, top, right, bottom in objects:
            part = [max(left, x0), max(top, y0), min(right, x1), min(bottom, y1)]
            area = max(part[2] - part[0], 0) * max(part[3] - part[1], 0)
            if area > 4 and area >= least * (right - left) * (bottom - top):
                corners.append(part)
                tile.append(t)
    return Boxes.of(corners, [0] * len(corners), random.uniform(0.1, 1, len(corners)).tolist()), np.array(tile, int)


def lying_apart(count: int, size: tuple[int, int], largest: int, seed: int) -> np.ndarray:
    random, kept = np.random.default_rng(seed), []
    for _ in range(count):
        side = random.integers(12, largest, 2)
        x, y = (int(random.integers(0, max(1, full - s))) for full, s in zip(size, side, strict=True))
        box = [x, y, min(x + side[0], size[0]), min(y + side[1], size[1])]
        if all(box[0] > b[2] + 4 or box[2] < b[0] - 4 or box[1] > b[3] + 4 or box[3] < b[1] - 4 for b in kept):
            kept.append(box)
    return np.array(kept, float)


def as_set(boxes: Boxes) -> list[list[float]]:
    return sorted(boxes.corners.tolist())


@given(
    st.integers(0, 10**6),
    st.sampled_from([SIDE, 112, 96, 64]),
    st.sampled_from([30, 100, 300]),
    st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=40, deadline=None)
def test_every_object_is_reported_once_and_whole(seed: int, step: int, largest: int, least: float) -> None:
    size = (400, 330)
    objects = lying_apart(20, size, largest, seed)
    tiles = grid(*size, step)
    if largest > 30 or step == SIDE:
        least = 0.0  # some parts would be seen by no tile
    boxes, tile = seen(objects, tiles, least)
    found = merged(boxes, tile, tiles, size, touch=2)
    assert as_set(found) == sorted(objects.tolist())
    assert found.scores is not None
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_uneven_parts_still_become_one_object_each(seed: int) -> None:
    size, random = (500, 400), np.random.default_rng(seed)
    objects, tiles = lying_apart(25, size, 60, seed), grid(500, 400, 96)
    boxes, tile = seen(objects, tiles, 0.15)
    moved = boxes.corners + random.uniform(-1.5, 1.5, boxes.corners.shape)
    moved = np.clip(moved, np.tile(tiles[tile][:, :2], 2), np.tile(tiles[tile][:, 2:], 2))
    found = merged(Boxes(moved.astype(np.float32), boxes.classes, boxes.scores), tile, tiles, size, touch=3)
    assert len(found) == len(objects)
    for box in objects:
        assert (np.abs(found.corners - box).max(1) < 4).sum() == 1


def test_two_parts_a_part_and_a_whole_and_four_corners() -> None:
    tiles, size = grid(200, 200, 96), (224, 224)
    # Each of two tiles sees only a part: 90 px wide over a seam of 32.
    left, right = [60.0, 20, 128, 60], [96.0, 20, 150, 60]
    both = merged(Boxes.of([left, right], [0, 0], [0.5, 0.9]), np.array([0, 1]), tiles, size, touch=2)
    assert both.corners.tolist() == [[60, 20, 150, 60]]
    assert both.scores.tolist() == pytest.approx([0.9])
    # A part of higher score than the whole: the whole's box, the part's score.
    part, whole = [110.0, 20, 128, 60], [110.0, 20, 150, 61]
    one = merged(Boxes.of([part, whole], [0, 0], [0.9, 0.6]), np.array([0, 1]), tiles, size, touch=2)
    assert one.corners.tolist() == [whole]
    assert one.scores.tolist() == pytest.approx([0.9])
    # A sliver of the highest score takes the whole, and the whole takes a third tile's part.
    three = [[20.0, 88, 60, 98], [20.0, 88, 60, 110], [20.0, 96, 60, 110]]
    rows = np.array([[0, 0, 98, 98], [0, 64, 128, 192], [0, 96, 128, 224]], float)
    alone = merged(Boxes.of(three, [0] * 3, [0.9, 0.1, 0.5]), np.arange(3), rows, size, touch=2)
    assert alone.corners.tolist() == three[1:2]
    # Another class is another object.
    two = merged(Boxes.of([part, whole], [0, 1], [0.9, 0.6]), np.array([0, 1]), tiles, size, touch=2)
    assert len(two) == 2
    # A box over the corner that four tiles share.
    objects = np.array([[70.0, 80, 160, 170]])
    assert merged(*seen(objects, tiles), tiles, size, touch=2).corners.tolist() == objects.tolist()


def test_neighbours_at_a_seam_stay_two() -> None:
    tiles, size = grid(200, 100, 96), (224, 128)
    # Both touch the side of their own tile, one above the other.
    boxes = Boxes.of([[90, 10, 128, 50], [96, 54, 140, 90]], [0, 0], [0.9, 0.8])
    assert len(merged(boxes, np.array([0, 1]), tiles, size, touch=2)) == 2
    # Within one tile and uncut: plain suppression, at its threshold.
    close = Boxes.of([[10, 10, 50, 50], [14, 10, 54, 50], [30, 10, 70, 50]], [0, 0, 0], [0.7, 0.9, 0.8])
    kept = merged(close, np.array([0, 0, 0]), tiles, size, touch=2)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8])
    assert len(merged(close, np.array([0, 0, 0]), tiles, size, touch=2, nms=0.9)) == 3


def test_the_slides_own_edge_cuts_nothing() -> None:
    tiles = np.array([[0, 0, 128, 128], [0, 96, 128, 224]], float)
    # Of two tiles, with IoU 0.56: they are cut at the right if the slide goes on there, and not if it ends.
    boxes = Boxes.of([[60, 100, 128, 120], [60, 100, 128, 136]], [0, 0], [0.9, 0.8])
    for width, left in ((128, 2), (300, 1)):
        assert len(merged(boxes, np.array([0, 1]), tiles, (width, 224), touch=2)) == left
    # And at the left, if the tiles do not begin with the slide.
    boxes = Boxes.of([[0, 100, 68, 120], [0, 100, 68, 136]], [0, 0], [0.9, 0.8])
    for x, left in ((0, 2), (50, 1)):
        found = merged(boxes.shifted(x, 0), np.array([0, 1]), tiles + np.array([x, 0, x, 0]), (300, 224), touch=2)
        assert len(found) == left


def test_no_boxes_and_faults() -> None:
    nothing = merged(Boxes.of([], [], []), np.array([], int), grid(100, 100, 96), (100, 100), touch=2)
    assert len(nothing) == 0
    with pytest.raises(HistillError, match="no scores") as caught:
        merged(Boxes.of([[0, 0, 1, 1]], [0]), np.array([0]), grid(1, 1, 1), (1, 1), touch=2)
    assert caught.value.code == Exit.INPUT
    with pytest.raises(HistillError, match="1 boxes of 2 tiles"):
        merged(Boxes.of([[0, 0, 1, 1]], [0], [1]), np.array([0, 0]), grid(1, 1, 1), (1, 1), touch=2)
