"""Made-up kidney tiles with known boxes around their glomeruli, stained with PAS or Masson. No pixel is real.

A tile is a scene (`kidney_scene`) filled with amounts of tissue (`kidney_tubules`, `kidney_round`), stained and
photographed with its donor's look (`kidney_stain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.boxes import Boxes
from histill.core.errors import Exit, HistillError
from histill.core.labels import Classes
from histill.core.seeds import generator
from histill.data.synthetic.fields import Field
from histill.data.synthetic.kidney_paint import Nuclei, Textures, distance, filled, rise
from histill.data.synthetic.kidney_round import paint_distractor, paint_glomerulus
from histill.data.synthetic.kidney_scene import (
    BUNDLE,
    Donor,
    KidneyScene,
    draw_donor,
    draw_kidney_scene,
)
from histill.data.synthetic.kidney_stain import LAYERS, photograph
from histill.data.synthetic.kidney_tubules import paint_tubules

GLOMERULUS = "glomerulus"
CLASSES = Classes((GLOMERULUS,))
LEAST_VISIBLE = 0.5
"""Share of a glomerulus' box that a tile must show for the box to count."""


@dataclass(frozen=True)
class KidneyTile:
    """A made-up tile and its truth.

    Attributes:
        image: uint8 [side, side, 3], RGB.
        boxes: around Bowman's capsules, cut off at the tile's edges.
        donor: whom it comes from.
    """

    image: NDArray[np.uint8]
    boxes: Boxes
    donor: Donor


def kidney_tiles(count: int, *, seed: int, size: int = 512, donors: int = 8, mpp: float = 1.0) -> Iterator[KidneyTile]:
    """Made-up tiles of several donors; tile i is the same however many there are.

    Args:
        count: how many.
        seed: of the data set.
        size: side of a tile in pixels.
        donors: how many they come from, in turn.
        mpp: micrometres per pixel, 0.25 to 4.

    Raises:
        HistillError: usage (2) if mpp is out of range, or a tile smaller than 100 um.
    """
    if not 0.25 <= mpp <= 4:
        raise _refused(f"made-up kidney is drawn at 0.25 to 4 um/px, not {mpp}", "mpp")
    if size * mpp < 100:
        raise _refused(f"a tile of {size * mpp:g} um is too small for kidney; 100 um at least", "size")
    textures = Textures.draw(seed, mpp)
    # Two of five donors have Masson's stain.
    known = [
        draw_donor(seed, f"donor-{number:02d}", "Masson" if number % 5 in (1, 3) else "PAS") for number in range(donors)
    ]
    for i in range(count):
        yield render_tile(known[i % donors], textures, size, mpp, generator(seed, "kidney", i))


def render_tile(donor: Donor, textures: Textures, size: int, mpp: float, rng: np.random.Generator) -> KidneyTile:
    """One tile of a donor's kidney.

    Args:
        donor: whom it comes from.
        textures: at this spacing.
        size: side in pixels.
        mpp: micrometres per pixel.
        rng: where the tile's draws come from.
    """
    scene = draw_kidney_scene(donor, size * mpp, rng)
    layers = compose(scene, donor, textures, size, mpp, rng)
    thickness = textures.cut("sweep", size, size, rng)
    image = photograph(layers, thickness, donor.look, mpp, rng)
    corners = [[part / mpp for part in each.box] for each in scene.glomeruli]
    boxes = Boxes.of(corners, [0] * len(corners)).clipped(size, size, LEAST_VISIBLE)
    return KidneyTile(image, boxes, donor)


def compose(
    scene: KidneyScene, donor: Donor, textures: Textures, size: int, mpp: float, rng: np.random.Generator
) -> Field:
    """The amounts of `kidney_stain.LAYERS` that a scene holds, float32 [5, size, size]."""
    layers = np.zeros((len(LAYERS), size, size), np.float32)
    blocked, bundles = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    for each in scene.glomeruli:
        blocked |= filled(each.capsule / mpp, (size, size))
    for other in scene.distractors:
        inside = filled(other.outline / mpp, (size, size))
        if other.kind == BUNDLE:
            # A pale ring sets it off, as Bowman's space does a tuft.
            bundles |= inside
            blocked |= inside & (distance(inside) * mpp < 7).astype(np.uint8)
        else:
            blocked |= inside
    nuclei = Nuclei()
    paint_tubules(layers, nuclei, blocked, bundles, scene, donor, textures, mpp, rng)
    for other in scene.distractors:
        if other.kind != BUNDLE:
            paint_distractor(layers, nuclei, other, textures, mpp, rng)
    for each in scene.glomeruli:
        paint_glomerulus(layers, nuclei, each, donor, textures, mpp, rng)
    nuclei.draw(layers[0])
    if scene.edge is not None:
        direction, beyond = scene.edge
        x = (np.arange(size, dtype=np.float32) + 0.5) * mpp - scene.side / 2
        far = np.cos(direction) * x[None, :] + np.sin(direction) * x[:, None] - beyond  # um beyond the edge
        glass = rise(far.astype(np.float32) + 4 * textures.cut("fold", size, size, rng), 0.0, 2 * mpp)
        layers *= 1 - glass
    # Where there is a nucleus, there is little else.
    layers[1:] *= 1 - 0.5 * np.minimum(layers[0], 1)
    return layers


def _refused(what: str, subject: str) -> HistillError:
    return HistillError(what, code=Exit.USAGE, subject=subject, mend="Choose another size or spacing")
