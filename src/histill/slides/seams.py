"""Boxes found in overlapping tiles become boxes of the slide, each object once, also where each tile saw but a part."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histill.core.boxes import Boxes
from histill.core.errors import Exit, HistillError

Floats = NDArray[np.float64]


def merged(
    boxes: Boxes,
    tile: NDArray[np.integer[Any]],
    tiles: NDArray[Any],
    size: tuple[float, float],
    *,
    touch: float,
    nms: float = 0.6,
    agree: float = 0.5,
) -> Boxes:
    """The objects of a slide from the boxes of its tiles.

    A box is cut where it comes within `touch` of a side of its tile that lies inside the slide. By falling score, each
    box takes those of its class that speak of the same object:

    - two of one tile, or two of which none is cut: if their IoU is more than `nms`;
    - two of different tiles, one of them cut: if the IoU of what lies in the field that both tiles see is at least
      `agree`. What is taken in turn takes further ones so, as an object may reach over many tiles.

    The object has the highest score among them; its box is the best one that is not cut, or the union of the best of
    each tile. A last suppression at `nms` follows.

    Args:
        boxes: of all tiles, with scores, in level-0 px.
        tile: the tile of each box, [n].
        tiles: corners x0, y0, x1, y1 of each tile in level-0 px, [m, 4]; neighbours overlap or meet.
        size: width and height of the slide in level-0 px.
        touch: level-0 px, more than a box's sides are off by: two to four pixels of the tile's map.
        nms: IoU of two boxes of one object.
        agree: IoU, in the field of two tiles, of parts of one object.

    Returns:
        Boxes in level-0 px by falling score.

    Raises:
        HistillError: input (4) if boxes have no scores, or lengths differ.
    """
    if boxes.scores is None or len(tile) != len(boxes):
        what = f"{len(boxes)} boxes of {len(tile)} tiles" if boxes.scores is not None else "boxes have no scores"
        raise HistillError(what, code=Exit.INPUT, subject="boxes")
    order = np.argsort(-boxes.scores, kind="stable")
    boxes, tile = boxes.take(order), np.asarray(tile, np.intp)[order]
    parts = _Parts(boxes, tile, np.asarray(tiles, np.float64), size, touch)
    free = np.ones(len(boxes), bool)
    corners, best = [], []
    for first in range(len(boxes)):
        if not free[first]:
            continue
        free[first], group, asked = False, [first], 0
        while asked < len(group):
            others = np.flatnonzero(free & (boxes.classes == boxes.classes[first]))
            # Only the first suppresses boxes like itself; what it takes brings further parts.
            taken = others[parts.same(group[asked], others, nms if not asked else np.inf, agree)]
            asked += 1
            free[taken] = False
            group += taken.tolist()
        corners.append(parts.whole(group))
        best.append(first)
    found = boxes.take(best)
    found = Boxes(np.asarray(corners, np.float32).reshape(-1, 4), found.classes, found.scores)
    return found.take(_suppressed(found, nms))


class _Parts:
    """What tiles saw of objects.

    Attributes:
        cut: bool [n, 4], which sides of the boxes (left, top, right, bottom) their tiles cut off.
    """

    def __init__(
        self, boxes: Boxes, tile: NDArray[np.intp], tiles: Floats, size: tuple[float, float], touch: float
    ) -> None:
        self.tile, self.corners = tile, boxes.corners.astype(np.float64)
        own = tiles[tile]  # [n, 4]
        inner = np.concatenate([own[:, :2] > 0, own[:, 2:] < np.asarray(size)], 1)
        self.cut = inner & (np.abs(own - self.corners) <= touch)
        # Cut sides and tiles are let out a little, so that tiles which only meet have a field in common.
        out = touch * np.asarray([-1, -1, 1, 1])
        self._let_out, self._tiles = np.where(self.cut, own + out, self.corners), tiles + out

    def same(self, i: int, others: NDArray[np.intp], nms: float, agree: float) -> NDArray[np.bool_]:
        """Whether each of the others speaks of the object of box i; bool [len(others)]."""
        plain = (self.tile[others] == self.tile[i]) | ~(self.cut[i].any() | self.cut[others].any(1))
        field = _shared(self._tiles[self.tile[others]], self._tiles[self.tile[i]])  # [m, 4]
        one, other = _shared(field, self._let_out[i]), _shared(field, self._let_out[others])  # [m, 4]
        alike = _iou(one, other) >= agree
        said: NDArray[np.bool_] = np.where(plain, _iou(self.corners[i], self.corners[others]) > nms, alike)
        return said

    def whole(self, group: list[int]) -> Floats:
        """The box of the object that boxes, by falling score from the first on, speak of; [4]."""
        uncut = [i for i in sorted(group) if not self.cut[i].any()]
        if uncut:
            whole: Floats = self.corners[uncut[0]]
            return whole
        best = {int(self.tile[i]): i for i in sorted(group, reverse=True)}  # the first of each tile comes last
        every = self.corners[list(best.values())]
        return np.concatenate([every[:, :2].min(0), every[:, 2:].max(0)])


def _suppressed(boxes: Boxes, nms: float) -> NDArray[np.int64]:
    """The boxes that non-maximum suppression keeps, by falling score."""
    corners, free, kept = boxes.corners.astype(np.float64), np.ones(len(boxes), bool), []
    for i in range(len(boxes)):
        if free[i]:
            kept.append(i)
            free &= (_iou(corners[i], corners) <= nms) | (boxes.classes != boxes.classes[i])
    return np.asarray(kept, np.int64)


def _shared(first: Floats, second: Floats) -> Floats:
    """What boxes [..., 4] have in common; without area where that is nothing."""
    return np.concatenate(
        [np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])], axis=-1
    )


def _area(boxes: Floats) -> Floats:
    area: Floats = np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)
    return area


def _iou(box: Floats, others: Floats) -> Floats:
    """IoU of boxes with one or with as many others; 0 where none has an area."""
    shared = _area(_shared(box, others))
    together = _area(box) + _area(others) - shared
    iou: Floats = np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)
    return iou
