"""From a slide's tiles to bands of its label map: read, segment, blend, decide. Reading runs beside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.geometry import Frame, Grid, Region
from histill.core.labels import IGNORE
from histill.core.masks import LabelMap
from histill.data.tiles import Tile, collate
from histill.engine.margins import with_margins
from histill.engine.tile_method import TileMethod
from histill.formats.raster import OutlineRaster
from histill.slides.base import RgbImage
from histill.slides.stitch import Band, Stitcher
from histill.slides.tissue import Tissue
from histill.slides.worker import GuardedSlide

LONGEST_READ = 2048
"""px of the map: neighbouring tiles are read as one strip up to this wide, so that what they share is read once."""

DECIDED_AT_ONCE = 4096
"""Columns of a band that are decided at a time, to bound memory."""

Change = Callable[[RgbImage], RgbImage]


@dataclass(frozen=True)
class TileMaps:
    """The network's word on a few tiles: their numbers in the grid, and float32 [n, m, side, side]."""

    tiles: tuple[int, ...]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class DecidedBand:
    """Finished rows of a slide's map, over its whole width.

    Attributes:
        top: the first row in map px.
        labels: uint8 [h, w]; IGNORE where there is no tissue or no tile.
        probabilities: uint8 [k, h, w], 255 for 1; None where nobody asked for them.
    """

    top: int
    labels: LabelMap
    probabilities: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Wanted:
    """Which pixels of a slide's map are wanted: tissue, and of that what regions leave.

    Attributes:
        frame: the map.
        tissue: where there is some.
        regions: 0 where nothing is wanted, of regions that a user drew; None without any.
    """

    frame: Frame
    tissue: Tissue
    regions: OutlineRaster | None = None

    def rows(self, top: int, count: int) -> NDArray[np.bool_]:
        """Some rows of the map, bool [count, w]."""
        tissue = self.tissue.over(self.frame, 0, top, self.frame.shape[1], count)
        return tissue if self.regions is None else tissue & (self.regions.band(top, count) > 0)


@dataclass
class Unreadable:
    """Tiles that could not be read, by their numbers, why the first could not, and how many there may be."""

    most: int
    tiles: list[int] = field(default_factory=list)
    why: str = ""

    def count(self, tile: int, error: HistillError) -> None:
        """Note one.

        Raises:
            HistillError: input (4) if it is one too many; or the error itself, if it is not about this tile.
        """
        if error.code != Exit.INPUT:
            raise error
        self.tiles.append(tile)
        self.why = self.why or error.what
        if len(self.tiles) > self.most:
            raise HistillError(
                f"{len(self.tiles)} tiles cannot be read, more than are left out; the first: {self.why}",
                code=Exit.INPUT,
                subject=error.subject,
                mend="Get the file again, or allow more with --most-unreadable",
            )


def read_tiles(
    slide: GuardedSlide, grid: Grid, unreadable: Unreadable, longest: int = LONGEST_READ
) -> Iterator[tuple[int, RgbImage]]:
    """The grid's tiles in order, uint8 [side, side, 3] each; those that cannot be read are counted and left out.

    With a `longest` of 0 each is read by itself: its pixels are the same to the last bit whatever lies beside it.
    """
    frame, side = grid.frame, grid.side
    strips = list(_strips(grid, longest))

    def request(strip: list[int]) -> tuple[Region, int, int]:
        x, y = (int(value) for value in grid.corners[strip[0]])
        width = int(grid.corners[strip[-1], 0]) + side - x
        return frame.region(x, y, width, side), width, side

    answers = slide.read_many(request(strip) for strip in strips)
    for strip, answer in zip(strips, answers, strict=True):
        left = int(grid.corners[strip[0], 0])
        for tile in strip:
            if isinstance(answer, HistillError):
                # One bad tile in a strip is no reason to lose its neighbours.
                try:
                    yield tile, slide.read_as(*request([tile]))
                except HistillError as error:
                    unreadable.count(tile, error)
            else:
                x = int(grid.corners[tile, 0]) - left
                yield tile, answer[:, x : x + side]


def _strips(grid: Grid, longest: int) -> Iterator[list[int]]:
    """Tile numbers, those of one row that overlap or touch together, up to `longest` wide."""
    strip: list[int] = []
    for i, (x, y) in enumerate(grid.corners.tolist()):
        if strip:
            first_x, row = grid.corners[strip[0]].tolist()
            last_x = int(grid.corners[strip[-1], 0])
            if y != row or x > last_x + grid.side or x + grid.side - first_x > max(longest, grid.side):
                yield strip
                strip = []
        strip.append(i)
    if strip:
        yield strip


@torch.inference_mode()
def segment_tiles(
    tiles: Iterable[tuple[int, RgbImage]], method: TileMethod, fabric: Fabric, side: int, batch_size: int
) -> Iterator[TileMaps]:
    """The network's maps of tiles, in the order of the tiles; see `full_batches`."""
    nothing, unlabelled = np.zeros((0, side, side), np.uint8), np.zeros(len(method.classes), np.float32)
    for numbers, images in full_batches(tiles, side, batch_size):
        batch = collate([Tile("", image, nothing, unlabelled) for image in images]).to(fabric.device)
        with fabric.autocast():
            maps = method.predict_tiles(batch)[: len(numbers), :, :side, :side].float().cpu().numpy()
        yield TileMaps(numbers, maps)


def full_batches(
    tiles: Iterable[tuple[int, RgbImage]], side: int, batch_size: int
) -> Iterator[tuple[tuple[int, ...], list[RgbImage]]]:
    """Numbers of a few tiles and a batch that begins with them, all batches of one size.

    The last is filled up with white, so that no bit of a result depends on how many tiles a slide has.
    """
    white = np.full((side, side, 3), 255, np.uint8)
    left = iter(tiles)
    while waiting := list(islice(left, batch_size)):
        filling = [white] * (batch_size - len(waiting))
        yield tuple(number for number, _ in waiting), [*(image for _, image in waiting), *filling]


def decided_bands(
    maps: Iterable[TileMaps], grid: Grid, wanted: Wanted, method: TileMethod, *, probabilities: bool
) -> Iterator[DecidedBand]:
    """The slide's label map from top to bottom, without gaps: blended tiles, decided, and cut to what is wanted."""
    height, width = grid.frame.shape
    row = 0
    k = len(method.classes)
    for due in with_margins(_blended(maps, grid), method.reach):
        band, own = due.band, slice(due.above, due.above + due.rows)
        top, h, w = band.top + due.above, due.rows, band.seen.shape[1]
        yield from _nothing(row, top, width, k if probabilities else 0, grid.side)
        labels = np.full((h, width), IGNORE, np.uint8)
        kept = np.zeros((k, h, width), np.uint8) if probabilities else None
        where = wanted.rows(top, h)
        for start in range(0, w, DECIDED_AT_ONCE):
            part = slice(start, min(start + DECIDED_AT_ONCE, w))
            place = slice(band.left + part.start, band.left + part.stop)
            before = max(0, start - method.reach)
            decided = _decide(method, band.maps[:, :, before : part.stop + method.reach])
            decided = decided[:, own, part.start - before : part.stop - before]  # [k, h, part]
            there = band.seen[own, part] & where[:, place]
            labels[:, place] = np.where(there, decided.argmax(0).astype(np.uint8), np.uint8(IGNORE))
            if kept is not None:
                kept[:, :, place] = np.rint(decided * 255 * there).astype(np.uint8)
        row = top + h
        yield DecidedBand(top, labels, kept)
    yield from _nothing(row, height, width, k if probabilities else 0, grid.side)


def _blended(maps: Iterable[TileMaps], grid: Grid) -> Iterator[Band]:
    stitcher: Stitcher | None = None
    for batch in maps:
        stitcher = stitcher or Stitcher(grid, batch.maps.shape[1])
        for tile, each in zip(batch.tiles, batch.maps, strict=True):
            yield from stitcher.add(tile, each)
    if stitcher is not None:
        yield from stitcher.end()


@torch.inference_mode()
def _decide(method: TileMethod, maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blended maps float32 [m, h, w] -> class probabilities float32 [k, h, w]."""
    found: NDArray[np.float32] = method.finish(torch.from_numpy(np.ascontiguousarray(maps))[None])[0].numpy()
    return found


def _nothing(begin: int, end: int, width: int, k: int, rows: int) -> Iterator[DecidedBand]:
    for top in range(begin, end, rows):
        h = min(rows, end - top)
        labels = np.full((h, width), IGNORE, np.uint8)
        yield DecidedBand(top, labels, np.zeros((k, h, width), np.uint8) if k else None)
