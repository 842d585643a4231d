"""What methods offer that look at pixels: images and whole slides are segmented by them tile by tile."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histill.core.config import Strict
from histill.core.manifest import Manifest
from histill.core.predictions import MaskPrediction
from histill.data.images import image_size
from histill.data.tiles import Tile, TileBatch, collate
from histill.engine.method import Method


class TileMethod(Method):
    """A method that gives each pixel its class."""

    @classmethod
    def look(cls, config: Strict, learn: Manifest) -> dict[str, Any]:
        """The images' common spacing in um/px, or None, and their usual side in px."""
        return {"mpp": common_spacing(learn), "side": usual_side(learn)}

    @abstractmethod
    def predict_tiles(self, batch: TileBatch) -> Tensor:
        """The maps of a batch that a slide blends, float [b, m, h, w]: for most methods the class probabilities.

        Call it without gradients.
        """

    @property
    def reach(self) -> int:
        """How many px beyond a pixel `finish` looks to decide it."""
        return 0

    def finish(self, maps: Tensor) -> Tensor:
        """Blended maps [b, m, h, w] -> class probabilities float [b, k, h, w], summing to 1 over k.

        What looks beyond a tile decides here, on the stitched map: a gate, smoothing, the size of what was found. Of a
        slide it is given pieces with `reach` px around them. All maps are 0 where no tile was, and beyond an edge the
        method is to think of the same; what it gives where no tile was is not looked at.
        """
        return maps

    def probabilities(self, batch: TileBatch) -> Tensor:
        """Class probabilities of a batch, float [b, k, h, w]. Call it without gradients."""
        return self.finish(self.predict_tiles(batch))

    def predict(self, image: NDArray[np.uint8]) -> MaskPrediction:
        """Segment one image uint8 [h, w, 3]."""
        h, w = image.shape[:2]
        nothing = np.zeros((0, h, w), np.uint8)
        batch = collate([Tile("", image, nothing, np.zeros(len(self.classes), np.float32))])
        device = next(self.parameters()).device
        with torch.inference_mode():
            probabilities = self.probabilities(batch.to(device))[0, :, :h, :w].float().cpu().numpy()
        return MaskPrediction(probabilities.argmax(0).astype(np.uint8), probabilities)


def common_spacing(table: Manifest) -> float | None:
    """The spacing of a table's images in um/px; None where it is not known of all, or differs by more than 5 %."""
    known = [sample.mpp for sample in table.samples if sample.mpp is not None]
    if len(known) < len(table.samples) or max(known) > 1.05 * min(known):
        return None
    return float(np.median(known))


def usual_side(table: Manifest) -> int:
    """The usual side of a table's images in px: the median of the shorter ones, of at most 64 images."""
    step = max(1, len(table.samples) // 64)
    sizes = [(s.crop.w, s.crop.h) if s.crop else image_size(s.path) for s in table.samples[::step]]
    return int(np.median([min(size) for size in sizes]))
