"""Made-up whole slides of kidney, with the boxes of their glomeruli in level-0 pixels. No pixel is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histill.core.boxes import Boxes, write_boxes
from histill.core.errors import Exit, HistillError
from histill.core.seeds import generator
from histill.data.synthetic.kidney import CLASSES, compose
from histill.data.synthetic.kidney_paint import Textures, inward, rise
from histill.data.synthetic.kidney_scene import ANGLES, KidneyScene, draw_donor, draw_kidney_scene
from histill.data.synthetic.kidney_stain import STAINS, photograph
from histill.formats.pyramid import new_slide

SMALLEST, LARGEST = 512, 4096
"""Between which its side lies in px: it is drawn whole, and takes some 60 bytes a pixel."""

BAND = 512
DESCRIPTION = "histill synthetic kidney slide: made up, no pixel comes from a patient"


def write_kidney_slide(
    path: Path,
    boxes: Path,
    *,
    side: int = 3072,
    mpp: float = 1.0,
    seed: int = 0,
    name: str = "slide",
    stain: str = "PAS",
) -> Boxes:
    """Write a made-up slide of one piece of cortex on glass as a pyramidal TIFF, and the file of its boxes.

    Args:
        path: of the slide, ending in .tif.
        boxes: of the file of boxes, in level-0 px.
        side: of the square slide in px, `SMALLEST` to `LARGEST`.
        mpp: um/px, 0.25 to 4.
        seed: of the data set.
        name: of the slide and its donor; all follows from it, the seed, the side, the spacing and the stain.
        stain: a key of `kidney_stain.STAINS`.

    Returns:
        The boxes.

    Raises:
        HistillError: usage (2) if a number or the stain is out of range; storage (7) if a file cannot be written.
    """
    if not SMALLEST <= side <= LARGEST or not 0.25 <= mpp <= 4 or stain not in STAINS:
        raise HistillError(
            f"no kidney slide of {side} px, {mpp} um/px, {stain} is made",
            code=Exit.USAGE,
            subject=name,
            mend=f"Choose {SMALLEST} to {LARGEST} px, 0.25 to 4 um/px, {' or '.join(STAINS)}",
        )
    rng = generator(seed, "kidney slide", name)
    donor, textures = draw_donor(seed, name, stain), Textures.draw(seed, mpp)
    outline = _outline(side * mpp, rng)
    scene = _inside(draw_kidney_scene(donor, side * mpp, rng, cortex=True), outline)
    layers = compose(scene, donor, textures, side, mpp, rng)
    depth = inward(outline / mpp, (side, side)) * mpp + 4 * textures.cut("fold", side, side, rng)
    layers *= rise(depth, 0.0, 2 * mpp)
    image = photograph(layers, textures.cut("sweep", side, side, rng), donor.look, mpp, rng)
    corners = [[part / mpp for part in each.box] for each in scene.glomeruli]
    found = Boxes.of(corners, [0] * len(corners))
    quality = donor.look.quality
    with new_slide(path, shape=(side, side), mpp=mpp, quality=quality, description=DESCRIPTION) as slide:
        for top in range(0, side, BAND):
            slide.add(image[top : top + BAND])
    write_boxes(boxes, found, CLASSES)
    return found


def _outline(side: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Where the tissue ends, points x, y in um: a lump with glass all around."""
    swings = [rng.normal(0, 0.05 / order) * np.cos(order * ANGLES + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 4)]
    radius = 0.42 * side * np.clip(1 + np.sum(swings, axis=0), 0.8, 1.12)
    points: NDArray[np.float64] = radius[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=-1) + side / 2
    return points


def _inside(scene: KidneyScene, outline: NDArray[np.float64]) -> KidneyScene:
    """A scene of what lies wholly inside an outline, and not at its rim."""
    middle = scene.side / 2
    reach = np.hypot(*(outline - middle).T)

    def within(points: NDArray[np.float64]) -> bool:
        x, y = (points - middle).T
        allowed = np.interp(np.arctan2(y, x) % (2 * np.pi), ANGLES, reach, period=2 * np.pi)
        return bool((np.hypot(x, y) < allowed - 25).all())

    return replace(
        scene,
        glomeruli=tuple(each for each in scene.glomeruli if within(each.capsule)),
        distractors=tuple(each for each in scene.distractors if within(each.outline)),
    )
