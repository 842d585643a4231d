"""Corrections to pseudo-masks from the image itself."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def white_background(image: NDArray[np.uint8], *, threshold: int = 200, smallest: int = 50) -> NDArray[np.bool_]:
    """Where an image shows bare glass: grey above a threshold, without specks.

    Components (8-connected) of fewer than `smallest` pixels are no glass, and holes that small are filled.

    Args:
        image: uint8 [h, w, 3].
        threshold: grey value (ITU-R 601) above which a pixel is white.
        smallest: pixels.

    Returns:
        bool [h, w].
    """
    white = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) > threshold
    return ~without_specks(~without_specks(white, smallest), smallest)


def without_specks(mask: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    """A mask bool [h, w] without its components (8-connected) of fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = np.asarray(stats)[:, cv2.CC_STAT_AREA] >= smallest
    large[0] = False
    return np.asarray(large[labels])
