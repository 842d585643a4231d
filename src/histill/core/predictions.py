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
