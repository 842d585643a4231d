"""What a method says of one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histill.core.masks import LabelMap


@dataclass(frozen=True)
class MaskPrediction:
    """A segmentation of one image.

    Attributes:
        labels: uint8 [h, w], the class of each pixel; never IGNORE.
        probabilities: float32 [k, h, w], summing to 1 over k.
    """

    labels: LabelMap
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class BagPrediction:
    """What is said of one slide from its tiles' features.

    Attributes:
        probabilities: float32 [k], summing to 1.
        attention: how much each tile counted, float32 [n] in sum 1; None where a method has no such number.
    """

    probabilities: NDArray[np.float32]
    attention: NDArray[np.float32] | None


@dataclass(frozen=True)
class SummaryPrediction:
    """The tiles that stand in for a slide.

    Attributes:
        kept: their indices in the bag, int64 [budget], rising.
        score: what the search made as great as it could.
        reconstruction: mean cosine of the other tiles to what a model decodes for them from these; nan without a model.
        clusters: the cluster of each of the bag's tiles, int64 [n].
    """

    kept: NDArray[np.int64]
    score: float
    reconstruction: float
    clusters: NDArray[np.int64]
