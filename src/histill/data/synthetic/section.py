"""A made-up slide under the microscope: pixels and truth of any rectangle. All of it is synthetic.

The tiles of the bank are stained and photographed once, in the slide's look; a rectangle is then put together from
pieces of them. Neighbouring domains show other parts of a tile, turned and mirrored, so that nothing comes again in
sight of itself. Cells, nuclei and glands are shown whole or not at all: each goes with the tissue, and the domain, at
its centre. Only cells that fill their tissue are cut where two domains meet, lest gaps open between them.

What a pixel shows follows from the seed, the slide and its place. All arithmetic on pixels is on whole numbers, or
pixel by pixel, so that no rectangle's edge can be seen in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.seeds import generator
from histill.data.synthetic.anatomy import Anatomy
from histill.data.synthetic.marks import DUST, Marks
from histill.data.synthetic.patches import LAYERS, MOSAICS, SEAMS
from histill.data.synthetic.scene import GLAND, LYMPHOCYTES, NECROSIS, STROMA, TUMOUR, WHITE
from histill.data.synthetic.stain import SlideLook
from histill.data.synthetic.stained import AT_HOME, OBJECT, SEEDED, SHOWN, Image, StainedTile, repeats
from histill.data.synthetic.survey import WHOLE, Block, Part, Surveyor, common, extent, hull, inside

Labels = NDArray[np.uint8]
Mask = NDArray[np.uint8]
"""0 hides, 255 shows."""

APART = {GLAND: 24.0}
"""Objects of these tissues keep so many micrometres from their domain's edge, or neighbours would overlap."""

NOISE = 1031
"""Side of the square of sensor noise that is laid over a slide again and again; JPEG leaves nothing of its rhythm."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """What one domain's tile of a tissue shows in a part of a block.

    Attributes:
        part: rows and columns of the block.
        pixels: uint8 [h, w, 3].
        objects: bits of the object that a pixel belongs to, uint8 [h, w]; see `stained`.
        share: how much of the ground is the domain's, uint8 [h, w]; None for all of it.
    """

    part: Part
    pixels: Image
    objects: NDArray[np.uint8]
    share: Mask | None


class Section:
    """One made-up slide that can be photographed anywhere, by several threads at once."""

    def __init__(
        self,
        tiles: dict[int, tuple[StainedTile, ...]],
        anatomy: Anatomy,
        look: SlideLook,
        variants: dict[int, tuple[float, ...]],
        marks: Marks,
        *,
        mpp: float,
        seed: int,
        name: str,
    ) -> None:
        """Prepare a slide.

        Args:
            tiles: for each class index its variants, in the slide's colours and at its spacing.
            anatomy: where the tissues lie.
            look: staining and scanning.
            variants: for each class index how often each variant is seen.
            marks: pen and dust.
            mpp: um/px.
            seed: of the data set.
            name: of the slide.
        """
        self._tiles, self._marks = tiles, marks
        self._reach = {tissue: max(tile.reach for tile in each) for tissue, each in tiles.items()}
        reach = max(self._reach.values(), default=0)
        self._surveyor = Surveyor(anatomy, mpp=mpp, reach=reach, seed=seed, name=name)
        self._round = 2 * max(round(0.8 / mpp), 1) + 1  # px over which a nest's corners are rounded
        self._halo = 2 * self._round
        self._cuts = {tissue: np.cumsum(often)[:-1] for tissue, often in variants.items()}
        self._white = np.rint(look.white).astype(np.uint8)
        rng = generator(seed, "noise", name)
        self._noise = np.rint(look.noise * rng.standard_normal((NOISE, NOISE, 3), np.float32)).astype(np.int16)
        # A little more of the same stain, d, changes the light by d * light * log(light / white).
        light = np.arange(256, dtype=np.float32)[:, None] / np.asarray(look.white, np.float32)  # [256, 3]
        change = light * np.log(np.clip(light, 1 / 256, 1)) * np.asarray(look.white, np.float32) * look.uneven
        self._change = np.clip(np.rint(32 * change), -340, 340).astype(np.int16)[None]  # [1, 256, 3]

    def photograph(self, x: int, y: int, w: int, h: int) -> tuple[Image, Labels]:
        """Pixels uint8 [h, w, 3] and class indices uint8 [h, w] of a rectangle of the slide, in px."""
        halo = self._halo
        block = self._surveyor.survey(x - halo, y - halo, w + 2 * halo, h + 2 * halo)
        inner = (slice(halo, halo + h), slice(halo, halo + w))
        noise = np.empty((h, w, 3), np.int16)
        for down, rows, _ in repeats(y, h, NOISE):
            for across, columns, _ in repeats(x, w, NOISE):
                noise[down, across] = self._noise[rows, columns]
        if block.domains:
            whole, truth = self._compose(block)
            image, labels = np.ascontiguousarray(whole[inner]), np.ascontiguousarray(truth[inner])
            thick = np.rint(32 * block.fine(np.clip(block.seen.thick, -3, 3), inner)).astype(np.int16)  # [h, w]
            change = cv2.multiply(cv2.LUT(image, self._change), cv2.merge([thick] * 3), scale=1 / 1024)
            cv2.add(noise, change, dst=noise)
        else:
            image, labels = self._glass(h, w), np.full((h, w), WHITE, np.uint8)
        for depth, ink, soft in (
            (self._marks.pen(block.down, block.across), self._marks.ink, 6),
            (self._marks.dust(block.down, block.across), DUST, 3),
        ):
            if depth is not None:
                alpha = np.clip(block.fine(depth, inner) / soft, 0, 1)[..., None]  # [h, w, 1]
                image = np.rint(image * (1 - alpha * (1 - np.asarray(ink, np.float32)))).astype(np.uint8)
        return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8), labels

    def _glass(self, h: int, w: int) -> Image:
        return np.broadcast_to(self._white, (h, w, 3)).copy()

    def _compose(self, block: Block) -> tuple[Image, Labels]:
        """Pixels and truth of a block with tissue."""
        label = block.seen.label
        seeded = {tissue: label == tissue for tissue in LAYERS}
        seeded[STROMA] = seeded[STROMA] | np.isin(label, MOSAICS)
        seeded[LYMPHOCYTES] = seeded[LYMPHOCYTES] | block.seen.strays
        layers = self._layers(block, seeded)
        image = np.empty((block.h, block.w, 3), np.uint8)
        truth = np.full((block.h, block.w), STROMA, np.uint8)
        # The layer whose ground is seen at a pixel, alone and bare; 0 where several are mixed, or something lies on it.
        bare = np.zeros(truth.shape, np.uint8)
        for tissue in (STROMA, NECROSIS, LYMPHOCYTES):
            self._lay_ground(block, tissue, layers[tissue], image, truth, bare)
        alpha = _alpha(block, WHITE, truth)
        if alpha is not None:
            _blend(image, self._glass(block.h, block.w), alpha)
            bare[alpha > 0] = 0
        painted = np.zeros(truth.shape, np.uint8)
        for code, tissue in enumerate(LAYERS, 1):
            if tissue in MOSAICS:
                if layers[tissue]:
                    shown = self._lay_objects(tissue, layers[tissue], image)
                    truth[shown], painted[shown], bare[shown] = tissue, code, 0
                continue
            for number, layer in enumerate(layers[tissue]):
                fresh = (layer.objects == SHOWN) & (bare[layer.part] != _code(tissue, number))
                cv2.copyTo(layer.pixels, fresh.view(np.uint8), image[layer.part])
                painted[layer.part][fresh] = code
                bare[layer.part][fresh] = 0
        # Where an object was cut out and put down, its edge is softened as a lens would.
        rims = cv2.morphologyEx(painted, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        if rims.any():
            cv2.copyTo(cv2.GaussianBlur(image, (3, 3), 0), rims, image)
        return image, truth

    def _lay_ground(
        self, block: Block, tissue: int, layers: list[_Layer], image: Image, truth: Labels, bare: NDArray[np.uint8]
    ) -> None:
        """Lay the ground of a tissue over what is there."""
        alpha = None if tissue == STROMA else _alpha(block, tissue, truth)
        if not layers or (alpha is None and tissue != STROMA):
            return
        within = hull([layer.part for layer in layers])
        below, codes = image[within], bare[within]
        ground, alone = (below, codes) if alpha is None else (below.copy(), np.zeros_like(codes))
        for number, layer in enumerate(layers):
            part = inside(layer.part, within)
            _blend(ground[part], layer.pixels, layer.share)
            alone[part][WHOLE if layer.share is None else layer.share == 255] = _code(tissue, number)
        if alpha is not None:
            mask = alpha[within]
            _blend(below, ground, mask)
            codes[mask > 0] = 0
            cv2.copyTo(alone, (mask == 255).view(np.uint8), codes)

    def _lay_objects(self, tissue: int, layers: list[_Layer], image: Image) -> NDArray[np.bool_]:
        """Lay a tissue of whole objects over what is there; returns where it is seen, bool [h, w]."""
        pixels, covered = np.empty_like(image), np.zeros(image.shape[:2], np.uint8)
        if tissue != GLAND:
            for layer in layers:
                # What a domain's edge cuts off of its objects fills gaps between those of its neighbours.
                mine = np.full(layer.objects.shape, 255, np.uint8) if layer.share is None else layer.share & 128
                seeded = np.where(layer.objects & SEEDED, np.uint8(255), np.uint8(0))
                cv2.copyTo(layer.pixels, mine, pixels[layer.part])
                cv2.copyTo(seeded, mine, covered[layer.part])
        if tissue == GLAND or len(layers) > 1:
            for layer in layers:
                entire = layer.objects == SHOWN
                cv2.copyTo(layer.pixels, entire.view(np.uint8), pixels[layer.part])
                covered[layer.part][entire] = 255
        if tissue == TUMOUR:
            around = (self._round, self._round)
            covered = np.asarray(cv2.blur(cv2.blur(covered, around), around), np.uint8)  # a nest has no corners
        shown: NDArray[np.bool_] = covered > 127
        cv2.copyTo(pixels, shown.view(np.uint8), image)
        return shown

    def _layers(self, block: Block, seeded: dict[int, NDArray[np.bool_]]) -> dict[int, list[_Layer]]:
        """For each tissue what the tile of each domain shows of it."""
        layers: dict[int, list[_Layer]] = {}
        extents = [extent(share > 0) for share in block.shares]
        mix = _mix(block, extents)
        for tissue, seeds in seeded.items():
            wanted, reach = seeds, self._reach[tissue]
            if tissue in (NECROSIS, LYMPHOCYTES):
                wanted = wanted | (block.seen.depth[tissue] > -SEAMS[tissue])
            elif tissue == STROMA:
                closed = any(seeded[t].all() and all(tile.closed for tile in self._tiles[t]) for t in MOSAICS)
                wanted = np.full_like(wanted, not closed)
            within = block.part(extent(wanted), reach)
            layers[tissue] = []
            for number, own in enumerate(extents):
                part = common(within, block.part(own, reach))
                if part is not None:
                    layers[tissue].append(self._layer(block, tissue, number, part, seeds, mix[number]))
        return layers

    def _layer(
        self, block: Block, tissue: int, number: int, part: Part, seeds: NDArray[np.bool_], mask: Mask | None
    ) -> _Layer:
        """What the tile of one domain shows of a tissue in a part of a block."""
        domain = block.domains[number]
        tile = self._tiles[tissue][int(np.searchsorted(self._cuts[tissue], domain.alike))]
        # The tile is laid down from the domain's middle, so that it lies alike at every spacing.
        away = np.array([int(at * tile.side) for at in domain.place]) - [round(at / block.mpp) for at in domain.middle]

        def ask(centres: NDArray[np.float64]) -> NDArray[np.uint8]:
            nearest = block.nearest(centres - away)
            home = (block.domain[nearest] == number) & (block.inland[nearest] >= APART.get(tissue, 0))
            bits: NDArray[np.uint8] = (OBJECT + SEEDED * seeds[nearest] + AT_HOME * home).astype(np.uint8)
            return bits

        rows, columns = part
        row, column = block.y + rows.start + int(away[0]), block.x + columns.start + int(away[1])
        h, w = rows.stop - rows.start, columns.stop - columns.start
        pixels, objects = tile.cut(row, column, h, w, domain.turn, ask)
        return _Layer(part, pixels, objects, None if mask is None else mask[part])


def _mix(block: Block, extents: list[Part | None]) -> list[Mask | None]:
    """How much of each domain's ground is laid over those before it, uint8 [h, w]; None for one that is alone."""
    near = [bool(block.near(share).any()) for share in block.shares]
    mix: list[Mask | None] = []
    laid = np.zeros((block.h, block.w), np.float32)
    for seen, share, own in zip(near, block.shares, extents, strict=True):
        if seen and sum(near) == 1:
            mix.append(None)
            continue
        mask = np.zeros((block.h, block.w), np.uint8)
        part = block.part(own, 0) if seen else None
        if part is not None:
            fine = block.fine(share, part)
            laid[part] += fine
            mask[part] = np.rint(255 * fine / np.maximum(laid[part], 1e-6))
        mix.append(mask)
    return mix


def _alpha(block: Block, tissue: int, truth: Labels) -> Mask | None:
    """How much of a tissue's ground is seen, uint8 [h, w], None if nothing; the truth is filled in on the way."""
    coarse = block.seen.depth[tissue]
    if block.near(coarse).max() <= -SEAMS[tissue]:
        return None
    depth = block.fine(coarse)
    truth[depth > 0] = tissue
    alpha: Mask = np.clip(depth * (127 / SEAMS[tissue]) + 127.5, 0, 255).astype(np.uint8)
    return alpha


def _code(tissue: int, number: int) -> int:
    """A number from 1 to 255 for a layer of a tissue's ground."""
    return 1 + tissue + len(LAYERS) * (number % 40)


def _blend(image: Image, over: Image, alpha: Mask | None) -> None:
    """Lay one image over another; a mask says how much of it is seen, None that nothing else is."""
    if alpha is None:
        image[:] = over
        return
    cv2.copyTo(over, (alpha == 255).view(np.uint8), image)
    partly = alpha - 1 < 254  # 0 becomes 255
    if partly.any():
        columns, rows = cv2.findNonZero(partly.view(np.uint8)).reshape(-1, 2).T
        share = alpha[rows, columns, None].astype(np.uint16)
        below, above = image[rows, columns].astype(np.uint16), over[rows, columns].astype(np.uint16)
        image[rows, columns] = (below * (255 - share) + above * share + 127) // 255
