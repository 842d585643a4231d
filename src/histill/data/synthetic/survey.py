"""What lies in a rectangle of a made-up slide and around it: tissues and domains, on a coarse grid. It is synthetic.

A domain is a patch of tissue some hundred micrometres wide. Within it, each tissue's tile is laid down in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.anatomy import TABLE, Anatomy, Window
from histill.data.synthetic.fields import Field, Places, bilinear
from histill.data.synthetic.scene import WHITE

Part = tuple[slice, slice]
"""Rows and columns of a block."""

WHOLE: Part = (slice(None), slice(None))

STEP = 3.0
"""Micrometres between two points of the coarse grid."""

DOMAIN = 280.0
"""Micrometres between two domains, nearly."""

SEAM = 9.0
"""How softly the ground of a domain goes over into the next, in micrometres."""


@dataclass(frozen=True, eq=False)
class Domain:
    """How tiles lie in a domain.

    Attributes:
        cell: its row and column in the lattice of domains.
        middle: its row and column in micrometres.
        place: which point of a tile lies in its middle, in tile sides, [2].
        turn: how tiles are turned and mirrored, 0 to 7; see `StainedTile.cut`.
        alike: a number from 0 to 1, each about as often, mostly alike in neighbouring domains.
    """

    cell: tuple[int, int]
    middle: tuple[float, float]
    place: NDArray[np.float64]
    turn: int
    alike: float


@dataclass(frozen=True, eq=False)
class Block:
    """A rectangle of a slide; what is coarse reaches beyond it as far as an object may.

    Attributes:
        x: its left edge in px of the slide.
        y: its upper edge.
        w: width in px.
        h: height in px.
        mpp: um/px.
        origin: index of the first row and column of the coarse grid, whose points are `STEP` apart.
        down: micrometres of the coarse rows.
        across: micrometres of the coarse columns.
        seen: the tissues on the coarse grid.
        domains: those that lie here; none where there is no tissue.
        domain: index into `domains`, int [rows, columns].
        inland: how far a point is from its domain's edge, float32 [rows, columns] micrometres.
        shares: for each domain how much of the ground is its own, float32 [rows, columns].
    """

    x: int
    y: int
    w: int
    h: int
    mpp: float
    origin: tuple[int, int]
    down: NDArray[np.float64]
    across: NDArray[np.float64]
    seen: Window
    domains: tuple[Domain, ...]
    domain: NDArray[np.intp]
    inland: Field
    shares: tuple[Field, ...]

    def fine(self, coarse: Field, part: Part = WHOLE) -> Field:
        """A coarse field at the middles of the pixels of a part, float32 [h, w]."""
        spots = []
        for slot, begin, origin, side in zip(part, (self.y, self.x), self.origin, (self.h, self.w), strict=True):
            start, stop, _ = slot.indices(side)
            middles = (np.arange(begin + start, begin + stop, dtype=np.float64) + 0.5) * (self.mpp / STEP)
            spots.append(Places.of(middles, origin))
        return bilinear(coarse, spots[0], spots[1])

    def near(self, coarse: Field) -> Field:
        """The points of a coarse field between which the pixels lie."""
        spans = []
        for begin, side, origin in zip((self.y, self.x), (self.h, self.w), self.origin, strict=True):
            first, last = (floor((pixel + 0.5) * self.mpp / STEP) - origin for pixel in (begin, begin + side - 1))
            spans.append(slice(first, last + 2))
        return coarse[spans[0], spans[1]]

    def nearest(self, places: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of the coarse point nearest to each place, [n] each; places are px of the slide, [n, 2]."""
        points = np.rint(places * (self.mpp / STEP)).astype(np.intp) - self.origin
        row, column = np.clip(points, 0, np.array(self.domain.shape) - 1).T
        return row, column

    def part(self, extent: Part | None, reach: int) -> Part | None:
        """The part into which objects reach, so many px, whose centres lie in an extent; None if none does."""
        if extent is None:
            return None
        spans = []
        for span, begin, origin, side in zip(extent, (self.y, self.x), self.origin, (self.h, self.w), strict=True):
            start = floor((span.start + origin - 1) * STEP / self.mpp) - reach - begin
            stop = ceil((span.stop + origin) * STEP / self.mpp) + reach - begin
            spans.append(slice(max(start, 0), min(stop, side)))
        return _filled(spans)


class Surveyor:
    """Finds out what lies where on one slide."""

    def __init__(self, anatomy: Anatomy, *, mpp: float, reach: int, seed: int, name: str) -> None:
        """Lay out the domains.

        Args:
            anatomy: where the tissues lie.
            mpp: um/px.
            reach: no pixel is farther from the centre of its object along an axis, in px.
            seed: of the data set.
            name: of the slide.
        """
        self._anatomy, self._mpp, self._reach = anatomy, mpp, reach
        rng = generator(seed, "section", name)
        # Domains stay near the middles of their cells, so that a point's own is never farther off than the next cell.
        self._jitter = rng.uniform(0.25, 0.75, (TABLE, TABLE, 2))
        self._places = rng.random((TABLE, TABLE, 2))
        self._turns = rng.integers(0, 8, (TABLE, TABLE))
        self._own_ways = rng.standard_normal((TABLE, TABLE))

    def survey(self, x: int, y: int, w: int, h: int) -> Block:
        """What lies in a rectangle, in px of the slide; it may reach beyond the slide."""
        scale, reach = self._mpp / STEP, self._reach
        (top, bottom), (left, right) = (
            (floor((begin - reach) * scale) - 1, ceil((begin + side + reach) * scale) + 2)
            for begin, side in ((y, h), (x, w))
        )
        down, across = (np.arange(a, b, dtype=np.float64) * STEP for a, b in ((top, bottom), (left, right)))
        seen = self._anatomy.window(down, across)
        domains: tuple[Domain, ...] = ()
        shares: tuple[Field, ...] = ()
        index, inland = np.zeros(seen.label.shape, np.intp), np.zeros(seen.label.shape, np.float32)
        if (seen.label != WHITE).any():
            domains, index, inland, shares = self._domains(down, across)
        return Block(x, y, w, h, self._mpp, (top, left), down, across, seen, domains, index, inland, shares)

    def _domains(
        self, down: NDArray[np.float64], across: NDArray[np.float64]
    ) -> tuple[tuple[Domain, ...], NDArray[np.intp], Field, tuple[Field, ...]]:
        """As the last four of a `Block`: a point belongs to the domain whose middle is nearest, on bent paper."""
        bent = self._anatomy.bent(down, across)
        rows, columns = (range(int(b.min() // DOMAIN) - 1, int(b.max() // DOMAIN) + 2) for b in bent)
        cells = [(row, column) for row in rows for column in columns]
        away = np.stack([self._away(bent, cell) for cell in cells])  # [n, rows, columns]
        nearest = away.argmin(axis=0)
        kept = np.unique(nearest)
        own = [away[number].copy() for number in kept]
        best = away.min(axis=0)
        np.put_along_axis(away, nearest[None], np.inf, axis=0)
        second = away.min(axis=0)
        shares = tuple(
            np.clip(0.5 + (np.where(nearest == number, second, best) - distance) / (2 * SEAM), 0, 1)
            for number, distance in zip(kept, own, strict=True)
        )
        domains = tuple(self._domain(cells[number]) for number in kept)
        return domains, np.searchsorted(kept, nearest), (second - best) / 2, shares

    def _away(self, bent: tuple[Field, Field], cell: tuple[int, int]) -> Field:
        y, x = self._middle(cell)
        distance: Field = np.sqrt((bent[0] - np.float32(y)) ** 2 + (bent[1] - np.float32(x)) ** 2)
        return distance

    def _middle(self, cell: tuple[int, int]) -> tuple[float, float]:
        down, across = self._jitter[cell[0] % TABLE, cell[1] % TABLE]
        return float((cell[0] + down) * DOMAIN), float((cell[1] + across) * DOMAIN)

    def _domain(self, cell: tuple[int, int]) -> Domain:
        here, middle = (cell[0] % TABLE, cell[1] % TABLE), self._middle(cell)
        like = 0.85 * self._anatomy.region(*middle) + 0.5 * self._own_ways[here]
        alike = 1 / (1 + np.exp(-1.7 * like))  # the normal distribution's, nearly
        return Domain(cell, middle, self._places[here], int(self._turns[here]), float(alike))


def extent(where: NDArray[np.bool_]) -> Part | None:
    """The rows and columns of a coarse mask within which it holds; None if nowhere."""
    rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
    return (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)) if len(rows) else None


def common(one: Part | None, other: Part | None) -> Part | None:
    """What two parts of a block have in common; None if nothing."""
    if one is None or other is None:
        return None
    return _filled([slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)])


def hull(parts: list[Part]) -> Part:
    """The smallest part of a block that holds all of these."""
    rows, columns = ([part[axis] for part in parts] for axis in (0, 1))
    return (
        slice(min(span.start for span in rows), max(span.stop for span in rows)),
        slice(min(span.start for span in columns), max(span.stop for span in columns)),
    )


def inside(part: Part, within: Part) -> Part:
    """A part of a block as a part of another that holds it."""
    rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(part, within, strict=True))
    return rows, columns


def _filled(spans: list[slice]) -> Part | None:
    return (spans[0], spans[1]) if all(span.start < span.stop for span in spans) else None
