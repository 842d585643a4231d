"""Tiles of made-up tissue as one slide shows them: stained, photographed, ready to be cut. All of it is synthetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.data.synthetic.patches import MOSAICS, Bank, render_bank
from histill.data.synthetic.stain import SlideLook, absorb
from histill.data.synthetic.tissues import DENSEST, Tile

Image = NDArray[np.uint8]
Centres = NDArray[np.float64]

BANK_MPP = 0.25
"""Slides are made from tiles at this spacing, whatever theirs: they show the same cells."""

OBJECT, SEEDED, AT_HOME = 1, 2, 4
"""Of an object: it is one; its centre lies where its tissue is; its centre lies where its own tile is laid."""

SHOWN = OBJECT | SEEDED | AT_HOME

RIM = 0.3
"""An object keeps so many micrometres of its surroundings, into which its focus blur reaches."""


@dataclass(frozen=True)
class Objects:
    """Which object of a tile a pixel belongs to.

    Attributes:
        ids: 0 where it belongs to none, uint16 [side, side].
        centres: row and column of each object's centre, in tile sides; the first is nobody's; float64 [n, 2].
        reach: no pixel is farther from its object's centre along an axis, in tile sides.
    """

    ids: NDArray[np.uint16]
    centres: Centres
    reach: float


@dataclass(frozen=True)
class SlideBank:
    """What made-up slides are made of.

    Attributes:
        bank: tiles of every tissue.
        objects: of each tile, by class index and variant.
    """

    bank: Bank
    objects: dict[int, tuple[Objects, ...]]

    def stained(self, look: SlideLook, mpp: float) -> dict[int, tuple[StainedTile, ...]]:
        """The tiles in the colours of a slide, at its um/px, by class index and variant."""
        return {
            tissue: tuple(
                stain(tile, objects, self.bank.mpp, look, mpp, grounded=tissue not in MOSAICS)
                for tile, objects in zip(tiles, self.objects[tissue], strict=True)
            )
            for tissue, tiles in self.bank.tiles.items()
        }


@dataclass(frozen=True)
class StainedTile:
    """A tile that wraps round, in the colours of one slide.

    Attributes:
        full: with every object in place, uint8 [side, side, 3].
        ground: where no object is shown, uint8 [side, side, 3]; None for a tissue that is nothing but objects.
        ids: which object a pixel belongs to, 0 for none, uint16 [side, side].
        centres: row and column of each object's centre in pixels, float64 [n, 2]; it may lie outside the tile.
        reach: no pixel is farther from its object's centre along an axis, in pixels.
    """

    full: Image
    ground: Image | None
    ids: NDArray[np.uint16]
    centres: Centres
    reach: int

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return len(self.ids)

    @cached_property
    def closed(self) -> bool:
        """Whether every pixel belongs to an object."""
        return bool(self.ids.all())

    def cut(
        self, row: int, column: int, h: int, w: int, turn: int, ask: Callable[[Centres], NDArray[np.uint8]]
    ) -> tuple[Image, NDArray[np.uint8]]:
        """A rectangle of the endless plane that the tile fills, turned and mirrored in one of eight ways.

        Args:
            row: where the rectangle begins, in pixels of the turned plane.
            column: the same along the other axis.
            h: height of the rectangle.
            w: width of the rectangle.
            turn: 0 to 7; the bits mean mirrored rows, mirrored columns, rows for columns.
            ask: given the centres of objects in the turned plane [n, 2], the bits of each [n].

        Returns:
            pixels uint8 [h, w, 3], where objects that are not `SHOWN` give way to the ground if there is one; and the
            bits of the object that each belongs to, 0 for none, uint8 [h, w].
        """
        swapped, starts, sides = bool(turn & 4), [row, column], [h, w]
        if swapped:
            starts.reverse()
            sides.reverse()
        mirrored = [bool(turn & 1), bool(turn & 2)]
        starts = [-start - side if flip else start for start, side, flip in zip(starts, sides, mirrored, strict=True)]
        pixels, bits = np.empty((*sides, 3), np.uint8), np.empty(sides, np.uint8)
        for down, rows, above in repeats(starts[0], sides[0], self.side):
            for across, columns, left in repeats(starts[1], sides[1], self.side):
                places = self.centres + np.array([above, left])
                places[:, mirrored] *= -1
                answers = ask(places[:, ::-1] if swapped else places)
                answers[0] = 0
                found = answers.take(self.ids[rows, columns], mode="clip")  # faster than an index
                bits[down, across] = found
                part = pixels[down, across]
                part[:] = self.full[rows, columns]
                if self.ground is not None:
                    hidden = (found > 0) & (found < SHOWN)
                    cv2.copyTo(self.ground[rows, columns], hidden.view(np.uint8), part)
        return _turned(pixels, mirrored, swapped), _turned(bits, mirrored, swapped)


def render_slide_bank(seed: int, mpp: float = BANK_MPP) -> SlideBank:
    """The tissue that the slides of a data set are made of; takes some seconds.

    Args:
        seed: of the data set.
        mpp: um/px of its tiles; slides of one data set show the same cells only if it is the same.
    """
    bank = render_bank(seed, mpp)
    return SlideBank(bank, {tissue: tuple(map(gather, tiles)) for tissue, tiles in bank.tiles.items()})


def repeats(start: int, length: int, side: int) -> Iterator[tuple[slice, slice, int]]:
    """Where a stretch of a line lies on tiles laid end to end: its part, the tile's part, where that tile begins."""
    at = 0
    while at < length:
        begin = (start + at) // side * side
        inside = start + at - begin
        many = min(length - at, side - inside)
        yield slice(at, at + many), slice(inside, inside + many), begin
        at += many


def gather(tile: Tile) -> Objects:
    """Number the objects of a tile."""
    side = len(tile.owned)
    rows, columns = np.nonzero(tile.owned)
    centres = np.stack([rows, columns], axis=-1) + tile.offset[rows, columns].astype(np.intp)  # [n, 2]
    spread = 4 * side
    keys, index = np.unique((centres[:, 0] + side) * spread + centres[:, 1] + side, return_inverse=True)
    ids = np.zeros((side, side), np.uint16)
    ids[rows, columns] = index + 1
    places = np.stack(np.divmod(keys, spread), axis=-1) - side + 0.5
    places = np.concatenate([np.full((1, 2), -side), places]) / side
    return Objects(ids, places, float(np.abs(tile.offset[rows, columns]).max(initial=0)) / side)


def stain(tile: Tile, objects: Objects, tile_mpp: float, look: SlideLook, mpp: float, *, grounded: bool) -> StainedTile:
    """A tile in the colours of a slide, at its spacing.

    Args:
        tile: stain amounts.
        objects: of that tile.
        tile_mpp: um/px of the tile.
        look: staining and scanning of the slide.
        mpp: um/px of the slide.
        grounded: whether objects lie on a ground of the tissue's own, some of which they keep as a rim.
    """
    side = max(round(len(tile.owned) * tile_mpp / mpp), 1)
    ids = objects.ids
    if grounded:
        # Not across the tile's edge: on the other side of it the same object has another centre.
        around = 2 * round(RIM / tile_mpp) + 1
        ids = np.where(ids > 0, ids, cv2.dilate(ids, np.ones((around, around), np.uint8)))
    nearest = ((np.arange(side) + 0.5) * len(ids) / side).astype(np.intp)
    reach = int(np.ceil((objects.reach + RIM / tile_mpp / len(ids)) * side)) + 1
    colours = _colours(look)
    full = _photograph(tile.full, colours, side, look.blur / mpp)
    ground = _photograph(tile.ground, colours, side, look.blur / mpp) if grounded else None
    return StainedTile(full, ground, ids[np.ix_(nearest, nearest)], objects.centres * side, reach)


def _colours(look: SlideLook) -> Image:
    """The colour of each pair of stain amounts as a tile stores them, uint8 [65536, 3]."""
    steps = np.arange(256, dtype=np.float32) * np.float32(DENSEST / 255)
    amounts = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)  # [256, 256, 2]
    colours: Image = np.rint(absorb(amounts, look)).astype(np.uint8).reshape(-1, 3)
    return colours


def _photograph(amounts: NDArray[np.uint8], colours: Image, side: int, blur: float) -> Image:
    light = colours[amounts[..., 0].astype(np.intp) * 256 + amounts[..., 1]]  # [s, s, 3]
    if side > len(light):
        border = 8
        wide = np.pad(light, ((border, border), (border, border), (0, 0)), mode="wrap")
        place = ((np.arange(side, dtype=np.float32) + 0.5) * (len(light) / side) - 0.5 + border).astype(np.float32)
        light = np.asarray(cv2.remap(wide, *np.meshgrid(place, place), cv2.INTER_CUBIC), np.uint8)
    elif side < len(light):
        light = np.asarray(cv2.resize(light, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    border = min(int(np.ceil(4 * blur)) + 1, side)
    wide = np.pad(light, ((border, border), (border, border), (0, 0)), mode="wrap")
    blurred = np.asarray(cv2.GaussianBlur(wide, (0, 0), blur), np.uint8)
    return np.ascontiguousarray(blurred[border:-border, border:-border])


def _turned(part: Image, mirrored: list[bool], swapped: bool) -> Image:
    if any(mirrored):
        # OpenCV's numbers: 0 mirrors rows, 1 columns, -1 both.
        part = np.asarray(cv2.flip(part, -1 if all(mirrored) else int(mirrored[1])), np.uint8)
    return np.asarray(cv2.transpose(part), np.uint8) if swapped else part
