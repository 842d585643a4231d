"""Outlines: areas of a slide that someone drew or a program found, from whatever file they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast, overload

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from histill.core.errors import Exit, HistillError

Area: TypeAlias = Polygon | MultiPolygon

FARTHEST = 1e8
"""No slide has that many pixels a side."""


@dataclass(frozen=True)
class Outline:
    """One area of a slide.

    Attributes:
        area: in level-0 px; valid, and not empty.
        class_name: of which class it is, or None.
        object_type: annotation, detection, cell, tile ... as QuPath has it.
        name: what it is called, or None.
    """

    area: Area
    class_name: str | None = None
    object_type: str = "annotation"
    name: str | None = None


@dataclass(frozen=True)
class Outlines(Sequence[Outline]):
    """What a file of outlines holds, in its order, and what a user should know of the reading.

    Attributes:
        items: the outlines.
        notes: what was mended or left out; one sentence each, without a full stop.
    """

    items: tuple[Outline, ...]
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Outline: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Outline, ...]: ...
    def __getitem__(self, index: int | slice) -> Outline | tuple[Outline, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[Outline]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


def check_size(path: Path, most: int) -> None:
    """Refuse a file that is not there, or has more bytes than any of its kind should have.

    Raises:
        HistillError: input (4) or unsafe (5).
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if size > most:
        raise too_large(path, most)


def unreadable(path: Path, error: OSError) -> HistillError:
    """The error for a file that the system will not give."""
    what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"
    return HistillError(what, code=Exit.INPUT, subject=str(path), mend="Check its name and your rights to read it")


def too_large(path: Path, most: int) -> HistillError:
    """The error for a file that is larger than any of its kind should be."""
    what = f"holds more than {most / 2**20:.0f} MiB"
    return HistillError(what, code=Exit.UNSAFE, subject=str(path), mend="Split it into several files")


def polygon(rings: Sequence[NDArray[np.float64]], subject: str) -> tuple[Area, str]:
    """A valid polygon from its rings, and what had to be mended for that, or nothing.

    Args:
        rings: float64 [n, 2] each, x and y in level-0 px; the first is the exterior, the others are holes. Whether the
            first point is said again at the end does not matter.
        subject: where they stand, for errors.

    Raises:
        HistillError: input (4): a ring of fewer than three points, a coordinate that is no number of a slide, no area.
    """
    for ring in rings:
        if len(ring) < 3 or (len(ring) == 3 and (ring[0] == ring[-1]).all()):
            raise _fault("a ring of fewer than three points", subject)
        # Written so that NaN is refused too.
        if not (np.abs(ring) <= FARTHEST).all():
            raise _fault(f"a coordinate that is not finite, or beyond {FARTHEST:.0f}", subject)
    if not rings:
        raise _fault("a polygon without a ring", subject)
    area: Area = Polygon(rings[0], rings[1:])
    why = "" if area.is_valid else shapely.is_valid_reason(area)
    if why:
        # What is repaired may hold lines and points too: they have no area.
        parts = shapely.get_parts(shapely.make_valid(area))
        area = polygonal(parts)
    if area.is_empty:
        raise _fault("it encloses no area", subject)
    return area, why


def polygonal(parts: Iterable[object]) -> Area:
    """The union of those parts that are areas, empty if none is; lines and points have none."""
    return cast(Area, shapely.union_all([part for part in parts if isinstance(part, (Polygon, MultiPolygon))]))


def listed(which: Sequence[int] | Sequence[str]) -> str:
    """Numbers or names for a note: the first few, and how many more there are."""
    shown = ", ".join(str(each) for each in which[:5])
    return shown if len(which) <= 5 else f"{shown} and {len(which) - 5} more"


def _fault(what: str, subject: str) -> HistillError:
    mend = "Draw it anew, or take it out of the file"
    return HistillError(what, code=Exit.INPUT, subject=subject, mend=mend)
