"""Made-up H&E patches with known truth, for tests, demonstrations and comparing methods. No pixel is real.

A bank holds large tiles of every tissue. A patch is a scene filled with crops of the bank, stained and photographed
with its slide's look. Cells, nuclei and glands are shown whole or not at all: each goes with the tissue at its centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.errors import Exit, HistillError
from histill.core.seeds import generator
from histill.data.synthetic.fields import Field
from histill.data.synthetic.scene import (
    CLASSES,
    FAT,
    GLAND,
    LYMPHOCYTES,
    NECROSIS,
    STROMA,
    THEMES,
    TUMOUR,
    WHITE,
    Scene,
    draw_scene,
)
from histill.data.synthetic.stain import SlideLook, draw_look, expose, through_jpeg
from histill.data.synthetic.tissues import DENSEST, REACH, Tile, render_tile

VARIANTS = {"tumour": 2, "stroma": 2, "lymphocytes": 2, "necrosis": 1, "gland": 2, "fat": 1}

MOSAICS = (TUMOUR, GLAND, FAT)
"""Tissues made of whole objects upon stroma; the others are ground with nuclei on it."""

WIDEST = 1024
"""Largest side of a tile in pixels; coarser than 0.5 micrometres per pixel, 512 micrometres are enough."""

SEAMS = {STROMA: 0.0, NECROSIS: 1.0, LYMPHOCYTES: 3.0, WHITE: 0.5}
"""How softly the ground of a tissue goes over into its neighbours, in micrometres."""

LAYERS = (STROMA, NECROSIS, TUMOUR, GLAND, FAT, LYMPHOCYTES)
"""In the order in which their objects are laid down."""


@dataclass(frozen=True)
class Bank:
    """Tiles of every tissue, by tissue and variant.

    Attributes:
        tiles: for each class index its variants; white has none.
        mpp: micrometres per pixel.
    """

    tiles: dict[int, tuple[Tile, ...]]
    mpp: float


@dataclass(frozen=True)
class SyntheticSlide:
    """What the patches of one made-up slide share.

    Attributes:
        name: stands for the patient too.
        look: staining and scanning.
        themes: how often each theme of `THEMES` is drawn, in their order.
        variants: for each class index how often each variant is drawn.
    """

    name: str
    look: SlideLook
    themes: tuple[float, ...]
    variants: dict[int, tuple[float, ...]]


@dataclass(frozen=True)
class SyntheticPatch:
    """A made-up patch and its truth.

    Attributes:
        image: uint8 [h, w, 3], RGB.
        truth: index into `CLASSES` per pixel, uint8 [h, w].
        nuclei: row, column and class index of every nucleus centre in sight, int [n, 3].
        slide: the slide that it belongs to.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    nuclei: NDArray[np.intp]
    slide: str


def render_bank(seed: int, mpp: float = 0.5) -> Bank:
    """Tiles of every tissue; takes some seconds.

    Args:
        seed: of the data set.
        mpp: micrometres per pixel, 0.2 to 2.

    Raises:
        HistillError: if mpp is out of range.
    """
    if not 0.2 <= mpp <= 2:
        raise HistillError(
            f"synthetic tissue is made at 0.2 to 2 micrometres per pixel, not {mpp}",
            code=Exit.USAGE,
            subject="mpp",
            mend="Choose 0.5 for the usual 20x",
        )
    side = min(WIDEST, round(512 / mpp))
    tiles = {
        CLASSES.index(tissue): tuple(render_tile(tissue, v, seed=seed, side=side, mpp=mpp) for v in range(variants))
        for tissue, variants in VARIANTS.items()
    }
    return Bank(tiles, mpp)


def draw_slide(seed: int, name: str) -> SyntheticSlide:
    """The character of a made-up slide, which follows from the seed and its name."""
    rng = generator(seed, "slide", name)
    themes = rng.dirichlet(8 * np.array(list(THEMES.values())))
    variants = {
        CLASSES.index(tissue): tuple(float(often) for often in rng.dirichlet([0.6] * number))
        for tissue, number in VARIANTS.items()
    }
    return SyntheticSlide(name, draw_look(seed, name), tuple(float(often) for often in themes), variants)


def compose(
    bank: Bank, scene: Scene, height: int, width: int, places: dict[int, tuple[int, int, int]]
) -> tuple[Field, NDArray[np.uint8], NDArray[np.intp]]:
    """Fill a scene with tissue.

    Args:
        bank: where tissue is taken from.
        scene: where each tissue lies.
        height: of the picture in pixels.
        width: of the picture in pixels.
        places: for each class index the variant of the tile, and the row and column where its crop begins.

    Returns:
        haematoxylin and eosin as float32 [h, w, 2]; truth as uint8 [h, w]; nuclei as int [n, 3]: row, column, class.
    """
    truth = scene.labels(height, width)
    truth[np.isin(truth, MOSAICS)] = STROMA
    amounts = np.zeros((height, width, 2), np.float32)
    centres = np.full((height, width), WHITE, np.uint8)
    rows, columns = np.ogrid[:height, :width]
    crops = {}
    for tissue in LAYERS:
        if tissue != STROMA and not scene.seeded[tissue].any():
            continue
        variant, down, across = places[tissue]
        tile = bank.tiles[tissue][variant]
        side = len(tile.owned)
        window = np.ix_((down + np.arange(height)) % side, (across + np.arange(width)) % side)
        crops[tissue] = tile, window
        if tissue in SEAMS:
            soft = _soft(truth == tissue, SEAMS[tissue] / bank.mpp) if tissue != STROMA else 1
            amounts += (tile.ground[window] - amounts) * soft
    amounts *= 1 - _soft(truth == WHITE, SEAMS[WHITE] / bank.mpp)
    for tissue, (tile, window) in crops.items():
        at = tile.offset[window]  # [h, w, 2]
        seed_row = (rows + at[..., 0] + scene.margin) // scene.step
        seed_column = (columns + at[..., 1] + scene.margin) // scene.step
        shown = tile.owned[window] & scene.seeded[tissue][seed_row, seed_column]  # [h, w]
        if tissue == TUMOUR:
            shown = _soft(shown, 1.6 / bank.mpp)[..., 0] > 0.5  # a nest has no corners
        amounts += (tile.full[window] - amounts) * _soft(shown, 0.7)
        centres[shown] = np.where(tile.centres[window][shown], tissue, WHITE)
        if tissue in MOSAICS:
            truth[shown] = tissue
    amounts *= DENSEST / 255
    row, column = np.nonzero(centres != WHITE)
    return amounts, truth, np.stack([row, column, centres[row, column]], axis=-1)


def _soft(mask: NDArray[np.bool_], width: float) -> Field:
    """A mask with a seam of this many pixels, float32 [h, w, 1]."""
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), width)[..., None].astype(np.float32, copy=False)


def render_patch(bank: Bank, slide: SyntheticSlide, rng: np.random.Generator, size: int = 224) -> SyntheticPatch:
    """One patch of a made-up slide.

    Args:
        bank: where tissue is taken from.
        slide: its staining and what it is of.
        rng: where the patch's draws come from.
        size: side of the patch in pixels.
    """
    theme = list(THEMES)[rng.choice(len(THEMES), p=slide.themes)]
    places = {}
    for tissue, tiles in bank.tiles.items():
        down, across = rng.integers(0, len(tiles[0].owned), 2)
        places[tissue] = int(rng.choice(len(tiles), p=slide.variants[tissue])), int(down), int(across)
    scene = draw_scene(theme, size, size, bank.mpp, REACH, rng)
    amounts, truth, nuclei = compose(bank, scene, size, size, places)
    image = through_jpeg(expose(amounts, slide.look, bank.mpp, rng), slide.look.quality)
    return SyntheticPatch(image, truth, nuclei, slide.name)


def synthetic_patches(
    count: int, *, seed: int, size: int = 224, slides: int = 8, mpp: float = 0.5
) -> Iterator[SyntheticPatch]:
    """Made-up patches from several made-up slides; patch i is the same however many there are.

    Args:
        count: how many patches.
        seed: of the data set.
        size: side of a patch in pixels.
        slides: how many slides they are spread over; a slide is a patient.
        mpp: micrometres per pixel.
    """
    bank = render_bank(seed, mpp)
    known = [draw_slide(seed, f"slide-{number:02d}") for number in range(slides)]
    for i in range(count):
        rng = generator(seed, "patch", i)
        yield render_patch(bank, known[rng.integers(slides)], rng, size)


def present(truth: NDArray[np.uint8], least: float = 0.05) -> tuple[str, ...]:
    """The weak label of a patch: names of the classes that cover at least this share of it."""
    shares = np.bincount(truth.ravel(), minlength=len(CLASSES)) / truth.size
    return tuple(name for name, share in zip(CLASSES.names, shares, strict=False) if share >= least)
