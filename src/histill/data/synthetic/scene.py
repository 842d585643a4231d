"""Where each made-up tissue lies: nests in stroma, lymphocytes at their rims, necrosis in their depth, holes and edges.

A scene is drawn on a coarse grid. Each tissue has a score there, and the highest wins, so that outlines stay smooth
when the scores are made finer.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.labels import Classes
from histill.data.synthetic.fields import Field, smooth

CLASSES = Classes(
    names=("tumour", "stroma", "lymphocytes", "necrosis", "gland", "fat", "white"),
    colours=(
        (214, 39, 40),
        (44, 160, 44),
        (31, 119, 180),
        (255, 187, 40),
        (148, 103, 189),
        (23, 190, 207),
        (245, 245, 245),
    ),
)
"""The classes of synthetic tissue. A gland is its epithelium and its lumen, fat its cells and their walls; white is
glass without tissue. A caller who wants white left out puts IGNORE in its place."""

TUMOUR, STROMA, LYMPHOCYTES, NECROSIS, GLAND, FAT, WHITE = range(7)

THEMES = {"nests": 0.30, "sheet": 0.22, "stroma": 0.18, "glands": 0.18, "fat": 0.12}
"""What a patch is mostly of, and how often over all slides."""

STEP = 2.0
"""Micrometres between two points of the coarse grid."""


@dataclass(frozen=True)
class Scene:
    """A map of tissues.

    Attributes:
        scores: float32 [7, rows, columns] on the coarse grid; the highest wins; -inf where a tissue is absent.
        seeded: where an object that belongs to a tissue is shown if its centre lies there, bool [7, rows, columns].
        step: pixels between two points of the grid.
        margin: pixels of the map that lie outside the picture on each side.
    """

    scores: Field
    seeded: NDArray[np.bool_]
    step: int
    margin: int

    def labels(self, height: int, width: int) -> NDArray[np.uint8]:
        """The winning tissue at every pixel of the picture, uint8 [h, w]."""
        best = np.full((height, width), -np.inf, np.float32)
        labels = np.full((height, width), STROMA, np.uint8)
        # The centre of coarse cell r lies at pixel (r + 0.5) * step - 0.5 - margin.
        shift = (self.margin + 0.5) / self.step - 0.5
        to_coarse = np.array([[1 / self.step, 0, shift], [0, 1 / self.step, shift]], np.float32)
        for tissue, score in enumerate(self.scores):
            if not np.isfinite(score[0, 0]):
                continue
            fine = cv2.warpAffine(
                score, to_coarse, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            )  # [h, w]
            labels[fine > best] = tissue
            best = np.maximum(best, fine)
        return labels


def draw_scene(
    theme: str, height: int, width: int, mpp: float, margin: float, rng: np.random.Generator, *, edge: float = 0.16
) -> Scene:
    """A scene of a theme.

    Args:
        theme: a key of `THEMES`.
        height: of the picture in pixels.
        width: of the picture in pixels.
        mpp: micrometres per pixel.
        margin: how far the map reaches beyond the picture, in micrometres.
        rng: where the draws come from.
        edge: how often the tissue ends inside the picture.
    """
    step = max(round(STEP / mpp), 1)
    border = int(np.ceil(margin / mpp / step))
    rows, columns = -(-height // step) + 2 * border, -(-width // step) + 2 * border
    pitch = step * mpp
    middle = np.s_[border : rows - border, border : columns - border]
    scores = np.full((7, rows, columns), -np.inf, np.float32)
    scores[STROMA] = 0
    scatter = np.zeros((rows, columns), np.float32)

    def field(scale: float, rough: float = 0.0) -> Field:
        # Drawn larger and cut, or the picture's left edge would answer to its right.
        spare = int(2 * scale / pitch)
        return smooth((rows + spare, columns + spare), scale / pitch, rng, rough=rough)[:rows, :columns]

    def covering(values: Field, share: float) -> Field:
        """Shifted so that it is above 0 on this share of the picture."""
        return values - np.float32(np.quantile(values[middle], 1 - np.clip(share, 0, 1)))

    def paint(tissue: int, above: Field) -> None:
        """Lay a tissue over all others where a field is above 0."""
        scores[tissue] = np.maximum(scores[tissue], scores.max(axis=0) + above)

    share = rng.beta
    if theme == "glands":
        paint(GLAND, covering(field(90), share(4, 2)))
    if theme == "fat" or (theme == "stroma" and rng.random() < 0.25):
        paint(FAT, covering(field(70), share(4, 2) if theme == "fat" else share(2, 5)))
    if theme == "nests" or (theme in ("glands", "fat") and rng.random() < 0.2):
        nests = field(rng.uniform(22, 55), rough=rng.uniform(0.05, 0.5))
        paint(TUMOUR, covering(nests, share(4, 3) if theme == "nests" else share(2, 5)))
    if theme == "sheet":
        sheet = covering(field(60, rough=0.2), share(9, 2))
        paint(TUMOUR, sheet)
        if rng.random() < 0.65:
            paint(NECROSIS, np.minimum(covering(field(55, rough=0.3), share(2.5, 3)), sheet - 0.25))
    if rng.random() < {"stroma": 0.5, "nests": 0.4, "glands": 0.3, "sheet": 0.2, "fat": 0.2}[theme]:
        spots = covering(field(35, rough=0.2), share(2, 4))
        if np.isfinite(scores[TUMOUR, 0, 0]):
            spots = np.minimum(spots, 0.35 - 1.5 * scores[TUMOUR])  # about the nests rather than in them
        paint(LYMPHOCYTES, spots)
        scatter = rng.uniform(0.03, 0.35) * rng.standard_exponential((rows, columns), np.float32)
    if rng.random() < edge:
        y, x = np.indices((rows, columns), dtype=np.float32) * pitch / 60
        turn = rng.uniform(0, 2 * np.pi)
        slope = np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y
        paint(WHITE, covering(slope + 0.35 * field(30, rough=0.3), share(2, 3)))
    elif rng.random() < 0.12:
        paint(WHITE, covering(field(25), rng.uniform(0.05, 0.25)))  # vessels and holes

    winner = scores.argmax(axis=0)
    seeded = winner == np.arange(7)[:, None, None]  # [7, rows, columns]
    seeded[STROMA] |= seeded[TUMOUR] | seeded[GLAND] | seeded[FAT]
    if np.isfinite(scores[LYMPHOCYTES, 0, 0]):
        others = np.delete(scores, LYMPHOCYTES, axis=0).max(axis=0)
        seeded[LYMPHOCYTES] |= (scores[LYMPHOCYTES] + scatter > others) & (winner != WHITE)
    return Scene(scores, seeded, step, border * step)
