"""What methods offer that find objects: the boxes of an image as a coarse scanner sees it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histill.core.boxes import Boxes
from histill.core.config import Strict
from histill.core.labels import IGNORE
from histill.core.manifest import Manifest
from histill.engine.method import Method
from histill.engine.stage import Losses
from histill.engine.tile_method import common_spacing, usual_side
from histill.losses.segmentation import count_known
from histill.nets.detector import Detector, Found, Objects, Views
from histill.slides.degrade import Scanner


class BoxMethod(Method):
    """A method that finds objects of the data set's classes; it may look at coarser images than it learnt from."""

    @classmethod
    def look(cls, config: Strict, learn: Manifest) -> dict[str, Any]:
        """Of the images learnt from, the common spacing in um/px, or None, and the usual side in px."""
        return {"mpp": common_spacing(learn), "side": usual_side(learn)}

    @property
    @abstractmethod
    def coarser(self) -> int:
        """How many times as coarse as the images it learnt from are those it looks at."""

    @property
    @abstractmethod
    def scanner(self) -> Scanner:
        """The scanner whose images it looks at."""

    @abstractmethod
    def detect(self, images: Tensor) -> list[Found]:
        """What is found in each of a batch of images float [b, 3, h, w] in 0..1, as coarse as it looks at them."""

    def predict(self, image: NDArray[np.uint8]) -> Boxes:
        """The objects of one image uint8 [h, w, 3], as coarse as it looks at them: in its px, by falling score."""
        return self.predict_all([image])[0]

    def predict_all(self, images: Sequence[NDArray[np.uint8]]) -> list[Boxes]:
        """The objects of images of one size, each as `predict` gives them; in one call of the network."""
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # [b, 3, h, w]
        device = next(self.parameters()).device
        with torch.inference_mode():
            return [boxes_of_found(each) for each in self.detect(stacked.to(device).float().div(255))]


def boxes_of_found(found: Found) -> Boxes:
    """What was found in an image, without torch."""
    boxes, classes, scores = (each.cpu().numpy() for each in (found.boxes.float(), found.classes, found.scores.float()))
    return Boxes(boxes, classes.astype(np.int64), scores)


def objects_of(boxes: Sequence[Tensor], classes: Sequence[Tensor], coarser: int = 1) -> list[Objects]:
    """What is in each image of a batch, as seen `coarser` times as coarse."""
    return [Objects(each / coarser, names) for each, names in zip(boxes, classes, strict=True)]


def detection_terms(detector: Detector, views: Views, truth: Sequence[Objects]) -> Losses:
    """The detector's own terms, divided by the cells of the whole batch that have an object."""
    answers = torch.stack([detector.assign(views, each) for each in truth]) >= 0  # [b, n]
    factor = of_whole(answers)
    return {name: factor * term for name, term in detector.losses(views, truth).items()}


def of_whole(counted: Tensor) -> Tensor:
    """By what a sum over cells, divided by how many count, is multiplied so that it is divided by the whole batch's.

    1 where one process has the whole batch; else see `engine.whole_batch`.

    Args:
        counted: bool [b, n], which cells count.
    """
    return counted.sum().clamp(min=1) / whole_count(counted)


def whole_count(counted: Tensor) -> Tensor:
    """How many cells of bool [b, n] count, at least 1; of several processes by the rule of `engine.whole_batch`."""
    return count_known(torch.where(counted, 0, IGNORE))
