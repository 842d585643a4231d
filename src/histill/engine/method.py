"""What every method offers, and what its card says of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histill.core.config import Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.core.predictions import MaskPrediction
from histill.data.tiles import Tile, TileBatch, collate
from histill.engine.run import Run


@dataclass(frozen=True)
class Card:
    """A method in a few words.

    Attributes:
        name: its name on the command line.
        title: what it stands for.
        task: what it gives.
        needs: what it learns from, lesion labels being image labels of one class and a background; a method that does
            not need masks is never shown one.
        paper: how to cite it.
        ours: what is not the paper's, and why.
    """

    name: str
    title: str
    task: Literal["segment"]
    needs: Literal["image labels", "lesion labels", "masks"]
    paper: str
    ours: tuple[str, ...] = ()


class Method(nn.Module, ABC):
    """A paper: its settings, its networks, how they learn, how they predict.

    Args:
        config: its settings, of its own `Config`.
        classes: of the data set it learns.
    """

    card: ClassVar[Card]
    Config: ClassVar[type[Strict]]

    def __init__(self, config: Strict, classes: Classes) -> None:
        super().__init__()
        self.classes = classes

    @abstractmethod
    def fit(self, train: Manifest, val: Manifest | None, run: Run) -> None:
        """Learn from a table; `val` chooses between epochs. All that lasts goes through `run`."""

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
