"""A method that finds dark spots: boxes that can be known by hand."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histill.core.card import DatasetCard
from histill.core.config import Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.engine.box_method import BoxMethod
from histill.engine.method import Card
from histill.engine.run import Run
from histill.engine.training import Trained
from histill.nets.detector import Found
from histill.slides.degrade import PLAIN, Scanner

CLASSES = ("spot", "blot")
CARD = DatasetCard(classes=CLASSES)


class Finder(BoxMethod):
    """A box around each part that is nearly black: a spot, or a blot if not as dark; 1 - grey is the score."""

    card = Card("finder", "finder", "detect", "boxes", "none")
    Config = Strict

    def __init__(self, coarser: int = 4, scanner: Scanner = PLAIN) -> None:
        super().__init__(Strict(), Classes(CLASSES))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._coarser, self._scanner = coarser, scanner
        self.seen: list[tuple[int, ...]] = []

    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Nothing."""

    @property
    def coarser(self) -> int:
        """As given."""
        return self._coarser

    @property
    def scanner(self) -> Scanner:
        """As given."""
        return self._scanner

    def detect(self, images: Tensor) -> list[Found]:
        """The dark parts."""
        self.seen.append(tuple(images.shape))
        return [_found(each) for each in images.mean(1).numpy()]


def _found(grey: NDArray[np.float32]) -> Found:
    count, parts, stats, _ = cv2.connectedComponentsWithStats((grey < 0.3).astype(np.uint8))
    boxes, classes, scores = [], [], []
    for i in range(1, count):
        x, y, w, h = (int(value) for value in stats[i, :4])
        boxes.append((x, y, x + w, y + h))
        scores.append(1 - float(grey[parts == i].mean()))
        classes.append(int(scores[-1] < 0.8))
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    return Found(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)[order],
        torch.tensor(classes, dtype=torch.int64)[order],
        torch.tensor(scores, dtype=torch.float32)[order],
    )


def trained(coarser: int = 4, mpp: float | None = 0.5, side: int = 256, scanner: Scanner = PLAIN) -> Trained[Finder]:
    """A finder, as if it had learnt from images of a spacing and a side."""
    return Trained(Finder(coarser, scanner).eval(), "d", CARD, {"mpp": mpp, "side": side}, {"seed": 0}, ())


def spots(h: int, w: int, places: Sequence[tuple[int, int, int, int]], grey: int = 20) -> NDArray[np.uint8]:
    """White with dark boxes."""
    image = np.full((h, w, 3), 250, np.uint8)
    for x0, y0, x1, y1 in places:
        image[y0:y1, x0:x1] = grey
    return image
