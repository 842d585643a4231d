"""What is true of a whole slide: a label map or outlines, at whatever spacing it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import STRtree

from histill.core.card import DatasetCard
from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame
from histill.core.labels import IGNORE, Classes
from histill.core.manifest import Sample
from histill.core.masks import LabelMap
from histill.data.images import image_size, mask_indices, read_mask
from histill.formats.asap import read_asap
from histill.formats.geojson import read_geojson
from histill.formats.maps import open_labels
from histill.formats.outlines import Outline, Outlines
from histill.formats.raster import OutlineRaster

OUTLINES = (".geojson", ".json", ".geojson.gz", ".xml")
"""How the names of outline files end."""

NO_TRUTH = ("cell", "tile", "tmaCore")
"""What QuPath calls objects that a program made, or that only say where something lies."""

MOST_AT_ONCE = 1 << 27
"""Pixels of a map that are held at once."""

MARGIN = 2
"""Px around a window at which outlines are cut off: far enough that the cut is not seen."""


class SlideTruth(ABC):
    """The truth of one slide; close it, or use it in a with statement."""

    @abstractmethod
    def band(self, frame: Frame, top: int, rows: int) -> LabelMap:
        """Rows of the slide's true map on a frame, uint8 [rows, w]; IGNORE where nothing is known."""

    def close(self) -> None:  # noqa: B027 (most hold no file open)
        """Let go of the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class LabelSource(Protocol):
    """What `nearest` and `MappedTruth` read from: a label map, any rectangle of it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""

    @property
    def mpp(self) -> float | None:
        """um/px, where the file says it."""

    @property
    def classes(self) -> Classes | None:
        """Of the map, where the file names them."""

    def read(self, x: int, y: int, w: int, h: int) -> LabelMap:
        """Values of a rectangle in px, uint8 [h, w]."""

    def close(self) -> None:
        """Let go of the file."""


class MappedTruth(SlideTruth):
    """A label map as TIFF or PNG, at level 0 or smaller: each pixel asked for is that of the map under its centre.

    Args:
        path: the map.
        card: what its values mean.
        size: width and height of the slide in level-0 px.

    Raises:
        HistillError: input (4) if it cannot be read, its shape is not the slide's, or it names other classes than the
            card does; unsafe (5) if it is too large to be read so.
    """

    def __init__(self, path: Path, card: DatasetCard, size: tuple[int, int]) -> None:
        self.path, self.card, self.size = path, card, size
        tiff = _is_tiff(path)
        self._map: LabelSource = open_labels(path) if tiff else _FlatMap(path, card)
        # What is flat is read whole, and its values have their meaning then.
        self._raw = tiff
        self._ambiguous = tiff and self._map.classes is None and not card.mask_values
        self._seen = np.zeros(256, bool)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def band(self, frame: Frame, top: int, rows: int) -> LabelMap:
        """See `SlideTruth`.

        Raises:
            HistillError: input (4) if the map's values mean nothing, or might mean two things, which shows with the
                last row.
        """
        values = nearest(self._map, self._factor(frame), frame, top, rows)
        if self._ambiguous:
            self._seen[np.flatnonzero(np.bincount(values.ravel(), minlength=256))] = True
            if top + rows >= frame.shape[0] and set(np.flatnonzero(self._seen)) == {0, IGNORE}:
                raise _unlike(
                    self.path,
                    "the mask holds 0 and 255 alone: 255 may be a class or say nothing",
                    "Say in mask_values which, for both",
                )
        return mask_indices(values, self.card, self.path) if self._raw else values

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def _check(self) -> None:
        height, width = self._map.shape
        low, high = self._factors()
        if low >= high or high < 1:
            raise _unlike(
                self.path,
                f"the mask is {width} x {height} pixels, the slide {self.size[0]} x {self.size[1]}: not of one shape",
                "Give a mask of the whole slide, at level 0 or made smaller by one factor",
            )
        own = self._map.classes
        if own is not None and not self.card.mask_values and own.names != self.card.classes:
            raise _unlike(
                self.path,
                f"the mask's classes are {', '.join(own.names)}; the table's {', '.join(self.card.classes)}",
                "Say in mask_values what each of its values means",
            )

    def _factors(self) -> tuple[float, float]:
        """Between which two numbers the factor lies by which the map is smaller: its sides were rounded somehow."""
        sides = list(zip(self.size, self._map.shape[::-1], strict=True))
        low = max(side / (px + 1) for side, px in sides)
        return low, min(side / (px - 1) if px > 1 else np.inf for side, px in sides)

    def _factor(self, frame: Frame) -> float:
        """Level-0 px per px of the map: what its spacing says, a whole number, or the ratio of the longer sides."""
        low, high = self._factors()
        side, px = max(zip(self.size, self._map.shape[::-1], strict=True))
        said = [] if self._map.mpp is None else [self._map.mpp / frame.level0_mpp]
        possible = [factor for factor in (*said, round(side / px)) if low < factor < high]
        return float(possible[0]) if possible else float(np.clip(side / px, low, high))


class DrawnTruth(SlideTruth):
    """Outlines as GeoJSON or ASAP XML. What no outline covers is background where the classes have one, else unknown.

    Of two outlines that overlap the smaller counts, as QuPath shows it on top: a gland drawn inside a tumour is a
    gland, in whatever order they stand in the file.

    Args:
        path: the outlines.
        card: names the classes; upper or lower case does not matter.
        outlines: those of the file, where they have been read already.

    Raises:
        HistillError: input (4) if the file cannot be read; usage (2) if it holds a class that is none of the card's.
    """

    def __init__(self, path: Path, card: DatasetCard, outlines: Sequence[Outline] | None = None) -> None:
        classes = card.as_classes()
        found = read_outlines(path) if outlines is None else outlines
        self._outlines = sorted(found, key=lambda outline: -outline.area.area)
        self._labels = [class_of(outline, card, path) for outline in self._outlines]
        self._beyond = IGNORE if classes.background is None else classes.index(classes.background)
        self._raster: tuple[Frame, OutlineRaster] | None = None
        self._tree = STRtree([outline.area for outline in self._outlines])

    def band(self, frame: Frame, top: int, rows: int) -> LabelMap:
        """See `SlideTruth`."""
        if self._raster is None or self._raster[0] != frame:
            self._raster = frame, OutlineRaster(self._outlines, self._labels, frame, beyond=self._beyond)
        return self._raster[1].band(top, rows)

    def window(self, frame: Frame, x: int, y: int, w: int, h: int) -> LabelMap:
        """A rectangle of the slide's true map on a frame, uint8 [h, w]; IGNORE beyond the slide too."""
        window = np.full((h, w), IGNORE, np.uint8)
        height, width = frame.shape
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if left < right and top < bottom:
            window[top - y : bottom - y, left - x : right - x] = self._drawn(frame, left, top, right, bottom)
        return window

    def _drawn(self, frame: Frame, left: int, top: int, right: int, bottom: int) -> LabelMap:
        """What lies between these px of a map, uint8 [bottom - top, right - left], without drawing all of its rows."""
        bounds = np.array([left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN]) * frame.scale
        near = np.sort(self._tree.query(shapely.box(*bounds)))
        if not len(near):
            return np.full((bottom - top, right - left), self._beyond, np.uint8)
        # An outline of a whole section has many corners, and few of them here.
        areas = shapely.clip_by_rect(self._tree.geometries[near], *bounds)
        areas = shapely.transform(areas, lambda corners: corners / frame.scale - (left, top))
        outlines = [Outline(area) for area in areas]
        own = Frame(right - left, bottom - top, 1.0, 1.0)
        return OutlineRaster(outlines, [self._labels[i] for i in near], own, beyond=self._beyond).band(0, bottom - top)


def open_truth(path: Path, card: DatasetCard, size: tuple[int, int]) -> SlideTruth:
    """The truth in a file: outlines by its name's ending, else a label map. Raises as `DrawnTruth`, `MappedTruth`."""
    return DrawnTruth(path, card) if path.name.lower().endswith(OUTLINES) else MappedTruth(path, card, size)


def read_outlines(path: Path) -> Outlines:
    """The outlines of a GeoJSON or an ASAP XML file that say what is where; cells and tiles do not.

    Raises:
        HistillError: input (4) if it cannot be read; unsafe (5) if it is too large, or holds what may unfold.
    """
    found = read_asap(path) if path.name.lower().endswith(".xml") else read_geojson(path)
    kept = tuple(outline for outline in found if outline.object_type not in NO_TRUTH)
    left_out = len(found) - len(kept)
    note = (f"{left_out} cells, tiles or cores left out: annotations say what is where",) if left_out else ()
    return Outlines(kept, (*found.notes, *note))


def class_of(outline: Outline, card: DatasetCard, path: Path) -> int:
    """The class index of an outline, or IGNORE. Upper or lower case counts only where classes differ in nothing else.

    Raises:
        HistillError: usage (2) if its class is none of the card's.
    """
    name = (outline.class_name or "").strip()
    if name in card.classes:
        return card.classes.index(name)
    lower = {each.lower(): index for index, each in enumerate(card.classes)}
    if name.lower() in lower:
        return lower[name.lower()]
    if is_ignored(name):
        return IGNORE
    raise HistillError(
        f"an outline is of class '{name or 'none'}', which is not one of {', '.join(card.classes)}",
        code=Exit.USAGE,
        subject=str(path),
        mend="Rename it in QuPath or ASAP, or when importing: --rename OLD=NEW",
    )


def is_ignored(name: str) -> bool:
    """Whether a class says that nothing is said; QuPath marks such with a star."""
    return name.lower() in ("ignore", "ignore*")


def nearest(image: LabelSource, scale: float, frame: Frame, top: int, rows: int) -> NDArray[np.uint8]:
    """Rows of a frame, each pixel that of a label map under its centre, uint8 [rows, w]. Memory is bounded.

    Args:
        image: the map.
        scale: level-0 px per px of it.
        frame: what is asked for.
        top: first row.
        rows: how many.
    """
    height, width = image.shape
    ratio = frame.scale / scale
    at_y = np.minimum(((np.arange(top, top + rows) + 0.5) * ratio).astype(np.intp), height - 1)
    at_x = np.minimum(((np.arange(frame.shape[1]) + 0.5) * ratio).astype(np.intp), width - 1)
    found = np.empty((rows, len(at_x)), np.uint8)
    step = max(1, int(MOST_AT_ONCE / (width * max(ratio, 1))))
    for first in range(0, rows, step):
        some = at_y[first : first + step]
        read = image.read(0, int(some[0]), width, int(some[-1] - some[0]) + 1)  # [h, width]
        found[first : first + step] = read[some - some[0]][:, at_x]
    return found


class _FlatMap:
    """A label map in a PNG or BMP, read whole; its values are class indices, as `data.images` reads them."""

    mpp: float | None = None
    classes: Classes | None = None

    def __init__(self, path: Path, card: DatasetCard) -> None:
        try:
            self._labels = read_mask(Sample(path.name, path, mask=path), card, image_size(path))
        except HistillError as error:
            if error.code != Exit.UNSAFE:
                raise
            mend = "Save it as a tiled TIFF, or make it smaller by one factor"
            raise HistillError(error.what, code=error.code, subject=error.subject, mend=mend) from None

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self._labels.shape
        return height, width

    def read(self, x: int, y: int, w: int, h: int) -> LabelMap:
        return self._labels[y : y + h, x : x + w]

    def close(self) -> None:
        """Nothing is held open."""


def _is_tiff(path: Path) -> bool:
    """Whether a file is a TIFF, by what it holds; False for one that is not there."""
    try:
        with path.open("rb") as file:
            return file.read(4)[:2] in (b"II", b"MM")
    except OSError:
        return False


def _unlike(path: Path, what: str, mend: str) -> HistillError:
    return HistillError(what, code=Exit.INPUT, subject=str(path), mend=mend)
