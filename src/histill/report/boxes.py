"""Pictures of what was found: boxes with their scores, over the image, beside what is true where that is known."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histill.core.boxes import Boxes
from histill.core.labels import Classes

TRUE = (20, 20, 20)
"""Colour of the true boxes, drawn thin and beneath."""


def box_picture(
    image: NDArray[np.uint8], boxes: Boxes, classes: Classes, *, truth: Boxes | None = None, longest: int = 1600
) -> NDArray[np.uint8]:
    """An image with boxes in their classes' colours, each with its score where there is room.

    Args:
        image: uint8 [h, w, 3]; made smaller if it is larger than `longest`.
        boxes: in px of the image.
        classes: their colours.
        truth: the true boxes, in px of the image.
        longest: side of the picture in px.

    Returns:
        uint8 [h', w', 3].
    """
    scale = min(1.0, longest / max(image.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    picture = np.ascontiguousarray(small).copy()
    thick = max(1, round(max(picture.shape[:2]) / 400))
    for corners in [] if truth is None else truth.scaled(scale).corners.round().astype(int).tolist():
        cv2.rectangle(picture, corners[:2], corners[2:], TRUE, max(1, thick // 2))
    drawn = boxes.scaled(scale)
    # The surest comes last, over the others.
    for i in range(len(drawn) - 1, -1, -1):
        x0, y0, x1, y1 = drawn.corners[i].round().astype(int).tolist()
        colour = classes.colours[int(drawn.classes[i])]
        cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thick)
        if drawn.scores is not None and x1 - x0 >= 30 * thick:
            text, place = f"{drawn.scores[i]:.2f}", (x0 + 2 * thick, y0 + 12 * thick)
            cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35 * thick, colour, thick, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)
