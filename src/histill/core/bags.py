"""A bag: the tiles of one slide as feature vectors, where they lie, and what is known of the slide as a whole.

Places are level-0 px, the top-left corner of each tile, as everywhere in the house. Tools that say them otherwise leave
them in `BagFacts.unscaled` until the slide's um/px is known; see `BagFacts.with_mpp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.manifest import plausible_mpp

Features = NDArray[np.float32] | NDArray[np.float16]
"""[n, d]: one row a tile."""

Corners = NDArray[np.int64]
"""[n, 2]: x and y of each tile's top-left corner in level-0 px."""

FARTHEST = 1 << 30
"""A coordinate beyond this, in level-0 px either way, is no place on a slide."""

CHECKED_ROWS = 1024
"""Rows that are looked through in one go, while they are near the processor."""

EXTRACT_AGAIN = "Extract the features of this slide again"


@dataclass(frozen=True, eq=False)
class Unscaled:
    """Places that are level-0 corners only once the slide's um/px is known.

    Attributes:
        points: float64 [n, 2]: x and y.
        unit: um, or px of level 0.
        anchor: what of a tile they mean.
        tile_um: side of a tile in um, or None where the file does not say: then no corners follow.
    """

    points: NDArray[np.float64]
    unit: Literal["um", "px"]
    anchor: Literal["corner", "centre"]
    tile_um: float | None

    def corners(self, mpp: float) -> tuple[Corners, int] | None:
        """Top-left corners int64 [n, 2] and the side of a tile, both in level-0 px; None without `tile_um`.

        Args:
            mpp: um per level-0 px.
        """
        if self.tile_um is None:
            return None
        side = self.tile_um / mpp
        points = self.points / mpp if self.unit == "um" else self.points
        corners = points - side / 2 if self.anchor == "centre" else points
        return np.rint(corners).astype(np.int64), max(1, round(side))


@dataclass(frozen=True, eq=False, kw_only=True)
class BagFacts:
    """All that is known of a bag besides its features.

    Attributes:
        slide: its id: the stem of its file.
        coords: int64 [n, 2], top-left corner of each tile in level-0 px; None where the file has none.
        tile_side: side of a tile in level-0 px (TRIDENT's `patch_size_level0`; its `patch_size` is `tile_px`).
        mpp: um per level-0 px.
        encoder: its name, as the file says it; empty where it does not. A text, never a path.
        slide_vectors: what slide encoders say of the whole slide, float32 [k] each, by their names.
        tile_px: side of a tile in px as the encoder saw it.
        overlap: of neighbouring tiles, in px as the encoder saw them.
        slide_size: width and height of level 0.
        magnification: of level 0, as TRIDENT names it: a class of spacings, and no substitute for `mpp`.
        unscaled: places that need the spacing; see `with_mpp`.
        path: the file it came from, for messages.
    """

    slide: str
    coords: Corners | None = field(default=None, repr=False)
    tile_side: int | None = None
    mpp: float | None = None
    encoder: str = ""
    slide_vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    tile_px: int | None = None
    overlap: int = 0
    slide_size: tuple[int, int] | None = None
    magnification: float | None = None
    unscaled: Unscaled | None = field(default=None, repr=False)
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.coords is not None:
            check_corners(self.coords, self.subject)
        if self.unscaled is not None:
            check_corners(self.unscaled.points, self.subject)
        for name, side in (("tile_side", self.tile_side), ("tile_px", self.tile_px)):
            if side is not None and not 0 < side < FARTHEST:
                raise bag_error(self.subject, f"{name} is {side}, no side of a tile")
        if self.mpp is not None and not plausible_mpp(self.mpp):
            raise bag_error(self.subject, f"{self.mpp} um/px is not plausible", "Give the slide's own")
        for name, vector in self.slide_vectors.items():
            if vector.ndim != 1 or vector.dtype != np.float32 or not len(vector):
                raise bag_error(self.subject, f"slide vector '{name}' is {_shape(vector)}, not float32 [k]")
            if not np.isfinite(vector).all():
                raise bag_error(self.subject, f"slide vector '{name}' holds NaN or infinity", code=Exit.NUMBERS)

    @property
    def subject(self) -> str:
        """What messages call it."""
        return str(self.path) if self.path is not None else f"bag {self.slide}"

    def with_mpp(self, mpp: float) -> Self:
        """The same with the slide's spacing, in um per level-0 px; places that waited for it become `coords`."""
        found = self.unscaled.corners(mpp) if self.unscaled is not None and plausible_mpp(mpp) else None
        if found is None:
            return replace(self, mpp=mpp)
        coords, side = found
        return replace(self, mpp=mpp, coords=coords, tile_side=side, unscaled=None)

    def steps(self) -> NDArray[np.float32] | None:
        """Where tiles lie in sides of a tile from the corner of all of them, float32 [n, 2]; None without places.

        Needs no spacing. Where the file says no side, the commonest distance of neighbours stands for it.
        """
        points: NDArray[Any]
        if self.coords is not None:
            points, side = self.coords, float(self.tile_side or 0)
        elif self.unscaled is not None:
            points, side = self.unscaled.points, self.unscaled.tile_um or 0.0
            side = side if self.unscaled.unit == "um" else 0.0
        else:
            return None
        if not len(points):
            return np.zeros((0, 2), np.float32)
        steps: NDArray[np.float32] = ((points - points.min(0)) / (side or _gap(points))).astype(np.float32)
        return steps


@dataclass(frozen=True, eq=False, kw_only=True)
class Bag(BagFacts):
    """A bag in memory.

    Attributes:
        features: float32 or float16 [n, d], all finite; as many rows as there are places. n may be 0.

    Raises:
        HistillError: input (4) where shapes, types or lengths do not fit; numbers (6) where a feature is not finite.
    """

    features: Features = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features(self.features, self.subject)
        check_count(self, len(self.features))

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: NDArray[np.integer[Any]]) -> Bag:
        """The bag of some of its tiles, as a summary is, in the order of `rows`."""
        unscaled = self.unscaled and replace(self.unscaled, points=self.unscaled.points[rows])
        coords = None if self.coords is None else self.coords[rows]
        return replace(self, features=self.features[rows], coords=coords, unscaled=unscaled)


class Rows(Protocol):
    """Features [n, d] that may still be in their file: slices of rows bring them to memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d), or what else the file claims."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers in the file."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class BagFile:
    """A bag whose features are still in their file; close it, or use it in a with statement.

    Attributes:
        layout: which tool's file it is, such as ``trident``.
        facts: all but the features.
        rows: its features; of any number type, and unchecked.
        count: how many rows are tiles: all, where it is None.
        release: lets go of the file.
    """

    layout: str
    facts: BagFacts
    rows: Rows
    count: int | None = None
    release: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        if len(self.rows.shape) != 2 or self.rows.shape[1] < 1:
            raise bag_error(self.facts.subject, f"its features are {_shape(self.rows)}, not [n, d]")
        check_count(self.facts, self.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """How many tiles, and how many numbers for each: (n, d)."""
        return self.rows.shape[0] if self.count is None else self.count, self.rows.shape[1]

    @property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """What features are in memory: halves stay halves, all else is float32."""
        return np.dtype(np.float16) if self.rows.dtype.itemsize == 2 else np.dtype(np.float32)

    def features(self, start: int, stop: int) -> Features:
        """Some rows, float32 or float16 [stop - start, d], checked as those of a `Bag`."""
        features = self._rows(start, stop)
        check_features(features, self.facts.subject, first=start)
        return features

    def blocks(self, rows: int) -> Iterator[Features]:
        """All rows, so many at a time, for what need not hold them all."""
        for start in range(0, self.shape[0], rows):
            yield self.features(start, min(start + rows, self.shape[0]))

    def read(self) -> Bag:
        """The whole bag in memory: n x d x 4 bytes, or x 2 of halves.

        Raises:
            HistillError: as `Bag`.
        """
        facts = {each.name: getattr(self.facts, each.name) for each in fields(self.facts)}
        return Bag(**facts, features=self._rows(0, self.shape[0]))

    def close(self) -> None:
        """Let go of the file."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, start: int, stop: int) -> Features:
        # What runs over becomes infinity, and is refused as that.
        with np.errstate(over="ignore"):
            features: NDArray[Any] = np.ascontiguousarray(self.rows[slice(start, stop)], self.dtype)
        if stop == self.shape[0] and len(features) and not features[-1].any():
            what = "its last row is all zeros: padding, or a file whose writing was cut off"
            raise bag_error(self.facts.subject, what, f"{EXTRACT_AGAIN}, without padding")
        return features


def check_features(features: NDArray[Any], subject: str, first: int = 0) -> None:
    """Refuse what is not finite float32 or float16 [n, d].

    Args:
        features: what is looked at.
        subject: whose they are, for the message.
        first: the number of the first row, for the message.

    Raises:
        HistillError: input (4), or numbers (6) with the first row that is not finite.
    """
    if features.ndim != 2 or features.dtype not in (np.float32, np.float16) or features.shape[1] < 1:
        raise bag_error(subject, f"its features are {_shape(features)}, not float32 or float16 [n, d]")
    for start in range(0, len(features), CHECKED_ROWS):
        block = features[start : start + CHECKED_ROWS]
        if not _finite(block):
            bad = ~np.isfinite(block).all(1)  # [rows]
            what = f"its features hold NaN or infinity, first in row {first + start + int(bad.argmax())}"
            raise bag_error(subject, what, f"{EXTRACT_AGAIN}; halves run over beyond 65,504", Exit.NUMBERS)


def check_corners(points: NDArray[Any], subject: str) -> None:
    """Refuse places that are not [n, 2], int64 or float64, finite, and somewhere on a slide."""
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype not in (np.int64, np.float64):
        raise bag_error(subject, f"its coordinates are {_shape(points)}, not [n, 2]")
    # Written so that NaN fails.
    if len(points) and not (points.min() > -FARTHEST and points.max() < FARTHEST):
        raise bag_error(subject, "its coordinates are no places on a slide")


def check_count(facts: BagFacts, count: int) -> None:
    """Refuse facts that have another number of places than there are features."""
    for places in (facts.coords, None if facts.unscaled is None else facts.unscaled.points):
        if places is not None and len(places) != count:
            raise bag_error(facts.subject, f"{count} features, but {len(places)} coordinates")


def bag_error(subject: str, what: str, mend: str = EXTRACT_AGAIN, code: Exit = Exit.INPUT) -> HistillError:
    """The error of a bag that is not taken."""
    return HistillError(what, code=code, subject=subject, mend=mend)


def _finite(block: NDArray[Any]) -> bool:
    if block.dtype == np.float16 and block.flags.c_contiguous:
        # Without its sign, a half from 0x7C00 up is infinity or NaN. numpy would turn each into a float first.
        return bool((block.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)
    return bool(np.isfinite(block).all())


def _gap(points: NDArray[Any]) -> float:
    """The commonest distance of neighbours in a row or a column; the smaller of two that are as common."""
    gaps = []
    for across in (0, 1):
        order = np.lexsort((points[:, across], points[:, 1 - across]))
        along = np.diff(points[order], axis=0)
        same = along[along[:, 1 - across] == 0, across]
        gaps.append(same[same > 0])
    distances, counts = np.unique(np.concatenate(gaps), return_counts=True)
    return float(distances[counts.argmax()]) if len(distances) else 1.0


def _shape(array: Any) -> str:
    return f"{array.dtype} [{', '.join(str(side) for side in array.shape)}]"
