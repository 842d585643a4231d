"""From a label map to polygons along the edges of its pixels, holes and all, read from top to bottom in bands.

A polygon is a region of one class whose pixels hang together by their sides; two that touch at a corner only are two
polygons. What is cut out of it are its holes, and these too hang together by sides. So no ring ever meets itself: rings
of one polygon may touch each other at single corners, which is what a valid polygon may do. Areas are exact.

How. Each ring is a cycle of horizontal edges, run through with the region on the right-hand side (seen on the screen,
where y points down: an exterior clockwise, a hole counter-clockwise), joined by vertical ones. All its corners can be
told from the 2 x 2 pixels around them. In a row of corners, the k-th begin of an edge belongs to the k-th end; in a
column likewise. So edges are found and joined without a search, and the cycles are followed by scipy's graphs.

Where four pixels meet like a chessboard, a ring at first turns around its own pixel. Where both diagonal pixels turn
out to be one region (the two passes lie on one ring, which would then meet itself), the passes are exchanged at that
corner, and the ring falls into two: one around either of the other two pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import depth_first_order

from histill.core.masks import LabelMap
from histill.formats.edges import Bools, Edges, Indices, Strip, edges_of, strips

BATCH = 1 << 20
"""Edges gathered before finished polygons are handed out: some 150 MB."""


class LabelPolygon(NamedTuple):
    """One region of a label map.

    Attributes:
        label: its class.
        exterior: int32 [n, 2], the corners x, y in map px, each once; counter-clockwise where y points up, as RFC 7946
            has it, and so clockwise on the screen.
        holes: int32 [n, 2] each, the other way round.
        area: in map px, less the holes.
    """

    label: int
    exterior: NDArray[np.int32]
    holes: list[NDArray[np.int32]]
    area: int


@dataclass(frozen=True, eq=False)
class LabelPolygons:
    """Many regions in few arrays; iterate for one after the other.

    Attributes:
        labels: uint8 [p], the class of each polygon.
        areas: int64 [p], in map px, less the holes.
        first_ring: int64 [p + 1], where each polygon's rings begin; the first of them is its exterior, the rest holes.
        first_point: int64 [r + 1], where each ring's points begin.
        points: int32 [n, 2], x and y of the corners in map px; the first of a ring is not said again at its end.
    """

    labels: NDArray[np.uint8]
    areas: Indices
    first_ring: Indices
    first_point: Indices
    points: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[LabelPolygon]:
        points = self.first_point.tolist()
        rings = [self.points[start:stop] for start, stop in pairwise(points)]
        bounds = self.first_ring.tolist()
        for i, (label, area) in enumerate(zip(self.labels.tolist(), self.areas.tolist(), strict=True)):
            exterior, *holes = rings[bounds[i] : bounds[i + 1]]
            yield LabelPolygon(label, exterior, holes, area)


def trace(bands: Iterable[LabelMap], left_out: Collection[int] = ()) -> Iterator[LabelPolygons]:
    """The polygons of a label map.

    Memory grows with the length of the outlines that are not closed yet, not with the map's area. What comes out does
    not depend on the height of the bands.

    Args:
        bands: uint8 [rows, w] each, from top to bottom; together the label map.
        left_out: labels that become no polygons; `IGNORE` never does.

    Yields:
        Polygons, each batch in the order of their topmost, leftmost edges; none twice.

    Raises:
        ValueError: a band is not uint8 [rows, w], or has another width than the first.
    """
    found: list[Edges] = []
    count, enough = 0, BATCH
    strip = None
    for strip in strips(bands, left_out):
        found.append(edges_of(strip))
        count += len(found[-1])
        if count > enough:
            polygons, open_edges = _settle(_closed(found, strip), strip.bottom)
            found, count = [open_edges], len(open_edges)
            # Open edges are looked at again each time: waiting until there are twice as many keeps that cheap.
            enough = max(BATCH, 2 * count)
            yield polygons
    if strip is not None:
        polygons, _ = _settle(_closed(found, strip), None)
        yield polygons


def _closed(found: list[Edges], strip: Strip) -> Edges:
    """All edges found so far, taken out of the list, and those that close the map below a strip."""
    edges = Edges.joined([*found, edges_of(strip.end())])
    found.clear()
    return edges


def _settle(edges: Edges, frontier: int | None) -> tuple[LabelPolygons, Edges]:
    """The polygons that are whole, and the edges of the others.

    Args:
        edges: of all polygons not handed out yet, closed at the frontier as if nothing lay beyond it.
        frontier: the row up to which the map is known, where a polygon is still open; None at the map's end.
    """
    if not len(edges):
        return _gathered(edges, np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64)), edges
    joints = _joined(edges)
    order, first, ring = _followed(joints)
    if _exchange(joints, edges.starts, edges.ends, ring):
        order, first, ring = _followed(joints)
    owner = _owners(edges, joints, ring, order[first[:-1]])

    whole = np.ones(len(owner), bool)
    if frontier is not None:
        whole[ring[edges.y == frontier]] = False
        whole = whole[owner]
    rings = np.flatnonzero(whole)
    rings = rings[np.lexsort((rings != owner[rings], owner[rings]))]
    lengths = np.diff(first)[rings]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    taken = order[np.arange(starts[-1]) + np.repeat(first[rings] - starts[:-1], lengths)]
    polygons = _gathered(edges, taken, starts, np.flatnonzero(rings == owner[rings]))
    if frontier is None:
        return polygons, edges
    return polygons, edges.only(~whole[ring] & (edges.y != frontier))


class _Joints(NamedTuple):
    """Vertical edges: each goes from the end of one horizontal edge to the start of another.

    Attributes:
        ends, starts: int64 [m]; those edges. First come the upward ones, by column and then from the top.
        ups: how many go upwards.
        comes_from_below, goes_below: of each horizontal edge, whether the vertical one before and after it is below.
    """

    ends: Indices
    starts: Indices
    ups: int
    comes_from_below: Bools
    goes_below: Bools


def _joined(edges: Edges) -> _Joints:
    """Join the edges: in a column, the k-th upper end of vertical edges on one side belongs to the k-th lower end."""
    comes, goes = edges.comes_from_below, edges.goes_below
    up_ends, up_starts = _by_column(edges.x1, ~goes), _by_column(edges.x0, comes)
    down_ends, down_starts = _by_column(edges.x1, goes), _by_column(edges.x0, ~comes)
    ends, starts = np.concatenate((up_ends, down_ends)), np.concatenate((up_starts, down_starts))
    return _Joints(ends, starts, len(up_ends), comes.copy(), goes.copy())


def _by_column(x: NDArray[np.int32], chosen: Bools) -> Indices:
    """The chosen ones sorted by column, and within it from the top, as they are."""
    index = np.flatnonzero(chosen)
    column = x.take(index)
    # Numbers of 16 bits are sorted in a few passes, without comparing them.
    index = index.take(np.argsort(column.astype(np.uint16), kind="stable"))
    if len(column) and column.max() > np.iinfo(np.uint16).max:
        index = index[np.argsort((x[index] >> 16).astype(np.uint16), kind="stable")]
    return index


def _exchange(joints: _Joints, starts: Indices, ends: Indices, ring: NDArray[np.int32]) -> bool:
    """Exchange in place the passes of a ring through a corner where it meets itself; whether there was any.

    Starts and ends are int64 [s, 2], pairs of edges that start or end at one corner; each edge is on a ring.
    """
    some = False
    for pairs, at, below in (
        (starts, joints.starts, joints.comes_from_below),
        (ends, joints.ends, joints.goes_below),
    ):
        pairs = pairs[ring[pairs[:, 0]] == ring[pairs[:, 1]]]
        if len(pairs):
            place = np.empty_like(at)
            place[at] = np.arange(len(at))
            at[place[pairs]] = pairs[:, ::-1]
            below[pairs] = ~below[pairs]
            some = True
    return some


def _followed(joints: _Joints) -> tuple[Indices, Indices, NDArray[np.int32]]:
    """The rings: all edges in the order they are run through, where each ring begins, with the end, and each's ring.

    Caps are edges whose neighbours both go down: each ring has one at its top, and begins at its first. One search,
    depth first, follows them all: it goes along a chain of extra nodes, each of which leads to a cap and to the next.
    """
    caps = np.flatnonzero(joints.comes_from_below & joints.goes_below)
    m, n = len(joints.ends), len(caps)
    targets = np.empty(m + 2 * n - 1, np.int32)
    targets[joints.ends] = joints.starts
    targets[m::2] = caps
    targets[m + 1 :: 2] = np.arange(m + 1, m + n)
    bounds = np.empty(m + n + 1, np.int32)
    bounds[:m] = np.arange(m)
    bounds[m:-1] = np.arange(m, m + 2 * n, 2)
    bounds[-1] = len(targets)
    graph = csr_matrix((np.ones(len(targets)), targets, bounds), shape=(m + n, m + n))
    order, before = depth_first_order(graph, m)
    order = order[order < m]
    first = np.append(np.flatnonzero(before.take(order) >= m), m)
    ring = np.empty(m, np.int32)
    ring[order] = np.repeat(np.arange(len(first) - 1, dtype=np.int32), np.diff(first))
    return order, first, ring


def _owners(edges: Edges, joints: _Joints, ring: NDArray[np.int32], top: Indices) -> Indices:
    """For each ring the exterior of the polygon that it belongs to, int64 [r]; `top` is the edge it begins with.

    A hole's upper left corner has the region to its left. The run of pixels there begins at an edge of the same
    polygon: its exterior's, or that of another hole, whose own edges begin farther up or left.
    """
    owner = np.arange(len(top))
    holes = np.flatnonzero(edges.x1[top] < edges.x0[top])
    if not len(holes):
        return owner
    ups = joints.starts[: joints.ups]
    # They are sorted by column, then by their upper end: the last one that ends above the hole's first row passes it.
    rows = int(edges.y[-1]) + 1
    keys = edges.x0[ups] * np.int64(rows) + edges.y[ups]
    asked = edges.left[top[holes]] * np.int64(rows) + edges.y[top[holes]]
    owner[holes] = ring[ups[np.searchsorted(keys, asked, side="right") - 1]]
    while (farther := owner[owner] != owner).any():
        owner[farther] = owner[owner[farther]]
    return owner


def _gathered(edges: Edges, taken: Indices, first: Indices, exteriors: Indices) -> LabelPolygons:
    """Polygons from their edges, ring by ring; where the rings begin, with the end; and which rings are exteriors."""
    y, x0, x1 = edges.y.take(taken), edges.x0.take(taken), edges.x1.take(taken)
    points = np.empty((2 * len(taken), 2), np.int32)
    points[0::2, 0], points[1::2, 0] = x0, x1
    points[0::2, 1] = points[1::2, 1] = y
    # Green's theorem: the area is what lies between the upper and the lower edges.
    areas = np.add.reduceat(y * (x0 - x1).astype(np.int64), first[exteriors]) if len(exteriors) else exteriors
    bounds = np.append(exteriors, len(first) - 1)
    return LabelPolygons(edges.labels[taken[first[exteriors]]], areas, bounds, 2 * first, points)
