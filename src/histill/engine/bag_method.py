"""What methods offer that look at bags of features instead of pixels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

from histill.core.bags import Bag
from histill.core.config import Strict
from histill.core.labels import Classes
from histill.core.manifest import Manifest
from histill.core.predictions import BagPrediction, SummaryPrediction
from histill.data.bag_batches import common_width
from histill.engine.method import Method


class BagMethod(Method):
    """A method that learns from feature files and is applied to them.

    Args:
        config: its settings, of its own `Config`.
        classes: of the data set it learns.
        seen: what `look` gave: the width of features and the encoder that made them, and what a method adds.
    """

    samples: ClassVar[str] = "bags"

    def __init__(self, config: Strict, classes: Classes, seen: dict[str, Any]) -> None:
        super().__init__(config, classes)
        self.width, self.encoder = int(seen["width"]), str(seen["encoder"])

    @classmethod
    def look(cls, config: Strict, learn: Manifest) -> dict[str, Any]:
        """The width of the features, and their encoder."""
        width, encoder = common_width(learn)
        return {"width": width, "encoder": encoder}

    @classmethod
    def build(cls, config: Strict, classes: Classes, seen: dict[str, Any]) -> Self:
        """A method that has learned nothing yet; `seen` is what `look` gave."""
        return cls(config, classes, seen)


class SlideClassifier(BagMethod):
    """A method that says of which class a slide is."""

    @abstractmethod
    def predict(self, bag: Bag) -> BagPrediction:
        """The classes' probabilities of one slide, and how much each of its tiles counted, where it can say that.

        Raises:
            HistillError: input (4) if the bag is empty, or of another width.
        """


class SlideSummariser(BagMethod):
    """A method that says which tiles stand in for a slide."""

    @abstractmethod
    def summarise(self, bag: Bag, budget: int, *, seed: int = 0) -> SummaryPrediction:
        """The tiles that stand in for a bag; all of them, where there are no more than the budget.

        Args:
            bag: of the width learnt from; of any number of tiles.
            budget: tiles to keep.
            seed: of every draw.

        Raises:
            HistillError: input (4) if the bag is empty, or of another width.
        """
